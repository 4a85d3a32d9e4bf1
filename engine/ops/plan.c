#include "ops/plan.h"

#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>
#include "base/clock.h"
#include "base/size.h"

enum { ALIGNMENT = 128 };

/* Where a value lives, and from which to which step of the plan. */
struct placement {
    bool bound, used;
    int first, last;                 /* steps; the value that an in-place result continues ends where it starts */
    int alias_of;                    /* value whose memory this one takes over, or ASDM_NONE */
    size_t row_bytes, bytes, offset; /* row_bytes: of all rows; bytes: with what lies behind them */
};

/* Devices only: what the caller brings and takes, in one block of staging memory and one alike of the device's. Row
 * maps and inputs come first, results after them, so that each way is one copy. */
struct mirror {
    unsigned char *staging, *memory;
    size_t input_bytes, bytes;
    size_t maps[ASDM_RATE_COUNT]; /* offsets */
    size_t *offsets;              /* [value_count] */
    void **callers;               /* [value_count] as bound; NULL: not the caller's */
    const int32_t *caller_maps[ASDM_RATE_COUNT];
    void *recording; /* of all kernels and both copies */
    bool rebound;    /* since the last run */
};

struct asdm_plan {
    const struct asdm_program *program;
    struct asdm_backend *backend;
    enum asdm_rate rate;
    int rows, height, width;
    int step_count;
    struct asdm_site *sites;     /* [step_count] */
    struct asdm_kernel *kernels; /* [step_count] */
    struct placement *places;    /* [value_count] */
    void **values;               /* [value_count] */
    const int32_t *row_maps[ASDM_RATE_COUNT];
    unsigned char *memory;
    size_t memory_bytes, scratch_offset, least_bytes;
    struct mirror mirror;
};

/* ---- sizes */

/* What the caller brings, and what an export gives him. */
static bool is_callers_input(const struct asdm_plan *plan, int value) {
    const struct asdm_value *v = &plan->program->values[value];
    return v->producer == ASDM_NONE && v->rate == plan->rate;
}

static bool is_callers_output(const struct asdm_plan *plan, int value) {
    const struct asdm_value *v = &plan->program->values[value];
    return v->output && v->producer != ASDM_NONE && plan->program->ops[v->producer].kind == ASDM_OP_EXPORT;
}

static bool row_bytes(const struct asdm_plan *plan, int value, size_t *ret) {
    const struct asdm_value *v = &plan->program->values[value];
    size_t bytes = asdm_program_is_wide(plan->program, value) ? 4 : plan->backend->element_bytes;
    return asdm_size_mul(bytes, (size_t)v->channels, &bytes) &&
           asdm_size_mul(bytes, (size_t)asdm_dim_resolve(v->height, plan->height, plan->width), &bytes) &&
           asdm_size_mul(bytes, (size_t)asdm_dim_resolve(v->width, plan->height, plan->width), ret);
}

size_t asdm_plan_row_bytes(const struct asdm_plan *plan, int value) {
    size_t bytes = 0;
    bool fits = row_bytes(plan, value, &bytes);
    ASDM_ASSERT(fits);
    return bytes;
}

static struct asdm_extent extent_of(const struct asdm_plan *plan, int value) {
    const struct asdm_value *v = &plan->program->values[value];
    int64_t height = asdm_dim_resolve(v->height, plan->height, plan->width);
    int64_t width = asdm_dim_resolve(v->width, plan->height, plan->width);
    return (struct asdm_extent){.height = height,
                                .width = width,
                                .channels = v->channels,
                                .mapped = v->rate != plan->rate,
                                .rate = v->rate,
                                .moments = asdm_moments_layout(v->common, height * width, v->channels)};
}

/* ---- planning */

