/* master_log: the master's own lines where the configuration wants Python's logging (logconfig, syslog, logger_class), or the
 * application has a say in it. The master has no Python: the mold logs them. What it cannot take, because it is gone or busy,
 * goes into the error log.
 *
 * The first lines are there before the mold is: they are held, from the beginning until the settings are known, and if these
 * want Python's logging until the mold has configured it. A copy stays here meanwhile: should that fail, or an error come
 * before it, they go into the error log. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/settings.h"
#include "server/base/buf.h"
#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/process/channel.h"
#include "server/process/generation.h"
#include "server/process/master.h"
#include "server/process/mold_handle.h"

#define LINE_MAX_BYTES (CHANNEL_MAX_BYTES - sizeof(struct log_line))

/* One that is held; the text follows. */
struct held {
    struct log_line line;
    size_t len;
};

static struct {
    const struct master *master; /* one a process; NULL: none */
    bool holds;
    struct buf held;
    size_t sent; /* so much of `held` the mold has got */
} state;

/* --- to the mold -------------------------------------------------------------------------------------------------------- */

static int send_line(const struct mold_handle *mold, const struct log_line *line, const char *text, size_t len)
{
    char bytes[sizeof(*line) + LINE_MAX_BYTES];
    memcpy(bytes, line, sizeof(*line));
    memcpy(bytes + sizeof(*line), text, len);
    return channel_send(mold->channel, CHANNEL_LOG, bytes, sizeof(*line) + len, NULL, 0);
}

static const struct mold_handle *logging_mold(void)
{
    const struct generation *generation = state.master->serving ? state.master->serving : state.master->coming;
    const struct mold_handle *mold = generation ? generation->mold : NULL;
    bool there = mold && (mold->state == MOLD_LOADING || mold->state == MOLD_LOADED);
    return there && mold->logs != LOG_ALONE ? mold : NULL;
}

/* --- holding ---------------------------------------------------------------------------------------------------------- */

/* The next one that is held, from `offset` on; false: there is none. */
static bool next_held(size_t *offset, struct held *held, const char **text)
{
    if (*offset + sizeof(*held) > buf_len(&state.held))
        return false;
    const char *at = state.held.data + state.held.start + *offset;
    memcpy(held, at, sizeof(*held));
    *text = at + sizeof(*held);
    *offset += sizeof(*held) + held->len;
    return true;
}

static void hold(const struct log_line *line, const char *text, size_t len)
{
    struct held held = { *line, len };
    buf_append(&state.held, (const char *)&held, sizeof(held));
    buf_append(&state.held, text, len);
}

static void forget_held(void)
{
    buf_done(&state.held);
    state.held = (struct buf){ 0 };
    state.sent = 0;
    state.holds = false;
}

static void write_held(void)
{
    struct held held;
    const char *text;
    size_t offset = 0;
    while (next_held(&offset, &held, &text))
        if (!held.line.written)
            log_put(held.line.level, held.line.pid, (struct str){ text, held.len });
    forget_held();
}

void master_log_decide(const struct settings *settings)
{
    if (state.holds && !settings_log_to_python(settings) && !settings->syslog)
        write_held();
}

void master_log_send(const struct mold_handle *mold)
{
    struct held held;
    const char *text;
    while (state.holds && next_held(&state.sent, &held, &text))
        send_line(mold, &held.line, text, held.len);
}

void master_log_told(void)
{
    const struct mold_handle *mold = logging_mold();
    if (mold)
        master_log_send(mold);
    if (mold)
        forget_held();
    else
        write_held();
}

/* --- the sink ----------------------------------------------------------------------------------------------------------- */

/* With syslog alone a line is written here at once, and passed on beside that. */
static bool is_copied(void)
{
    const struct generation *generation = state.master->coming;
    const struct settings *settings = generation && generation->configured ? &generation->settings : NULL;
    return settings && settings->syslog && !settings_log_to_python(settings);
}

static bool take_line(enum log_level level, const char *message)
{
    struct log_line line = { .level = (int32_t)level, .pid = (int32_t)getpid(), .when = clock_wall() };
    size_t len = strnlen(message, LINE_MAX_BYTES);
    const struct mold_handle *mold = logging_mold();
    if (mold) {
        line.written = mold->logs == LOG_BESIDE;
        return send_line(mold, &line, message, len) == 0 && !line.written;
    }
    if (state.holds && level >= LOG_LEVEL_ERROR)
        write_held();
    if (!state.holds)
        return false;
    line.written = is_copied();
    hold(&line, message, len);
    return !line.written;
}

void master_log_begin(const struct master *master)
{
    state.master = master;
    state.holds = true;
    log_set_sink(take_line);
}

void master_log_end(void)
{
    log_set_sink(NULL);
    write_held();
    state.master = NULL;
}
