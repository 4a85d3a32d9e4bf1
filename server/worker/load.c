/* From LOAD to READY: models opened, canaries drawn, capacities found. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>

#include "worker/worker.h"

enum {
    ROWS_DEFAULT = 16,
    ROWS_MIN = 2,     /* one picture with guidance */
    WAITING_MAX = 4,  /* pictures beside those in the rows: being encoded or decoded */
    CANARY_SIDE = 64, /* pixels */
    CANARY_TURNS_MAX = 10000,
};

/* ---- opening */

static const char *or_null(const char *text) {
    return *text ? text : NULL;
}

static enum asdm_status open_model(struct worker_model *m, struct asdm_error *err) {
    const struct wire_load *load = &m->load;
    struct asdm_model_options options = {.device = or_null(load->device),
                                         .threads = load->threads,
                                         .tokenizer = or_null(load->tokenizer),
                                         .batch_dependent = load->batch_dependent != 0,
                                         .plan = or_null(load->plan)};
    struct asdm_memory memory;
    if (*load->dtype)
        ASDM_TRY(asdm_dtype_find(load->dtype, &options.dtype, err));
    ASDM_TRY(asdm_model_open(load->path, &options, &m->model, err));
    if (asdm_model_note(m->model))
        fprintf(stderr, "asdm-worker: model %s: %s\n", load->name, asdm_model_note(m->model));
    /* Before weights are laid out. */
    return asdm_batch_plan_memory(m->model, CANARY_SIDE, CANARY_SIDE, ROWS_MIN, &memory, err);
}

static enum asdm_status check_canary(const struct asdm_picture *picture, struct asdm_error *err) {
    if (picture->status != ASDM_OK)
        return asdm_fail(err, picture->status, "%s", picture->message);
    if (picture->width != CANARY_SIDE || picture->height != CANARY_SIDE || !picture->rgb)
        return asdm_fail(err, ASDM_ERR_INTERNAL, "the canary has no pixels");
    for (int i = 0; i < 4 * CANARY_SIDE / 8 * CANARY_SIDE / 8; i++)
        if (!isfinite(picture->latents[i]))
            return asdm_fail(err, ASDM_ERR_DEVICE, "the canary's latents are not finite numbers");
    return ASDM_OK;
}

static enum asdm_status run_canary(struct asdm_batch *batch, struct asdm_error *err) {
    struct asdm_request request;
    struct asdm_batch_report report;
    struct asdm_picture picture;
    uint64_t id;
    asdm_request_init(&request);
    request.prompt = "a canary";
    request.sampler = "euler"; /* takes a single step of any checkpoint */
    request.width = request.height = CANARY_SIDE;
    request.steps = 1;
    ASDM_TRY(asdm_batch_submit(batch, &request, &id, err));
    for (int turn = 0; turn < CANARY_TURNS_MAX; turn++) {
        ASDM_TRY(asdm_batch_step(batch, &report, err));
        if (asdm_batch_poll(batch, &picture))
            return check_canary(&picture, err);
        if (!report.worked)
            break;
    }
    return asdm_fail(err, ASDM_ERR_INTERNAL, "the canary never came out");
}

/* One small picture through all parts of the model, in a batch of its own; has the weights laid out, too. */
static enum asdm_status draw_canary(struct worker_model *m, struct asdm_error *err) {
    struct asdm_batch_options options = {.pictures_max = 1, .rows_max = ROWS_MIN};
    struct asdm_batch *batch = NULL;
    ASDM_TRY(asdm_batch_create(m->model, &options, &batch, err));
    enum asdm_status status = run_canary(batch, err);
    asdm_batch_destroy(&batch);
    return status;
}

/* ---- capacity */

/* A number in a file of /proc or /sys, after `key`; `otherwise` where there is none ("max"). */
static uint64_t read_number(const char *path, const char *key, uint64_t otherwise) {
    char line[256];
    uint64_t value = otherwise;
    FILE *file = fopen(path, "re");
    if (!file)
        return otherwise;
    while (fgets(line, sizeof line, file))
        if (strncmp(line, key, strlen(key)) == 0 && sscanf(line + strlen(key), "%" SCNu64, &value) == 1)
            break;
    fclose(file);
    return value;
}

/* What may be used: three quarters of what the device, or the machine and the control group (as a container sees it)
 * have left. */
