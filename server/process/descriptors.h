/* descriptors: how many of them a process may have open. */
#pragma once

#include <stdint.h>

/* `wanted`: the setting open_files: 0: as many as the hard limit allows, -1: as it is. What cannot be had is logged. */
void descriptors_limit(int64_t wanted);
/* How many more this process may open, but for some that are left to the application. At least 1. */
int64_t descriptors_room(void);
