#include "front/link/process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <asdm/error.h>

#include "wire/wire.h"

enum {
    FD_FIRST = WIRE_MEMORY_FD + 1, /* out of the way of the numbers that the worker has them under */
    SOCKET_BUFFER_BYTES = 1 << 20, /* some 25 of the largest messages as the kernel counts; it may grant less */
    PATH_BYTES = 4096,
};

/* ---- the program */

enum asdm_status process_find(const char *configured, char **ret, struct asdm_error *err) {
    static const char *const places[] = {"asdm-worker", "../libexec/asdm-worker"};
    char path[PATH_BYTES], own[PATH_BYTES];
    if (configured) {
        if (access(configured, X_OK) != 0)
            return asdm_fail(err, ASDM_ERR_NOT_FOUND, "worker: %.500s: %s", configured, strerror(errno));
        *ret = strdup(configured);
        return *ret ? ASDM_OK : asdm_fail(err, ASDM_ERR_MEMORY, "no memory for a path");
    }
    ssize_t length = readlink("/proc/self/exe", own, sizeof own - 1);
    own[length > 0 ? length : 0] = '\0';
    char *slash = strrchr(own, '/');
    for (size_t i = 0; slash && i < sizeof places / sizeof *places; i++) {
        int size = snprintf(path, sizeof path, "%.*s/%s", (int)(slash - own), own, places[i]);
        if (size < (int)sizeof path && access(path, X_OK) == 0) {
            *ret = strdup(path);
            return *ret ? ASDM_OK : asdm_fail(err, ASDM_ERR_MEMORY, "no memory for a path");
        }
    }
    return asdm_fail(err, ASDM_ERR_NOT_FOUND, "asdm-worker is neither beside this program nor in ../libexec");
}

/* ---- start */

/* A descriptor from FD_FIRST up; `fd` is closed. */
static int move_up(int fd) {
    int moved = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, FD_FIRST);
    if (fd >= 0)
        close(fd);
    return moved;
}

static bool open_sockets(int sockets[2]) {
    int size = SOCKET_BUFFER_BYTES;
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        return false;
    for (int i = 0; i < 2; i++) {
        setsockopt(pair[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
        sockets[i] = move_up(pair[i]);
    }
    return sockets[0] >= 0 && sockets[1] >= 0;
}

/* Sealed, so that a worker gone mad cannot cut it and have the front die of SIGBUS. */
static bool open_memory(uint64_t bytes, int *ret_fd, uint8_t **ret) {
    *ret_fd = move_up(memfd_create("asdm-pixels", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (*ret_fd < 0 || ftruncate(*ret_fd, (off_t)bytes) != 0 ||
        fcntl(*ret_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
        return false;
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, *ret_fd, 0);
    if (memory == MAP_FAILED)
        return false;
    *ret = memory;
    return true;
}

/* 0 or an errno. The worker gets our stderr, the two descriptors, and nothing else that is open; signals as at birth.
 */
static int spawn(const char *program, int socket, int memory, pid_t *ret) {
    char *arguments[] = {(char[]){"asdm-worker"}, NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    int error = posix_spawn_file_actions_init(&actions);
    if (error)
        return error;
    error = posix_spawnattr_init(&attributes);
    if (!error) {
        if ((error = posix_spawn_file_actions_adddup2(&actions, socket, WIRE_SOCKET_FD)) == 0 &&
            (error = posix_spawn_file_actions_adddup2(&actions, memory, WIRE_MEMORY_FD)) == 0 &&
            (error = posix_spawn_file_actions_addclosefrom_np(&actions, WIRE_MEMORY_FD + 1)) == 0 &&
            (error = posix_spawnattr_setsigmask(&attributes, &none)) == 0 &&
            (error = posix_spawnattr_setsigdefault(&attributes, &all)) == 0 &&
            (error = posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF)) == 0)
            error = posix_spawn(ret, program, &actions, &attributes, arguments, environ);
        posix_spawnattr_destroy(&attributes);
    }
    posix_spawn_file_actions_destroy(&actions);
    return error;
}

static void close_fd(int fd) {
    if (fd >= 0)
        close(fd);
}

enum asdm_status process_start(const char *program, uint64_t memory_bytes, struct process *ret,
                               struct asdm_error *err) {
    struct process p = {.socket = -1, .memory_bytes = memory_bytes};
    int sockets[2] = {-1, -1}, memory_fd = -1;
    enum asdm_status status = ASDM_OK;
    if (!open_sockets(sockets) || !open_memory(memory_bytes, &memory_fd, &p.memory))
        status = asdm_fail(err, ASDM_ERR_IO, "a worker's socket or memory: %s", strerror(errno));
    int error = status == ASDM_OK ? spawn(program, sockets[1], memory_fd, &p.pid) : 0;
    if (error)
        status = asdm_fail(err, ASDM_ERR_IO, "the worker cannot be started: %s", strerror(error));
    close_fd(memory_fd);
    close_fd(sockets[1]);
    if (status == ASDM_OK) {
        p.socket = sockets[0];
        *ret = p;
        return ASDM_OK;
    }
    close_fd(sockets[0]);
    if (p.memory)
        munmap(p.memory, p.memory_bytes);
    return status;
}

/* ---- end */

void process_kill(struct process *process) {
    if (process->pid > 0)
        kill(process->pid, SIGKILL);
    close_fd(process->socket);
    process->socket = -1;
}

bool process_reap(struct process *process, bool wait, int *ret_status) {
    int status = 0;
    pid_t pid;
    do {
        pid = waitpid(process->pid, &status, wait ? 0 : WNOHANG);
    } while (pid < 0 && errno == EINTR);
    if (pid == 0)
        return false;
    if (process->memory)
        munmap(process->memory, process->memory_bytes);
    close_fd(process->socket);
    *process = (struct process){.socket = -1};
    *ret_status = pid > 0 ? status : 0; /* ECHILD: somebody ignores SIGCHLD; it has ended all the same */
    return true;
}
