/* The table of settings is complete and consistent; values are read, refused with a full message, and survive the way
 * through text. */
#include <ctype.h>
#include <stddef.h>
#include <stdlib.h>

#include "check.h"
#include "config/nearest.h"
#include "config/setting_row.h"
#include "config/settings.h"

static struct settings settings;
static struct buf errors;

static void begin(void)
{
    settings_init(&settings);
}

static void end(void)
{
    settings_done(&settings);
    buf_done(&errors);
}

static bool set_from(const char *name, const char *value, enum settings_source source)
{
    return settings_set(&settings, name, value, source, "here", &errors);
}

static bool set(const char *name, const char *value)
{
    return set_from(name, value, SOURCE_COMMAND_LINE);
}

/* What is in `errors`, as C text; empties it. */
static const char *messages(void)
{
    static char text[4096];
    size_t len = buf_len(&errors) < sizeof(text) ? buf_len(&errors) : sizeof(text) - 1;
    if (len > 0)
        memcpy(text, buf_str(&errors).p, len);
    text[len] = 0;
    buf_reset(&errors, 0);
    return text;
}

static bool says(const char *part)
{
    const char *text = messages();
    if (strstr(text, part))
        return true;
    fprintf(stderr, "not in the messages: %s\nbut: %s\n", part, text);
    return false;
}

/* --- The table */

static bool is_name(const char *name)
{
    for (; *name; name++)
        if (!islower((unsigned char)*name) && *name != '_' && !isdigit((unsigned char)*name))
            return false;
    return true;
}

/* Those that a command line cannot say well: a dictionary, and the application, which is no option. */
static bool has_spelling(const struct setting_row *row)
{
    static const char *const without[] = { "app", "secure_scheme_headers", "logconfig_dict" };
    for (size_t i = 0; i < sizeof(without) / sizeof(without[0]); i++)
        if (strcmp(without[i], row->name) == 0)
            return !row->spellings[0];
    return row->spellings[0] == '-';
}

static bool has_limits(const struct setting_row *row)
{
    switch (row->kind) {
    case SETTING_STRING:
    case SETTING_LIST:
        return row->unit[0] == 0;
    case SETTING_CHOICE:
        return strchr(row->choices, '|') && row->unit[0] == 0;
    case SETTING_BOOL:
        return row->min == 0 && row->max == 1;
    default:
        return row->min < row->max && row->fallback <= row->max && row->unit[0];
    }
}

static bool is_version(const char *since)
{
    return isdigit((unsigned char)since[0]) && since[1] == '.' && isdigit((unsigned char)since[2]);
}

static void test_rows_are_complete(void)
{
    for (size_t i = 0; i < setting_row_count; i++) {
        const struct setting_row *row = &setting_rows[i];
        bool complete = is_name(row->name) && row->text[0] && row->text[strlen(row->text) - 1] == '.' &&
                        row->group[0] && is_version(row->since) && has_spelling(row) && has_limits(row) &&
                        row->variables;
        if (!complete)
            fprintf(stderr, "row %s\n", row->name);
        CHECK(complete);
    }
}

static void test_defaults_are_allowed(void)
{
    for (size_t i = 0; i < setting_row_count; i++) {
        const struct setting_row *row = &setting_rows[i];
        struct buf text = { 0 };
        int64_t number = -1;
        if (row->kind == SETTING_STRING || row->kind == SETTING_LIST || row->fallback < row->min)
            continue;
        setting_row_default(row, &text);
        buf_append(&text, "", 1);
        bool allowed = setting_row_parse(row, buf_str(&text).p, &number);
        buf_done(&text);
        if (!allowed)
            fprintf(stderr, "row %s\n", row->name);
        CHECK(allowed);
        CHECK_INT(number, row->fallback);
    }
}

static int uses(const char *word, size_t column)
{
    int count = 0;
    for (size_t i = 0; i < setting_row_count; i++) {
        const char *list = *(const char *const *)((const char *)&setting_rows[i] + column);
        struct str other;
        while (setting_row_word(&list, ' ', &other))
            count += str_eq(other, str_from(word));
    }
    return count;
}

static void check_unique(size_t column)
{
    for (size_t i = 0; i < setting_row_count; i++) {
        const char *list = *(const char *const *)((const char *)&setting_rows[i] + column);
        struct str word;
        while (setting_row_word(&list, ' ', &word)) {
            char text[64] = { 0 };
            CHECK(word.len < sizeof(text));
            memcpy(text, word.p, word.len);
            if (uses(text, column) != 1)
                fprintf(stderr, "%s\n", text);
            CHECK_INT(uses(text, column), 1);
        }
    }
}

