#include "model/light_config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include <asdm/error.h>
#include "model/config_keys.h"

enum { NAME_MAX_BYTES = 320 };

static const struct asdm_config_key light_keys[] = {{"condconv", NULL}, {"gri", NULL}, {"lineage", NULL}, {NULL, NULL}};
static const struct asdm_config_key gri_keys[] = {{"pool", NULL}, {"stages", NULL}, {"window", NULL}, {NULL, NULL}};

int asdm_stage_height(const struct asdm_unet_config *config, int stage) {
    return config->sample_height >> stage;
}

/* ---- global-regional attention */

static bool has_self_attention(const struct asdm_unet_config *c, int stage) {
    return c->down_attention[stage] || c->up_attention[stage] || (c->mid_attention && stage == c->stages - 1);
}

enum asdm_status asdm_gri_add_stage(struct asdm_unet_config *config, int64_t height, const char *name,
                                    struct asdm_error *err) {
    char heights[96] = "";
    size_t used = 0;
    for (int stage = 0; stage < config->stages; stage++) {
        if (!has_self_attention(config, stage))
            continue;
        if (asdm_stage_height(config, stage) == height && config->gri.stages[stage])
            return asdm_fail(err, ASDM_ERR_FORMAT, "%s: stages: %lld is named twice", name, (long long)height);
        if (asdm_stage_height(config, stage) == height) {
            config->gri.stages[stage] = true;
            return ASDM_OK;
        }
        used += (size_t)snprintf(heights + used, sizeof heights - used, "%s%d", used ? ", " : "",
                                 asdm_stage_height(config, stage));
    }
    return asdm_fail(err, ASDM_ERR_FORMAT,
                     "%s: stages: %lld is the height of no stage with self-attention; those are %s", name,
                     (long long)height, used ? heights : "none");
}

void asdm_gri_trim(struct asdm_unet_config *config) {
    bool any = false;
    for (int stage = 0; stage < config->stages; stage++)
        any |= config->gri.stages[stage] &= has_self_attention(config, stage);
    if (!any)
        config->gri = (struct asdm_gri_config){0};
}

enum asdm_status asdm_gri_check(const struct asdm_gri_config *gri, const char *name, struct asdm_error *err) {
    if (gri->window < 1 || gri->window > ASDM_GRI_WINDOW_MAX)
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: window: must be from 1 to %d, is %d", name, ASDM_GRI_WINDOW_MAX,
                         gri->window);
    if (gri->pool < 1 || gri->window % gri->pool)
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: pool: must divide the window of %d, is %d", name, gri->window,
                         gri->pool);
    return ASDM_OK;
}

static enum asdm_status read_gri(const struct asdm_json *node, const char *name, struct asdm_unet_config *c,
                                 struct asdm_error *err) {
    ASDM_TRY(asdm_config_check_keys(node, name, gri_keys, err));
    c->gri.window = ASDM_GRI_WINDOW;
    c->gri.pool = ASDM_GRI_POOL;
    ASDM_TRY(asdm_config_get_int(node, name, "window", 1, ASDM_GRI_WINDOW_MAX, &c->gri.window, err));
    ASDM_TRY(asdm_config_get_int(node, name, "pool", 1, ASDM_GRI_WINDOW_MAX, &c->gri.pool, err));
    ASDM_TRY(asdm_gri_check(&c->gri, name, err));
    const struct asdm_json *stages = asdm_json_get(node, "stages");
    if (!stages || asdm_json_type(stages) != ASDM_JSON_ARRAY || !asdm_json_first(stages))
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: stages: must be an array of heights of maps", name);
    for (const struct asdm_json *item = asdm_json_first(stages); item; item = asdm_json_next(item)) {
        double height = asdm_json_type(item) == ASDM_JSON_NUMBER ? asdm_json_number(item) : NAN;
        if (!(height >= 1 && height <= 1 << 20) || height != floor(height))
            return asdm_fail(err, ASDM_ERR_FORMAT, "%s: stages: must be an array of heights of maps", name);
        ASDM_TRY(asdm_gri_add_stage(c, (int64_t)height, name, err));
    }
    return ASDM_OK;
}

