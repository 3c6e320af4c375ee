/* aioloop_impl: what the files of the noun aioloop share. Nobody else includes it; aioloop.h is the way in.
 *
 *     aioloop.c         the type LoopBase: life, attributes, table of methods
 *     aioloop_call.c    call_soon, call_later, ...: arguments to handles
 *     aioloop_handle.c  Handle and TimerHandle
 *     aioloop_timer.c   the heap of timers
 *     aioloop_watch.c   readers and writers
 *     aioloop_stream.c  the hot half of socket and pipe transports; aioloop_connection.c  the rest of a socket's
 *     aioloop_accept.c, aioloop_connect.c  where connections come from
 *     aioloop_sock.c    sock_recv() and its relations
 *     aioloop_datagram.c  that of UDP transports
 *     aioloop_tls.c     that of TLS protocols
 *     aioloop_state.c   types, names, what is used of asyncio
 *     aioloop_task.c    futures, tasks, the inline first step
 *     aioloop_task_set.c  the set of all tasks
 *     aioloop_run.c     the turn
 *
 * Everything here needs the GIL. Numbers that are seconds are those of loop.time(), the monotonic clock. */
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <stdint.h>

#include "server/base/list.h"
#include "server/net/libev.h"
#include "server/net/loop.h"

#define HANDLE_INLINE_ARGS 3
#define HANDLE_SPARES 256

struct aioloop;

/* --- what the module has once ------------------------------------------------------------------------------------ */

struct handle_spares {
    struct handle *first;
    int count;
};

/* Names of attributes and methods, interned: `str_<name>` in the state. */
#define AIOLOOP_STRINGS(X)                                                                                               \
    X(context) X(name) X(__self__)                                                                                     \
    /* of handles and the loop */                                                                                      \
    X(_cancelled) X(_run) X(_callback_failed) X(_slow_callback) X(_check_callback) X(slow_callback_duration)           \
    X(_warn_lost)                                                                                                      \
    /* of protocols */                                                                                                 \
    X(connection_made) X(connection_lost) X(eof_received) X(data_received) X(get_buffer) X(buffer_updated)             \
    X(datagram_received) X(error_received)                                                                             \
    /* of transports */                                                                                                \
    X(_fatal_error) X(_maybe_pause_protocol) X(_maybe_resume_protocol) X(_read_ready__on_eof)                          \
    X(_call_connection_lost) X(_protocol_failed) X(_sendto) X(_start) X(_attach) X(_detach) X(write) X(close)           \
    X(peername) X(sockname) X(socket) X(_io_refs) X(_decref_socketios)                                                 \
    /* of futures */                                                                                                   \
    X(done) X(set_result) X(set_exception)                                                                             \
    /* of TLS */                                                                                                       \
    X(pending) X(read) X(_sslobj) X(_call_eof_received) X(_start_shutdown) X(_do_write) X(_process_outgoing)           \
    X(_control_ssl_reading) X(_taken_in) X(_write_slowly)

#define AIOLOOP_STATE_NAME "licorne._core.LoopBase._aioloop_state"
#define AIOLOOP_STATE_ATTRIBUTE "_aioloop_state"

struct aioloop_state {
    PyTypeObject *loop_type, *tls_type; /* borrowed: the state is kept by these types' dictionaries */
    PyTypeObject *handle_type, *timer_type, *stream_type, *connection_type, *datagram_type, *operation_type;
    struct handle_spares spare_handles, spare_timers;
    PyObject *task_type, *future_type, *buffered_protocol; /* asyncio's */
    PyObject *base_create_task;           /* asyncio.base_events.BaseEventLoop.create_task: for task factories */
    PyObject *extract_stack, *repr_info;  /* format_helpers.extract_stack, events.Handle._repr_info */
#define DECLARE(name) PyObject *str_##name;
    AIOLOOP_STRINGS(DECLARE)
#undef DECLARE
    PyObject *task_done;                  /* the method Task.done */
    PyTypeObject *step_type;              /* of what Task.__init__ passes to call_soon(); NULL: none was seen yet */
    PyObject *kw_loop, *kw_name_loop;     /* names of keyword arguments, for vectorcalls */
    PyObject *socket_type, *transport_socket; /* socket.socket, asyncio.trsock.TransportSocket */
    PyObject *check_no_transport; /* the standard loop's _ensure_fd_no_transport */
    PyObject *tls_wrapped, *tls_again;    /* sslproto.SSLProtocolState.WRAPPED, SSLAgainErrors; NULL on Python 3.10 */
    bool server_knows;                    /* asyncio.Server is told which connection comes and goes: Python 3.13 */
    bool eager_start;                     /* asyncio.Task can start eagerly, and does so without fault */
};

