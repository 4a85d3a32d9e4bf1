#include "light/student_config.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>
#include <asdm/json.h>
#include "base/file.h"
#include "model/light_config.h"

enum { CONFIG_BYTES_MAX = 1 << 20, VALUE_BYTES = 16 << 10 };

/* JSON being written. What it says was read as names and numbers before, and fits: there are few of them. */
struct text {
    size_t used;
    char bytes[VALUE_BYTES];
};

static void add(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void add(struct text *text, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int length = vsnprintf(text->bytes + text->used, VALUE_BYTES - text->used, format, args);
    va_end(args);
    ASDM_ASSERT(length >= 0 && (size_t)length < VALUE_BYTES - text->used);
    text->used += (size_t)length;
}

static void add_layers(struct text *text, const struct asdm_unet_config *config) {
    for (int i = 0; i < config->stages; i++)
        add(text, "%s%d", i ? ", " : "[", config->layers[i]);
    add(text, "]");
}

/* ---- "asdm" */

/* What stands between a member and the one before it. */
static const char *comma(const struct text *text) {
    return text->bytes[text->used - 1] == '{' ? "" : ", ";
}

static void add_options(struct text *text, const struct asdm_light_options *options) {
    add(text, "{");
    if (options->remove && *options->remove)
        add(text, "\"remove\": \"%s\"", options->remove);
    if (options->gri && *options->gri)
        add(text, "%s\"gri\": \"%s\"", comma(text), options->gri);
    if (options->gri_window)
        add(text, "%s\"gri_window\": %d", comma(text), options->gri_window);
    if (options->gri_pool)
        add(text, "%s\"gri_pool\": %d", comma(text), options->gri_pool);
    if (options->condconv)
        add(text, "%s\"condconv\": \"%s\"", comma(text), options->condconv);
    add(text, "}");
}

static void add_lineage(struct text *text, const struct asdm_student *student) {
    char sha256[65];
    const char *between = "";
    add(text, "{\"method\": \"prune\", \"removed\": [");
    for (int i = 0; i < student->unit_count; i++)
        if (student->removed & 1u << i) {
            add(text, "%s\"%s\"", between, student->units[i].name);
            between = ", ";
        }
    add(text, "], \"options\": ");
    add_options(text, student->options);
    if (student->options->sha256 && student->options->sha256(student->weights, sha256))
        add(text, ", \"source_sha256\": \"%s\"", sha256);
    add(text, "}");
}

static void add_gri(struct text *text, const struct asdm_unet_config *config) {
    const char *between = "";
    add(text, "{\"stages\": [");
    for (int stage = 0; stage < config->stages; stage++)
        if (config->gri.stages[stage]) {
            add(text, "%s%d", between, asdm_stage_height(config, stage));
            between = ", ";
        }
    add(text, "], \"window\": %d, \"pool\": %d}", config->gri.window, config->gri.pool);
}

static void add_parts(struct text *text, unsigned parts) {
    const char *between = "";
    for (unsigned part = 1; part <= parts; part <<= 1)
        if (parts & part) {
            add(text, "%s\"%s\"", between, asdm_resnet_part_name(part));
            between = ", ";
        }
}

static void add_condconv(struct text *text, const struct asdm_condconv_config *c) {
    add(text, "{\"routing\": \"%s\", \"temperature\": %g, \"experts\": {",
        c->routing == ASDM_ROUTING_FULL ? "full" : "timestep", (double)c->temperature);
    for (int i = 0; i < c->resnet_count; i++) {
        add(text, "%s\"%s\": {\"count\": %d, \"parts\": [", i ? ", " : "", c->resnets[i].resnet, c->resnets[i].count);
        add_parts(text, c->resnets[i].parts);
        add(text, "]}");
    }
    add(text, "}}");
}

static void add_light(struct text *text, const struct asdm_student *student) {
    add(text, "{\"lineage\": ");
    add_lineage(text, student);
    if (student->config->gri.window) {
        add(text, ", \"gri\": ");
        add_gri(text, student->config);
    }
    if (student->config->condconv.routing) {
        add(text, ", \"condconv\": ");
        add_condconv(text, &student->config->condconv);
    }
    add(text, "}");
}

/* ---- the file */

static enum asdm_status set_members(struct asdm_json *json, const struct asdm_student *student,
                                    struct asdm_error *err) {
    struct text *text = malloc(sizeof *text);
    if (!text)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for a configuration");
    text->used = 0;
    add_layers(text, student->config);
    enum asdm_status status = asdm_json_set(json, "layers_per_block", text->bytes, err);
    if (status == ASDM_OK && !student->config->mid)
        status = asdm_json_set(json, "mid_block_type", "null", err);
    text->used = 0;
    add_light(text, student);
    if (status == ASDM_OK)
        status = asdm_json_set(json, "asdm", text->bytes, err);
    free(text);
    return status;
}

enum asdm_status asdm_student_config_write(const struct asdm_student *student, const char *from, const char *to,
                                           struct asdm_error *err) {
    struct asdm_json *json = NULL;
    ASDM_TRY(asdm_json_read(from, CONFIG_BYTES_MAX, &json, err));
    enum asdm_status status = set_members(json, student, err);
    char *text = status == ASDM_OK ? asdm_json_print(json) : NULL;
    if (status == ASDM_OK && !text)
        status = asdm_fail(err, ASDM_ERR_MEMORY, "no memory for a configuration");
    if (status == ASDM_OK)
        status = asdm_file_write(to, text, strlen(text), err);
    free(text);
    asdm_json_destroy(&json);
    return status;
}
