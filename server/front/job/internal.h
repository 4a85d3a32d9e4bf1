/* What the files of this folder share. Everything in these structures is guarded by jobs->lock unless it says
 * otherwise; functions are called with the lock held unless they say otherwise. A picture's way:
 *
 *   submit.c -> admit.c (limits), estimate.c (deadlines) -> queue.c -> dispatcher.c -> link -> events.c
 *     -> png.c -> notify.c -> watchers
 */
#ifndef ASDM_FRONT_JOB_INTERNAL_H
#define ASDM_FRONT_JOB_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "clock.h"
#include "front/job/job.h"
#include "front/job/remembered.h"
#include "front/link/link.h"

enum {
    JOB_BUCKETS = 4096,
    JOB_DIGEST_BYTES = 32,
    JOB_LOOKAHEAD = 2,   /* pictures in a worker that wait for rows, so that none idles when a picture leaves */
    JOB_PNG_BACKLOG = 64 /* pictures that wait for a PNG thread: with more the workers get nothing new */
};

enum picture_state {
    PICTURE_WAITING, /* in the queue, or (a moment) nowhere */
    PICTURE_SENT,    /* in the worker, not begun */
    PICTURE_RUNNING,
    PICTURE_DECODING, /* in the worker, its rows are free */
    PICTURE_ENCODING, /* pixels are here; the PNG is being made */
    PICTURE_DONE,
    PICTURE_GONE /* cancelled or failed */
};

/* One picture of a job. Times are seconds of the monotonic clock, here and below. */
struct job_picture {
    struct job *job;
    int index, rows;
    enum picture_state state;
    uint64_t wire_id;  /* the last one it had in a worker */
    uint64_t sequence; /* of acceptance */
    int attempts;      /* runs that a worker's death ended */
    bool returned;     /* has been in a worker that died: goes before all others */
    bool alone;        /* after a death that it may have caused: nothing else is in the worker beside it */
    bool charged;      /* counted in its key's `served` */
    bool dropped;      /* the dispatcher is to take it out of the worker */
    bool wants_preview;
    bool at_png;                             /* a PNG thread has pixels of it at hand */
    int step, previews;                      /* evaluations done; previews seen */
    double sent, begun;                      /* begun 0: not yet */
    double queue_seconds, inference_seconds; /* of the run that counts */
    struct job_picture *next, *previous;     /* in the queue */
    bool queued;                             /* is in the queue */
};

/* Finished pictures, never changed once published: views read them without the lock. */
struct job_images {
    struct job_images *earlier;
    struct job_image all[];
};

struct job_watch {
    struct job_watch *next;
    job_watcher *watcher;
    void *user;
};

struct job {
    struct jobs *jobs;
    int references;
    bool in_table;
    struct job *id_next, *key_next; /* in their buckets */
    struct job *older, *newer;      /* in the table, by age */
    struct job *previous, *next;    /* unfinished by age, or finished by when they did */
    char id[JOB_ID_BYTES], token[JOB_ID_BYTES];
    struct job_request request; /* never changes, read without the lock; its pixels are in `init` and `mask` */
    unsigned char digest[JOB_DIGEST_BYTES]; /* of the whole request, when it has an idempotency key */
    int key;
    enum job_state state;
    struct problem problem;
    int64_t created_unix_ms;
    double created, deadline, finished; /* deadline, finished 0: none, not yet */

    struct asdm_image init; /* until it is finished */
    uint8_t *mask;
    bool sending;                     /* the dispatcher reads init and mask, without the lock */
    int pictures_done, pictures_left; /* left: neither done nor gone */
    struct job_picture *pictures;     /* [request.count] */
    struct job_images *images;
    size_t image_bytes;
    unsigned char *preview;
    size_t preview_size;
    struct job_watch *watchers;
    bool finish_told, progress_pending;
};

/* By time of finish or by age. */
struct job_list {
    struct job *first, *last;
};

/* The pictures that wait for one model, and what its worker told of it. */
struct job_model {
    const char *name;
    struct asdm_sampling *sampling;
    const char *default_sampler;
    int worker; /* index in jobs->workers */
    bool ready;
    char sha256[65];
    struct wire_model capacity; /* all 0 until the model was ready once */
    double unit_seconds;        /* per row, pixel and evaluation, smoothed; 0: not measured */
    double beside_seconds;      /* per pixel: prompts, encoding and decoding, smoothed */
    struct job_picture *queue_first, *queue_last;
    int queued;
};

struct job_worker {
    struct jobs *jobs;
    struct link *link; /* the dispatcher's alone */
    bool ready;
    bool refused; /* the last picture found no place in memory or socket */
    int inside_count, inside_max;
    struct job_picture **inside; /* in the order of sending; each holds a reference to its job */
};

/* What a caller has used. */
struct job_key {
    int unfinished, waiting; /* pictures; waiting: not begun */
    double served;           /* row-pixel-evaluations, for fairness */
    double requests, pixels; /* tokens left */
    double filled_at;        /* when; 0: never */
};

struct job_event_item;
struct job_png_item;

struct jobs {
    const struct config *config;
    struct metrics *metrics;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* a job finished, or the notifier has told all there was */
    struct job *ids[JOB_BUCKETS], *idempotent[JOB_BUCKETS];
    struct job *newest;
    struct job_list unfinished, finished;
    int unfinished_count;
    size_t image_bytes; /* of finished jobs in the table */
    struct remembered *expired;

    struct job_model models[CONFIG_MODELS_MAX];
    struct job_worker workers[CONFIG_MODELS_MAX];
    int worker_count;
    int waiting; /* pictures not begun */
    uint64_t last_sequence, last_wire_id;
    struct job_key *keys; /* [key_count], by index */
    int key_count;

