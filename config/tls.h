/* tls: the settings about TLS. They are checked; TLS itself is not served, and who asks for it must not get plain text instead.
 */
#pragma once

#include "config/settings.h"

/* False with messages in `errors`: a value that is wrong, or, where a certificate is given, what to do instead. */
bool tls_check(const struct settings *settings, struct buf *errors);
