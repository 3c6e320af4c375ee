/* The command line as users of argparse and click type it, and the environment. */
#include <stdint.h>
#include <stdlib.h>

#include "check.h"
#include "config/cli.h"
#include "config/option.h"
#include "config/setting_row.h"
#include "config/words.h"

static struct settings settings;
static struct buf errors;
static char said[8192];

/* What the messages were is in `said` afterwards. */
static void keep_messages(void)
{
    size_t len = buf_len(&errors) < sizeof(said) ? buf_len(&errors) : sizeof(said) - 1;
    if (len > 0)
        memcpy(said, buf_str(&errors).p, len);
    said[len] = 0;
    buf_reset(&errors, 0);
}

/* Parses a line, split at blanks, into fresh settings; free with end(). */
static enum cli_action parse(const char *line)
{
    struct words words;
    char *argv[64] = { "licorne" };
    settings_init(&settings);
    if (!words_split(line, &words) || words.count > 62)
        return (enum cli_action) - 1;
    memcpy(argv + 1, words.items, words.count * sizeof(*argv));
    enum cli_action action = cli_parse(&settings, (int)words.count + 1, argv, &errors);
    words_done(&words);
    keep_messages();
    return action;
}

static void end(void)
{
    settings_done(&settings);
    buf_done(&errors);
}

static bool has(const char *name, const char *expected)
{
    char *value = settings_get(&settings, name);
    bool same = value && strcmp(value, expected) == 0;
    if (!same)
        fprintf(stderr, "%s is '%s', not '%s'\n", name, value, expected);
    free(value);
    return same;
}

/* The line is fine and sets `name` to `expected`. */
static bool sets(const char *line, const char *name, const char *expected)
{
    enum cli_action action = parse(line);
    bool good = action == CLI_SERVE && has(name, expected);
    if (!good)
        fprintf(stderr, "%s -> %d %s\n", line, action, said);
    end();
    return good;
}

static bool refused(const char *line, enum cli_action expected, const char *message)
{
    enum cli_action action = parse(line);
    bool good = action == expected && strstr(said, message);
    if (!good)
        fprintf(stderr, "%s -> %d %s", line, action, said);
    end();
    return good;
}

static void test_forms(void)
{
    CHECK(sets("--workers 4", "workers", "4"));
    CHECK(sets("--workers=4", "workers", "4"));
    CHECK(sets("--workers auto", "workers", "auto"));
    CHECK(sets("-w 4", "workers", "4"));
    CHECK(sets("-w4", "workers", "4"));
    CHECK(sets("-w=4", "workers", "4"));
    CHECK(sets("-w 4 -w 5", "workers", "5"));
    CHECK(sets("--backl 4", "backlog", "4"));
    CHECK(sets("--limit-request-fields 4", "limit_request_fields", "4"));
    CHECK(sets("--root-path=", "root_path", ""));
    CHECK(sets("--access-logfile -", "accesslog", "-"));
    CHECK(sets("--access-logformat '%(h)s = %(s)s'", "access_log_format", "%(h)s = %(s)s"));
}

static void test_flags(void)
{
    CHECK(sets("--preload", "preload_app", "True"));
    CHECK(sets("--no-preload", "preload_app", "False"));
    CHECK(sets("--preload --no-preload", "preload_app", "False"));
    CHECK(sets("--preload=no", "preload_app", "False"));
    CHECK(sets("--no-date-header", "date_header", "False"));
    CHECK(sets("--no-date", "date_header", "False"));
    CHECK(sets("--access-log", "accesslog", "-"));
    CHECK(sets("--access-logfile x --no-access-log", "accesslog", ""));
    CHECK(refused("--no-date-header=yes", CLI_USAGE_ERROR, "--no-date-header: takes no value"));
    CHECK(refused("--no-access-log=1", CLI_USAGE_ERROR, "takes no value"));
}

static void test_lists(void)
{
    CHECK(sets("-b :1 --bind=:2 -b:3", "bind", ":1,:2,:3"));
}

static void test_application(void)
{
    CHECK(sets("main:app -w 2", "app", "main:app"));
    CHECK(sets("-w 2 main:app", "app", "main:app"));
    CHECK(sets("-- -odd:app", "app", "-odd:app"));
    CHECK(sets("\"main:make(1, 'x')\"", "app", "main:make(1, 'x')"));
    CHECK(refused("a:b c:d", CLI_USAGE_ERROR, "c:d: unexpected: the application is already a:b"));
}

