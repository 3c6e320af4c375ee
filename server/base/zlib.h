/* zlib: the system's zlib, found when it is first needed. It is not linked: the package then needs nothing where it is
 * installed but the C library, and a machine without zlib serves, uncompressed. */
#pragma once

#include <zlib.h>

struct zlib {
    __typeof__(deflateInit2_) *deflate_init;
    __typeof__(deflate) *deflate;
    __typeof__(deflateReset) *deflate_reset;
    __typeof__(deflateEnd) *deflate_end;
    __typeof__(inflateInit2_) *inflate_init;
    __typeof__(inflate) *inflate;
    __typeof__(inflateReset2) *inflate_reset2;
    __typeof__(inflateResetKeep) *inflate_reset_keep; /* keeps the window */
    __typeof__(inflateGetDictionary) *inflate_get_dictionary;
    __typeof__(inflateSetDictionary) *inflate_set_dictionary;
    __typeof__(inflateEnd) *inflate_end;
};

/* NULL: there is none, or not one of version 1 (logged once, at debug). */
const struct zlib *zlib_get(void);
