/* title: what ps shows as the command of this process. */
#pragma once

/* In a program whose arguments were not made longer for the title: takes some of the memory behind them, where the
 * environment was, which is copied. First of all: pointers from getenv() are no good afterwards. */
void title_init(void);

/* Writes over the arguments that the process was started with, as far as their room goes. */
void title_set(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Blanks to append to the last argument of a program whose title is to be set: so much room. */
#define TITLE_ROOM "                                                                                                "