static void list_steps(struct asdm_plan *plan, struct asdm_weight_store *weights) {
    const struct asdm_program *p = plan->program;
    for (int i = 0; i < p->op_count; i++) {
        const struct asdm_op *op = &p->ops[i];
        if (asdm_program_op_rate(p, op) != plan->rate)
            continue;
        struct asdm_site *site = &plan->sites[plan->step_count++];
        *site = (struct asdm_site){.program = p, .op = op, .weights = weights, .rows = plan->rows};
        for (int j = 0; j < ASDM_SRC_COUNT; j++)
            if (op->inputs[j] != ASDM_NONE)
                site->in[j] = extent_of(plan, op->inputs[j]);
        site->out = extent_of(plan, op->output);
    }
}

static enum asdm_status too_large(const struct asdm_plan *plan, struct asdm_error *err) {
    return asdm_fail(err, ASDM_ERR_MEMORY, "%d row(s) of %d x %d latents are more than this machine can address",
                     plan->rows, plan->height, plan->width);
}

/* Bytes of all rows of a value and of the moments behind them; false: more than can be addressed. */
static bool find_bytes(const struct asdm_plan *plan, int value, struct placement *place) {
    if (!row_bytes(plan, value, &place->bytes) || !asdm_size_mul(place->bytes, (size_t)plan->rows, &place->row_bytes) ||
        place->row_bytes > SIZE_MAX / 4)
        return false;
    struct asdm_moments_layout layout = extent_of(plan, value).moments;
    size_t moments = (size_t)plan->rows * sizeof(struct asdm_moments); /* fewer than the value has elements */
    place->bytes = place->row_bytes;
    if (layout.granule)
        place->bytes = asdm_moments_offset(place->row_bytes) + moments * (size_t)layout.slabs * (size_t)layout.granules;
    place->bytes = asdm_size_align(place->bytes, ALIGNMENT);
    return true;
}

/* Sizes and lifetimes. A value is bound when the caller or another rate makes or reads it. */
static enum asdm_status find_lifetimes(struct asdm_plan *plan, struct asdm_error *err) {
    const struct asdm_program *p = plan->program;
    for (int v = 0; v < p->value_count; v++) {
        struct placement *place = &plan->places[v];
        *place = (struct placement){.first = -1, .last = -1, .alias_of = ASDM_NONE};
        place->bound = p->values[v].producer == ASDM_NONE || p->values[v].output || p->values[v].rate != plan->rate;
        if (!find_bytes(plan, v, place))
            return too_large(plan, err);
    }
    for (int i = 0; i < p->op_count; i++)
        for (int j = 0; j < ASDM_SRC_COUNT; j++)
            if (p->ops[i].inputs[j] != ASDM_NONE && asdm_program_op_rate(p, &p->ops[i]) != plan->rate)
                plan->places[p->ops[i].inputs[j]].bound = true;
    for (int step = 0; step < plan->step_count; step++) {
        const struct asdm_op *op = plan->sites[step].op;
        for (int j = 0; j < ASDM_SRC_COUNT; j++)
            if (op->inputs[j] != ASDM_NONE) {
                plan->places[op->inputs[j]].last = step;
                plan->places[op->inputs[j]].used = true;
            }
        struct placement *result = &plan->places[op->output];
        result->first = step;
        result->last = result->last > step ? result->last : step;
        result->used = true;
    }
    return ASDM_OK;
}

/* Refuses what cannot fit before weights are laid out or kernels built: no step needs less than the values that live at
 * it. */
static enum asdm_status check_least_memory(struct asdm_plan *plan, struct asdm_error *err) {
    size_t most = 0;
    for (int step = 0; step < plan->step_count; step++) {
        size_t bytes = 0;
        for (int v = 0; v < plan->program->value_count; v++) {
            const struct placement *place = &plan->places[v];
            if (place->used && place->first <= step && step <= place->last &&
                !asdm_size_add(bytes, place->bytes, &bytes))
                return too_large(plan, err);
        }
        most = bytes > most ? bytes : most;
    }
    plan->least_bytes = most;
    return asdm_backend_memory_check(plan->backend, most, "a picture of this size", err);
}

static enum asdm_status plan_kernels(struct asdm_plan *plan, struct asdm_error *err) {
    if (plan->backend->class->begin)
        plan->backend->class->begin(plan->backend);
    for (int step = 0; step < plan->step_count; step++) {
        struct asdm_kernel *kernel = &plan->kernels[step];
        kernel->in_place = ASDM_NONE;
        ASDM_TRY(plan->backend->class->plan(plan->backend, &plan->sites[step], kernel, err));
    }
    return ASDM_OK;
}

