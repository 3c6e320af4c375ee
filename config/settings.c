/* settings: the values: defaults, setting one from text, and the rules between them. What a row is and how its text is
 * read is in setting_row.h; the forms of all settings together are in settings_text.c. */
#include "config/settings.h"

#include <stdlib.h>
#include <string.h>

#include "config/address.h"
#include "config/address_set.h"
#include "config/foreign.h"
#include "config/setting_row.h"
#include "config/tls.h"
#include "config/worker_class.h"
#include "server/base/mem.h"
#include "server/base/statsd.h"

enum { QUOTED_MAX = 200 }; /* bytes of a refused value that a message repeats */

static size_t row_index(const struct setting_row *row)
{
    return (size_t)(row - setting_rows);
}

static void *member(const struct settings *settings, const struct setting_row *row)
{
    return (char *)settings + row->offset;
}

static int64_t number_get(const struct settings *settings, const struct setting_row *row)
{
    switch (row->kind) {
    case SETTING_BOOL:
        return *(bool *)member(settings, row);
    case SETTING_CHOICE:
        return *(int *)member(settings, row);
    default:
        return *(int64_t *)member(settings, row);
    }
}

static void number_put(struct settings *settings, const struct setting_row *row, int64_t number)
{
    switch (row->kind) {
    case SETTING_BOOL:
        *(bool *)member(settings, row) = number != 0;
        break;
    case SETTING_CHOICE:
        *(int *)member(settings, row) = (int)number;
        break;
    default:
        *(int64_t *)member(settings, row) = number;
    }
}

static void string_put(struct settings *settings, const struct setting_row *row, const char *text)
{
    char **string = member(settings, row);
    char *old = *string;
    *string = text ? mem_strdup(text) : NULL;
    free(old);
}

static void list_clear(struct str_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        free(list->items[i]);
    free(list->items);
    *list = (struct str_list){ NULL, 0 };
}

/* Takes `item`. */
static void list_add(struct str_list *list, char *item)
{
    list->items = mem_realloc(list->items, (list->count + 1) * sizeof(*list->items));
    list->items[list->count++] = item;
}

static void list_reset(struct settings *settings, const struct setting_row *row)
{
    struct str_list *list = member(settings, row);
    const char *items = row->fallback_text;
    struct str item;
    list_clear(list);
    while (items && setting_row_word(&items, ',', &item))
        list_add(list, mem_strndup(item.p, item.len));
}

/* Back to the default. */
static void row_reset(struct settings *settings, const struct setting_row *row)
{
    switch (row->kind) {
    case SETTING_STRING:
        string_put(settings, row, row->fallback_text);
        break;
    case SETTING_LIST:
        list_reset(settings, row);
        break;
    default:
        number_put(settings, row, row->fallback);
    }
}

static void row_credit(struct settings *settings, const struct setting_row *row, enum settings_source source,
                       const char *origin)
{
    char **place = &settings->origins[row_index(row)], *old = *place;
    *place = origin ? mem_strdup(origin) : NULL;
    settings->sources[row_index(row)] = (uint8_t)source;
    free(old);
}

void settings_init(struct settings *settings)
{
    memset(settings, 0, sizeof(*settings));
    settings->sources = mem_zalloc(setting_row_count * sizeof(*settings->sources));
    settings->origins = mem_zalloc(setting_row_count * sizeof(*settings->origins));
    for (size_t i = 0; i < setting_row_count; i++)
        row_reset(settings, &setting_rows[i]);
}

static void row_done(struct settings *settings, const struct setting_row *row)
{
    if (row->kind == SETTING_STRING)
        string_put(settings, row, NULL);
    else if (row->kind == SETTING_LIST)
        list_clear(member(settings, row));
    free(settings->origins[row_index(row)]);
}

void settings_done(struct settings *settings)
{
    for (size_t i = 0; i < setting_row_count; i++)
        row_done(settings, &setting_rows[i]);
    free(settings->sources);
    free(settings->origins);
    buf_done(&settings->notes);
    buf_done(&settings->warnings);
    memset(settings, 0, sizeof(*settings));
}

