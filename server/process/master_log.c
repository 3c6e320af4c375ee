/* master_log: the master's own lines where the configuration wants Python's logging (logconfig, syslog). The master has no
 * Python: the mold logs them. What it cannot take, because it is not there yet, is gone or busy, goes into the error log. */
#include <string.h>
#include <unistd.h>

#include "server/base/log.h"
#include "server/process/channel.h"
#include "server/process/master.h"
#include "server/process/mold_handle.h"

#define LINE_MAX_BYTES (CHANNEL_MAX_BYTES - sizeof(struct channel_log))

static const struct master *logging; /* one a process */

static bool send_line(enum log_level level, const char *message)
{
    const struct mold_handle *mold = master_listening_mold(logging);
    char bytes[sizeof(struct channel_log) + LINE_MAX_BYTES];
    struct channel_log head = { .level = (int32_t)level, .pid = (int32_t)getpid() };
    size_t len = strnlen(message, LINE_MAX_BYTES);
    if (!mold || mold->logs == LOG_ALONE)
        return false;
    memcpy(bytes, &head, sizeof(head));
    memcpy(bytes + sizeof(head), message, len);
    bool sent = channel_send(mold->channel, CHANNEL_LOG, bytes, sizeof(head) + len, NULL, 0) == 0;
    return sent && mold->logs == LOG_INSTEAD;
}

void master_log_begin(const struct master *master)
{
    logging = master;
    log_set_sink(send_line);
}

void master_log_end(void)
{
    log_set_sink(NULL);
    logging = NULL;
}
