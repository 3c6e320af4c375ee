/* dump: see dump.h. Frames must not be walked while bytecode runs: from a signal handler that crashes now and then. So it
 * is done in two steps, by two threads that exist only for this (an application that forks is warned of threads):
 *
 *   signal ─► handler ─► helper ──► witness: asks for the GIL; with it, writes all threads
 *                          │
 *                          └─ after PATIENCE_MS without an answer: C code holds the GIL, and no bytecode runs: faulthandler's
 *                             own signal handler writes all threads, here, without the GIL
 *
 * Both write to a memfd; the helper logs what it finds there in one piece, and ends the process if it was ABRT. The
 * master's SIGKILL comes if all that takes too long. */
#include "pyglue/dump.h"

#include "pyglue/module.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "pyglue/pyerr.h"
#include "server/base/log.h"

#define PATIENCE_MS 100
#define TEXT_MAX (64 * 1024)
#define WRITE_SIGNAL (SIGRTMAX - 3) /* faulthandler's, raised by the helper alone */

static struct {
    pid_t owner;
    int memfd;
    PyObject *dump_traceback;   /* owned */
    atomic_bool written, asked; /* the witness has; the helper does it itself */
    atomic_bool busy;           /* a helper is at work */
    atomic_bool ends;           /* the process ends after it */
} dump = { .memfd = -1 };

/* ---- the two threads -------------------------------------------------------------------------------------------- */

static void *witness(void *unused)
{
    (void)unused;
    PyGILState_STATE state = PyGILState_Ensure();
    if (!atomic_load(&dump.asked)) {
        PyObject *result = PyObject_CallFunction(dump.dump_traceback, "iO", dump.memfd, Py_True);
        if (result == NULL)
            PyErr_Clear();
        Py_XDECREF(result);
        atomic_store(&dump.written, true);
    }
    PyGILState_Release(state);
    return NULL;
}

static void sleep_ms(long ms)
{
    nanosleep(&(struct timespec){ 0, ms * 1000000 }, NULL);
}

static void log_text(void)
{
    static char text[TEXT_MAX + 1];
    ssize_t len = pread(dump.memfd, text, TEXT_MAX, 0);
    while (len > 0 && text[len - 1] == '\n')
        len--;
    text[len > 0 ? len : 0] = '\0';
    log_error("Where worker %d is%s:\n%s", (int)getpid(), atomic_load(&dump.ends) ? " stuck" : "",
              len > 0 ? text : "(it cannot be told)");
}

static void end(void)
{
    signal(SIGABRT, SIG_DFL);
    kill(getpid(), SIGABRT);
}

static void *helper(void *unused)
{
    pthread_t thread;
    (void)unused;
    atomic_store(&dump.written, false);
    atomic_store(&dump.asked, false);
    if (ftruncate(dump.memfd, 0) != 0 || lseek(dump.memfd, 0, SEEK_SET) != 0)
        log_warning("The last dump cannot be dropped: %s", strerror(errno));
    bool begun = pthread_create(&thread, NULL, witness, NULL) == 0;
    for (int waited = 0; begun && waited < PATIENCE_MS && !atomic_load(&dump.written); waited++)
        sleep_ms(1);
    if (!atomic_load(&dump.written)) {
        atomic_store(&dump.asked, true);
        pthread_kill(pthread_self(), WRITE_SIGNAL);
    }
    log_text();
    atomic_store(&dump.busy, false);
    if (atomic_load(&dump.ends))
        end();
    return NULL;
}

/* One at a time; a second request finds the answer in the log. */
static bool start_helper(void)
{
    pthread_t thread;
    if (atomic_exchange(&dump.busy, true))
        return true;
    if (pthread_create(&thread, NULL, helper, NULL) == 0) {
        pthread_detach(thread);
        return true;
    }
    atomic_store(&dump.busy, false);
    return false;
}

/* ---- the signals ------------------------------------------------------------------------------------------------ */

static void on_abort(int number, siginfo_t *info, void *context)
{
    int error = errno;
    (void)number, (void)context;
    bool from_master = getpid() == dump.owner && info->si_code == SI_USER && info->si_pid == getppid();
    atomic_store(&dump.ends, true);
    if (!from_master || !start_helper())
        end(); /* takes effect when this handler returns */
    errno = error;
}

static void on_dump(int number, siginfo_t *info, void *context)
{
    int error = errno;
    (void)number, (void)info, (void)context;
    if (getpid() == dump.owner)
        start_helper();
    errno = error;
}

static void handle_dump(int number)
{
    struct sigaction action = { .sa_sigaction = on_dump, .sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK };
    sigemptyset(&action.sa_mask);
    sigaction(number, &action, NULL);
}

static void handle_abort(void)
{
    struct sigaction action = { .sa_sigaction = on_abort, .sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK }, present;
    sigemptyset(&action.sa_mask);
    if (sigaction(SIGABRT, NULL, &present) == 0 && present.sa_handler == SIG_DFL)
        sigaction(SIGABRT, &action, NULL);
}

void dump_init(int number)
{
    PyObject *faulthandler = PyImport_ImportModule("faulthandler"), *registered = NULL;
    dump.owner = getpid();
    dump.memfd = memfd_create("licorne-dump", MFD_CLOEXEC);
    if (faulthandler != NULL && dump.memfd >= 0)
        dump.dump_traceback = PyObject_GetAttrString(faulthandler, "dump_traceback");
    if (dump.dump_traceback != NULL)
        registered = PyObject_CallMethod(faulthandler, "register", "iiOO", WRITE_SIGNAL, dump.memfd, Py_True, Py_False);
    if (registered != NULL) {
        handle_abort();
        handle_dump(number);
    } else {
        pyerr_log("A stuck worker will not tell where:");
        signal(number, SIG_IGN);
    }
    Py_XDECREF(registered);
    Py_XDECREF(faulthandler);
}
