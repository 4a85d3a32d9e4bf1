#include "ops/rewrite.h"

#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>

/* The operation that makes `value`; NULL for inputs. */
static struct asdm_op *producer_of(struct asdm_program *p, int value) {
    int producer = value == ASDM_NONE ? ASDM_NONE : p->values[value].producer;
    return producer == ASDM_NONE ? NULL : &p->ops[producer];
}

/* The producer of `value` when it is of `kind` and nobody else reads the value. */
static struct asdm_op *sole_producer(struct asdm_program *p, int value, enum asdm_op_kind kind) {
    struct asdm_op *op = producer_of(p, value);
    bool fits = op && op->kind == kind && !p->values[value].output && asdm_program_uses(p, value) == 1;
    return fits ? op : NULL;
}

/* `op` takes over the result of `last`, which becomes dead. */
static void take_over(struct asdm_program *p, struct asdm_op *op, struct asdm_op *last) {
    int old = op->output;
    op->output = last->output;
    p->values[op->output].producer = (int)(op - p->ops);
    last->output = old;
    p->values[old].producer = (int)(last - p->ops);
    for (int i = 0; i < ASDM_SRC_COUNT; i++)
        last->inputs[i] = ASDM_NONE;
}

static bool same_rate(const struct asdm_program *p, const struct asdm_op *a, const struct asdm_op *b) {
    return asdm_program_op_rate(p, a) == asdm_program_op_rate(p, b);
}

static void fuse_row_bias(struct asdm_program *p, struct asdm_op *op) {
    if (op->kind != ASDM_OP_GROUP_NORM)
        return;
    struct asdm_op *add = sole_producer(p, op->inputs[ASDM_SRC_X], ASDM_OP_ADD);
    if (!add || add->inputs[ASDM_SRC_ROW_BIAS] == ASDM_NONE)
        return;
    op->inputs[ASDM_SRC_X] = add->inputs[ASDM_SRC_X];
    op->inputs[ASDM_SRC_ROW_BIAS] = add->inputs[ASDM_SRC_ROW_BIAS];
}

static void fuse_row_bias_into_conv(struct asdm_program *p, struct asdm_op *op) {
    if (op->kind != ASDM_OP_ADD || op->inputs[ASDM_SRC_ROW_BIAS] == ASDM_NONE)
        return;
    struct asdm_op *conv = sole_producer(p, op->inputs[ASDM_SRC_X], ASDM_OP_CONV2D);
    const struct asdm_value *bias = &p->values[op->inputs[ASDM_SRC_ROW_BIAS]];
    if (!conv || conv->inputs[ASDM_SRC_ROW_BIAS] != ASDM_NONE || conv->inputs[ASDM_SRC_RESIDUAL] != ASDM_NONE ||
        conv->upsample || !same_rate(p, conv, op) ||
        (bias->rate == asdm_program_op_rate(p, conv) && bias->producer > (int)(conv - p->ops)))
        return;
    conv->inputs[ASDM_SRC_ROW_BIAS] = op->inputs[ASDM_SRC_ROW_BIAS];
    take_over(p, conv, op);
}

static void fuse_activation(struct asdm_program *p, struct asdm_op *op, enum asdm_op_kind kind) {
    if (op->kind != ASDM_OP_ACTIVATION)
        return;
    struct asdm_op *source = sole_producer(p, op->inputs[ASDM_SRC_X], kind);
    if (!source || source->activation != ASDM_ACT_NONE || source->geglu ||
        source->inputs[ASDM_SRC_RESIDUAL] != ASDM_NONE)
        return;
    source->activation = op->activation;
    take_over(p, source, op);
}

static void fuse_geglu(struct asdm_program *p, struct asdm_op *op) {
    if (op->kind != ASDM_OP_GEGLU)
        return;
    struct asdm_op *linear = sole_producer(p, op->inputs[ASDM_SRC_X], ASDM_OP_LINEAR);
    if (!linear || linear->activation != ASDM_ACT_NONE || linear->inputs[ASDM_SRC_RESIDUAL] != ASDM_NONE)
        return;
    linear->geglu = true;
    take_over(p, linear, op);
}

/* Adds `residual` in the operation that makes `sum`, if the residual is known by then. */
static bool fuse_residual_into(struct asdm_program *p, struct asdm_op *add, int sum, int residual) {
    struct asdm_op *source = sole_producer(p, sum, ASDM_OP_CONV2D);
    if (!source)
        source = sole_producer(p, sum, ASDM_OP_LINEAR);
    if (!source || source->geglu || source->inputs[ASDM_SRC_RESIDUAL] != ASDM_NONE || !same_rate(p, source, add) ||
        p->values[residual].rate != p->values[sum].rate || p->values[residual].producer > (int)(source - p->ops))
        return false;
    source->inputs[ASDM_SRC_RESIDUAL] = residual;
    take_over(p, source, add);
    return true;
}

