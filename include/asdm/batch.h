/* Pictures in flight: submit requests, step them all together, poll for the finished ones. The command line is a batch
 * of one; a server's worker is a loop around this. One batch is used by one thread. */
#ifndef ASDM_BATCH_H
#define ASDM_BATCH_H

#include <asdm/model.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { ASDM_SIDE_MAX = 1 << 20 /* pixels; memory is the real limit */ };

enum asdm_request_rng { ASDM_REQUEST_PHILOX, ASDM_REQUEST_TORCH };

/* One picture. Pointers need to be valid during the submit only. */
struct asdm_request {
    const char *prompt, *negative_prompt; /* UTF-8; NULL: empty */
    int width, height;                    /* pixels, multiples of 8; 0: the model's own */
    int steps;
    const char *sampler, *schedule; /* any known name; NULL: the checkpoint's */
    double guidance_scale;          /* classifier-free guidance when > 1, which costs a second row */
    uint64_t seed;
    enum asdm_request_rng rng;
    const uint8_t *init_rgb; /* i2i: init_width * init_height * 3, resized to width x height; NULL: t2i */
    int init_width, init_height;
    double strength; /* i2i: 0 .. 1, how much of the schedule is run */
};

/* steps 25, guidance 7.5, strength 0.75, seed 0, philox, the rest NULL or 0. */
void asdm_request_init(struct asdm_request *request);

/* Checks a request against a model without running it, memory aside. ERR_ARGUMENT names the field and what it may be.
 */
enum asdm_status asdm_request_check(const struct asdm_model *model, const struct asdm_request *request,
                                    struct asdm_error *err);

struct asdm_batch;

/* A finished picture. */
struct asdm_picture {
    uint64_t id;
    int width, height;
    const uint8_t *rgb;   /* height * width * 3 */
    const float *latents; /* [4, height / 8, width / 8], before the decoder */
    size_t prompt_tokens; /* of the prompt; more than 75 were cut off */
};

enum asdm_status asdm_batch_create(struct asdm_model *model, int pictures_max, struct asdm_batch **ret,
                                   struct asdm_error *err);
void asdm_batch_destroy(struct asdm_batch **batch);

/* Takes a picture in: checks, encodes prompts and init image, plans its size. All memory that it will need is had now.
 * *ret_id is > 0. ERR_ARGUMENT for a bad request, ERR_MEMORY when the batch is full or the picture too large. */
enum asdm_status asdm_batch_submit(struct asdm_batch *batch, const struct asdm_request *request, uint64_t *ret_id,
                                   struct asdm_error *err);
/* The picture leaves at once. Unknown ids are ignored. */
void asdm_batch_cancel(struct asdm_batch *batch, uint64_t id);
/* One model evaluation for every picture that has one left; pictures may be at different steps, with different
 * samplers. Allocates nothing once each size and number of rows has been seen. *ret_worked (may be NULL): whether there
 * was anything to do. */
enum asdm_status asdm_batch_step(struct asdm_batch *batch, bool *ret_worked, struct asdm_error *err);
/* Steps done and in all of a picture; false when the id is unknown. */
bool asdm_batch_progress(const struct asdm_batch *batch, uint64_t id, int *ret_done, int *ret_total);
/* Decodes and hands out one finished picture, which leaves the batch: valid until the next call on it. *ret_found:
 * whether one was finished. */
enum asdm_status asdm_batch_poll(struct asdm_batch *batch, struct asdm_picture *ret, bool *ret_found,
                                 struct asdm_error *err);

#ifdef __cplusplus
}
#endif
#endif
