#include "run/text.h"

#include <asdm/error.h>
#include "ops/rewrite.h"

enum asdm_status asdm_text_create(struct asdm_text *text, struct asdm_text_encoder *encoder, int tokens, int width,
                                  struct asdm_backend *backend, struct asdm_weight_store *weights,
                                  struct asdm_error *err) {
    *text = (struct asdm_text){
        .encoder = *encoder, .backend = backend, .weights = weights, .tokens = tokens, .width = width};
    *encoder = (struct asdm_text_encoder){0};
    return asdm_program_rewrite(text->encoder.program, backend->class->rewrites, err);
}

void asdm_text_done(struct asdm_text *text) {
    asdm_plan_destroy(&text->plan);
    asdm_program_destroy(&text->encoder.program);
}

enum asdm_status asdm_text_prepare(struct asdm_text *text, struct asdm_error *err) {
    if (text->plan)
        return ASDM_OK;
    return asdm_plan_create(text->encoder.program, text->backend, text->weights, ASDM_RATE_STEP, 1, 1, 1, &text->plan,
                            err);
}

enum asdm_status asdm_text_encode(struct asdm_text *text, const int32_t *ids, float *embeds, struct asdm_error *err) {
    ASDM_TRY(asdm_text_prepare(text, err));
    asdm_plan_bind(text->plan, text->encoder.ids, (void *)(uintptr_t)ids);
    asdm_plan_bind(text->plan, text->encoder.embeds, embeds);
    return asdm_plan_run(text->plan, err);
}
