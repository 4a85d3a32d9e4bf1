/* A light model: the original without some of its layers. */
#include <asdm/light.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>
#include <asdm/json.h>
#include "base/file.h"
#include "light/directory.h"
#include "light/units.h"
#include "model/build.h"
#include "model/checkpoint.h"

enum { CONFIG_BYTES_MAX = 1 << 20, VALUE_BYTES = 1024 };

struct prune {
    struct asdm_checkpoint *original;
    struct asdm_light_report *report;
    unsigned removed; /* bits among the report's units */
    struct asdm_unet_config config;
    struct asdm_unet unet; /* the light one */
    struct asdm_tensor *tensors;
    int tensor_count;
};

/* Every weight of the light UNet, found under the original's name for it. */
static enum asdm_status inherit(struct prune *prune, struct asdm_error *err) {
    const struct asdm_program *program = prune->unet.program;
    const struct asdm_light_report *report = prune->report;
    struct asdm_weight_source source = asdm_checkpoint_source(prune->original, ASDM_COMPONENT_UNET);
    prune->tensors = calloc((size_t)program->weight_count, sizeof *prune->tensors);
    if (!prune->tensors)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for a list of weights");
    for (int i = 0; i < program->weight_count; i++) {
        char name[ASDM_UNIT_NAME_MAX];
        struct asdm_weight weight = program->weights[i];
        struct asdm_tensor *tensor = &prune->tensors[prune->tensor_count];
        asdm_unit_original_name(weight.name, report->units, report->unit_count, prune->removed, prune->config.stages,
                                name);
        weight.name = name;
        ASDM_TRY(source.find(source.user, &weight, tensor, err));
        tensor->name = program->weights[i].name;
        prune->tensor_count++;
    }
    return ASDM_OK;
}

static enum asdm_status plan(struct prune *prune, const char *remove, struct asdm_error *err) {
    struct asdm_light_report *report = prune->report;
    struct asdm_unet original;
    prune->config = prune->original->unet;
    report->unit_count = asdm_units_of(&prune->config, report->units);
    ASDM_TRY(asdm_units_parse(remove, report->units, report->unit_count, &prune->removed, err));
    for (int i = 0; i < report->unit_count; i++)
        if (prune->removed & 1u << i)
            asdm_unit_apply(&report->units[i], &prune->config);
    ASDM_TRY(asdm_unet_build(&prune->config, prune->original->text.positions, &prune->unet, err));
    ASDM_TRY(inherit(prune, err));
    int height = prune->config.sample_height, width = prune->config.sample_width;
    size_t element_bytes = prune->tensor_count ? prune->tensors[0].bytes / prune->tensors[0].count : 0;
    asdm_unit_measure(prune->unet.program, height, width, element_bytes, &report->after);
    ASDM_TRY(asdm_unet_build(&prune->original->unet, prune->original->text.positions, &original, err));
    asdm_unit_measure(original.program, height, width, element_bytes, &report->before);
    asdm_program_destroy(&original.program);
    return ASDM_OK;
}

/* ---- writing */

static void write_layers(const struct asdm_unet_config *config, char text[VALUE_BYTES]) {
    size_t used = (size_t)snprintf(text, VALUE_BYTES, "[");
    for (int i = 0; i < config->stages; i++)
        used += (size_t)snprintf(text + used, VALUE_BYTES - used, "%s%d", i ? ", " : "", config->layers[i]);
    snprintf(text + used, VALUE_BYTES - used, "]");
}

static void write_lineage(const struct prune *prune, char text[VALUE_BYTES]) {
    size_t used = (size_t)snprintf(text, VALUE_BYTES, "{\"lineage\": {\"method\": \"prune\", \"removed\": [");
    bool first = true;
    for (int i = 0; i < prune->report->unit_count; i++)
        if (prune->removed & 1u << i) {
            used += (size_t)snprintf(text + used, VALUE_BYTES - used, "%s\"%s\"", first ? "" : ", ",
                                     prune->report->units[i].name);
            first = false;
        }
    snprintf(text + used, VALUE_BYTES - used, "]}}");
}

