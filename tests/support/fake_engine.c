/* Stands in for the engine under asdm-worker: pictures of the seed's lowest byte (plus init's first), one step per turn
 * each, memory of 100 bytes per row and pixel. A model's path "missing" cannot be opened, "nan" draws no numbers. The
 * prompt "broken" fails the batch at its first step, "spoiled" its picture alone. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <asdm/batch.h>
#include <asdm/error.h>

enum { PICTURES_MAX = 64, DEFAULT_SIDE = 128 };

struct asdm_model {
    bool nan;
};

struct slot {
    uint64_t id;
    int width, height, steps, done;
    bool guided, spoiled, broken, preview_due;
    uint8_t fill;
};

struct asdm_batch {
    struct asdm_model *model;
    struct asdm_batch_options options;
    uint64_t last_id;
    struct slot slots[PICTURES_MAX];
    uint8_t *rgb;
    float *latents;
};

enum asdm_status asdm_model_open(const char *path, const struct asdm_model_options *options, struct asdm_model **ret,
                                 struct asdm_error *err) {
    (void)options;
    if (strcmp(path, "missing") == 0)
        return asdm_fail(err, ASDM_ERR_NOT_FOUND, "%s: not there", path);
    *ret = calloc(1, sizeof **ret);
    (*ret)->nan = strcmp(path, "nan") == 0;
    return ASDM_OK;
}

void asdm_model_close(struct asdm_model **model) {
    free(*model);
    *model = NULL;
}

const char *asdm_model_device(const struct asdm_model *model) {
    (void)model;
    return "none";
}

const char *asdm_model_dtype_name(const struct asdm_model *model) {
    (void)model;
    return "fp32";
}

enum asdm_status asdm_dtype_find(const char *name, enum asdm_model_dtype *ret, struct asdm_error *err) {
    *ret = ASDM_DTYPE_FP32;
    return strcmp(name, "fp32") == 0 ? ASDM_OK : asdm_fail(err, ASDM_ERR_ARGUMENT, "dtype: %s", name);
}

void asdm_model_default_size(const struct asdm_model *model, int *ret_width, int *ret_height) {
    (void)model;
    *ret_width = *ret_height = DEFAULT_SIDE;
}

const char *asdm_model_default_sampler(const struct asdm_model *model) {
    (void)model;
    return "pndm";
}

void asdm_request_init(struct asdm_request *request) {
    *request = (struct asdm_request){.steps = 25, .guidance_scale = 7.5, .strength = 0.75};
}

enum asdm_status asdm_batch_create(struct asdm_model *model, const struct asdm_batch_options *options,
                                   struct asdm_batch **ret, struct asdm_error *err) {
    (void)err;
    *ret = calloc(1, sizeof **ret);
    (*ret)->model = model;
    (*ret)->options = *options;
    return ASDM_OK;
}

void asdm_batch_destroy(struct asdm_batch **batch) {
    if (*batch) {
        free((*batch)->rgb);
        free((*batch)->latents);
    }
    free(*batch);
    *batch = NULL;
}

enum asdm_status asdm_batch_submit(struct asdm_batch *batch, const struct asdm_request *r, uint64_t *ret_id,
                                   struct asdm_error *err) {
    if (r->steps < 1)
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "steps: must be more than %d", r->steps);
    for (int i = 0; i < batch->options.pictures_max && i < PICTURES_MAX; i++) {
        struct slot *s = &batch->slots[i];
        if (s->id)
            continue;
        *s = (struct slot){.id = ++batch->last_id, .width = r->width, .height = r->height, .steps = r->steps};
        s->guided = r->guidance_scale > 1;
        s->broken = strcmp(r->prompt, "broken") == 0;
        s->spoiled = strcmp(r->prompt, "spoiled") == 0;
        s->fill = (uint8_t)(r->seed + (r->init_rgb ? r->init_rgb[0] : 0) + (r->mask ? r->mask[0] : 0));
        *ret_id = s->id;
        return ASDM_OK;
    }
    return asdm_fail(err, ASDM_ERR_MEMORY, "the batch is full");
}

static struct slot *find(const struct asdm_batch *batch, uint64_t id) {
    for (int i = 0; id && i < PICTURES_MAX; i++)
        if (batch->slots[i].id == id)
            return (struct slot *)(uintptr_t)&batch->slots[i];
    return NULL;
}

void asdm_batch_cancel(struct asdm_batch *batch, uint64_t id) {
    struct slot *s = find(batch, id);
    if (s)
        s->id = 0;
}

enum asdm_status asdm_batch_step(struct asdm_batch *batch, struct asdm_batch_report *ret, struct asdm_error *err) {
    *ret = (struct asdm_batch_report){.seconds = 0.5};
    for (int i = 0; i < PICTURES_MAX; i++) {
        struct slot *s = &batch->slots[i];
        if (!s->id || s->done == s->steps)
            continue;
        if (s->broken)
            return asdm_fail(err, ASDM_ERR_DEVICE, "the device is lost");
        s->done++;
        ret->worked = true;
        ret->pictures++;
        ret->rows += s->guided ? 2 : 1;
    }
    return ASDM_OK;
}

bool asdm_batch_progress(const struct asdm_batch *batch, uint64_t id, struct asdm_picture_progress *ret) {
    const struct slot *s = find(batch, id);
    if (s)
        *ret = (struct asdm_picture_progress){s->done == s->steps ? ASDM_PICTURE_FINISHED : ASDM_PICTURE_RUNNING,
                                              s->done, s->steps};
    return s != NULL;
}

void asdm_batch_preview(struct asdm_batch *batch, uint64_t id) {
    struct slot *s = find(batch, id);
    if (s)
        s->preview_due = true;
}

bool asdm_batch_poll(struct asdm_batch *batch, struct asdm_picture *ret) {
    for (int i = 0; i < PICTURES_MAX; i++) {
        struct slot *s = &batch->slots[i];
        bool preview = s->preview_due && s->done > 0 && s->done < s->steps;
        if (!s->id || (s->done < s->steps && !preview))
            continue;
        size_t pixels = (size_t)s->width * (size_t)s->height;
        batch->rgb = realloc(batch->rgb, pixels * 3);
        batch->latents = realloc(batch->latents, pixels / 16 * sizeof(float));
        memset(batch->rgb, s->fill, pixels * 3);
        for (size_t k = 0; k < pixels / 16; k++)
            batch->latents[k] = batch->model->nan ? NAN : 0;
        *ret = (struct asdm_picture){.id = s->id,
                                     .preview = preview,
                                     .step = s->done,
                                     .width = s->width,
                                     .height = s->height,
                                     .rgb = batch->rgb,
                                     .latents = batch->latents,
                                     .prompt_tokens = 3,
                                     .seconds = {1, 2, 3, 4}};
        if (s->spoiled && !preview) {
            ret->rgb = NULL;
            ret->status = ASDM_ERR_MEMORY;
            ret->message = "spoiled";
        }
        s->preview_due = false;
        if (!preview)
            s->id = 0;
        return true;
    }
    return false;
}

enum asdm_status asdm_batch_memory(struct asdm_model *model, int width, int height, int rows, size_t *ret_bytes,
                                   struct asdm_error *err) {
    (void)model;
    (void)err;
    *ret_bytes = 1000 + (size_t)rows * (size_t)width * (size_t)height * 100;
    return ASDM_OK;
}

enum asdm_status asdm_batch_plan_memory(struct asdm_model *model, int width, int height, int rows,
                                        struct asdm_memory *ret, struct asdm_error *err) {
    *ret = (struct asdm_memory){.device = 8000000000, .free = 4000000000, .weights = 3000000000};
    return asdm_batch_memory(model, width, height, rows, &ret->plans, err);
}

const char *asdm_model_note(const struct asdm_model *model) {
    (void)model;
    return NULL;
}
