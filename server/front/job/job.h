/* Jobs: what a client asked for, from admission to the last byte of its answer. A job is one or more pictures
 * (`count`); each picture queues, runs and may be re-run by itself. One lock inside; all functions here are safe from
 * any thread. Callbacks run on one thread of their own (the notifier), in order, without the lock held. */
#ifndef ASDM_FRONT_JOB_H
#define ASDM_FRONT_JOB_H

#include <asdm/batch.h>
#include <asdm/png.h>
#include <asdm/sampling.h>

#include "front/config.h"
#include "front/keys.h"
#include "front/metrics.h"
#include "front/problem.h"

enum { JOB_ID_BYTES = 40 };

/* The validated request, the same from every dialect (dialect/fields.c fills it). Texts are malloc'ed and belong to it.
 */
struct job_request {
    int model;                      /* index in the configuration */
    char *prompt, *negative_prompt; /* never NULL */
    enum asdm_prompt_syntax syntax;
    int width, height, steps, count;
    const char *sampler, *schedule; /* canonical, static */
    int evaluations;                /* of one picture, from asdm_sampling_resolve */
    double guidance_scale, strength;
    uint64_t seed; /* of the first picture; picture k has seed + k */
    enum asdm_request_rng rng;
    bool seed_drawn; /* by the server: the client did not care */
    bool i2i;
    bool transient;         /* forgotten once it is answered: nobody was told its id */
    struct asdm_image init; /* i2i, until the job has finished */
    uint8_t *mask;          /* of init's size, or NULL */
    int previews;
    int priority;          /* 1 is served first; 5 is the default, 10 the last */
    int deadline_ms;       /* from admission; 0: none */
    char *idempotency_key; /* or NULL */
};
void job_request_done(struct job_request *request);

enum job_state { JOB_QUEUED, JOB_RUNNING, JOB_SUCCEEDED, JOB_FAILED, JOB_CANCELLED };
const char *job_state_name(enum job_state state); /* "queued", ... */

/* A finished picture. */
struct job_image {
    unsigned char *png;
    size_t png_size;
    uint64_t seed;
};

/* A job at one moment: a copy, but for the pointers, which are the job's and live as long as a reference to it. Images
 * are there for pictures that are finished. */
struct job_view {
    char id[JOB_ID_BYTES];
    char token[JOB_ID_BYTES]; /* lets anybody who has it fetch the images: for URLs */
    enum job_state state;
    const struct job_request *request;
    int key; /* of the caller */
    int64_t created_unix_ms;
    int pictures_done;
    int step, steps;                         /* evaluations of all its pictures, done and in all */
    int queue_position;                      /* pictures before its first waiting one; -1 when none waits */
    double queue_seconds, inference_seconds; /* the longest of its pictures'; inference: text to decode */
    double total_seconds;                    /* so far */
    const struct job_image *images;          /* [request->count] */
    struct problem problem;                  /* JOB_FAILED, JOB_CANCELLED */
};

enum job_event_type { JOB_EVENT_PROGRESS, JOB_EVENT_PREVIEW, JOB_EVENT_PICTURE, JOB_EVENT_FINISHED };

struct job_event {
    enum job_event_type type;
    int picture;              /* PREVIEW, PICTURE: which of the job's */
    int preview;              /* PREVIEW: its number, from 0 */
    const unsigned char *png; /* PREVIEW: valid during the call */
    size_t png_size;
    const struct job_view *view; /* as it was then; valid during the call */
};

struct job;
typedef void job_watcher(void *user, struct job *job, const struct job_event *event);

struct jobs;

enum asdm_status jobs_create(const struct config *config, struct metrics *metrics, struct jobs **ret,
                             struct asdm_error *err);
enum asdm_status jobs_start(struct jobs *jobs, struct asdm_error *err); /* threads and workers */
/* No new jobs; returns when those accepted are done, or after the drain limit with the rest failed (503), and stops the
 * workers. */
void jobs_drain(struct jobs *jobs);
void jobs_destroy(struct jobs **jobs);

/* Admission: limits of the caller (429), the queue's (503), the deadline (504), or the same idempotency key (then the
 * first request's job, *ret_again true). Takes what `request` owns on success and on failure. The caller gets a
 * reference. */
bool jobs_submit(struct jobs *jobs, struct job_request *request, const struct key *caller, struct job **ret,
                 bool *ret_again, struct problem *ret_problem);
/* By id, if it is this caller's (or `token` is the job's, or the caller is an admin): 404, or 410 when it is expired.
 */
bool jobs_find(struct jobs *jobs, const char *id, const struct key *caller, const char *token, struct job **ret,
               struct problem *ret_problem);
/* The caller's jobs, newest first, at most `room` references; `active_only`: queued or running. Returns how many. */
int jobs_list(struct jobs *jobs, const struct key *caller, bool active_only, struct job **ret, int room);
struct job *job_ref(struct job *job);
void job_unref(struct job **job);

void job_view(struct job *job, struct job_view *ret);
/* From now until FINISHED, which is the last call; at once when it is finished. */
void job_watch(struct job *job, job_watcher *watcher, void *user);
/* All its pictures that are not finished leave at the next step. `reason` is static: "client" (DELETE, interrupt),
 * "gone" (connection closed), "drain". */
void job_cancel(struct job *job, const char *reason);
/* Asks for a preview of a running picture; comes to the watchers, and is kept as the job's last one. */
void job_preview(struct job *job);
/* Copy (malloc'ed) of the last preview's PNG; false: there is none. */
bool job_last_preview(struct job *job, unsigned char **ret_png, size_t *ret_size);

/* ---- models and overview */

struct model_view {
    const char *name;
    bool ready;
    int default_width, default_height;
    const char *default_sampler; /* canonical; from the scheduler configuration, known before a worker is */
    const struct asdm_sampling *sampling;
    char sha256[65];     /* of the UNet's weights file; "" until it is known */
    uint64_t pixels_max; /* of one picture with guidance; 0: not known yet */
};
int jobs_model_find(const struct jobs *jobs, const char *name); /* -1: none; NULL: the first */
void jobs_model(struct jobs *jobs, int model, struct model_view *ret);

struct jobs_overview {
    int queued, active_pictures, active_rows; /* pictures */
    bool ready;                               /* every model drew its canary, and not draining */
    bool draining;
    const char *unready_reason; /* static, when not ready */
    double step_seconds_mean;   /* of the last minute or so; 0: none */
};
void jobs_overview(struct jobs *jobs, struct jobs_overview *ret);

#endif
