/* aioloop_watch: add_reader() and add_writer(): one libev watcher per descriptor, a table by descriptor.
 *
 * Applications close descriptors whenever they like, and the kernel gives the number away again at once. So nothing
 * is assumed about what is behind a number: a change of interest always stops, sets and starts the watcher, which
 * makes libev ask the kernel anew, and an error that it reports about a descriptor is not passed on: as with the
 * standard loop, a closed descriptor is simply never ready. */
#include "pyglue/aioloop_impl.h"

#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

struct watch {
    struct ev_io io;
    struct aioloop *loop;
    PyObject *reader, *writer; /* handles, streams, datagrams; NULL: none */
    size_t queued[2];          /* the ready queue's head once what was last queued for them has been taken out */
};

/* --- events ----------------------------------------------------------------------------------------------------------- */

static bool is_native(struct aioloop *self, PyObject *who)
{
    return Py_TYPE(who) == self->state->stream_type || Py_TYPE(who) == self->state->datagram_type;
}

static void call_native(struct aioloop *self, PyObject *who, bool writer)
{
    Py_INCREF(who); /* it may be removed by what it calls */
    if (Py_TYPE(who) == self->state->stream_type)
        stream_on_event(who, writer);
    else
        datagram_on_event(who);
    Py_DECREF(who);
}

/* From the ready queue: unless it was removed, or replaced, by what ran before. */
static void run_reader(void *watch)
{
    struct watch *w = watch;
    if (w->reader != NULL && is_native(w->loop, w->reader))
        call_native(w->loop, w->reader, false);
}

static void run_writer(void *watch)
{
    struct watch *w = watch;
    if (w->writer != NULL && is_native(w->loop, w->writer))
        call_native(w->loop, w->writer, true);
}

/* What was ready before the poll runs before what the poll found, as with the standard loop. */
static void notify(struct watch *w, PyObject *who, bool writer)
{
    if (who == NULL)
        return;
    struct aioloop *self = w->loop;
    bool native = is_native(self, who);
    if (native && !self->queue_events) {
        call_native(self, who, writer);
        return;
    }
    if (w->queued[writer] > self->ready.head) /* of an earlier poll: still waiting, in a long queue */
        return;
    w->queued[writer] = self->ready.head + self->ready.count + 1;
    struct ready entry = { native ? writer ? run_writer : run_reader : NULL, native ? (void *)w : Py_NewRef(who) };
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
        notify(w, w->reader, false);
    if (events & EV_WRITE)
        notify(w, w->writer, true);
}

static void watch_apply(struct watch *w, int fd)
{
    struct ev_loop *ev = loop_ev(w->loop->loop);
    int events = (w->reader ? EV_READ : 0) | (w->writer ? EV_WRITE : 0);
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
            Py_VISIT(self->watches[fd]->reader);
            Py_VISIT(self->watches[fd]->writer);
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
            Py_XDECREF(watches[fd]->reader);
            Py_XDECREF(watches[fd]->writer);
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

int watch_set(struct aioloop *self, int fd, bool writer, PyObject *who)
{
    struct watch *w = watch_get(self, fd);
    if (w == NULL)
        return -1;
    PyObject **place = writer ? &w->writer : &w->reader, *old = *place;
    *place = Py_NewRef(who);
    watch_apply(w, fd);
    cancel_and_drop(self, old);
    return 0;
}

bool watch_unset(struct aioloop *self, int fd, bool writer)
{
    struct watch *w = watch_find(self, fd);
    PyObject **place = w == NULL ? NULL : writer ? &w->writer : &w->reader;
    if (place == NULL || *place == NULL)
        return false;
    PyObject *old = *place;
    *place = NULL;
    watch_apply(w, fd);
    cancel_and_drop(self, old);
    return true;
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
    if (handle != NULL && watch_set(self, fd, writer, handle) < 0)
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
    return PyLong_FromLong(w ? (w->reader ? 1 : 0) | (w->writer ? 2 : 0) : 0);
}
