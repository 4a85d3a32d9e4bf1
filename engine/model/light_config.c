#include "model/light_config.h"

#include <math.h>
#include <stdio.h>

#include <asdm/error.h>
#include "model/config_keys.h"

enum { NAME_MAX_BYTES = 320 };

static const struct asdm_config_key light_keys[] = {{"gri", NULL}, {"lineage", NULL}, {NULL, NULL}};
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

/* ---- all together */

enum asdm_status asdm_light_config_parse(const struct asdm_json *json, const char *name, struct asdm_unet_config *c,
                                         struct asdm_error *err) {
    const struct asdm_json *node = asdm_json_get(json, "asdm");
    char whole[NAME_MAX_BYTES];
    if (!node)
        return ASDM_OK;
    snprintf(whole, sizeof whole, "%.240s: asdm", name);
    ASDM_TRY(asdm_config_check_keys(node, whole, light_keys, err));
    const struct asdm_json *gri = asdm_json_get(node, "gri");
    snprintf(whole, sizeof whole, "%.240s: asdm.gri", name);
    if (gri)
        ASDM_TRY(read_gri(gri, whole, c, err));
    return ASDM_OK;
}
