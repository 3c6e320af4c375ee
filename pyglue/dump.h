/* dump: where a worker is, when the master asks by a signal: the Python stack of every thread, and of every asyncio task with
 * the request that it serves. */
#pragma once

struct runtime;

/* Once a worker, with the GIL, after the application has been loaded. From now on the signal `number` is answered by
 * deliver(arg, fd), from a thread of its own: a memfd with the text, which stays dump's. */
void dump_init(int number, struct runtime *runtime, void (*deliver)(void *arg, int fd), void *arg);
/* On the loop's thread, now and then: makes the thread anew that a fork has ended. */
void dump_renew(void);
