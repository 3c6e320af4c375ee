/* generation: see generation.h. */
#include "server/process/generation.h"

#include <stdio.h>
#include <stdlib.h>

#include "server/base/log.h"
#include "server/base/mem.h"
#include "server/process/capacity.h"
#include "server/process/channel.h"
#include "server/process/mold_handle.h"
#include "server/process/notify.h"

static void copy_settings(struct settings *to, const struct settings *from)
{
    struct buf text = { 0 }, errors = { 0 };
    settings_init(to);
    settings_to_text(from, SOURCE_CONFIG_FILE, &text);
    settings_from_text(to, buf_str(&text), &errors); /* they were valid there */
    buf_done(&text);
    buf_done(&errors);
}

struct generation *generation_new(uint32_t number, const struct settings *given)
{
    struct generation *generation = mem_zalloc(sizeof(*generation));
    generation->number = number;
    copy_settings(&generation->settings, given);
    return generation;
}

void generation_free(struct generation *generation)
{
    if (!generation)
        return;
    settings_done(&generation->settings);
    free(generation);
}

/* As gunicorn: what systemd listens at is where the server listens. */
static void bind_passed(struct generation *generation)
{
    char text[32];
    struct buf errors = { 0 };
    for (int i = 0; i < generation->passed_listeners; i++) {
        if (i == 0)
            settings_set(&generation->settings, "bind", NULL, SOURCE_COMMAND_LINE, "$LISTEN_FDS", &errors);
        snprintf(text, sizeof(text), "fd://%d", NOTIFY_FIRST_FD + i);
        settings_set(&generation->settings, "bind", text, SOURCE_COMMAND_LINE, "$LISTEN_FDS", &errors);
    }
    buf_done(&errors);
}

/* A number takes the place of `auto`, and says where it comes from. */
static void count_workers(struct settings *settings)
{
    struct buf why = { 0 }, errors = { 0 };
    char number[16];
    if (settings->workers > 0)
        return;
    int workers = capacity_workers(settings->max_worker_memory, &why);
    buf_append(&why, "", 1);
    snprintf(number, sizeof(number), "%d", workers);
    log_info("workers = auto: %d, %s", workers, buf_str(&why).p);
    char *origin = mem_printf("%s, auto: %s", settings_origin(settings, "workers"), buf_str(&why).p);
    settings_set(settings, "workers", number, SOURCE_COMMAND_LINE, origin, &errors);
    free(origin);
    buf_done(&why);
    buf_done(&errors);
}

bool generation_configure(struct generation *generation, const struct channel_message *answer, struct buf *errors)
{
    struct str text = { answer->data, answer->len };
    generation->configured = settings_from_text(&generation->settings, text, errors) &&
                             settings_validate(&generation->settings, errors) &&
                             settings_has_app(&generation->settings, errors);
    bind_passed(generation);
    if (generation->configured)
        count_workers(&generation->settings);
    return generation->configured;
}

static int send_settings(const struct mold_handle *mold, enum channel_type type, const struct settings *settings)
{
    struct buf text = { 0 };
    settings_to_text(settings, SOURCE_CONFIG_FILE, &text);
    int outcome = channel_send(mold->channel, type, text.data ? buf_str(&text).p : "", buf_len(&text), NULL, 0);
    buf_done(&text);
    return outcome;
}

int generation_ask(const struct generation *generation, const struct settings *given)
{
    return send_settings(generation->mold, CHANNEL_SETTINGS, given);
}

int generation_tell(const struct generation *generation)
{
    return send_settings(generation->mold, CHANNEL_CONFIGURED, &generation->settings);
}