/* --- Messages */

static void append_quoted(struct buf *out, const char *value)
{
    buf_append_str(out, STR("'"));
    for (size_t i = 0; value[i] && i < QUOTED_MAX; i++)
        if ((unsigned char)value[i] < 0x20 || value[i] == 0x7f)
            buf_printf(out, "\\x%02x", (unsigned char)value[i]);
        else
            buf_append(out, &value[i], 1);
    buf_printf(out, "%s'", strlen(value) > QUOTED_MAX ? "..." : "");
}

static bool refuse_name(const char *name, const char *where, struct buf *errors)
{
    const struct setting_row *near = setting_row_nearest(name);
    append_quoted(errors, name);
    buf_printf(errors, " (from %s): no such setting", where);
    if (near)
        buf_printf(errors, "; did you mean '%s'?", near->name);
    buf_append_str(errors, STR("\n"));
    return false;
}

static bool refuse_value(const struct setting_row *row, const char *value, const char *where, struct buf *errors)
{
    struct str choice;
    buf_printf(errors, "%s = ", row->name);
    append_quoted(errors, value);
    buf_printf(errors, " (from %s): must be ", where);
    setting_row_allowed(row, errors);
    const char *advice = foreign_advice(row->name, value);
    if (advice)
        buf_printf(errors, "; %s", advice);
    else if (setting_row_nearest_choice(row, value, &choice))
        buf_printf(errors, "; did you mean '%.*s'?", (int)choice.len, choice.p);
    buf_append_str(errors, STR("\n"));
    return false;
}

/* --- Setting one */

static const struct setting_row *row_named(const char *name, enum settings_source source)
{
    const struct setting_row *row = setting_row_find(name);
    /* A config file has helper variables with such names, and gunicorn does not look at them. */
    return row || source == SOURCE_CONFIG_FILE ? row : setting_row_find_by_option(name);
}

/* What must be known before a config file runs cannot come from one; its `config` and `python` are helper variables. */
static bool row_precedes_config_file(const struct setting_row *row)
{
    return strcmp(row->name, "config") == 0 || strcmp(row->name, "python") == 0;
}

static void list_put(struct settings *settings, const struct setting_row *row, const char *item, bool append)
{
    struct str_list *list = member(settings, row);
    if (!append || !item)
        list_clear(list);
    if (item)
        list_add(list, mem_strdup(item));
}

static void row_put(struct settings *settings, const struct setting_row *row, const char *value, int64_t number,
                    bool append)
{
    if (row->kind == SETTING_LIST)
        list_put(settings, row, value, append);
    else if (row->kind == SETTING_STRING)
        string_put(settings, row, value);
    else
        number_put(settings, row, value ? number : row->fallback);
}

bool settings_set(struct settings *settings, const char *name, const char *value, enum settings_source source,
                  const char *where, struct buf *errors)
{
    const struct setting_row *row = row_named(name, source);
    int64_t number = 0;
    if (!row)
        return refuse_name(name, where, errors);
    if (source == SOURCE_CONFIG_FILE && row_precedes_config_file(row))
        return true;
    bool is_text = row->kind == SETTING_STRING || row->kind == SETTING_LIST;
    if (value && !is_text && !setting_row_parse(row, value, &number))
        return refuse_value(row, value, where, errors);
    enum settings_source present = settings->sources[row_index(row)];
    if (present > source)
        return true;
    row_put(settings, row, value, number, present == source && settings->origins[row_index(row)]);
    row_credit(settings, row, source, where);
    return true;
}

bool settings_known(const char *name)
{
    return setting_row_find(name) != NULL;
}

const char *settings_nearest(const char *name)
{
    const struct setting_row *row = setting_row_nearest(name);
    return row ? row->name : NULL;
}

const char *settings_group(const char *name)
{
    const struct setting_row *row = row_named(name, SOURCE_COMMAND_LINE);
    return row ? row->group : NULL;
}

/* --- Reading one */

