#include "model/checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "asdm_limits.h"
#include <asdm/error.h>
#include "base/file.h"
#include "model/names.h"
#include "model/original_config.h"
#include "model/random_weights.h"

enum { LISTED_MAX = 8 /* names in a message */ };

static const char *const folders[ASDM_COMPONENT_COUNT] = {"unet", "vae", "text_encoder"};

/* ---- opening a directory */

static enum asdm_status no_memory(const char *path, struct asdm_error *err) {
    return asdm_fail(err, ASDM_ERR_MEMORY, "%s: no memory to open it", path);
}

static enum asdm_status read_config(const char *directory, const char *name, struct asdm_json **ret, char path[4096],
                                    struct asdm_error *err) {
    snprintf(path, 4096, "%s/%s", directory, name);
    return asdm_json_read(path, ASDM_LIMIT_CONFIG_BYTES, ret, err);
}

/* Pickles run code when they are loaded; nothing here reads them. */
static enum asdm_status refuse_pickle(const char *path, struct asdm_error *err) {
    return asdm_fail(
        err, ASDM_ERR_UNSUPPORTED,
        "%s: pickled weights (.ckpt, .bin, .pt) can run code and are not read; convert them to safetensors, for "
        "example in Python: safetensors.torch.save_file(torch.load(\"%s\", weights_only=True), "
        "\"model.safetensors\"), or diffusers' save_pretrained(..., safe_serialization=True)",
        path, path);
}

static enum asdm_status open_weights(const char *directory, enum asdm_component component,
                                     struct asdm_safetensors **ret, struct asdm_error *err) {
    static const char *const stems[ASDM_COMPONENT_COUNT] = {"diffusion_pytorch_model", "diffusion_pytorch_model",
                                                            "model"};
    static const char *const pickles[ASDM_COMPONENT_COUNT] = {"diffusion_pytorch_model.bin",
                                                              "diffusion_pytorch_model.bin", "pytorch_model.bin"};
    static const char *const endings[] = {".safetensors", ".fp16.safetensors", ".bf16.safetensors"};
    char path[4096];
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        snprintf(path, sizeof path, "%s/%s/%s%s", directory, folders[component], stems[component], endings[i]);
        if (asdm_file_exists(path))
            return asdm_safetensors_open(path, ret, err);
    }
    snprintf(path, sizeof path, "%s/%s/%s.safetensors.index.json", directory, folders[component], stems[component]);
    if (asdm_file_exists(path))
        return asdm_fail(err, ASDM_ERR_UNSUPPORTED, "%s: weights in several files are not supported; save them as one",
                         path);
    snprintf(path, sizeof path, "%s/%s/%s", directory, folders[component], pickles[component]);
    if (asdm_file_exists(path))
        return refuse_pickle(path, err);
    return asdm_fail(err, ASDM_ERR_NOT_FOUND, "%s/%s/%s.safetensors: no such file", directory, folders[component],
                     stems[component]);
}

/* model_index.json names the pipeline; other pipelines have other parts. */
static enum asdm_status check_index(const char *directory, struct asdm_error *err) {
    struct asdm_json *json = NULL;
    char path[4096];
    const char *class = NULL;
    ASDM_TRY(read_config(directory, "model_index.json", &json, path, err));
    enum asdm_status status = asdm_json_get_string(json, path, "_class_name", &class, err);
    if (status == ASDM_OK && (!class || (strcmp(class, "StableDiffusionPipeline") != 0 &&
                                         strcmp(class, "StableDiffusionImg2ImgPipeline") != 0 &&
                                         strcmp(class, "LatentConsistencyModelPipeline") != 0)))
        status = asdm_fail(err, ASDM_ERR_UNSUPPORTED,
                           "%s: _class_name: \"%.80s\" is not supported, only StableDiffusionPipeline", path,
                           class ? class : "");
    asdm_json_destroy(&json);
    return status;
}

typedef enum asdm_status parse_function(const struct asdm_json *json, const char *name, void *ret,
                                        struct asdm_error *err);

static enum asdm_status parse_file(const char *directory, const char *name, parse_function *parse, void *ret,
                                   struct asdm_error *err) {
    struct asdm_json *json = NULL;
    char path[4096];
    ASDM_TRY(read_config(directory, name, &json, path, err));
    enum asdm_status status = parse(json, path, ret, err);
    asdm_json_destroy(&json);
    return status;
}

