/* worker: the process side of a worker: its channel, its signals, its listeners, and how it leaves. It knows neither
 * HTTP nor Python: whoever composes a worker (pyglue/serve.c) says by worker_ops what happens to connections.
 *
 *     worker_hello -> worker_new -> (boot) -> worker_ready -> ... -> drain -> on_left -> worker_free
 *
 * TERM, CHANNEL_STOP{graceful}, and EOF on the channel (the master is gone) drain, bounded by graceful_timeout;
 * INT, QUIT, CHANNEL_STOP{now} end it. USR1 and CHANNEL_REOPEN reopen the logs.
 *
 * While a worker boots it has nothing to lose: until worker_ready() those signals end the process at once, whatever
 * the application is doing, and so does a STOP that the loop hears. One worker a process. */
#pragma once

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "server/base/str.h"
#include "server/net/exchange.h"

struct inherit;
struct io;
struct loop;
struct worker;

/* To a ready worker: tell where all threads are (pyglue/dump.c). It answers by CHANNEL_DUMP. */
#define WORKER_DUMP_SIGNAL (SIGRTMAX - 4)

struct worker_ops {
    /* A connection was accepted on inherit->listeners[listener]; `fd` is the callee's. */
    void (*on_accept)(void *arg, int listener, int fd, const struct sockaddr *peer, socklen_t peer_len);
    /* A sibling has handed over one that it had accepted on that listener; parcel->fd is the callee's. */
    void (*on_take)(void *arg, int listener, const struct parcel *parcel);
    /* After worker_hand_over() said EXCHANGE_FULL: there may be room; or nobody takes anything. */
    void (*on_hand_over)(void *arg, bool room);
    /* On the guard's thread, the loop being stuck: an idle connection on which a request has come, to be sent by
     * worker_relieve(), whose result this is. */
    int (*on_give)(void *arg, struct io *io);
    /* On the loop's, afterwards: it is another worker's. */
    void (*on_gave)(void *arg, struct io *io);
    /* Finish what is in flight; call worker_drained() when nothing is left. */
    void (*on_drain)(void *arg);
    /* Drop what is in flight (graceful_timeout has passed, or a fast stop). */
    void (*on_abort)(void *arg);
    /* The worker has nothing left to do: leave the loop. Comes once, possibly from inside worker_drained(). */
    void (*on_left)(void *arg);
    void (*on_reopen_logs)(void *arg);
};

/* First act after the fork, before anything else: tells the master, resets the signals. -1: the master is gone. */
int worker_hello(const struct inherit *inherit);

/* Watches the channel on `loop`, publishes the loop's turns in the slot. `inherit` must outlive it. */
struct worker *worker_new(const struct inherit *inherit, struct loop *loop, const struct worker_ops *ops, void *arg);
/* Booted: starts accepting and tells the master. */
void worker_ready(struct worker *worker);
/* Folders that the master is to watch, a line each (--reload). */
void worker_sources(const struct inherit *inherit, struct str folders);
/* Boot failed: tells the master; exit with `exit_code` afterwards. */
void worker_failed(const struct inherit *inherit, int exit_code, const char *message);
/* As worker_hand_over(), for on_give. */
enum exchange_result worker_relieve(const struct worker *worker, int listener, const struct parcel *parcel);
/* Before worker_ready(): the loop has a guard (guard.h), as the application runs on its thread. */
void worker_guard(struct worker *worker);
/* Before the process forks: the guard's thread ends. It comes back with the loop's next turn. */
void worker_pause_guard(struct worker *worker);
/* Connections and requests in flight: what newcomers are shared by. */
void worker_load(struct worker *worker, uint32_t load);
/* Gives an idle connection to whichever sibling takes it first; see exchange_send(). Also EXCHANGE_SHUT: it is switched off, or
 * nobody could take it. */
enum exchange_result worker_hand_over(struct worker *worker, int listener, const struct parcel *parcel);
/* Somebody waits to be accepted. */
bool worker_awaited(const struct worker *worker);
/* Now and then: how many requests it has served, for what ps shows. */
void worker_show(struct worker *worker, uint64_t requests);
/* Pause and go on accepting, and taking over (no room for more connections). */
void worker_accept(struct worker *worker, bool enabled);
/* A request may be overdue after so long already: the master is to look in time. */
void worker_shorter(struct worker *worker, uint64_t limit_ms);
/* Asks the master for a replacement, once; serving goes on until the master says STOP. */
void worker_leave(struct worker *worker, const char *reason);
/* From any thread: the answer to WORKER_DUMP_SIGNAL, the text in a memfd. */
void worker_dumped(const struct worker *worker, int fd);
/* on_drain's work is done. */
void worker_drained(struct worker *worker);
bool worker_draining(const struct worker *worker);
/* No sibling stays: there is nobody to hand connections over to. */
bool worker_alone(const struct worker *worker);
/* After on_left: what the process exits with. */
int worker_exit_code(const struct worker *worker);
void worker_free(struct worker *worker);
