/* load: see load.h.
 *
 *     "shop.web:create_app('test')"
 *      module   expression:  NAME(.NAME)* [ (literal, …, key=literal, …) ]
 *
 * The expression is parsed by Python's own `ast`; arguments are literals (ast.literal_eval), as in gunicorn: a name of
 * an application is no place for code. What can go wrong here is the first thing that a newcomer sees, so every message
 * says where it looked and what comes near. */
#include "pyglue/load.h"

#include <limits.h>
#include <stdarg.h>
#include <unistd.h>

#include "config/settings.h"
#include "pyglue/module.h"
#include "pyglue/pyerr.h"
#include "server/base/mem.h"

/* One attempt to load: what its steps share. */
struct loading {
    const struct load_spec *spec;
    char *module_name;
    const char *expression; /* after the colon; NULL: none */
    PyObject *module;
    struct buf *message;
};

static const char *utf8_or(PyObject *text, const char *otherwise)
{
    const char *utf8 = text != NULL && PyUnicode_Check(text) ? PyUnicode_AsUTF8(text) : NULL;
    PyErr_Clear();
    return utf8 != NULL ? utf8 : otherwise;
}

static PyObject *call(const char *module_name, const char *function, PyObject *argument)
{
    PyObject *module = PyImport_ImportModule(module_name);
    PyObject *result = module != NULL ? PyObject_CallMethod(module, function, "O", argument) : NULL;
    Py_XDECREF(module);
    return result;
}

/* ---- the module ----------------------------------------------------------------------------------------------- */

/* What licorne/_hints.py finds: text, or NULL with nothing pending. New reference. */
static PyObject *hint(const char *function, const char *format, ...)
{
    va_list values;
    va_start(values, format);
    PyObject *arguments = Py_VaBuildValue(format, values), *found = NULL;
    va_end(values);
    PyObject *module = arguments != NULL ? PyImport_ImportModule("licorne._hints") : NULL;
    PyObject *callable = module != NULL ? PyObject_GetAttrString(module, function) : NULL;
    if (callable != NULL)
        found = PyObject_CallObject(callable, arguments);
    PyErr_Clear();
    if (found != NULL && !PyUnicode_Check(found))
        Py_CLEAR(found);
    Py_XDECREF(callable);
    Py_XDECREF(module);
    Py_XDECREF(arguments);
    return found;
}

/* Names what could have been meant: by `name` (NULL: nothing near it is known) in `holder`, which `label` names. */
static void suggest(struct loading *l, PyObject *holder, const char *label, const char *name)
{
    PyObject *sentence = hint("candidates", "(Osz)", holder, label, name);
    if (sentence != NULL)
        buf_printf(l->message, " %s", utf8_or(sentence, ""));
    Py_XDECREF(sentence);
}

/* The user's mistake is often the directory, or a file's name where the module's belongs. */
static void explain_not_found(struct loading *l, const char *missing)
{
    char cwd[PATH_MAX] = "";
    if (getcwd(cwd, sizeof(cwd)) == NULL)
        strcpy(cwd, "?");
    buf_printf(l->message, "No module named \"%s\" (looked in %s first).", missing, cwd);
    size_t len = strlen(l->module_name);
    if (len > 3 && strcmp(l->module_name + len - 3, ".py") == 0) {
        char *name = mem_strndup(l->module_name, len - 3);
        for (char *slash; (slash = strchr(name, '/')) != NULL;)
            *slash = '.';
        buf_printf(l->message, " Write the module's name, \"%s\", not the file's.", name);
        free(name);
        return;
    }
    PyObject *folder = hint("folder_of_module", "(s)", missing);
    PyObject *near = folder == NULL ? hint("near_module", "(s)", missing) : NULL;
    if (folder != NULL)
        buf_printf(l->message, " There is one in %s: add --pythonpath %s.", utf8_or(folder, "?"), utf8_or(folder, "?"));
    else if (near != NULL)
        buf_printf(l->message, " Did you mean \"%s\"?", utf8_or(near, ""));
    Py_XDECREF(near);
    Py_XDECREF(folder);
}

/* The module that the user named, or one of its parents, does not exist: not one that it imports. */
static bool names_missing(const char *module_name, const char *missing)
{
    size_t len = strlen(missing);
    return len > 0 && strncmp(module_name, missing, len) == 0 && (module_name[len] == '\0' || module_name[len] == '.');
}

