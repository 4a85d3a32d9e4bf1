#include "model/resnet.h"

#include <stdarg.h>
#include <stdio.h>

#include <asdm/error.h>

const char *asdm_build_name(struct asdm_program *p, const char *format, ...) {
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    const char *name = asdm_arena_printf(&p->arena, "%s", text);
    if (!name && p->status == ASDM_OK)
        p->status = asdm_fail(&p->error, ASDM_ERR_MEMORY, "%s: the program is too large", p->name);
    return name ? name : "";
}

/* A resnet being built. */
struct block {
    struct asdm_program *p;
    const struct asdm_resnet *resnet;
    const struct asdm_resnet_experts *experts; /* or NULL */
    const char *name;
    int routing, channels; /* shares of the experts; of the result */
};

static bool is_mixed(const struct block *b, enum asdm_resnet_part part) {
    return b->experts && (b->experts->parts & part);
}

/* The experts' names for a part. */
static void name_experts(const struct block *b, const char *part, const char *ret[ASDM_EXPERTS_MAX]) {
    ret[0] = asdm_build_name(b->p, "%s.%s", b->name, part);
    for (int e = 1; e < b->experts->count; e++)
        ret[e] = asdm_build_name(b->p, "%s.experts.%d.%s", b->name, e, part);
}

static int build_routing(const struct block *b, int x) {
    int pooled = b->experts->routing == ASDM_ROUTING_FULL ? asdm_build_global_pool(b->p, x) : ASDM_NONE;
    return asdm_build_routing(b->p, pooled == ASDM_NONE ? b->resnet->time : pooled,
                              pooled == ASDM_NONE ? ASDM_NONE : b->resnet->time,
                              asdm_build_name(b->p, "%s.router", b->name), b->experts->count, b->experts->temperature);
}

/* Every expert's projection is computed at the time embedding's own rate; only their mixing is at the routing's. */
static int build_time(const struct block *b) {
    const char *names[ASDM_EXPERTS_MAX];
    int vectors[ASDM_EXPERTS_MAX];
    if (!is_mixed(b, ASDM_PART_TIME))
        return asdm_build_linear(b->p, b->resnet->time, asdm_build_name(b->p, "%s.time_emb_proj", b->name), b->channels,
                                 true);
    name_experts(b, "time_emb_proj", names);
    for (int e = 0; e < b->experts->count; e++)
        vectors[e] = asdm_build_linear(b->p, b->resnet->time, names[e], b->channels, true);
    return asdm_build_mix(b->p, vectors, b->routing, b->experts->count);
}

static int build_shortcut(const struct block *b, int x) {
    const char *names[ASDM_EXPERTS_MAX];
    if (b->p->values[x].channels == b->channels)
        return x;
    if (!is_mixed(b, ASDM_PART_SHORTCUT))
        return asdm_build_pointwise(b->p, x, asdm_build_name(b->p, "%s.conv_shortcut", b->name), b->channels);
    name_experts(b, "conv_shortcut", names);
    return asdm_build_mixed_pointwise(b->p, x, b->routing, names, b->experts->count, b->channels);
}

/* Convolution `number`, 1 or 2, with its norm and activation before it. */
static int build_normed_conv(const struct block *b, int x, int number) {
    const char *names[ASDM_EXPERTS_MAX], *conv = number == 1 ? "conv1" : "conv2";
    x = asdm_build_group_norm(b->p, x, asdm_build_name(b->p, "%s.norm%d", b->name, number), b->resnet->groups,
                              b->resnet->eps);
    x = asdm_build_activation(b->p, x, b->resnet->activation);
    if (!is_mixed(b, number == 1 ? ASDM_PART_CONV1 : ASDM_PART_CONV2))
        return asdm_build_conv2d(b->p, x, asdm_build_name(b->p, "%s.%s", b->name, conv), b->channels, 3, 1, 1, 1);
    name_experts(b, conv, names);
    return asdm_build_mixed_conv2d(b->p, x, b->routing, names, b->experts->count, b->channels, 3);
}

int asdm_build_resnet(struct asdm_program *p, const struct asdm_resnet *resnet, int x, int out_channels,
                      const char *name) {
    struct block b = {p, resnet, resnet->experts, name, ASDM_NONE, out_channels};
    if (p->status != ASDM_OK)
        return 0;
    if (b.experts)
        b.routing = build_routing(&b, x);
    /* Before the convolutions, so that the last of them can add it. */
    int shortcut = build_shortcut(&b, x);
    int time = resnet->time == ASDM_NONE ? ASDM_NONE : build_time(&b);
    int h = build_normed_conv(&b, x, 1);
    if (time != ASDM_NONE)
        h = asdm_build_add_row_bias(p, h, time);
    h = build_normed_conv(&b, h, 2);
    return asdm_build_add(p, h, shortcut);
}