static void test_every_row_from_its_options(void)
{
    struct option_list list;
    option_list_init(&list);
    for (size_t i = 0; i < list.count; i++) {
        const struct option *option = &list.options[i];
        struct buf text = { 0 };
        char line[256];
        if (option->role != OPTION_VALUE)
            continue;
        setting_row_default(option->row, &text);
        snprintf(line, sizeof(line), "%s '%.*s'", option->name, (int)buf_len(&text),
                 buf_len(&text) ? buf_str(&text).p : "3");
        if (buf_len(&text) == 0)
            snprintf(line, sizeof(line), "%s 3", option->name);
        buf_done(&text);
        enum cli_action action = parse(line);
        const char *origin = settings_origin(&settings, option->row->name);
        bool good = action == CLI_SERVE && strcmp(origin, option->name) == 0;
        if (!good)
            fprintf(stderr, "%s -> %d (%s) %s\n", line, action, origin, said);
        end();
        CHECK(good);
    }
    option_list_done(&list);
}

static void test_usage_errors(void)
{
    CHECK(refused("--wrokers 4 a:b", CLI_USAGE_ERROR, "--wrokers: no such option; did you mean --workers?"));
    CHECK(refused("--wrokers 4 a:b -w", CLI_USAGE_ERROR, "-w: needs a value"));
    CHECK(!strstr(said, "unexpected")); /* the value went with the option that was meant */
    CHECK(refused("--zzz", CLI_USAGE_ERROR, "--zzz: no such option\n"));
    CHECK(refused("-Z", CLI_USAGE_ERROR, "-Z: no such option"));
    CHECK(refused("--limit-request 3", CLI_USAGE_ERROR,
                  "--limit-request: ambiguous: --limit-request-line or --limit-request-fields?"));
    CHECK(refused("--workers", CLI_USAGE_ERROR, "--workers: needs a value: a whole number from 1 to 1024, or auto must follow"));
    CHECK(refused("--workers --preload", CLI_USAGE_ERROR, "--workers: needs a value"));
    CHECK(refused("--n 1", CLI_USAGE_ERROR, "ambiguous"));
    CHECK(refused("'--x\n\x1b=1'", CLI_USAGE_ERROR, "--x\\x0a\\x1b: no such option"));
}

static void test_bad_values(void)
{
    CHECK(refused("-w many", CLI_VALUE_ERROR, "workers = 'many' (from -w): must be a whole number from 1 to 1024, or auto"));
    CHECK(refused("-w -1", CLI_VALUE_ERROR, "workers = '-1'"));
    CHECK(refused("-w 0 -t x --log-level loud --foo", CLI_USAGE_ERROR, "workers = '0'"));
    CHECK(strstr(said, "timeout = 'x'") && strstr(said, "loglevel = 'loud'") && strstr(said, "--foo"));
}

static void test_help_and_version_win(void)
{
    CHECK_INT(parse("--nonsense -w x --help"), CLI_HELP);
    end();
    CHECK_INT(parse("-h --version"), CLI_HELP);
    end();
    CHECK_INT(parse("-v"), CLI_VERSION);
    end();
    CHECK_INT(parse("a:b --vers"), CLI_VERSION);
    end();
}

static void test_options_of_others(void)
{
    CHECK(sets("-k uvicorn.workers.UvicornWorker a:b", "app", "a:b"));
    CHECK(sets("--workers-max-rss 512", "max_worker_memory", "536870912"));
    CHECK(sets("--workers-max-rss 1G", "max_worker_memory", "1073741824"));
    CHECK(sets("--http1-header-read-timeout=1500", "header_timeout", "1.5"));
    CHECK(sets("--blocking-threads 3", "threads", "3"));
    CHECK(sets("--interface asgi", "interface", "asgi3"));
    CHECK(sets("--no-log", "errorlog", "/dev/null"));
    CHECK(refused("--interface rsgi", CLI_VALUE_ERROR, "one of auto, asgi3, asgi2, wsgi; licorne speaks ASGI and WSGI"));
    CHECK(refused("--metrics a:b", CLI_USAGE_ERROR, "--metrics: licorne has no address for metrics"));
    CHECK(sets("--certfile c a:b", "certfile", "c") && sets("--ssl-certificate c a:b", "certfile", "c"));
    CHECK(sets("--ssl-keyfile=k a:b", "keyfile", "k") && sets("--ssl-client-verify a:b", "cert_reqs", "2"));
    CHECK(sets("--paste x.ini#shop", "paste", "x.ini#shop") && sets("--paste-global a=b", "raw_paste_global_conf", "a=b"));
    CHECK(refused("--uds-permissions 600", CLI_USAGE_ERROR, "--uds-permissions: the mask decides: see --umask"));
}