static void append_items(const struct str_list *list, struct buf *text)
{
    for (size_t i = 0; i < list->count; i++)
        buf_printf(text, "%s%s", i ? "," : "", list->items[i]);
}

static void append_value(const struct settings *settings, const struct setting_row *row, struct buf *text)
{
    const char *string = row->kind == SETTING_STRING ? *(char **)member(settings, row) : NULL;
    if (row->kind == SETTING_LIST)
        append_items(member(settings, row), text);
    else if (row->kind != SETTING_STRING)
        setting_row_format(row, number_get(settings, row), text);
    else if (string)
        buf_append(text, string, strlen(string));
}

char *settings_get(const struct settings *settings, const char *name)
{
    const struct setting_row *row = setting_row_find(name);
    struct buf text = { 0 };
    if (!row)
        return NULL;
    append_value(settings, row, &text);
    char *value = mem_strndup(text.data ? text.data + text.start : "", buf_len(&text));
    buf_done(&text);
    return value;
}

static const char *row_origin(const struct settings *settings, const struct setting_row *row)
{
    const char *origin = settings->origins[row_index(row)];
    return origin ? origin : "default";
}

const char *settings_origin(const struct settings *settings, const char *name)
{
    const struct setting_row *row = setting_row_find(name);
    return row ? row_origin(settings, row) : "default";
}

/* --- Where to listen: bind, or uvicorn's three ways to say it */

enum { WAY_BIND, WAY_HOST_PORT, WAY_UDS, WAY_FD, WAYS };

struct way {
    const struct setting_row *row; /* the stronger, where two belong together */
    int strength;                  /* enum settings_source; SOURCE_DEFAULT: not used */
};

static bool row_unset(const struct settings *settings, const struct setting_row *row)
{
    if (row->kind == SETTING_STRING)
        return *(char **)member(settings, row) == NULL;
    return row->kind == SETTING_INT && number_get(settings, row) < row->min;
}

static struct way way_of(const struct settings *settings, const char *name)
{
    const struct setting_row *row = setting_row_find(name);
    return (struct way){ row, row_unset(settings, row) ? SOURCE_DEFAULT : settings->sources[row_index(row)] };
}

static struct way stronger_way(struct way a, struct way b)
{
    return b.strength > a.strength ? b : a;
}

/* The strongest; WAY_BIND when nobody said anything. */
static int ways_strongest(const struct way ways[WAYS])
{
    int strongest = WAY_BIND;
    for (int i = 1; i < WAYS; i++)
        if (ways[i].strength > ways[strongest].strength)
            strongest = i;
    return strongest;
}

/* In a config file `host` and `port` are often the parts of which the file itself makes its bind. */
static bool ways_agree(const struct settings *settings, const struct way ways[WAYS], int strongest, struct buf *errors)
{
    int strength = ways[strongest].strength;
    for (int i = strongest + 1; strength > SOURCE_CONFIG_FILE && i < WAYS; i++) {
        if (ways[i].strength != strength)
            continue;
        buf_printf(errors, "%s (from %s) and %s (from %s) both say where to listen: leave one out\n",
                   ways[strongest].row->name, row_origin(settings, ways[strongest].row), ways[i].row->name,
                   row_origin(settings, ways[i].row));
        return false;
    }
    return true;
}

static char *way_text(const struct settings *settings, int way)
{
    const char *host = settings->host ? settings->host : "127.0.0.1";
    bool v6 = strchr(host, ':') && host[0] != '[';
    switch (way) {
    case WAY_UDS:
        return mem_printf("unix:%s", settings->uds ? settings->uds : "");
    case WAY_FD:
        return mem_printf("fd://%lld", (long long)settings->fd);
    default:
        return mem_printf("%s%s%s:%lld", v6 ? "[" : "", host, v6 ? "]" : "",
                          (long long)(settings->port < 0 ? 8000 : settings->port));
    }
}

/* The parts have done their work: from now on `bind` alone says where, and a second call finds nothing to do. */
static void way_forget(struct settings *settings, const char *name)
{
    const struct setting_row *row = setting_row_find(name);
    row_reset(settings, row);
    row_credit(settings, row, SOURCE_DEFAULT, NULL);
}

