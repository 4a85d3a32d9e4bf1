/* Events reach the watchers: in order, on one thread, without the lock. */
#include <stdlib.h>

#include <asdm/error.h>

#include "front/job/internal.h"

struct job_event_item {
    struct job_event_item *next;
    struct job *job; /* a reference */
    enum job_event_type type;
    int picture, preview;
    unsigned char *png;
    size_t png_size;
    struct job_watch *only; /* to this one alone */
};

static void push(struct jobs *jobs, const struct job_event_item *content) {
    struct job_event_item *item = malloc(sizeof *item);
    ASDM_ASSERT(item); /* a few bytes, without which clients would wait for ever */
    *item = *content;
    job_hold(item->job);
    *(jobs->events_last ? &jobs->events_last->next : &jobs->events) = item;
    jobs->events_last = item;
    pthread_cond_signal(&jobs->events_there);
}

void notify_push(struct job *job, enum job_event_type type, int picture, int preview, unsigned char *png,
                 size_t png_size) {
    /* Nobody needs to hear of each step who has not heard of the last one. */
    bool idle = type != JOB_EVENT_FINISHED && !job->watchers;
    if (idle || (type == JOB_EVENT_PROGRESS && job->progress_pending)) {
        free(png);
        return;
    }
    job->progress_pending = job->progress_pending || type == JOB_EVENT_PROGRESS;
    push(job->jobs,
         &(struct job_event_item){
             .job = job, .type = type, .picture = picture, .preview = preview, .png = png, .png_size = png_size});
}

void notify_late(struct job *job, struct job_watch *node) {
    push(job->jobs, &(struct job_event_item){.job = job, .type = JOB_EVENT_FINISHED, .only = node});
}

/* Calls all of `first`; frees them after the last event. New ones may come to the list's end meanwhile. */
static void tell(struct jobs *jobs, struct job_watch *first, struct job *job, const struct job_event *event) {
    for (struct job_watch *node = first, *next; node; node = next) {
        pthread_mutex_unlock(&jobs->lock);
        node->watcher(node->user, job, event);
        pthread_mutex_lock(&jobs->lock);
        next = node->next;
        if (event->type == JOB_EVENT_FINISHED)
            free(node);
    }
}

static void deliver(struct jobs *jobs, struct job_event_item *item) {
    struct job *job = item->job;
    struct job_view view;
    struct job_watch *watchers = item->only ? item->only : job->watchers;
    bool last = item->type == JOB_EVENT_FINISHED && !item->only;
    if (item->type == JOB_EVENT_PROGRESS)
        job->progress_pending = false;
    if (last) { /* who watches from now on is told alone */
        job->finish_told = true;
        job->watchers = NULL;
    }
    job_fill_view(job, &view);
    tell(jobs, watchers, job,
         &(struct job_event){.type = item->type,
                             .picture = item->picture,
                             .preview = item->preview,
                             .png = item->png,
                             .png_size = item->png_size,
                             .view = &view});
    if (last && job->request.transient && job->in_table)
        table_forget(jobs, job);
    free(item->png);
    job_release(job);
    free(item);
    if (jobs->image_bytes > (size_t)jobs->config->result_memory_mb << 20)
        jobs_wake(jobs); /* what it held can be forgotten now */
}

void *notify_main(void *user) {
    struct jobs *jobs = user;
    pthread_mutex_lock(&jobs->lock);
    for (;;) {
        jobs->notifying = jobs->events;
        if (!jobs->events)
            pthread_cond_broadcast(&jobs->changed);
        while (!jobs->events && !jobs->notifier_stopping)
            pthread_cond_wait(&jobs->events_there, &jobs->lock);
        struct job_event_item *item = jobs->events;
        if (!item)
            break;
        jobs->notifying = true;
        jobs->events = item->next;
        if (!jobs->events)
            jobs->events_last = NULL;
        deliver(jobs, item);
    }
    pthread_mutex_unlock(&jobs->lock);
    return NULL;
}
