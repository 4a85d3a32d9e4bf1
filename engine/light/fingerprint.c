#include "light/fingerprint.h"

#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>

/* FNV-1a over words of 8 bytes, its high bits folded back, since a product carries only upwards. */
static void add(uint64_t *hash, const void *data, size_t bytes) {
    const unsigned char *at = data;
    for (size_t done = 0; done < bytes; done += sizeof(uint64_t)) {
        uint64_t word = 0;
        memcpy(&word, at + done, bytes - done < sizeof word ? bytes - done : sizeof word);
        *hash = (*hash ^ word) * 1099511628211u;
        *hash ^= *hash >> 32;
    }
}

static enum asdm_status add_weights(uint64_t *hash, struct asdm_checkpoint *checkpoint, enum asdm_component component,
                                    const struct asdm_program *program, struct asdm_error *err) {
    struct asdm_weight_source source = asdm_checkpoint_source(checkpoint, component);
    for (int i = 0; i < program->weight_count; i++) {
        const struct asdm_weight *weight = &program->weights[i];
        struct asdm_tensor tensor;
        ASDM_TRY(source.find(source.user, weight, &tensor, err));
        add(hash, weight->name, strlen(weight->name));
        add(hash, weight->dims, (size_t)weight->rank * sizeof *weight->dims);
        add(hash, tensor.data, tensor.bytes);
        source.release(source.user, &tensor);
    }
    return ASDM_OK;
}

static enum asdm_status add_timesteps(uint64_t *hash, const struct asdm_model *model, int steps,
                                      struct asdm_error *err) {
    struct asdm_sampler_table *table;
    ASDM_TRY(asdm_sampler_table_build(&model->checkpoint->scheduler, model->sampler, ASDM_SCHEDULE_DEFAULT, steps, -1,
                                      &table, err));
    for (int i = 0; i < table->row_count; i++) {
        add(hash, &table->rows[i].timestep, sizeof table->rows[i].timestep);
        add(hash, table->rows[i].latents, sizeof table->rows[i].latents);
    }
    free(table);
    return ASDM_OK;
}

enum asdm_status asdm_fingerprint(const struct asdm_model *model, int steps, uint64_t *ret, struct asdm_error *err) {
    struct asdm_checkpoint *c = model->checkpoint;
    struct asdm_unet unet;
    struct asdm_text_encoder text;
    uint64_t hash = 14695981039346656037u;
    ASDM_TRY(asdm_unet_build(&c->unet, ASDM_PROMPT_TOKENS, &unet, err));
    enum asdm_status status = add_weights(&hash, c, ASDM_COMPONENT_UNET, unet.program, err);
    asdm_program_destroy(&unet.program);
    if (status != ASDM_OK)
        return status;
    ASDM_TRY(asdm_text_encoder_build(&c->text, ASDM_PROMPT_TOKENS, &text, err));
    status = add_weights(&hash, c, ASDM_COMPONENT_TEXT, text.program, err);
    asdm_program_destroy(&text.program);
    if (status == ASDM_OK)
        status = add_timesteps(&hash, model, steps, err);
    if (status == ASDM_OK)
        *ret = hash;
    return status;
}