static void test_no_spelling_twice(void)
{
    check_unique(offsetof(struct setting_row, spellings));
    CHECK_INT(uses("-h", offsetof(struct setting_row, spellings)), 0);
    CHECK_INT(uses("--help", offsetof(struct setting_row, spellings)), 0);
    CHECK_INT(uses("-v", offsetof(struct setting_row, spellings)), 0);
    CHECK_INT(uses("--version", offsetof(struct setting_row, spellings)), 0);
}

static void test_no_variable_twice(void)
{
    check_unique(offsetof(struct setting_row, variables));
}

static void test_names_are_unique(void)
{
    for (size_t i = 0; i < setting_row_count; i++)
        CHECK(setting_row_find(setting_rows[i].name) == &setting_rows[i]);
}

static void test_groups_stand_together(void)
{
    for (size_t i = 1; i < setting_row_count; i++)
        for (size_t j = 0; j + 1 < i; j++)
            if (strcmp(setting_rows[i].group, setting_rows[j].group) == 0)
                CHECK(strcmp(setting_rows[i - 1].group, setting_rows[i].group) == 0);
}

static int choices_of(const char *name)
{
    const char *choices = setting_row_find(name)->choices;
    struct str choice;
    int count = 0;
    while (setting_row_word(&choices, '|', &choice))
        count++;
    return count;
}

static void test_choices_fit_their_enums(void)
{
    CHECK_INT(choices_of("interface"), INTERFACE_WSGI + 1);
    CHECK_INT(choices_of("lifespan"), LIFESPAN_OFF + 1);
    CHECK_INT(choices_of("malloc"), MALLOC_SYSTEM + 1);
    CHECK_INT(choices_of("header_map"), HEADER_MAP_DANGEROUS + 1);
    CHECK_INT(choices_of("loglevel"), LOG_LEVEL_CRITICAL + 1);
}

/* --- Values */

static void test_defaults(void)
{
    begin();
    CHECK_INT(settings.workers, 1);
    CHECK_INT(settings.keepalive_ms, 75000);
    CHECK_INT(settings.bind.count, 1);
    CHECK(strcmp(settings.bind.items[0], "127.0.0.1:8000") == 0);
    CHECK(settings.accesslog == NULL);
    CHECK(strcmp(settings.errorlog, "-") == 0);
    CHECK_INT(settings.loglevel, LOG_LEVEL_INFO);
    CHECK(settings.date_header);
    end();
}

static void check_number(const char *name, const char *text, int64_t expected)
{
    int64_t number = -2;
    bool good = setting_row_parse(setting_row_find(name), text, &number);
    if (!good || number != expected)
        fprintf(stderr, "%s = '%s'\n", name, text);
    CHECK(good);
    CHECK_INT(number, expected);
}

static void test_numbers_are_read(void)
{
    check_number("workers", "4", 4);
    check_number("workers", " 4\n", 4);
    check_number("workers", "+4", 4);
    check_number("workers", "0x10", 16);
    check_number("workers", "0o17", 15);
    check_number("workers", "0b11", 3);
    check_number("max_requests", "9223372036854775807", INT64_MAX);
    check_number("limit_request_body", "64k", 65536);
    check_number("limit_request_body", "1M", 1048576);
    check_number("limit_request_body", "2GiB", INT64_C(2) << 30);
    check_number("limit_request_body", "10kb", 10240);
    check_number("limit_request_body", "512b", 512);
    check_number("timeout", "30", 30000);
    check_number("timeout", "30.0", 30000);
    check_number("timeout", "0.5", 500);
    check_number("timeout", ".25", 250);
    check_number("timeout", "250ms", 250);
    check_number("timeout", "1.5m", 90000);
    check_number("timeout", "2h", 7200000);
    check_number("timeout", "0.00000001", 1); /* 0 would mean: never */
    check_number("timeout", "0", 0);
    check_number("date_header", "True", 1);
    check_number("date_header", "off", 0);
    check_number("date_header", "NO", 0);
    check_number("loglevel", "WARNING", LOG_LEVEL_WARNING);
}

