/* aioloop_watch: add_reader() and add_writer(): one libev watcher per descriptor, a table by descriptor.
 *
 * Applications close descriptors whenever they like, and the kernel gives the number away again at once. So nothing
 * is assumed about what is behind a number: a change of interest always stops, sets and starts the watcher, which
 * makes libev ask the kernel anew, and an error that it reports about a descriptor is not passed on: as with the
 * standard loop, a closed descriptor is simply never ready. */
#include "pyglue/aioloop_stream.h"

#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

struct side {
    PyObject *who; /* NULL: nobody */
    watch_event *on_event;
};

struct watch {
    struct ev_io io;
    struct aioloop *loop;
    struct side sides[2]; /* reader, writer */
    PyObject *owner;      /* borrowed: a connection, while it is open */
    int burst;            /* of a listener: connections at once */
    size_t queued[2];     /* the ready queue's head once what was last queued for them has been taken out */
};

/* --- events ----------------------------------------------------------------------------------------------------------- */

static void call_side(struct watch *w, bool writer)
{
    PyObject *who = Py_NewRef(w->sides[writer].who); /* it may be removed by what it calls */
    w->sides[writer].on_event(w->loop, w->io.fd, who, writer);
    Py_DECREF(who);
}

/* From the ready queue: unless it was removed, or replaced, by what ran before. */
static void run_reader(void *watch)
{
    struct watch *w = watch;
    if (w->sides[false].on_event != NULL)
        call_side(w, false);
}

static void run_writer(void *watch)
{
    struct watch *w = watch;
    if (w->sides[true].on_event != NULL)
        call_side(w, true);
}

/* What was ready before the poll runs before what the poll found, as with the standard loop. */
static void notify(struct watch *w, bool writer)
{
    struct side *side = &w->sides[writer];
    struct aioloop *self = w->loop;
    if (side->who == NULL)
        return;
    bool native = side->on_event != NULL;
    if (native && !self->queue_events) {
        call_side(w, writer);
        return;
    }
    if (w->queued[writer] > self->ready.head) /* of an earlier poll: still waiting, in a long queue */
        return;
    w->queued[writer] = self->ready.head + self->ready.count + 1;
    struct ready entry = { native ? writer ? run_writer : run_reader : NULL, native ? (void *)w : Py_NewRef(side->who) };
    if (ready_push(&self->ready, entry) < 0)
        PyErr_WriteUnraisable((PyObject *)self); /* out of memory; it is ready again in the next turn */
}

static void on_ready(struct ev_loop *ev, struct ev_io *io, int events)
{
    (void)ev;
    struct watch *w = (struct watch *)io;
    if (events & EV_ERROR)
        return; /* closed under our feet: libev has stopped the watcher */
    if (events & EV_READ)
        notify(w, false);
    if (events & EV_WRITE)
        notify(w, true);
}

static void watch_apply(struct watch *w, int fd)
{
    struct ev_loop *ev = loop_ev(w->loop->loop);
    int events = (w->sides[false].who ? EV_READ : 0) | (w->sides[true].who ? EV_WRITE : 0);
    ev_io_stop(ev, &w->io);
    aioloop_wake(w->loop); /* does nothing but when another thread changes what a waiting loop watches */
    if (events == 0)
        return;
    ev_io_set(&w->io, fd, events);
    ev_io_start(ev, &w->io);
}

/* --- descriptors ---------------------------------------------------------------------------------------------------- */

/* -1 with ValueError, as the standard library's selectors have it. */
static int fd_argument(PyObject *object)
{
    int fd = PyObject_AsFileDescriptor(object);
    if (fd < 0) {
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError, "Invalid file object: %R", object);
    }
    return fd;
}

static int fd_probe(int fd)
{
    struct epoll_event event = { .events = EPOLLIN };
    int poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0)
        return -1;
    int outcome = epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event), error = errno;
    close(poller);
    errno = error;
    return outcome;
}

/* Whether the kernel can watch it: no for regular files and directories (EPERM), nor for what is not open (EBADF).
 * libev would say so later, to nobody. */
static int fd_check(int fd)
{
    struct stat st;
    int outcome = fstat(fd, &st);
    if (outcome == 0 && !S_ISSOCK(st.st_mode) && !S_ISFIFO(st.st_mode))
        outcome = fd_probe(fd);
    if (outcome < 0)
        PyErr_SetFromErrno(PyExc_OSError);
    return outcome;
}

/* --- the table -------------------------------------------------------------------------------------------------------- */

static struct watch *watch_find(struct aioloop *self, int fd)
{
    return fd < self->watches_count ? self->watches[fd] : NULL;
}

