/* One worker process as the front sees it: started, told its models, fed pictures, watched, killed when it hangs, and
 * started anew. Used by the dispatcher's thread only, which waits on link_fd and link_timeout_ms. Knows nothing of
 * jobs: a picture is an id and what to draw. */
#ifndef ASDM_FRONT_LINK_H
#define ASDM_FRONT_LINK_H

#include <asdm/png.h>

#include "front/config.h"
#include "wire/wire.h"

/* What to draw. Pointers are borrowed during link_submit; pixels are copied into shared memory. */
struct link_picture {
    int model; /* index in the configuration */
    const char *prompt, *negative_prompt, *sampler, *schedule;
    enum asdm_prompt_syntax syntax;
    int width, height, steps, previews;
    double guidance_scale, strength; /* strength: i2i */
    uint64_t seed;
    enum asdm_request_rng rng;
    const struct asdm_image *init; /* NULL: t2i */
    const uint8_t *mask;           /* of init's size; NULL: none */
};

enum link_event_type {
    LINK_MODEL,    /* a model is ready: `model`, and what it can hold: `capacity` */
    LINK_READY,    /* the worker takes pictures */
    LINK_STEP,     /* `step` */
    LINK_PROGRESS, /* picture `id`: `progress` */
    LINK_PREVIEW,  /* picture `id`: `picture`, `rgb` valid during the call */
    LINK_PICTURE,  /* the same, finished: it has left the worker */
    LINK_FAILED,   /* picture `id` alone: `failed`; it has left the worker */
    LINK_DIED, /* the process is gone, with all pictures it had (link_submit must be called again for them); a new one
                  is started by itself, after a growing pause when it dies while loading. `reason` is static:
                  "killed", "crashed", "hung", "load"; `failed`: its last words (with paths), or NULL. Not after
                  link_stop */
};

struct link_event {
    enum link_event_type type;
    uint64_t id;
    int model; /* index in the configuration */
    const struct wire_model *capacity;
    const struct wire_step *step;
    const struct wire_progress *progress;
    const struct wire_picture *picture;
    const uint8_t *rgb; /* the picture's width * height * 3 */
    int width, height;
    const struct wire_failed *failed;
    const char *reason;
};

typedef void link_handler(void *user, const struct link_event *event);

struct link;

/* `models`: indices in config->models that this worker serves. Starts the process at the first link_turn. */
enum asdm_status link_create(const struct config *config, const int *models, int model_count, link_handler *handler,
                             void *user, struct link **ret, struct asdm_error *err);
/* Kills and reaps a worker that still runs. */
void link_destroy(struct link **link);

int link_fd(const struct link *link);         /* to poll for reading; -1: no process now */
int link_timeout_ms(const struct link *link); /* until link_turn must be called again; -1: nothing pending */
/* Reads all messages and calls the handler for each, sees to the watchdog, death and start. Never blocks. The handler
 * may submit, cancel and ask for previews. The thread that calls this must live as long as the process: the kernel ends
 * a worker with the thread that started it. */
void link_turn(struct link *link);

bool link_is_ready(const struct link *link);
int link_pid(const struct link *link); /* 0: none */
/* Whether a worker could be given it at all: it fits into the shared memory, texts into their limits. */
bool link_can_hold(const struct link *link, const struct link_picture *picture);
/* False: no worker, or no place in shared memory or the socket now (try again after a later link_turn: places of
 * cancelled pictures come free without an event). `id` is the caller's, > 0 and not in use. */
bool link_submit(struct link *link, uint64_t id, const struct link_picture *picture);
void link_cancel(struct link *link, uint64_t id); /* no event of that id follows */
void link_preview(struct link *link, uint64_t id);
/* Asks the worker to end in order, dropping what it has; go on calling link_turn until link_pid is 0, or destroy. No
 * other is started. */
void link_stop(struct link *link);

#endif
