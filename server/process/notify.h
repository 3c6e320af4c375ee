/* notify: what a service manager is told (sd_notify(3)): systemd's Type=notify and notify-reload, and its watchdog. And
 * what it has said in the environment, which is taken out of there: the mold and the application never see it. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct notify;

/* Reads NOTIFY_SOCKET and WATCHDOG_*, and removes them. Never NULL; without a service manager it does nothing. */
struct notify *notify_new(void);
void notify_free(struct notify *notify);

void notify_ready(struct notify *notify, uint32_t generation, int workers); /* after the start, and each reload */
void notify_reloading(struct notify *notify);
void notify_stopping(struct notify *notify);
void notify_status(struct notify *notify, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* USR2. A successor says nothing until it has taken over; its predecessor speaks for it then, and is silent afterwards.
 * In a child before its exec: what the service manager has said in the environment is there again. */
void notify_mute(struct notify *notify, bool muted);
void notify_hand_over(struct notify *notify, pid_t successor);
void notify_take_back(struct notify *notify, const char *status);
void notify_bequeath(const struct notify *notify);

/* Pats the watchdog when that is due; returns when it is due next; 0: there is none. */
uint64_t notify_watchdog(struct notify *notify, uint64_t now_ms);

/* LISTEN_FDS: how many listening sockets were passed, from NOTIFY_FIRST_FD on; they are closed at an exec from now on,
 * and the variables are removed. 0: none, or not for this process. */
#define NOTIFY_FIRST_FD 3
int notify_listeners(void);