static enum asdm_status parse_unet(const struct asdm_json *json, const char *name, void *ret, struct asdm_error *err) {
    return asdm_unet_config_parse(json, name, ret, err);
}

static enum asdm_status parse_vae(const struct asdm_json *json, const char *name, void *ret, struct asdm_error *err) {
    return asdm_vae_config_parse(json, name, ret, err);
}

static enum asdm_status parse_text(const struct asdm_json *json, const char *name, void *ret, struct asdm_error *err) {
    return asdm_text_config_parse(json, name, ret, err);
}

/* The parts must fit each other. */
static enum asdm_status check_parts(const struct asdm_checkpoint *c, struct asdm_error *err) {
    if (c->unet.cross_attention_dim != c->text.hidden_size)
        return asdm_fail(err, ASDM_ERR_FORMAT,
                         "%s: unet/config.json: cross_attention_dim: %d, but the text encoder's hidden_size is %d",
                         c->path, c->unet.cross_attention_dim, c->text.hidden_size);
    if (c->unet.in_channels != c->vae.latent_channels)
        return asdm_fail(err, ASDM_ERR_FORMAT,
                         "%s: unet/config.json: in_channels: %d, but the vae's latent_channels are %d", c->path,
                         c->unet.in_channels, c->vae.latent_channels);
    return ASDM_OK;
}

static enum asdm_status open_directory(struct asdm_checkpoint *c, const char *tokenizer, struct asdm_error *err) {
    c->layout = ASDM_LAYOUT_DIFFUSERS;
    c->tokenizer = tokenizer ? strdup(tokenizer) : asdm_path_join(c->path, "tokenizer");
    if (!c->tokenizer)
        return no_memory(c->path, err);
    ASDM_TRY(check_index(c->path, err));
    ASDM_TRY(parse_file(c->path, "unet/config.json", parse_unet, &c->unet, err));
    ASDM_TRY(parse_file(c->path, "vae/config.json", parse_vae, &c->vae, err));
    ASDM_TRY(parse_file(c->path, "text_encoder/config.json", parse_text, &c->text, err));
    char scheduler[4096];
    snprintf(scheduler, sizeof scheduler, "%s/scheduler/scheduler_config.json", c->path);
    ASDM_TRY(asdm_scheduler_config_read(scheduler, &c->scheduler, err));
    asdm_scheduler_config_follow_pipeline(&c->scheduler, false);
    ASDM_TRY(check_parts(c, err));
    for (int i = 0; i < ASDM_COMPONENT_COUNT; i++)
        ASDM_TRY(open_weights(c->path, i, &c->files[i], err));
    return ASDM_OK;
}

/* ---- opening a file */

static bool ends_with(const char *text, const char *ending) {
    size_t length = strlen(text), tail = strlen(ending);
    return length >= tail && strcmp(text + length - tail, ending) == 0;
}

static enum asdm_status open_file(struct asdm_checkpoint *c, const char *tokenizer, struct asdm_error *err) {
    if (ends_with(c->path, ".ckpt") || ends_with(c->path, ".bin") || ends_with(c->path, ".pt") ||
        ends_with(c->path, ".pth"))
        return refuse_pickle(c->path, err);
    if (tokenizer && !(c->tokenizer = strdup(tokenizer)))
        return no_memory(c->path, err);
    ASDM_TRY(asdm_safetensors_open(c->path, &c->files[0], err));
    for (int i = 1; i < ASDM_COMPONENT_COUNT; i++)
        c->files[i] = c->files[0];
    ASDM_TRY(asdm_original_config_read(c, err));
    return check_parts(c, err);
}

enum asdm_status asdm_checkpoint_open(const char *path, const char *tokenizer, struct asdm_checkpoint **ret,
                                      struct asdm_error *err) {
    struct asdm_checkpoint *c = calloc(1, sizeof *c);
    if (!c || !(c->path = strdup(path))) {
        free(c);
        return no_memory(path, err);
    }
    while (strlen(c->path) > 1 && ends_with(c->path, "/"))
        c->path[strlen(c->path) - 1] = '\0';
    enum asdm_status status;
    if (asdm_file_is_directory(path))
        status = open_directory(c, tokenizer, err);
    else if (asdm_file_exists(path))
        status = open_file(c, tokenizer, err);
    else
        status = asdm_fail(err, ASDM_ERR_NOT_FOUND, "%s: no such model directory or file", path);
    if (status != ASDM_OK)
        asdm_checkpoint_close(&c);
    else
        *ret = c;
    return status;
}

