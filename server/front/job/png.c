/* Pixels become PNGs on threads of their own, so that no step waits for zlib. */
#include <stdlib.h>
#include <string.h>

#include "front/job/infotext.h"
#include "front/job/internal.h"

enum { PREVIEWS_MAX = 8 /* no previews while more than so many pictures wait for a thread */ };

struct png_pixels {
    int width, height;
    uint8_t rgb[];
};

struct job_png_item {
    struct job_png_item *next;
    struct job_picture *picture; /* with a reference to its job */
    int preview;                 /* -1: the finished picture */
    struct png_pixels *pixels;
};

struct png_pixels *png_copy(const uint8_t *rgb, int width, int height) {
    size_t bytes = (size_t)width * (size_t)height * 3;
    struct png_pixels *pixels = malloc(sizeof *pixels + bytes);
    if (!pixels)
        return NULL;
    pixels->width = width;
    pixels->height = height;
    memcpy(pixels->rgb, rgb, bytes);
    return pixels;
}

static void end_broken(struct job *job) {
    struct problem problem;
    problem_set(&problem, 500, "internal", "", "a picture of %s could not be written as PNG", job->id);
    job_end(job, JOB_FAILED, &problem);
}

void png_push(struct job_picture *picture, int preview, struct png_pixels *pixels) {
    struct jobs *jobs = picture->job->jobs;
    bool finished = preview < 0;
    struct job_png_item *item = !finished && jobs->png_pending > PREVIEWS_MAX ? NULL : calloc(1, sizeof *item);
    if (!item) {
        free(pixels);
        if (finished)
            end_broken(picture->job);
        return;
    }
    *item = (struct job_png_item){.picture = picture, .preview = preview, .pixels = pixels};
    job_hold(picture->job);
    *(jobs->pngs_last ? &jobs->pngs_last->next : &jobs->pngs) = item;
    jobs->pngs_last = item;
    jobs->png_pending += finished;
    pthread_cond_signal(&jobs->pngs_there);
}

static bool encode(const struct job_png_item *item, const char *sha256, unsigned char **ret, size_t *ret_size) {
    const struct job *job = item->picture->job;
    const char *text[] = {"parameters", NULL, NULL};
    char *infotext = NULL;
    if (item->preview < 0) {
        infotext =
            infotext_write(&job->request, item->picture->index, job->jobs->models[job->request.model].name, sha256);
        if (!infotext)
            return false;
        text[1] = infotext;
    }
    bool good = asdm_png_encode(item->pixels->rgb, (uint32_t)item->pixels->width, (uint32_t)item->pixels->height,
                                infotext ? text : NULL, job->jobs->config->png_level, ret, ret_size, NULL) == ASDM_OK;
    free(infotext);
    return good;
}

static void finish_picture(struct job_picture *picture, unsigned char *png, size_t size, double seconds) {
    struct job *job = picture->job;
    struct jobs *jobs = job->jobs;
    if (job_is_finished(job) || !png || !job_publish_image(job, picture->index, png, size)) {
        free(png);
        end_broken(job); /* does nothing to one that has ended */
        return;
    }
    metrics_observe(jobs->metrics, METRIC_STAGE_SECONDS, "png", NULL, seconds);
    metrics_add(jobs->metrics, METRIC_IMAGES, jobs->models[job->request.model].name, job->request.i2i ? "i2i" : "t2i",
                1);
    /* Counted before it is told; the job's last picture is told before its end. */
    notify_push(job, JOB_EVENT_PICTURE, picture->index, 0, NULL, 0);
    job_picture_ended(picture, PICTURE_DONE);
}

static void finish_preview(const struct job_png_item *item, unsigned char *png, size_t size) {
    struct job *job = item->picture->job;
    unsigned char *kept = png && item->picture->state <= PICTURE_ENCODING ? malloc(size) : NULL;
    if (!kept) { /* too late for it, or no memory */
        free(png);
        return;
    }
    memcpy(kept, png, size);
    free(job->preview);
    job->preview = kept;
    job->preview_size = size;
    notify_push(job, JOB_EVENT_PREVIEW, item->picture->index, item->preview, png, size);
}

/* The first whose picture no other thread has at hand, so that a picture's previews and itself stay in order. */
static struct job_png_item *take_item(struct jobs *jobs) {
    struct job_png_item *before = NULL, *item = jobs->pngs;
    while (item && item->picture->at_png) {
        before = item;
        item = item->next;
    }
    if (!item)
        return NULL;
    *(before ? &before->next : &jobs->pngs) = item->next;
    if (jobs->pngs_last == item)
        jobs->pngs_last = before;
    item->picture->at_png = true;
    return item;
}

void *png_main(void *user) {
    struct jobs *jobs = user;
    pthread_mutex_lock(&jobs->lock);
    for (;;) {
        struct job_png_item *item;
        while (!(item = take_item(jobs)) && !jobs->png_stopping)
            pthread_cond_wait(&jobs->pngs_there, &jobs->lock);
        if (!item)
            break;
        struct job *job = item->picture->job;
        bool finished = item->preview < 0, wanted = !job_is_finished(job);
        char sha256[sizeof jobs->models->sha256];
        memcpy(sha256, jobs->models[job->request.model].sha256, sizeof sha256);
        pthread_mutex_unlock(&jobs->lock);

        unsigned char *png = NULL;
        size_t size = 0;
        double start = clock_seconds();
        bool good = wanted && encode(item, sha256, &png, &size);
        free(item->pixels);

        pthread_mutex_lock(&jobs->lock);
        item->picture->at_png = false;
        if (jobs->pngs)
            pthread_cond_signal(&jobs->pngs_there);
        jobs->png_pending -= finished;
        if (finished && jobs->png_pending == JOB_PNG_BACKLOG - 1)
            jobs_wake(jobs); /* it waited for this */
        if (finished)
            finish_picture(item->picture, good ? png : NULL, size, clock_seconds() - start);
        else
            finish_preview(item, good ? png : NULL, size);
        job_release(job);
        free(item);
    }
    pthread_mutex_unlock(&jobs->lock);
    return NULL;
}