static void fuse_residual(struct asdm_program *p, struct asdm_op *op) {
    if (op->kind != ASDM_OP_ADD || op->inputs[ASDM_SRC_RESIDUAL] == ASDM_NONE)
        return;
    int a = op->inputs[ASDM_SRC_X], b = op->inputs[ASDM_SRC_RESIDUAL];
    if (!fuse_residual_into(p, op, a, b))
        fuse_residual_into(p, op, b, a);
}

static void fuse_upsample(struct asdm_program *p, struct asdm_op *op) {
    if (op->kind != ASDM_OP_CONV2D || op->stride != 1 || op->kernel != 3 || op->upsample)
        return;
    struct asdm_op *upsample = sole_producer(p, op->inputs[ASDM_SRC_X], ASDM_OP_UPSAMPLE);
    if (!upsample)
        return;
    op->inputs[ASDM_SRC_X] = upsample->inputs[ASDM_SRC_X];
    op->upsample = true;
}

/* Every reader of a concat must be able to read two sources; then the concat is never made. */
static void fuse_concat(struct asdm_program *p, struct asdm_op *concat) {
    if (concat->kind != ASDM_OP_CONCAT || p->values[concat->output].output)
        return;
    for (int i = 0; i < p->op_count; i++)
        for (int j = 0; j < ASDM_SRC_COUNT; j++) {
            const struct asdm_op *op = &p->ops[i];
            if (op->inputs[j] == concat->output &&
                (j != ASDM_SRC_X || op->inputs[ASDM_SRC_X2] != ASDM_NONE ||
                 (op->kind != ASDM_OP_GROUP_NORM && op->kind != ASDM_OP_LINEAR && op->kind != ASDM_OP_GLOBAL_POOL)))
                return;
        }
    for (int i = 0; i < p->op_count; i++)
        if (p->ops[i].inputs[ASDM_SRC_X] == concat->output) {
            p->ops[i].inputs[ASDM_SRC_X] = concat->inputs[ASDM_SRC_X];
            p->ops[i].inputs[ASDM_SRC_X2] = concat->inputs[ASDM_SRC_X2];
        }
}

/* Stacks the products `first` .. v of an attention's inputs into the first one. */
static void merge_products(struct asdm_program *p, struct asdm_op *attention, int first) {
    struct asdm_op *ops[ASDM_PARTS_MAX] = {NULL};
    int count = 0, channels = 0;
    for (int i = first; i <= ASDM_SRC_V; i++) {
        struct asdm_op *op = sole_producer(p, attention->inputs[i], ASDM_OP_LINEAR);
        if (!op || op->parts != 1 || op->inputs[ASDM_SRC_X2] != ASDM_NONE || op->activation != ASDM_ACT_NONE ||
            op->inputs[ASDM_SRC_RESIDUAL] != ASDM_NONE)
            return;
        ops[count++] = op;
        if (op->inputs[ASDM_SRC_X] != ops[0]->inputs[ASDM_SRC_X] ||
            (op->bias[0] == ASDM_NONE) != (ops[0]->bias[0] == ASDM_NONE) || op < ops[0])
            return;
    }
    for (int i = 0; i < count; i++) {
        ops[0]->weight[i] = ops[i]->weight[0];
        ops[0]->bias[i] = ops[i]->bias[0];
        attention->channel[first + i] = channels;
        channels += p->values[ops[i]->output].channels;
    }
    for (int i = 0; i < count; i++)
        attention->inputs[first + i] = ops[0]->output;
    ops[0]->parts = count;
    p->values[ops[0]->output].channels = channels;
}

static void merge_qkv(struct asdm_program *p, struct asdm_op *op) {
    if (op->kind != ASDM_OP_ATTENTION)
        return;
    merge_products(p, op, ASDM_SRC_Q);
    if (op->inputs[ASDM_SRC_Q] != op->inputs[ASDM_SRC_V])
        merge_products(p, op, ASDM_SRC_K);
}

static int common_divisor(int a, int b) {
    return b == 0 ? a : common_divisor(b, a % b);
}

/* Whether `value` is made by a product, and read at the rate at which it is made: then it lives in one plan's memory.
 */
