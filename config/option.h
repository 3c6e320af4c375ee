/* option: every spelling that the command line knows, as one list: those of the rows of settings.def, their negatives,
 * a few short cuts (--no-access-log), --help and --version, and what others have and we do not (foreign.def). */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "config/setting_row.h"
#include "server/base/str.h"

enum option_role {
    OPTION_VALUE, /* sets `row` to its argument */
    OPTION_FLAG,  /* sets `row` to `fixed`, which may be NULL for None */
    OPTION_HELP,
    OPTION_VERSION,
    OPTION_SCHEMA,
    OPTION_COMPLETION, /* takes the shell's name */
    OPTION_IGNORED, /* of another server, without an effect here; `fixed` says why */
    OPTION_FOREIGN, /* takes a value if `takes_value`; `fixed` says what to do instead */
};

struct option {
    char name[64]; /* "--workers", "-w" */
    enum option_role role;
    bool takes_value, may_be_bare; /* may_be_bare: without its value it is as if that were "true" */
    const struct setting_row *row;
    const char *choices; /* IGNORED: what its value may be; NULL: anything */
    const char *fixed;
};

struct option_list {
    struct option *options;
    size_t count;
};

void option_list_init(struct option_list *list);
void option_list_done(struct option_list *list);

/* The option of exactly that name, or NULL. */
const struct option *option_find(const struct option_list *list, struct str name);
/* The long options that begin with `prefix` and mean different things: how many; the first two in `found`. */
size_t option_match(const struct option_list *list, struct str prefix, const struct option *found[2]);
/* The option that was probably meant, or NULL. */
const struct option *option_nearest(const struct option_list *list, const char *name);
