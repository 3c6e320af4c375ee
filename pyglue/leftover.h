/* leftover: threads that were left running in the mold. A fork takes only the thread that calls it along: others are
 * missing in the workers, with the locks that they hold. */
#pragma once

/* A warning that names those which have come since the last call. `cause`: "Preloading the application"; `place`: where
 * they should not be started: "at import". GIL held; no exception is left pending. */
void leftover_warn(const char *cause, const char *place);
