#include "light/fingerprint.h"

#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>
#include "text/prompt.h"

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

/* What an operation does with its operands: no padding between the fields. */
static void add_ops(uint64_t *hash, const struct asdm_program *program) {
    for (int i = 0; i < program->op_count; i++) {
        const struct asdm_op *op = &program->ops[i];
        const int32_t fields[] = {(int32_t)op->kind, (int32_t)op->activation,
                                  op->kernel,        op->stride,
                                  op->pad_before,    op->pad_after,
                                  op->groups,        op->heads,
                                  op->head_dim,      op->causal,
                                  op->window,        op->pool,
                                  op->experts,       op->flip_sin_to_cos,
                                  op->upsample};
        const float factors[] = {op->eps, op->scale, op->freq_shift};
        add(hash, fields, sizeof fields);
        add(hash, factors, sizeof factors);
        add(hash, op->inputs, sizeof op->inputs);
    }
}

static enum asdm_status add_program(uint64_t *hash, struct asdm_checkpoint *checkpoint, enum asdm_component component,
                                    const struct asdm_program *program, struct asdm_error *err) {
    add_ops(hash, program);
    return add_weights(hash, checkpoint, component, program, err);
}

static enum asdm_status add_sampler(uint64_t *hash, const struct asdm_model *model, int steps, struct asdm_error *err) {
    struct asdm_sampler_table *table;
    ASDM_TRY(asdm_sampler_table_build(&model->checkpoint->scheduler, model->sampler, ASDM_SCHEDULE_DEFAULT, steps, -1,
                                      &table, err));
    add(hash, &table->start_noise, sizeof table->start_noise);
    for (int i = 0; i < table->row_count; i++) {
        const struct asdm_sampler_row *row = &table->rows[i];
        const double numbers[] = {row->timestep,      row->input_scale, row->convert_latents,
                                  row->convert_model, row->clamp,       row->draws_noise};
        add(hash, numbers, sizeof numbers);
        add(hash, row->latents, sizeof row->latents);
        add(hash, row->history, sizeof row->history);
    }
    free(table);
    return ASDM_OK;
}

static enum asdm_status add_prompt(uint64_t *hash, const struct asdm_model *model, const char *text,
                                   struct asdm_error *err) {
    struct asdm_prompt prompt;
    ASDM_TRY(asdm_prompt_encode(model->tokenizer, text, ASDM_PROMPT_PLAIN, 1, &prompt, err));
    add(hash, prompt.ids, ASDM_PROMPT_CHUNK_IDS * sizeof *prompt.ids);
    asdm_prompt_done(&prompt);
    return ASDM_OK;
}

enum asdm_status asdm_fingerprint(const struct asdm_model *model, int steps, char *const *prompts, int prompt_count,
                                  uint64_t *ret, struct asdm_error *err) {
    struct asdm_checkpoint *c = model->checkpoint;
    struct asdm_unet unet;
    struct asdm_text_encoder text;
    uint64_t hash = 14695981039346656037u;
    ASDM_TRY(asdm_unet_build(&c->unet, ASDM_PROMPT_TOKENS, &unet, err));
    enum asdm_status status = add_program(&hash, c, ASDM_COMPONENT_UNET, unet.program, err);
    asdm_program_destroy(&unet.program);
    if (status != ASDM_OK)
        return status;
    ASDM_TRY(asdm_text_encoder_build(&c->text, ASDM_PROMPT_TOKENS, &text, err));
    status = add_program(&hash, c, ASDM_COMPONENT_TEXT, text.program, err);
    asdm_program_destroy(&text.program);
    if (status == ASDM_OK)
        status = add_sampler(&hash, model, steps, err);
    for (int i = 0; model->tokenizer && i < prompt_count && status == ASDM_OK; i++)
        status = add_prompt(&hash, model, prompts[i], err);
    if (status == ASDM_OK)
        *ret = hash;
    return status;
}
