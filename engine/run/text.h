/* The text encoder at work. */
#ifndef ASDM_TEXT_H
#define ASDM_TEXT_H

#include "model/build.h"
#include "ops/plan.h"

struct asdm_text {
    struct asdm_text_encoder encoder;
    struct asdm_backend *backend;
    struct asdm_weight_store *weights;
    int tokens, width;      /* of the embeddings */
    struct asdm_plan *plan; /* of one prompt */
};

/* Rewrites the program for the back end; takes the encoder over. */
enum asdm_status asdm_text_create(struct asdm_text *text, struct asdm_text_encoder *encoder, int tokens, int width,
                                  struct asdm_backend *backend, struct asdm_weight_store *weights,
                                  struct asdm_error *err);
void asdm_text_done(struct asdm_text *text);

/* Makes the plan, so that encoding allocates nothing. */
enum asdm_status asdm_text_prepare(struct asdm_text *text, struct asdm_error *err);

/* ids [tokens] -> embeds [tokens][width]. The ids are within the vocabulary. */
enum asdm_status asdm_text_encode(struct asdm_text *text, const int32_t *ids, float *embeds, struct asdm_error *err);

#endif
