/* response: what the core itself needs of the response machine; applications use request.h. */
#pragma once

#include "server/http/request.h"

/* Answers with a short text, instead of whatever was HELD. `close`: the connection must not be used further. Only while
 * nothing was sent. */
void response_error(struct request *request, int status, bool close);
/* The standard reason phrase, empty for unknown codes. */
struct str response_reason(int status);
/* A field of the head that the application gave; {NULL, 0} if it gave none. For the access log. */
struct str response_field(const struct request *request, struct str name);
