/* pyerr: see pyerr.h. The traceback is trimmed by relinking its chain (tb_next is writable), for the exception itself
 * and those it names as cause, context or members; the text then comes from the `traceback` module, so that it reads as
 * Python's own, notes and exception groups included. */
#include "pyglue/pyerr.h"

#include <limits.h>
#include <stdarg.h>

#include "pyglue/embed_log.h"
#include "server/base/buf.h"
#include "server/base/mem.h"
#include "server/base/str.h"

#define CHAIN_MAX 32         /* causes and contexts followed */
#define TEXT_HEAD_BYTES 4000 /* of a text that is too long for the log, … */
#define TEXT_TAIL_BYTES 9000 /* … where the end says most */

PyObject *pyerr_take(void)
{
#if PY_VERSION_HEX >= 0x030c0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (type == NULL)
        return NULL;
    PyErr_NormalizeException(&type, &value, &traceback);
    if (value != NULL && traceback != NULL)
        PyException_SetTraceback(value, traceback);
    Py_DECREF(type);
    Py_XDECREF(traceback);
    return value;
#endif
}

/* The attribute, or NULL (nothing pending) if there is none or it is None. New reference. */
static PyObject *attribute(PyObject *object, const char *name)
{
    PyObject *value = PyObject_GetAttrString(object, name);
    if (value == NULL)
        PyErr_Clear();
    else if (value == Py_None)
        Py_CLEAR(value);
    return value;
}

static const char *text_or(PyObject *text, const char *otherwise)
{
    const char *utf8 = text != NULL && PyUnicode_Check(text) ? PyUnicode_AsUTF8(text) : NULL;
    PyErr_Clear();
    return utf8 != NULL ? utf8 : otherwise;
}

/* ---- trimming ------------------------------------------------------------------------------------------------- */

static PyObject *frame_file(PyObject *traceback)
{
    PyObject *frame = attribute(traceback, "tb_frame"), *code = frame ? attribute(frame, "f_code") : NULL;
    PyObject *file = code ? attribute(code, "co_filename") : NULL;
    Py_XDECREF(code);
    Py_XDECREF(frame);
    return file;
}

/* This package's folder with a slash at its end; "" until it is known. */
static const char *own_folder(void)
{
    static char folder[PATH_MAX];
    PyObject *package = folder[0] == '\0' ? PyImport_ImportModule("licorne") : NULL;
    PyObject *file = package != NULL ? attribute(package, "__file__") : NULL;
    const char *path = text_or(file, ""), *slash = strrchr(path, '/');
    if (slash != NULL)
        snprintf(folder, sizeof(folder), "%.*s", (int)(slash + 1 - path), path);
    PyErr_Clear();
    Py_XDECREF(file);
    Py_XDECREF(package);
    return folder;
}

/* The machinery around the user's code: importlib and this package. */
static bool is_machinery(PyObject *traceback)
{
    PyObject *file = frame_file(traceback);
    const char *path = text_or(file, ""), *own = own_folder();
    bool machinery = strncmp(path, "<frozen importlib", 17) == 0 || strstr(path, "/importlib/__init__.py") != NULL ||
                     (own[0] != '\0' && strncmp(path, own, strlen(own)) == 0);
    Py_XDECREF(file);
    return machinery;
}

/* The innermost frame is importlib's. */
static bool is_frozen_inside(PyObject *traceback)
{
    PyObject *link = Py_NewRef(traceback), *next;
    while ((next = attribute(link, "tb_next")) != NULL)
        Py_SETREF(link, next);
    PyObject *file = frame_file(link);
    bool frozen = strncmp(text_or(file, ""), "<frozen importlib", 17) == 0;
    Py_XDECREF(file);
    Py_DECREF(link);
    return frozen;
}

