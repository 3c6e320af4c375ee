/* master_events: what the hooks of the configuration file are told. They run in a mold, as the master has no Python: in
 * the serving generation's, or before there is one in the coming one's. A message that a busy mold does not take is lost:
 * the master waits for nobody. */
#include <errno.h>
#include <string.h>

#include "server/base/log.h"
#include "server/process/channel.h"
#include "server/process/generation.h"
#include "server/process/master.h"
#include "server/process/mold_handle.h"
#include "server/process/worker_handle.h"

static void tell(const struct mold_handle *mold, struct channel_event event)
{
    if (channel_send(mold->channel, CHANNEL_EVENT, &event, sizeof(event), NULL, 0) != 0)
        log_debug("A hook cannot be called: %s", strerror(errno));
}

static bool listens(const struct mold_handle *mold)
{
    return mold && (mold->hooks || mold->logs) && mold->state == MOLD_LOADED;
}

struct mold_handle *master_listening_mold(const struct master *master)
{
    const struct generation *generation = master->serving ? master->serving : master->coming;
    return generation && listens(generation->mold) ? generation->mold : NULL;
}

static void tell_workers(struct master *master, const struct generation *generation, const struct mold_handle *mold)
{
    int wanted = master_wanted_workers(master, generation), told = master->told_workers;
    if (wanted != told)
        tell(mold, (struct channel_event){ .kind = EVENT_WORKERS_CHANGED, .new_count = wanted, .old_count = told });
    master->told_workers = wanted;
}

void master_tell_loaded(struct master *master, struct mold_handle *mold)
{
    const struct generation *generation = master_generation(master, mold->generation);
    bool first = !master->started;
    master->started = true;
    if (!listens(mold) || !generation)
        return;
    tell_workers(master, generation, mold);
    if (first) {
        tell(mold, (struct channel_event){ .kind = EVENT_STARTING });
        tell(mold, (struct channel_event){ .kind = EVENT_READY });
    } else if (generation == master->coming && master->serving) {
        tell(mold, (struct channel_event){ .kind = EVENT_RELOAD });
    }
}

void master_tell_workers(struct master *master)
{
    const struct mold_handle *mold = master_listening_mold(master);
    if (mold)
        tell_workers(master, master_generation(master, mold->generation), mold);
}

static void tell_of_worker(const struct master *master, const struct worker_handle *worker, enum channel_event_kind kind)
{
    const struct mold_handle *mold = master_listening_mold(master);
    if (mold)
        tell(mold, (struct channel_event){ .kind = kind, .pid = (int32_t)worker->pid, .age = worker->age });
}

void master_tell_birth(const struct master *master, const struct worker_handle *worker)
{
    tell_of_worker(master, worker, EVENT_WORKER_BORN);
}

void master_tell_death(const struct master *master, const struct worker_handle *worker)
{
    tell_of_worker(master, worker, EVENT_WORKER_EXITED);
}

void master_tell_upgrade(const struct master *master)
{
    const struct mold_handle *mold = master_listening_mold(master);
    if (mold)
        tell(mold, (struct channel_event){ .kind = EVENT_UPGRADE });
}

void master_tell_exit(const struct master *master, const struct mold_handle *mold)
{
    if (mold && mold == master_listening_mold(master))
        tell(mold, (struct channel_event){ .kind = EVENT_EXIT });
}

bool master_needs_mold(const struct master *master, const struct mold_handle *mold)
{
    return mold && mold == master_listening_mold(master) && !list_empty(&master->workers);
}
