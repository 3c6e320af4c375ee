/* aioloop_tls: TlsBase, the hot half of a TLS protocol: bytes of a stream through OpenSSL to the application and back,
 * while the connection is open and nothing is in the way. The other half is asyncio.sslproto.SSLProtocol
 * (licorne/_tls.py joins them): handshake, shutdown, paused applications, what cannot be written yet. What it keeps in
 * attributes, and is needed here, are descriptors. OpenSSL is reached through the ssl module's objects.
 *
 * One call of read() yields at most one record, and takes memory for as much as it is asked for; so it is asked for a
 * record, and it is the empty buffer that ends the reading, not the exception. */
#include "pyglue/aioloop_impl.h"

#include <structmember.h>

#define RECORD_BYTES 16384 /* what TLS puts into one record at most */

struct tls {
    PyObject_HEAD
    struct aioloop_state *shared;
    PyObject *state, *sslobj, *incoming, *outgoing, *app_protocol, *transport, *write_backlog;
    PyObject *raw; /* the ssl module's C object inside `sslobj` */
    bool app_reading_paused, app_writing_paused, app_protocol_is_buffer, ssl_reading_paused, ssl_writing_paused;
};

#define TLS(object) ((struct tls *)(object))

static bool is_open(const struct tls *t)
{
    return t->raw != NULL && t->incoming != NULL && t->outgoing != NULL && t->state == t->shared->tls_wrapped;
}

/* --- calls ------------------------------------------------------------------------------------------------------------ */

static PyObject *call(PyObject *object, PyObject *method, PyObject *argument)
{
    PyObject *args[] = { Py_NewRef(object), argument }; /* the call may make us let go of it */
    PyObject *result = PyObject_VectorcallMethod(method, args, argument ? 2 : 1, NULL);
    Py_DECREF(object);
    return result;
}