    double drain_seconds,
        drawn_at;         /* between pictures while others wait, smoothed; when the last came, 0: idle since */
    double deadline_next; /* the earliest of unfinished jobs; 0: none */
    double deadline_checked;
    double step_sum, step_weight, step_at; /* fading mean of seconds */

    bool draining, stopping, fingerprinted;
    atomic_bool fingerprint_stopping;
    int wake_fd; /* eventfd of the dispatcher */
    pthread_t dispatcher, notifier, fingerprinter, *png_threads;
    int png_thread_count;
    bool dispatcher_there, notifier_there, fingerprinter_there; /* threads to be joined */

    struct job_event_item *events, *events_last;
    pthread_cond_t events_there;
    bool notifying, notifier_stopping;

    struct job_png_item *pngs, *pngs_last;
    int png_pending; /* pictures, without previews */
    pthread_cond_t pngs_there;
    bool png_stopping;
};

void jobs_wake(struct jobs *jobs); /* the dispatcher looks again; any thread, with or without the lock */

/* ---- job.c: one job */

/* Without the lock. Takes what `request` owns when it succeeds. NULL: no memory or no random numbers. */
struct job *job_create(struct jobs *jobs, struct job_request *request, int key);
void job_destroy(struct job *job); /* of one that nobody else knows */
void job_hold(struct job *job);
void job_release(struct job *job);
bool job_is_finished(const struct job *job);
void job_fill_view(const struct job *job, struct job_view *ret);
/* Keeps the counts of what waits. */
void job_set_picture(struct job_picture *picture, enum picture_state state);
/* The picture is DONE or GONE now; the job ends with its last. */
void job_picture_ended(struct job_picture *picture, enum picture_state state);
/* All that is left of it leaves, and it ends as FAILED or CANCELLED with `problem`. */
void job_end(struct job *job, enum job_state state, const struct problem *problem);
void job_free_pixels(struct job *job);
bool job_publish_image(struct job *job, int index, unsigned char *png, size_t size);

/* ---- table.c: where jobs are found */

void table_add(struct jobs *jobs, struct job *job);
void table_finish(struct jobs *jobs, struct job *job); /* it has just finished */
void table_forget(struct jobs *jobs, struct job *job); /* a finished one */
struct job *table_find_idempotent(const struct jobs *jobs, const char *idempotency_key, int key);
/* Forgets results that are too old or too many. Returns when it is to be called again; 0: no need. */
double table_expire(struct jobs *jobs, double now);
void table_clear(struct jobs *jobs);

/* ---- admit.c: limits of callers and queue */

/* NULL: no memory. Valid until the next call. */
struct job_key *admit_key(struct jobs *jobs, int index);
/* Takes the caller's tokens when it lets the job in. */
bool admit_job(struct jobs *jobs, struct job *job, const struct key *caller, struct problem *ret_problem);
void admit_drawn(struct jobs *jobs, double now); /* a picture has left a worker */
void admit_draining(struct problem *ret_problem);

/* ---- estimate.c: when pictures will be finished */

void estimate_step(struct jobs *jobs, int model, const struct wire_step *step, double now);
void estimate_picture(struct job_model *model, const struct wire_picture *picture, uint64_t pixels);
/* Until all of the job's pictures, which need not be in the queue, would be finished; 0: cannot be told. */
double estimate_job(struct jobs *jobs, const struct job *job);
/* Ends jobs that are late or will be. Returns when it is to be called again if nothing happens before; 0: no need. */
double estimate_enforce(struct jobs *jobs, double now);
void estimate_late(const struct job *job, double seconds, struct problem *ret_problem);

/* ---- queue.c: what goes next */

double queue_price(const struct job_picture *picture); /* in row-pixel-evaluations */
uint64_t queue_row_pixels(const struct job_picture *picture);
void queue_push(struct job_picture *picture);
void queue_remove(struct job_picture *picture);
struct job_picture *queue_first(const struct jobs *jobs, int model); /* NULL: none */
bool queue_goes_before(const struct job_picture *a, const struct job_picture *b);
int queue_position(const struct job *job); /* as in struct job_view */
/* Counts it as served. */
void queue_charge(struct job_picture *picture);

/* ---- dispatcher.c: pictures into workers */

void *dispatcher_main(void *jobs);
struct job_picture *dispatcher_find(const struct job_worker *worker, uint64_t wire_id);
/* It is not in the worker any more. May free its job. */
void dispatcher_remove(struct job_worker *worker, struct job_picture *picture);

/* ---- events.c: what comes out of workers */

void events_handle(void *worker, const struct link_event *event); /* without the lock */

/* ---- png.c: pixels become PNGs */

void *png_main(void *jobs);
struct png_pixels;                                                      /* a copy */
struct png_pixels *png_copy(const uint8_t *rgb, int width, int height); /* any time; NULL: no memory */
/* Takes `pixels`. `preview`: its number; -1: the finished picture. A preview is dropped when there is much to do. */
void png_push(struct job_picture *picture, int preview, struct png_pixels *pixels);

/* ---- notify.c: events reach the watchers */

void *notify_main(void *jobs);
/* Takes `png`, of a PREVIEW. */
void notify_push(struct job *job, enum job_event_type type, int picture, int preview, unsigned char *png,
                 size_t png_size);
/* FINISHED, to one who came late. Takes the node. */
void notify_late(struct job *job, struct job_watch *node);

/* ---- fingerprint.c: SHA-256 */

void *fingerprint_main(void *jobs); /* of the models' weights */
/* Of all that the client asked for; a seed that was drawn for it is not. Without the lock. */
bool fingerprint_request(const struct job_request *request, unsigned char ret[JOB_DIGEST_BYTES]);

#endif