static void test_options_without_effect(void)
{
    CHECK(refused("--loop uvlop a:b", CLI_VALUE_ERROR, "--loop = 'uvlop': must be one of auto|asyncio|uvloop|none"));
    CHECK(refused("--ws=ws4 a:b", CLI_VALUE_ERROR, "--ws = 'ws4': must be one of auto|none|websockets"));
    CHECK(parse("--loop my.loops:Loop --http my:Http a:b") == CLI_SERVE);
    end();
    CHECK_INT(parse("--loop uvloop --spew --http=h11 a:b --dirty-app=x"), CLI_SERVE);
    CHECK(has("app", "a:b"));
    CHECK(str_eq(buf_str(&settings.notes),
                 STR("--loop has no effect: licorne has its own event loop\n"
                     "--spew has no effect: licorne does not trace lines: use python -m trace, or a debugger\n"
                     "--http has no effect: licorne has its own HTTP parser\n"
                     "--dirty-app has no effect: licorne has no dirty arbiters: use a task queue\n")));
    end();
}

/* --- Words */

static bool splits(const char *text, const char *expected)
{
    struct words words;
    char joined[256] = "";
    if (!words_split(text, &words))
        return strcmp(expected, "!") == 0;
    for (size_t i = 0; i < words.count; i++)
        snprintf(joined + strlen(joined), sizeof(joined) - strlen(joined), "<%s>", words.items[i]);
    words_done(&words);
    return strcmp(joined, expected) == 0;
}

static void test_words(void)
{
    CHECK(splits("", ""));
    CHECK(splits("  \t\n", ""));
    CHECK(splits("a b", "<a><b>"));
    CHECK(splits("  a\tb\n", "<a><b>"));
    CHECK(splits("'a b' \"c d\"", "<a b><c d>"));
    CHECK(splits("a'b'\"c\"d", "<abcd>"));
    CHECK(splits("'' \"\"", "<><>"));
    CHECK(splits("a\\ b \\'", "<a b><'>"));
    CHECK(splits("\"a\\\"b\\\\c\\n\"", "<a\"b\\c\\n>"));
    CHECK(splits("'a\\'", "<a\\>"));
    CHECK(splits("'a", "!"));
    CHECK(splits("a b \"c", "!"));
    CHECK(splits("a\\", "!"));
    CHECK(splits("\"a\\", "!"));
}

/* --- The environment */

static bool environment(char **variables)
{
    settings_init(&settings);
    bool good = cli_environment(&settings, variables, &errors);
    good = settings_validate(&settings, &errors) && good;
    keep_messages();
    return good;
}

#define ENVIRONMENT(...) environment((char *[]){ __VA_ARGS__, NULL })

static void test_variables(void)
{
    CHECK(ENVIRONMENT("LICORNE_WORKERS=3", "WEB_CONCURRENCY=4", "UVICORN_LOG_LEVEL=debug",
                      "LICORNE_TIMEOUT=", "OTHER=1"));
    CHECK(has("workers", "3") && has("loglevel", "debug") && has("timeout", "30"));
    CHECK(strcmp(settings_origin(&settings, "workers"), "$LICORNE_WORKERS") == 0);
    end();
    CHECK(ENVIRONMENT("LICORNE_BIND=:1,unix:/x"));
    CHECK(has("bind", ":1,unix:/x"));
    end();
    CHECK(!ENVIRONMENT("LICORNE_WORKERS=lots"));
    CHECK(strstr(said, "workers = 'lots' (from $LICORNE_WORKERS)"));
    end();
}

/* LICORNE_<NAME> for each row, with a value that is its own default. */
static void test_every_row_from_its_variable(void)
{
    for (size_t i = 0; i < setting_row_count; i++) {
        struct buf text = { 0 };
        char *name = cli_own_variable(setting_rows[i].name), line[256];
        setting_row_default(&setting_rows[i], &text);
        snprintf(line, sizeof(line), "%s=%.*s", name, buf_len(&text) ? (int)buf_len(&text) : 1,
                 buf_len(&text) ? buf_str(&text).p : "3");
        settings_init(&settings);
        bool good = cli_environment(&settings, (char *[]){ line, NULL }, &errors) && !buf_len(&settings.warnings) &&
                    strcmp(settings_origin(&settings, setting_rows[i].name) + 1, name) == 0;
        if (!good)
            fprintf(stderr, "%s\n", line);
        buf_done(&text);
        free(name);
        end();
        CHECK(good);
    }
}

