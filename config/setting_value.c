/* setting_value: how the values of the settings are written: text into a number and back, by the row's kind, and what
 * is allowed in words. Part of setting_row.h. */
#include <ctype.h>
#include <string.h>

#include "config/foreign.h"
#include "config/nearest.h"
#include "config/setting_row.h"

/* Blanks around a value come from variables and are nobody's intention. */
static struct str trim(const char *text)
{
    struct str s = str_from(text);
    for (; s.len > 0 && isspace((unsigned char)s.p[0]); s.p++)
        s.len--;
    while (s.len > 0 && isspace((unsigned char)s.p[s.len - 1]))
        s.len--;
    return s;
}

static bool take(struct str *s, size_t n)
{
    s->p += n;
    s->len -= n;
    return true;
}

static bool word_among(struct str word, const char *list)
{
    struct str candidate;
    while (setting_row_word(&list, ' ', &candidate))
        if (str_ieq(word, candidate))
            return true;
    return false;
}

static bool parse_bool(struct str s, int64_t *number)
{
    *number = word_among(s, "true yes on 1 t y");
    return *number || word_among(s, "false no off 0 f n");
}

static int digit_value(char c, int base)
{
    int value = isdigit((unsigned char)c)   ? c - '0'
                : isalpha((unsigned char)c) ? tolower((unsigned char)c) - 'a' + 10
                                            : 99;
    return value < base ? value : -1;
}

/* One digit or more; false on none, or when it does not fit. */
static bool take_digits(struct str *s, int base, int64_t *number)
{
    size_t n = 0;
    *number = 0;
    for (; n < s->len && digit_value(s->p[n], base) >= 0; n++)
        if (__builtin_mul_overflow(*number, base, number) ||
            __builtin_add_overflow(*number, digit_value(s->p[n], base), number))
            return false;
    return n > 0 && take(s, n);
}

/* Python's prefixes, as gunicorn takes them: 0x, 0o, 0b. */
static int take_base(struct str *s)
{
    int base = 10;
    if (s->len > 2 && s->p[0] == '0')
        base = tolower(s->p[1]) == 'x' ? 16 : tolower(s->p[1]) == 'o' ? 8 : tolower(s->p[1]) == 'b' ? 2 : 10;
    if (base != 10)
        take(s, 2);
    return base;
}

static bool parse_int(struct str s, int64_t *number)
{
    bool negative = s.len > 0 && s.p[0] == '-';
    if (s.len > 0 && (s.p[0] == '-' || s.p[0] == '+'))
        take(&s, 1);
    int base = take_base(&s);
    if (!take_digits(&s, base, number) || s.len > 0)
        return false;
    *number = negative ? -*number : *number;
    return true;
}

/* k, M, G, T; KiB and kB mean the same. -1: no such unit. */
static int unit_shift(struct str unit)
{
    static const char letters[] = "kmgt";
    if (unit.len == 0 || str_ieq(unit, STR("b")))
        return 0;
    struct str rest = { unit.p + 1, unit.len - 1 };
    const char *letter = strchr(letters, tolower((unsigned char)unit.p[0]));
    if (!letter || !(rest.len == 0 || str_ieq(rest, STR("b")) || str_ieq(rest, STR("ib"))))
        return -1;
    return 10 * (int)(letter - letters + 1);
}

static bool parse_bytes(struct str s, int64_t *number)
{
    int base = take_base(&s);
    if (!take_digits(&s, base, number))
        return false;
    int shift = unit_shift(s);
    return shift >= 0 && !__builtin_mul_overflow(*number, INT64_C(1) << shift, number);
}

/* A unit of time in milliseconds; 0: no such unit. */
static int64_t unit_ms(struct str unit)
{
    if (str_eq(unit, STR("ms")))
        return 1;
    if (unit.len == 0 || str_eq(unit, STR("s")))
        return 1000;
    if (str_eq(unit, STR("m")) || str_eq(unit, STR("min")))
        return 60 * 1000;
    return str_eq(unit, STR("h")) ? 3600 * 1000 : 0;
}

/* ".5" in millionths; digits after the sixth only round up: what is more than nothing stays so, since 0 has a meaning.
 */
static bool take_fraction(struct str *s, int64_t *millionths)
{
    size_t n = 1;
    bool rest = false;
    int64_t scale = 100000;
    *millionths = 0;
    if (s->len == 0 || s->p[0] != '.')
        return true;
    for (; n < s->len && isdigit((unsigned char)s->p[n]); n++, scale /= 10) {
        *millionths += (s->p[n] - '0') * scale;
        rest |= scale == 0 && s->p[n] != '0';
    }
    *millionths += rest;
    return take(s, n);
}

static bool parse_seconds(struct str s, int64_t *number)
{
    int64_t whole = 0, millionths = 0;
    bool digits =
        s.len > 0 && (isdigit((unsigned char)s.p[0]) || (s.p[0] == '.' && s.len > 1 && isdigit((unsigned char)s.p[1])));
    if (!digits || (s.p[0] != '.' && !take_digits(&s, 10, &whole)) || !take_fraction(&s, &millionths))
        return false;
    int64_t unit = unit_ms(s);
    return unit && !__builtin_mul_overflow(whole, unit, number) &&
           !__builtin_add_overflow(*number, (millionths * unit + 999999) / 1000000, number);
}

/* What can be off may be said like a BOOL: true leaves the choice to the server. */
static struct str switch_word(const struct setting_row *row, struct str s)
{
    int64_t on;
    if (strncmp(row->choices, "off|", 4) != 0 || !parse_bool(s, &on))
        return s;
    return on ? STR("auto") : STR("off");
}