/* ---- conditional convolution */

static const struct asdm_config_key condconv_keys[] = {
    {"experts", NULL}, {"routing", NULL}, {"temperature", NULL}, {NULL, NULL}};
static const struct asdm_config_key experts_keys[] = {{"count", NULL}, {"parts", NULL}, {NULL, NULL}};
static const char *const part_names[] = {"conv1", "conv2", "time_emb_proj", "conv_shortcut"};
enum { PARTS = sizeof part_names / sizeof *part_names };

const char *asdm_resnet_part_name(unsigned part) {
    int i = 0;
    while (part >> i > 1)
        i++;
    ASDM_ASSERT(i < PARTS);
    return part_names[i];
}

unsigned asdm_resnet_parts(int in, int out) {
    return ASDM_PART_CONV1 | ASDM_PART_CONV2 | ASDM_PART_TIME | (in != out ? ASDM_PART_SHORTCUT : 0);
}

/* An up block's layer reads what is before it and a skip: the outputs of the down side's layers, last first, then what
 * the stage began with. */
static int up_channels(const struct asdm_unet_config *c, int stage, int layer) {
    int before = layer || stage + 1 == c->stages ? c->channels[stage] : c->channels[stage + 1];
    int skip = layer < c->layers[stage] || stage == 0 ? c->channels[stage] : c->channels[stage - 1];
    return before + skip;
}

bool asdm_resnet_channels(const struct asdm_unet_config *c, const char *resnet, int *ret_in, int *ret_out) {
    int block = -1, layer = -1, used = 0, stage = c->stages - 1;
    if (sscanf(resnet, "down_blocks.%d.resnets.%d%n", &block, &layer, &used) == 2) {
        stage = block;
        if (resnet[used] || block < 0 || block >= c->stages || layer < 0 || layer >= c->layers[stage])
            return false;
        *ret_in = c->channels[layer || !stage ? stage : stage - 1];
    } else if (sscanf(resnet, "up_blocks.%d.resnets.%d%n", &block, &layer, &used) == 2) {
        stage = c->stages - 1 - block;
        if (resnet[used] || block < 0 || block >= c->stages || layer < 0 || layer > c->layers[stage])
            return false;
        *ret_in = up_channels(c, stage, layer);
    } else if (sscanf(resnet, "mid_block.resnets.%d%n", &layer, &used) == 1) {
        if (resnet[used] || !c->mid || layer < 0 || layer > c->mid_attention)
            return false;
        *ret_in = c->channels[stage];
    } else {
        return false;
    }
    *ret_out = c->channels[stage];
    return true;
}

static enum asdm_status read_parts(const struct asdm_json *node, const char *name, unsigned has, unsigned *ret,
                                   struct asdm_error *err) {
    const struct asdm_json *parts = asdm_json_get(node, "parts");
    if (!parts || asdm_json_type(parts) != ASDM_JSON_ARRAY || !asdm_json_first(parts))
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: parts: must be an array of names", name);
    for (const struct asdm_json *item = asdm_json_first(parts); item; item = asdm_json_next(item)) {
        const char *text = asdm_json_type(item) == ASDM_JSON_STRING ? asdm_json_string(item) : "";
        int i = 0;
        while (i < PARTS && strcmp(text, part_names[i]) != 0)
            i++;
        if (i == PARTS || !(has & 1u << i))
            return asdm_fail(err, ASDM_ERR_FORMAT,
                             "%s: parts: \"%.40s\" is no part of this resnet, which has "
                             "conv1, conv2, time_emb_proj%s",
                             name, text, has & ASDM_PART_SHORTCUT ? ", conv_shortcut" : "");
        if (*ret & 1u << i)
            return asdm_fail(err, ASDM_ERR_FORMAT, "%s: parts: %s is named twice", name, text);
        *ret |= 1u << i;
    }
    return ASDM_OK;
}

