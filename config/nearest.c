/* nearest: see nearest.h. Optimal string alignment over three rows of the table; words are short. */
#include "config/nearest.h"

#include <ctype.h>
#include <stdbool.h>
#include <string.h>

enum { LONGEST = 63 }; /* no setting or option is longer */

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static bool same(char a, char b)
{
    return tolower((unsigned char)a) == tolower((unsigned char)b);
}

size_t nearest_distance(const char *a, const char *b)
{
    size_t rows[3][LONGEST + 1];
    size_t *before = rows[0], *above = rows[1], *row = rows[2];
    size_t a_len = strlen(a), b_len = strlen(b);
    if (a_len > LONGEST || b_len > LONGEST)
        return SIZE_MAX;
    for (size_t j = 0; j <= b_len; j++)
        above[j] = j;
    for (size_t i = 1; i <= a_len; i++) {
        row[0] = i;
        for (size_t j = 1; j <= b_len; j++) {
            row[j] = smaller(smaller(above[j], row[j - 1]) + 1, above[j - 1] + !same(a[i - 1], b[j - 1]));
            if (i > 1 && j > 1 && same(a[i - 1], b[j - 2]) && same(a[i - 2], b[j - 1]))
                row[j] = smaller(row[j], before[j - 2] + 1);
        }
        size_t *free_row = before;
        before = above;
        above = row;
        row = free_row;
    }
    return above[b_len];
}

/* A third of the letters may be wrong: "wrokers" is workers, "foo" is nothing. */
static size_t tolerance(const char *wanted)
{
    size_t letters = strlen(wanted);
    return letters < 3 ? 0 : letters < 6 ? 1 : letters / 3;
}

void nearest_offer(struct nearest *nearest, const char *candidate, const char *name)
{
    size_t distance = nearest_distance(nearest->wanted, candidate);
    if (distance >= nearest->distance || distance > tolerance(nearest->wanted))
        return;
    nearest->best = name;
    nearest->distance = distance;
}