static void explain_import_failure(struct loading *l)
{
    PyObject *exception = pyerr_take();
    PyObject *name = PyErr_GivenExceptionMatches(exception, PyExc_ModuleNotFoundError)
                         ? PyObject_GetAttrString(exception, "name")
                         : NULL;
    const char *missing = utf8_or(name, "");
    if (names_missing(l->module_name, missing)) {
        explain_not_found(l, missing);
    } else {
        char *line = pyerr_line(exception);
        pyerr_log_exception(LOG_LEVEL_ERROR, exception, "Importing \"%s\" failed:", l->module_name);
        buf_printf(l->message, "Importing \"%s\" failed: %s.", l->module_name, line);
        if (missing[0] != '\0')
            buf_printf(l->message, " Is it installed in %s?", utf8_or(PySys_GetObject("prefix"), "this environment"));
        free(line);
    }
    PyErr_Clear();
    Py_XDECREF(name);
    Py_DECREF(exception);
}

static bool import_module(struct loading *l)
{
    PyObject *name = PyUnicode_FromString(l->module_name);
    l->module = name != NULL ? call("importlib", "import_module", name) : NULL;
    Py_XDECREF(name);
    if (l->module == NULL)
        explain_import_failure(l);
    return l->module != NULL;
}

/* ---- the expression ------------------------------------------------------------------------------------------- */

/* `path` up to `len` names what has no such attribute. */
static void explain_attribute(struct loading *l, PyObject *holder, const char *path, const char *name, size_t len)
{
    char *label = len == 0 ? mem_strdup(l->module_name) : mem_printf("%s:%.*s", l->module_name, (int)len - 1, path);
    buf_printf(l->message, "\"%s\" has no attribute \"%s\".", label, name);
    suggest(l, holder, label, name);
    free(label);
}

/* Follows "object.attribute" from the module. New reference, or NULL with a message. */
static PyObject *look_up(struct loading *l, const char *path)
{
    PyObject *object = Py_NewRef(l->module);
    char *names = mem_strdup(path), *rest = names;
    for (char *name; object != NULL && (name = strsep(&rest, ".")) != NULL;) {
        PyObject *next = PyObject_GetAttrString(object, name);
        if (next == NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
            PyErr_Clear();
            explain_attribute(l, object, path, name, (size_t)(name - names));
        } else if (next == NULL) {
            pyerr_log("Looking up \"%s\" failed:", l->spec->app);
            buf_printf(l->message, "\"%s\" cannot be read: see the traceback.", l->spec->app);
        }
        Py_SETREF(object, next);
    }
    free(names);
    return object;
}

/* No attribute was named: the usual ones, in gunicorn's and uvicorn's order. */
static PyObject *look_up_default(struct loading *l)
{
    static const char *const usual[] = { "application", "app" }, *const factories[] = { "create_app", "make_app" };
    const char *const *names = l->spec->factory ? factories : usual;
    for (int i = 0; i < 2; i++) {
        PyObject *object = PyObject_GetAttrString(l->module, names[i]);
        if (object != NULL)
            return object;
        PyErr_Clear();
    }
    buf_printf(l->message, "\"%s\" has neither \"%s\" nor \"%s\".", l->module_name, names[0], names[1]);
    suggest(l, l->module, l->module_name, NULL);
    return NULL;
}

static PyObject *call_factory(struct loading *l, PyObject *factory, PyObject *arguments, PyObject *keywords)
{
    PyObject *none = PyTuple_New(0);
    PyObject *result = none != NULL ? PyObject_Call(factory, arguments != NULL ? arguments : none, keywords) : NULL;
    Py_XDECREF(none);
    if (result != NULL)
        return result;
    PyObject *exception = pyerr_take();
    char *line = pyerr_line(exception);
    PyObject *traceback = PyException_GetTraceback(exception);
    if (traceback != NULL) /* else the arguments do not fit: the line says it all */
        pyerr_log_exception(LOG_LEVEL_ERROR, exception, "Calling \"%s\" failed:", l->spec->app);
    Py_XDECREF(traceback);
    buf_printf(l->message, "Calling \"%s\" failed: %s", l->spec->app, line);
    free(line);
    Py_DECREF(exception);
    return NULL;
}

/* What is written in an ast node: for a dotted name, the name. */
static PyObject *unparse(PyObject *node)
{
    return call("ast", "unparse", node);
}

