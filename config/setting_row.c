/* setting_row: the table itself, and finding a row. How values are written is in setting_value.c. */
#include "config/setting_row.h"

#include <string.h>

#include "config/nearest.h"
#include "config/settings.h"

#define BOOL(name, fallback, ...)                                                                                      \
    { #name, SETTING_BOOL, TEXT_ANY, offsetof(struct settings, name), NULL, fallback, 0, 1, NULL, "", __VA_ARGS__ },
#define NUMBER(name, member, kind, fallback, min, max, ...)                                                            \
    { #name, kind, TEXT_ANY, offsetof(struct settings, member), NULL, fallback, min, max, NULL, __VA_ARGS__ },
#define INT(name, ...) NUMBER(name, name, SETTING_INT, __VA_ARGS__)
#define COUNT(name, ...) NUMBER(name, name, SETTING_COUNT, __VA_ARGS__)
#define BYTES(name, fallback, min, max, ...)                                                                           \
    NUMBER(name, name, SETTING_BYTES, fallback, min, max, "bytes", __VA_ARGS__)
#define SECONDS(name, fallback, min, max, ...)                                                                         \
    NUMBER(name, name##_ms, SETTING_SECONDS, fallback, min, max, "seconds", __VA_ARGS__)
#define TEXT(name, kind, names, fallback, ...)                                                                         \
    { #name, kind, names, offsetof(struct settings, name), fallback, 0, 0, 0, NULL, "", __VA_ARGS__ },
#define STRING(name, ...) TEXT(name, SETTING_STRING, TEXT_ANY, __VA_ARGS__)
#define PATH(name, ...) TEXT(name, SETTING_STRING, TEXT_PATH, __VA_ARGS__)
#define FOLDER(name, ...) TEXT(name, SETTING_STRING, TEXT_FOLDER, __VA_ARGS__)
#define SECRET(name, ...) TEXT(name, SETTING_STRING, TEXT_SECRET, __VA_ARGS__)
#define LIST(name, ...) TEXT(name, SETTING_LIST, TEXT_ANY, __VA_ARGS__)
#define CHOICE(name, fallback, choices, ...)                                                                           \
    { #name, SETTING_CHOICE, TEXT_ANY, offsetof(struct settings, name), NULL, fallback, 0, 0, choices, "", __VA_ARGS__ },
const struct setting_row setting_rows[] = {
#include "config/settings.def"
};
#undef BOOL
#undef NUMBER
#undef INT
#undef COUNT
#undef BYTES
#undef SECONDS
#undef TEXT
#undef STRING
#undef LIST
#undef CHOICE

const size_t setting_row_count = sizeof(setting_rows) / sizeof(setting_rows[0]);

/* Settings that gunicorn calls otherwise. */
static const struct {
    const char *theirs, *ours;
} aliases[] = {
    { "wsgi_app", "app" },
    { "asgi_lifespan", "lifespan" },
    { "websocket_max_message_size", "ws_max_size" },
};

static const struct setting_row *find_exact(const char *name)
{
    for (size_t i = 0; i < setting_row_count; i++)
        if (strcmp(setting_rows[i].name, name) == 0)
            return &setting_rows[i];
    return NULL;
}

const struct setting_row *setting_row_find(const char *name)
{
    for (size_t i = 0; i < sizeof(aliases) / sizeof(aliases[0]); i++)
        if (strcmp(aliases[i].theirs, name) == 0)
            return find_exact(aliases[i].ours);
    return find_exact(name);
}

bool setting_row_word(const char **list, char separator, struct str *word)
{
    const char separators[] = { separator, 0 };
    *list += strspn(*list, separators);
    word->p = *list;
    word->len = strcspn(*list, separators);
    *list += word->len;
    return word->len > 0;
}

/* "--access-logfile" as a name: access_logfile. False: a short or negative option. */
static bool option_name(struct str spelling, char *name, size_t size)
{
    if (spelling.len < 3 || spelling.len >= size || spelling.p[1] != '-' || strncmp(spelling.p, "--no-", 5) == 0)
        return false;
    for (size_t i = 2; i <= spelling.len; i++)
        name[i - 2] = i == spelling.len ? 0 : spelling.p[i] == '-' ? '_' : spelling.p[i];
    return true;
}

static void offer_options(const struct setting_row *row, struct nearest *nearest)
{
    const char *spellings = row->spellings;
    struct str spelling;
    char name[64];
    while (setting_row_word(&spellings, ' ', &spelling))
        if (option_name(spelling, name, sizeof(name)))
            nearest_offer(nearest, name, row->name);
}

const struct setting_row *setting_row_nearest(const char *name)
{
    struct nearest nearest = nearest_to(name);
    for (size_t i = 0; i < setting_row_count; i++) {
        nearest_offer(&nearest, setting_rows[i].name, setting_rows[i].name);
        offer_options(&setting_rows[i], &nearest);
    }
    return nearest.best ? find_exact(nearest.best) : NULL;
}

static bool has_option(const struct setting_row *row, const char *name)
{
    const char *spellings = row->spellings;
    struct str spelling;
    char option[64];
    while (setting_row_word(&spellings, ' ', &spelling))
        if (option_name(spelling, option, sizeof(option)) && strcmp(option, name) == 0)
            return true;
    return false;
}

const struct setting_row *setting_row_find_by_option(const char *name)
{
    for (size_t i = 0; i < setting_row_count; i++)
        if (has_option(&setting_rows[i], name))
            return &setting_rows[i];
    return NULL;
}
