/* control: the master's control socket: a unix socket for the owner alone (mode 0600), on which `licorne ctl` asks for
 * the state of the server and for changes. One question a connection: a line, answered by a line "OK" or "ERROR reason",
 * then text, then the end. Nothing here blocks: a client that does not read is dropped for the next one.
 *
 *     control.c            the socket and its clients
 *     control_command.c    what the questions mean
 *     control_status.c     the answer to `status`
 *     control_client.c     the other side: `licorne ctl` */
#pragma once

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/base/buf.h"
#include "server/base/str.h"

struct control;
struct master;

#define CONTROL_CLIENTS 8
#define CONTROL_POLLED (1 + CONTROL_CLIENTS)

/* `path`: NULL: one of this process' own in control_folder(). NULL with a message in `errors`. */
struct control *control_new(const char *path, struct buf *errors);
/* Closes, and removes the socket's file. Sends what was answered and still waits, as far as it goes without waiting. */
void control_free(struct control *control);
const char *control_path(const struct control *control);
/* `path`: as in control_new(). */
bool control_is_at(const struct control *control, const char *path);
/* Its file gets another name. 0, or -1 with errno. */
int control_move(struct control *control, const char *path);

/* Its part of the poll: fills in `polled`, returns how many entries; afterwards the same entries are looked at. */
size_t control_poll(const struct control *control, struct pollfd polled[CONTROL_POLLED]);
void control_turn(struct control *control, const struct pollfd polled[CONTROL_POLLED], struct master *master);

/* While a question is answered: the asker gets nothing yet, but the report on this worker (report.h) when it is there. */
void control_await_report(struct control *control, uint32_t worker_age);
void control_reported(struct control *control, uint32_t worker_age, struct str text);

/* Where the sockets of servers that were told no path are: made if it is not there, private to the user. NULL: cannot be
 * had. The caller frees. */
char *control_folder(void);

/* --- control_command.c: one question, without its newline; the answer is appended. */
void control_answer(struct master *master, struct str question, struct buf *answer);

/* --- control_status.c: the server, its workers and their requests. */
void control_status(struct master *master, bool json, struct buf *answer);

/* --- control_client.c: `licorne ctl …`; returns the exit code. */
int control_client(int argc, char **argv);
