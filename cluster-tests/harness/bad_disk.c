/* Preloaded into a process: does to writes and syncs of its files what a control block says. See disk.rs.
 *
 * The block is a file that is mapped into memory, so that faults come and go while the process runs. Only files whose
 * path holds `files` are hit. Without a control block everything is as it was.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct control {
    volatile uint32_t sync_delay_ms;
    volatile uint32_t hangs;
    volatile uint32_t sync_error;  /* an errno, or 0 */
    volatile uint32_t write_error; /* an errno, or 0 */
    volatile uint32_t tears;       /* the first half is written, then there is an error */
    uint32_t hits;
    char files[232];
};

static struct control *control;

__attribute__((constructor)) static void map_control(void) {
    const char *path = getenv("QUORATE_TEST_DISK");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *block = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (block != MAP_FAILED) control = block;
}

static int is_hit(int fd) {
    if (!control || !control->files[0]) return 0;
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return strstr(path, control->files) != NULL;
}

static void count(void) { __atomic_fetch_add(&control->hits, 1, __ATOMIC_RELAXED); }

static void wait_ms(uint32_t ms) {
    struct timespec time = {ms / 1000, (long)(ms % 1000) * 1000000};
    while (nanosleep(&time, &time) != 0 && errno == EINTR) {}
}

static void hang(void) {
    if (!control->hangs) return;
    count();
    while (control->hangs) wait_ms(5);
}

/* What stands before a sync; an errno if it is to fail. */
static int before_sync(int fd) {
    if (!is_hit(fd)) return 0;
    hang();
    if (control->sync_delay_ms) {
        count();
        wait_ms(control->sync_delay_ms);
    }
    if (control->sync_error) count();
    return (int)control->sync_error;
}

/* What stands before a write; an errno if it is to fail. `tears` tells whether half of it is to be written first. */
static int before_write(int fd, int *tears) {
    *tears = 0;
    if (!is_hit(fd)) return 0;
    hang();
    if (control->write_error || control->tears) count();
    *tears = control->tears != 0;
    return *tears ? EIO : (int)control->write_error;
}

#define REAL(name) ((__typeof__(&name))real(#name))
static void *real(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) abort();
    return found;
}

#define SYNC(name)                            \
    int name(int fd) {                        \
        int error = before_sync(fd);          \
        if (!error) return REAL(name)(fd);    \
        errno = error;                        \
        return -1;                            \
    }
SYNC(fsync)
SYNC(fdatasync)

/* A write of one buffer: `half` writes the first half of it. */
#define WRITE(name, params, args, half)           \
    ssize_t name params {                         \
        int tears, error = before_write(fd, &tears); \
        if (!error) return REAL(name) args;       \
        if (tears && REAL(name) half < 0) return -1; \
        errno = error;                            \
        return -1;                                \
    }
WRITE(write, (int fd, const void *data, size_t size), (fd, data, size), (fd, data, size / 2))
WRITE(pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at), (fd, data, size / 2, at))
WRITE(pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at), (fd, data, size / 2, at))
WRITE(writev, (int fd, const struct iovec *data, int count), (fd, data, count), (fd, data, count / 2))
WRITE(pwritev, (int fd, const struct iovec *data, int count, off_t at), (fd, data, count, at),
      (fd, data, count / 2, at))
WRITE(pwritev64, (int fd, const struct iovec *data, int count, off64_t at), (fd, data, count, at),
      (fd, data, count / 2, at))