static int call_and_forget(PyObject *object, PyObject *method, PyObject *argument)
{
    PyObject *result = call(object, method, argument);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

/* The bytes in a MemoryBIO; -1 with an exception. */
static Py_ssize_t pending(struct tls *t, PyObject *bio)
{
    PyObject *number = PyObject_GetAttr(bio, t->shared->str_pending);
    Py_ssize_t n = number ? PyLong_AsSsize_t(number) : -1;
    Py_XDECREF(number);
    return n;
}

/* Like the standard library's `except Exception`: -1 if one is set afterwards. */
static int failed(struct tls *t)
{
    if (!PyErr_ExceptionMatches(PyExc_Exception))
        return -1;
    PyObject *exception = exception_take(), *text = PyUnicode_FromString("Fatal error on SSL protocol");
    PyObject *args[] = { (PyObject *)t, exception, text };
    PyObject *result = text ? PyObject_VectorcallMethod(t->shared->str__fatal_error, args, 3, NULL) : NULL;
    Py_DECREF(exception);
    Py_XDECREF(text);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

/* OpenSSL wants more before it goes on: that is no error. */
static bool wants_more(struct tls *t)
{
    if (!PyErr_ExceptionMatches(t->shared->tls_again))
        return false;
    PyErr_Clear();
    return true;
}

/* --- reading ---------------------------------------------------------------------------------------------------------- */

/* One record into `into`. The number of bytes; 0 at the end; -1 with an exception. */
static Py_ssize_t read_record(struct tls *t, char *into, Py_ssize_t room)
{
    PyObject *view = PyMemoryView_FromMemory(into, room, PyBUF_WRITE), *size = PyLong_FromSsize_t(room);
    PyObject *args[] = { t->raw, size, view }, *count = NULL;
    if (view != NULL && size != NULL)
        count = PyObject_VectorcallMethod(t->shared->str_read, args, 3, NULL);
    Py_XDECREF(view);
    Py_XDECREF(size);
    Py_ssize_t n = count ? PyLong_AsSsize_t(count) : -1;
    Py_XDECREF(count);
    return n;
}

/* The text of all records that are complete: into `into`, which has room for it. -1 with an exception. */
static Py_ssize_t read_records(struct tls *t, char *into, Py_ssize_t room, bool *ended)
{
    Py_ssize_t used = 0, n = 1, left = 1;
    while (n > 0 && left > 0 && used < room) {
        n = read_record(t, into + used, room - used < RECORD_BYTES ? room - used : RECORD_BYTES);
        if (n < 0 && !wants_more(t))
            return -1;
        used += n > 0 ? n : 0;
        left = pending(t, t->incoming);
    }
    *ended = n == 0;
    return left < 0 ? -1 : used;
}

/* Text is shorter than its records, of which `incoming` holds all but what OpenSSL has taken of the first. New bytes:
 * copied out of `scratch` (LOOP_READ_BYTES) if that is large enough, else read where they stay. */
static PyObject *read_text(struct tls *t, char *scratch, bool *ended)
{
    Py_ssize_t waits = pending(t, t->incoming), room = waits + RECORD_BYTES;
    if (waits < 0)
        return NULL;
    PyObject *text = room <= LOOP_READ_BYTES ? NULL : PyBytes_FromStringAndSize(NULL, room);
    if (text == NULL && room > LOOP_READ_BYTES)
        return NULL;
    Py_ssize_t n = read_records(t, text ? PyBytes_AS_STRING(text) : scratch, room, ended);
    if (n < 0)
        Py_CLEAR(text);
    else if (text != NULL)
        _PyBytes_Resize(&text, n);
    else
        text = PyBytes_FromStringAndSize(scratch, n);
    return text;
}

static int pass_on(struct tls *t, PyObject *data)
{
    if (PyBytes_GET_SIZE(data) == 0 || t->app_protocol == NULL)
        return 0;
    return call_and_forget(t->app_protocol, t->shared->str_data_received, data);
}

static int end(struct tls *t)
{
    return call_and_forget((PyObject *)t, t->shared->str__call_eof_received, NULL) < 0 ||
                   call_and_forget((PyObject *)t, t->shared->str__start_shutdown, NULL) < 0 ?
               -1 : 0;
}

/* What OpenSSL itself has to say, and what the application could not write before. */
static int write_more(struct tls *t)
{
    if (t->write_backlog != NULL && PyObject_Size(t->write_backlog) > 0)
        return call_and_forget((PyObject *)t, t->shared->str__do_write, NULL);
    Py_ssize_t waits = t->outgoing ? pending(t, t->outgoing) : 0;
    if (waits == 0 && !t->app_writing_paused)
        return 0;
    return waits < 0 ? -1 : call_and_forget((PyObject *)t, t->shared->str__process_outgoing, NULL);
}

static int control_reading(struct tls *t)
{
    Py_ssize_t waits = t->incoming ? pending(t, t->incoming) : 0;
    if (waits == 0 && !t->ssl_reading_paused)
        return 0;
    return waits < 0 ? -1 : call_and_forget((PyObject *)t, t->shared->str__control_ssl_reading, NULL);
}

static int read_and_pass_on(struct tls *t, char *scratch)
{
    bool ended;
    PyObject *text = read_text(t, scratch, &ended);
    int outcome = text ? pass_on(t, text) : -1;
    Py_XDECREF(text);
    if (outcome < 0 || (ended && end(t) < 0) || write_more(t) < 0)
        return -1;
    return control_reading(t);
}

static int take_in(struct tls *t, char *data, Py_ssize_t n)
{
    PyObject *view = t->incoming ? PyMemoryView_FromMemory(data, n, PyBUF_READ) : NULL;
    int outcome = view ? call_and_forget(t->incoming, t->shared->str_write, view) : t->incoming ? -1 : 0;
    Py_XDECREF(view);
    return outcome;
}

int tls_data_received(PyObject *self, char *data, Py_ssize_t n)
{
    struct tls *t = TLS(self);
    if (take_in(t, data, n) < 0)
        return -1;
    if (!is_open(t) || t->app_reading_paused || t->app_protocol_is_buffer)
        return call_and_forget(self, t->shared->str__taken_in, NULL);
    return read_and_pass_on(t, data) < 0 ? failed(t) : 0;
}

/* --- writing ---------------------------------------------------------------------------------------------------------- */

static bool may_write_now(struct tls *t, PyObject *data)
{
    return is_open(t) && PyBytes_CheckExact(data) && PyBytes_GET_SIZE(data) > 0 && !t->ssl_writing_paused &&
           !t->app_writing_paused && t->transport != NULL && t->write_backlog != NULL &&
           PyObject_Size(t->write_backlog) == 0;
}

/* Into OpenSSL, and what comes out of it into the transport. OpenSSL takes all of it, or nothing. */
static int write_now(struct tls *t, PyObject *data)
{
    if (call_and_forget(t->raw, t->shared->str_write, data) < 0)
        return -1;
    PyObject *records = call(t->outgoing, t->shared->str_read, NULL);
    int outcome = records && t->transport ? call_and_forget(t->transport, t->shared->str_write, records) : -1;
    Py_XDECREF(records);
    return outcome;
}

static PyObject *tls_write(PyObject *self, PyObject *data)
{
    struct tls *t = TLS(self);
    if (!may_write_now(t, data))
        return call(self, t->shared->str__write_slowly, data);
    if (write_now(t, data) == 0)
        Py_RETURN_NONE;
    if (wants_more(t))
        return call(self, t->shared->str__write_slowly, data);
    return failed(t) < 0 ? NULL : Py_NewRef(Py_None);
}

/* --- the type --------------------------------------------------------------------------------------------------------- */

static PyObject *get_sslobj(PyObject *self, void *closure)
{
    (void)closure;
    PyObject *sslobj = TLS(self)->sslobj;
    return Py_NewRef(sslobj ? sslobj : Py_None);
}

static int set_sslobj(PyObject *self, PyObject *value, void *closure)
{
    (void)closure;
    struct tls *t = TLS(self);
    PyObject *raw = NULL;
    if (value != NULL && value != Py_None && (raw = PyObject_GetAttr(value, t->shared->str__sslobj)) == NULL)
        PyErr_Clear(); /* not the ssl module's: all goes the standard library's way */
    Py_XSETREF(t->raw, raw);
    Py_XSETREF(t->sslobj, Py_XNewRef(value));
    return 0;
}

static PyObject *tls_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)args, (void)kwargs;
    struct aioloop_state *shared = aioloop_state_of(type);
    struct tls *t = shared ? TLS(type->tp_alloc(type, 0)) : NULL;
    if (t != NULL)
        t->shared = shared;
    return (PyObject *)t;
}

