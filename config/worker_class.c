/* worker_class: see worker_class.h. */
#include "config/worker_class.h"

#include <string.h>

#include "config/settings.h"

/* By any part of the name: a class is often named by its full path. The first that fits. */
static const struct {
    const char *part;
    const char *advice; /* NULL: what licorne does anyway */
} classes[] = {
    { "uvicorn", NULL },
    { "asgi", NULL },
    { "gthread", NULL },
    { "sync", NULL },
    { "gevent", "licorne runs no greenlets: leave it out, and see --threads" },
    { "eventlet", "licorne runs no greenlets: leave it out, and see --threads" },
    { "tornado", "licorne does not run tornado's loop: serve the application by tornado itself, or as WSGI" },
};

static bool name_has(const char *name, const char *part)
{
    return strcasestr(name, part) != NULL;
}

static bool refuse(const struct settings *settings, const char *advice, struct buf *errors)
{
    buf_printf(errors, "worker_class = '%.200s' (from %s): %s\n", settings->worker_class,
               settings_origin(settings, "worker_class"), advice);
    return false;
}

bool worker_class_check(const struct settings *settings, struct buf *errors)
{
    const char *name = settings->worker_class;
    if (name == NULL || name[0] == '\0')
        return true;
    for (size_t i = 0; i < sizeof(classes) / sizeof(classes[0]); i++)
        if (name_has(name, classes[i].part))
            return classes[i].advice == NULL || refuse(settings, classes[i].advice, errors);
    return refuse(settings, "licorne has one kind of worker, for ASGI and WSGI: leave it out", errors);
}
