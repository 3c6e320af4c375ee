/* deadline: licorne.Deadline, by which an application reads and moves the time limit of its request: what stands at
 * "licorne.deadline" in scope["extensions"] and in the environ while request_timeout is on. And licorne.RequestTimeout,
 * which WSGI applications see when the time is over. */
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>

struct request;

enum deadline_move { DEADLINE_LOOK, DEADLINE_EXTEND, DEADLINE_SET };

/* New reference, NULL with an exception. Keeps the owner, the object that stands for the request; mover() is how it reaches
 * that: does the move (`ms`: REQUEST_NO_DEADLINE sets none) and returns what is left then, as request_time_left() says
 * it. Raises nothing. */
PyObject *deadline_new(PyObject *owner, int64_t (*mover)(PyObject *owner, enum deadline_move move, int64_t ms));

/* For movers: the move itself. `request` NULL: over, nothing is timed. */
int64_t deadline_apply(struct request *request, enum deadline_move move, int64_t ms);

/* licorne.RequestTimeout, a BaseException: handlers of the application that turn every Exception into a page do not
 * swallow it. */
extern PyObject *deadline_timeout_error;
