/* main: the executable `licorne`: reads the command line and the environment, then is the master. The composition root:
 * the only file that may know every other. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "config/cli.h"
#include "config/completion.h"
#include "config/schema.h"
#include "config/settings.h"
#include "config/version.h"
#include "server/base/log.h"
#include "server/base/mem.h"
#include "server/process/control.h"
#include "server/process/interpreter.h"
#include "server/process/master.h"
#include "server/process/signals.h"
#include "server/process/source_watch.h"
#include "server/process/title.h"
#include "server/process/upgrade.h"

#define NARROW_COLUMNS 60
#define WIDE_COLUMNS 120

static int terminal_columns(void)
{
    struct winsize size;
    const char *columns = getenv("COLUMNS");
    int width = columns ? atoi(columns) : 0;
    if (width <= 0 && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0)
        width = size.ws_col;
    if (width <= 0)
        width = 100;
    return width < NARROW_COLUMNS ? NARROW_COLUMNS : width > WIDE_COLUMNS ? WIDE_COLUMNS : width;
}

static void append_help(struct buf *text)
{
    cli_help(text, terminal_columns());
}

static void append_version(struct buf *text)
{
    buf_printf(text, "licorne %s\n", LICORNE_VERSION);
}

/* What is printed instead of serving. */
static void (*const orders[])(struct buf *text) = {
    [CLI_HELP] = append_help,
    [CLI_VERSION] = append_version,
    [CLI_SCHEMA] = schema_print,
    [CLI_COMPLETE_BASH] = completion_bash,
    [CLI_COMPLETE_ZSH] = completion_zsh,
    [CLI_COMPLETE_FISH] = completion_fish,
    [CLI_VALUE_ERROR] = NULL,
};

static int print(void (*append)(struct buf *text))
{
    struct buf text = { 0 };
    append(&text);
    fwrite(buf_str(&text).p, 1, buf_len(&text), stdout);
    buf_done(&text);
    return EXIT_OK;
}

static int refuse(const struct buf *errors, int exit_code)
{
    struct str rest = buf_str(errors);
    while (rest.len > 0) {
        const char *end = memchr(rest.p, '\n', rest.len);
        size_t len = end ? (size_t)(end - rest.p) : rest.len;
        fprintf(stderr, "licorne: %.*s\n", (int)len, rest.p);
        rest.p += len + (end != NULL);
        rest.len -= len + (end != NULL);
    }
    if (exit_code == EXIT_USAGE)
        fputs("Try: licorne --help\n", stderr);
    return exit_code;
}

/* Most projects have a pyproject.toml: what counts is whether it speaks of us. */
static bool project_names_us(void)
{
    FILE *file = fopen("pyproject.toml", "r");
    char line[256];
    bool found = false;
    while (file && !found && fgets(line, sizeof(line), file))
        found = strncmp(line, "[tool.licorne", 13) == 0;
    if (file)
        fclose(file);
    return found;
}

/* A configuration file may name the application: where there is one, the mold will tell. */
static bool may_name_an_app(const struct settings *settings)
{
    return settings->config || settings->paste || access("licorne.conf.py", F_OK) == 0 || access("gunicorn.conf.py", F_OK) == 0 ||
           project_names_us();
}

static void log_lines(enum log_level level, const struct buf *lines)
{
    struct str rest = buf_str(lines), line;
    for (; rest.len > 0; rest.p += line.len + 1, rest.len -= line.len + 1) {
        line = (struct str){ rest.p, (size_t)((const char *)memchr(rest.p, '\n', rest.len) - rest.p) };
        log_at(level, "%.*s", (int)line.len, line.p);
    }
}

static int refuse_because(struct buf *errors, const char *what, int exit_code)
{
    buf_printf(errors, "%s: %s\n", what, strerror(errno));
    return refuse(errors, exit_code);
}

static int to_null(int fd, bool stays)
{
    if (stays && !isatty(fd))
        return 0;
    int null = open("/dev/null", O_RDWR);
    int outcome = null < 0 ? -1 : dup2(null, fd);
    if (null > STDERR_FILENO)
        close(null);
    return outcome < 0 ? -1 : 0;
}

/* In the background, away from the terminal: what the error log says goes to a file, or nowhere. `stays`: standard output and
 * standard error may lead elsewhere (-R). */
static int daemonize(bool stays)
{
    pid_t pid = fork();
    if (pid == 0) {
        setsid();
        pid = fork();
    }
    if (pid > 0)
        _exit(EXIT_OK);
    return pid < 0 ? -1 : to_null(STDIN_FILENO, false) || to_null(STDOUT_FILENO, stays) ||
                             to_null(STDERR_FILENO, stays);
}

