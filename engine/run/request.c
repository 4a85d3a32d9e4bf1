#include "run/request.h"

#include <math.h>
#include <stdlib.h>

#include "asdm_limits.h"
#include <asdm/error.h>

void asdm_request_init(struct asdm_request *request) {
    *request = (struct asdm_request){.steps = 25, .guidance_scale = 7.5, .strength = 0.75};
}

static enum asdm_status check_side(const char *name, int size, struct asdm_error *err) {
    if (size < ASDM_PIXELS_PER_LATENT || size > ASDM_SIDE_MAX || size % ASDM_PIXELS_PER_LATENT)
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "%s: must be a multiple of 8 from 8 to %d, is %d", name, ASDM_SIDE_MAX,
                         size);
    return ASDM_OK;
}

static enum asdm_status resolve_size(const struct asdm_model *model, const struct asdm_request *request,
                                     struct asdm_order *order, struct asdm_error *err) {
    int width, height;
    asdm_model_default_size(model, &width, &height);
    width = request->width ? request->width : width;
    height = request->height ? request->height : height;
    ASDM_TRY(check_side("width", width, err));
    ASDM_TRY(check_side("height", height, err));
    order->width = width / ASDM_PIXELS_PER_LATENT;
    order->height = height / ASDM_PIXELS_PER_LATENT;
    return ASDM_OK;
}

static enum asdm_status resolve_sampler(const struct asdm_model *model, const struct asdm_request *request,
                                        struct asdm_order *order, struct asdm_error *err) {
    order->sampler = model->sampler;
    order->schedule = ASDM_SCHEDULE_DEFAULT;
    if (request->sampler)
        ASDM_TRY(asdm_sampler_find(request->sampler, &order->sampler, &order->schedule, err));
    if (request->schedule)
        ASDM_TRY(asdm_schedule_find(request->schedule, &order->schedule, err));
    return ASDM_OK;
}

enum asdm_status asdm_order_resolve(const struct asdm_model *model, const struct asdm_request *request,
                                    struct asdm_order *ret, struct asdm_error *err) {
    struct asdm_order order = {.steps = request->steps,
                               .strength = request->init_rgb ? request->strength : -1,
                               .guided = request->guidance_scale > 1};
    if (!model->tokenizer)
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "%s: has no tokenizer; give its directory (--tokenizer DIR)",
                         model->checkpoint->path);
    ASDM_TRY(resolve_size(model, request, &order, err));
    ASDM_TRY(resolve_sampler(model, request, &order, err));
    if (request->steps < 1 || request->steps > ASDM_LIMIT_STEPS)
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "steps: must be from 1 to %d, is %d", ASDM_LIMIT_STEPS,
                         request->steps);
    if (!(fabs(request->guidance_scale) <= ASDM_LIMIT_GUIDANCE))
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "guidance scale: must be from -%d to %d, is %g", ASDM_LIMIT_GUIDANCE,
                         ASDM_LIMIT_GUIDANCE, request->guidance_scale);
    if (request->init_rgb && !(request->strength >= 0 && request->strength <= 1))
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "strength: must be from 0 to 1, is %g", request->strength);
    *ret = order;
    return ASDM_OK;
}

enum asdm_status asdm_request_check(const struct asdm_model *model, const struct asdm_request *request,
                                    struct asdm_error *err) {
    struct asdm_order order;
    struct asdm_sampler_table *table;
    ASDM_TRY(asdm_order_resolve(model, request, &order, err));
    ASDM_TRY(asdm_sampler_table_build(&model->checkpoint->scheduler, order.sampler, order.schedule, order.steps,
                                      order.strength, &table, err));
    free(table);
    return ASDM_OK;
}
