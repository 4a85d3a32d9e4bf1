#include "run/denoiser.h"

#include <stdlib.h>
#include <string.h>

#include "asdm_limits.h"
#include <asdm/error.h>
#include "ops/rewrite.h"

enum { TIMESTEP_ROWS = 8, ROWS_MAX = 16 };

struct asdm_step_plan {
    struct asdm_step_plan *next;
    int rows, height, width;
    struct asdm_plan *plan;
};

/* Timesteps that are known, and how many pictures go through them. */
struct asdm_timesteps {
    struct asdm_timesteps *next;
    int first, count, holders; /* first: slot */
    float timesteps[];
};

static void destroy_step(struct asdm_step_plan *step) {
    asdm_plan_destroy(&step->plan);
    free(step);
}

enum asdm_status asdm_denoiser_create(struct asdm_denoiser *d, struct asdm_unet *unet, int tokens,
                                      struct asdm_backend *backend, struct asdm_weight_store *weights,
                                      struct asdm_error *err) {
    *d = (struct asdm_denoiser){.unet = *unet, .backend = backend, .weights = weights, .tokens = tokens};
    *unet = (struct asdm_unet){0};
    d->step_rows = asdm_build_sampler_input(d->unet.program, d->unet.latents);
    asdm_build_sampler(d->unet.program, d->unet.prediction, d->step_rows);
    enum asdm_status status = asdm_program_finish(d->unet.program, err);
    if (status == ASDM_OK)
        status = asdm_program_rewrite(d->unet.program, backend->class->rewrites, err);
    if (status == ASDM_OK)
        status = asdm_slab_create(&d->prompts, d->unet.program, backend, ASDM_RATE_PROMPT, err);
    if (status == ASDM_OK)
        status = asdm_slab_create(&d->timesteps, d->unet.program, backend, ASDM_RATE_SCHEDULE, err);
    if (status != ASDM_OK)
        asdm_denoiser_done(d);
    return status;
}

void asdm_denoiser_done(struct asdm_denoiser *d) {
    for (struct asdm_step_plan *step = d->steps, *next; step; step = next) {
        next = step->next;
        destroy_step(step);
    }
    for (struct asdm_timesteps *known = d->known_timesteps, *next; known; known = next) {
        next = known->next;
        free(known);
    }
    asdm_plan_destroy(&d->prompt_plan);
    asdm_plan_destroy(&d->timestep_plan);
    asdm_slab_done(&d->prompts);
    asdm_slab_done(&d->timesteps);
    asdm_program_destroy(&d->unet.program);
    *d = (struct asdm_denoiser){0};
}

/* The plan of a slow rate; sizes of the picture do not matter to it. */
static enum asdm_status slow_plan(struct asdm_denoiser *d, enum asdm_rate rate, int rows, struct asdm_plan **plan,
                                  struct asdm_error *err) {
    if (*plan)
        return ASDM_OK;
    return asdm_plan_create(d->unet.program, d->backend, d->weights, rate, rows, 1, 1, plan, err);
}

enum asdm_status asdm_denoiser_add_prompt(struct asdm_denoiser *d, const float *embeds, int *ret_slot,
                                          struct asdm_error *err) {
    int slot;
    ASDM_TRY(slow_plan(d, ASDM_RATE_PROMPT, 1, &d->prompt_plan, err));
    ASDM_TRY(asdm_slab_take(&d->prompts, 1, &slot, err));
    asdm_plan_bind(d->prompt_plan, d->unet.context, (void *)(uintptr_t)embeds);
    asdm_slab_bind(&d->prompts, d->prompt_plan, slot);
    enum asdm_status status = asdm_plan_run(d->prompt_plan, err);
    if (status != ASDM_OK)
        asdm_slab_give(&d->prompts, slot, 1);
    else
        *ret_slot = slot;
    return status;
}

void asdm_denoiser_drop_prompt(struct asdm_denoiser *d, int slot) {
    asdm_slab_give(&d->prompts, slot, 1);
}

static int whole_blocks(int count) {
    return (count + TIMESTEP_ROWS - 1) / TIMESTEP_ROWS * TIMESTEP_ROWS;
}

static void forget_timesteps(struct asdm_denoiser *d, struct asdm_timesteps *known) {
    asdm_slab_give(&d->timesteps, known->first, whole_blocks(known->count));
    free(known);
}

/* Forgets what was used longest ago, of those that nobody holds. */
static void trim_timesteps(struct asdm_denoiser *d) {
    int kept = 0;
    for (struct asdm_timesteps **link = &d->known_timesteps; *link;) {
        struct asdm_timesteps *known = *link;
        if (known->holders || (kept += known->count) <= ASDM_LIMIT_TIMESTEPS_KEPT) {
            link = &known->next;
        } else {
            *link = known->next;
            forget_timesteps(d, known);
        }
    }
}

/* Whether they are known; then they move to the front of the list. */
static bool find_timesteps(struct asdm_denoiser *d, const float *timesteps, int count) {
    for (struct asdm_timesteps **link = &d->known_timesteps; *link; link = &(*link)->next) {
        struct asdm_timesteps *known = *link;
        if (known->count != count || memcmp(known->timesteps, timesteps, (size_t)count * sizeof *timesteps) != 0)
            continue;
        *link = known->next;
        known->next = d->known_timesteps;
        d->known_timesteps = known;
        return true;
    }
    return false;
}