static int tls_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct tls *t = TLS(self);
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(t->state);
    Py_VISIT(t->sslobj);
    Py_VISIT(t->raw);
    Py_VISIT(t->incoming);
    Py_VISIT(t->outgoing);
    Py_VISIT(t->app_protocol);
    Py_VISIT(t->transport);
    Py_VISIT(t->write_backlog);
    return 0;
}

static int tls_clear(PyObject *self)
{
    struct tls *t = TLS(self);
    Py_CLEAR(t->state);
    Py_CLEAR(t->sslobj);
    Py_CLEAR(t->raw);
    Py_CLEAR(t->incoming);
    Py_CLEAR(t->outgoing);
    Py_CLEAR(t->app_protocol);
    Py_CLEAR(t->transport);
    Py_CLEAR(t->write_backlog);
    return 0;
}

static void tls_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    tls_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef tls_methods[] = {
    { "_write", tls_write, METH_O, "Write application data." },
    { 0 },
};

#define OBJECT(name, member) { name, T_OBJECT, offsetof(struct tls, member), 0, NULL }
#define FLAG(name, member) { name, T_BOOL, offsetof(struct tls, member), 0, NULL }

static PyMemberDef tls_members[] = {
    OBJECT("_state", state),
    OBJECT("_incoming", incoming),
    OBJECT("_outgoing", outgoing),
    OBJECT("_app_protocol", app_protocol),
    OBJECT("_transport", transport),
    OBJECT("_write_backlog", write_backlog),
    FLAG("_app_reading_paused", app_reading_paused),
    FLAG("_app_writing_paused", app_writing_paused),
    FLAG("_app_protocol_is_buffer", app_protocol_is_buffer),
    FLAG("_ssl_reading_paused", ssl_reading_paused),
    FLAG("_ssl_writing_paused", ssl_writing_paused),
    { 0 },
};

static PyGetSetDef tls_attributes[] = {
    { "_sslobj", get_sslobj, set_sslobj, NULL, NULL },
    { 0 },
};

static PyType_Slot tls_slots[] = {
    { Py_tp_doc, "The native half of a TLS protocol." },
    { Py_tp_new, tls_new },
    { Py_tp_dealloc, tls_dealloc },
    { Py_tp_traverse, tls_traverse },
    { Py_tp_clear, tls_clear },
    { Py_tp_methods, tls_methods },
    { Py_tp_members, tls_members },
    { Py_tp_getset, tls_attributes },
    { 0, NULL },
};

static PyType_Spec tls_spec = {
    .name = "licorne._core.TlsBase",
    .basicsize = sizeof(struct tls),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = tls_slots,
};

int tls_add(struct aioloop_state *state, PyObject *module, PyObject *capsule)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &tls_spec, NULL);
    if (type == NULL)
        return -1;
    state->tls_type = (PyTypeObject *)type;
    int outcome = PyObject_SetAttrString(type, AIOLOOP_STATE_ATTRIBUTE, capsule);
    if (outcome == 0)
        outcome = PyModule_AddType(module, state->tls_type);
    Py_DECREF(type);
    return outcome;
}
