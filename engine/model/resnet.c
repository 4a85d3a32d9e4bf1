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

static int build_normed_conv(struct asdm_program *p, const struct asdm_resnet *resnet, int x, int out_channels,
                             const char *norm, const char *conv) {
    x = asdm_build_group_norm(p, x, norm, resnet->groups, resnet->eps);
    x = asdm_build_activation(p, x, resnet->activation);
    return asdm_build_conv2d(p, x, conv, out_channels, 3, 1, 1, 1);
}

int asdm_build_resnet(struct asdm_program *p, const struct asdm_resnet *resnet, int x, int out_channels,
                      const char *name) {
    if (p->status != ASDM_OK)
        return 0;
    int shortcut = x;
    /* Before the convolutions, so that the last of them can add it. */
    if (p->values[x].channels != out_channels)
        shortcut = asdm_build_pointwise(p, x, asdm_build_name(p, "%s.conv_shortcut", name), out_channels);
    int time = ASDM_NONE;
    if (resnet->time != ASDM_NONE)
        time = asdm_build_linear(p, resnet->time, asdm_build_name(p, "%s.time_emb_proj", name), out_channels, true);
    int h = build_normed_conv(p, resnet, x, out_channels, asdm_build_name(p, "%s.norm1", name),
                              asdm_build_name(p, "%s.conv1", name));
    if (time != ASDM_NONE)
        h = asdm_build_add_row_bias(p, h, time);
    h = build_normed_conv(p, resnet, h, out_channels, asdm_build_name(p, "%s.norm2", name),
                          asdm_build_name(p, "%s.conv2", name));
    return asdm_build_add(p, h, shortcut);
}
