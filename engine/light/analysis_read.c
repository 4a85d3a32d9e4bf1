/* An analysis from JSON, which may be anybody's: everything is checked. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>
#include <asdm/json.h>
#include "light/analysis.h"
#include "model/config.h"

struct reader {
    const char *path;
    struct asdm_analysis *a;
    struct asdm_error *err;
};

static enum asdm_status bad(const struct reader *r, const char *what) {
    return asdm_fail(r->err, ASDM_ERR_FORMAT, "%s: %s is missing or no such thing", r->path, what);
}

static bool has_type(const struct asdm_json *node, enum asdm_json_type type) {
    return node && asdm_json_type(node) == type;
}

static enum asdm_status get_number(const struct reader *r, const struct asdm_json *object, const char *key,
                                   double *ret) {
    const struct asdm_json *node = asdm_json_get(object, key);
    if (!has_type(node, ASDM_JSON_NUMBER) || !isfinite(asdm_json_number(node)))
        return bad(r, key);
    *ret = asdm_json_number(node);
    return ASDM_OK;
}

static enum asdm_status get_int(const struct reader *r, const struct asdm_json *object, const char *key, double max,
                                int64_t *ret) {
    double number = 0;
    ASDM_TRY(get_number(r, object, key, &number));
    if (number < 0 || number > max || number != floor(number))
        return bad(r, key);
    *ret = (int64_t)number;
    return ASDM_OK;
}

static enum asdm_status get_spread(const struct reader *r, const struct asdm_json *object, struct asdm_spread *ret) {
    const struct asdm_json *node = asdm_json_get(object, "damage");
    const struct asdm_json *quartiles = has_type(node, ASDM_JSON_OBJECT) ? asdm_json_get(node, "quartiles") : NULL;
    if (!has_type(quartiles, ASDM_JSON_ARRAY))
        return bad(r, "damage");
    ASDM_TRY(get_number(r, node, "mean", &ret->mean));
    ASDM_TRY(get_number(r, node, "deviation", &ret->deviation));
    ASDM_TRY(get_number(r, node, "min", &ret->min));
    ASDM_TRY(get_number(r, node, "max", &ret->max));
    int count = 0;
    for (const struct asdm_json *q = asdm_json_first(quartiles); q && count < 3; q = asdm_json_next(q), count++) {
        if (!has_type(q, ASDM_JSON_NUMBER))
            return bad(r, "quartiles");
        ret->quartiles[count] = asdm_json_number(q);
    }
    return count == 3 ? ASDM_OK : bad(r, "quartiles");
}

static enum asdm_status get_set(const struct reader *r, const struct asdm_json *node, unsigned *ret) {
    *ret = 0;
    if (!has_type(node, ASDM_JSON_ARRAY))
        return bad(r, "removed");
    for (const struct asdm_json *name = asdm_json_first(node); name; name = asdm_json_next(name)) {
        unsigned bit = 0;
        for (int i = 0; has_type(name, ASDM_JSON_STRING) && i < r->a->unit_count; i++)
            if (strcmp(asdm_json_string(name), r->a->units[i].name) == 0)
                bit = 1u << i;
        if (!bit || *ret & bit)
            return bad(r, "removed");
        *ret |= bit;
    }
    return *ret ? ASDM_OK : bad(r, "removed");
}

static enum asdm_status read_blocks(const struct reader *r, const struct asdm_json *node, struct asdm_trial *trial) {
    const struct asdm_json *blocks = asdm_json_get(node, "blocks");
    if (!blocks)
        return ASDM_OK;
    if (!has_type(blocks, ASDM_JSON_ARRAY))
        return bad(r, "blocks");
    for (const struct asdm_json *b = asdm_json_first(blocks); b; b = asdm_json_next(b)) {
        const struct asdm_json *name = has_type(b, ASDM_JSON_OBJECT) ? asdm_json_get(b, "name") : NULL;
        if (!has_type(name, ASDM_JSON_STRING) || trial->block_count == ASDM_ANALYSIS_BLOCKS_MAX)
            return bad(r, "blocks");
        struct asdm_block_damage *block = &trial->blocks[trial->block_count++];
        snprintf(block->name, sizeof block->name, "%.19s", asdm_json_string(name));
        ASDM_TRY(get_spread(r, b, &block->damage));
    }
    return ASDM_OK;
}

static enum asdm_status get_size(const struct reader *r, const struct asdm_json *node, struct asdm_unet_size *ret) {
    ASDM_TRY(get_int(r, node, "parameters", 1e15, &ret->parameters));
    ASDM_TRY(get_int(r, node, "bytes", 1e15, &ret->bytes));
    ASDM_TRY(get_number(r, node, "step_gmac", &ret->step_gmac));
    return get_number(r, node, "gmac", &ret->gmac);
}

static enum asdm_status read_trial(const struct reader *r, const struct asdm_json *node) {
    struct asdm_trial trial = {0};
    if (!has_type(node, ASDM_JSON_OBJECT))
        return bad(r, "trials");
    ASDM_TRY(get_set(r, asdm_json_get(node, "removed"), &trial.removed));
    ASDM_TRY(get_size(r, node, &trial.size));
    ASDM_TRY(get_number(r, node, "full_ms", &trial.full_ms));
    ASDM_TRY(get_number(r, node, "ms", &trial.ms));
    if (trial.full_ms <= 0 || trial.ms <= 0 || asdm_analysis_trial(r->a, trial.removed))
        return bad(r, "trials");
    ASDM_TRY(get_spread(r, node, &trial.damage));
    ASDM_TRY(read_blocks(r, node, &trial));
    return asdm_analysis_add(r->a, &trial, r->err);
}

static enum asdm_status get_unit(const struct reader *r, const struct asdm_json *node, struct asdm_unit *ret) {
    int64_t stage = 0;
    const struct asdm_json *name = has_type(node, ASDM_JSON_OBJECT) ? asdm_json_get(node, "name") : NULL;
    const struct asdm_json *kind = name ? asdm_json_get(node, "kind") : NULL;
    if (!has_type(name, ASDM_JSON_STRING) || !has_type(kind, ASDM_JSON_STRING))
        return bad(r, "units");
    ASDM_TRY(get_int(r, node, "stage", ASDM_STAGES_MAX - 1, &stage));
    ret->stage = (int)stage;
    ret->window = r->a->gri_window;
    ret->pool = r->a->gri_pool;
    snprintf(ret->name, sizeof ret->name, "%.15s", asdm_json_string(name));
    for (int k = ASDM_UNIT_PAIR; k <= ASDM_UNIT_GRI; k++)
        if (strcmp(asdm_json_string(kind), asdm_unit_kind_name((enum asdm_unit_kind)k)) == 0) {
            ret->kind = (enum asdm_unit_kind)k;
            return ASDM_OK;
        }
    return bad(r, "kind");
}

static enum asdm_status read_unit(const struct reader *r, const struct asdm_json *node) {
    if (r->a->unit_count == ASDM_UNITS_MAX)
        return bad(r, "units");
    return get_unit(r, node, &r->a->units[r->a->unit_count++]);
}

static enum asdm_status read_covered(const struct reader *r, const struct asdm_json *node) {
    if (r->a->covered_count == ASDM_UNITS_MAX)
        return bad(r, "covered");
    return get_unit(r, node, &r->a->covered[r->a->covered_count++]);
}

typedef enum asdm_status read_item(const struct reader *r, const struct asdm_json *node);

static enum asdm_status read_items(const struct reader *r, const struct asdm_json *root, const char *key,
                                   read_item *item) {
    const struct asdm_json *list = asdm_json_get(root, key);
    if (!has_type(list, ASDM_JSON_ARRAY))
        return bad(r, key);
    for (const struct asdm_json *node = asdm_json_first(list); node; node = asdm_json_next(node))
        ASDM_TRY(item(r, node));
    return ASDM_OK;
}

static enum asdm_status read_prompt(const struct reader *r, const struct asdm_json *node) {
    struct asdm_analysis *a = r->a;
    if (!has_type(node, ASDM_JSON_STRING) || a->prompt_count == ASDM_ANALYSIS_PROMPTS_MAX)
        return bad(r, "prompts");
    a->prompts[a->prompt_count] = strdup(asdm_json_string(node));
    return a->prompts[a->prompt_count++] ? ASDM_OK : asdm_analysis_no_memory(r->err);
}

static enum asdm_status read_step(const struct reader *r, const struct asdm_json *node) {
    struct asdm_analysis *a = r->a;
    if (!has_type(node, ASDM_JSON_OBJECT) || a->path_count == ASDM_UNITS_MAX)
        return bad(r, "order");
    ASDM_TRY(get_set(r, asdm_json_get(node, "removed"), &a->path[a->path_count]));
    return asdm_analysis_trial(a, a->path[a->path_count++]) ? ASDM_OK : bad(r, "order");
}

static enum asdm_status read_numbers(const struct reader *r, const struct asdm_json *root) {
    struct asdm_analysis *a = r->a;
    const struct {
        const char *key;
        int *place;
    } numbers[] = {{"threads", &a->threads},
                   {"gri_window", &a->gri_window},
                   {"gri_pool", &a->gri_pool},
                   {"rows", &a->rows},
                   {"runs", &a->runs},
                   {"width", &a->width},
                   {"height", &a->height},
                   {"steps", &a->steps},
                   {"evaluations", &a->evaluations},
                   {"calibration_rows", &a->row_count}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        int64_t value = 0;
        ASDM_TRY(get_int(r, root, numbers[i].key, 1 << 30, &value));
        *numbers[i].place = (int)value;
    }
    return get_number(r, root, "guidance_scale", &a->guidance_scale);
}

static enum asdm_status read_texts(const struct reader *r, const struct asdm_json *root) {
    static const char *const keys[] = {"model", "device", "dtype", "sampler", "fingerprint", "seed"};
    const char *texts[6];
    for (int i = 0; i < 6; i++) {
        const struct asdm_json *node = asdm_json_get(root, keys[i]);
        if (!has_type(node, ASDM_JSON_STRING))
            return bad(r, keys[i]);
        texts[i] = asdm_json_string(node);
    }
    r->a->fingerprint = strtoull(texts[4], NULL, 16);
    r->a->seed = strtoull(texts[5], NULL, 10);
    return asdm_analysis_set_texts(r->a, texts[0], texts[1], texts[2], texts[3]) ? ASDM_OK
                                                                                 : asdm_analysis_no_memory(r->err);
}

static enum asdm_status read_all(const struct reader *r, const struct asdm_json *root) {
    struct asdm_analysis *a = r->a;
    int64_t version = 0;
    if (!has_type(root, ASDM_JSON_OBJECT) || !asdm_json_get(root, "asdm_analysis"))
        return asdm_fail(r->err, ASDM_ERR_FORMAT, "%s: is no analysis", r->path);
    ASDM_TRY(get_int(r, root, "asdm_analysis", 1e9, &version));
    if (version != ASDM_ANALYSIS_VERSION)
        return asdm_fail(r->err, ASDM_ERR_FORMAT, "%s: is an analysis of version %d, this program reads %d", r->path,
                         (int)version, ASDM_ANALYSIS_VERSION);
    a->prompts = calloc(ASDM_ANALYSIS_PROMPTS_MAX, sizeof *a->prompts);
    if (!a->prompts)
        return asdm_analysis_no_memory(r->err);
    ASDM_TRY(read_texts(r, root));
    ASDM_TRY(read_numbers(r, root));
    ASDM_TRY(asdm_json_get_bool(root, r->path, "random_weights", &a->random_weights, r->err));
    if (!has_type(asdm_json_get(root, "unet"), ASDM_JSON_OBJECT))
        return bad(r, "unet");
    ASDM_TRY(get_size(r, asdm_json_get(root, "unet"), &a->full));
    ASDM_TRY(read_items(r, root, "prompts", read_prompt));
    ASDM_TRY(read_items(r, root, "units", read_unit));
    ASDM_TRY(read_items(r, root, "covered", read_covered));
    ASDM_TRY(read_items(r, root, "trials", read_trial));
    ASDM_TRY(read_items(r, root, "order", read_step));
    return asdm_json_get(root, "chosen") ? get_set(r, asdm_json_get(root, "chosen"), &a->chosen) : ASDM_OK;
}

enum asdm_status asdm_analysis_read(const char *path, struct asdm_analysis **ret, struct asdm_error *err) {
    struct asdm_json *root = NULL;
    ASDM_TRY(asdm_json_read(path, ASDM_ANALYSIS_BYTES_MAX, &root, err));
    struct reader reader = {path, calloc(1, sizeof *reader.a), err};
    enum asdm_status status = reader.a ? read_all(&reader, root) : asdm_analysis_no_memory(err);
    asdm_json_destroy(&root);
    if (status != ASDM_OK)
        asdm_analysis_destroy(&reader.a);
    else
        *ret = reader.a;
    return status;
}
