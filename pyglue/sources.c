/* sources: see sources.h. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "pyglue/sources.h"

#include "pyglue/pyerr.h"

void sources_list(struct buf *text)
{
    PyObject *module = PyImport_ImportModule("licorne._sources");
    PyObject *lines = module != NULL ? PyObject_CallMethod(module, "folders", NULL) : NULL;
    Py_ssize_t len = 0;
    const char *utf8 = lines != NULL ? PyUnicode_AsUTF8AndSize(lines, &len) : NULL;
    if (utf8 == NULL)
        pyerr_log("Imported modules cannot be listed:");
    else
        buf_append(text, utf8, (size_t)len);
    Py_XDECREF(lines);
    Py_XDECREF(module);
}
