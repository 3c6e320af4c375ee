/* names: what every request would otherwise make again. Well-known header names are found through a small hash table
 * over length, first, middle and last byte; a row that is not found there costs one new object, nothing else. */
#include "pyglue/names.h"

#include <stdbool.h>

#include "pyglue/module.h"

struct names names;

struct known_header {
    struct str name;
    PyObject *bytes, *environ;
};

static struct known_header headers[] = {
#define HEADER(text) { STR(text), NULL, NULL },
#include "pyglue/names.def"
};

static struct {
    struct str name;
    PyObject *text;
} methods[] = {
#define METHOD(text) { STR(text), NULL },
#include "pyglue/names.def"
};

enum { HEADER_COUNT = sizeof(headers) / sizeof(headers[0]), METHOD_COUNT = sizeof(methods) / sizeof(methods[0]) };

/* Open addressing; at most a quarter is used, so that a name that is not there is usually refuted by one look. */
#define HEADER_SLOTS 512
static struct known_header *header_slots[HEADER_SLOTS];

_Static_assert(HEADER_COUNT * 4 <= HEADER_SLOTS, "the table of header names is too full");

static unsigned header_hash(struct str name)
{
    const unsigned char *p = (const unsigned char *)name.p;
    unsigned mix = (unsigned)name.len * 131 + p[0] * 7 + p[name.len / 2] * 31 + p[name.len - 1] * 61;
    return (mix ^ (mix >> 7)) % HEADER_SLOTS;
}

/* Its row, or the empty slot's NULL where it would be. */
static struct known_header **header_slot(struct str name)
{
    unsigned i = header_hash(name);
    while (header_slots[i] != NULL && !str_eq(header_slots[i]->name, name))
        i = (i + 1) % HEADER_SLOTS;
    return &header_slots[i];
}

static struct known_header *header_find(struct str name)
{
    return name.len == 0 ? NULL : *header_slot(name);
}

static char environ_char(char c)
{
    if (c >= 'a' && c <= 'z')
        return (char)(c - 'a' + 'A');
    return c == '-' ? '_' : c;
}

/* PEP 3333: HTTP_ in front, but for the two that CGI names otherwise. */
static PyObject *environ_new(struct str name)
{
    bool bare = str_eq(name, STR("content-type")) || str_eq(name, STR("content-length"));
    size_t prefix = bare ? 0 : 5;
    /* Header names are tokens, so ASCII; the mask only keeps a broken promise from making a broken str. */
    PyObject *text = PyUnicode_New((Py_ssize_t)(prefix + name.len), 127);
    if (text == NULL)
        return NULL;
    Py_UCS1 *to = PyUnicode_1BYTE_DATA(text);
    memcpy(to, "HTTP_", prefix);
    for (size_t i = 0; i < name.len; i++)
        to[prefix + i] = (Py_UCS1)environ_char(name.p[i]) & 127;
    return text;
}

PyObject *names_header(struct str name)
{
    struct known_header *known = header_find(name);
    if (known != NULL)
        return Py_NewRef(known->bytes);
    return PyBytes_FromStringAndSize(name.p, (Py_ssize_t)name.len);
}

PyObject *names_environ(struct str name)
{
    struct known_header *known = header_find(name);
    if (known != NULL)
        return Py_NewRef(known->environ);
    return environ_new(name);
}

PyObject *names_method(struct str method)
{
    for (size_t i = 0; i < METHOD_COUNT; i++)
        if (str_eq(methods[i].name, method))
            return Py_NewRef(methods[i].text);
    return PyUnicode_DecodeLatin1(method.p, (Py_ssize_t)method.len, NULL);
}

static int names_make(void)
{
#define NAME(id, text)                                                                                                 \
    if (names.id == NULL && (names.id = PyUnicode_InternFromString(text)) == NULL)                                     \
        return -1;
#include "pyglue/names.def"
    return 0;
}

static int headers_make(void)
{
    for (size_t i = 0; i < HEADER_COUNT; i++) {
        struct known_header *known = &headers[i];
        if (known->bytes == NULL && (known->bytes = PyBytes_FromStringAndSize(known->name.p, known->name.len)) == NULL)
            return -1;
        if (known->environ == NULL) {
            if ((known->environ = environ_new(known->name)) == NULL)
                return -1;
            PyUnicode_InternInPlace(&known->environ);
        }
        *header_slot(known->name) = known;
    }
    return 0;
}

static int methods_make(void)
{
    for (size_t i = 0; i < METHOD_COUNT; i++)
        if (methods[i].text == NULL && (methods[i].text = PyUnicode_InternFromString(methods[i].name.p)) == NULL)
            return -1;
    return 0;
}

int names_add(PyObject *module)
{
    (void)module;
    return names_make() < 0 || headers_make() < 0 || methods_make() < 0 ? -1 : 0;
}
