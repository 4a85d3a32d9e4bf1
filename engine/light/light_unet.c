#include "light/light_unet.h"

#include <stdio.h>
#include <string.h>

#include <asdm/error.h>
#include "model/light_config.h"

/* Weights by the original's names: what the model's store has laid out is found under them. */
static enum asdm_status rename_weights(struct asdm_program *program, const struct asdm_unit *units, int unit_count,
                                       unsigned removed, int stages, struct asdm_error *err) {
    for (int i = 0; i < program->weight_count; i++) {
        char name[ASDM_UNIT_NAME_MAX];
        asdm_unit_original_name(program->weights[i].name, units, unit_count, removed, stages, name);
        if (strcmp(name, program->weights[i].name) == 0)
            continue;
        program->weights[i].name = asdm_arena_printf(&program->arena, "%s", name);
        if (!program->weights[i].name)
            return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for a light UNet");
    }
    return ASDM_OK;
}

static void add_tap(struct asdm_light_unet *student, struct asdm_program *program, int value, const char *name,
                    int number) {
    struct asdm_tap *tap = &student->taps[student->tap_count++];
    snprintf(tap->name, sizeof tap->name, number < 0 ? "%s" : "%s.%d", name, number);
    tap->value = asdm_build_export(program, value, false);
    asdm_build_output(program, tap->value);
}

static enum asdm_status add_taps(struct asdm_light_unet *student, const struct asdm_unet *unet, int stages,
                                 struct asdm_error *err) {
    for (int i = 0; i < stages; i++)
        add_tap(student, unet->program, unet->down[i], "down_blocks", i);
    if (unet->mid != ASDM_NONE)
        add_tap(student, unet->program, unet->mid, "mid_block", -1);
    for (int i = 0; i < stages; i++)
        add_tap(student, unet->program, unet->up[i], "up_blocks", i);
    return asdm_program_finish(unet->program, err);
}

enum asdm_status asdm_light_unet_create(struct asdm_model *model, const struct asdm_unit *units, int unit_count,
                                        unsigned removed, int height, int width, bool tapped,
                                        struct asdm_light_unet *ret, struct asdm_error *err) {
    struct asdm_unet_config config = model->checkpoint->unet;
    struct asdm_light_unet student = {0};
    struct asdm_unet unet;
    for (int i = 0; i < unit_count; i++)
        if (removed & 1u << i)
            asdm_unit_apply(&units[i], &config);
    asdm_gri_trim(&config);
    ASDM_TRY(asdm_unet_build(&config, ASDM_PROMPT_TOKENS, &unet, err));
    asdm_unet_measure(unet.program, height, width, model->backend->element_bytes, &student.size);
    enum asdm_status status = rename_weights(unet.program, units, unit_count, removed, config.stages, err);
    if (status == ASDM_OK && tapped)
        status = add_taps(&student, &unet, config.stages, err);
    if (status == ASDM_OK)
        status = asdm_denoiser_create(&student.denoiser, &unet, ASDM_PROMPT_TOKENS, model->backend,
                                      model->weights[ASDM_COMPONENT_UNET], err);
    if (status != ASDM_OK)
        asdm_program_destroy(&unet.program);
    else
        *ret = student;
    return status;
}

void asdm_light_unet_done(struct asdm_light_unet *student) {
    if (student->denoiser.unet.program)
        asdm_denoiser_done(&student->denoiser);
    *student = (struct asdm_light_unet){0};
}

const struct asdm_tap *asdm_light_unet_tap(const struct asdm_light_unet *student, const char *name) {
    for (int i = 0; i < student->tap_count; i++)
        if (strcmp(student->taps[i].name, name) == 0)
            return &student->taps[i];
    return NULL;
}
