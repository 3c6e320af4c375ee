/* pylog: see pylog.h. */
#define PY_SSIZE_T_CLEAN
#include "pyglue/module.h"

#include "pyglue/pylog.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/settings.h"
#include "pyglue/pyerr.h"
#include "server/base/buf.h"
#include "server/base/clock.h"
#include "server/base/line_file.h"
#include "server/base/list.h"
#include "server/base/mem.h"
#include "server/base/statsd.h"

#define QUEUE_BYTES (8 * 1024 * 1024) /* of lines that wait for Python */
#define LEVEL_ACCESS (-1)             /* not a line but atoms */

#define AS_IT_IS (-1)               /* a line with its own prefix */

struct line {
    struct list node;
    int level; /* enum log_level, or LEVEL_ACCESS */
    bool written; /* in the server's own file */
    double when;
    size_t len;
    char text[];
};

/* Who writes the access log: enum log_sharing, and NOBODY. */
enum { ACCESS_NOBODY = LOG_BESIDE + 1 };

static PyObject *module;    /* licorne._logging; NULL: not there yet */
static enum log_sharing wants;
static int access_wants;
static bool in_worker, has_thread;
static bool is_logging;     /* in the mold: what logging itself logs goes to the file */
static const struct settings *settings;

static struct {
    pthread_mutex_t lock;
    pthread_cond_t news;
    struct list lines;
    size_t bytes;
    bool open;
} queue = { .lock = PTHREAD_MUTEX_INITIALIZER, .news = PTHREAD_COND_INITIALIZER };

/* Where Python writes what belongs into the access log. */
static struct {
    pthread_mutex_t lock;
    struct line_file file;
    bool open, moved;
} access_file = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* --- into Python, at once ------------------------------------------------------------------------------------------- */

static bool emit(const struct log_line *line, struct str text)
{
    if (is_logging)
        return false;
    is_logging = true;
    PyObject *written = line->written ? Py_True : Py_False; // borrowed
    PyObject *result = PyObject_CallMethod(module, "emit", "iidy#O", line->level, line->pid, line->when, text.p,
                                           (Py_ssize_t)text.len, written);
    if (result == NULL)
        pyerr_log("Logging failed:");
    is_logging = false;
    Py_XDECREF(result);
    return result != NULL && wants == LOG_INSTEAD;
}

static bool log_at_once(enum log_level level, const char *message)
{
    struct log_line line = {
        .level = (int32_t)level, .pid = (int32_t)getpid(), .when = clock_wall(), .written = wants == LOG_BESIDE
    };
    return PyGILState_Check() && !PyErr_Occurred() && emit(&line, str_from(message));
}

/* --- into the queue ---------------------------------------------------------------------------------------------------- */

static bool put(int level, struct str text, bool written)
{
    bool taken = false;
    pthread_mutex_lock(&queue.lock);
    if (queue.open && queue.bytes + text.len <= QUEUE_BYTES) {
        struct line *line = mem_alloc(sizeof(*line) + text.len);
        line->level = level;
        line->written = written;
        line->when = clock_wall();
        line->len = text.len;
        memcpy(line->text, text.p, text.len);
        list_append(&queue.lines, &line->node);
        queue.bytes += text.len;
        pthread_cond_signal(&queue.news);
        taken = true;
    }
    pthread_mutex_unlock(&queue.lock);
    return taken;
}

static bool log_queued(enum log_level level, const char *message)
{
    return put((int)level, str_from(message), wants == LOG_BESIDE) && wants == LOG_INSTEAD;
}

static void access_queued(struct str facts)
{
    put(LEVEL_ACCESS, facts, access_wants == LOG_BESIDE);
}

/* Waits; false: nothing will come any more. The lines are the caller's. */
static bool take_all(struct list *lines)
{
    pthread_mutex_lock(&queue.lock);
    while (list_empty(&queue.lines) && queue.open)
        pthread_cond_wait(&queue.news, &queue.lock);
    struct list *node;
    while ((node = list_pop(&queue.lines)) != NULL)
        list_append(lines, node);
    queue.bytes = 0;
    pthread_mutex_unlock(&queue.lock);
    return !list_empty(lines);
}

