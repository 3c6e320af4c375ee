/* The shared mapping: seen by another process, refused when it is not what this version expects. */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "server/process/scoreboard.h"
#include "tests/unit/check.h"

static void a_child_writes_and_the_master_reads(void)
{
    int fd, status;
    struct scoreboard *board = scoreboard_new(&fd);
    CHECK(board != NULL);
    CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    CHECK_INT(atomic_load(&board->slots[SCOREBOARD_SLOTS - 1].state), SLOT_FREE);
    pid_t child = fork();
    if (child == 0) {
        struct scoreboard *mine = scoreboard_map(fd);
        if (!mine)
            _exit(1);
        atomic_store(&mine->slots[7].tally.requests, 42);
        _exit(0);
    }
    waitpid(child, &status, 0);
    CHECK_INT(status, 0);
    CHECK_INT(atomic_load(&board->slots[7].tally.requests), 42);
    munmap(board, sizeof(*board));
    close(fd);
}

static void what_a_child_writes_that_has_left_nobody_sees(void)
{
    int fd, status;
    struct scoreboard *board = scoreboard_new(&fd);
    CHECK(board != NULL);
    pid_t child = fork();
    if (child == 0) {
        struct slot *slot = &board->slots[7];
        scoreboard_leave();
        scoreboard_leave(); /* once more is harmless */
        atomic_store(&slot->tally.requests, 42);
        _exit(atomic_load(&slot->tally.requests) == 42 ? 0 : 1);
    }
    waitpid(child, &status, 0);
    CHECK_INT(status, 0);
    CHECK_INT(atomic_load(&board->slots[7].tally.requests), 0);
    munmap(board, sizeof(*board));
    close(fd);
}

static void slots_share_no_cache_line(void)
{
    CHECK_INT(sizeof(struct slot) % 64, 0);
    CHECK_INT(offsetof(struct scoreboard, slots) % 64, 0);
}

static void unused_slots_cost_nothing(void)
{
    int fd;
    struct stat file;
    struct scoreboard *board = scoreboard_new(&fd);
    CHECK(board != NULL);
    CHECK_INT(fstat(fd, &file), 0);
    CHECK(file.st_blocks * 512 <= 8192);
    munmap(board, sizeof(*board));
    close(fd);
}

static void another_version_is_refused(void)
{
    int fd;
    struct scoreboard *board = scoreboard_new(&fd);
    CHECK(board != NULL);
    board->version++;
    CHECK(scoreboard_map(fd) == NULL);
    CHECK_INT(errno, EPROTO);
    munmap(board, sizeof(*board));
    close(fd);
}

static void another_size_is_refused(void)
{
    int fd = memfd_create("short", MFD_CLOEXEC);
    CHECK_INT(ftruncate(fd, 100), 0);
    CHECK(scoreboard_map(fd) == NULL);
    CHECK_INT(errno, EPROTO);
    close(fd);
    CHECK(scoreboard_map(-1) == NULL);
}

CHECK_MAIN(TEST(a_child_writes_and_the_master_reads),
           TEST(what_a_child_writes_that_has_left_nobody_sees), TEST(slots_share_no_cache_line), TEST(unused_slots_cost_nothing),
           TEST(another_version_is_refused), TEST(another_size_is_refused))
