#include <poll.h>
#include <stdio.h>

#include "worker/worker.h"

/* The front reads all the time and never waits for a worker; so long only when a debugger holds it. */
enum { SEND_TIMEOUT_MS = 60000 };

bool worker_send(struct worker *worker, const struct wire_message *message) {
    return wire_send(worker->socket, message, SEND_TIMEOUT_MS);
}

bool worker_send_alive(struct worker *worker) {
    return worker_send(worker, &(struct wire_message){.type = WIRE_ALIVE});
}

bool worker_send_failed(struct worker *worker, uint64_t id, enum asdm_status status, const char *message) {
    struct wire_message m = {.type = WIRE_FAILED, .id = id, .failed.status = (int32_t)status};
    snprintf(m.failed.message, sizeof m.failed.message, "%s", message);
    if (id == 0)
        fprintf(stderr, "asdm-worker: %s\n", message);
    return worker_send(worker, &m);
}

void worker_wait(const struct worker *worker) {
    struct pollfd p = {.fd = worker->socket, .events = POLLIN};
    poll(&p, 1, -1); /* all signals that come are ignored or end the process */
}

bool worker_receive(struct worker *worker, struct wire_message *ret) {
    for (;;) {
        enum wire_received received = wire_receive(worker->socket, ret);
        if (received != WIRE_NOTHING)
            return received == WIRE_RECEIVED;
        worker_wait(worker);
    }
}