static void test_bad_values_are_refused(void)
{
    static const char *const cases[][2] = {
        { "workers", "" },
        { "workers", "four" },
        { "workers", "0" },
        { "workers", "-1" },
        { "workers", "1025" },
        { "workers", "4.0" },
        { "workers", "1_0" },
        { "workers", "4 4" },
        { "workers", "0x" },
        { "workers", "--4" },
        { "workers", "99999999999999999999" },
        { "port", "65536" },
        { "port", "-1" },
        { "timeout", "-1" },
        { "timeout", "inf" },
        { "timeout", "nan" },
        { "timeout", "." },
        { "timeout", "1e3" },
        { "timeout", "1.2.3" },
        { "timeout", "10 d" },
        { "timeout", "99999999h" },
        { "timeout", "9223372036854775807" },
        { "limit_request_body", "1x" },
        { "limit_request_body", "k" },
        { "limit_request_body", "9999999999T" },
        { "date_header", "maybe" },
        { "date_header", "" },
        { "loglevel", "info|error" },
        { "loglevel", "" },
    };
    begin();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        bool taken = set(cases[i][0], cases[i][1]);
        if (taken)
            fprintf(stderr, "%s = '%s'\n", cases[i][0], cases[i][1]);
        CHECK(!taken);
    }
    CHECK_INT(settings.workers, 1);
    end();
}

static void test_numbers_survive_formatting(void)
{
    static const int64_t numbers[] = { 0, 1, 10, 99, 100, 500, 999, 1000, 1500, 60000, 86399999 };
    const struct setting_row *row = setting_row_find("timeout");
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        struct buf text = { 0 };
        int64_t number = -1;
        setting_row_format(row, numbers[i], &text);
        buf_append(&text, "", 1);
        bool good = setting_row_parse(row, buf_str(&text).p, &number);
        buf_done(&text);
        CHECK(good);
        CHECK_INT(number, numbers[i]);
    }
}

static void test_none(void)
{
    begin();
    CHECK(set("workers", "4") && set("workers", NULL));
    CHECK_INT(settings.workers, 1);
    CHECK(set("errorlog", NULL));
    CHECK(settings.errorlog == NULL);
    CHECK(set("bind", NULL));
    CHECK_INT(settings.bind.count, 0);
    CHECK(!settings_validate(&settings, &errors));
    CHECK(says("no address"));
    end();
}

/* --- Messages */

static void test_messages(void)
{
    begin();
    CHECK(!set("workers", "lots"));
    CHECK(strcmp(messages(), "workers = 'lots' (from here): must be a whole number from 1 to 1024, or auto\n") == 0);
    CHECK(!set("loglevel", "warnin"));
    CHECK(says("did you mean 'warning'?"));
    CHECK(!set("header_map", "dorp"));
    CHECK(says("one of drop, refuse, dangerous; did you mean 'drop'?"));
    CHECK(!set("max_requests", "-1"));
    CHECK(says("of at least 0"));
    CHECK(!set("wrokers", "4"));
    CHECK(strcmp(messages(), "'wrokers' (from here): no such setting; did you mean 'workers'?\n") == 0);
    CHECK(!set("completely_else", "4"));
    CHECK(strcmp(messages(), "'completely_else' (from here): no such setting\n") == 0);
    end();
}

static void test_messages_are_one_line(void)
{
    char value[1000];
    memset(value, '\n', sizeof(value) - 1);
    value[sizeof(value) - 1] = 0;
    begin();
    CHECK(!set("workers", value));
    const char *text = messages();
    CHECK(strchr(text, '\n') == text + strlen(text) - 1);
    CHECK(strlen(text) < 1000);
    CHECK(!set("a\x1b[1mb\n", "1"));
    text = messages();
    CHECK(strchr(text, '\n') == text + strlen(text) - 1 && !strchr(text, '\x1b'));
    end();
}

static void test_nearest(void)
{
    CHECK_INT(nearest_distance("workers", "workers"), 0);
    CHECK_INT(nearest_distance("wrokers", "workers"), 1);
    CHECK_INT(nearest_distance("", "abc"), 3);
    CHECK_INT(nearest_distance("kitten", "sitting"), 3);
    CHECK(strcmp(settings_nearest("limit_request_feilds"), "limit_request_fields") == 0);
    CHECK(strcmp(settings_nearest("log_level"), "loglevel") == 0);
    CHECK(settings_nearest("x") == NULL);
    CHECK(settings_nearest("") == NULL);
}

/* --- Sources */