static bool parse_choice(const struct setting_row *row, struct str s, int64_t *number)
{
    const char *choices = row->choices;
    struct str choice;
    const char *ours = foreign_meaning(row->name, s);
    s = ours ? str_from(ours) : switch_word(row, s);
    for (*number = 0; setting_row_word(&choices, '|', &choice); ++*number)
        if (str_ieq(choice, s))
            return true;
    return false;
}

bool setting_row_parse(const struct setting_row *row, const char *text, int64_t *number)
{
    struct str s = trim(text);
    switch (row->kind) {
    case SETTING_BOOL:
        return parse_bool(s, number);
    case SETTING_CHOICE:
        return parse_choice(row, s, number);
    case SETTING_INT:
        return parse_int(s, number) && *number >= row->min && *number <= row->max;
    case SETTING_COUNT:
        *number = 0;
        return str_ieq(s, STR("auto")) || (parse_int(s, number) && *number >= row->min && *number <= row->max);
    case SETTING_BYTES:
        return parse_bytes(s, number) && *number >= row->min && *number <= row->max;
    case SETTING_SECONDS:
        return parse_seconds(s, number) && *number >= row->min && *number <= row->max;
    case SETTING_STRING:
    case SETTING_LIST:
        break;
    }
    return false;
}

bool setting_row_parse_bool(const char *text, bool *value)
{
    int64_t number;
    bool good = parse_bool(trim(text), &number);
    *value = good && number;
    return good;
}

/* 30000 is "30", 1500 is "1.5". */
static void format_seconds(int64_t ms, struct buf *text)
{
    static const int64_t scales[] = { 1000, 100, 10, 1 };
    int decimals = 0;
    while (ms % scales[decimals] != 0)
        decimals++;
    buf_printf(text, "%lld", (long long)(ms / 1000));
    if (decimals > 0)
        buf_printf(text, ".%0*lld", decimals, (long long)(ms % 1000 / scales[decimals]));
}

static void format_choice(const struct setting_row *row, int64_t number, struct buf *text)
{
    const char *choices = row->choices;
    struct str choice;
    while (setting_row_word(&choices, '|', &choice))
        if (number-- == 0)
            buf_append_str(text, choice);
}

void setting_row_format(const struct setting_row *row, int64_t number, struct buf *text)
{
    switch (row->kind) {
    case SETTING_BOOL:
        buf_printf(text, "%s", number ? "True" : "False");
        break;
    case SETTING_CHOICE:
        format_choice(row, number, text);
        break;
    case SETTING_SECONDS:
        format_seconds(number, text);
        break;
    case SETTING_COUNT:
        buf_printf(text, number ? "%lld" : "auto", (long long)number);
        break;
    default:
        buf_printf(text, "%lld", (long long)number);
    }
}

static void append_range(const struct setting_row *row, struct buf *text)
{
    if (row->max == INT64_MAX) {
        buf_append_str(text, STR("of at least "));
        setting_row_format(row, row->min, text);
        return;
    }
    buf_append_str(text, STR("from "));
    setting_row_format(row, row->min, text);
    buf_append_str(text, STR(" to "));
    setting_row_format(row, row->max, text);
}

static void append_choices(const struct setting_row *row, struct buf *text)
{
    const char *choices = row->choices, *comma = "one of ";
    struct str choice;
    for (; setting_row_word(&choices, '|', &choice); comma = ", ")
        buf_printf(text, "%s%.*s", comma, (int)choice.len, choice.p);
}

void setting_row_allowed(const struct setting_row *row, struct buf *text)
{
    switch (row->kind) {
    case SETTING_BOOL:
        buf_append_str(text, STR("True or False"));
        break;
    case SETTING_CHOICE:
        append_choices(row, text);
        break;
    case SETTING_INT:
        buf_append_str(text, STR("a whole number "));
        append_range(row, text);
        break;
    case SETTING_COUNT:
        buf_append_str(text, STR("a whole number "));
        append_range(row, text);
        buf_append_str(text, STR(", or auto"));
        break;
    case SETTING_BYTES:
        buf_append_str(text, STR("a number of bytes (or 64k, 1M, 1G) "));
        append_range(row, text);
        break;
    case SETTING_SECONDS:
        buf_append_str(text, STR("a number of seconds (or 500ms, 5m, 1h) "));
        append_range(row, text);
        break;
    case SETTING_STRING:
    case SETTING_LIST:
        buf_append_str(text, STR("text"));
        break;
    }
}

bool setting_row_nearest_choice(const struct setting_row *row, const char *value, struct str *choice)
{
    struct nearest nearest = nearest_to(value);
    const char *choices = row->choices;
    struct str candidate;
    char name[64];
    while (choices && setting_row_word(&choices, '|', &candidate) && candidate.len < sizeof(name)) {
        memcpy(name, candidate.p, candidate.len);
        name[candidate.len] = 0;
        /* "warn" is warning, "wsgi3" is asgi3: a prefix first, else by distance. */
        nearest_offer(&nearest, *value && strncasecmp(name, value, strlen(value)) == 0 ? value : name, candidate.p);
        if (nearest.best == candidate.p)
            *choice = candidate;
    }
    return nearest.best != NULL;
}

void setting_row_default(const struct setting_row *row, struct buf *text)
{
    if (row->kind == SETTING_STRING || row->kind == SETTING_LIST)
        buf_printf(text, "%s", row->fallback_text ? row->fallback_text : "");
    else if (row->fallback >= row->min)
        setting_row_format(row, row->fallback, text);
}
