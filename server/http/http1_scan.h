/* http1_scan: the short way through the fields of a head that has come in one piece and has nothing unusual about it, as almost
 * all do. It takes only what llhttp takes, too, and in the same way; whatever else it meets, it leaves the head to llhttp, which
 * alone refuses. So it has no errors. For http1.c. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct request;
struct settings;

struct http1_scan {
    bool has_length; /* Content-Length was there, once; there was no Transfer-Encoding */
    uint64_t length;
};

/* Fills in request->fields: names in lower case (in `data`, too), values trimmed. Returns the bytes up to the end of the head;
 * 0: this one is not for us, and as if nothing had been done. */
size_t http1_scan(struct request *request, const struct settings *settings, char *data, size_t len,
                  struct http1_scan *scan);
