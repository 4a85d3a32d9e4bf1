#include "light/experts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>
#include "light/units.h"
#include "model/light_config.h"

enum { FEATURES_MAX = 1 << 17 };
static const float own_bias = 4;

/* ---- who adopts whom */

static bool same_input(const struct asdm_unet_config *c, const char *a, const char *b) {
    int in_a, in_b, out;
    return asdm_resnet_channels(c, a, &in_a, &out) && asdm_resnet_channels(c, b, &in_b, &out) && in_a == in_b;
}

/* Layer 0 or 2 of the block that loses layer 1. */
static void choose_neighbour(const struct asdm_unet_config *c, const char *side, int block, char ret[48]) {
    char before[48], gone[48], after[48];
    int in, out;
    snprintf(before, sizeof before, "%s_blocks.%d.resnets.0", side, block);
    snprintf(gone, sizeof gone, "%s_blocks.%d.resnets.1", side, block);
    snprintf(after, sizeof after, "%s_blocks.%d.resnets.2", side, block);
    bool is_before =
        !asdm_resnet_channels(c, after, &in, &out) || (same_input(c, before, gone) && !same_input(c, after, gone));
    snprintf(ret, 48, "%s", is_before ? before : after);
}

static enum asdm_status adopt(struct asdm_adoptions *adoptions, const char *resnet, const char *gone,
                              struct asdm_error *err) {
    int i = 0;
    while (i < adoptions->count && strcmp(adoptions->list[i].originals[0], resnet) != 0)
        i++;
    struct asdm_adoption *a = &adoptions->list[i];
    if (i == ASDM_CONDCONV_MAX || (i < adoptions->count && a->experts == ASDM_EXPERTS_MAX))
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "condconv: %s would have more than %d experts", resnet,
                         ASDM_EXPERTS_MAX);
    if (i == adoptions->count) {
        adoptions->count++;
        snprintf(a->originals[a->experts++], sizeof *a->originals, "%s", resnet);
    }
    snprintf(a->originals[a->experts++], sizeof *a->originals, "%s", gone);
    return ASDM_OK;
}

static enum asdm_status adopt_pair(struct asdm_adoptions *adoptions, const struct asdm_unet_config *c, int stage,
                                   struct asdm_error *err) {
    char resnet[48], gone[48];
    for (int up = 0; up < 2; up++) {
        int block = up ? c->stages - 1 - stage : stage;
        choose_neighbour(c, up ? "up" : "down", block, resnet);
        snprintf(gone, sizeof gone, "%s_blocks.%d.resnets.1", up ? "up" : "down", block);
        ASDM_TRY(adopt(adoptions, resnet, gone, err));
    }
    return ASDM_OK;
}

static enum asdm_status adopt_mid(struct asdm_adoptions *adoptions, const struct asdm_unet_config *c, bool pair_gone,
                                  struct asdm_error *err) {
    char resnet[48], gone[48];
    int stage = c->stages - 1, last = c->layers[stage] - 1;
    snprintf(resnet, sizeof resnet, "down_blocks.%d.resnets.%d", stage, pair_gone && last == 1 ? 0 : last);
    for (int i = 0; i <= c->mid_attention; i++) {
        snprintf(gone, sizeof gone, "mid_block.resnets.%d", i);
        ASDM_TRY(adopt(adoptions, resnet, gone, err));
    }
    return ASDM_OK;
}

/* ---- what follows for the light model */

/* Parts that all experts have in the shapes of the first. */
static unsigned common_parts(const struct asdm_unet_config *c, const struct asdm_adoption *a) {
    int in, out, other_in, other_out;
    asdm_resnet_channels(c, a->originals[0], &in, &out);
    unsigned parts = asdm_resnet_parts(in, out);
    for (int e = 1; e < a->experts; e++) {
        asdm_resnet_channels(c, a->originals[e], &other_in, &other_out);
        ASDM_ASSERT(other_out == out);
        if (other_in != in)
            parts &= ~(unsigned)(ASDM_PART_CONV1 | ASDM_PART_SHORTCUT);
    }
    return parts;
}