static bool fold_into_bind(struct settings *settings, struct buf *errors)
{
    static const char *const parts[] = { "host", "port", "uds", "fd" };
    const struct way ways[WAYS] = {
        [WAY_BIND] = way_of(settings, "bind"),
        [WAY_HOST_PORT] = stronger_way(way_of(settings, "host"), way_of(settings, "port")),
        [WAY_UDS] = way_of(settings, "uds"),
        [WAY_FD] = way_of(settings, "fd"),
    };
    int strongest = ways_strongest(ways);
    if (!ways_agree(settings, ways, strongest, errors))
        return false;
    if (strongest != WAY_BIND) {
        const struct way *way = &ways[strongest];
        char *text = way_text(settings, strongest);
        list_put(settings, ways[WAY_BIND].row, text, false);
        row_credit(settings, ways[WAY_BIND].row, (enum settings_source)way->strength, row_origin(settings, way->row));
        free(text);
    }
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
        way_forget(settings, parts[i]);
    return true;
}

/* --- Rules */

static bool check_address(const struct settings *settings, const char *text, struct buf *errors)
{
    struct address address;
    const char *reason;
    if (address_parse(text, &address, &reason))
        return true;
    buf_append_str(errors, STR("bind = "));
    append_quoted(errors, text);
    buf_printf(errors, " (from %s): %s\n", settings_origin(settings, "bind"), reason);
    return false;
}

static bool check_addresses(const struct settings *settings, struct buf *errors)
{
    bool good = settings->bind.count > 0;
    if (!good)
        buf_printf(errors, "bind (from %s): no address to listen at\n", settings_origin(settings, "bind"));
    for (size_t i = 0; i < settings->bind.count; i++)
        good &= check_address(settings, settings->bind.items[i], errors);
    return good;
}

/* -2: nonsense. */
static int parse_umask(const char *text)
{
    char *end;
    bool octal = text[0] == '0' && (text[1] == 'o' || text[1] == 'O');
    long mask = octal ? strtol(text + 2, &end, 8) : strtol(text, &end, 0);
    return end == text + 2 * octal || *end || mask < 0 || mask > 0777 ? -2 : (int)mask;
}

int settings_umask(const struct settings *settings)
{
    return settings->umask && *settings->umask ? parse_umask(settings->umask) : -1;
}

static bool check_umask(const struct settings *settings, struct buf *errors)
{
    if (settings_umask(settings) != -2)
        return true;
    buf_append_str(errors, STR("umask = "));
    append_quoted(errors, settings->umask);
    buf_printf(errors, " (from %s): must be an octal number from 0 to 0777\n", settings_origin(settings, "umask"));
    return false;
}

static bool check_environment(const struct settings *settings, struct buf *errors)
{
    bool good = true;
    for (size_t i = 0; i < settings->raw_env.count; i++) {
        const char *item = settings->raw_env.items[i];
        if (item[0] != '=' && strchr(item, '='))
            continue;
        buf_append_str(errors, STR("raw_env = "));
        append_quoted(errors, item);
        buf_printf(errors, " (from %s): must be NAME=VALUE\n", settings_origin(settings, "raw_env"));
        good = false;
    }
    return good;
}

/* "NAME:VALUE" as HTTP allows it (RFC 9110 5.1, 5.5); framing is the server's. */
static bool header_is_good(const char *item)
{
    static const char token[] = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    static const char *const framing[] = { "connection:", "content-length:", "transfer-encoding:", "upgrade:" };
    size_t name = strspn(item, token);
    for (size_t i = 0; i < sizeof(framing) / sizeof(framing[0]); i++)
        if (strncasecmp(item, framing[i], strlen(framing[i])) == 0)
            return false;
    for (const char *p = item + name; *p; p++)
        if ((unsigned char)*p < 0x20 && *p != '\t')
            return false;
    return name > 0 && item[name] == ':';
}

