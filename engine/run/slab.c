#include "run/slab.h"

#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>

enum { SLOTS_FIRST = 8 };

/* Made at `rate`, read by an operation of another. */
static bool crosses(const struct asdm_program *p, int value, enum asdm_rate rate) {
    if (p->values[value].rate != rate || p->values[value].producer == ASDM_NONE)
        return false;
    for (int i = 0; i < p->op_count; i++)
        for (int j = 0; j < ASDM_SRC_COUNT; j++)
            if (p->ops[i].inputs[j] == value && asdm_program_op_rate(p, &p->ops[i]) != rate)
                return true;
    return false;
}

enum asdm_status asdm_slab_create(struct asdm_slab *slab, const struct asdm_program *program,
                                  struct asdm_backend *backend, enum asdm_rate rate, struct asdm_error *err) {
    size_t room = (size_t)program->value_count + 1;
    *slab = (struct asdm_slab){.program = program, .backend = backend, .rate = rate};
    slab->values = calloc(room, sizeof *slab->values);
    slab->row_bytes = calloc(room, sizeof *slab->row_bytes);
    if (!slab->values || !slab->row_bytes) {
        asdm_slab_done(slab);
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for the values of %s", program->name);
    }
    for (int v = 0; v < program->value_count; v++) {
        if (!crosses(program, v, rate))
            continue;
        const struct asdm_value *value = &program->values[v];
        ASDM_ASSERT(value->height.kind == ASDM_DIM_CONST && value->width.kind == ASDM_DIM_CONST);
        slab->values[slab->value_count] = v;
        slab->row_bytes[slab->value_count] =
            backend->element_bytes * (size_t)value->channels * (size_t)value->height.n * (size_t)value->width.n;
        slab->slot_bytes += slab->row_bytes[slab->value_count++];
    }
    return ASDM_OK;
}

void asdm_slab_done(struct asdm_slab *slab) {
    if (slab->memory)
        asdm_backend_unmap(slab->backend, slab->memory, slab->slot_bytes * (size_t)slab->slot_count);
    free(slab->values);
    free(slab->row_bytes);
    free(slab->taken);
    *slab = (struct asdm_slab){0};
}

static void copy(const struct asdm_slab *slab, void *to, const void *from, size_t bytes) {
    const struct asdm_device_class *device = slab->backend->class->device;
    if (device)
        device->copy(slab->backend, to, from, bytes);
    else
        memcpy(to, from, bytes);
}

/* To `slots` slots, contents kept; on failure what was is still there. */
static enum asdm_status grow(struct asdm_slab *slab, int slots, struct asdm_error *err) {
    void *memory;
    unsigned char *taken = realloc(slab->taken, (size_t)slots);
    if (!taken)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for more prompts");
    slab->taken = taken;
    ASDM_TRY(asdm_backend_map(slab->backend, slab->slot_bytes * (size_t)slots, "the values of prompts and timesteps",
                              &memory, err));
    const unsigned char *from = slab->memory;
    unsigned char *to = memory;
    for (int i = 0; i < slab->value_count && slab->slot_count; i++) {
        copy(slab, to, from, slab->row_bytes[i] * (size_t)slab->slot_count);
        from += slab->row_bytes[i] * (size_t)slab->slot_count;
        to += slab->row_bytes[i] * (size_t)slots;
    }
    asdm_backend_unmap(slab->backend, slab->memory, slab->slot_bytes * (size_t)slab->slot_count);
    memset(taken + slab->slot_count, 0, (size_t)(slots - slab->slot_count));
    slab->memory = memory;
    slab->slot_count = slots;
    return ASDM_OK;
}

static int find_free(const struct asdm_slab *slab, int count) {
    int run = 0;
    for (int slot = 0; slot < slab->slot_count; slot++) {
        run = slab->taken[slot] ? 0 : run + 1;
        if (run == count)
            return slot + 1 - count;
    }
    return ASDM_NONE;
}

enum asdm_status asdm_slab_take(struct asdm_slab *slab, int count, int *ret_first, struct asdm_error *err) {
    int first = find_free(slab, count);
    if (first == ASDM_NONE) {
        int slots = 2 * slab->slot_count + count;
        ASDM_TRY(grow(slab, slots < SLOTS_FIRST ? SLOTS_FIRST : slots, err));
        first = find_free(slab, count);
    }
    memset(slab->taken + first, 1, (size_t)count);
    *ret_first = first;
    return ASDM_OK;
}

void asdm_slab_give(struct asdm_slab *slab, int first, int count) {
    memset(slab->taken + first, 0, (size_t)count);
}

void asdm_slab_bind(const struct asdm_slab *slab, struct asdm_plan *plan, int first) {
    unsigned char *at = slab->memory;
    for (int i = 0; i < slab->value_count; at += slab->row_bytes[i++] * (size_t)slab->slot_count)
        if (asdm_plan_is_bound_value(plan, slab->values[i]))
            asdm_plan_bind(plan, slab->values[i], at + (size_t)first * slab->row_bytes[i]);
}
