/* config_file: see config_file.h. licorne/config_file.py runs the file and turns its values into text; what a setting
 * is and which values it takes is known here, by the table. */
#include "pyglue/config_file.h"

#include "config/cli.h"
#include "config/option.h"
#include "config/setting_row.h"
#include "config/settings.h"
#include "pyglue/load.h"
#include "pyglue/pyerr.h"
#include "server/base/mem.h"

static const char *utf8_or(PyObject *text, const char *otherwise)
{
    const char *utf8 = text != NULL && PyUnicode_Check(text) ? PyUnicode_AsUTF8(text) : NULL;
    PyErr_Clear();
    return utf8 != NULL ? utf8 : otherwise;
}

/* ---- the table, as licorne/config_file.py sees it ------------------------------------------------------------- */

static PyObject *py_settings_known(PyObject *self, PyObject *name)
{
    (void)self;
    const char *text = PyUnicode_AsUTF8(name);
    return text != NULL ? PyBool_FromLong(settings_known(text)) : NULL;
}

/* What we call the setting that a name of another server, or an option's, means; None: nobody knows it. */
static PyObject *py_settings_named(PyObject *self, PyObject *name)
{
    (void)self;
    const char *text = PyUnicode_AsUTF8(name);
    const struct setting_row *row = text != NULL ? setting_row_find(text) : NULL;
    if (text != NULL && row == NULL)
        row = setting_row_find_by_option(text);
    if (row != NULL)
        return PyUnicode_FromString(row->name);
    return text != NULL ? Py_NewRef(Py_None) : NULL;
}

static PyMethodDef named_function = { "settings_named", py_settings_named, METH_O, "The setting that is meant, or None." };

static PyMethodDef known_function = { "settings_known", py_settings_known, METH_O, "Is this the name of a setting?" };

/* ---- what the file said --------------------------------------------------------------------------------------- */

/* One setting: (name, values, place). */
static void apply_setting(struct settings *settings, PyObject *setting, struct buf *errors)
{
    PyObject *name, *values, *place; // borrowed
    if (!PyArg_ParseTuple(setting, "UO!U", &name, &PyList_Type, &values, &place)) {
        pyerr_log("The configuration file cannot be understood:");
        return;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(values); i++)
        settings_set(settings, utf8_or(name, ""), utf8_or(PyList_GET_ITEM(values, i), NULL), SOURCE_CONFIG_FILE,
                     utf8_or(place, ""), errors);
}

/* gunicorn's settings whose option has another name. */
static const char *const renamed[][2] = {
    { "raw_paste_global_conf", "--paste-global" },
    { "dirty_apps", "--dirty-app" },
};

/* What the command line says to the option of another server that this name stands for; NULL: none. */
static const char *advice_for(const char *name, enum log_level *level)
{
    struct option_list options;
    char spelling[80];
    snprintf(spelling, sizeof(spelling), "--%s", name);
    for (char *p = spelling; *p != '\0'; p++)
        *p = *p == '_' ? '-' : *p;
    for (size_t i = 0; i < sizeof(renamed) / sizeof(renamed[0]); i++)
        if (strcmp(renamed[i][0], name) == 0)
            snprintf(spelling, sizeof(spelling), "%s", renamed[i][1]);
    option_list_init(&options);
    const struct option *option = option_find(&options, str_from(spelling));
    const char *advice = option != NULL && option->role >= OPTION_IGNORED ? option->fixed : NULL;
    *level = advice != NULL && option->role == OPTION_IGNORED ? LOG_LEVEL_INFO : LOG_LEVEL_WARNING;
    option_list_done(&options);
    return advice;
}

/* Most names that are no settings are the file's own variables; but one may be another server's, or a slip: with `strict` an
 * error. */
static void mention_unknown(PyObject *entry, bool strict, struct buf *errors)
{
    PyObject *name, *place; // borrowed
    if (!PyArg_ParseTuple(entry, "UU", &name, &place)) {
        PyErr_Clear();
        return;
    }
    const char *text = utf8_or(name, ""), *where = utf8_or(place, "");
    enum log_level level;
    const char *advice = advice_for(text, &level), *near = settings_nearest(text);
    if (advice != NULL && level >= log_threshold())
        log_write(level, "%s: \"%s\" has no effect: %s", where, text, advice);
    else if (advice == NULL && near != NULL && strict)
        buf_printf(errors, "%s: \"%s\" is no setting. Did you mean \"%s\"? (strict_config)\n", where, text, near);
    else if (advice == NULL && near != NULL)
        log_warning("%s: \"%s\" is no setting: ignored. Did you mean \"%s\"?", where, text, near);
    else if (advice == NULL)
        log_debug("%s: \"%s\" is no setting: ignored", where, text);
}

static void mention_hook(PyObject *entry, bool strict, struct buf *errors)
{
    PyObject *name, *place; // borrowed
    (void)strict, (void)errors;
    if (PyArg_ParseTuple(entry, "UU", &name, &place))
        log_warning("%s: the hook \"%s\" is not called by this version of licorne", utf8_or(place, ""),
                    utf8_or(name, ""));
    PyErr_Clear();
}

/* A value that --print-config cannot show, as a comment in what it prints. */
static void print_function(PyObject *entry, bool strict, struct buf *errors)
{
    PyObject *name, *place; // borrowed
    (void)strict, (void)errors;
    if (PyArg_ParseTuple(entry, "UU", &name, &place))
        printf("# %s: a function, in %s\n", utf8_or(name, ""), utf8_or(place, ""));
    PyErr_Clear();
    fflush(stdout);
}

