/* headers: see headers.h. The table of byte classes is computed by the compiler from one row of conditions. */
#include "server/http/headers.h"

#define IS_UPPER(c) ((c) >= 'A' && (c) <= 'Z')
#define IS_ALPHA(c) (IS_UPPER(c) || ((c) >= 'a' && (c) <= 'z'))
#define IS_DIGIT(c) ((c) >= '0' && (c) <= '9')
#define IS_HEX(c) (IS_DIGIT(c) || ((c) >= 'A' && (c) <= 'F') || ((c) >= 'a' && (c) <= 'f'))
#define IS_TCHAR_MARK(c)                                                                                               \
    ((c) == '!' || (c) == '#' || (c) == '$' || (c) == '%' || (c) == '&' || (c) == '\'' || (c) == '*' || (c) == '+' ||  \
     (c) == '-' || (c) == '.' || (c) == '^' || (c) == '_' || (c) == '`' || (c) == '|' || (c) == '~')
#define IS_SUB_DELIM(c)                                                                                                \
    ((c) == '!' || (c) == '$' || (c) == '&' || (c) == '\'' || (c) == '(' || (c) == ')' || (c) == '*' || (c) == '+' ||  \
     (c) == ',' || (c) == ';' || (c) == '=')
#define IS_UNRESERVED(c) (IS_ALPHA(c) || IS_DIGIT(c) || (c) == '-' || (c) == '.' || (c) == '_' || (c) == '~')

#define CLASSES(c)                                                                                                     \
    ((IS_ALPHA(c) || IS_DIGIT(c) || IS_TCHAR_MARK(c) ? CHAR_TOKEN : 0) |                                               \
     ((c) == 9 || ((c) >= 32 && (c) != 127) ? CHAR_VALUE : 0) |                                                        \
     ((c) > 32 && (c) < 127 && (c) != '#' ? CHAR_TARGET : 0) |                                                         \
     (IS_UPPER(c) || IS_DIGIT(c) || (IS_TCHAR_MARK(c) && (c) != '#') ? CHAR_METHOD : 0) |                               \
     (IS_UNRESERVED(c) || IS_SUB_DELIM(c) || (c) == '%' ? CHAR_HOST : 0) | (IS_DIGIT(c) ? CHAR_DIGIT : 0) |            \
     (IS_HEX(c) ? CHAR_HEX : 0))

#define ROW4(c) CLASSES(c), CLASSES((c) + 1), CLASSES((c) + 2), CLASSES((c) + 3)
#define ROW16(c) ROW4(c), ROW4((c) + 4), ROW4((c) + 8), ROW4((c) + 12)
#define ROW64(c) ROW16(c), ROW16((c) + 16), ROW16((c) + 32), ROW16((c) + 48)

const uint8_t headers_chars[256] = { ROW64(0), ROW64(64), ROW64(128), ROW64(192) };

#undef CLASSES
#define CLASSES(c) /* the rows of the second table */                                                                  \
    (IS_UPPER(c) ? (c) | 0x20 : IS_ALPHA(c) || IS_DIGIT(c) || (IS_TCHAR_MARK(c) && (c) != '_') ? (c) : 0)

const uint8_t headers_lowered[256] = { ROW64(0), ROW64(64), ROW64(128), ROW64(192) };

/* --- eight bytes at a time ------------------------------------------------------------------------------------- */

#define EACH HEADERS_EACH

static uint64_t load8(const char *p)
{
    uint64_t bytes;
    memcpy(&bytes, p, 8);
    return bytes;
}

/* The high bit of each byte that is A-Z. */
static uint64_t upper_bytes(uint64_t bytes)
{
    uint64_t low7 = bytes & EACH(0x7f);
    return (low7 + EACH(0x80 - 'A')) & ~(low7 + EACH(0x7f - 'Z')) & ~bytes & EACH(0x80);
}

static uint64_t underscore_bytes(uint64_t bytes)
{
    uint64_t x = bytes ^ EACH('_');
    return (x - EACH(0x01)) & ~x & EACH(0x80);
}

bool str_is(struct str s, int class)
{
    for (size_t i = 0; i < s.len; i++)
        if (!char_is(s.p[i], class))
            return false;
    return true;
}

bool headers_value_valid(struct str value)
{
    size_t i = 0;
    for (; i + 8 <= value.len; i += 8)
        if (headers_control_bytes(load8(value.p + i)) && !str_is((struct str){ value.p + i, 8 }, CHAR_VALUE))
            return false;
    return str_is((struct str){ value.p + i, value.len - i }, CHAR_VALUE);
}