void asdm_checkpoint_close(struct asdm_checkpoint **checkpoint) {
    struct asdm_checkpoint *c = *checkpoint;
    if (!c)
        return;
    for (int i = ASDM_COMPONENT_COUNT - 1; i >= 0; i--)
        if (i == 0 || c->files[i] != c->files[0])
            asdm_safetensors_close(&c->files[i]);
    asdm_scheduler_config_done(&c->scheduler);
    free(c->random);
    free(c->tokenizer);
    free(c->path);
    free(c);
    *checkpoint = NULL;
}

/* ---- finding weights */

static int trimmed_rank(const int64_t *dims, int rank) {
    while (rank > 1 && dims[rank - 1] == 1)
        rank--;
    return rank;
}

/* [n, m, 1, 1] and [n, m] are the same: 1x1 convolutions and linears are stored either way. */
static bool same_shape(const struct asdm_tensor *tensor, const struct asdm_weight *weight) {
    int rank = trimmed_rank(weight->dims, weight->rank);
    return trimmed_rank(tensor->dims, tensor->rank) == rank &&
           memcmp(tensor->dims, weight->dims, (size_t)rank * sizeof *weight->dims) == 0;
}

static bool is_float(enum asdm_dtype dtype) {
    return dtype == ASDM_F32 || dtype == ASDM_F16 || dtype == ASDM_BF16;
}

/* Part `part` of a tensor that stacks `parts` along its first dimension. */
static bool take_part(struct asdm_tensor *tensor, int part, int parts) {
    if (parts == 1)
        return true;
    if (tensor->rank < 1 || tensor->dims[0] % parts)
        return false;
    tensor->dims[0] /= parts;
    tensor->count /= (size_t)parts;
    tensor->bytes /= (size_t)parts;
    tensor->data = (const unsigned char *)tensor->data + (size_t)part * tensor->bytes;
    return true;
}

/* The tensor in the file that holds `weight`, whole, and which part of it; NULL when there is none. */
static const struct asdm_tensor *look_up(const struct asdm_checkpoint *c, enum asdm_component component,
                                         const struct asdm_weight *weight, struct asdm_file_name *name) {
    for (int attempt = 0; asdm_file_name(c, component, weight->name, attempt, name); attempt++) {
        const struct asdm_tensor *tensor = asdm_safetensors_find(c->files[component], name->name);
        if (tensor)
            return tensor;
    }
    return NULL;
}

/* ---- verifying */

/* Names collected for one message. */
struct listing {
    int count;
    size_t used;
    char text[700];
};

static void list_name(struct listing *list, const char *name, const char *detail) {
    if (list->count++ < LISTED_MAX && list->used < sizeof list->text)
        list->used += (size_t)snprintf(list->text + list->used, sizeof list->text - list->used, "%s%s%s",
                                       list->used ? ", " : "", name, detail);
}

static enum asdm_status fail_listing(const struct asdm_checkpoint *c, enum asdm_component component, const char *what,
                                     const struct listing *list, struct asdm_error *err) {
    char more[32] = "";
    if (list->count > LISTED_MAX)
        snprintf(more, sizeof more, " and %d more", list->count - LISTED_MAX);
    return asdm_fail(err, ASDM_ERR_FORMAT, "%s: %d tensor(s) %s: %s%s", asdm_safetensors_path(c->files[component]),
                     list->count, what, list->text, more);
}

/* One weight against the file: adds it to the lists where it is missing or wrong, and marks what it uses. */
static void verify_weight(const struct asdm_checkpoint *c, enum asdm_component component,
                          const struct asdm_weight *weight, bool *used, struct listing *missing,
                          struct listing *wrong) {
    struct asdm_file_name name;
    const struct asdm_tensor *found = look_up(c, component, weight, &name);
    if (!found) {
        asdm_file_name(c, component, weight->name, 0, &name);
        list_name(missing, name.name, "");
        return;
    }
    used[asdm_safetensors_number(c->files[component], found)] = true;
    struct asdm_tensor tensor = *found;
    if (is_float(tensor.dtype) && take_part(&tensor, name.part, name.parts) && same_shape(&tensor, weight))
        return;
    char detail[320], has[128], needs[128];
    snprintf(detail, sizeof detail, " (is %s %s, must be F32, F16 or BF16 %s)", asdm_dtype_name(found->dtype),
             asdm_dims_text(tensor.dims, tensor.rank, has), asdm_dims_text(weight->dims, weight->rank, needs));
    list_name(wrong, name.name, detail);
}

