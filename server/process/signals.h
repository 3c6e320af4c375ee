/* signals: the master's signals as a queue. The handlers only write the signal's number into a pipe; the master's turn
 * reads them in the order they came. */
#pragma once

/* Installs the handlers. The descriptor to poll, or -1 with errno. */
int signals_open(void);
/* The next signal's number; 0: none is waiting. */
int signals_take(void);
/* In a child, before an exec: dispositions and mask as a new program expects them. */
void signals_reset(void);
/* "SIGTERM" */
const char *signals_name(int number);
