/* channel: typed messages between the master and one child, over a SOCK_SEQPACKET pair. A message is a type, a
 * small payload and, with some, descriptors. Sending never blocks: a child that does not read its channel is broken.
 *
 *      master                         mold                            worker
 *        | --- exec, SETTINGS --------> |                               |
 *        | <-- HELLO, SETTINGS -------- |  (what the config file says)  |
 *        | --- CONFIGURED, LOG -------> |  (all sources merged)         |
 *        | <-- LOGS ------------------- |                               |
 *        | <-- LOADED ----------------- |                               |
 *        | --- SPAWN + fds -----------> | ------- double fork --------> |
 *        | <-- HELLO (kernel's pid) ----------------------------------- |
 *        | <-- READY -------------------------------------------------- |
 *        | --- STOP --------------------------------------------------> |
 *
 * FAILED takes the place of any answer. The version in HELLO guards against a package that was replaced in place. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define CHANNEL_VERSION 7
#define CHANNEL_MAX_BYTES (128 * 1024) /* payload */
#define CHANNEL_MAX_FDS 128

enum channel_type {
    CHANNEL_HELLO = 1,  /* mold, worker -> master: struct channel_hello; SCM_CREDENTIALS tell the pid */
    CHANNEL_SETTINGS,   /* master -> mold: text of the command line's and environment's settings;
                           mold -> master: text of the config file's */
    CHANNEL_CONFIGURED, /* master -> mold: text of all settings that are not defaults */
    CHANNEL_LOADED,     /* mold -> master: struct channel_loaded: ready to fork */
    CHANNEL_SPAWN,      /* master -> mold: struct channel_spawn; fds: the worker's channel, the bell, the listeners, their
                           exchanges (two each) */
    CHANNEL_READY,      /* worker -> master: booted, accepts connections */
    CHANNEL_FAILED,     /* mold, worker -> master: struct channel_failed, then the process exits with that code */
    CHANNEL_LEAVING, /* worker -> master: struct channel_leaving: wants to be replaced (max_requests); serves on until
                        STOP */
    CHANNEL_STOP,    /* master -> mold, worker: struct channel_stop */
    CHANNEL_REOPEN,  /* master -> mold, worker: reopen the logs */
    CHANNEL_EVENT,   /* master -> mold: struct channel_event, for the configuration file's hooks */
    CHANNEL_SOURCES, /* mold, worker -> master: folders of imported modules, a line each, to be watched (--reload) */
    CHANNEL_LOG,     /* master -> mold: struct log_line (base/log.h) and the text: a line of the master's, for Python's logging */
    CHANNEL_LOGS,    /* mold -> master: struct channel_logs: what the mold does with the master's lines from now on */
    CHANNEL_AWAKE,   /* worker -> master: a turn begins, the first one since the master has stopped looking */
    CHANNEL_DUMP,    /* worker -> master: fd: a memfd with the stacks of its threads (WORKER_DUMP_SIGNAL) */

    /* Between masters (upgrade.h), perhaps of different versions: these never change. */
    CHANNEL_HERITAGE = 1000, /* to a successor: text; fds: the listeners, their exchanges (two each) */
    CHANNEL_SUCCEEDED,       /* to a predecessor: ready */
};

struct channel_hello {
    uint32_t version; /* CHANNEL_VERSION */
    uint32_t slot;    /* worker: its scoreboard slot */
    char python[32];  /* mold: "3.11.7" */
    char package[24]; /* mold: the version of licorne; "": not said */
};

struct channel_loaded {
    char kind[16]; /* "ASGI", "WSGI"; empty: not loaded before the fork */
    uint8_t hooks; /* it wants to hear of events */
};

struct channel_logs {
    uint8_t sharing; /* enum log_sharing */
};

enum channel_event_kind {
    EVENT_WORKERS_CHANGED, /* how many are wanted: new_count, old_count (0: this is the first word of it) */
    EVENT_STARTING,        /* once a server */
    EVENT_READY,           /* the sockets listen; once a server */
    EVENT_RELOAD,
    EVENT_WORKER_BORN,     /* pid, age */
    EVENT_WORKER_EXITED,   /* pid, age */
    EVENT_UPGRADE,         /* another master is about to be started */
    EVENT_EXIT,            /* all workers have ended, the server will */
};

struct channel_event {
    uint32_t kind;
    int32_t pid;
    uint32_t age;
    int32_t new_count, old_count;
};

struct channel_spawn {
    uint32_t slot, generation, age;
};

struct channel_failed {
    int32_t exit_code;  /* 3: cannot boot, 4: app cannot be loaded, 1: configuration */
    uint32_t slot;      /* mold could not fork this one; UINT32_MAX otherwise */
    char message[1024]; /* one line; the traceback went to the log */
};

struct channel_leaving {
    char reason[64];
};

struct channel_stop {
    uint8_t graceful; /* 0: at once */
    uint8_t last;     /* the server ends: no sibling takes what waits in the backlog, so accept it first */
    uint8_t alone;    /* no sibling stays: connections are not handed over */
};

struct channel_message {
    enum channel_type type;
    pid_t sender;                     /* as the kernel says; 0 if unknown */
    size_t len;
    int fds[CHANNEL_MAX_FDS];         /* the receiver's to close */
    int fd_count;
    char data[CHANNEL_MAX_BYTES + 1]; /* NUL-terminated for text */
};

/* A pair of non-blocking, close-on-exec descriptors with SO_PASSCRED set on the master's (the first). 0 or -1. */
int channel_pair(int fds[2]);
/* 0, or -1 with errno: EPIPE when the other side is gone, EAGAIN when it does not read. */
int channel_send(int fd, enum channel_type type, const void *data, size_t len, const int *fds, int fd_count);
/* 1: a message; 0: none is there; -1: the other side is gone, or broken (errno). Truncation (MSG_CTRUNC, MSG_TRUNC) is
 * an error. */
int channel_receive(int fd, struct channel_message *message);
/* As channel_receive(), but waits at most timeout_ms (-1: for ever); 0 then means timeout. */
int channel_wait(int fd, struct channel_message *message, int timeout_ms);
/* Closes the descriptors that came with a message and that nobody wants. */
void channel_close_fds(struct channel_message *message);
