/* foreign: what other servers' names and values mean here: the rows of foreign.def as data. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "server/base/str.h"

enum foreign_role { FOREIGN_REFUSED, FOREIGN_IGNORED };

struct foreign_row {
    const char *spellings;
    enum foreign_role role;
    bool takes_value;
    const char *choices; /* NULL: any value will do */
    const char *advice;
};

extern const struct foreign_row foreign_rows[];
extern const size_t foreign_row_count;

/* A value that the row takes. */
bool foreign_allows(const char *choices, const char *value);
/* The unit in which a bare number counts that comes by this option or variable; NULL: in the setting's own. */
const char *foreign_unit(struct str name);
/* What we call that value of the setting; NULL: it has no other name here. */
const char *foreign_meaning(const char *setting, struct str value);
/* Why that value of the setting is refused; NULL: nobody has it. */
const char *foreign_advice(const char *setting, const char *value);
