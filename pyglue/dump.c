/* dump: see dump.h. Frames must not be walked while bytecode runs: from a signal handler that crashes now and then. So it
 * is done in two steps, by two threads:
 *
 *   signal ─► handler ─► helper ──► witness: asks for the GIL; with it, writes all threads and tasks
 *                          │
 *                          └─ after GIL_MS without it: C code holds the GIL, and no bytecode runs: faulthandler's own signal
 *                             handler writes all threads, here, without the GIL
 *
 * Both write to a memfd. The witness lives for one dump. The helper is there from the start, asleep: a handler that makes
 * a thread allocates memory, and the thread that it has interrupted may be doing just that. But an application that forks is
 * warned of threads (Python 3.12), so the helper ends before each fork and is made anew at the loop's next wait; in
 * between the handler has to make it. */
#include "pyglue/dump.h"

#include "pyglue/module.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "pyglue/pyerr.h"
#include "pyglue/runtime.h"
#include "server/base/log.h"

#define GIL_MS 100                  /* for getting the GIL */
#define WRITE_MS 1000               /* with it, for writing: other threads may take it meanwhile */
#define STACK_BYTES (256 * 1024)
#define WRITE_SIGNAL (SIGRTMAX - 3) /* faulthandler's, raised by the helper alone */

enum progress { DUMP_ASKED, DUMP_GIL, DUMP_WRITTEN, DUMP_WITHOUT_GIL };

static struct {
    pid_t owner;
    int memfd;
    struct runtime *runtime;
    PyObject *threads, *tasks; /* faulthandler.dump_traceback, licorne._dump.tasks (NULL: WSGI); owned */
    void (*deliver)(void *arg, int fd);
    void *arg;
    _Atomic int progress;     /* enum progress */
    atomic_bool witnessed;    /* there is a witness that waits for the GIL, perhaps since the last dump */
    sem_t wanted;             /* the helper sleeps here */
    pthread_mutex_t lock;     /* while the helper begins or ends */
    pthread_t helper;
    atomic_bool asleep, ends; /* there is a helper; it is to end */
} dump = { .memfd = -1, .lock = PTHREAD_MUTEX_INITIALIZER };

/* ---- the two threads -------------------------------------------------------------------------------------------- */

static bool advance(int from, int to)
{
    return atomic_compare_exchange_strong(&dump.progress, &from, to);
}

static void write_all(const char *text, Py_ssize_t len)
{
    while (len > 0) {
        ssize_t n = write(dump.memfd, text, (size_t)len);
        if (n <= 0)
            return;
        text += n;
        len -= n;
    }
}

/* Runs Python code, so others may get the GIL meanwhile, and keep it: the threads are written already. */
static void write_tasks(void)
{
    PyObject *requests = dump.runtime->ops->tasks != NULL ? dump.runtime->ops->tasks(dump.runtime) : NULL;
    PyObject *text = requests != NULL ? PyObject_CallOneArg(dump.tasks, requests) : NULL;
    Py_ssize_t len = 0;
    const char *utf8 = text != NULL ? PyUnicode_AsUTF8AndSize(text, &len) : NULL;
    if (utf8 != NULL)
        write_all(utf8, len);
    if (PyErr_Occurred())
        pyerr_log("The tasks cannot be told");
    Py_XDECREF(text);
    Py_XDECREF(requests);
}

static void *witness(void *unused)
{
    (void)unused;
    PyGILState_STATE state = PyGILState_Ensure();
    atomic_store(&dump.witnessed, false);
    if (advance(DUMP_ASKED, DUMP_GIL)) {
        PyObject *result = PyObject_CallFunction(dump.threads, "iO", dump.memfd, Py_True);
        if (result == NULL)
            PyErr_Clear();
        Py_XDECREF(result);
        write_tasks();
        advance(DUMP_GIL, DUMP_WRITTEN);
    }
    PyGILState_Release(state);
    return NULL;
}

static void wait_while(int progress, int limit_ms)
{
    for (int waited = 0; waited < limit_ms && atomic_load(&dump.progress) == progress; waited++)
        nanosleep(&(struct timespec){ 0, 1000000 }, NULL);
}

static bool start_thread(pthread_t *thread, void *(*run)(void *))
{
    pthread_attr_t attributes;
    sigset_t all, before;
    sigfillset(&all);
    sigdelset(&all, WRITE_SIGNAL);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the application's threads */
    bool started = pthread_create(thread, &attributes, run, NULL) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return started;
}

