/* Light models: a checkpoint with fewer layers and cheaper attention, whose weights are the original's (A-SDM, arXiv
 * 2312.15516; the map of BK-SDM, arXiv 2305.15798). */
#ifndef ASDM_LIGHT_H
#define ASDM_LIGHT_H

#include <stdbool.h>
#include <stdint.h>

#include <asdm/status.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { ASDM_UNITS_MAX = 17 };

/* A change of the UNet's configuration that makes it lighter by itself. PAIR: layer 1 of a stage goes, on its way down
 * and on its way up; named by the height of the stage's map ("pair64" of a model for 64x64 latents). MID: the middle
 * block goes ("mid"). GRI: the stage's self-attention becomes global-regional ("gri64"); no weight goes. */
enum asdm_unit_kind { ASDM_UNIT_PAIR, ASDM_UNIT_MID, ASDM_UNIT_GRI };

struct asdm_unit {
    char name[16];
    enum asdm_unit_kind kind;
    int stage;
    int window, pool; /* of GRI */
};

/* "pair", "mid", "gri". */
const char *asdm_unit_kind_name(enum asdm_unit_kind kind);

/* Of the UNet, for its own size of latents. */
struct asdm_unet_size {
    int64_t parameters;
    double gmac;      /* of a row, attention counted */
    double step_gmac; /* of them, what each step is left with after the exact rewrites */
    int64_t bytes;
};

struct asdm_light_report {
    struct asdm_unit units[ASDM_UNITS_MAX]; /* pairs and the middle block that the model has */
    int unit_count;
    struct asdm_unet_size before, after;
};

struct asdm_light_options {
    const char *remove;       /* names of units, comma-separated; or NULL */
    const char *gri;          /* stages that get global-regional attention, by the heights of their maps; or NULL */
    int gri_window, gri_pool; /* 0: 16 and 4, or what the model has */
    const char *architecture; /* instead of a path, to plan for: as for asdm_model_open_random; or NULL */
    const char *condconv;     /* "full" or "timestep": the layers that are removed become experts of conditional
                               * convolutions in those that stay, routed so; "off" or NULL: they do not */
    bool dry_run;             /* nothing is written */
    bool force;               /* an `out` that exists is replaced */
    /* SHA-256 of a file in hexadecimal digits, for the light model's lineage; NULL, or false: left out. */
    bool (*sha256)(const char *path, char ret[65]);
};

/* Writes the directory `out`: the model at `path` (a diffusers directory) without the units; every weight that stays is
 * copied bit by bit, in the up blocks layer 1 is the original's layer 2. unet/config.json says under "asdm" what it is
 * and what it came from. Written beside, synced and renamed. ERR_ARGUMENT for a unit or a stage that the model does not
 * have (named, with those it has), for options that ask for nothing, and for an `out` that exists or is inside the
 * model; ERR_UNSUPPORTED for one-file checkpoints and, but for a dry run, architectures. *ret is filled in as far as it
 * is known. */
enum asdm_status asdm_light_prune(const char *path, const char *out, const struct asdm_light_options *options,
                                  struct asdm_light_report *ret, struct asdm_error *err);

/* Whether asdm_light_prune would take these options if `remove` named some unit: for callers that spend minutes on
 * choosing what to remove. Nothing is written. */
enum asdm_status asdm_light_check(const char *path, const struct asdm_light_options *options, struct asdm_error *err);

#ifdef __cplusplus
}
#endif
#endif
