/* title: what ps shows as the command of this process. */
#pragma once

/* Writes over the arguments that the process was started with, as far as their room goes. */
void title_set(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Blanks to append to the last argument of a program whose title is to be set: so much room. */
#define TITLE_ROOM "                                                                                                "