static void start_witness(void)
{
    pthread_t thread;
    if (atomic_exchange(&dump.witnessed, true))
        return;
    if (start_thread(&thread, witness))
        pthread_detach(thread);
    else
        atomic_store(&dump.witnessed, false);
}

static void tell(void)
{
    if (ftruncate(dump.memfd, 0) != 0 || lseek(dump.memfd, 0, SEEK_SET) != 0)
        log_warning("The last dump cannot be dropped: %s", strerror(errno));
    atomic_store(&dump.progress, DUMP_ASKED);
    start_witness();
    wait_while(DUMP_ASKED, GIL_MS);
    if (advance(DUMP_ASKED, DUMP_WITHOUT_GIL))
        pthread_kill(pthread_self(), WRITE_SIGNAL);
    else
        wait_while(DUMP_GIL, WRITE_MS);
    dump.deliver(dump.arg, dump.memfd);
}

static void *helper(void *unused)
{
    (void)unused;
    for (;;) {
        while (sem_wait(&dump.wanted) != 0)
            ;
        if (atomic_load(&dump.ends))
            return NULL;
        tell();
    }
}

static void *helper_for_once(void *unused)
{
    (void)unused;
    tell();
    return NULL;
}

void dump_renew(void)
{
    if (dump.deliver == NULL || atomic_load(&dump.asleep))
        return;
    pthread_mutex_lock(&dump.lock);
    atomic_store(&dump.ends, false);
    atomic_store(&dump.asleep, start_thread(&dump.helper, helper));
    pthread_mutex_unlock(&dump.lock);
}

/* ---- forks ------------------------------------------------------------------------------------------------------ */

/* By any thread, which may have the GIL: a helper that is at work gives up waiting for it. */
static void before_fork(void)
{
    if (getpid() != dump.owner)
        return;
    pthread_mutex_lock(&dump.lock);
    if (atomic_exchange(&dump.asleep, false)) {
        atomic_store(&dump.ends, true);
        sem_post(&dump.wanted);
        pthread_join(dump.helper, NULL);
    }
    pthread_mutex_unlock(&dump.lock);
}

/* ---- the signal ------------------------------------------------------------------------------------------------- */

static void on_dump(int number)
{
    int error = errno;
    pthread_t thread;
    (void)number;
    if (getpid() != dump.owner)
        return;
    if (atomic_load(&dump.asleep))
        sem_post(&dump.wanted);
    else if (start_thread(&thread, helper_for_once))
        pthread_detach(thread);
    errno = error;
}

static void handle_dump(int number)
{
    struct sigaction action = { .sa_handler = on_dump, .sa_flags = SA_RESTART | SA_ONSTACK };
    sigemptyset(&action.sa_mask);
    sigaction(number, &action, NULL);
}

static bool prepare_tasks(void)
{
    if (dump.runtime->ops->tasks == NULL)
        return true;
    PyObject *module = PyImport_ImportModule("licorne._dump");
    dump.tasks = module != NULL ? PyObject_GetAttrString(module, "tasks") : NULL;
    Py_XDECREF(module);
    return dump.tasks != NULL;
}

/* What the dump will call is made now: later the heap may be in any state. */
static bool prepare(void)
{
    PyObject *faulthandler = PyImport_ImportModule("faulthandler"), *registered = NULL;
    dump.memfd = memfd_create("licorne-dump", MFD_CLOEXEC);
    if (faulthandler != NULL && dump.memfd >= 0)
        dump.threads = PyObject_GetAttrString(faulthandler, "dump_traceback");
    if (dump.threads != NULL && prepare_tasks())
        registered = PyObject_CallMethod(faulthandler, "register", "iiOO", WRITE_SIGNAL, dump.memfd, Py_True, Py_False);
    bool prepared = registered != NULL;
    if (!prepared)
        pyerr_log("A stuck worker will not tell where:");
    Py_XDECREF(registered);
    Py_XDECREF(faulthandler);
    return prepared;
}

void dump_init(int number, struct runtime *runtime, void (*deliver)(void *arg, int fd), void *arg)
{
    dump.owner = getpid();
    dump.runtime = runtime;
    if (!prepare()) {
        signal(number, SIG_IGN);
        return;
    }
    dump.deliver = deliver;
    dump.arg = arg;
    sem_init(&dump.wanted, 0, 0);
    pthread_atfork(before_fork, NULL, NULL);
    dump_renew();
    handle_dump(number);
}