/* Runs the timesteps' program for slots from known->first on. */
static enum asdm_status embed_timesteps(struct asdm_denoiser *d, const struct asdm_timesteps *known,
                                        struct asdm_error *err) {
    for (int done = 0; done < known->count; done += TIMESTEP_ROWS) {
        float block[TIMESTEP_ROWS] = {0};
        int left = known->count - done, taken = left < TIMESTEP_ROWS ? left : TIMESTEP_ROWS;
        memcpy(block, known->timesteps + done, (size_t)taken * sizeof *block);
        asdm_plan_bind(d->timestep_plan, d->unet.timestep, block);
        asdm_slab_bind(&d->timesteps, d->timestep_plan, known->first + done);
        ASDM_TRY(asdm_plan_run(d->timestep_plan, err));
    }
    return ASDM_OK;
}

/* Computes what is to be known of them; at the front of the list. */
static enum asdm_status learn_timesteps(struct asdm_denoiser *d, const float *timesteps, int count,
                                        struct asdm_error *err) {
    int first;
    ASDM_TRY(slow_plan(d, ASDM_RATE_SCHEDULE, TIMESTEP_ROWS, &d->timestep_plan, err));
    ASDM_TRY(asdm_slab_take(&d->timesteps, whole_blocks(count), &first, err));
    struct asdm_timesteps *known = malloc(sizeof *known + (size_t)count * sizeof *timesteps);
    if (!known) {
        asdm_slab_give(&d->timesteps, first, whole_blocks(count));
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for timesteps");
    }
    *known = (struct asdm_timesteps){d->known_timesteps, first, count, 0};
    memcpy(known->timesteps, timesteps, (size_t)count * sizeof *timesteps);
    enum asdm_status status = embed_timesteps(d, known, err);
    if (status != ASDM_OK) {
        forget_timesteps(d, known);
        return status;
    }
    d->known_timesteps = known;
    return ASDM_OK;
}

enum asdm_status asdm_denoiser_add_timesteps(struct asdm_denoiser *d, const float *timesteps, int count, int *ret_first,
                                             struct asdm_error *err) {
    if (!find_timesteps(d, timesteps, count))
        ASDM_TRY(learn_timesteps(d, timesteps, count, err));
    d->known_timesteps->holders++;
    *ret_first = d->known_timesteps->first;
    return ASDM_OK;
}

void asdm_denoiser_drop_timesteps(struct asdm_denoiser *d, int first) {
    struct asdm_timesteps *known = d->known_timesteps;
    while (known->first != first)
        known = known->next;
    known->holders--;
    trim_timesteps(d);
}

int asdm_denoiser_rows(int wanted) {
    int rows = 1;
    while (rows * 2 <= wanted && rows < ROWS_MAX)
        rows *= 2;
    return rows;
}

/* Forgets the plans that were used longest ago, beyond the limits; the first stays. */
static void trim_steps(struct asdm_denoiser *d) {
    size_t bytes = 0;
    int count = 1;
    for (struct asdm_step_plan **link = &d->steps->next; *link;) {
        struct asdm_step_plan *step = *link;
        bytes += asdm_plan_bytes(step->plan);
        if (++count <= ASDM_LIMIT_STEP_PLANS && bytes <= (size_t)ASDM_LIMIT_STEP_PLAN_BYTES) {
            link = &step->next;
        } else {
            *link = step->next;
            destroy_step(step);
        }
    }
}

/* The plan of a shape, moved to the front of the list; NULL: there is none. */
static struct asdm_step_plan *find_step(struct asdm_denoiser *d, int rows, int height, int width) {
    for (struct asdm_step_plan **link = &d->steps; *link; link = &(*link)->next) {
        struct asdm_step_plan *step = *link;
        if (step->rows != rows || step->height != height || step->width != width)
            continue;
        *link = step->next;
        step->next = d->steps;
        return d->steps = step;
    }
    return NULL;
}

enum asdm_status asdm_denoiser_plan(struct asdm_denoiser *d, int rows, int height, int width,
                                    struct asdm_step_plan **ret, struct asdm_error *err) {
    struct asdm_step_plan *step = find_step(d, rows, height, width);
    if (step) {
        *ret = step;
        return ASDM_OK;
    }
    step = calloc(1, sizeof *step);
    if (!step)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory to plan %s", d->unet.program->name);
    *step = (struct asdm_step_plan){d->steps, rows, height, width, NULL};
    enum asdm_status status = asdm_plan_create(d->unet.program, d->backend, d->weights, ASDM_RATE_STEP, rows, height,
                                               width, &step->plan, err);
    if (status != ASDM_OK) {
        free(step);
        return status;
    }
    d->steps = step;
    trim_steps(d);
    *ret = step;
    return ASDM_OK;
}

void asdm_denoiser_start(struct asdm_denoiser *d, struct asdm_step_plan *step, const struct asdm_step_row *rows,
                         const int32_t *prompt_slots, const int32_t *timestep_slots) {
    asdm_slab_bind(&d->prompts, step->plan, 0);
    asdm_slab_bind(&d->timesteps, step->plan, 0);
    asdm_plan_map_rows(step->plan, ASDM_RATE_PROMPT, prompt_slots);
    asdm_plan_map_rows(step->plan, ASDM_RATE_SCHEDULE, timestep_slots);
    asdm_plan_bind(step->plan, d->step_rows, (void *)(uintptr_t)rows);
    asdm_plan_start(step->plan);
}

enum asdm_status asdm_denoiser_finish(struct asdm_step_plan *step, struct asdm_error *err) {
    return asdm_plan_finish(step->plan, err);
}

struct asdm_plan *asdm_step_plan_inner(struct asdm_step_plan *step) {
    return step->plan;
}