/* A layer's name in the light model: what follows a removed layer 1 moves up. */
static void light_name(const char *original, const struct asdm_unit *units, int count, unsigned removed,
                       const struct asdm_unet_config *c, char ret[48]) {
    int block, layer;
    bool up = sscanf(original, "up_blocks.%d.resnets.%d", &block, &layer) == 2;
    snprintf(ret, 48, "%s", original);
    if ((!up && sscanf(original, "down_blocks.%d.resnets.%d", &block, &layer) != 2) || layer < 2)
        return;
    for (int i = 0; i < count; i++)
        if ((removed & 1u << i) && units[i].kind == ASDM_UNIT_PAIR &&
            units[i].stage == (up ? c->stages - 1 - block : block))
            snprintf(ret, 48, "%s_blocks.%d.resnets.%d", up ? "up" : "down", block, layer - 1);
}

enum asdm_status asdm_adoptions_make(struct asdm_adoptions *adoptions, const struct asdm_unet_config *original,
                                     const struct asdm_unit *units, int unit_count, unsigned removed,
                                     enum asdm_routing routing, struct asdm_condconv_config *ret,
                                     struct asdm_error *err) {
    bool last_pair = false;
    *adoptions = (struct asdm_adoptions){.bias = {own_bias}};
    for (int i = 0; i < unit_count; i++) {
        if (!(removed & 1u << i))
            continue;
        last_pair |= units[i].kind == ASDM_UNIT_PAIR && units[i].stage == original->stages - 1;
        ASDM_TRY(units[i].kind == ASDM_UNIT_MID ? adopt_mid(adoptions, original, last_pair, err)
                                                : adopt_pair(adoptions, original, units[i].stage, err));
    }
    *ret = (struct asdm_condconv_config){.routing = routing, .temperature = 1, .resnet_count = adoptions->count};
    for (int i = 0; i < adoptions->count; i++) {
        struct asdm_adoption *a = &adoptions->list[i];
        light_name(a->originals[0], units, unit_count, removed, original, a->resnet);
        ret->resnets[i].count = a->experts;
        ret->resnets[i].parts = common_parts(original, a);
        snprintf(ret->resnets[i].resnet, sizeof ret->resnets[i].resnet, "%s", a->resnet);
    }
    adoptions->zeros = calloc(FEATURES_MAX, ASDM_EXPERTS_MAX * sizeof(float));
    return adoptions->zeros ? ASDM_OK : asdm_fail(err, ASDM_ERR_MEMORY, "no memory for routers");
}

void asdm_adoptions_done(struct asdm_adoptions *adoptions) {
    free(adoptions->zeros);
    adoptions->zeros = NULL;
}

/* ---- weights */

/* The adoption that a weight's name starts with, and what follows its resnet; NULL: none. */
static const struct asdm_adoption *find(const struct asdm_adoptions *adoptions, const char *name,
                                        const char **ret_rest) {
    for (int i = 0; i < adoptions->count; i++) {
        size_t length = strlen(adoptions->list[i].resnet);
        if (strncmp(name, adoptions->list[i].resnet, length) == 0 && name[length] == '.') {
            *ret_rest = name + length + 1;
            return &adoptions->list[i];
        }
    }
    return NULL;
}

bool asdm_adoptions_original_name(const struct asdm_adoptions *adoptions, const char *name, char ret[320]) {
    const char *rest;
    int expert, used = 0;
    const struct asdm_adoption *a = find(adoptions, name, &rest);
    if (!a || sscanf(rest, "experts.%d.%n", &expert, &used) != 1 || !used)
        return false;
    ASDM_ASSERT(1 <= expert && expert < a->experts);
    snprintf(ret, 320, "%s.%s", a->originals[expert], rest + used);
    return true;
}

bool asdm_adoptions_router(const struct asdm_adoptions *adoptions, const struct asdm_weight *weight,
                           struct asdm_tensor *ret) {
    const char *rest;
    if (!find(adoptions, weight->name, &rest) || strncmp(rest, "router.", 7) != 0)
        return false;
    bool bias = weight->rank == 1;
    size_t count = asdm_weight_count(weight);
    ASDM_ASSERT(count <= (size_t)FEATURES_MAX * ASDM_EXPERTS_MAX);
    *ret = (struct asdm_tensor){.name = weight->name,
                                .dtype = ASDM_F32,
                                .rank = weight->rank,
                                .data = bias ? (const void *)adoptions->bias : adoptions->zeros,
                                .count = count,
                                .bytes = count * sizeof(float)};
    memcpy(ret->dims, weight->dims, sizeof weight->dims);
    return true;
}