/* aioloop_state.c: a capsule; NULL with an exception. */
PyObject *aioloop_state_new(PyObject *module);
/* The state of the module that `type`, or a base of it, comes from. NULL with an exception. */
struct aioloop_state *aioloop_state_of(PyTypeObject *type);

/* --- handles ----------------------------------------------------------------------------------------------------- */

/* A callback that waits: what call_soon() returns. It keeps the callback until it is cancelled or freed. */
struct handle {
    PyObject_HEAD
    struct aioloop *loop;
    PyObject *callback; /* NULL once cancelled */
    PyObject *context;
    PyObject *slots[1 + HANDLE_INLINE_ARGS]; /* [0] is vectorcall's scratch; [1] a tuple if there are more arguments */
    Py_ssize_t nargs;
    PyObject *source_traceback; /* debug mode: where it was made; may be NULL */
    PyObject *repr;             /* debug mode: what it was before it was cancelled; may be NULL */
    PyObject *weakrefs;
    bool cancelled;
    bool running; /* its callback is being called: cancelling leaves callback and arguments alone until then */
};

struct timer {
    struct handle handle;
    double when;
    Py_ssize_t place; /* in the heap; -1: not there */
};

int handle_add(struct aioloop_state *state, PyObject *module);
void handle_spares_free(struct aioloop_state *state);
/* `context`: NULL takes a copy of the current one. New reference. */
struct handle *handle_new(struct aioloop *loop, PyObject *callback, PyObject *const *args, Py_ssize_t nargs,
                          PyObject *context);
struct timer *timer_new(struct aioloop *loop, double when, PyObject *callback, PyObject *const *args,
                        Py_ssize_t nargs, PyObject *context);
void handle_cancel(struct handle *handle);
/* Calls it in its context. Exceptions go to the loop's exception handler, but for KeyboardInterrupt and SystemExit:
 * those return -1 and stay set. */
int handle_run(struct handle *handle);

/* --- the ready queue: a ring ------------------------------------------------------------------------------------- */

struct ready {
    void (*function)(void *arg); /* NULL: `object` is a handle, of ours or any that has _run() */
    void *object;
};

struct ready_queue {
    struct ready *ring;
    size_t head, count, capacity; /* head: how many were ever taken out; capacity: 0 or a power of two */
};

/* Takes over the reference to a handle. -1 with MemoryError (the reference is dropped). */
int ready_push(struct ready_queue *queue, struct ready entry);

static inline struct ready *ready_at(const struct ready_queue *queue, size_t i)
{
    return &queue->ring[(queue->head + i) & (queue->capacity - 1)];
}

static inline struct ready ready_pop(struct ready_queue *queue)
{
    struct ready entry = *ready_at(queue, 0);
    queue->head++;
    queue->count--;
    return entry;
}

/* --- the heap of timers ------------------------------------------------------------------------------------------ */

struct timer_entry {
    double when; /* beside the pointer, so that sifting stays in the array */
    struct timer *timer;
};

struct timer_heap {
    struct timer_entry *entries;
    Py_ssize_t count, capacity;
};

/* Takes its own reference. -1 with MemoryError. */
int timer_heap_add(struct timer_heap *heap, struct timer *timer);
/* Takes the timer out, wherever it is; gives the heap's reference to the caller. */
struct timer *timer_heap_take(struct timer_heap *heap, Py_ssize_t place);

