/* signals: see signals.h. */
#include "server/process/signals.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int queue[2] = { -1, -1 };

static const int handled[] = {
    SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2, SIGWINCH, SIGCHLD
};

static void on_signal(int number)
{
    int error = errno;
    unsigned char byte = (unsigned char)number;
    if (write(queue[1], &byte, 1) < 0) {
        /* thousands are waiting already: one more says nothing new */
    }
    errno = error;
}

static void set_handler(int number, void (*handler)(int))
{
    struct sigaction action = { .sa_handler = handler, .sa_flags = SA_RESTART };
    sigemptyset(&action.sa_mask);
    sigaction(number, &action, NULL);
}

static void unblock_all(void)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

int signals_open(void)
{
    if (pipe2(queue, O_NONBLOCK | O_CLOEXEC) != 0)
        return -1;
    for (size_t i = 0; i < sizeof(handled) / sizeof(handled[0]); i++)
        set_handler(handled[i], on_signal);
    set_handler(SIGPIPE, SIG_IGN); /* a reader of the log may go away */
    unblock_all();
    return queue[0];
}

int signals_take(void)
{
    unsigned char number;
    ssize_t got;
    do
        got = read(queue[0], &number, 1);
    while (got < 0 && errno == EINTR);
    return got == 1 ? number : 0;
}

void signals_reset(void)
{
    for (int number = 1; number < NSIG; number++)
        if (number != SIGKILL && number != SIGSTOP)
            signal(number, SIG_DFL);
    unblock_all();
}

const char *signals_name(int number)
{
    static char name[16];
    const char *abbreviation = sigabbrev_np(number);
    if (abbreviation)
        snprintf(name, sizeof(name), "SIG%s", abbreviation);
    else
        snprintf(name, sizeof(name), "signal %d", number);
    return name;
}
