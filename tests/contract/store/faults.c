/* Preloaded into a process: disk faults on the hub's database, switched on and off through a file.
 *
 * LORADECK_FAULT names a file whose first byte is the fault:
 *   -  none
 *   s  fsync and fdatasync fail with EIO and do nothing
 *   d  fsync and fdatasync fail with EIO after they have done their work
 *   w  writes fail with ENOSPC
 * LORADECK_SYNCS names a file to which one byte is appended for each fsync or fdatasync that was asked for.
 * Only files with "hub.db" in their path are concerned.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int ours(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return strstr(path, "hub.db") != NULL && strstr(path, "hub.db.lock") == NULL;
}

static char fault(void) {
    char mode = '-';
    const char *file = getenv("LORADECK_FAULT");
    int fd = file ? open(file, O_RDONLY | O_CLOEXEC) : -1;
    if (fd >= 0) {
        if (read(fd, &mode, 1) != 1) mode = '-';
        close(fd);
    }
    return mode;
}

static void count(void) {
    const char *file = getenv("LORADECK_SYNCS");
    int fd = file ? open(file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (fd >= 0) {
        if (write(fd, ".", 1) != 1) abort();
        close(fd);
    }
}

static int sync_with(int fd, const char *name) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    if (!ours(fd)) return real(fd);
    count();
    char mode = fault();
    if (mode == 's' || mode == 'd') {
        if (mode == 'd') real(fd);
        errno = EIO;
        return -1;
    }
    return real(fd);
}

int fsync(int fd) { return sync_with(fd, "fsync"); }
int fdatasync(int fd) { return sync_with(fd, "fdatasync"); }

static ssize_t write_with(int fd, const void *data, size_t n, off_t at, const char *name) {
    ssize_t (*real)(int, const void *, size_t, off_t) = (ssize_t (*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, name);
    if (ours(fd) && fault() == 'w') {
        errno = ENOSPC;
        return -1;
    }
    return real(fd, data, n, at);
}

ssize_t pwrite(int fd, const void *data, size_t n, off_t at) { return write_with(fd, data, n, at, "pwrite"); }
ssize_t pwrite64(int fd, const void *data, size_t n, off_t at) { return write_with(fd, data, n, at, "pwrite64"); }