/* [(level, when, text, written), ...]; None at the end. */
static PyObject *py_log_take(PyObject *self, PyObject *nothing)
{
    struct list lines, *node;
    (void)self, (void)nothing;
    list_init(&lines);
    bool any;
    Py_BEGIN_ALLOW_THREADS
    any = take_all(&lines);
    Py_END_ALLOW_THREADS
    PyObject *list = any ? PyList_New(0) : Py_NewRef(Py_None);
    while ((node = list_pop(&lines)) != NULL) {
        struct line *line = LIST_ENTRY(node, struct line, node);
        PyObject *entry = list != NULL ? Py_BuildValue("(idy#O)", line->level, line->when, line->text,
                                                       (Py_ssize_t)line->len, line->written ? Py_True : Py_False)
                                       : NULL;
        if (entry == NULL || PyList_Append(list, entry) < 0)
            Py_CLEAR(list);
        Py_XDECREF(entry);
        free(line);
    }
    return list;
}

static PyObject *py_log_close(PyObject *self, PyObject *nothing)
{
    (void)self, (void)nothing;
    pthread_mutex_lock(&queue.lock);
    queue.open = false;
    pthread_cond_broadcast(&queue.news);
    pthread_mutex_unlock(&queue.lock);
    Py_RETURN_NONE;
}

/* --- back from Python, into the server's own logs ------------------------------------------------------------------------ */

/* logging's numbers into ours. */
static int level_of(int number)
{
    return number < 0    ? AS_IT_IS
           : number >= 50 ? LOG_LEVEL_CRITICAL
           : number >= 40 ? LOG_LEVEL_ERROR
           : number >= 30 ? LOG_LEVEL_WARNING
           : number >= 20 ? LOG_LEVEL_INFO
           : number >= 10 ? LOG_LEVEL_DEBUG
                          : LOG_LEVEL_TRACE;
}

