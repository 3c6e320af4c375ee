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
#include "server/base/list.h"
#include "server/base/mem.h"

#define QUEUE_BYTES (8 * 1024 * 1024) /* of lines that wait for Python */
#define LEVEL_ACCESS (-1)             /* not a line but atoms */

struct line {
    struct list node;
    int level; /* enum log_level, or LEVEL_ACCESS */
    size_t len;
    char text[];
};

static PyObject *module;    /* licorne._logging; NULL: not wanted */
static enum log_sharing wants;
static bool wants_access;
static bool is_logging;     /* in the mold: what logging itself logs goes to the file */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t news;
    struct list lines;
    size_t bytes;
    bool open;
} queue = { .lock = PTHREAD_MUTEX_INITIALIZER, .news = PTHREAD_COND_INITIALIZER };

/* --- into Python, at once ------------------------------------------------------------------------------------------- */

static bool emit(int level, int pid, struct str text)
{
    if (is_logging)
        return false;
    is_logging = true;
    PyObject *result =
        PyObject_CallMethod(module, "emit", "iiy#", level, pid, text.p, (Py_ssize_t)text.len);
    if (result == NULL)
        pyerr_log("Logging failed:");
    is_logging = false;
    Py_XDECREF(result);
    return result != NULL && wants == LOG_INSTEAD;
}

static bool log_at_once(enum log_level level, const char *message)
{
    return PyGILState_Check() && !PyErr_Occurred() && emit((int)level, (int)getpid(), str_from(message));
}

/* --- into the queue ---------------------------------------------------------------------------------------------------- */

static bool put(int level, struct str text)
{
    bool taken = false;
    pthread_mutex_lock(&queue.lock);
    if (queue.open && queue.bytes + text.len <= QUEUE_BYTES) {
        struct line *line = mem_alloc(sizeof(*line) + text.len);
        line->level = level;
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
    return put((int)level, str_from(message)) && wants == LOG_INSTEAD;
}

static void access_queued(struct str atoms)
{
    put(LEVEL_ACCESS, atoms);
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

/* [(level, text), ...]; None at the end. */
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
        PyObject *pair = list != NULL ? Py_BuildValue("(iy#)", line->level, line->text, (Py_ssize_t)line->len) : NULL;
        if (pair == NULL || PyList_Append(list, pair) < 0)
            Py_CLEAR(list);
        Py_XDECREF(pair);
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

/* --- life --------------------------------------------------------------------------------------------------------------- */

static bool is_wanted(const struct settings *s)
{
    return s->syslog || (s->logconfig && *s->logconfig) || (s->logconfig_dict && *s->logconfig_dict) ||
           (s->logconfig_json && *s->logconfig_json);
}

/* What begin() answers: (the least level that is logged, whether the file gets the lines too, whether accesses are wanted). */
static bool configure(const struct settings *settings)
{
    struct buf text = { 0 };
    int level, beside, access;
    settings_print(settings, &text);
    module = PyImport_ImportModule("licorne._logging");
    PyObject *answer =
        module ? PyObject_CallMethod(module, "begin", "s#", buf_str(&text).p, (Py_ssize_t)buf_len(&text)) : NULL;
    bool ok = answer != NULL && PyArg_ParseTuple(answer, "ipp", &level, &beside, &access);
    buf_done(&text);
    Py_XDECREF(answer);
    if (!ok)
        return false;
    wants = beside ? LOG_BESIDE : LOG_INSTEAD;
    wants_access = access;
    if (!beside)
        log_set_threshold((enum log_level)level);
    return true;
}

bool pylog_begin(const struct settings *settings, struct buf *message)
{
    if (!is_wanted(settings))
        return true;
    if (!configure(settings)) {
        PyObject *exception = pyerr_take();
        char *line = exception != NULL ? pyerr_line(exception) : NULL;
        buf_printf(message, "Logging cannot be configured: %s", line != NULL ? line : "no reason was given");
        free(line);
        Py_XDECREF(exception);
        Py_CLEAR(module);
        return false;
    }
    log_set_sink(log_at_once);
    return true;
}

enum log_sharing pylog_wants(void)
{
    return wants;
}

void pylog_hear(int level, int pid, struct str text)
{
    if (module != NULL)
        emit(level, pid, text);
}

void pylog_forked(void)
{
    if (module == NULL)
        return;
    pthread_mutex_init(&queue.lock, NULL);
    pthread_cond_init(&queue.news, NULL);
    list_init(&queue.lines);
    queue.bytes = 0;
    queue.open = true;
    PyObject *started = PyObject_CallMethod(module, "start", NULL);
    if (started == NULL) {
        pyerr_log("The thread for the logs cannot be started:");
        return;
    }
    Py_DECREF(started);
    log_set_sink(log_queued);
}

void (*pylog_access(void))(struct str atoms)
{
    return module != NULL && wants_access ? access_queued : NULL;
}

void pylog_end(void)
{
    PyObject *ended = module != NULL ? PyObject_CallMethod(module, "end", NULL) : Py_NewRef(Py_None);
    if (ended == NULL)
        pyerr_log("The logs cannot be ended:");
    Py_XDECREF(ended);
    if (module != NULL)
        log_set_sink(log_at_once);
}

static PyMethodDef functions[] = {
    { "log_take", py_log_take, METH_NOARGS, "Waits for log lines: [(level, bytes), ...], level -1 for an access; None: the end." },
    { "log_close", py_log_close, METH_NOARGS, "log_take() gives what there is, and then None." },
    { NULL, NULL, 0, NULL },
};

int pylog_add(PyObject *core)
{
    return PyModule_AddFunctions(core, functions);
}