static enum asdm_status write_config(const struct prune *prune, const char *from, const char *to,
                                     struct asdm_error *err) {
    struct asdm_json *json = NULL;
    char value[VALUE_BYTES];
    ASDM_TRY(asdm_json_read(from, CONFIG_BYTES_MAX, &json, err));
    write_layers(&prune->config, value);
    enum asdm_status status = asdm_json_set(json, "layers_per_block", value, err);
    if (status == ASDM_OK && !prune->config.mid)
        status = asdm_json_set(json, "mid_block_type", "null", err);
    write_lineage(prune, value);
    if (status == ASDM_OK)
        status = asdm_json_set(json, "asdm", value, err);
    char *text = status == ASDM_OK ? asdm_json_print(json) : NULL;
    if (status == ASDM_OK && !text)
        status = asdm_fail(err, ASDM_ERR_MEMORY, "no memory for a configuration");
    if (status == ASDM_OK)
        status = asdm_file_write(to, text, strlen(text), err);
    free(text);
    asdm_json_destroy(&json);
    return status;
}

static enum asdm_status write_unet(const struct prune *prune, const char *to, struct asdm_error *err) {
    static const char *const metadata[] = {"format", "pt", NULL};
    char *folder = asdm_path_join(to, "unet"), *config = asdm_path_join(to, "unet/config.json");
    char *weights = asdm_path_join(to, "unet/diffusion_pytorch_model.safetensors");
    char *original = asdm_path_join(prune->original->path, "unet/config.json");
    enum asdm_status status = folder && config && weights && original
                                  ? asdm_directory_make(folder, err)
                                  : asdm_fail(err, ASDM_ERR_MEMORY, "no memory for a path");
    if (status == ASDM_OK)
        status = write_config(prune, original, config, err);
    if (status == ASDM_OK)
        status = asdm_safetensors_write(weights, prune->tensors, (size_t)prune->tensor_count, metadata, err);
    free(folder);
    free(config);
    free(weights);
    free(original);
    return status;
}

static enum asdm_status write_model(const struct prune *prune, const char *out, bool force, struct asdm_error *err) {
    struct asdm_directory directory;
    if (asdm_path_is_below(out, prune->original->path))
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "%s is in the model's own directory", out);
    enum asdm_status status = asdm_directory_open(&directory, out, force, err);
    if (status == ASDM_OK)
        status = asdm_directory_copy(prune->original->path, directory.temporary, "unet", err);
    if (status == ASDM_OK)
        status = write_unet(prune, directory.temporary, err);
    if (status == ASDM_OK)
        status = asdm_directory_commit(&directory, err);
    asdm_directory_close(&directory);
    return status;
}

enum asdm_status asdm_light_prune(const char *path, const char *out, const struct asdm_light_options *options,
                                  struct asdm_light_report *ret, struct asdm_error *err) {
    struct prune prune = {.report = ret};
    *ret = (struct asdm_light_report){0};
    ASDM_TRY(options->architecture ? asdm_checkpoint_random(options->architecture, &prune.original, err)
                                   : asdm_checkpoint_open(path, NULL, &prune.original, err));
    bool writable = prune.original->layout == ASDM_LAYOUT_DIFFUSERS;
    enum asdm_status status = writable || (options->dry_run && options->architecture)
                                  ? plan(&prune, options->remove, err)
                                  : asdm_fail(err, ASDM_ERR_UNSUPPORTED, "%s: only diffusers directories can be pruned",
                                              options->architecture ? options->architecture : path);
    if (status == ASDM_OK && !options->dry_run)
        status = write_model(&prune, out, options->force, err);
    free(prune.tensors);
    asdm_program_destroy(&prune.unet.program);
    asdm_checkpoint_close(&prune.original);
    return status;
}