static bool is_node(PyObject *node, const char *type)
{
    return strcmp(Py_TYPE(node)->tp_name, type) == 0 || (strrchr(Py_TYPE(node)->tp_name, '.') != NULL &&
                                                         strcmp(strrchr(Py_TYPE(node)->tp_name, '.') + 1, type) == 0);
}

/* A dotted name: ast.Name or a chain of ast.Attribute that ends in one. */
static bool is_dotted_name(PyObject *node)
{
    PyObject *inner = Py_NewRef(node);
    while (inner != NULL && is_node(inner, "Attribute"))
        Py_SETREF(inner, PyObject_GetAttrString(inner, "value"));
    bool is_name = inner != NULL && is_node(inner, "Name");
    PyErr_Clear();
    Py_XDECREF(inner);
    return is_name;
}

/* The call's literal arguments; false with an exception. */
static bool read_arguments(PyObject *call_node, PyObject **positional, PyObject **named)
{
    PyObject *args = PyObject_GetAttrString(call_node, "args"), *list = PyList_New(0);
    PyObject *keywords = PyObject_GetAttrString(call_node, "keywords");
    *named = PyDict_New();
    bool ok = args != NULL && list != NULL && keywords != NULL && *named != NULL;
    for (Py_ssize_t i = 0; ok && i < PyList_GET_SIZE(args); i++) {
        PyObject *value = call("ast", "literal_eval", PyList_GET_ITEM(args, i));
        ok = value != NULL && PyList_Append(list, value) == 0;
        Py_XDECREF(value);
    }
    for (Py_ssize_t i = 0; ok && i < PyList_GET_SIZE(keywords); i++) {
        PyObject *key = PyObject_GetAttrString(PyList_GET_ITEM(keywords, i), "arg");
        PyObject *node = PyObject_GetAttrString(PyList_GET_ITEM(keywords, i), "value");
        PyObject *value = node != NULL ? call("ast", "literal_eval", node) : NULL;
        ok = key != NULL && key != Py_None && value != NULL && PyDict_SetItem(*named, key, value) == 0;
        Py_XDECREF(value);
        Py_XDECREF(node);
        Py_XDECREF(key);
    }
    *positional = ok ? PyList_AsTuple(list) : NULL;
    Py_XDECREF(list);
    Py_XDECREF(args);
    Py_XDECREF(keywords);
    return *positional != NULL;
}

static PyObject *refuse_expression(struct loading *l)
{
    PyErr_Clear();
    buf_printf(l->message,
               "\"%s\" is no name of an application. Write MODULE, MODULE:NAME, MODULE:OBJECT.NAME or "
               "MODULE:FACTORY(literal arguments).",
               l->spec->app);
    return NULL;
}

/* NAME(.NAME)*(arguments): looks the factory up and calls it. */
static PyObject *evaluate_call(struct loading *l, PyObject *call_node)
{
    PyObject *function = PyObject_GetAttrString(call_node, "func"), *path = NULL, *result = NULL;
    PyObject *positional = NULL, *named = NULL, *factory = NULL;
    if (function == NULL || !is_dotted_name(function) || (path = unparse(function)) == NULL ||
        !read_arguments(call_node, &positional, &named))
        refuse_expression(l);
    else if ((factory = look_up(l, utf8_or(path, ""))) != NULL)
        result = call_factory(l, factory, positional, named);
    Py_XDECREF(factory);
    Py_XDECREF(positional);
    Py_XDECREF(named);
    Py_XDECREF(path);
    Py_XDECREF(function);
    return result;
}

static PyObject *parse(const char *expression)
{
    PyObject *ast = PyImport_ImportModule("ast"), *tree = NULL, *body = NULL;
    if (ast != NULL)
        tree = PyObject_CallMethod(ast, "parse", "sss", expression, "<app>", "eval");
    if (tree != NULL)
        body = PyObject_GetAttrString(tree, "body");
    Py_XDECREF(tree);
    Py_XDECREF(ast);
    return body;
}

/* New reference, or NULL with a message. */
static PyObject *evaluate(struct loading *l, bool *called)
{
    if (l->expression == NULL)
        return look_up_default(l);
    PyObject *node = parse(l->expression), *path = NULL, *result = NULL;
    *called = node != NULL && is_node(node, "Call");
    if (*called)
        result = evaluate_call(l, node);
    else if (node != NULL && is_dotted_name(node) && (path = unparse(node)) != NULL)
        result = look_up(l, utf8_or(path, ""));
    else
        refuse_expression(l);
    Py_XDECREF(path);
    Py_XDECREF(node);
    return result;
}

