/* aioloop_state: what the loop's types share once a module: types, interned names, what is used of asyncio. A capsule in
 * the dictionaries of LoopBase and TlsBase holds it, so it lives as long as any loop or handle does. (Not the module's m_size: a
 * subclass made in Python finds the module of a base by its definition only from Python 3.11.) */
#include "pyglue/aioloop_impl.h"

static void state_free(PyObject *capsule)
{
    struct aioloop_state *state = PyCapsule_GetPointer(capsule, AIOLOOP_STATE_NAME);
    handle_spares_free(state);
    PyTypeObject **types[] = { &state->handle_type,     &state->timer_type,    &state->stream_type,
                               &state->connection_type, &state->datagram_type, &state->operation_type };
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
        Py_CLEAR(*types[i]);
#define FREE(name) Py_CLEAR(state->str_##name);
    AIOLOOP_STRINGS(FREE)
#undef FREE
    PyObject **objects[] = { &state->task_type, &state->future_type, &state->buffered_protocol,
                             &state->base_create_task, &state->extract_stack, &state->repr_info,
                             &state->kw_loop, &state->kw_name_loop, &state->task_done,
                             &state->socket_type, &state->transport_socket, &state->check_no_transport,
                             &state->tls_wrapped, &state->tls_again };
    for (size_t i = 0; i < sizeof(objects) / sizeof(objects[0]); i++)
        Py_CLEAR(*objects[i]);
    PyMem_Free(state);
}

static PyObject *method_of(const char *module_name, const char *class_name, const char *name)
{
    PyObject *module = PyImport_ImportModule(module_name);
    PyObject *owner = module && class_name ? PyObject_GetAttrString(module, class_name) : Py_XNewRef(module);
    PyObject *method = owner ? PyObject_GetAttrString(owner, name) : NULL;
    Py_XDECREF(owner);
    Py_XDECREF(module);
    return method;
}

static int state_init(struct aioloop_state *state, PyObject *module)
{
#define INTERN(name)                                                                                                    \
    if ((state->str_##name = PyUnicode_InternFromString(#name)) == NULL)                                               \
        return -1;
    AIOLOOP_STRINGS(INTERN)
#undef INTERN
    state->extract_stack = method_of("asyncio.format_helpers", NULL, "extract_stack");
    state->repr_info = method_of("asyncio.events", "Handle", "_repr_info");
    state->buffered_protocol = method_of("asyncio", NULL, "BufferedProtocol");
    if (state->extract_stack == NULL || state->repr_info == NULL || state->buffered_protocol == NULL)
        return -1;
    state->socket_type = method_of("socket", NULL, "socket");
    state->transport_socket = method_of("asyncio.trsock", NULL, "TransportSocket");
    state->check_no_transport = method_of("asyncio.selector_events", "BaseSelectorEventLoop", "_ensure_fd_no_transport");
    if (state->socket_type == NULL || state->transport_socket == NULL || state->check_no_transport == NULL)
        return -1;
    state->server_knows = runtime_version() >= 0x030D0000;
    state->tls_wrapped = method_of("asyncio.sslproto", "SSLProtocolState", "WRAPPED");
    state->tls_again = state->tls_wrapped ? method_of("asyncio.sslproto", NULL, "SSLAgainErrors") : NULL;
    PyErr_Clear(); /* Python 3.10, or one without ssl */
    if (handle_add(state, module) < 0 || stream_add(state, module) < 0 || connection_add(state, module) < 0 ||
        datagram_add(state, module) < 0 || operation_add(state, module) < 0)
        return -1;
    return task_state_init(state);
}

PyObject *aioloop_state_new(PyObject *module)
{
    struct aioloop_state *state = PyMem_Calloc(1, sizeof(*state));
    if (state == NULL)
        return PyErr_NoMemory();
    PyObject *capsule = PyCapsule_New(state, AIOLOOP_STATE_NAME, state_free);
    if (capsule == NULL)
        PyMem_Free(state);
    else if (state_init(state, module) < 0)
        Py_CLEAR(capsule);
    return capsule;
}

struct aioloop_state *aioloop_state_of(PyTypeObject *type)
{
    PyObject *capsule = PyObject_GetAttrString((PyObject *)type, AIOLOOP_STATE_ATTRIBUTE);
    if (capsule == NULL)
        return NULL;
    struct aioloop_state *state = PyCapsule_GetPointer(capsule, AIOLOOP_STATE_NAME);
    Py_DECREF(capsule); /* kept by the type */
    return state;
}
