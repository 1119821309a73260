/* Stands before the C library's fdatasync in a router under test (LD_PRELOAD).
 *
 * The file named by FDATASYNC_MODE says what the next call does; without it the call is the real one.
 *   error   fails with EIO, after the data was written
 *   before  the process is killed before the data is synced
 *   after   the process is killed when the data is on disk, before anything can act on it
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int fdatasync(int fd) {
    static int (*real)(int);
    char mode[16] = {0};
    const char *path = getenv("FDATASYNC_MODE");
    if (real == NULL)
        real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file >= 0) {
        if (read(file, mode, sizeof mode - 1) < 0)
            mode[0] = 0;
        close(file);
    }
    if (strcmp(mode, "error") == 0) {
        errno = EIO;
        return -1;
    }
    if (strcmp(mode, "before") == 0)
        kill(getpid(), SIGKILL);
    int rc = real(fd);
    if (strcmp(mode, "after") == 0)
        kill(getpid(), SIGKILL);
    return rc;
}
