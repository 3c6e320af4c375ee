/* foreign: see foreign.h. */
#include "config/foreign.h"

#include <string.h>

#include "config/setting_row.h"

/* --- Options */

#define FOREIGN(spellings, takes_value, advice) { spellings, FOREIGN_REFUSED, takes_value, NULL, advice },
#define IGNORED(spellings, takes_value, advice) { spellings, FOREIGN_IGNORED, takes_value, NULL, advice },
#define ONE_OF(spellings, choices, advice) { spellings, FOREIGN_IGNORED, true, choices, advice },
#define SCALED(...)
#define MEANS(...)
#define ADVICE(...)
const struct foreign_row foreign_rows[] = {
#include "config/foreign.def"
};
#undef FOREIGN
#undef IGNORED
#undef ONE_OF
#undef SCALED
#undef MEANS
#undef ADVICE

const size_t foreign_row_count = sizeof(foreign_rows) / sizeof(foreign_rows[0]);

bool foreign_allows(const char *choices, const char *value)
{
    struct str choice;
    if (!choices || strchr(value, ':'))
        return true;
    while (setting_row_word(&choices, '|', &choice))
        if (str_ieq(choice, str_from(value)))
            return true;
    return false;
}

/* --- Values */

enum value_kind { SCALES, MEANS_OURS, ADVISES };

#define FOREIGN(...)
#define IGNORED(...)
#define ONE_OF(...)
#define SCALED(names, unit) { SCALES, NULL, names, unit },
#define MEANS(setting, theirs, ours) { MEANS_OURS, setting, theirs, ours },
#define ADVICE(setting, value, advice) { ADVISES, setting, value, advice },
static const struct {
    enum value_kind kind;
    const char *setting, *theirs, *ours;
} values[] = {
#include "config/foreign.def"
};

const char *foreign_unit(struct str name)
{
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        const char *names = values[i].theirs;
        struct str word;
        while (values[i].kind == SCALES && setting_row_word(&names, ' ', &word))
            if (str_eq(word, name))
                return values[i].ours;
    }
    return NULL;
}

static const char *find(enum value_kind kind, const char *setting, struct str value)
{
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++)
        if (values[i].kind == kind && strcmp(values[i].setting, setting) == 0 &&
            str_ieq(str_from(values[i].theirs), value))
            return values[i].ours;
    return NULL;
}

const char *foreign_meaning(const char *setting, struct str value)
{
    return find(MEANS_OURS, setting, value);
}

const char *foreign_advice(const char *setting, const char *value)
{
    return find(ADVISES, setting, str_from(value));
}