static bool may_have_moments(const struct asdm_program *p, int value) {
    const struct asdm_value *v = &p->values[value];
    if (v->producer == ASDM_NONE || v->output)
        return false;
    const struct asdm_op *op = &p->ops[v->producer];
    if ((op->kind != ASDM_OP_CONV2D && op->kind != ASDM_OP_LINEAR) || op->geglu)
        return false;
    for (int i = 0; i < p->op_count; i++)
        for (int j = 0; j < ASDM_SRC_COUNT; j++)
            if (p->ops[i].inputs[j] == value && asdm_program_op_rate(p, &p->ops[i]) != v->rate)
                return false;
    return true;
}

/* Parts of the sources so small that each lies in one group of every norm that reads them. */
static void keep_moments(struct asdm_program *p, const struct asdm_op *norm) {
    if (norm->kind != ASDM_OP_GROUP_NORM || norm->inputs[ASDM_SRC_ROW_BIAS] != ASDM_NONE)
        return;
    int x = norm->inputs[ASDM_SRC_X], x2 = norm->inputs[ASDM_SRC_X2];
    if (!may_have_moments(p, x) || (x2 != ASDM_NONE && !may_have_moments(p, x2)))
        return;
    int group = p->values[norm->output].channels / norm->groups;
    int common = common_divisor(group, p->values[x].channels);
    p->values[x].common = common_divisor(common, p->values[x].common);
    if (x2 != ASDM_NONE)
        p->values[x2].common = common_divisor(common, p->values[x2].common);
}

/* Marks what outputs need, from the end, and closes the gaps. Values keep their numbers. */
static enum asdm_status drop_dead(struct asdm_program *p, struct asdm_error *err) {
    bool *needed = calloc((size_t)p->value_count + 1, sizeof *needed);
    if (!needed)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory to rewrite %s", p->name);
    for (int i = 0; i < p->value_count; i++)
        needed[i] = p->values[i].output;
    for (int i = p->op_count - 1; i >= 0; i--)
        for (int j = 0; j < ASDM_SRC_COUNT; j++)
            if (needed[p->ops[i].output] && p->ops[i].inputs[j] != ASDM_NONE)
                needed[p->ops[i].inputs[j]] = true;
    int kept = 0;
    for (int i = 0; i < p->op_count; i++) {
        struct asdm_op op = p->ops[i];
        p->values[op.output].producer = needed[op.output] ? kept : ASDM_NONE;
        if (needed[op.output])
            p->ops[kept++] = op;
    }
    p->op_count = kept;
    free(needed);
    return ASDM_OK;
}

enum asdm_status asdm_program_rewrite(struct asdm_program *p, unsigned rewrites, struct asdm_error *err) {
    /* The order matters: row biases before activations and residuals hide the adds, merges of products late, and
     * moments when it is settled what reads what. */
    static const enum asdm_rewrite order[] = {ASDM_REWRITE_ROW_BIAS_CONV,
                                              ASDM_REWRITE_ROW_BIAS_NORM,
                                              ASDM_REWRITE_NORM_ACTIVATION,
                                              ASDM_REWRITE_PRODUCT_ACTIVATION,
                                              ASDM_REWRITE_GEGLU,
                                              ASDM_REWRITE_RESIDUAL,
                                              ASDM_REWRITE_UPSAMPLE_CONV,
                                              ASDM_REWRITE_CONCAT,
                                              ASDM_REWRITE_QKV,
                                              ASDM_REWRITE_MOMENTS};
    for (size_t k = 0; k < sizeof order / sizeof *order; k++) {
        if (!(rewrites & order[k]))
            continue;
        for (int i = 0; i < p->op_count; i++) {
            struct asdm_op *op = &p->ops[i];
            switch (order[k]) {
            case ASDM_REWRITE_ROW_BIAS_CONV:
                fuse_row_bias_into_conv(p, op);
                break;
            case ASDM_REWRITE_ROW_BIAS_NORM:
                fuse_row_bias(p, op);
                break;
            case ASDM_REWRITE_NORM_ACTIVATION:
                fuse_activation(p, op, ASDM_OP_GROUP_NORM);
                break;
            case ASDM_REWRITE_PRODUCT_ACTIVATION:
                fuse_activation(p, op, ASDM_OP_LINEAR);
                break;
            case ASDM_REWRITE_GEGLU:
                fuse_geglu(p, op);
                break;
            case ASDM_REWRITE_RESIDUAL:
                fuse_residual(p, op);
                break;
            case ASDM_REWRITE_UPSAMPLE_CONV:
                fuse_upsample(p, op);
                break;
            case ASDM_REWRITE_CONCAT:
                fuse_concat(p, op);
                break;
            case ASDM_REWRITE_QKV:
                merge_qkv(p, op);
                break;
            default:
                keep_moments(p, op);
            }
        }
        ASDM_TRY(drop_dead(p, err));
    }
    return ASDM_OK;
}
