/* The error log's form: one write a message, whatever its length, and no control byte of anybody's. */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "server/base/log.h"
#include "tests/unit/check.h"

#define LONG_BYTES 200000

static char got[LONG_BYTES * 4 + 1000];

static size_t read_back(int fd)
{
    ssize_t len = pread(fd, got, sizeof(got) - 1, 0);
    got[len > 0 ? len : 0] = '\0';
    return len > 0 ? (size_t)len : 0;
}

static void a_block_is_whole(void)
{
    int fd = memfd_create("log", MFD_CLOEXEC);
    char *text = malloc(LONG_BYTES);
    memset(text, 'x', LONG_BYTES);
    log_block(fd, LOG_LEVEL_ERROR, (struct str){ text, LONG_BYTES });
    size_t len = read_back(fd);
    const char *begin = strstr(got, "] [ERROR] ");
    CHECK(begin && strspn(begin + 10, "x") == LONG_BYTES);
    CHECK(got[len - 1] == '\n' && len == (size_t)(begin + 10 - got) + LONG_BYTES + 1);
    free(text);
    close(fd);
}

static void control_bytes_are_spelled_out(void)
{
    int fd = memfd_create("log", MFD_CLOEXEC);
    log_block(fd, LOG_LEVEL_WARNING, STR("a\x1b[2Jb\n\tc\r\x7f\0d"));
    read_back(fd);
    CHECK(strstr(got, "] [WARNING] a\\x1b[2Jb\n\tc\\x0d\\x7f\\x00d\n"));
    close(fd);
}

static void less_than_the_level_is_not_logged(void)
{
    int fd = memfd_create("log", MFD_CLOEXEC);
    log_block(fd, LOG_LEVEL_DEBUG, STR("nothing"));
    CHECK_INT(read_back(fd), 0);
    close(fd);
}

CHECK_MAIN(TEST(a_block_is_whole), TEST(control_bytes_are_spelled_out), TEST(less_than_the_level_is_not_logged))
