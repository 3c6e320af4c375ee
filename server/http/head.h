/* head: the judgement over a complete request head: what of RFC 9110 and 9112 concerns whole fields and the target rather than
 * bytes and lines. The policy is in tests/wire; the parser is http1.c. */
#pragma once

#include <stdbool.h>

struct request;
struct settings;

struct head_refusal {
    int status; /* 0: accepted */
    const char *reason;
};

/* The method is a token: settings say whether any will do. */
struct head_refusal head_judge_method(struct request *request, const struct settings *settings);

/* The request line is known (method, target, version): judges what needs no field, and splits the target. */
struct head_refusal head_judge_line(struct request *request, int version_major, const struct settings *settings);

/* All fields are there, names in any case, values untrimmed. Lowers, trims, drops and checks them; sets host, keep_alive,
 * expects_continue, is_chunked, content_length. */
struct head_refusal head_judge_fields(struct request *request, const struct settings *settings);