static void each(PyObject *file, const char *attribute, void (*visit)(PyObject *, bool, struct buf *), bool strict,
                 struct buf *errors)
{
    PyObject *list = PyObject_GetAttrString(file, attribute);
    for (Py_ssize_t i = 0; list != NULL && i < PyList_GET_SIZE(list); i++)
        visit(PyList_GET_ITEM(list, i), strict, errors);
    PyErr_Clear();
    Py_XDECREF(list);
}

/* Bad values are all told at once: each in the log, or the only one in the message. */
static bool report(struct buf *errors, const char *where, struct buf *message)
{
    char *text = mem_strndup(buf_len(errors) > 0 ? buf_str(errors).p : "", buf_len(errors)), *rest = text;
    int count = 0;
    for (const char *p = text; *p != '\0'; p++)
        count += *p == '\n';
    for (char *line; (line = strsep(&rest, "\n")) != NULL && count > 0;)
        if (line[0] != '\0' && count > 1)
            log_error("%s", line);
        else if (line[0] != '\0')
            buf_printf(message, "%s", line);
    if (count > 1)
        buf_printf(message, "%s: %d settings cannot be used: see above", where, count);
    free(text);
    return count == 0;
}

/* Whether a name is worth a line is for the file to say, unless a stronger source has said it. */
static void apply_log_level(const struct settings *settings, const struct settings *given)
{
    if (strcmp(settings_origin(given, "loglevel"), "default") == 0)
        log_set_threshold(settings->loglevel);
}

static bool apply(struct settings *settings, const struct settings *given, PyObject *file, struct buf *message)
{
    struct buf errors = { 0 };
    PyObject *list = PyObject_GetAttrString(file, "settings"), *where = PyObject_GetAttrString(file, "where");
    for (Py_ssize_t i = 0; list != NULL && i < PyList_GET_SIZE(list); i++)
        apply_setting(settings, PyList_GET_ITEM(list, i), &errors);
    apply_log_level(settings, given);
    bool strict = strcmp(settings_origin(given, "strict_config"), "default") ? given->strict_config : settings->strict_config;
    each(file, "unknown", mention_unknown, strict, &errors);
    if (strict && !given->strict_config) /* else the master has refused them */
        cli_unknown_variables(settings, environ, true, &errors);
    each(file, "hooks", mention_hook, strict, &errors);
    if (given->print_config)
        each(file, "functions", print_function, strict, &errors);
    bool ok = report(&errors, utf8_or(where, ""), message);
    PyErr_Clear();
    Py_XDECREF(where);
    Py_XDECREF(list);
    buf_done(&errors);
    return ok;
}

/* ---- running it ----------------------------------------------------------------------------------------------- */

static PyObject *run(PyObject *module, const struct settings *given)
{
    PyObject *known = PyCFunction_New(&known_function, NULL), *named = PyCFunction_New(&named_function, NULL);
    PyObject *globals = load_list(&given->raw_paste_global_conf);
    PyObject *file =
        known != NULL && named != NULL && globals != NULL ? PyObject_CallMethod(module, "read", "zzOzOO", given->config,
                                                                             given->paste, globals, given->chdir, known,
                                                                             named)
                                     : NULL;
    Py_XDECREF(globals);
    Py_XDECREF(named);
    Py_XDECREF(known);
    return file;
}

/* A file that is not there, or not Python, needs no traceback. */
static void explain(PyObject *module, const char *config, struct buf *message)
{
    PyObject *exception = pyerr_take();
    if (!PyErr_GivenExceptionMatches(exception, PyExc_OSError) && strcmp(Py_TYPE(exception)->tp_name, "Mistake") &&
        !PyErr_GivenExceptionMatches(exception, PyExc_SyntaxError))
        pyerr_log_exception(LOG_LEVEL_ERROR, exception, "The configuration file failed:");
    else
        pyerr_log_exception(LOG_LEVEL_DEBUG, exception, "The configuration file failed:");
    PyObject *line = module != NULL ? PyObject_CallMethod(module, "describe", "Oz", exception, config) : NULL;
    PyErr_Clear();
    char *plain = pyerr_line(exception);
    buf_printf(message, "%s", utf8_or(line, plain));
    free(plain);
    Py_XDECREF(line);
    Py_DECREF(exception);
}

bool config_file_environment(const char *path, struct buf *message)
{
    PyObject *module = PyImport_ImportModule("licorne.config_file");
    PyObject *done = module != NULL ? PyObject_CallMethod(module, "load_env_file", "s", path) : NULL;
    if (done == NULL) {
        PyObject *exception = pyerr_take();
        PyObject *text = exception != NULL ? PyObject_Str(exception) : NULL;
        buf_printf(message, "env_file = \"%s\" cannot be used: %s", path, utf8_or(text, "no reason was given"));
        Py_XDECREF(text);
        Py_XDECREF(exception);
    }
    bool ok = done != NULL;
    Py_XDECREF(done);
    Py_XDECREF(module);
    return ok;
}

bool config_file_read(struct settings *settings, const struct settings *given, struct buf *message)
{
    PyObject *module = PyImport_ImportModule("licorne.config_file");
    PyObject *file = module != NULL ? run(module, given) : NULL;
    bool ok = false;
    if (file == NULL)
        explain(module, given->config, message);
    else
        ok = file == Py_None || apply(settings, given, file, message);
    Py_XDECREF(file);
    Py_XDECREF(module);
    return ok;
}