static PyObject *py_log_line(PyObject *self, PyObject *args)
{
    int level, pid;
    const char *text;
    Py_ssize_t len;
    (void)self;
    if (!PyArg_ParseTuple(args, "iis#:log_line", &level, &pid, &text, &len))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    log_put(level_of(level), pid, (struct str){ text, (size_t)len });
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static bool open_access_file(void)
{
    if (access_file.open && access_file.moved)
        line_file_reopen(&access_file.file);
    access_file.moved = false;
    if (!access_file.open && settings && settings->accesslog && *settings->accesslog)
        access_file.open = line_file_open(&access_file.file, settings->accesslog) == 0;
    return access_file.open;
}

static void write_access(struct str line)
{
    pthread_mutex_lock(&access_file.lock);
    if (open_access_file()) {
        buf_append_str(&access_file.file.lines, line);
        line_file_end(&access_file.file, 0);
        line_file_flush(&access_file.file);
    }
    pthread_mutex_unlock(&access_file.lock);
}

static PyObject *py_access_line(PyObject *self, PyObject *args)
{
    const char *text;
    Py_ssize_t len;
    (void)self;
    if (!PyArg_ParseTuple(args, "s#:access_line", &text, &len))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    write_access((struct str){ text, (size_t)len });
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

/* --- life --------------------------------------------------------------------------------------------------------------- */

static void start_thread(void)
{
    if (has_thread || (wants == LOG_ALONE && (access_wants == LOG_ALONE || access_wants == ACCESS_NOBODY)))
        return;
    PyObject *started = PyObject_CallMethod(module, "start", NULL);
    if (started == NULL)
        pyerr_log("The thread for the logs cannot be started:");
    has_thread = started != NULL;
    Py_XDECREF(started);
}

/* From now on lines go where they should. */
static void apply(void)
{
    if (in_worker)
        start_thread();
    bool can = wants != LOG_ALONE && (!in_worker || has_thread);
    log_set_sink(!can ? NULL : in_worker ? log_queued : log_at_once);
}

/* What begin() and look() answer: (the least level that is logged, who writes the error log, who the access log). */
static bool hear(PyObject *answer)
{
    int level, error, access;
    bool ok = answer != NULL && PyArg_ParseTuple(answer, "iii", &level, &error, &access);
    Py_XDECREF(answer);
    if (!ok)
        return false;
    wants = (enum log_sharing)error;
    access_wants = access;
    log_set_threshold((enum log_level)level);
    return true;
}

static bool configure(void)
{
    struct buf text = { 0 };
    settings_print(settings, &text);
    module = PyImport_ImportModule("licorne._logging");
    PyObject *answer =
        module ? PyObject_CallMethod(module, "begin", "s#", buf_str(&text).p, (Py_ssize_t)buf_len(&text)) : NULL;
    buf_done(&text);
    return hear(answer);
}

bool pylog_begin(const struct settings *given, struct buf *message)
{
    settings = given;
    if (!configure()) {
        PyObject *exception = pyerr_take();
        char *line = exception != NULL ? pyerr_line(exception) : NULL;
        buf_printf(message, "Logging cannot be configured: %s", line != NULL ? line : "no reason was given");
        free(line);
        Py_XDECREF(exception);
        Py_CLEAR(module);
        return false;
    }
    apply();
    return true;
}

bool pylog_is_there(void)
{
    return module != NULL;
}

void pylog_look(void)
{
    if (module == NULL)
        return;
    if (!hear(PyObject_CallMethod(module, "look", NULL)))
        pyerr_log("What the application has done to the loggers cannot be seen:");
    apply();
}

enum log_sharing pylog_wants(void)
{
    return wants;
}

void pylog_hear(const struct log_line *line, struct str text)
{
    if (module != NULL && !emit(line, text) && !line->written)
        log_put(line->level, line->pid, text);
}

void pylog_forked(void)
{
    if (module == NULL)
        return;
    pthread_mutex_init(&queue.lock, NULL);
    pthread_cond_init(&queue.news, NULL);
    pthread_mutex_init(&access_file.lock, NULL);
    list_init(&queue.lines);
    queue.bytes = 0;
    queue.open = true;
    in_worker = true;
    apply();
}

bool pylog_access_raw(void)
{
    if (module == NULL)
        return false;
    PyObject *custom = PyObject_GetAttrString(module, "_custom");
    bool truth = custom == Py_True;
    PyErr_Clear();
    Py_XDECREF(custom);
    return truth;
}

bool pylog_owns_access(void)
{
    return module != NULL && access_wants != LOG_ALONE && access_wants != LOG_BESIDE;
}

void (*pylog_access(void))(struct str facts)
{
    bool wanted = module != NULL && (access_wants == LOG_INSTEAD || access_wants == LOG_BESIDE);
    return wanted && has_thread ? access_queued : NULL;
}

void pylog_reopen(void)
{
    pthread_mutex_lock(&access_file.lock);
    access_file.moved = true;
    pthread_mutex_unlock(&access_file.lock);
    if (module == NULL)
        return;
    PyGILState_STATE gil = PyGILState_Ensure();
    PyObject *reopened = PyObject_CallMethod(module, "reopen", NULL);
    if (reopened == NULL)
        pyerr_log("The logs cannot be opened anew:");
    Py_XDECREF(reopened);
    PyGILState_Release(gil);
}

void pylog_end(void)
{
    PyObject *ended = module != NULL ? PyObject_CallMethod(module, "end", NULL) : Py_NewRef(Py_None);
    if (ended == NULL)
        pyerr_log("The logs cannot be ended:");
    Py_XDECREF(ended);
    in_worker = has_thread = false;
    if (module != NULL)
        apply();
}

static PyObject *py_metric(PyObject *self, PyObject *args)
{
    const char *name, *value, *kind;
    (void)self;
    if (!PyArg_ParseTuple(args, "sss:metric", &name, &value, &kind))
        return NULL;
    statsd_put(name, value, kind);
    statsd_flush();
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    { "metric", py_metric, METH_VARARGS, "metric(name, value, kind): to statsd, if that is set." },
    { "log_take", py_log_take, METH_NOARGS,
      "Waits for log lines: [(level, when, bytes, written), ...], level -1 for an access; None: the end." },
    { "log_close", py_log_close, METH_NOARGS, "log_take() gives what there is, and then None." },
    { "log_line", py_log_line, METH_VARARGS,
      "log_line(level, pid, text): a line in the error log's own file; level -1: without a prefix." },
    { "access_line", py_access_line, METH_VARARGS, "access_line(text): a line in the access log's own file." },
    { NULL, NULL, 0, NULL },
};

int pylog_add(PyObject *core)
{
    return PyModule_AddFunctions(core, functions);
}