static void test_stronger_source_wins(void)
{
    begin();
    CHECK(set_from("workers", "2", SOURCE_COMMAND_LINE));
    CHECK(set_from("workers", "3", SOURCE_ENVIRONMENT));
    CHECK(set_from("workers", "4", SOURCE_CONFIG_FILE));
    CHECK_INT(settings.workers, 2);
    CHECK(!set_from("workers", "x", SOURCE_CONFIG_FILE)); /* checked all the same */
    CHECK(set_from("threads", "4", SOURCE_CONFIG_FILE));
    CHECK(set_from("threads", "5", SOURCE_ENVIRONMENT));
    CHECK_INT(settings.threads, 5);
    end();
}

static void test_lists(void)
{
    begin();
    CHECK(set_from("bind", ":1", SOURCE_CONFIG_FILE) && set_from("bind", ":2", SOURCE_CONFIG_FILE));
    CHECK_INT(settings.bind.count, 2);
    CHECK(set_from("bind", ":3", SOURCE_COMMAND_LINE));
    CHECK(set_from("bind", ":4", SOURCE_ENVIRONMENT));
    CHECK(set_from("bind", ":5", SOURCE_COMMAND_LINE));
    char *value = settings_get(&settings, "bind");
    CHECK(strcmp(value, ":3,:5") == 0);
    free(value);
    end();
}

static void test_other_names(void)
{
    begin();
    CHECK(settings_known("wsgi_app") && settings_known("workers") && !settings_known("wsgiapp"));
    CHECK(!settings_known("log_level")); /* in a config file: somebody's helper variable */
    CHECK(set_from("wsgi_app", "a:b", SOURCE_CONFIG_FILE));
    CHECK(strcmp(settings.app, "a:b") == 0);
    CHECK(set_from("log_level", "debug", SOURCE_COMMAND_LINE));
    CHECK_INT(settings.loglevel, LOG_LEVEL_DEBUG);
    CHECK(!set_from("access_logfile", "x", SOURCE_CONFIG_FILE));
    CHECK(says("did you mean 'accesslog'?"));
    CHECK(set_from("config", "x", SOURCE_CONFIG_FILE));
    CHECK(settings.config == NULL);
    end();
}

/* --- host, port, uds and fd become bind */

static bool bound(const char *expected)
{
    bool good = settings_validate(&settings, &errors);
    char *value = settings_get(&settings, "bind");
    if (!good || strcmp(value, expected) != 0) {
        fprintf(stderr, "bind is %s, not %s; %s", value, expected, messages());
        good = false;
    }
    free(value);
    return good;
}

static void test_bind_from_parts(void)
{
    static const char *const cases[][3] = {
        { NULL, NULL, "127.0.0.1:8000" }, { "0.0.0.0", NULL, "0.0.0.0:8000" }, { NULL, "0", "127.0.0.1:0" },
        { "::1", "9", "[::1]:9" },        { "[::1]", "9", "[::1]:9" },         { "localhost", "80", "localhost:80" },
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        begin();
        CHECK((!cases[i][0] || set("host", cases[i][0])) && (!cases[i][1] || set("port", cases[i][1])));
        CHECK(bound(cases[i][2]));
        CHECK(bound(cases[i][2])); /* a second time changes nothing */
        end();
    }
    begin();
    CHECK(set("uds", "/run/x") && bound("unix:/run/x"));
    CHECK(strcmp(settings_origin(&settings, "bind"), "here") == 0);
    end();
    begin();
    CHECK(set("fd", "3") && bound("fd://3"));
    end();
}

static void test_bind_and_parts(void)
{
    begin();
    CHECK(set("bind", ":1") && set("host", "h"));
    CHECK(!settings_validate(&settings, &errors));
    CHECK(says("bind (from here) and host (from here) both say where to listen"));
    end();
    begin();
    CHECK(set("uds", "/x") && set("port", "1"));
    CHECK(!settings_validate(&settings, &errors));
    end();
    begin(); /* a file's bind against the command line's port */
    CHECK(set_from("bind", ":1", SOURCE_CONFIG_FILE) && set_from("port", "2", SOURCE_COMMAND_LINE) &&
          bound("127.0.0.1:2"));
    end();
    begin(); /* and the other way round */
    CHECK(set_from("bind", ":1", SOURCE_COMMAND_LINE) && set_from("port", "2", SOURCE_ENVIRONMENT) && bound(":1"));
    end();
    begin(); /* gunicorn.conf.py often has host and port as parts of its bind */
    CHECK(set_from("host", "0.0.0.0", SOURCE_CONFIG_FILE) && set_from("port", "80", SOURCE_CONFIG_FILE));
    CHECK(set_from("bind", "0.0.0.0:80", SOURCE_CONFIG_FILE) && bound("0.0.0.0:80"));
    end();
    begin(); /* uvicorn.run(host=None) */
    CHECK(set("host", NULL) && bound("127.0.0.1:8000"));
    end();
}

