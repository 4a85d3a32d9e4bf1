/* Pixels become PNGs, on threads of their own. */
#include <stdlib.h>
#include <string.h>

#include "front/dialect/dialect.h"
#include "front/queue/internal.h"

struct job_png_item {
    struct job_png_item *next;
    struct job_picture *picture; /* holds a reference to its job */
    int preview;                 /* -1: the finished picture */
    int width, height;
    uint8_t rgb[];
};

bool png_push(struct jobs *jobs, struct job_picture *picture, int preview, const uint8_t *rgb, int width, int height) {
    size_t bytes = 3 * (size_t)width * (size_t)height;
    struct job_png_item *item = malloc(sizeof *item + bytes);
    if (!item)
        return false;
    *item = (struct job_png_item){.picture = picture, .preview = preview, .width = width, .height = height};
    memcpy(item->rgb, rgb, bytes);
    job_ref_locked(picture->job);
    *jobs->pngs_end = item;
    jobs->pngs_end = &item->next;
    pthread_cond_signal(&jobs->pngs_cond);
    return true;
}

/* No lock: the request's small fields and the model's name do not change. */
static bool encode(struct jobs *jobs, const struct job_png_item *item, unsigned char **ret_png, size_t *ret_size) {
    const struct job_request *request = &item->picture->job->request;
    const struct job_model *model = &jobs->models[request->model];
    char *text = infotext_write(request, item->picture->index, model->name, model->sha256);
    if (!text)
        return false;
    enum asdm_status status =
        asdm_png_encode(item->rgb, (uint32_t)item->width, (uint32_t)item->height,
                        (const char *[]){"parameters", text, NULL}, jobs->config->png_level, ret_png, ret_size, NULL);
    free(text);
    return status == ASDM_OK;
}

/* Takes `png`. */
static void deliver_preview(struct job_picture *picture, int number, unsigned char *png, size_t size) {
    struct job *job = picture->job;
    unsigned char *copy = malloc(size);
    if (copy) {
        memcpy(copy, png, size);
        free(job->preview);
        job->preview = copy;
        job->preview_size = size;
    }
    if (job->watchers)
        notify_push(job, JOB_EVENT_PREVIEW, picture->index, number, png, size);
    else
        free(png);
}

/* Takes `png`. */
static void deliver_picture(struct job_picture *picture, unsigned char *png, size_t size) {
    struct job *job = picture->job;
    bool running = job->state == JOB_QUEUED || job->state == JOB_RUNNING;
    picture->state = running ? PICTURE_DONE : PICTURE_GONE;
    if (running) {
        job->images[picture->index].png = png;
        job->images[picture->index].png_size = size;
        job->pictures_done++;
        metrics_add(job->jobs->metrics, METRIC_IMAGES, job->jobs->models[job->request.model].name,
                    job->request.i2i ? "i2i" : "t2i", 1);
        notify_push(job, JOB_EVENT_PICTURE, picture->index, 0, NULL, 0);
    } else {
        free(png);
    }
    job_picture_ended(picture);
}

static void fail_picture(struct job_picture *picture) {
    struct problem problem;
    problem_set(&problem, 500, "no_memory", "", "the server has no memory for the picture");
    job_end(picture->job, JOB_FAILED, &problem);
    picture->state = PICTURE_GONE;
    job_picture_ended(picture);
}

static void work(struct jobs *jobs, struct job_png_item *item) {
    unsigned char *png = NULL;
    size_t size = 0;
    double start = jobs_now();
    bool good = encode(jobs, item, &png, &size);
    metrics_observe(jobs->metrics, METRIC_STAGE_SECONDS, "png", NULL, jobs_now() - start);
    struct job *job = item->picture->job;
    jobs_lock(jobs);
    if (good && item->preview >= 0)
        deliver_preview(item->picture, item->preview, png, size);
    else if (good)
        deliver_picture(item->picture, png, size);
    else if (item->preview < 0)
        fail_picture(item->picture);
    job_unref_locked(job);
    jobs_unlock(jobs);
    free(item);
}

void *png_main(void *user) {
    struct jobs *jobs = user;
    for (;;) {
        jobs_lock(jobs);
        while (!jobs->pngs && !jobs->png_stopping)
            pthread_cond_wait(&jobs->pngs_cond, &jobs->lock);
        struct job_png_item *item = jobs->pngs;
        if (item && !(jobs->pngs = item->next))
            jobs->pngs_end = &jobs->pngs;
        jobs_unlock(jobs);
        if (!item)
            return NULL;
        work(jobs, item);
    }
}
