/* What the files of job/ share. Everything below is guarded by jobs->lock, unless it says otherwise.
 *
 *   submit (jobs.c) -> admission (admit.c) -> queue (queue.c) -> dispatcher and links (dispatcher.c)
 *     -> PNG threads (png.c) -> events (notify.c) -> watchers
 */
#ifndef ASDM_FRONT_JOB_INTERNAL_H
#define ASDM_FRONT_JOB_INTERNAL_H

#include <pthread.h>

#include "front/job/job.h"
#include "front/link/link.h"

enum { JOB_BUCKETS = 4096, JOB_TOMBSTONES = 20000, JOB_KEYS_MAX = 4096, JOB_LOOKAHEAD_ROWS = 4 };

enum picture_state {
    PICTURE_WAITING, /* in the queue */
    PICTURE_SENT,    /* in the worker, not begun */
    PICTURE_RUNNING,
    PICTURE_DECODING, /* its rows are free */
    PICTURE_ENCODING, /* pixels are here; the PNG is being made */
    PICTURE_DONE,
    PICTURE_GONE /* cancelled or failed */
};

/* One picture of a job. */
struct job_picture {
    struct job *job;
    int index, rows;
    enum picture_state state;
    uint64_t wire_id; /* in the worker; 0: not there */
    int attempts;     /* runs that a worker's death ended */
    bool alone;       /* after a death that it may have caused: nothing else runs beside it */
    bool dropped;     /* the dispatcher is to take it out of the worker */
    bool wants_preview;
    int step, previews;
    double enqueued; /* seconds of the monotonic clock, as all times here */
    double begun;    /* its first run's; 0: none yet */
    double queue_seconds, inference_seconds;
    struct job_picture *next; /* in the queue */
};

struct job_watch_node {
    struct job_watch_node *next;
    job_watcher *watcher;
    void *user;
};

struct job {
    struct jobs *jobs;
    int references;
    struct job *bucket_next, *older, *newer; /* in the table, and all by age */
    bool in_table;
    char id[JOB_ID_BYTES], token[JOB_ID_BYTES];
    struct job_request request;
    int key;
    enum job_state state;
    struct problem problem;
    int64_t created_unix_ms;
    double created, deadline, finished; /* deadline 0: none */
    int steps;                          /* of one picture */
    int pictures_done, pictures_left;   /* left: neither done nor gone */
    struct job_picture *pictures;       /* [request.count] */
    struct job_image *images;           /* [request.count] */
    size_t image_bytes;
    unsigned char *preview;
    size_t preview_size;
    struct job_watch_node *watchers;
    bool finish_told, progress_pending;
};

struct job_model {
    const char *name;
    struct asdm_sampling *sampling;
    const char *default_sampler;
    int default_width, default_height; /* 0: the worker has not told yet */
    int worker; /* index in jobs->workers */
    bool ready;
    char sha256[65];
    struct wire_model capacity; /* valid when ready once */
    double unit_seconds;        /* per row, pixel and evaluation in a batch; 0: not measured */
};

struct job_worker {
    struct jobs *jobs;
    struct link *link;
    bool ready;
    struct job_picture **inside; /* [inside_max], in the worker */
    int inside_count, inside_max;
};

/* What a caller has used. */
struct job_key {
    int waiting;                  /* pictures */
    double served;                /* row-pixel-evaluations, for fairness */
    double requests, pixels;      /* tokens left */
    double refilled;              /* when */
};

struct job_event_item;
struct job_png_item;

struct jobs {
    const struct config *config;
    struct metrics *metrics;
    pthread_mutex_t lock;
    pthread_cond_t idle; /* a job finished */
    struct job *buckets[JOB_BUCKETS], *oldest, *newest;
    int unfinished;      /* jobs */
    size_t image_bytes;  /* of finished jobs in the table */
    char (*tombstones)[JOB_ID_BYTES];
    int tombstone_next;
    struct job_model models[CONFIG_MODELS_MAX];
    struct job_worker workers[CONFIG_MODELS_MAX];
    int worker_count;
    struct job_picture *queue, **queue_end;
    int queued;                       /* pictures */
    struct job_key keys[JOB_KEYS_MAX];
    double served_least;              /* where a key that comes anew starts */
    double finished_rate;             /* pictures per second, smoothed */
    double last_finished;
    double step_seconds;              /* smoothed */
    uint64_t last_wire_id;
    bool draining, stopping, started, fingerprinted;
    int wake_fd; /* eventfd of the dispatcher */
    pthread_t dispatcher, notifier, fingerprinter, *png_threads;
    int png_thread_count;
    struct job_event_item *events, **events_end;
    struct job_png_item *pngs, **pngs_end;
    pthread_cond_t events_cond, pngs_cond;
    bool notifier_stopping, png_stopping;
};

double jobs_now(void);
void jobs_lock(struct jobs *jobs);
void jobs_unlock(struct jobs *jobs);
void jobs_wake(struct jobs *jobs); /* the dispatcher looks again */

/* ---- jobs.c; all with the lock held */

void job_fill_view(const struct job *job, struct job_view *view);
void job_ref_locked(struct job *job);
/* The last reference frees the job: at once, lock held. */
void job_unref_locked(struct job *job);
/* Out of the table: its id is answered with 410 from now on. */
void job_forget(struct job *job);
/* One picture is done or gone: the job ends with its last. */
void job_picture_ended(struct job_picture *picture);
/* All that is left of the job leaves; it ends with `problem` as FAILED or CANCELLED. */
void job_end(struct job *job, enum job_state state, const struct problem *problem);
/* Results that are too old or too many are forgotten. Returns seconds until it must be called again. */
double jobs_expire(struct jobs *jobs, double now);

/* ---- admit.c */

/* Takes the caller's tokens when it lets the request in. */
bool admit_request(struct jobs *jobs, const struct job_request *request, const struct key *caller,
                   struct problem *ret_problem);
double admit_price(const struct job_request *request); /* of one picture, in row-pixel-evaluations */
int admit_rows(const struct job_request *request);
/* Seconds that the queue before a request of this priority and deadline takes, and its own picture; 0: not known. */
double admit_estimate(const struct jobs *jobs, const struct job_request *request, double deadline);

/* ---- queue.c */

/* `front`: it was out and came back. */
void queue_push(struct jobs *jobs, struct job_picture *picture, bool front);
void queue_remove(struct jobs *jobs, struct job_picture *picture);
/* The picture that is to go next to a worker; NULL: none waits for it. */
struct job_picture *queue_first(const struct jobs *jobs, int worker);
/* Pictures that go before the job's first waiting one; -1: none of it waits. */
int queue_position(const struct job *job);

/* ---- dispatcher.c */

void *dispatcher_main(void *jobs);
void dispatcher_handle(void *worker, const struct link_event *event);

/* ---- png.c: pixels become PNGs */

void *png_main(void *jobs);
/* Copies the pixels. `preview`: number, or -1 for the finished picture. */
bool png_push(struct jobs *jobs, struct job_picture *picture, int preview, const uint8_t *rgb, int width, int height);

/* ---- notify.c: events reach the watchers */

void *notify_main(void *jobs);
/* PREVIEW takes `png`. */
void notify_push(struct job *job, enum job_event_type type, int picture, int preview, unsigned char *png,
                 size_t png_size);
void notify_late_watcher(struct job *job, struct job_watch_node *node); /* of a job that has finished; takes the node */

/* ---- fingerprint.c */

void *fingerprint_main(void *jobs); /* of all models' weights */

#endif
