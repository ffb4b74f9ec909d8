/* Loaded into QEMU by LD_PRELOAD: system calls fail for files that a test names.
 *
 * The file that $FAULTS names holds lines of OPERATION ERRNO PROGRAM PATH; without it
 * nothing fails. OPERATION is write, read or flush; PROGRAM is the beginning of the
 * program's name. The call that fails is not made: the kernel knows nothing of it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static int fails(int fd, const char *operation)
{
    char link[64], path[PATH_MAX], line[PATH_MAX + 128];
    char op[16], program[32], wanted[PATH_MAX];
    const char *control = getenv("FAULTS");
    int number, found = 0;
    FILE *rules = control ? fopen(control, "re") : NULL;

    if (!rules)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length > 0 ? length : 0] = 0;
    while (!found && fgets(line, sizeof line, rules))
        if (sscanf(line, "%15s %d %31s %4095[^\n]", op, &number, program, wanted) == 4
            && !strcmp(op, operation) && !strcmp(wanted, path)
            && !strncmp(program, program_invocation_short_name, strlen(program)))
            found = number;
    fclose(rules);
    if (found)
        errno = found;
    return found;
}

#define FAULTY(result, name, operation, parameters, arguments)                  \
    result name parameters                                                      \
    {                                                                           \
        result(*real) parameters = dlsym(RTLD_NEXT, #name);                     \
        return fails(fd, operation) ? -1 : real arguments;                      \
    }

FAULTY(ssize_t, pwrite64, "write", (int fd, const void *b, size_t n, off64_t o), (fd, b, n, o))
FAULTY(ssize_t, pwritev64, "write", (int fd, const struct iovec *v, int n, off64_t o), (fd, v, n, o))
FAULTY(ssize_t, pread64, "read", (int fd, void *b, size_t n, off64_t o), (fd, b, n, o))
FAULTY(ssize_t, preadv64, "read", (int fd, const struct iovec *v, int n, off64_t o), (fd, v, n, o))
FAULTY(int, fallocate64, "write", (int fd, int m, off64_t o, off64_t n), (fd, m, o, n))
FAULTY(int, fsync, "flush", (int fd), (fd))
FAULTY(int, fdatasync, "flush", (int fd), (fd))