/* False: nobody can tell. */
static bool await_change(const struct settings *settings)
{
    const char *changed;
    struct source_watch *watch = NULL;
    signals_reset(); /* ^C ends it */
    if (!settings->chdir || chdir(settings->chdir) == 0)
        watch = source_watch_new(settings);
    if (!watch)
        return false;
    log_info("Waiting for a change");
    source_watch_wait(watch, &changed);
    log_info("%s has changed", changed);
    source_watch_free(watch);
    return true;
}

/* The next run is in the background. False: it cannot be. */
static bool move_to_background(struct settings *settings, const struct settings *told, struct buf *errors)
{
    if (daemonize(told->enable_stdio_inheritance) == 0)
        return settings_set(settings, "daemon", "true", SOURCE_CONFIG_FILE, settings_origin(told, "daemon"), errors);
    log_error("daemon = True (from %s): %s", settings_origin(told, "daemon"), strerror(errno));
    return false;
}

/* Whether there is a reason to begin anew: the configuration file wants the background, or, with --reload, what could not be
 * started has changed. */
static bool run_again(int exit_code, struct settings *settings, const struct settings *told, struct buf *errors)
{
    if (exit_code == EXIT_TO_BACKGROUND)
        return move_to_background(settings, told, errors);
    return (settings->reload || told->reload) && await_change(told->reload ? told : settings);
}

static int run_master(struct settings *settings, struct buf *errors)
{
    int home = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), exit_code;
    bool again;
    do {
        struct settings told;
        settings_init(&told);
        exit_code = master_run(settings, &told);
        again = exit_code != EXIT_OK && fchdir(home) == 0 && run_again(exit_code, settings, &told, errors) &&
                fchdir(home) == 0;
        settings_done(&told);
    } while (again);
    if (home >= 0)
        close(home);
    return exit_code < 0 ? EXIT_CONFIG : exit_code;
}

static int serve(struct settings *settings, struct buf *errors)
{
    if (!may_name_an_app(settings) && !settings_has_app(settings, errors))
        return refuse(errors, EXIT_USAGE);
    bool serves = !settings->check_config && !settings->print_config;
    if (settings->daemon && serves && !upgrade_is_successor() && daemonize(settings->enable_stdio_inheritance) != 0)
        return refuse_because(errors, "--daemon", EXIT_CONFIG);
    log_set_colours((enum log_colours)settings->use_colors);
    log_open(NULL, settings->loglevel);
    log_lines(LOG_LEVEL_INFO, &settings->notes);
    log_lines(LOG_LEVEL_WARNING, &settings->warnings);
    return run_master(settings, errors);
}

/* What the configuration file would be refused for is told too; nothing is served. */
static int refuse_all(const struct settings *settings, struct buf *errors)
{
    refuse(errors, EXIT_CONFIG);
    if (may_name_an_app(settings)) {
        log_open(NULL, settings->loglevel > LOG_LEVEL_WARNING ? settings->loglevel : LOG_LEVEL_WARNING);
        master_check(settings);
    }
    return EXIT_CONFIG;
}

static int run(struct settings *settings, int argc, char **argv, struct buf *errors)
{
    enum cli_action action = cli_parse(settings, argc, argv, errors);
    if (orders[action])
        return print(orders[action]);
    bool good = cli_environment(settings, environ, errors);
    if (action == CLI_USAGE_ERROR)
        return refuse(errors, EXIT_USAGE);
    if (!good || action == CLI_VALUE_ERROR)
        return refuse_all(settings, errors);
    return serve(settings, errors);
}

/* `licorne convert` is Python: pyglue/licorne/convert.py. */
static int convert(int argc, char **argv)
{
    struct buf errors = { 0 };
    char *python = interpreter_find(NULL, &errors);
    if (!python)
        return refuse(&errors, EXIT_CONFIG);
    char **command = mem_zalloc(((size_t)argc + 3) * sizeof(*command)); /* argv[0] is "convert" */
    memcpy(command, (char *[]){ python, "-m", "licorne.convert" }, 3 * sizeof(*command));
    memcpy(command + 3, argv + 1, (size_t)(argc - 1) * sizeof(*command));
    setenv("PYTHONSAFEPATH", "1", 1);
    execv(python, command);
    return refuse_because(&errors, python, EXIT_CONFIG);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "convert") == 0)
        return convert(argc - 1, argv + 1);
    if (argc > 1 && strcmp(argv[1], "ctl") == 0)
        return control_client(argc - 1, argv + 1);
    upgrade_remember(argv);
    title_init();
    struct settings settings;
    struct buf errors = { 0 };
    settings_init(&settings);
    int exit_code = run(&settings, argc, argv, &errors);
    settings_done(&settings);
    buf_done(&errors);
    return exit_code;
}
