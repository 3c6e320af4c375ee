/* aioloop: LoopBase, the C base class of licorne.Loop: an asyncio event loop whose poller is a struct loop.
 *
 *     class Loop(_core.LoopBase, asyncio.unix_events._UnixSelectorEventLoop)      pyglue/licorne/loop.py */
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>

struct loop;

/* Is it a LoopBase instance, open or closed? Leaves no exception pending. */
bool aioloop_is(PyObject *object);

/* The loop inside a LoopBase instance; borrowed. NULL with TypeError for any other object, RuntimeError once closed. */
struct loop *aioloop_loop(PyObject *aioloop);

/* Starts `coro` as a real asyncio.Task of this loop, its first step run at once in the task's own context (DESIGN: eager_start from
 * 3.12.5, else by capturing the step that Task.__init__ passes to call_soon). No task may be current. `name`: passed as name=.
 * Returns the task (new reference): *done already, or suspended. NULL with an exception. Steals nothing. */
PyObject *aioloop_start_task(PyObject *aioloop, PyObject *coro, PyObject *name, bool *done);

/* Queues a C function for the ready queue: run in order with the loop's other callbacks, in no particular context. */
int aioloop_call_soon_c(PyObject *aioloop, void (*function)(void *arg), void *arg);
