/* The worker process: opens models, proves that they draw, then steps their batches and moves pictures between the
 * front's socket and memory and the engine. It knows no HTTP and keeps nothing that the front could not send again. */
#ifndef ASDM_WORKER_H
#define ASDM_WORKER_H

#include "wire/wire.h"

struct worker_model {
    struct wire_load load;
    struct asdm_model *model;
    struct asdm_batch *batch;
    struct wire_model capacity;
};

/* A picture in a batch. */
struct worker_picture {
    uint64_t id;       /* the front's; 0: free */
    uint64_t batch_id; /* the batch's */
    int model;
    struct wire_pixels result, preview;
    struct asdm_picture_progress told; /* last sent */
};

struct worker {
    int socket;
    uint8_t *memory; /* shared with the front */
    uint64_t memory_bytes;
    int model_count;
    struct worker_model models[WIRE_MODELS_MAX];
    int picture_count; /* as many as all batches hold */
    struct worker_picture *pictures;
};

/* What a round of the loop ends in. */
enum worker_end {
    WORKER_GOES_ON,
    WORKER_STOPPED /* by the front, or it is gone */,
    WORKER_BROKEN /* told the front */
};

/* Opens what the LOADs asked for, draws the canaries, has the batches, and says MODEL for each and READY. The error has
 * been told on failure. (load.c) */
enum worker_end worker_load(struct worker *worker);
void worker_unload(struct worker *worker);

/* Works until told to stop. (loop.c) */
enum worker_end worker_run(struct worker *worker);

/* ---- talking to the front (talk.c) */

/* Blocks until the front has taken the message. False: it is gone. */
bool worker_send(struct worker *worker, const struct wire_message *message);
bool worker_send_alive(struct worker *worker);
/* `id` 0: the whole worker, which is also said on stderr. False: the front is gone. */
bool worker_send_failed(struct worker *worker, uint64_t id, enum asdm_status status, const char *message);
/* Waits until there is something to receive, the end included. */
void worker_wait(const struct worker *worker);
/* The next message, waited for. False: the front is gone. */
bool worker_receive(struct worker *worker, struct wire_message *ret);

#endif