static uint64_t free_memory(const struct asdm_memory *memory) {
    if (memory->device)
        return memory->free / 4 * 3;
    uint64_t machine = read_number("/proc/meminfo", "MemAvailable:", UINT64_MAX >> 10) << 10;
    uint64_t most = read_number("/sys/fs/cgroup/memory.max", "", UINT64_MAX);
    uint64_t used = read_number("/sys/fs/cgroup/memory.current", "", 0);
    uint64_t group = most > used ? most - used : 0;
    return (machine < group ? machine : group) / 4 * 3;
}

/* asdm_batch_memory, more than there can be where even the least of it is not there. */
static enum asdm_status bytes_of(struct worker *worker, struct worker_model *m, int width, int height, int rows,
                                 size_t *ret, struct asdm_error *err) {
    enum asdm_status status = asdm_batch_memory(m->model, width, height, rows, ret, err);
    worker_send_alive(worker);
    if (status == ASDM_ERR_MEMORY)
        *ret = SIZE_MAX;
    return status == ASDM_ERR_MEMORY ? ASDM_OK : status;
}

/* The largest number of pixels of a square picture with guidance that fits, of the sides 64, half the default and its
 * multiples up to four times the default; 0: not even a canary. */
static enum asdm_status find_pixels_max(struct worker *worker, struct worker_model *m, uint64_t *ret,
                                        struct asdm_error *err) {
    const struct wire_model *c = &m->capacity;
    int half = (c->default_width < c->default_height ? c->default_width : c->default_height) / 2;
    int unit = half < CANARY_SIDE ? CANARY_SIDE : half / CANARY_SIDE * CANARY_SIDE;
    uint64_t largest = 0;
    for (int i = 0; i <= 8; i++) {
        int side = i == 0 ? CANARY_SIDE : unit * i;
        size_t bytes;
        ASDM_TRY(bytes_of(worker, m, side, side, ROWS_MIN, &bytes, err));
        if (bytes > c->memory_bytes)
            break;
        largest = (uint64_t)side * (uint64_t)side;
    }
    *ret = largest;
    return ASDM_OK;
}

/* The most rows, up to those asked for, whose step at the default size fits; ROWS_MIN when none do. */
static enum asdm_status find_rows_max(struct worker *worker, struct worker_model *m, int *ret, bool *ret_fits,
                                      struct asdm_error *err) {
    struct wire_model *c = &m->capacity;
    int rows = m->load.rows_max > 0 ? m->load.rows_max : ROWS_DEFAULT;
    size_t bytes;
    rows = rows < ROWS_MIN ? ROWS_MIN : rows;
    for (;; rows--) {
        ASDM_TRY(bytes_of(worker, m, c->default_width, c->default_height, rows, &bytes, err));
        if (bytes <= c->memory_bytes || rows == ROWS_MIN)
            break;
    }
    *ret = rows;
    *ret_fits = bytes <= c->memory_bytes;
    return ASDM_OK;
}

/* The line through one row and all rows at the default size, or at the canary's where that does not fit. */
static enum asdm_status find_line(struct worker_model *m, bool fits, struct asdm_error *err) {
    struct wire_model *c = &m->capacity;
    int width = fits ? c->default_width : CANARY_SIDE, height = fits ? c->default_height : CANARY_SIDE;
    uint64_t pixels = (uint64_t)width * (uint64_t)height;
    size_t one, all;
    ASDM_TRY(asdm_batch_memory(m->model, width, height, 1, &one, err));
    ASDM_TRY(asdm_batch_memory(m->model, width, height, c->rows_max, &all, err));
    c->device_plans = all;
    uint64_t span = (uint64_t)(c->rows_max - 1) * pixels;
    c->bytes_per_row_pixel = all > one ? (all - one + span - 1) / span : 0;
    c->bytes_fixed = all > c->bytes_per_row_pixel * (uint64_t)c->rows_max * pixels
                         ? all - c->bytes_per_row_pixel * (uint64_t)c->rows_max * pixels
                         : 0;
    return ASDM_OK;
}

