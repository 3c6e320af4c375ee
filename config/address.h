/* address: where to listen, as written in `bind`. */
#pragma once

#include <stdbool.h>
#include <sys/socket.h>

enum address_kind { ADDRESS_TCP, ADDRESS_UNIX, ADDRESS_FD };

struct address {
    enum address_kind kind;
    char host[256]; /* TCP; "" and "*" mean every interface */
    int port;       /* TCP */
    char path[108]; /* UNIX; a leading '@' is the abstract namespace */
    int fd;         /* FD */
};

/* HOST, HOST:PORT, :PORT, [V6]:PORT, tcp://HOST:PORT, unix:PATH, unix://PATH, fd://N. False with a reason (static
 * text). */
bool address_parse(const char *text, struct address *address, const char **reason);

/* "http://127.0.0.1:8000", "unix:/run/app.sock": for messages, from a bound socket. Allocated with malloc. */
char *address_name(int listening_fd);