bool headers_lower(char *name, size_t len)
{
    uint64_t underscore = 0;
    size_t i = 0;
    for (; i + 8 <= len; i += 8) {
        uint64_t bytes = load8(name + i);
        underscore |= underscore_bytes(bytes);
        bytes |= upper_bytes(bytes) >> 2; /* 0x80 >> 2 is the bit between the cases */
        memcpy(name + i, &bytes, 8);
    }
    for (; i < len; i++) {
        underscore |= name[i] == '_';
        if (IS_UPPER(name[i]))
            name[i] |= 0x20;
    }
    return underscore != 0;
}

/* --- values ------------------------------------------------------------------------------------------------------ */

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

struct str headers_trim(struct str value)
{
    while (value.len > 0 && is_blank(value.p[0])) {
        value.p++;
        value.len--;
    }
    while (value.len > 0 && is_blank(value.p[value.len - 1]))
        value.len--;
    return value;
}

bool headers_list_next(struct str *rest, struct str *element)
{
    while (rest->len > 0) {
        const char *comma = memchr(rest->p, ',', rest->len);
        size_t len = comma ? (size_t)(comma - rest->p) : rest->len, used = comma ? len + 1 : len;
        *element = headers_trim((struct str){ rest->p, len });
        rest->p += used;
        rest->len -= used;
        if (element->len > 0)
            return true;
    }
    return false;
}

bool headers_list_has(struct str list, struct str token)
{
    struct str element;
    while (headers_list_next(&list, &element))
        if (str_ieq(element, token))
            return true;
    return false;
}

int64_t headers_number(struct str text)
{
    int64_t number = 0;
    if (text.len == 0)
        return -1;
    for (size_t i = 0; i < text.len; i++) {
        if (!char_is(text.p[i], CHAR_DIGIT) || __builtin_mul_overflow(number, 10, &number) ||
            __builtin_add_overflow(number, text.p[i] - '0', &number))
            return -1;
    }
    return number;
}

size_t headers_put_number(char *to, uint64_t number)
{
    size_t n = 1;
    for (uint64_t rest = number; rest >= 10; rest /= 10)
        n++;
    for (size_t i = n; i > 0; number /= 10)
        to[--i] = (char)('0' + number % 10);
    return n;
}

/* --- authorities ------------------------------------------------------------------------------------------------- */

bool headers_split_host(struct str host, struct str *name, struct str *port)
{
    const char *end = host.p + host.len, *p = host.p;
    bool literal = host.len > 0 && *p == '[';
    if (literal) {
        p = memchr(p, ']', host.len);
        if (p == NULL)
            return false;
        p++;
    } else {
        while (p < end && *p != ':')
            p++;
    }
    *name = (struct str){ host.p, (size_t)(p - host.p) };
    *port = p < end ? (struct str){ p + 1, (size_t)(end - p - 1) } : (struct str){ end, 0 };
    return p == end || *p == ':';
}

static bool ip_literal_valid(struct str name)
{
    if (name.len < 4) /* "[::]" */
        return false;
    for (size_t i = 1; i + 1 < name.len; i++)
        if (!char_is(name.p[i], CHAR_HEX) && name.p[i] != ':' && name.p[i] != '.')
            return false;
    return true;
}

static bool reg_name_valid(struct str name)
{
    for (size_t i = 0; i < name.len; i++) {
        if (!char_is(name.p[i], CHAR_HOST))
            return false;
        if (name.p[i] == '%' &&
            (i + 2 >= name.len || !char_is(name.p[i + 1], CHAR_HEX) || !char_is(name.p[i + 2], CHAR_HEX)))
            return false;
    }
    return name.len > 0;
}

bool headers_host_valid(struct str host)
{
    struct str name, port;
    if (!headers_split_host(host, &name, &port))
        return false;
    int64_t number = port.len > 0 ? headers_number(port) : 0;
    if (port.len > 5 || number < 0 || number > 65535)
        return false;
    return name.len > 0 && name.p[0] == '[' ? ip_literal_valid(name) : reg_name_valid(name);
}

bool headers_same_host(struct str a, struct str b)
{
    struct str name_a, port_a, name_b, port_b;
    if (!headers_split_host(a, &name_a, &port_a) || !headers_split_host(b, &name_b, &port_b) || !str_ieq(name_a, name_b))
        return false;
    int64_t number_a = port_a.len ? headers_number(port_a) : 80, number_b = port_b.len ? headers_number(port_b) : 80;
    return number_a == number_b;
}
