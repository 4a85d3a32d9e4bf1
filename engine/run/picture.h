/* One picture in flight: a slot of a batch. Prompts, timesteps, a sampler table and a place in it; latents and history
 * are in its state. What a step does to them is said in struct asdm_step_row and done in the back end. */
#ifndef ASDM_RUN_PICTURE_H
#define ASDM_RUN_PICTURE_H

#include "run/prompts.h"
#include "run/request.h"
#include "run/state.h"

enum { ASDM_PICTURE_GUIDED, ASDM_PICTURE_PLAIN, ASDM_PICTURE_PROMPTS };

/* What has to happen next. */
enum asdm_picture_phase {
    ASDM_PHASE_FREE,   /* no picture in the slot */
    ASDM_PHASE_TEXT,   /* prompts and timesteps are to be encoded */
    ASDM_PHASE_ENCODE, /* the init image is to be encoded */
    ASDM_PHASE_READY,  /* waits for rows */
    ASDM_PHASE_RUNNING,
    ASDM_PHASE_DECODE,
    ASDM_PHASE_FINISHED /* or failed: to be handed out */
};

struct asdm_flight {
    uint64_t id;
    enum asdm_picture_phase phase;
    struct asdm_order order;
    struct asdm_sampler_table *table;
    struct asdm_rng rng;
    double guidance_scale;
    int next;      /* row of the table */
    int fine_rows; /* the table's first rows run in fine precision */
    struct asdm_prompt prompts[ASDM_PICTURE_PROMPTS];
    struct asdm_prompt_entry *entries[ASDM_PICTURE_PROMPTS]; /* from ASDM_PHASE_ENCODE on */
    int timestep_first[ASDM_PRECISION_COUNT];                /* slot of the first; ASDM_NONE */
    size_t count;                                            /* numbers of the latents */
    struct asdm_state *state;                                /* the slot's, fitted to this picture */
    void *memory;                                            /* all that follow */
    size_t memory_bytes;
    uint8_t *rgb, *preview_rgb;
    /* i2i */
    float *pixels, *moments;      /* of the init image */
    uint8_t *init_rgb;            /* resized */
    uint8_t *pixel_mask;          /* of the picture's size; or NULL */
    int previews;                 /* wanted, evenly spread */
    bool preview_asked;           /* after the next step that has room for it */
    bool clean_wanted;            /* the step under way predicts what a preview shows */
    bool preview_due;             /* the state's `clean` is to be decoded */
    bool preview_done;            /* preview_rgb is to be handed out */
    int clean_step, preview_step; /* steps done */
    double seconds[ASDM_STAGE_COUNT];
    enum asdm_status status; /* of FINISHED */
    char message[256];
    bool due; /* within a step: not evaluated yet */
};

/* Sizes of which one model can hold pictures, the last ones asked for: to find that out costs a plan. */
struct asdm_flight_sizes {
    struct asdm_flight_size {
        int rows, height, width; /* rows 0: none */
    } known[ASDM_LIMIT_KNOWN_SIZES];
    int next; /* the one to be replaced */
};

/* Checks the request, tokenizes, and has the picture's memory, `state` fitted. On failure nothing is held. */
enum asdm_status asdm_flight_create(struct asdm_model *model, struct asdm_flight_sizes *sizes, struct asdm_state *state,
                                    const struct asdm_request *request, uint64_t id, struct asdm_flight *ret,
                                    struct asdm_error *err);
/* Frees the slot. */
void asdm_flight_drop(struct asdm_flight *flight, struct asdm_model *model, struct asdm_prompts *prompts);
/* It leaves with an error in place of pixels. */
void asdm_flight_fail(struct asdm_flight *flight, const struct asdm_error *err);

int asdm_flight_rows(const struct asdm_flight *flight);
enum asdm_precision asdm_flight_precision(const struct asdm_flight *flight); /* of the next evaluation */
int asdm_flight_chunks(const struct asdm_flight *flight);

/* ASDM_PHASE_TEXT: prompts and timesteps; then the picture is at ENCODE, READY or DECODE. */
enum asdm_status asdm_flight_encode_text(struct asdm_flight *flight, struct asdm_model *model,
                                         struct asdm_prompts *prompts, struct asdm_error *err);
/* The first latents, t2i or from `moments`, to the back end's memory; then READY, or DECODE when there is nothing to
 * evaluate. Only devices fail. */
enum asdm_status asdm_flight_start(struct asdm_flight *flight, const struct asdm_model *model, struct asdm_error *err);

/* What the next evaluation does: its rows of a call [asdm_flight_rows], and their slots; the negative prompt's first,
 * as diffusers has them. */
void asdm_flight_fill_rows(struct asdm_flight *flight, const struct asdm_model *model, struct asdm_step_row *rows,
                           int32_t *prompt_slots, int32_t *timestep_slots);
/* While the call runs: draws the noise of the evaluation after this one. */
void asdm_flight_draw_ahead(struct asdm_flight *flight);
/* After the call: on to the next evaluation, or to DECODE. */
void asdm_flight_advance(struct asdm_flight *flight);

/* After decoding: rgb outside the mask is the init image's. */
void asdm_flight_paste(struct asdm_flight *flight, uint8_t *rgb);

#endif