/* ---- all of it ------------------------------------------------------------------------------------------------ */

static enum application_kind kind_of(PyObject *callable, int interface)
{
    switch (interface) {
    case INTERFACE_ASGI3:
        return APPLICATION_ASGI3;
    case INTERFACE_ASGI2:
        return APPLICATION_ASGI2;
    case INTERFACE_WSGI:
        return APPLICATION_WSGI;
    default:
        return application_kind(callable);
    }
}

/* "None", "an int", "a Config". Valid until the next call. */
static const char *describe(PyObject *object)
{
    static char text[128];
    const char *type = Py_TYPE(object)->tp_name;
    if (object == Py_None)
        return "None";
    snprintf(text, sizeof(text), "%s %s", strchr("aeiouAEIOU", type[0]) != NULL ? "an" : "a", type);
    return text;
}

static bool check_callable(struct loading *l, PyObject *object, bool made)
{
    if (PyCallable_Check(object))
        return true;
    buf_printf(l->message, "\"%s\" %s %s, not an application: it cannot be called.", l->spec->app,
               made ? "returned" : "is", describe(object));
    if (!made)
        suggest(l, l->module, l->module_name, NULL);
    return false;
}

static PyObject *load_object(struct loading *l)
{
    bool called = false;
    if (!import_module(l))
        return NULL;
    PyObject *object = evaluate(l, &called);
    if (object != NULL && !check_callable(l, object, called))
        Py_CLEAR(object);
    if (object != NULL && l->spec->factory && !called) {
        Py_SETREF(object, call_factory(l, object, NULL, NULL));
        if (object != NULL && !check_callable(l, object, true))
            Py_CLEAR(object);
    }
    return object;
}

/* ---- PasteDeploy ---------------------------------------------------------------------------------------------- */

PyObject *load_list(const struct str_list *items)
{
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list != NULL && i < items->count; i++) {
        PyObject *item = PyUnicode_DecodeFSDefault(items->items[i]);
        if (item == NULL || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

static void explain_paste(const struct load_spec *spec, struct buf *message)
{
    PyObject *exception = pyerr_take();
    char *line = pyerr_line(exception);
    if (!PyErr_GivenExceptionMatches(exception, PyExc_ImportError) || strstr(line, "PasteDeploy") == NULL)
        pyerr_log_exception(LOG_LEVEL_ERROR, exception, "Loading \"%s\" failed:", spec->paste);
    buf_printf(message, "paste = \"%s\" cannot be loaded: %s", spec->paste, line);
    free(line);
    Py_DECREF(exception);
}

static bool load_paste(struct application *application, const struct load_spec *spec, struct buf *message)
{
    PyObject *module = PyImport_ImportModule("licorne._paste"), *globals = load_list(spec->paste_globals);
    if (module != NULL && globals != NULL)
        application->callable = PyObject_CallMethod(module, "load", "sO", spec->paste, globals);
    if (application->callable == NULL)
        explain_paste(spec, message);
    else
        application->kind = kind_of(application->callable, spec->interface);
    Py_XDECREF(globals);
    Py_XDECREF(module);
    return application->callable != NULL;
}

/* --------------------------------------------------------------------------------------------------------------- */

bool application_load(struct application *application, const struct load_spec *spec, struct buf *message)
{
    if (spec->paste != NULL && spec->paste[0] != '\0')
        return load_paste(application, spec, message);
    if (spec->app == NULL || spec->app[0] == '\0') {
        buf_printf(message, "No application was named. Say which: licorne MODULE:NAME");
        return false;
    }
    const char *colon = strchr(spec->app, ':');
    struct loading l = {
        .spec = spec,
        .module_name = mem_strndup(spec->app, colon != NULL ? (size_t)(colon - spec->app) : strlen(spec->app)),
        .expression = colon != NULL && colon[1] != '\0' ? colon + 1 : NULL,
        .message = message,
    };
    if (l.module_name[0] == '\0')
        refuse_expression(&l);
    else
        application->callable = load_object(&l);
    if (application->callable != NULL)
        application->kind = kind_of(application->callable, spec->interface);
    Py_XDECREF(l.module);
    free(l.module_name);
    return application->callable != NULL;
}

void application_done(struct application *application)
{
    Py_CLEAR(application->callable);
}
