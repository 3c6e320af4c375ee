/* loop: inside another poller (loop_embed, loop_turn, loop_touch, loop_due_ms), and whoever lives on it (loop_join). */
#include "check.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/base/clock.h"
#include "server/net/loop.h"
#include "server/net/watch.h"

static int roused, rang, read_bytes, ran;

static void on_rouse(void *arg)
{
    (void)arg;
    roused++;
}

static void on_readable(struct watch *watch)
{
    char byte;
    (void)watch;
    read_bytes += (int)read(*(int *)watch->io.data, &byte, 1);
}

static void on_alarm(struct alarm *alarm)
{
    (void)alarm;
    rang++;
}

static void on_task(struct loop_task *task)
{
    (void)task;
    ran++;
}

/* As the other poller would do it. */
static bool is_ready(struct loop *loop)
{
    struct pollfd pollfd = { .fd = loop_poll_fd(loop), .events = POLLIN };
    return poll(&pollfd, 1, 0) == 1;
}

static struct loop *embedded(void)
{
    struct loop *loop = loop_new();
    roused = rang = read_bytes = ran = 0;
    loop_embed(loop, on_rouse, NULL);
    loop_turn(loop);
    return loop;
}

static void a_descriptor_that_is_ready_is_seen_from_outside(void)
{
    struct loop *loop = embedded();
    struct watch watch = { 0 };
    int pair[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    watch_start(&watch, loop, pair[0], on_readable);
    watch.io.data = &pair[0];
    CHECK_INT(roused, 1); /* the poller does not know of it yet */
    CHECK(!loop_turn(loop));
    CHECK(!is_ready(loop));
    CHECK_INT((int)write(pair[1], "x", 1), 1);
    CHECK(is_ready(loop));
    CHECK(!loop_turn(loop));
    CHECK_INT(read_bytes, 1);
    CHECK(!is_ready(loop));
    CHECK_INT(roused, 1);
    watch_stop(&watch);
    close(pair[0]);
    close(pair[1]);
    loop_free(loop);
}

static void a_timer_counts_from_now_although_the_loop_has_rested(void)
{
    struct loop *loop = embedded();
    struct alarm alarm = { 0 };
    CHECK_INT((int)loop_due_ms(loop), 0);
    uint64_t rested_ms = clock_ms();
    while (clock_ms() < rested_ms + 30)
        usleep(1000);
    CHECK(loop_now_ms(loop) >= rested_ms + 29);
    uint64_t set_ms = clock_ms();
    alarm_set(&alarm, loop, 20, on_alarm);
    CHECK_INT(roused, 1);
    CHECK(loop_due_ms(loop) >= set_ms + 20);
    while (clock_ms() < loop_due_ms(loop)) {
        CHECK(!loop_turn(loop));
        if (rang)
            break;
        usleep(1000);
    }
    loop_turn(loop);
    CHECK_INT(rang, 1);
    CHECK(clock_ms() >= set_ms + 20);
    CHECK_INT((int)loop_due_ms(loop), 0);
    loop_free(loop);
}

static void work_rouses_once(void)
{
    struct loop *loop = embedded();
    struct loop_task first, second;
    loop_task_init(&first, on_task);
    loop_task_init(&second, on_task);
    loop_defer(loop, &first);
    loop_defer_last(loop, &second);
    CHECK_INT(roused, 1);
    CHECK(!loop_turn(loop));
    CHECK_INT(ran, 2);
    loop_defer(loop, &first);
    CHECK_INT(roused, 2);
    CHECK(!loop_turn(loop));
    loop_free(loop);
}

static void a_loop_that_is_not_embedded_rouses_nobody(void)
{
    struct loop *loop = loop_new();
    struct loop_task task;
    roused = 0;
    loop_task_init(&task, on_task);
    loop_defer(loop, &task);
    loop_poll(loop, false);
    loop_settle(loop);
    CHECK_INT(roused, 0);
    loop_free(loop);
}

struct lodger {
    struct loop_tenant tenant;
    struct loop *loop;
    int told;
};

static void on_free(struct loop_tenant *tenant)
{
    struct lodger *lodger = LIST_ENTRY(tenant, struct lodger, tenant);
    lodger->told++;
    CHECK(loop_now_ms(lodger->loop) > 0); /* everything still works */
}

static void who_lives_there_is_told(void)
{
    struct loop *loop = loop_new();
    struct lodger lodgers[3] = { 0 };
    for (int i = 0; i < 3; i++) {
        list_init(&lodgers[i].tenant.node);
        lodgers[i].tenant.on_free = on_free;
        lodgers[i].loop = loop;
        loop_join(loop, &lodgers[i].tenant);
    }
    list_remove(&lodgers[1].tenant.node);
    loop_free(loop);
    CHECK_INT(lodgers[0].told, 1);
    CHECK_INT(lodgers[1].told, 0);
    CHECK_INT(lodgers[2].told, 1);
}

CHECK_MAIN(TEST(a_descriptor_that_is_ready_is_seen_from_outside),
           TEST(a_timer_counts_from_now_although_the_loop_has_rested), TEST(work_rouses_once),
           TEST(a_loop_that_is_not_embedded_rouses_nobody), TEST(who_lives_there_is_told))