/* A result may overwrite an operand that nobody reads later and that is as large. */
static void alias_in_place(struct asdm_plan *plan) {
    for (int step = 0; step < plan->step_count; step++) {
        const struct asdm_op *op = plan->sites[step].op;
        int place = plan->kernels[step].in_place;
        if (place == ASDM_NONE || op->inputs[place] == ASDM_NONE)
            continue;
        int source = op->inputs[place];
        struct placement *from = &plan->places[source], *to = &plan->places[op->output];
        int reads = 0;
        for (int j = 0; j < ASDM_SRC_COUNT; j++)
            reads += op->inputs[j] == source;
        if (from->bound || to->bound || from->last != step || from->row_bytes != to->row_bytes || reads != 1)
            continue;
        to->alias_of = source;
    }
}

static int root_of(const struct asdm_plan *plan, int value) {
    while (plan->places[value].alias_of != ASDM_NONE)
        value = plan->places[value].alias_of;
    return value;
}

static int by_size(const void *a, const void *b, void *places) {
    size_t x = ((const struct placement *)places)[*(const int *)a].bytes;
    size_t y = ((const struct placement *)places)[*(const int *)b].bytes;
    return x < y ? 1 : x > y ? -1 : *(const int *)a - *(const int *)b;
}

/* Lowest offset at which `value` meets no placed value that lives at the same time: largest values first. */
static size_t find_offset(const struct asdm_plan *plan, const int *placed, int count, int value) {
    const struct placement *places = plan->places;
    size_t offset = 0;
    for (bool moved = true; moved;) {
        moved = false;
        for (int i = 0; i < count; i++) {
            const struct placement *other = &places[placed[i]];
            if (other->first <= places[value].last && places[value].first <= other->last &&
                offset < other->offset + other->bytes && other->offset < offset + places[value].bytes) {
                offset = other->offset + other->bytes;
                moved = true;
            }
        }
    }
    return offset;
}

static enum asdm_status place_values(struct asdm_plan *plan, struct asdm_error *err) {
    int value_count = plan->program->value_count, count = 0;
    int *order = calloc((size_t)value_count + 1, sizeof *order);
    if (!order)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory to plan %s", plan->program->name);
    for (int v = value_count - 1; v >= 0; v--) { /* an alias comes after its root */
        struct placement *place = &plan->places[v], *root = &plan->places[root_of(plan, v)];
        if (place->used && root->last < place->last)
            root->last = place->last;
        if (place->used && root->bytes < place->bytes)
            root->bytes = place->bytes;
    }
    for (int v = 0; v < value_count; v++)
        if (plan->places[v].used && !plan->places[v].bound && plan->places[v].alias_of == ASDM_NONE)
            order[count++] = v;
    qsort_r(order, (size_t)count, sizeof *order, by_size, plan->places);
    for (int i = 0; i < count; i++) {
        struct placement *place = &plan->places[order[i]];
        place->offset = find_offset(plan, order, i, order[i]);
        if (place->offset + place->bytes > plan->memory_bytes)
            plan->memory_bytes = place->offset + place->bytes;
    }
    free(order);
    return ASDM_OK;
}

static enum asdm_status allocate(struct asdm_plan *plan, struct asdm_error *err) {
    size_t scratch = 0;
    for (int step = 0; step < plan->step_count; step++)
        if (plan->kernels[step].scratch_bytes > scratch)
            scratch = plan->kernels[step].scratch_bytes;
    plan->scratch_offset = plan->memory_bytes;
    if (!asdm_size_add(plan->memory_bytes, asdm_size_align(scratch, ALIGNMENT), &plan->memory_bytes))
        return too_large(plan, err);
    void *memory;
    ASDM_TRY(asdm_backend_map(plan->backend, plan->memory_bytes, "a picture of this size", &memory, err));
    plan->memory = memory;
    for (int v = 0; v < plan->program->value_count; v++)
        if (plan->places[v].used && !plan->places[v].bound)
            plan->values[v] = plan->memory + plan->places[root_of(plan, v)].offset;
    return ASDM_OK;
}

