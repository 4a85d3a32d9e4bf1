/* What waits, and what of it goes next: what came back from a worker that died, then by priority, by deadline, by what
 * the key has been served so far, by age. Served changes with every picture that goes out, so there is no order to
 * keep: the next one is looked for when there is room for it. */
#include "front/job/internal.h"

double queue_price(const struct job_picture *picture) {
    return (double)queue_row_pixels(picture) * picture->job->request.evaluations;
}

uint64_t queue_row_pixels(const struct job_picture *picture) {
    const struct job_request *request = &picture->job->request;
    return (uint64_t)picture->rows * (uint64_t)request->width * (uint64_t)request->height;
}

void queue_push(struct job_picture *picture) {
    struct job_model *model = &picture->job->jobs->models[picture->job->request.model];
    picture->next = NULL;
    picture->previous = model->queue_last;
    *(model->queue_last ? &model->queue_last->next : &model->queue_first) = picture;
    model->queue_last = picture;
    model->queued++;
    picture->queued = true;
}

void queue_remove(struct job_picture *picture) {
    struct job_model *model = &picture->job->jobs->models[picture->job->request.model];
    *(picture->previous ? &picture->previous->next : &model->queue_first) = picture->next;
    *(picture->next ? &picture->next->previous : &model->queue_last) = picture->previous;
    model->queued--;
    picture->queued = false;
}

bool queue_goes_before(const struct job_picture *a, const struct job_picture *b) {
    const struct job *x = a->job, *y = b->job;
    if (a->returned != b->returned)
        return a->returned;
    if (!a->returned && x->request.priority != y->request.priority)
        return x->request.priority < y->request.priority;
    if (!a->returned && x->deadline != y->deadline) /* 0: after all that have one */
        return x->deadline > 0 && (!(y->deadline > 0) || x->deadline < y->deadline);
    double served = x->jobs->keys[x->key].served, other = y->jobs->keys[y->key].served;
    if (!a->returned && x->key != y->key && served != other)
        return served < other;
    return a->sequence < b->sequence;
}

struct job_picture *queue_first(const struct jobs *jobs, int model) {
    struct job_picture *first = jobs->models[model].queue_first;
    for (struct job_picture *picture = first; picture; picture = picture->next)
        if (queue_goes_before(picture, first))
            first = picture;
    return first;
}

int queue_position(const struct job *job) {
    const struct job_picture *own = NULL;
    int position = 0;
    for (int i = 0; i < job->request.count; i++) {
        const struct job_picture *picture = &job->pictures[i];
        if (picture->state == PICTURE_SENT)
            return 0; /* in the worker already */
        if (picture->queued && (!own || queue_goes_before(picture, own)))
            own = picture;
    }
    if (!own)
        return -1;
    for (const struct job_picture *other = job->jobs->models[job->request.model].queue_first; other;
         other = other->next)
        position += other != own && queue_goes_before(other, own);
    return position;
}

void queue_charge(struct job_picture *picture) {
    if (!picture->charged)
        picture->job->jobs->keys[picture->job->key].served += queue_price(picture);
    picture->charged = true;
}