static void test_all_bad_addresses_are_named(void)
{
    begin();
    CHECK(set("bind", "http://a") && set("bind", ":1") && set("bind", ":x"));
    CHECK(!settings_validate(&settings, &errors));
    const char *text = messages();
    CHECK(strstr(text, "'http://a' (from here)") && strstr(text, "':x'") && !strstr(text, "':1'"));
    end();
}

static bool serves_as(const char *worker_class)
{
    begin();
    bool good = set("worker_class", worker_class) && settings_validate(&settings, &errors);
    return good;
}

static void test_worker_classes(void)
{
    static const char *const good[] = { "sync", "gthread", "asgi", "uvicorn.workers.UvicornWorker",
                                        "uvicorn_worker.UvicornH11Worker", "gunicorn.workers.ggthread.ThreadWorker" };
    static const char *const bad[] = { "gevent", "eventlet", "tornado", "shop.workers.Own",
                                       "gunicorn.workers.ggevent.GeventWorker" };
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        CHECK(serves_as(good[i]));
        end();
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        CHECK(!serves_as(bad[i]));
        CHECK(says(strstr(bad[i], "tornado") ? "tornado itself" : "leave it out"));
        end();
    }
}

static void test_has_app(void)
{
    begin();
    CHECK(!settings_has_app(&settings, &errors));
    CHECK(says("licorne main:app"));
    CHECK(set("app", "a:b") && settings_has_app(&settings, &errors));
    end();
}

/* --- Text */

static void test_text_round_trip(void)
{
    struct buf text = { 0 }, again = { 0 };
    struct settings copy;
    begin();
    CHECK(set("app", "tab\there\nline \\N \\n end\\") && set("errorlog", NULL) && set("accesslog", "\\N"));
    CHECK(set("bind", ":1") && set("bind", "unix:/a b,c") && set_from("timeout", "1.5", SOURCE_CONFIG_FILE));
    CHECK(set_from("preload_app", "True", SOURCE_ENVIRONMENT) && set("loglevel", "debug") && set("root_path", ""));
    settings_to_text(&settings, SOURCE_DEFAULT, &text);
    settings_init(&copy);
    CHECK(settings_from_text(&copy, buf_str(&text), &errors));
    CHECK(settings_from_text(&copy, buf_str(&text), &errors)); /* nothing doubles */
    settings_to_text(&copy, SOURCE_DEFAULT, &again);
    CHECK(str_eq(buf_str(&text), buf_str(&again)));
    CHECK(strcmp(copy.app, settings.app) == 0);
    CHECK(copy.errorlog == NULL);
    CHECK(strcmp(copy.accesslog, "\\N") == 0);
    CHECK_INT(copy.bind.count, 2);
    CHECK(strcmp(copy.bind.items[1], "unix:/a b,c") == 0);
    CHECK_INT(copy.timeout_ms, 1500);
    CHECK(copy.preload_app);
    settings_done(&copy);
    buf_done(&text);
    buf_done(&again);
    end();
}

static void test_text_of_strong_sources_only(void)
{
    struct buf text = { 0 };
    begin();
    CHECK(set_from("workers", "2", SOURCE_CONFIG_FILE) && set_from("threads", "3", SOURCE_COMMAND_LINE));
    settings_to_text(&settings, SOURCE_ENVIRONMENT, &text);
    CHECK_BYTES(buf_str(&text).p, buf_len(&text), "threads\t3\there\t3\n");
    buf_done(&text);
    end();
}

/* $PORT must reach the listeners: a proposal is a default, but not the built-in one. */
static void test_text_of_proposals(void)
{
    struct buf text = { 0 };
    struct settings copy;
    begin();
    CHECK(settings_set(&settings, "bind", "0.0.0.0:5", SOURCE_DEFAULT, "$PORT", &errors));
    CHECK(settings_set(&settings, "bind", "0.0.0.0:6", SOURCE_DEFAULT, "$PORT", &errors));
    settings_to_text(&settings, SOURCE_CONFIG_FILE, &text);
    settings_init(&copy);
    CHECK(settings_from_text(&copy, buf_str(&text), &errors) && settings_from_text(&copy, buf_str(&text), &errors));
    char *value = settings_get(&copy, "bind");
    CHECK(strcmp(value, "0.0.0.0:5,0.0.0.0:6") == 0);
    free(value);
    CHECK(settings_set(&copy, "bind", ":1", SOURCE_CONFIG_FILE, "f", &errors)); /* and is weaker than any source */
    CHECK_INT(copy.bind.count, 1);
    settings_done(&copy);
    buf_done(&text);
    end();
}

