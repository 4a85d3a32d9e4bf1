/* Events reach the watchers: in order, on one thread, without the lock. */
#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>

#include "front/queue/internal.h"

struct job_event_item {
    struct job_event_item *next;
    struct job *job; /* a reference */
    enum job_event_type type;
    int picture, preview;
    unsigned char *png;
    size_t png_size;
    struct job_watch_node *late; /* the one watcher to tell */
};

static void push(struct job *job, struct job_event_item item) {
    struct jobs *jobs = job->jobs;
    struct job_event_item *copy = malloc(sizeof *copy);
    ASDM_ASSERT(copy); /* a waiting client would never be answered */
    *copy = item;
    copy->job = job;
    job_ref_locked(job);
    *jobs->events_end = copy;
    jobs->events_end = &copy->next;
    pthread_cond_signal(&jobs->events_cond);
}

void notify_push(struct job *job, enum job_event_type type, int picture, int preview, unsigned char *png,
                 size_t png_size) {
    push(job, (struct job_event_item){
                  .type = type, .picture = picture, .preview = preview, .png = png, .png_size = png_size});
}

void notify_late_watcher(struct job *job, struct job_watch_node *node) {
    push(job, (struct job_event_item){.type = JOB_EVENT_FINISHED, .late = node});
}

/* The watchers of an item: all of the job's, which FINISHED takes away, or the late one. Watchers are only added at the
 * end and only taken here, so the list can be walked without the lock up to `last`. */
static struct job_watch_node *begin_item(struct job_event_item *item, struct job_view *view,
                                         struct job_watch_node **ret_last) {
    struct job *job = item->job;
    struct job_watch_node *first = item->late ? item->late : job->watchers, *last = first;
    while (last && last->next)
        last = last->next;
    *ret_last = last;
    job_fill_view(job, view);
    if (item->type == JOB_EVENT_PROGRESS)
        job->progress_pending = false;
    if (item->type == JOB_EVENT_FINISHED && !item->late) {
        job->watchers = NULL;
        job->finish_told = true;
    }
    return first;
}

static void tell(struct jobs *jobs, struct job_event_item *item) {
    struct job_view view;
    struct job_watch_node *last;
    jobs_lock(jobs);
    struct job_watch_node *node = begin_item(item, &view, &last);
    jobs_unlock(jobs);
    struct job_event event = {item->type, item->picture, item->preview, item->png, item->png_size, &view};
    bool finished = item->type == JOB_EVENT_FINISHED;
    for (bool more = node != NULL; more;) {
        node->watcher(node->user, item->job, &event);
        more = node != last;
        struct job_watch_node *done = node;
        if (more)
            node = node->next;
        if (finished)
            free(done);
    }
    free(item->png);
    jobs_lock(jobs);
    if (finished && item->job->request.transient && item->job->in_table)
        job_forget(item->job);
    job_unref_locked(item->job);
    jobs_unlock(jobs);
    free(item);
}

void *notify_main(void *user) {
    struct jobs *jobs = user;
    for (;;) {
        jobs_lock(jobs);
        while (!jobs->events && !jobs->notifier_stopping)
            pthread_cond_wait(&jobs->events_cond, &jobs->lock);
        struct job_event_item *item = jobs->events;
        if (item && !(jobs->events = item->next))
            jobs->events_end = &jobs->events;
        jobs_unlock(jobs);
        if (!item)
            return NULL;
        tell(jobs, item);
    }
}
