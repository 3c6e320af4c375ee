/* wsgi_file: wsgi.file_wrapper (PEP 3333): FileWrapper(file, block_size) is an iterator over a file's blocks. Returned
 * by the application as it is, and over a real file, it is sent by the kernel from where the file stands; anything else
 * with read() is sent block by block.
 *
 * "Real" is decided by type: only a FileIO, or a buffer straight over one, is what its descriptor says. (A GzipFile has
 * a fileno() too, of the compressed bytes.) */
#include "pyglue/wsgi.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pyglue/names.h"

#define BLOCK_BYTES (64 * 1024)

struct file_wrapper {
    PyObject_HEAD
    PyObject *file, *block_size;
    bool begun; /* someone iterates over it */
};

static PyTypeObject *file_type, *file_io, *buffered_reader, *buffered_random;

/* --- the type ---------------------------------------------------------------------------------------------------- */

static PyObject *file_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = { "filelike", "blksize", NULL };
    PyObject *file;
    Py_ssize_t block_size = BLOCK_BYTES;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|n:FileWrapper", keywords, &file, &block_size))
        return NULL;
    struct file_wrapper *wrapper = (struct file_wrapper *)type->tp_alloc(type, 0);
    if (wrapper == NULL)
        return NULL;
    wrapper->file = Py_NewRef(file);
    wrapper->block_size = PyLong_FromSsize_t(block_size);
    if (wrapper->block_size == NULL)
        Py_CLEAR(wrapper);
    return (PyObject *)wrapper;
}

static int file_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(((struct file_wrapper *)self)->file);
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static int file_clear(PyObject *self)
{
    Py_CLEAR(((struct file_wrapper *)self)->file);
    return 0;
}

static void file_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    file_clear(self);
    Py_XDECREF(((struct file_wrapper *)self)->block_size);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *file_next(PyObject *self)
{
    struct file_wrapper *wrapper = (struct file_wrapper *)self;
    wrapper->begun = true;
    PyObject *block = PyObject_CallMethodOneArg(wrapper->file, names.read, wrapper->block_size);
    if (block == NULL)
        return NULL;
    int empty = PyObject_Not(block);
    if (empty != 0)
        Py_CLEAR(block);
    return block;
}

/* A file without close() has nothing to be closed. */
static PyObject *file_close(PyObject *self, PyObject *ignored)
{
    (void)ignored;
    PyObject *close = PyObject_GetAttr(((struct file_wrapper *)self)->file, names.close);
    if (close == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError))
            return NULL;
        PyErr_Clear();
        Py_RETURN_NONE;
    }
    PyObject *result = PyObject_CallNoArgs(close);
    Py_DECREF(close);
    return result;
}

static PyMethodDef file_methods[] = {
    { "close", file_close, METH_NOARGS, "Closes the file, if it can be closed." },
    { NULL, NULL, 0, NULL },
};

static PyType_Slot file_slots[] = {
    { Py_tp_doc, "FileWrapper(filelike, blksize=65536): the blocks of a file, as the body of a WSGI response." },
    { Py_tp_new, file_new },
    { Py_tp_traverse, file_traverse },
    { Py_tp_clear, file_clear },
    { Py_tp_dealloc, file_dealloc },
    { Py_tp_iter, PyObject_SelfIter },
    { Py_tp_iternext, file_next },
    { Py_tp_methods, file_methods },
    { 0, NULL },
};

static PyType_Spec file_spec = {
    .name = "licorne._core.FileWrapper",
    .basicsize = sizeof(struct file_wrapper),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = file_slots,
};

PyTypeObject *wsgi_file_type(void)
{
    return file_type;
}

/* --- sending ----------------------------------------------------------------------------------------------------- */