/* The first link of the chain, from `traceback` on, that is the user's. New reference or NULL. */
static PyObject *next_own(PyObject *traceback /* borrowed */)
{
    PyObject *own = Py_XNewRef(traceback);
    while (own != NULL && is_machinery(own)) {
        PyObject *next = attribute(own, "tb_next");
        Py_DECREF(own);
        own = next;
    }
    return own;
}

static void trim_traceback(PyObject *exception)
{
    PyObject *whole = PyException_GetTraceback(exception);
    PyObject *first = next_own(whole), *link = Py_XNewRef(first);
    while (link != NULL) {
        PyObject *next = attribute(link, "tb_next"), *own = next_own(next);
        if (own != next && PyObject_SetAttrString(link, "tb_next", own != NULL ? own : Py_None) < 0)
            PyErr_Clear();
        Py_XDECREF(next);
        Py_DECREF(link);
        link = own;
    }
    /* Without a frame of the user's: a module that cannot be compiled or found needs none; an error of ours needs all.
     */
    if (first != NULL && first != whole)
        PyException_SetTraceback(exception, first);
    else if (first == NULL && whole != NULL && is_frozen_inside(whole))
        PyException_SetTraceback(exception, Py_None);
    Py_XDECREF(first);
    Py_XDECREF(whole);
}

static void trim(PyObject *exception, int depth);

static void trim_members(PyObject *exception, int depth)
{
    PyObject *members = attribute(exception, "exceptions"); /* of an ExceptionGroup */
    for (Py_ssize_t i = 0; members != NULL && PyTuple_Check(members) && i < PyTuple_GET_SIZE(members); i++)
        trim(PyTuple_GET_ITEM(members, i), depth - 1);
    Py_XDECREF(members);
}

static void trim(PyObject *exception /* borrowed */, int depth)
{
    if (depth == 0 || !PyExceptionInstance_Check(exception))
        return;
    trim_traceback(exception);
    trim_members(exception, depth);
    PyObject *cause = PyException_GetCause(exception), *context = PyException_GetContext(exception);
    if (cause != NULL)
        trim(cause, depth - 1);
    if (context != NULL && context != cause)
        trim(context, depth - 1);
    Py_XDECREF(cause);
    Py_XDECREF(context);
}

/* ---- text ----------------------------------------------------------------------------------------------------- */

/* What `traceback.format_exception` says. New reference, or NULL without an exception. */
static PyObject *format_exception(PyObject *exception)
{
    PyObject *traceback = PyException_GetTraceback(exception), *text = NULL, *lines = NULL, *empty = NULL;
    PyObject *module = PyImport_ImportModule("traceback");
    if (module != NULL)
        lines = PyObject_CallMethod(module, "format_exception", "OOO", (PyObject *)Py_TYPE(exception), exception,
                                    traceback != NULL ? traceback : Py_None);
    if (lines != NULL && (empty = PyUnicode_FromString("")) != NULL)
        text = PyUnicode_Join(empty, lines);
    PyErr_Clear();
    Py_XDECREF(empty);
    Py_XDECREF(lines);
    Py_XDECREF(module);
    Py_XDECREF(traceback);
    return text;
}

static void append_bounded(struct buf *out, const char *text, size_t len)
{
    if (len <= TEXT_HEAD_BYTES + TEXT_TAIL_BYTES) {
        buf_append(out, text, len);
        return;
    }
    const char *tail = text + len - TEXT_TAIL_BYTES, *newline = memchr(tail, '\n', TEXT_TAIL_BYTES / 4);
    if (newline != NULL)
        tail = newline;
    buf_append(out, text, TEXT_HEAD_BYTES);
    buf_printf(out, "\n  … %zu bytes left out …", (size_t)(tail - text) - TEXT_HEAD_BYTES);
    buf_append(out, tail, (size_t)(text + len - tail));
}