static bool check_headers(const struct settings *settings, struct buf *errors)
{
    bool good = true;
    for (size_t i = 0; i < settings->headers.count; i++) {
        if (header_is_good(settings->headers.items[i]))
            continue;
        buf_append_str(errors, STR("headers = "));
        append_quoted(errors, settings->headers.items[i]);
        buf_printf(errors, " (from %s): must be NAME:VALUE, and not one that frames the message\n",
                   settings_origin(settings, "headers"));
        good = false;
    }
    return good;
}

static bool check_trusted(const struct settings *settings, const char *name, const struct str_list *items,
                          struct buf *errors)
{
    struct address_set set;
    char *bad = NULL;
    bool good = address_set_init(&set, items, &bad);
    address_set_done(&set);
    if (!good) {
        buf_printf(errors, "%s = ", name);
        append_quoted(errors, bad);
        buf_printf(errors, " (from %s): must be an address, a network such as 10.0.0.0/8 without bits beyond its prefix, or "
                           "*\n",
                   settings_origin(settings, name));
    }
    free(bad);
    return good;
}

static bool check_bounds(const struct settings *settings, struct buf *errors)
{
    if (settings->workers_max == 0 || settings->workers_min <= settings->workers_max)
        return true;
    buf_printf(errors, "workers_min = %lld (from %s): must not be more than workers_max = %lld (from %s)\n",
               (long long)settings->workers_min, settings_origin(settings, "workers_min"),
               (long long)settings->workers_max, settings_origin(settings, "workers_max"));
    return false;
}

static bool check_statsd(const struct settings *settings, struct buf *errors)
{
    const char *host = settings->statsd_host;
    if (!host || !*host || statsd_can_be(host))
        return true;
    buf_printf(errors, "statsd_host = \"%s\" (%s): must be HOST:PORT or unix://PATH\n", host,
               settings_origin(settings, "statsd_host"));
    return false;
}

bool settings_validate(struct settings *settings, struct buf *errors)
{
    bool good = fold_into_bind(settings, errors) && check_addresses(settings, errors);
    good &= check_trusted(settings, "forwarded_allow_ips", &settings->forwarded_allow_ips, errors);
    good &= check_trusted(settings, "proxy_allow_ips", &settings->proxy_allow_ips, errors);
    good &= check_trusted(settings, "uwsgi_allow_ips", &settings->uwsgi_allow_ips, errors);
    good &= check_umask(settings, errors);
    good &= check_headers(settings, errors);
    good &= check_statsd(settings, errors);
    if (settings->reload && strcmp(settings_origin(settings, "boot_grace"), "default") == 0)
        settings->boot_grace_ms = 0; /* who waits for the new code wants it at once */
    good &= check_bounds(settings, errors);
    good &= check_environment(settings, errors);
    good &= tls_check(settings, errors);
    return worker_class_check(settings, errors) && good;
}

const char *settings_application(const struct settings *settings)
{
    if (settings->paste && *settings->paste)
        return settings->paste;
    return settings->app ? settings->app : "";
}

bool settings_has_app(const struct settings *settings, struct buf *errors)
{
    if (*settings_application(settings))
        return true;
    buf_append_str(errors, STR("no application: name it as MODULE:ATTRIBUTE, for example: licorne main:app\n"));
    return false;
}

static bool is_said(const char *text)
{
    return text && *text;
}

/* gunicorn's own, which write as we do. */
static bool is_usual_logger(const char *name)
{
    static const char *const usual[] = { "simple", "gunicorn.glogging.Logger", "gunicorn.instrument.statsd.Statsd" };
    for (size_t i = 0; i < sizeof(usual) / sizeof(usual[0]); i++)
        if (strcmp(name, usual[i]) == 0)
            return true;
    return false;
}

bool settings_log_to_python(const struct settings *settings)
{
    return is_said(settings->logconfig) || is_said(settings->logconfig_dict) || is_said(settings->logconfig_json) ||
           (is_said(settings->logger_class) && !is_usual_logger(settings->logger_class));
}

const char *settings_name(const struct settings *settings)
{
    if (settings->proc_name && *settings->proc_name)
        return settings->proc_name;
    return settings_application(settings);
}
