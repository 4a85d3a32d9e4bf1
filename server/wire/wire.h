/* What front and worker say to each other: fixed-size messages over a SOCK_SEQPACKET pair, one message a packet, and
 * pixels in a memfd that the front divides. Both ends are the same build on one machine, so structures travel as they
 * are; the version and the size of struct wire_message are checked in the first message. */
#ifndef ASDM_WIRE_H
#define ASDM_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <asdm/batch.h>

enum { WIRE_VERSION = 1, WIRE_PROMPT_MAX = 8192, WIRE_NAME_MAX = 64, WIRE_MODELS_MAX = 16 };
enum { WIRE_SOCKET_FD = 3, WIRE_MEMORY_FD = 4 }; /* of the worker process */

enum wire_type {
    /* front -> worker */
    WIRE_LOAD,    /* opens one model; `load` */
    WIRE_START,   /* all models told: load them, draw the canaries, then READY */
    WIRE_SUBMIT,  /* one picture; `submit` */
    WIRE_CANCEL,  /* `id`; always answered by FAILED with ASDM_ERR_CANCELLED, after which its places are not written */
    WIRE_PREVIEW, /* `id`: after its next step */
    WIRE_STOP,    /* end in order, exit 0 */
    /* worker -> front */
    WIRE_HELLO,    /* first message, unasked; version and sizes */
    WIRE_MODEL,    /* a model is loaded and has drawn its canary; `model` */
    WIRE_READY,    /* all are */
    WIRE_ALIVE,    /* between long pieces of work, so that the watchdog knows */
    WIRE_STEP,     /* one evaluation: `step`; the pictures' own progress follows */
    WIRE_PROGRESS, /* `progress` of picture `id` */
    WIRE_PICTURE,  /* `picture`: pixels are in shared memory (a preview's or the finished one's) */
    WIRE_FAILED,   /* `failed`: this picture alone (id > 0), or the worker, which then exits (id 0) */
};

/* Models are numbered in the order of their LOAD, from 0. Empty texts: the default. */
struct wire_load {
    char name[WIRE_NAME_MAX], path[4096], tokenizer[4096], plan[4096], device[32], dtype[16];
    int32_t threads, rows_max, pictures_max; /* as configured; 0: the worker's choice */
    int32_t batch_dependent;                 /* 1: bytes may depend on the batch */
    uint64_t memory_bytes;                   /* beside the weights; 0: what the machine has free */
};

/* A place in the shared memory. */
struct wire_pixels {
    uint64_t offset, bytes;
    int32_t width, height;
};

/* The place for a picture's previews: this, then WIRE_PREVIEW_SLOTS pictures. The worker fills an empty slot and marks
 * it; the front empties it once read. A preview that finds no empty slot is dropped, so none is seen half-written. */
enum { WIRE_PREVIEW_SLOTS = 2 };
struct wire_previews {
    _Atomic uint32_t full[WIRE_PREVIEW_SLOTS];
    uint32_t unused[14]; /* pictures start on a cache line of their own */
};

/* Of the pixels of one picture, RGB. */
static inline uint64_t wire_picture_bytes(int width, int height) {
    return (uint64_t)width * (uint64_t)height * 3;
}

struct wire_submit {
    int32_t model, width, height, steps, syntax, rng, previews;
    char sampler[WIRE_NAME_MAX], schedule[WIRE_NAME_MAX];
    double guidance_scale, strength;
    uint64_t seed;
    struct wire_pixels init, mask; /* bytes 0: none; RGB and 8-bit grey */
    struct wire_pixels result,
        preview; /* where the worker writes RGB of width x height; preview: struct wire_previews */
    uint32_t prompt_bytes, negative_bytes; /* without NUL; texts[] holds both, each ended by a NUL */
    char texts[2 * (WIRE_PROMPT_MAX + 1)];
};

struct wire_model {
    int32_t model, default_width, default_height, rows_max, pictures_max;
    char device[32], dtype[16], sampler[WIRE_NAME_MAX];
    uint64_t memory_bytes;                              /* what rows_max is for */
    uint64_t bytes_fixed, bytes_per_row_pixel;          /* memory of a step: fixed + per * rows * width * height */
    uint64_t device_bytes;                              /* memory that the device has; 0: it is the machine's own */
    uint64_t device_free, device_weights, device_plans; /* of it: now; the model's weights; its plans at the most */
    uint64_t row_pixels_max; /* rows * width * height in flight at once, and of one picture */
};

struct wire_step {
    int32_t model, rows, pictures;
    double seconds;
};

struct wire_progress {
    int32_t state; /* enum asdm_picture_state */
    int32_t done, total;
};

struct wire_picture {
    int32_t preview, step; /* preview: 1, and the evaluations done */
    int32_t slot;          /* of a preview */
    double seconds[ASDM_STAGE_COUNT];
    uint64_t prompt_tokens;
};

struct wire_failed {
    int32_t status; /* enum asdm_status */
    char message[256];
};

struct wire_message {
    uint32_t type, version;
    uint64_t id;            /* the picture's, given by the front in WIRE_SUBMIT; 0: none */
    uint64_t message_bytes; /* HELLO: sizeof(struct wire_message) */
    union {
        struct wire_load load;
        struct wire_submit submit;
        struct wire_model model;
        struct wire_step step;
        struct wire_progress progress;
        struct wire_picture picture;
        struct wire_failed failed;
    };
};

/* Sends what the type needs of the message, not all of it. Blocks at most `timeout_ms`; false: the other end is gone
 * or does not read. */
bool wire_send(int fd, const struct wire_message *message, int timeout_ms);

enum wire_received { WIRE_RECEIVED, WIRE_NOTHING /* would block */, WIRE_GONE /* closed, or not a message of ours */ };
/* Never blocks. Lengths and types are checked, texts are NUL-terminated; what did not travel is zero. */
enum wire_received wire_receive(int fd, struct wire_message *ret);

#endif