static bool warns(const char *variable, const char *message)
{
    bool good = ENVIRONMENT((char *)variable);
    struct str warnings = buf_str(&settings.warnings);
    good = good && (*message ? warnings.len && memmem(warnings.p, warnings.len, message, strlen(message)) : !warnings.len);
    if (!good)
        fprintf(stderr, "%s: %.*s %s", variable, (int)warnings.len, warnings.len ? warnings.p : "", said);
    end();
    return good;
}

static bool notes(const char *variable, const char *message)
{
    bool good = ENVIRONMENT((char *)variable) && buf_len(&settings.warnings) == 0 &&
                str_eq(buf_str(&settings.notes), str_from(message));
    end();
    return good;
}

static void test_unknown_variables(void)
{
    CHECK(warns("LICORNE_WORKER=3", "$LICORNE_WORKER: no such setting; did you mean $LICORNE_WORKERS?\n"));
    CHECK(warns("UVICORN_WORKER=3", "did you mean $UVICORN_WORKERS?\n"));
    CHECK(warns("UVICORN_PRELOAD=1", "did you mean $LICORNE_PRELOAD_APP?\n"));
    CHECK(warns("GRANIAN_WORKERS_MAXRSS=3", "did you mean $GRANIAN_WORKERS_MAX_RSS?\n"));
    CHECK(warns("LICORNE_COLOUR_OF_THE_SKY=blue", "$LICORNE_COLOUR_OF_THE_SKY: no such setting\n"));
    CHECK(warns("LICORNE_WORKER=", "") && warns("COLOUR=blue", "") && warns("LICORNE=1", ""));
    CHECK(warns("LICORNE_SERVICE_PORT_HTTP=80", "") && warns("LICORNE_PORT_80_TCP_ADDR=10.0.0.1", ""));
    CHECK(warns("LICORNE_PORT=tcp://10.0.0.1:80", ""));
    CHECK(!ENVIRONMENT("LICORNE_STRICT_CONFIG=1", "LICORNE_WORKER=3"));
    CHECK(strstr(said, "$LICORNE_WORKER: no such setting; did you mean $LICORNE_WORKERS?"));
    end();
}

static void test_variables_of_others(void)
{
    CHECK(notes("UVICORN_LOOP=uvloop", "--loop (in $UVICORN_LOOP) has no effect: licorne has its own event loop\n"));
    CHECK(notes("GRANIAN_METRICS=false", ""));
    CHECK(!ENVIRONMENT("GRANIAN_METRICS=true"));
    end();
    CHECK(!ENVIRONMENT("UVICORN_LOOP=uvlop"));
    CHECK(strstr(said, "--loop = 'uvlop' in $UVICORN_LOOP: must be one of"));
    end();
    CHECK(ENVIRONMENT("UVICORN_ACCESS_LOG=true", "GRANIAN_WORKERS_MAX_RSS=2", "GRANIAN_INTERFACE=wsgi"));
    CHECK(has("accesslog", "-") && has("max_worker_memory", "2097152") && has("interface", "wsgi"));
    CHECK(strcmp(settings_origin(&settings, "accesslog"), "--access-log in $UVICORN_ACCESS_LOG") == 0);
    end();
    CHECK(ENVIRONMENT("GRANIAN_LOG_ENABLED=0", "GRANIAN_HTTP1_KEEP_ALIVE=off"));
    CHECK(has("errorlog", "/dev/null") && has("keepalive", "0"));
    end();
}

static void test_command_args(void)
{
    CHECK(ENVIRONMENT("GUNICORN_CMD_ARGS=--workers=3 --threads 2 -b 'unix:/a b'", "LICORNE_CMD_ARGS=-w 5",
                      "LICORNE_WORKERS=4"));
    CHECK(has("workers", "5") && has("threads", "2") && has("bind", "unix:/a b"));
    CHECK(strcmp(settings_origin(&settings, "workers"), "-w in $LICORNE_CMD_ARGS") == 0);
    end();
    CHECK(!ENVIRONMENT("GUNICORN_CMD_ARGS=--wrokers 3"));
    CHECK(strstr(said, "--wrokers (in $GUNICORN_CMD_ARGS): no such option"));
    end();
    CHECK(!ENVIRONMENT("GUNICORN_CMD_ARGS='a"));
    CHECK(strstr(said, "$GUNICORN_CMD_ARGS: a quotation mark is not closed"));
    end();
}