enum asdm_status asdm_checkpoint_verify(const struct asdm_checkpoint *c, enum asdm_component component,
                                        struct asdm_program *const *programs, int count, struct asdm_error *err) {
    struct listing missing = {0}, wrong = {0}, extra = {0};
    if (c->layout == ASDM_LAYOUT_RANDOM)
        return ASDM_OK;
    size_t tensors = asdm_safetensors_count(c->files[component]);
    bool *used = calloc(tensors + 1, sizeof *used);
    if (!used)
        return no_memory(c->path, err);
    for (int i = 0; i < count; i++)
        for (int w = 0; w < programs[i]->weight_count; w++)
            verify_weight(c, component, &programs[i]->weights[w], used, &missing, &wrong);
    for (size_t t = 0; t < tensors; t++) {
        const struct asdm_tensor *tensor = asdm_safetensors_at(c->files[component], t);
        if (!used[asdm_safetensors_number(c->files[component], tensor)] &&
            asdm_file_name_is_extra(c, component, tensor->name))
            list_name(&extra, tensor->name, "");
    }
    free(used);
    if (missing.count)
        return fail_listing(c, component, "missing", &missing, err);
    if (wrong.count)
        return fail_listing(c, component, "of the wrong shape or type", &wrong, err);
    if (extra.count)
        return fail_listing(c, component, "more than the configuration has", &extra, err);
    return ASDM_OK;
}

/* ---- the weight source */

static enum asdm_status find_weight(const struct asdm_checkpoint *c, enum asdm_component component,
                                    const struct asdm_weight *weight, struct asdm_tensor *ret, struct asdm_error *err) {
    if (c->layout == ASDM_LAYOUT_RANDOM)
        return asdm_random_weight_find(c->random, weight, ret, err);
    struct asdm_file_name name;
    const struct asdm_tensor *found = look_up(c, component, weight, &name);
    struct asdm_tensor tensor;
    if (!found)
        return asdm_fail(err, ASDM_ERR_NOT_FOUND, "%s: no tensor %s", c->path, weight->name);
    tensor = *found;
    if (!take_part(&tensor, name.part, name.parts) || !same_shape(&tensor, weight))
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: tensor %s has the wrong shape", c->path, weight->name);
    *ret = tensor;
    return ASDM_OK;
}

static void release_weight(struct asdm_checkpoint *c, enum asdm_component component, const struct asdm_tensor *tensor) {
    if (c->layout != ASDM_LAYOUT_RANDOM)
        asdm_safetensors_release(c->files[component], tensor);
}

/* The component is told by which of three functions is called, so that `user` can be the checkpoint itself. */
#define SOURCE_FUNCTIONS(suffix, component)                                                                            \
    static enum asdm_status find_##suffix(void *user, const struct asdm_weight *weight, struct asdm_tensor *ret,       \
                                          struct asdm_error *err) {                                                    \
        return find_weight(user, component, weight, ret, err);                                                         \
    }                                                                                                                  \
    static void release_##suffix(void *user, const struct asdm_tensor *tensor) {                                       \
        release_weight(user, component, tensor);                                                                       \
    }

SOURCE_FUNCTIONS(unet, ASDM_COMPONENT_UNET)
SOURCE_FUNCTIONS(vae, ASDM_COMPONENT_VAE)
SOURCE_FUNCTIONS(text, ASDM_COMPONENT_TEXT)

struct asdm_weight_source asdm_checkpoint_source(struct asdm_checkpoint *checkpoint, enum asdm_component component) {
    switch (component) {
    case ASDM_COMPONENT_UNET:
        return (struct asdm_weight_source){checkpoint, find_unet, release_unet};
    case ASDM_COMPONENT_VAE:
        return (struct asdm_weight_source){checkpoint, find_vae, release_vae};
    default:
        return (struct asdm_weight_source){checkpoint, find_text, release_text};
    }
}
