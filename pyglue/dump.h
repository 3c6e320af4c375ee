/* dump: a worker that is stuck tells where, before it is killed: the Python stack of every thread, into the error log. */
#pragma once

/* Once a worker, with the GIL, after the application has been loaded: from now on an ABRT from the master is answered by
 * a dump, and then followed. An ABRT from elsewhere, and a handler of the application's, are left alone. */
void dump_init(void);