/* What a platform proposes is weaker than the config file, as in gunicorn. */
static void test_platform_variables(void)
{
    CHECK(ENVIRONMENT("PORT=5000", "WEB_CONCURRENCY=4"));
    CHECK(has("bind", "0.0.0.0:5000") && has("workers", "4"));
    CHECK(settings_set(&settings, "workers", "2", SOURCE_CONFIG_FILE, "f", &errors) && has("workers", "2"));
    CHECK(settings_set(&settings, "bind", ":1", SOURCE_CONFIG_FILE, "f", &errors) && has("bind", ":1"));
    end();
    CHECK(ENVIRONMENT("PORT=nonsense", "LICORNE_BIND=:1"));
    CHECK(has("bind", ":1"));
    end();
    CHECK(ENVIRONMENT("PORT=5000", "UVICORN_PORT=6000"));
    CHECK(has("bind", "127.0.0.1:6000"));
    end();
    CHECK(!ENVIRONMENT("PORT=nonsense"));
    CHECK(strstr(said, "'0.0.0.0:nonsense' (from $PORT)"));
    end();
}

/* --- Help */

static void test_help(void)
{
    struct buf out = { 0 };
    cli_help(&out, 80);
    buf_append(&out, "", 1);
    const char *text = buf_str(&out).p;
    for (size_t i = 0; i < setting_row_count; i++) {
        const char *spellings = setting_rows[i].spellings;
        struct str spelling;
        while (setting_row_word(&spellings, ' ', &spelling))
            CHECK(memmem(text, strlen(text), spelling.p, spelling.len));
        CHECK(strstr(text, setting_rows[i].group));
    }
    CHECK(strstr(text, "  -w, --workers N|auto        Number of worker processes. auto:"));
    for (const char *line = text; *line; line = strchr(line, '\n') + 1)
        CHECK(strchr(line, '\n') - line <= 95); /* a long choice may stand out, text may not */
    buf_done(&out);
}

/* --- Anything */

static uint64_t next_random(void)
{
    static uint64_t state = 2463534242u;
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

static void random_word(const struct option_list *list, char *word, size_t size)
{
    static const char *const odd[] = { "",    "-",          "--",    "---", "-=", "--=", "=",
                                       "-w=", "--workers=", "app:x", "-1",  "'",  "\\" };
    size_t n = (size_t)next_random();
    const char *option = list->options[n / 8 % list->count].name;
    switch (n % 6) {
    case 0:
        snprintf(word, size, "%s", odd[n / 8 % (sizeof(odd) / sizeof(odd[0]))]);
        break;
    case 1:
        snprintf(word, size, "%s", option);
        break;
    case 2:
        snprintf(word, size, "%s=%x", option, (unsigned)(n >> 32));
        break;
    case 3:
        snprintf(word, size, "%.*s", (int)(n / 64 % 12), option);
        break;
    case 4:
        snprintf(word, size, "-%c%c%c", (char)(n >> 8), (char)(n >> 16), (char)(n >> 24));
        break;
    default:
        snprintf(word, size, "%.8s%c%c", option, (char)(n >> 8), (char)(n >> 16));
    }
}

static void test_random_lines(void)
{
    struct option_list list;
    option_list_init(&list);
    for (int i = 0; i < 5000; i++) {
        char words[8][80], *argv[9] = { words[0] }, variable[200] = "GUNICORN_CMD_ARGS=";
        int argc = (int)(next_random() % 9);
        for (int w = 0; w < 8; w++) {
            random_word(&list, words[w], sizeof(words[w]));
            argv[w] = words[w];
        }
        settings_init(&settings);
        enum cli_action action = cli_parse(&settings, argc, argv, &errors);
        bool explained = (action != CLI_USAGE_ERROR && action != CLI_VALUE_ERROR) || buf_len(&errors) > 0;
        buf_reset(&errors, 0);
        strncat(variable, words[1], sizeof(variable) - strlen(variable) - 1);
        explained &= cli_environment(&settings, (char *[]){ variable, NULL }, &errors) || buf_len(&errors) > 0;
        settings_validate(&settings, &errors);
        end();
        CHECK(explained);
    }
    option_list_done(&list);
}

CHECK_MAIN(TEST(test_forms), TEST(test_flags), TEST(test_lists), TEST(test_application),
           TEST(test_every_row_from_its_options), TEST(test_usage_errors), TEST(test_bad_values),
           TEST(test_help_and_version_win), TEST(test_options_of_others),
           TEST(test_options_without_effect), TEST(test_words), TEST(test_variables),
           TEST(test_every_row_from_its_variable), TEST(test_unknown_variables), TEST(test_variables_of_others),
           TEST(test_command_args), TEST(test_platform_variables), TEST(test_help), TEST(test_random_lines))
