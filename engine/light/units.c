#include "light/units.h"

#include <stdio.h>
#include <string.h>

#include <asdm/error.h>
#include "model/light_config.h"

const char *asdm_unit_kind_name(enum asdm_unit_kind kind) {
    static const char *const names[] = {"pair", "mid", "gri"};
    return names[kind];
}

int asdm_units_of(const struct asdm_unet_config *config, struct asdm_unit *ret) {
    int count = 0;
    for (int stage = 0; stage < config->stages; stage++)
        if (config->layers[stage] >= 2) {
            ret[count] = (struct asdm_unit){.kind = ASDM_UNIT_PAIR, .stage = stage};
            snprintf(ret[count++].name, sizeof ret->name, "pair%d", asdm_stage_height(config, stage));
        }
    if (config->mid)
        ret[count++] = (struct asdm_unit){.name = "mid", .kind = ASDM_UNIT_MID, .stage = config->stages - 1};
    return count;
}

int asdm_units_of_gri(const struct asdm_unet_config *config, int window, int pool, struct asdm_unit *ret) {
    int count = 0;
    for (int stage = 0; stage < config->stages; stage++)
        if ((config->down_attention[stage] || config->up_attention[stage]) && !config->gri.stages[stage]) {
            ret[count] = (struct asdm_unit){.kind = ASDM_UNIT_GRI, .stage = stage, .window = window, .pool = pool};
            snprintf(ret[count++].name, sizeof ret->name, "gri%d", asdm_stage_height(config, stage));
        }
    return count;
}

void asdm_units_names(const struct asdm_unit *units, int count, unsigned set, const char *between, char *ret,
                      size_t room) {
    size_t used = 0;
    ret[0] = '\0';
    for (int i = 0; i < count && used < room; i++)
        if (set & 1u << i)
            used += (size_t)snprintf(ret + used, room - used, "%s%s", used ? between : "", units[i].name);
}

enum asdm_status asdm_units_parse(const char *option, const char *list, const struct asdm_unit *units, int count,
                                  unsigned *ret, struct asdm_error *err) {
    *ret = 0;
    for (const char *at = list; at && *at;) {
        size_t length = strcspn(at, ",");
        int found = -1;
        for (int i = 0; i < count; i++)
            if (strlen(units[i].name) == length && strncmp(units[i].name, at, length) == 0)
                found = i;
        if (found < 0) {
            char names[160];
            asdm_units_names(units, count, ~0u, ", ", names, sizeof names);
            return asdm_fail(err, ASDM_ERR_ARGUMENT, "%s: \"%.*s\" is no unit of this model, which has %s", option,
                             (int)(length < 40 ? length : 40), at, count ? names : "none");
        }
        if (*ret & 1u << found)
            return asdm_fail(err, ASDM_ERR_ARGUMENT, "%s: %s is named twice", option, units[found].name);
        *ret |= 1u << found;
        at += length + (at[length] == ',');
    }
    return ASDM_OK;
}

void asdm_unit_apply(const struct asdm_unit *unit, struct asdm_unet_config *config) {
    switch (unit->kind) {
    case ASDM_UNIT_PAIR:
        config->layers[unit->stage]--;
        break;
    case ASDM_UNIT_MID:
        config->mid = config->mid_attention = false;
        break;
    case ASDM_UNIT_GRI:
        config->gri.stages[unit->stage] = true;
        config->gri.window = unit->window;
        config->gri.pool = unit->pool;
        break;
    }
}

void asdm_unet_measure(const struct asdm_program *program, int height, int width, size_t element_bytes,
                       struct asdm_unet_size *ret) {
    *ret = (struct asdm_unet_size){0};
    for (int i = 0; i < program->weight_count; i++)
        ret->parameters += (int64_t)asdm_weight_count(&program->weights[i]);
    for (int i = 0; i < program->op_count; i++) {
        ret->gmac += asdm_program_op_macs(program, &program->ops[i], height, width) / 1e9;
        ret->step_gmac += asdm_program_op_step_macs(program, &program->ops[i], height, width) / 1e9;
    }
    ret->bytes = ret->parameters * (int64_t)element_bytes;
}

/* "down_blocks.S.resnets.L.rest" and the like: the parts, and where `rest` begins; false for other names. */
static bool split(const char *name, bool *ret_up, int *ret_block, char kind[16], int *ret_layer,
                  const char **ret_rest) {
    char side[8];
    int used = 0;
    if (sscanf(name, "%7[a-z]_blocks.%d.%15[a-z].%d%n", side, ret_block, kind, ret_layer, &used) != 4 ||
        (strcmp(kind, "resnets") != 0 && strcmp(kind, "attentions") != 0))
        return false;
    *ret_up = strcmp(side, "up") == 0;
    *ret_rest = name + used;
    return *ret_up || strcmp(side, "down") == 0;
}

void asdm_unit_original_name(const char *name, const struct asdm_unit *units, int count, unsigned removed, int stages,
                             char ret[ASDM_UNIT_NAME_MAX]) {
    bool up;
    int block, layer;
    char kind[16];
    const char *rest;
    snprintf(ret, ASDM_UNIT_NAME_MAX, "%s", name);
    if (!split(name, &up, &block, kind, &layer, &rest) || layer < 1)
        return;
    for (int i = 0; i < count; i++)
        if ((removed & 1u << i) && units[i].kind == ASDM_UNIT_PAIR &&
            units[i].stage == (up ? stages - 1 - block : block))
            snprintf(ret, ASDM_UNIT_NAME_MAX, "%s_blocks.%d.%s.%d%s", up ? "up" : "down", block, kind, layer + 1, rest);
}
