/* Pictures in flight: submit requests, step them all together, poll for what is finished. The command line is a batch
 * of one; a server's worker is a loop around this. One batch is used by one thread. A picture's bytes do not depend on
 * what else is in the batch, unless the model was opened as batch_dependent. */
#ifndef ASDM_BATCH_H
#define ASDM_BATCH_H

#include <asdm/model.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { ASDM_SIDE_MAX = 1 << 20 /* pixels; memory is the real limit */ };

enum asdm_request_rng { ASDM_REQUEST_PHILOX, ASDM_REQUEST_TORCH };

/* PLAIN: one chunk of 75 tokens, the rest cut off, as diffusers does. A1111: (word), [word], (word:1.3), BREAK, and as
 * many chunks of 75 as the prompt needs, up to ASDM_LIMIT_PROMPT_CHUNKS. */
enum asdm_prompt_syntax { ASDM_PROMPT_PLAIN, ASDM_PROMPT_A1111 };

/* One picture. Pointers need to be valid during the submit only. */
struct asdm_request {
    const char *prompt, *negative_prompt; /* UTF-8; NULL: empty */
    enum asdm_prompt_syntax syntax;
    int width, height; /* pixels, multiples of 8; 0: the model's own */
    int steps;
    const char *sampler, *schedule; /* any known name; NULL: the checkpoint's */
    double guidance_scale;          /* classifier-free guidance when > 1, which costs a second row */
    uint64_t seed;
    enum asdm_request_rng rng;
    const uint8_t *init_rgb; /* i2i: init_width * init_height * 3, resized to width x height; NULL: t2i */
    int init_width, init_height;
    const uint8_t *mask; /* i2i: init_width * init_height, 255 where the picture is redrawn, 0 where it is kept; NULL:
                            everywhere */
    double strength;     /* i2i: 0 .. 1, how much of the schedule is run */
    int previews;        /* decoded on the way, evenly spread over the steps */
};

/* steps 25, guidance 7.5, strength 0.75, seed 0, philox, the rest NULL or 0. */
void asdm_request_init(struct asdm_request *request);

/* Checks a request against a model without running it, memory aside. ERR_ARGUMENT names the field and what it may be.
 */
enum asdm_status asdm_request_check(const struct asdm_model *model, const struct asdm_request *request,
                                    struct asdm_error *err);

struct asdm_batch;

struct asdm_batch_options {
    int pictures_max; /* held at once: waiting for rows, running, being decoded */
    int rows_max;     /* in the step; a picture has 2 with guidance, else 1. 0: as many as the pictures have */
};

enum asdm_status asdm_batch_create(struct asdm_model *model, const struct asdm_batch_options *options,
                                   struct asdm_batch **ret, struct asdm_error *err);
void asdm_batch_destroy(struct asdm_batch **batch);

/* Takes a picture in: checks it and has the memory that it will need; computes nothing. *ret_id is > 0. ERR_ARGUMENT
 * for a bad request, ERR_MEMORY when the batch is full or the picture too large. */
enum asdm_status asdm_batch_submit(struct asdm_batch *batch, const struct asdm_request *request, uint64_t *ret_id,
                                   struct asdm_error *err);
/* The picture leaves at once. Unknown ids are ignored. */
void asdm_batch_cancel(struct asdm_batch *batch, uint64_t id);

enum asdm_stage { ASDM_STAGE_TEXT, ASDM_STAGE_ENCODE, ASDM_STAGE_DENOISE, ASDM_STAGE_DECODE, ASDM_STAGE_COUNT };

/* What a step did. */
struct asdm_batch_report {
    bool worked;        /* whether there was anything to do */
    int rows, pictures; /* of the evaluation; 0 when there was none */
    double seconds;     /* of the evaluation alone */
};

/* One turn: encodes prompts and images, decodes finished pictures and previews, for about as long as a step takes, in
 * slices where one takes longer; then one model evaluation for every picture that has one left and for whose rows there
 * is room, in the order of submission; pictures may be at different steps, with different samplers. `ret` may be NULL.
 * An error is the whole batch's. */
enum asdm_status asdm_batch_step(struct asdm_batch *batch, struct asdm_batch_report *ret, struct asdm_error *err);

enum asdm_picture_state {
    ASDM_PICTURE_WAITING,  /* for its prompts and image to be encoded, or for rows */
    ASDM_PICTURE_RUNNING,  /* steps are being done */
    ASDM_PICTURE_DECODING, /* its rows are free again */
    ASDM_PICTURE_FINISHED, /* the next poll gives it */
};

struct asdm_picture_progress {
    enum asdm_picture_state state;
    int done, total; /* steps, as the request counts them */
};

/* False when the id is unknown. */
bool asdm_batch_progress(const struct asdm_batch *batch, uint64_t id, struct asdm_picture_progress *ret);
/* Asks for a preview of the picture as it is after its next step. */
void asdm_batch_preview(struct asdm_batch *batch, uint64_t id);

/* A picture, or what it would be after a step on the way. */
struct asdm_picture {
    uint64_t id;
    bool preview;
    int step; /* of a preview: steps done */
    int width, height;
    const uint8_t *rgb;   /* height * width * 3 */
    const float *latents; /* [4, height / 8, width / 8], before the decoder */
    size_t prompt_tokens; /* of the prompt; with PLAIN syntax more than 75 were cut off */
    double seconds[ASDM_STAGE_COUNT];
    enum asdm_status status; /* of this picture alone: not OK when it could not be made, and then there are no pixels */
    const char *message;
};

/* Hands out one finished picture (which leaves the batch) or preview: valid until the next call on the batch. Computes
 * nothing. False: there is none. */
bool asdm_batch_poll(struct asdm_batch *batch, struct asdm_picture *ret);

/* What a picture or a step needs beside the weights, in bytes: an upper bound that can be had before anything is
 * computed. */
enum asdm_status asdm_batch_memory(struct asdm_model *model, int width, int height, int rows, size_t *ret_bytes,
                                   struct asdm_error *err);

/* Memory of the device that the model is on, in bytes. */
struct asdm_memory {
    size_t device;  /* how much it has; 0: it is the process's own */
    size_t free;    /* now */
    size_t weights; /* of the UNet, the text encoder and the decoder: as laid out, or about what they will take */
    size_t plans;   /* asdm_batch_memory */
};

/* ERR_MEMORY, in words with all four, when what is still to come cannot fit on the device. */
enum asdm_status asdm_batch_plan_memory(struct asdm_model *model, int width, int height, int rows,
                                        struct asdm_memory *ret, struct asdm_error *err);

#ifdef __cplusplus
}
#endif
#endif
