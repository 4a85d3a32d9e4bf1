/* A light model: the original without some of its layers. */
#include <asdm/light.h>

#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>
#include "base/file.h"
#include "light/directory.h"
#include "light/experts.h"
#include "light/units.h"
#include "light/student_config.h"
#include "model/build.h"
#include "model/checkpoint.h"
#include "model/light_config.h"

struct prune {
    const struct asdm_light_options *options;
    struct asdm_checkpoint *original;
    struct asdm_light_report *report;
    unsigned removed; /* bits among the report's units */
    struct asdm_adoptions adoptions;
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
        if (asdm_adoptions_router(&prune->adoptions, &weight, tensor)) {
            prune->tensor_count++;
            continue;
        }
        if (!asdm_adoptions_original_name(&prune->adoptions, weight.name, name))
            asdm_unit_original_name(weight.name, report->units, report->unit_count, prune->removed,
                                    prune->config.stages, name);
        weight.name = name;
        ASDM_TRY(source.find(source.user, &weight, tensor, err));
        tensor->name = program->weights[i].name;
        prune->tensor_count++;
    }
    return ASDM_OK;
}

enum { HEIGHT_DIGITS_MAX = 6 };

/* The options' stages beside those that the original has. What is wrong with them is the caller's fault. */
static enum asdm_status add_gri(struct prune *prune, struct asdm_error *err) {
    const struct asdm_light_options *options = prune->options;
    struct asdm_gri_config *gri = &prune->config.gri;
    enum asdm_status status = ASDM_OK;
    gri->window = options->gri_window ? options->gri_window : gri->window ? gri->window : ASDM_GRI_WINDOW;
    gri->pool = options->gri_pool ? options->gri_pool : gri->pool ? gri->pool : ASDM_GRI_POOL;
    for (const char *at = options->gri; status == ASDM_OK && *at;) {
        char *end;
        long height = strtol(at, &end, 10);
        if (*at < '0' || *at > '9' || end - at > HEIGHT_DIGITS_MAX || (*end && *end != ','))
            return asdm_fail(err, ASDM_ERR_ARGUMENT, "gri: \"%.40s\" is not a list of heights of maps", options->gri);
        status = asdm_gri_add_stage(&prune->config, height, "gri", err);
        at = end + (*end == ',');
    }
    if (status == ASDM_OK)
        status = asdm_gri_check(gri, "gri", err);
    return status == ASDM_OK ? ASDM_OK : asdm_fail_context(err, ASDM_ERR_ARGUMENT, "prune");
}

/* The light model's configuration. */
static enum asdm_status apply_options(struct prune *prune, struct asdm_error *err) {
    struct asdm_light_report *report = prune->report;
    bool gri = prune->options->gri && *prune->options->gri;
    prune->config = prune->original->unet;
    report->unit_count = asdm_units_of(&prune->config, report->units);
    ASDM_TRY(
        asdm_units_parse("remove", prune->options->remove, report->units, report->unit_count, &prune->removed, err));
    if (!prune->removed && !gri)
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "remove: must name at least one unit where gri names no stage");
    if (!gri && (prune->options->gri_window || prune->options->gri_pool))
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "gri: must name at least one stage for a window and a pool");
    for (int i = 0; i < report->unit_count; i++)
        if (prune->removed & 1u << i)
            asdm_unit_apply(&report->units[i], &prune->config);
    asdm_gri_trim(&prune->config);
    return gri ? add_gri(prune, err) : ASDM_OK;
}

/* The removed layers as experts of those that stay. */
static enum asdm_status add_experts(struct prune *prune, struct asdm_error *err) {
    const char *routing = prune->options->condconv;
    if (prune->removed && prune->original->unet.condconv.routing)
        return asdm_fail(err, ASDM_ERR_UNSUPPORTED,
                         "%s: has conditional convolutions (asdm.condconv); prune the model that it was made of",
                         prune->original->path);
    if (!routing || strcmp(routing, "off") == 0)
        return ASDM_OK;
    if (strcmp(routing, "full") != 0 && strcmp(routing, "timestep") != 0)
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "condconv: must be full, timestep or off, is \"%.40s\"", routing);
    if (!prune->removed)
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "condconv: needs units to remove, whose layers become experts");
    return asdm_adoptions_make(
        &prune->adoptions, &prune->original->unet, prune->report->units, prune->report->unit_count, prune->removed,
        strcmp(routing, "full") == 0 ? ASDM_ROUTING_FULL : ASDM_ROUTING_TIMESTEP, &prune->config.condconv, err);
}