/* One member of "experts". */
static enum asdm_status read_experts(const struct asdm_json *node, const char *name, struct asdm_unet_config *c,
                                     struct asdm_error *err) {
    char whole[NAME_MAX_BYTES + 96];
    int in, out;
    const char *resnet = asdm_json_key(node);
    if (!asdm_resnet_channels(c, resnet, &in, &out))
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: experts: \"%.60s\" is no resnet of this model", name, resnet);
    if (c->condconv.resnet_count == ASDM_CONDCONV_MAX)
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: experts: must be at most %d resnets", name, ASDM_CONDCONV_MAX);
    struct asdm_experts *experts = &c->condconv.resnets[c->condconv.resnet_count++];
    snprintf(whole, sizeof whole, "%s.experts: %s", name, resnet);
    snprintf(experts->resnet, sizeof experts->resnet, "%s", resnet);
    ASDM_TRY(asdm_config_check_keys(node, whole, experts_keys, err));
    ASDM_TRY(asdm_config_get_int(node, whole, "count", 2, ASDM_EXPERTS_MAX, &experts->count, err));
    if (!experts->count)
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: count: must be a number from 2 to %d", whole, ASDM_EXPERTS_MAX);
    return read_parts(node, whole, asdm_resnet_parts(in, out), &experts->parts, err);
}

static enum asdm_status read_condconv(const struct asdm_json *node, const char *name, struct asdm_unet_config *c,
                                      struct asdm_error *err) {
    const char *routing = "";
    ASDM_TRY(asdm_config_check_keys(node, name, condconv_keys, err));
    ASDM_TRY(asdm_json_get_string(node, name, "routing", &routing, err));
    c->condconv.routing = strcmp(routing, "full") == 0       ? ASDM_ROUTING_FULL
                          : strcmp(routing, "timestep") == 0 ? ASDM_ROUTING_TIMESTEP
                                                             : ASDM_ROUTING_NONE;
    if (!c->condconv.routing)
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: routing: must be \"full\" or \"timestep\", is \"%.40s\"", name,
                         routing);
    c->condconv.temperature = 1;
    ASDM_TRY(asdm_config_get_float(node, name, "temperature", 1e-6, 1e6, &c->condconv.temperature, err));
    const struct asdm_json *experts = asdm_json_get(node, "experts");
    if (!experts || asdm_json_type(experts) != ASDM_JSON_OBJECT || !asdm_json_first(experts))
        return asdm_fail(err, ASDM_ERR_FORMAT,
                         "%s: experts: must be an object with a member for each resnet that has "
                         "some",
                         name);
    for (const struct asdm_json *item = asdm_json_first(experts); item; item = asdm_json_next(item))
        ASDM_TRY(read_experts(item, name, c, err));
    return ASDM_OK;
}

/* ---- all together */

enum asdm_status asdm_light_config_parse(const struct asdm_json *json, const char *name, struct asdm_unet_config *c,
                                         struct asdm_error *err) {
    const struct asdm_json *node = asdm_json_get(json, "asdm");
    char whole[NAME_MAX_BYTES];
    if (!node)
        return ASDM_OK;
    snprintf(whole, sizeof whole, "%.240s: asdm", name);
    ASDM_TRY(asdm_config_check_keys(node, whole, light_keys, err));
    const struct asdm_json *gri = asdm_json_get(node, "gri"), *condconv = asdm_json_get(node, "condconv");
    snprintf(whole, sizeof whole, "%.240s: asdm.gri", name);
    if (gri)
        ASDM_TRY(read_gri(gri, whole, c, err));
    snprintf(whole, sizeof whole, "%.240s: asdm.condconv", name);
    if (condconv)
        ASDM_TRY(read_condconv(condconv, whole, c, err));
    return ASDM_OK;
}