/* Places what the caller brings (`outputs` false) or takes from *at on. */
static void place_callers(struct asdm_plan *plan, bool outputs, size_t *at) {
    for (int v = 0; v < plan->program->value_count; v++)
        if (plan->places[v].used && (outputs ? is_callers_output(plan, v) : is_callers_input(plan, v))) {
            plan->mirror.offsets[v] = *at;
            *at += plan->places[v].bytes;
        }
}

static enum asdm_status create_mirror(struct asdm_plan *plan, struct asdm_error *err) {
    struct mirror *m = &plan->mirror;
    size_t values = (size_t)plan->program->value_count + 1;
    void *memory;
    m->offsets = calloc(values, sizeof *m->offsets);
    m->callers = calloc(values, sizeof *m->callers);
    if (!m->offsets || !m->callers)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory to plan %s", plan->program->name);
    for (int rate = 0; rate < ASDM_RATE_COUNT; rate++) {
        m->maps[rate] = m->bytes;
        m->bytes += asdm_size_align((size_t)plan->rows * sizeof(int32_t), ALIGNMENT);
    }
    place_callers(plan, false, &m->bytes);
    m->input_bytes = m->bytes;
    place_callers(plan, true, &m->bytes);
    ASDM_TRY(asdm_backend_map(plan->backend, m->bytes, "a picture of this size", &memory, err));
    m->memory = memory;
    ASDM_TRY(plan->backend->class->device->map_staging(plan->backend, m->bytes, &memory, err));
    m->staging = memory;
    for (int v = 0; v < plan->program->value_count; v++)
        if (plan->places[v].used && (is_callers_input(plan, v) || is_callers_output(plan, v)))
            plan->values[v] = m->memory + m->offsets[v];
    for (int rate = 0; rate < ASDM_RATE_COUNT; rate++)
        plan->row_maps[rate] = (const int32_t *)(m->memory + m->maps[rate]);
    return ASDM_OK;
}

static void destroy_mirror(struct asdm_plan *plan) {
    struct mirror *m = &plan->mirror;
    const struct asdm_device_class *device = plan->backend->class->device;
    if (m->recording)
        device->forget(plan->backend, m->recording);
    if (m->staging)
        device->unmap_staging(plan->backend, m->staging);
    asdm_backend_unmap(plan->backend, m->memory, m->bytes);
    free(m->offsets);
    free(m->callers);
}

/* A plan with its steps listed and its values' lifetimes known, and nothing large allocated. */
static enum asdm_status start_plan(const struct asdm_program *program, struct asdm_backend *backend,
                                   struct asdm_weight_store *weights, enum asdm_rate rate, int rows, int height,
                                   int width, struct asdm_plan **ret, struct asdm_error *err) {
    ASDM_ASSERT(rows > 0 && height > 0 && width > 0);
    size_t ops = (size_t)program->op_count + 1, values = (size_t)program->value_count + 1;
    struct asdm_plan *plan = calloc(1, sizeof *plan);
    if (!plan)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory to plan %s", program->name);
    *plan = (struct asdm_plan){
        .program = program, .backend = backend, .rate = rate, .rows = rows, .height = height, .width = width};
    plan->sites = calloc(ops, sizeof *plan->sites);
    plan->kernels = calloc(ops, sizeof *plan->kernels);
    plan->places = calloc(values, sizeof *plan->places);
    plan->values = calloc(values, sizeof *plan->values);
    if (!plan->sites || !plan->kernels || !plan->places || !plan->values) {
        asdm_plan_destroy(&plan);
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory to plan %s", program->name);
    }
    list_steps(plan, weights);
    enum asdm_status status = find_lifetimes(plan, err);
    if (status == ASDM_OK)
        status = check_least_memory(plan, err);
    if (status != ASDM_OK)
        asdm_plan_destroy(&plan);
    else
        *ret = plan;
    return status;
}