static void append_exception(struct buf *out, PyObject *exception)
{
    trim(exception, CHAIN_MAX);
    PyObject *text = format_exception(exception);
    PyObject *bytes = text != NULL ? PyUnicode_AsEncodedString(text, "utf-8", "backslashreplace") : NULL;
    PyErr_Clear();
    if (bytes != NULL)
        append_bounded(out, PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes));
    else
        buf_printf(out, "%s (the traceback cannot be formatted)", Py_TYPE(exception)->tp_name);
    while (buf_len(out) > 0 && out->data[out->end - 1] == '\n')
        out->end--;
    Py_XDECREF(bytes);
    Py_XDECREF(text);
}

static void log_exception(enum log_level level, PyObject *exception, const char *format, va_list arguments)
{
    struct buf out = { 0 };
    char message[2048] = "";
    if (format != NULL)
        vsnprintf(message, sizeof(message), format, arguments);
    if (exception != NULL && embed_log_exception(level, message, exception))
        return;
    buf_printf(&out, "%s%s", message, exception != NULL && message[0] != '\0' ? "\n" : "");
    if (exception != NULL)
        append_exception(&out, exception);
    log_at(level, "%.*s", (int)buf_len(&out), buf_str(&out).p);
    buf_done(&out);
}

void pyerr_log_exception(enum log_level level, PyObject *exception, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    log_exception(level, exception, format, arguments);
    va_end(arguments);
}

void pyerr_log(const char *format, ...)
{
    PyObject *exception = pyerr_take();
    va_list arguments;
    va_start(arguments, format);
    log_exception(LOG_LEVEL_ERROR, exception, format, arguments);
    va_end(arguments);
    Py_XDECREF(exception);
}

/* In an installed package or the standard library: where it broke, but not where to look first. */
static bool is_installed(PyObject *traceback)
{
    PyObject *file = frame_file(traceback);
    const char *path = text_or(file, "");
    bool installed = strstr(path, "/lib/python3") != NULL || path[0] == '<';
    Py_XDECREF(file);
    return installed;
}

/* The innermost frame of the user's own files; failing that, the innermost of all. New reference or NULL. */
static PyObject *place_of(PyObject *exception)
{
    PyObject *whole = PyException_GetTraceback(exception), *link = next_own(whole), *place = Py_XNewRef(link);
    bool place_is_own = place != NULL && !is_installed(place);
    while (link != NULL) {
        PyObject *next = attribute(link, "tb_next"), *own = next_own(next);
        Py_XDECREF(next);
        Py_SETREF(link, own);
        bool is_own = own != NULL && !is_installed(own);
        if (own != NULL && (is_own || !place_is_own)) {
            Py_SETREF(place, Py_NewRef(own));
            place_is_own = is_own;
        }
    }
    Py_XDECREF(whole);
    return place;
}

/* " (shop/models.py:12)" */
static void append_place(struct buf *out, PyObject *exception)
{
    PyObject *place = place_of(exception);
    PyObject *file = place != NULL ? frame_file(place) : NULL,
             *line = file != NULL ? attribute(place, "tb_lineno") : NULL;
    if (line != NULL)
        buf_printf(out, " (%s:%ld)", text_or(file, "?"), PyLong_AsLong(line));
    PyErr_Clear();
    Py_XDECREF(line);
    Py_XDECREF(file);
    Py_XDECREF(place);
}

char *pyerr_line(PyObject *exception)
{
    struct buf out = { 0 };
    PyObject *text = PyObject_Str(exception);
    PyErr_Clear();
    const char *utf8 = text_or(text, "");
    buf_printf(&out, "%s%s%s", Py_TYPE(exception)->tp_name, utf8[0] != '\0' ? ": " : "", utf8);
    if (!PyErr_GivenExceptionMatches(exception, PyExc_SyntaxError)) /* names file and line itself */
        append_place(&out, exception);
    for (size_t i = out.start; i < out.end; i++)
        if (out.data[i] == '\n' || out.data[i] == '\r')
            out.data[i] = ' ';
    char *line = mem_strndup(buf_str(&out).p, buf_len(&out));
    buf_done(&out);
    Py_XDECREF(text);
    return line;
}
