#include "light/units.h"

#include <stdio.h>
#include <string.h>

#include <asdm/error.h>
#include "model/light_config.h"

int asdm_units_of(const struct asdm_unet_config *config, struct asdm_unit *ret) {
    int count = 0;
    for (int stage = 0; stage < config->stages; stage++)
        if (config->layers[stage] >= 2) {
            ret[count] = (struct asdm_unit){.stage = stage};
            snprintf(ret[count++].name, sizeof ret->name, "pair%d", asdm_stage_height(config, stage));
        }
    if (config->mid)
        ret[count++] = (struct asdm_unit){.name = "mid", .mid = true};
    return count;
}

static void list_names(const struct asdm_unit *units, int count, char *text, size_t room) {
    size_t used = 0;
    text[0] = '\0';
    for (int i = 0; i < count && used < room; i++)
        used += (size_t)snprintf(text + used, room - used, "%s%s", i ? ", " : "", units[i].name);
}

enum asdm_status asdm_units_parse(const char *list, const struct asdm_unit *units, int count, unsigned *ret,
                                  struct asdm_error *err) {
    *ret = 0;
    for (const char *at = list; at && *at;) {
        size_t length = strcspn(at, ",");
        int found = -1;
        for (int i = 0; i < count; i++)
            if (strlen(units[i].name) == length && strncmp(units[i].name, at, length) == 0)
                found = i;
        if (found < 0) {
            char names[160];
            list_names(units, count, names, sizeof names);
            return asdm_fail(err, ASDM_ERR_ARGUMENT, "remove: \"%.*s\" is no unit of this model, which has %s",
                             (int)(length < 40 ? length : 40), at, count ? names : "none");
        }
        if (*ret & 1u << found)
            return asdm_fail(err, ASDM_ERR_ARGUMENT, "remove: %s is named twice", units[found].name);
        *ret |= 1u << found;
        at += length + (at[length] == ',');
    }
    return ASDM_OK;
}

void asdm_unit_remove(const struct asdm_unit *unit, struct asdm_unet_config *config) {
    if (unit->mid)
        config->mid = config->mid_attention = false;
    else
        config->layers[unit->stage]--;
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
        if ((removed & 1u << i) && !units[i].mid && units[i].stage == (up ? stages - 1 - block : block))
            snprintf(ret, ASDM_UNIT_NAME_MAX, "%s_blocks.%d.%s.%d%s", up ? "up" : "down", block, kind, layer + 1, rest);
}
