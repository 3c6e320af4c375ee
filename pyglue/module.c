/* The extension module `licorne._core`: see module.h. */
#include "pyglue/module.h"

#include "config/version.h"

static int core_exec(PyObject *module)
{
    static int (*const parts[])(PyObject *) = { names_add, deadline_add, aioloop_add, asgi_add, wsgi_add, detect_add, mold_add,
                                               hooks_add, pylog_add, embed_log_add, embed_add };
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
        if (parts[i](module) < 0)
            return -1;
    return PyModule_AddStringConstant(module, "__version__", LICORNE_VERSION);
}

static PyModuleDef_Slot core_slots[] = {
    { Py_mod_exec, core_exec },
    { 0, NULL },
};

static struct PyModuleDef core_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "licorne._core",
    .m_doc = "The C part of licorne: mold, worker, HTTP, event loop.",
    .m_slots = core_slots,
};

__attribute__((visibility("default"))) PyMODINIT_FUNC PyInit__core(void)
{
    return PyModuleDef_Init(&core_module);
}