static enum asdm_status plan(struct prune *prune, struct asdm_error *err) {
    struct asdm_light_report *report = prune->report;
    struct asdm_unet original;
    ASDM_TRY(apply_options(prune, err));
    ASDM_TRY(add_experts(prune, err));
    ASDM_TRY(asdm_unet_build(&prune->config, prune->original->text.positions, &prune->unet, err));
    ASDM_TRY(inherit(prune, err));
    int height = prune->config.sample_height, width = prune->config.sample_width;
    size_t element_bytes = prune->tensor_count ? prune->tensors[0].bytes / prune->tensors[0].count : 0;
    asdm_unet_measure(prune->unet.program, height, width, element_bytes, &report->after);
    report->after.bytes = 0;
    for (int i = 0; i < prune->tensor_count; i++)
        report->after.bytes += (int64_t)prune->tensors[i].bytes;
    ASDM_TRY(asdm_unet_build(&prune->original->unet, prune->original->text.positions, &original, err));
    asdm_unet_measure(original.program, height, width, element_bytes, &report->before);
    asdm_program_destroy(&original.program);
    return ASDM_OK;
}

/* ---- writing */

/* unet/config.json and the tensors. */
static enum asdm_status write_unet(const struct prune *prune, const char *to, struct asdm_error *err) {
    static const char *const metadata[] = {"format", "pt", NULL};
    char *folder = asdm_path_join(to, "unet"), *config = asdm_path_join(to, "unet/config.json");
    char *weights = asdm_path_join(to, "unet/diffusion_pytorch_model.safetensors");
    char *original = asdm_path_join(prune->original->path, "unet/config.json");
    enum asdm_status status = folder && config && weights && original
                                  ? asdm_directory_make(folder, err)
                                  : asdm_fail(err, ASDM_ERR_MEMORY, "no memory for a path");
    struct asdm_student student = {
        &prune->config, prune->report->units, prune->report->unit_count,
        prune->removed, prune->options,       asdm_safetensors_path(prune->original->files[ASDM_COMPONENT_UNET])};
    if (status == ASDM_OK)
        status = asdm_student_config_write(&student, original, config, err);
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

/* ---- all together */

static enum asdm_status open_original(struct prune *prune, const char *path, bool dry_run, struct asdm_error *err) {
    const char *architecture = prune->options->architecture;
    ASDM_TRY(architecture ? asdm_checkpoint_random(architecture, &prune->original, err)
                          : asdm_checkpoint_open(path, NULL, &prune->original, err));
    if (prune->original->layout == ASDM_LAYOUT_DIFFUSERS || (dry_run && architecture))
        return ASDM_OK;
    return asdm_fail(err, ASDM_ERR_UNSUPPORTED, "%s: only diffusers directories can be pruned",
                     architecture ? architecture : path);
}

static void done(struct prune *prune) {
    asdm_adoptions_done(&prune->adoptions);
    free(prune->tensors);
    asdm_program_destroy(&prune->unet.program);
    asdm_checkpoint_close(&prune->original);
}

enum asdm_status asdm_light_prune(const char *path, const char *out, const struct asdm_light_options *options,
                                  struct asdm_light_report *ret, struct asdm_error *err) {
    struct prune prune = {.options = options, .report = ret};
    *ret = (struct asdm_light_report){0};
    enum asdm_status status = open_original(&prune, path, options->dry_run, err);
    if (status == ASDM_OK)
        status = plan(&prune, err);
    if (status == ASDM_OK && !options->dry_run)
        status = write_model(&prune, out, options->force, err);
    done(&prune);
    return status;
}

enum asdm_status asdm_light_check(const char *path, const struct asdm_light_options *options, struct asdm_error *err) {
    struct asdm_light_options some = *options;
    struct asdm_light_report report = {0};
    struct prune prune = {.options = &some, .report = &report};
    struct asdm_unit units[ASDM_UNITS_MAX];
    enum asdm_status status = open_original(&prune, path, options->dry_run, err);
    if (status == ASDM_OK && asdm_units_of(&prune.original->unet, units))
        some.remove = units[0].name;
    if (status == ASDM_OK && !options->gri && (options->gri_window || options->gri_pool) &&
        asdm_units_of_gri(&prune.original->unet, 0, 0, units + 1))
        some.gri = units[1].name + strlen("gri"); /* a window and a pool are of the stages that will be chosen, too */
    if (status == ASDM_OK)
        status = plan(&prune, err);
    done(&prune);
    return status;
}