static bool is_real_file(PyObject *file)
{
    if (Py_TYPE(file) == file_io)
        return true;
    if (Py_TYPE(file) != buffered_reader && Py_TYPE(file) != buffered_random)
        return false;
    PyObject *raw = PyObject_GetAttr(file, names.raw);
    bool real = raw != NULL && Py_TYPE(raw) == file_io;
    Py_XDECREF(raw);
    PyErr_Clear();
    return real;
}

/* What a method without arguments returns as a number; -1 if it does not. */
static long long call_for_number(PyObject *file, PyObject *method)
{
    PyObject *result = PyObject_CallMethodNoArgs(file, method);
    long long number = result ? PyLong_AsLongLong(result) : -1;
    Py_XDECREF(result);
    PyErr_Clear();
    return number;
}

/* Only what was written through a buffer can still be in it. */
static bool flushed(PyObject *file)
{
    if (Py_TYPE(file) != buffered_random)
        return true;
    PyObject *result = PyObject_CallMethodNoArgs(file, names.flush);
    Py_XDECREF(result);
    PyErr_Clear();
    return result != NULL;
}

struct region {
    int fd;
    off_t offset;
    size_t count;
};

/* From where the file stands to its end. */
static bool find_region(PyObject *file, struct region *region)
{
    struct stat info;
    if (!is_real_file(file) || !flushed(file))
        return false;
    long long fd = call_for_number(file, names.fileno), offset = call_for_number(file, names.tell);
    if (fd < 0 || offset < 0 || fstat((int)fd, &info) < 0 || !S_ISREG(info.st_mode))
        return false;
    *region = (struct region){ (int)fd, (off_t)offset, info.st_size > offset ? (size_t)(info.st_size - offset) : 0 };
    return true;
}

static void release_fd(void *arg)
{
    close((int)(intptr_t)arg);
}

/* The core sends in its own time, the application closes its file now: so from a descriptor of our own. */
static bool send_region(struct wsgi_call *call, struct region region, enum send_result *sent)
{
    int fd = fcntl(region.fd, F_DUPFD_CLOEXEC, 3);
    if (fd < 0)
        return false;
    struct body_ref ref = { release_fd, (void *)(intptr_t)fd };
    PyThreadState *saved;
    core_enter(call->wsgi, &saved);
    enum request_result result = request_write_file(call->request, fd, region.offset, region.count, false, &ref);
    core_leave(call->wsgi, saved);
    *sent = wsgi_send_result(call, result);
    return true;
}

bool wsgi_file_send(struct wsgi_call *call, PyObject *self, enum send_result *sent)
{
    struct file_wrapper *wrapper = (struct file_wrapper *)self;
    struct region region;
    if (wrapper->begun || !find_region(wrapper->file, &region))
        return false;
    if (!wsgi_check_started(call)) {
        *sent = SEND_FAILED;
        return true;
    }
    if (call->declared_length >= 0 && (uint64_t)call->declared_length < region.count)
        region.count = (size_t)call->declared_length;
    if (region.count == 0)
        return false;
    return send_region(call, region, sent);
}

static PyTypeObject *io_type(PyObject *io, const char *name)
{
    PyObject *type = PyObject_GetAttrString(io, name);
    if (type != NULL && !PyType_Check(type)) {
        PyErr_Format(PyExc_TypeError, "io.%s is no type", name);
        Py_CLEAR(type);
    }
    return (PyTypeObject *)type;
}

int wsgi_file_add(PyObject *module)
{
    PyObject *io = PyImport_ImportModule("io");
    if (io == NULL)
        return -1;
    file_io = io_type(io, "FileIO");
    buffered_reader = io_type(io, "BufferedReader");
    buffered_random = io_type(io, "BufferedRandom");
    Py_DECREF(io);
    if (file_io == NULL || buffered_reader == NULL || buffered_random == NULL)
        return -1;
    file_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &file_spec, NULL);
    if (file_type == NULL)
        return -1;
    return PyModule_AddObjectRef(module, "FileWrapper", (PyObject *)file_type);
}