static int watches_grow(struct aioloop *self, int fd)
{
    int count = self->watches_count ? self->watches_count : 64;
    while (count <= fd)
        count *= 2;
    struct watch **watches = PyMem_Realloc(self->watches, (size_t)count * sizeof(*watches));
    if (watches == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    memset(watches + self->watches_count, 0, (size_t)(count - self->watches_count) * sizeof(*watches));
    self->watches = watches;
    self->watches_count = count;
    return 0;
}

static struct watch *watch_get(struct aioloop *self, int fd)
{
    if (fd >= self->watches_count && watches_grow(self, fd) < 0)
        return NULL;
    if (self->watches[fd] == NULL) {
        struct watch *w = PyMem_Calloc(1, sizeof(*w));
        if (w == NULL) {
            PyErr_NoMemory();
            return NULL;
        }
        ev_init(&w->io, on_ready);
        w->loop = self;
        self->watches[fd] = w;
    }
    return self->watches[fd];
}

int watches_traverse(struct aioloop *self, visitproc visit, void *arg)
{
    for (int fd = 0; fd < self->watches_count; fd++)
        if (self->watches[fd] != NULL) {
            Py_VISIT(self->watches[fd]->sides[false].who);
            Py_VISIT(self->watches[fd]->sides[true].who);
        }
    return 0;
}

void watches_free(struct aioloop *self)
{
    struct watch **watches = self->watches;
    int count = self->watches_count;
    self->watches = NULL;
    self->watches_count = 0;
    for (int fd = 0; fd < count; fd++)
        if (watches[fd] != NULL) {
            ev_io_stop(loop_ev(self->loop), &watches[fd]->io);
            Py_XDECREF(watches[fd]->sides[false].who);
            Py_XDECREF(watches[fd]->sides[true].who);
            PyMem_Free(watches[fd]);
        }
    PyMem_Free(watches);
}

/* --- methods -------------------------------------------------------------------------------------------------------------- */

static void cancel_and_drop(struct aioloop *self, PyObject *who)
{
    if (who == NULL)
        return;
    if (Py_TYPE(who) == self->state->handle_type)
        handle_cancel((struct handle *)who);
    Py_DECREF(who);
}

int watch_set(struct aioloop *self, int fd, bool writer, PyObject *who, watch_event *on_event)
{
    struct watch *w = watch_get(self, fd);
    if (w == NULL)
        return -1;
    PyObject *old = w->sides[writer].who;
    w->sides[writer] = (struct side){ Py_NewRef(who), on_event };
    watch_apply(w, fd);
    cancel_and_drop(self, old);
    return 0;
}

bool watch_unset(struct aioloop *self, int fd, bool writer)
{
    struct watch *w = watch_find(self, fd);
    if (w == NULL || w->sides[writer].who == NULL)
        return false;
    PyObject *old = w->sides[writer].who;
    w->sides[writer] = (struct side){ NULL, NULL };
    watch_apply(w, fd);
    cancel_and_drop(self, old);
    return true;
}

PyObject *watch_owner(struct aioloop *self, int fd)
{
    struct watch *w = watch_find(self, fd);
    return w ? w->owner : NULL;
}

int watch_own(struct aioloop *self, int fd, PyObject *owner)
{
    struct watch *w = watch_get(self, fd);
    if (w == NULL)
        return -1;
    w->owner = owner;
    return 0;
}

/* Of a descriptor that is watched. */
int *watch_burst(struct aioloop *self, int fd)
{
    return &self->watches[fd]->burst;
}

PyObject *watch_who(struct aioloop *self, int fd, bool writer)
{
    struct watch *w = watch_find(self, fd);
    return w ? w->sides[writer].who : NULL;
}

void watch_disown(struct aioloop *self, int fd, PyObject *owner)
{
    struct watch *w = watch_find(self, fd);
    if (w != NULL && w->owner == owner)
        w->owner = NULL;
}

/* While a file is sent the socket is not the connection's alone. */
static bool owner_uses(PyObject *owner)
{
    return owner != NULL && !STREAM(owner)->closing && STREAM(owner)->empty_waiter == NULL;
}

int watch_check_unused(struct aioloop *self, int fd, PyObject *object)
{
    PyObject *owner = watch_owner(self, fd);
    if (owner_uses(owner)) {
        PyErr_Format(PyExc_RuntimeError, "File descriptor %R is used by transport %R", object, owner);
        return -1;
    }
    if (!self->has_standard_transports)
        return 0;
    PyObject *number = PyLong_FromLong(fd), *args[] = { (PyObject *)self, number };
    PyObject *result = number ? PyObject_Vectorcall(self->state->check_no_transport, args, 2, NULL) : NULL;
    Py_XDECREF(number);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

PyObject *aioloop_ensure_no_transport(PyObject *self, PyObject *object)
{
    int fd = fd_argument(object);
    return fd < 0 || watch_check_unused(AIOLOOP(self), fd, object) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *add_watch(PyObject *object, const char *method, bool writer, PyObject *const *args, Py_ssize_t nargs)
{
    struct aioloop *self = AIOLOOP(object);
    if (nargs < 2) {
        PyErr_Format(PyExc_TypeError, "%s() takes at least 2 positional arguments, got %zd", method, nargs);
        return NULL;
    }
    int fd = fd_argument(args[0]);
    if (fd < 0 || aioloop_check_open(self) < 0)
        return NULL;
    if (fd_check(fd) < 0)
        return NULL;
    PyObject *handle = (PyObject *)handle_new(self, args[1], args + 2, nargs - 2, NULL);
    if (handle != NULL && watch_set(self, fd, writer, handle, NULL) < 0)
        Py_CLEAR(handle);
    return handle;
}

PyObject *aioloop_add_reader(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return add_watch(self, "add_reader", false, args, nargs);
}

PyObject *aioloop_add_writer(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return add_watch(self, "add_writer", true, args, nargs);
}

static PyObject *remove_watch(PyObject *object, bool writer, PyObject *arg)
{
    struct aioloop *self = AIOLOOP(object);
    if (self->closed)
        Py_RETURN_FALSE;
    int fd = fd_argument(arg);
    return fd < 0 ? NULL : PyBool_FromLong(watch_unset(self, fd, writer));
}

PyObject *aioloop_remove_reader(PyObject *self, PyObject *fd)
{
    return remove_watch(self, false, fd);
}

PyObject *aioloop_remove_writer(PyObject *self, PyObject *fd)
{
    return remove_watch(self, true, fd);
}

PyObject *aioloop_watched(PyObject *self, PyObject *object)
{
    int fd = fd_argument(object);
    if (fd < 0)
        return NULL;
    struct watch *w = watch_find(AIOLOOP(self), fd);
    return PyLong_FromLong(w ? (w->sides[false].who ? 1 : 0) | (w->sides[true].who ? 2 : 0) : 0);
}