static void test_malformed_text(void)
{
    static const char *const lines[] = { "workers",           "workers\t3\tx",       "workers\t9\tx\t1",
                                         "workers\t\tx\t1",   "workers\t3\tx\t1\t1", "\t\t\t",
                                         "nonsense\t3\tx\t1", "workers\t3\tx\tone" };
    begin();
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        CHECK(!settings_from_text(&settings, str_from(lines[i]), &errors));
        CHECK(messages()[0]);
    }
    CHECK(settings_from_text(&settings, STR(""), &errors));
    CHECK_INT(settings.workers, 1);
    end();
}

static void test_print(void)
{
    struct buf text = { 0 };
    begin();
    CHECK(set("app", "a\"b\n") && set("bind", ":1") && set("bind", ":2"));
    settings_print(&settings, &text);
    buf_append(&text, "", 1);
    const char *p = buf_str(&text).p;
    CHECK(strstr(p, " = \"a\\\"b\\x0a\"  # here\n"));
    CHECK(strstr(p, " = [\":1\", \":2\"]  # here\n"));
    CHECK(strstr(p, "\nhost                               = None  # default\n"));
    CHECK(strstr(p, " = 75  # default\n"));
    buf_done(&text);
    end();
}

/* Random names, values and lines of text: nothing crashes, every refusal is said. */
static uint64_t next_random(void)
{
    static uint64_t state = 88172645463325252u;
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

static void random_text(char *text, size_t size)
{
    static const char letters[] = "0123456789.-+kMsmhx \t\n\\N,=:/[]@'\"eTrue\x01\x80\xff";
    size_t len = next_random() % size;
    for (size_t i = 0; i < len; i++)
        text[i] = letters[next_random() % (sizeof(letters) - 1)];
    text[len] = 0;
}

static void test_random_values(void)
{
    begin();
    for (int i = 0; i < 50000; i++) {
        char value[24];
        random_text(value, sizeof(value));
        const char *name = i % 10 ? setting_rows[next_random() % setting_row_count].name : value;
        enum settings_source source = (enum settings_source)(next_random() % 4);
        if (!settings_set(&settings, name, next_random() % 16 ? value : NULL, source, "here", &errors))
            CHECK(messages()[0]);
        if (i % 1000 == 0) {
            settings_validate(&settings, &errors);
            end();
            begin();
        }
    }
    end();
}

static void test_random_text(void)
{
    begin();
    for (int i = 0; i < 20000; i++) {
        char value[24], line[128];
        random_text(value, sizeof(value));
        int len = snprintf(line, sizeof(line), "%s\t%d\t%s\t%s", setting_rows[next_random() % setting_row_count].name,
                           (int)(next_random() % 5), value, value);
        line[next_random() % (size_t)len] = (char)next_random();
        if (!settings_from_text(&settings, (struct str){ line, (size_t)len }, &errors))
            CHECK(messages()[0]);
    }
    end();
}

CHECK_MAIN(TEST(test_rows_are_complete), TEST(test_defaults_are_allowed), TEST(test_no_spelling_twice),
           TEST(test_no_variable_twice), TEST(test_names_are_unique), TEST(test_groups_stand_together),
           TEST(test_choices_fit_their_enums), TEST(test_defaults), TEST(test_numbers_are_read),
           TEST(test_bad_values_are_refused), TEST(test_numbers_survive_formatting), TEST(test_none),
           TEST(test_messages), TEST(test_messages_are_one_line), TEST(test_nearest), TEST(test_stronger_source_wins),
           TEST(test_lists), TEST(test_other_names), TEST(test_bind_from_parts), TEST(test_bind_and_parts),
           TEST(test_all_bad_addresses_are_named), TEST(test_has_app), TEST(test_worker_classes),
           TEST(test_text_round_trip),
           TEST(test_text_of_strong_sources_only), TEST(test_text_of_proposals), TEST(test_malformed_text),
           TEST(test_print), TEST(test_random_values), TEST(test_random_text))