/* --- the loop ---------------------------------------------------------------------------------------------------- */

struct watch;

struct aioloop {
    PyObject_HEAD
    struct aioloop_state *state; /* outlives it: kept by the type */
    struct loop *loop;           /* NULL once closed */
    struct ready_queue ready;
    struct timer_heap timers;
    struct watch **watches; /* by descriptor; NULL where there never was a reader or writer */
    int watches_count;

    struct list unflushed; /* streams with pending writes; each holds a reference */

    bool debug, closed, stopping;
    bool has_standard_transports; /* there are, or were, transports of the standard library's */
    unsigned long thread_id; /* of the thread that runs it; 0: not running */
    PyObject *current_handle, *task_factory; /* None or the object */

    /* the turn */
    uint64_t polled_ns, let_go_ns; /* when it last polled; when it last let go of the GIL */
    uint64_t switch_ns;            /* sys.getswitchinterval() */
    unsigned turns;                /* since it last polled */
    bool turning;                  /* inside a turn */
    bool queue_events;             /* the poll's, as other callbacks were ready before them */
    bool waiting, woken;           /* in a poll, without the GIL; and was woken from it */
    PyThreadState *thread_state;   /* while the GIL is let go */
    PyObject *raised;              /* KeyboardInterrupt or SystemExit out of an inline step: leaves run_forever() */

    /* timers */
    struct ev_timer alarm;
    double alarm_when; /* what the alarm is set for; 0: not set */

    /* aioloop_start_task(): the step that Task.__init__ passes to call_soon() */
    bool capture;
    PyObject *captured_step, *captured_context;
    PyObject *task_args, *task_keywords; /* for the next task: a tuple of one, a dict with `task_name` */
    PyObject *task_name;                 /* borrowed from task_keywords */
};

#define AIOLOOP(object) ((struct aioloop *)(object))

/* -1 with RuntimeError once it is closed. */
int aioloop_check_open(const struct aioloop *self);
double aioloop_time(void);
/* Makes the loop leave or skip the poll that it may be waiting in; from any thread that has the GIL. */
void aioloop_wake(struct aioloop *self);