enum asdm_status asdm_plan_check(const struct asdm_program *program, struct asdm_backend *backend, enum asdm_rate rate,
                                 int rows, int height, int width, size_t *ret_bytes, struct asdm_error *err) {
    struct asdm_plan *plan;
    ASDM_TRY(start_plan(program, backend, NULL, rate, rows, height, width, &plan, err));
    if (ret_bytes)
        *ret_bytes = plan->least_bytes;
    asdm_plan_destroy(&plan);
    return ASDM_OK;
}

enum asdm_status asdm_plan_create(const struct asdm_program *program, struct asdm_backend *backend,
                                  struct asdm_weight_store *weights, enum asdm_rate rate, int rows, int height,
                                  int width, struct asdm_plan **ret, struct asdm_error *err) {
    struct asdm_plan *plan;
    ASDM_TRY(start_plan(program, backend, weights, rate, rows, height, width, &plan, err));
    enum asdm_status status = plan_kernels(plan, err);
    if (status == ASDM_OK) {
        alias_in_place(plan);
        status = place_values(plan, err);
    }
    if (status == ASDM_OK)
        status = allocate(plan, err);
    if (status == ASDM_OK && backend->class->device)
        status = create_mirror(plan, err);
    if (status != ASDM_OK)
        asdm_plan_destroy(&plan);
    else
        *ret = plan;
    return status;
}

void asdm_plan_destroy(struct asdm_plan **plan) {
    struct asdm_plan *p = *plan;
    if (!p)
        return;
    for (int step = 0; p->kernels && step < p->step_count; step++)
        if (p->kernels[step].destroy)
            p->kernels[step].destroy(&p->kernels[step]);
    if (p->backend->class->device)
        destroy_mirror(p);
    asdm_backend_unmap(p->backend, p->memory, p->memory_bytes);
    free(p->sites);
    free(p->kernels);
    free(p->places);
    free(p->values);
    free(p);
    *plan = NULL;
}

/* ---- running */

void asdm_plan_bind(struct asdm_plan *plan, int value, void *memory) {
    ASDM_ASSERT(plan->places[value].bound);
    if (plan->backend->class->device && (is_callers_input(plan, value) || is_callers_output(plan, value))) {
        plan->mirror.callers[value] = memory;
        return;
    }
    plan->mirror.rebound |= plan->values[value] != memory;
    plan->values[value] = memory;
}

void asdm_plan_map_rows(struct asdm_plan *plan, enum asdm_rate rate, const int32_t *map) {
    if (plan->backend->class->device)
        plan->mirror.caller_maps[rate] = map;
    else
        plan->row_maps[rate] = map;
}

bool asdm_plan_is_bound_value(const struct asdm_plan *plan, int value) {
    return plan->places[value].used && plan->places[value].bound;
}

size_t asdm_plan_bytes(const struct asdm_plan *plan) {
    return plan->memory_bytes;
}

static struct asdm_run begin_run(const struct asdm_plan *plan) {
    if (plan->backend->class->begin)
        plan->backend->class->begin(plan->backend);
    return (struct asdm_run){plan->values, plan->row_maps, plan->memory + plan->scratch_offset};
}

/* The copy in, all kernels, the copy out. */
static void enqueue(void *user) {
    const struct asdm_plan *plan = user;
    const struct asdm_device_class *device = plan->backend->class->device;
    const struct mirror *m = &plan->mirror;
    struct asdm_run run = begin_run(plan);
    device->copy(plan->backend, m->memory, m->staging, m->input_bytes);
    for (int step = 0; step < plan->step_count; step++)
        plan->kernels[step].run(&plan->kernels[step], &run);
    if (m->bytes > m->input_bytes)
        device->copy(plan->backend, m->staging + m->input_bytes, m->memory + m->input_bytes, m->bytes - m->input_bytes);
}

