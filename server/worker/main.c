/* asdm-worker: started by asdmd with a socket on descriptor 3 and the shared memory on 4; of no use by hand. Exit 0:
 * the front asked for it or is gone; 1: failed, said on stderr and to the front; 2: not started by a front. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "worker/worker.h"

static void ignore_signals(void) {
    /* A Ctrl-C goes to the whole process group, a stop of the service to all its processes; the front decides. */
    static const int ignored[] = {SIGINT, SIGTERM, SIGHUP, SIGPIPE};
    for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++)
        signal(ignored[i], SIG_IGN);
    /* The front may die while we are in a long step. This is about the thread that started us, which in the front lives
     * as long as the process; if it died before this line, the closed socket says so. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}

/* Whether the descriptors are a front's. */
static bool attach(struct worker *worker) {
    struct stat info;
    int type;
    socklen_t size = sizeof type;
    if (getsockopt(WIRE_SOCKET_FD, SOL_SOCKET, SO_TYPE, &type, &size) != 0 || type != SOCK_SEQPACKET ||
        fstat(WIRE_MEMORY_FD, &info) != 0 || info.st_size <= 0)
        return false;
    void *memory = mmap(NULL, (size_t)info.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, WIRE_MEMORY_FD, 0);
    if (memory == MAP_FAILED)
        return false;
    *worker = (struct worker){.socket = WIRE_SOCKET_FD, .memory = memory, .memory_bytes = (uint64_t)info.st_size};
    return true;
}

int main(void) {
    static struct worker worker; /* too large for some stacks */
    ignore_signals();
    if (!attach(&worker)) {
        fputs("asdm-worker: is started by asdmd, not by hand\n", stderr);
        return 2;
    }
    enum worker_end end = worker_load(&worker);
    if (end == WORKER_GOES_ON)
        end = worker_run(&worker);
    worker_unload(&worker);
    return end == WORKER_BROKEN ? EXIT_FAILURE : EXIT_SUCCESS;
}
