/* scoreboard: see scoreboard.h. The mapping is sparse: only the slots that were ever used cost memory. */
#include "server/process/scoreboard.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static struct scoreboard *mapped; /* the last one */

static struct scoreboard *map(int fd)
{
    void *memory = mmap(NULL, sizeof(struct scoreboard), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        return NULL;
    madvise(memory, sizeof(struct scoreboard), MADV_DONTDUMP); /* most of it is a hole */
    mapped = memory;
    return memory;
}

struct scoreboard *scoreboard_new(int *fd)
{
    *fd = memfd_create("licorne-scoreboard", MFD_CLOEXEC);
    if (*fd < 0)
        return NULL;
    struct scoreboard *board = ftruncate(*fd, sizeof(struct scoreboard)) == 0 ? map(*fd) : NULL;
    if (!board) {
        int error = errno;
        close(*fd);
        *fd = -1;
        errno = error;
        return NULL;
    }
    board->version = SCOREBOARD_VERSION;
    board->slot_count = SCOREBOARD_SLOTS;
    return board;
}

/* The size is looked at before the mapping is touched: a shorter file would mean SIGBUS. */
struct scoreboard *scoreboard_map(int fd)
{
    struct stat file;
    if (fstat(fd, &file) != 0)
        return NULL;
    if ((size_t)file.st_size != sizeof(struct scoreboard)) {
        errno = EPROTO;
        return NULL;
    }
    struct scoreboard *board = map(fd);
    if (!board || (board->version == SCOREBOARD_VERSION && board->slot_count == SCOREBOARD_SLOTS))
        return board;
    munmap(board, sizeof(*board));
    mapped = NULL;
    errno = EPROTO;
    return NULL;
}

/* Where the shared memory was, there is private memory: requests and connections that the child lets go of write there. */
void scoreboard_leave(void)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
    if (mapped && mmap(mapped, sizeof(*mapped), PROT_READ | PROT_WRITE, flags, -1, 0) != MAP_FAILED)
        mapped = NULL;
}
