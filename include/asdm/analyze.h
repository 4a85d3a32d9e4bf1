/* How much of a UNet is redundant: what each unit (light.h) costs on this device, and what damage its removal alone
 * does; and the order in which they are best removed. Measured on the model's own denoising trajectories. */
#ifndef ASDM_ANALYZE_H
#define ASDM_ANALYZE_H

#include <asdm/light.h>
#include <asdm/model.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { ASDM_ANALYSIS_BLOCKS_MAX = 17, ASDM_ANALYSIS_PROMPTS_MAX = 4096 };

struct asdm_spread {
    double mean, deviation, min, quartiles[3], max; /* quartiles[1] is the median */
};

struct asdm_block_damage {
    char name[20]; /* "down_blocks.0", "mid_block", "up_blocks.0" */
    struct asdm_spread damage;
};

/* A set of units whose changes were made together ("removed", also of attention that was replaced), measured. The
 * damage of a row is |light - full| / |full| (Euclidean norms) of what the UNet predicts for the same latents, timestep
 * and prompt; its spread is over all rows. That of a block is the same of the block's result (its down- or upsampler
 * included), for the blocks that both UNets have. 1e6 is the most, and stands for numbers that overflowed. */
struct asdm_trial {
    unsigned removed; /* bits among the analysis' units */
    struct asdm_unet_size size;
    double full_ms; /* a call of the whole UNet: the median */
    double ms;      /* of the light one: full_ms times the median ratio of two calls one after the other */
    struct asdm_spread damage;
    int block_count; /* 0: blocks were not measured; they are for single units */
    struct asdm_block_damage blocks[ASDM_ANALYSIS_BLOCKS_MAX];
};

/* What a search for a light UNet has to reach: both 0: no end but that all units are gone. */
struct asdm_target {
    double speedup;   /* whole time / light time, at least */
    double budget_ms; /* of a call, at most */
};

struct asdm_analyze_progress {
    const char *what;       /* is being measured: "pair64+mid", "trajectories" */
    int done, total;        /* calls of it, or their like */
    int trial, trial_count; /* measured, and how many there are at most */
};

struct asdm_analyze_options {
    const char *const *prompts; /* [prompt_count], UTF-8; of a model without a tokenizer only their number counts */
    int prompt_count;
    int steps;                /* of the model's own sampler; the latents of every evaluation are kept */
    int rows;                 /* of the call that is timed, and of all others */
    int runs;                 /* timed calls of each UNet */
    int width, height;        /* pixels; 0: the model's own */
    int threads;              /* what the model was opened with: latencies of other numbers are not taken over */
    double guidance_scale;    /* of the trajectories; at most 1: none, and then no rows with the empty prompt */
    uint64_t seed;            /* of the first prompt's noise; the next have the next */
    int gri_window, gri_pool; /* of the units that are global-regional attention; 0: 16 and 4, or what the model has */
    struct asdm_target target;
    const char *gri;  /* "64,32": stages whose attention is global-regional in every set of a search; or NULL */
    const char *sets; /* "mid,pair64;pair32": measures these sets in place of a search; or NULL */
    const char *file; /* JSON: what it has is not measured again, and it is written anew after every trial; or NULL */
    const struct asdm_analysis *known; /* of the same model and options: its trials are taken over; or NULL */
    bool force;                        /* a `file` of another model or of other options is replaced */
    const char *latents;               /* safetensors that the calibration is written to; or NULL */
    /* Told of every call of a UNet; false ends the work with ERR_CANCELLED. NULL: nobody is told. */
    bool (*progress)(void *user, const struct asdm_analyze_progress *progress);
    void *user;
};

/* 12 built-in prompts, 10 steps, 2 rows, 15 runs, guidance 7.5. */
void asdm_analyze_options_init(struct asdm_analyze_options *options);

struct asdm_analysis {
    char *model, *device, *dtype, *sampler;
    uint64_t fingerprint; /* of UNet, text encoder and timesteps */
    int rows, steps, runs, width, height, threads, gri_window, gri_pool, prompt_count;
    double guidance_scale;
    uint64_t seed;
    char **prompts;
    int evaluations, row_count; /* per prompt; in all: prompts x evaluations x (conditional and unconditional) */
    bool random_weights;        /* damage means nothing */
    struct asdm_unet_size full;
    struct asdm_unit units[ASDM_UNITS_MAX];
    int unit_count;
    /* Stages whose map one window of global-regional attention covers: it changes nothing there, nothing is measured.
     */
    struct asdm_unit covered[ASDM_UNITS_MAX];
    int covered_count;
    struct asdm_trial *trials; /* in the order in which they were measured */
    int trial_count, trial_room;
    int reused;                    /* trials that the file already had */
    unsigned path[ASDM_UNITS_MAX]; /* greedy search: the sets, each with one unit more than the one before */
    int path_count;                /* 0: no search */
    unsigned given;                /* what every set of the search has */
    unsigned chosen;               /* with a target: the least damage of all measured sets that reach it */
};

/* Measures. Trajectories are those that generating pictures takes: the checkpoint's sampler, guidance, philox noise.
 * Each unit alone first; then, from nothing, in every round each unit that is left together with those already removed,
 * of which the one with the least additional damage per additional millisecond saved goes for good: what is compared is
 * measured, not summed. With a target the rounds end when it is reached, and are tried again without the unit that
 * reached it; then units are put back as long as it stays reached, and exchanged as long as that does less damage; the
 * choice is the set of least damage among all that were measured and reach it, and of those within a tenth of a percent
 * of that the one that keeps most parameters.
 *
 * `latents` gets F32 "latents" [prompts * evaluations, 4, h, w] as the UNet sees them, "timesteps" [evaluations] and
 * "embeds" [prompts + 1, 77, width], the last for the empty prompt.
 *
 * ERR_ARGUMENT: options out of range, a set with an unknown unit, a target that removing everything does not reach
 * (with what it does reach), a `file` of something else (with what differs). ERR_CANCELLED: what was measured until
 * then is in `file`. */
enum asdm_status asdm_analyze(struct asdm_model *model, const struct asdm_analyze_options *options,
                              struct asdm_analysis **ret, struct asdm_error *err);
void asdm_analysis_destroy(struct asdm_analysis **analysis);

/* What `path` holds; NOT_FOUND, ERR_FORMAT. */
enum asdm_status asdm_analysis_read(const char *path, struct asdm_analysis **ret, struct asdm_error *err);
/* Whether it is of this model, device and data type. ERR_ARGUMENT says what differs. */
enum asdm_status asdm_analysis_fits(const struct asdm_analysis *analysis, const struct asdm_model *model,
                                    struct asdm_error *err);

/* The options that make such an analysis again: all but target, sets, files and progress. They point into it, and know
 * it. */
void asdm_analysis_options(const struct asdm_analysis *analysis, struct asdm_analyze_options *ret);

/* The trial of a set; NULL: not measured. */
const struct asdm_trial *asdm_analysis_trial(const struct asdm_analysis *analysis, unsigned removed);
/* A call of the whole UNet: the median of what the trials measured; 0: there is none. */
double asdm_analysis_full_ms(const struct asdm_analysis *analysis);
/* What a set saves of that: by the ratio of its trial, so that trials of quiet and of busy minutes compare. */
double asdm_analysis_saved_ms(const struct asdm_analysis *analysis, const struct asdm_trial *trial);
/* "pair64,mid"; "" for none. At most `room` bytes with the NUL. */
void asdm_analysis_names(const struct asdm_analysis *analysis, unsigned removed, char *text, size_t room);

#ifdef __cplusplus
}
#endif
#endif