/* aioloop_call.c */
PyObject *aioloop_call_soon(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
PyObject *aioloop_call_soon_threadsafe(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
PyObject *aioloop_call_later(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
PyObject *aioloop_call_at(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
PyObject *aioloop_add_callback(PyObject *self, PyObject *handle);
PyObject *aioloop_add_callback_signalsafe(PyObject *self, PyObject *handle);

/* After a callback that was called inside the poll: KeyboardInterrupt and SystemExit are kept until the turn can raise
 * them, anything else is reported as unraisable. Clears the exception. */
void aioloop_raised(struct aioloop *self);
/* `object` if it is an open loop, else NULL with an exception. */
struct aioloop *aioloop_loop_checked(PyObject *object);

/* aioloop_stream.c */
int stream_add(struct aioloop_state *state, PyObject *module);
int connection_add(struct aioloop_state *state, PyObject *module);
void streams_flush(struct aioloop *self);
void streams_drop(struct aioloop *self);
int streams_traverse(struct aioloop *self, visitproc visit, void *arg);

/* aioloop_accept.c */
PyObject *aioloop_accept(PyObject *self, PyObject *const *args, Py_ssize_t nargs);

/* aioloop_connect.c */
PyObject *aioloop_connect(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *aioloop_connected(PyObject *self, PyObject *const *args, Py_ssize_t nargs);

/* aioloop_sock.c */
/* A socket that is held stays open though its owner close it, until it is let go: as with the files that socket.makefile()
 * makes. -1 with an exception. */
int socket_hold(struct aioloop_state *state, PyObject *sock);
void socket_let_go(struct aioloop_state *state, PyObject *sock);
int operation_add(struct aioloop_state *state, PyObject *module);
PyObject *aioloop_sock_recv(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *aioloop_sock_recv_into(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *aioloop_sock_recvfrom(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *aioloop_sock_recvfrom_into(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *aioloop_sock_sendall(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *aioloop_sock_sendto(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *aioloop_sock_accept(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *aioloop_sock_connect(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *aioloop_sock_forget(PyObject *self, PyObject *const *args, Py_ssize_t nargs);

/* aioloop_datagram.c */
int datagram_add(struct aioloop_state *state, PyObject *module);

/* aioloop_tls.c */
int tls_add(struct aioloop_state *state, PyObject *module, PyObject *capsule);
/* `data`, the loop's read buffer, holds what came for a protocol that is a TlsBase; it is used again inside. -1 with an
 * exception. */
int tls_data_received(PyObject *protocol, char *data, Py_ssize_t n);

/* aioloop_watch.c */
/* `on_event` is called with `who` when the descriptor is ready, inside the poll; it reports what it raises (aioloop_raised()).
 * NULL: `who` is a handle, to be queued. Takes its own reference; whoever was there before is cancelled. -1 with an
 * exception. */
typedef void watch_event(struct aioloop *self, int fd, PyObject *who, bool writer);
int watch_set(struct aioloop *self, int fd, bool writer, PyObject *who, watch_event *on_event);
/* Whether somebody was there. */
bool watch_unset(struct aioloop *self, int fd, bool writer);
PyObject *aioloop_add_reader(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *aioloop_add_writer(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *aioloop_remove_reader(PyObject *self, PyObject *fd);
/* RuntimeError if a transport uses the descriptor. */
int watch_check_unused(struct aioloop *self, int fd, PyObject *object);
PyObject *aioloop_ensure_no_transport(PyObject *self, PyObject *fd);
/* How many to take at once from a listening descriptor: the last event's number. */
int *watch_burst(struct aioloop *self, int fd);
PyObject *watch_who(struct aioloop *self, int fd, bool writer);
PyObject *aioloop_remove_writer(PyObject *self, PyObject *fd);
/* What is watched: 1 reader, 2 writer, 3 both. */
PyObject *aioloop_watched(PyObject *self, PyObject *fd);
/* The open connection that a descriptor belongs to: borrowed, or NULL. It says so itself. */
PyObject *watch_owner(struct aioloop *self, int fd);
int watch_own(struct aioloop *self, int fd, PyObject *owner);
void watch_disown(struct aioloop *self, int fd, PyObject *owner);
int watches_traverse(struct aioloop *self, visitproc visit, void *arg);
void watches_free(struct aioloop *self);

/* aioloop_task.c */
/* sys.hexversion; 0 if it cannot be read. */
unsigned long runtime_version(void);
int task_state_init(struct aioloop_state *state);
PyObject *aioloop_create_future(PyObject *self, PyObject *none);
PyObject *aioloop_create_task(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
/* aioloop_start_task() for the tests: (coro, name). */
PyObject *aioloop_start_task_method(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
/* During aioloop_start_task(): keeps the step instead of queueing it. */
bool task_step_capture(struct aioloop *self, PyObject *callback, PyObject *context);

/* aioloop_task_set.c */
/* Once a process; again is harmless. A Python whose asyncio does this otherwise is left alone. -1 with an exception. */
int task_set_install(void);
/* The next task that registers itself is noted only, until task_set_settle(). */
void task_set_defer(void);
/* After the first step of `task` (NULL: it could not be made): the one noted is entered, unless that is `task` and done. */
void task_set_settle(PyObject *task, bool done);

/* aioloop_run.c */
void aioloop_run_init(struct aioloop *self);
PyObject *aioloop_run(PyObject *self, PyObject *none);
PyObject *aioloop_run_once(PyObject *self, PyObject *none);

/* The exception that is set, taken: an instance with its traceback. exception_restore() takes it over. */
PyObject *exception_take(void);
void exception_restore(PyObject *exception);
static inline bool exception_leaves_loop(void)
{
    return PyErr_ExceptionMatches(PyExc_KeyboardInterrupt) || PyErr_ExceptionMatches(PyExc_SystemExit);
}