static void gather_inputs(const struct asdm_plan *plan) {
    const struct mirror *m = &plan->mirror;
    for (int rate = 0; rate < ASDM_RATE_COUNT; rate++)
        if (m->caller_maps[rate])
            memcpy(m->staging + m->maps[rate], m->caller_maps[rate], (size_t)plan->rows * sizeof(int32_t));
    for (int v = 0; v < plan->program->value_count; v++)
        if (m->callers[v] && is_callers_input(plan, v))
            memcpy(m->staging + m->offsets[v], m->callers[v], asdm_plan_row_bytes(plan, v) * (size_t)plan->rows);
}

/* A plan whose memory stays where it is from one run to the next is recorded, and replayed from then on. */
static void start_on_device(struct asdm_plan *plan) {
    struct mirror *m = &plan->mirror;
    const struct asdm_device_class *device = plan->backend->class->device;
    bool stays = !m->rebound;
    begin_run(plan);
    gather_inputs(plan);
    if (!stays && m->recording) {
        device->forget(plan->backend, m->recording);
        m->recording = NULL;
    }
    m->rebound = false;
    if (stays && !m->recording)
        m->recording = device->record(plan->backend, enqueue, plan);
    if (m->recording)
        device->replay(plan->backend, m->recording);
    else
        enqueue(plan);
}

void asdm_plan_start(struct asdm_plan *plan) {
    if (plan->backend->class->device) {
        start_on_device(plan);
        return;
    }
    struct asdm_run run = begin_run(plan);
    for (int step = 0; step < plan->step_count; step++)
        plan->kernels[step].run(&plan->kernels[step], &run);
}

enum asdm_status asdm_plan_finish(struct asdm_plan *plan, struct asdm_error *err) {
    const struct asdm_device_class *device = plan->backend->class->device;
    const struct mirror *m = &plan->mirror;
    if (!device)
        return ASDM_OK;
    ASDM_TRY(device->finish(plan->backend, err));
    for (int v = 0; v < plan->program->value_count; v++)
        if (m->callers[v] && is_callers_output(plan, v))
            memcpy(m->callers[v], m->staging + m->offsets[v], asdm_plan_row_bytes(plan, v) * (size_t)plan->rows);
    return ASDM_OK;
}

enum asdm_status asdm_plan_run(struct asdm_plan *plan, struct asdm_error *err) {
    asdm_plan_start(plan);
    return asdm_plan_finish(plan, err);
}

enum asdm_status asdm_plan_run_until(struct asdm_plan *plan, int *position, double deadline, bool *ret_done,
                                     struct asdm_error *err) {
    if (plan->backend->class->device) {
        ASDM_TRY(asdm_plan_run(plan, err));
        *position = plan->step_count;
    }
    struct asdm_run run = begin_run(plan);
    while (*position < plan->step_count) {
        struct asdm_kernel *kernel = &plan->kernels[(*position)++];
        kernel->run(kernel, &run);
        if (asdm_clock_seconds() >= deadline)
            break;
    }
    *ret_done = *position >= plan->step_count;
    return ASDM_OK;
}

double asdm_plan_device_seconds(const struct asdm_plan *plan) {
    const struct asdm_device_class *device = plan->backend->class->device;
    return device ? device->time(plan->backend, enqueue, (void *)(uintptr_t)plan) : 0;
}

/* One kernel of a plan. */
struct step_of {
    const struct asdm_plan *plan;
    const struct asdm_run *run;
    int step;
};

static void enqueue_step(void *user) {
    const struct step_of *s = user;
    s->plan->kernels[s->step].run(&s->plan->kernels[s->step], s->run);
}

void asdm_plan_profile(const struct asdm_plan *plan, asdm_plan_report *report, void *user) {
    const struct asdm_device_class *device = plan->backend->class->device;
    struct asdm_run run = begin_run(plan);
    for (int step = 0; step < plan->step_count; step++) {
        struct step_of one = {plan, &run, step};
        double start = asdm_clock_seconds(), seconds;
        if (device) {
            seconds = device->time(plan->backend, enqueue_step, &one);
        } else {
            enqueue_step(&one);
            seconds = asdm_clock_seconds() - start;
        }
        report(user, &plan->sites[step], &plan->kernels[step], seconds);
    }
}
