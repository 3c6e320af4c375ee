/* The extension module `licorne._core`: see module.h. */
#include "pyglue/module.h"

#include <stdbool.h>
#include <string.h>

#include "config/version.h"

typedef int add_part(PyObject *module);

static int add_all(PyObject *module, add_part *const *parts)
{
    for (; *parts != NULL; parts++)
        if ((*parts)(module) < 0)
            return -1;
    return 0;
}

static int core_exec(PyObject *module)
{
    static add_part *const parts[] = { names_add, deadline_add, wsgi_add,      detect_add, mold_add,
                                       hooks_add, pylog_add,    embed_log_add, NULL };
    if (add_all(module, parts) < 0)
        return -1;
    return PyModule_AddStringConstant(module, "__version__", LICORNE_VERSION);
}

/* __getattr__ (PEP 562): what needs asyncio is added when it is first asked for. Importing asyncio takes longer than all else
 * that the server of a WSGI application does until it serves, and as much memory as the interpreter. */
static PyObject *core_getattr(PyObject *module, PyObject *name)
{
    static add_part *const asyncio_parts[] = { aioloop_add, asgi_add, embed_add, NULL };
    bool added = PyDict_GetItemString(PyModule_GetDict(module), "LoopBase") != NULL;
    const char *text = PyUnicode_Check(name) ? PyUnicode_AsUTF8(name) : NULL;
    if (text == NULL)
        return NULL;
    if (added || strncmp(text, "__", 2) == 0)
        return PyErr_Format(PyExc_AttributeError, "module 'licorne._core' has no attribute %R", name);
    return add_all(module, asyncio_parts) < 0 ? NULL : PyObject_GetAttr(module, name);
}

static PyMethodDef core_methods[] = {
    { "__getattr__", core_getattr, METH_O, "Adds what needs asyncio." },
    { NULL, NULL, 0, NULL },
};

static PyModuleDef_Slot core_slots[] = {
    { Py_mod_exec, core_exec },
    { 0, NULL },
};

static struct PyModuleDef core_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "licorne._core",
    .m_doc = "The C part of licorne: mold, worker, HTTP, event loop.",
    .m_methods = core_methods,
    .m_slots = core_slots,
};

__attribute__((visibility("default"))) PyMODINIT_FUNC PyInit__core(void)
{
    return PyModuleDef_Init(&core_module);
}
