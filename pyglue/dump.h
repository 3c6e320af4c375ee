/* dump: where a worker is: the Python stack of every thread, into the error log: before it is killed because it is stuck,
 * and when it is asked (`licorne ctl dump`). */
#pragma once

/* Once a worker, with the GIL, after the application has been loaded: from now on the signal `number` is answered by a
 * dump, and an ABRT from the master by a dump before it is followed. An ABRT from elsewhere, and a handler of the application's, are left alone. */
void dump_init(int number);