static enum asdm_status find_capacity(struct worker *worker, int index, struct asdm_error *err) {
    struct worker_model *m = &worker->models[index];
    struct wire_model *c = &m->capacity;
    struct asdm_memory memory;
    uint64_t pixels_max;
    bool fits;
    ASDM_TRY(asdm_batch_plan_memory(m->model, CANARY_SIDE, CANARY_SIDE, ROWS_MIN, &memory, err));
    *c = (struct wire_model){
        .model = index, .device_bytes = memory.device, .device_free = memory.free, .device_weights = memory.weights};
    /* Plans of all models are held at once; those still to come have their weights laid out already. */
    c->memory_bytes = m->load.memory_bytes ? m->load.memory_bytes / (uint64_t)worker->model_count
                                           : free_memory(&memory) / (uint64_t)(worker->model_count - index);
    asdm_model_default_size(m->model, &c->default_width, &c->default_height);
    snprintf(c->device, sizeof c->device, "%s", asdm_model_device(m->model));
    snprintf(c->dtype, sizeof c->dtype, "%s", asdm_model_dtype_name(m->model));
    snprintf(c->sampler, sizeof c->sampler, "%s", asdm_model_default_sampler(m->model));
    ASDM_TRY(find_rows_max(worker, m, &c->rows_max, &fits, err));
    c->pictures_max = m->load.pictures_max > 0 ? m->load.pictures_max : c->rows_max + WAITING_MAX;
    ASDM_TRY(find_line(m, fits, err));
    ASDM_TRY(find_pixels_max(worker, m, &pixels_max, err));
    if (pixels_max == 0)
        return asdm_fail(err, ASDM_ERR_MEMORY, "%" PRIu64 " KiB are too few for a picture of %d x %d",
                         c->memory_bytes >> 10, CANARY_SIDE, CANARY_SIDE);
    c->row_pixels_max = ROWS_MIN * pixels_max;
    uint64_t batch_pixels = (uint64_t)c->rows_max * (uint64_t)c->default_width * (uint64_t)c->default_height;
    if (fits && c->row_pixels_max < batch_pixels)
        c->row_pixels_max = batch_pixels;
    struct asdm_batch_options options = {.pictures_max = c->pictures_max, .rows_max = c->rows_max};
    return asdm_batch_create(m->model, &options, &m->batch, err);
}

/* ---- all of it */

/* Reads LOADs up to START. */
static enum worker_end read_models(struct worker *worker) {
    struct wire_message m;
    for (;;) {
        if (!worker_receive(worker, &m) || m.type == WIRE_STOP)
            return WORKER_STOPPED;
        if (m.type == WIRE_START && worker->model_count > 0)
            return WORKER_GOES_ON;
        if (m.type != WIRE_LOAD || worker->model_count == WIRE_MODELS_MAX) {
            worker_send_failed(worker, 0, ASDM_ERR_INTERNAL, "the front asked for something else than models");
            return WORKER_BROKEN;
        }
        worker->models[worker->model_count++].load = m.load;
    }
}

static enum asdm_status open_all(struct worker *worker, struct asdm_error *err) {
    for (int i = 0; i < worker->model_count; i++) {
        struct worker_model *m = &worker->models[i];
        worker_send_alive(worker);
        enum asdm_status status = open_model(m, err);
        worker_send_alive(worker);
        if (status == ASDM_OK)
            status = draw_canary(m, err);
        if (status != ASDM_OK)
            return asdm_fail_context(err, status, "model %s", m->load.name);
    }
    /* After all weights are where they stay, so that what is free can be shared out. */
    for (int i = 0; i < worker->model_count; i++) {
        enum asdm_status status = find_capacity(worker, i, err);
        if (status != ASDM_OK)
            return asdm_fail_context(err, status, "model %s", worker->models[i].load.name);
        worker->picture_count += worker->models[i].capacity.pictures_max;
    }
    worker->pictures = calloc((size_t)worker->picture_count, sizeof *worker->pictures);
    return worker->pictures ? ASDM_OK : asdm_fail(err, ASDM_ERR_MEMORY, "no memory for a list of pictures");
}

enum worker_end worker_load(struct worker *worker) {
    struct asdm_error err = {0};
    if (!worker_send(worker, &(struct wire_message){.type = WIRE_HELLO, .message_bytes = sizeof(struct wire_message)}))
        return WORKER_STOPPED;
    enum worker_end end = read_models(worker);
    if (end != WORKER_GOES_ON)
        return end;
    enum asdm_status status = open_all(worker, &err);
    if (status != ASDM_OK) {
        worker_send_failed(worker, 0, status, err.message);
        return WORKER_BROKEN;
    }
    for (int i = 0; i < worker->model_count; i++)
        worker_send(worker, &(struct wire_message){.type = WIRE_MODEL, .model = worker->models[i].capacity});
    return worker_send(worker, &(struct wire_message){.type = WIRE_READY}) ? WORKER_GOES_ON : WORKER_STOPPED;
}

void worker_unload(struct worker *worker) {
    for (int i = 0; i < worker->model_count; i++) {
        asdm_batch_destroy(&worker->models[i].batch);
        asdm_model_close(&worker->models[i].model);
    }
    free(worker->pictures);
}
