/* Starting a worker program with a socket to it and memory shared with it, and seeing it end. */
#ifndef ASDM_FRONT_LINK_PROCESS_H
#define ASDM_FRONT_LINK_PROCESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <asdm/status.h>

struct process {
    pid_t pid;       /* 0: none */
    int socket;      /* -1: closed */
    uint8_t *memory; /* NULL: none */
    uint64_t memory_bytes;
};

/* The worker's program: `configured`, or asdm-worker beside this program or in ../libexec. malloc'ed. NOT_FOUND when
 * there is none that can be executed. */
enum asdm_status process_find(const char *configured, char **ret, struct asdm_error *err);

/* Every process has a socket and a memory of its own, so nothing that an earlier one does late can be seen. The worker
 * is killed by the kernel when the calling thread ends. */
enum asdm_status process_start(const char *program, uint64_t memory_bytes, struct process *ret, struct asdm_error *err);

/* kill -9, and no more talking; memory stays mapped until it is reaped. */
void process_kill(struct process *process);
/* True when it has ended: *ret_status as of waitpid, and *process is empty. Waits for it when `wait`. */
bool process_reap(struct process *process, bool wait, int *ret_status);

#endif
