#include "light/analysis.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>
#include <asdm/json.h>
#include "base/file.h"
#include "light/fingerprint.h"
#include "light/meter.h"

/* ---- life */

void asdm_analysis_destroy(struct asdm_analysis **analysis) {
    struct asdm_analysis *a = *analysis;
    if (!a)
        return;
    for (int i = 0; a->prompts && i < a->prompt_count; i++)
        free(a->prompts[i]);
    free(a->prompts);
    free(a->model);
    free(a->device);
    free(a->dtype);
    free(a->sampler);
    free(a->trials);
    free(a);
    *analysis = NULL;
}

static enum asdm_status no_memory(struct asdm_error *err) {
    return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for an analysis");
}

static bool set_texts(struct asdm_analysis *a, const char *model, const char *device, const char *dtype,
                      const char *sampler) {
    a->model = strdup(model);
    a->device = strdup(device);
    a->dtype = strdup(dtype);
    a->sampler = strdup(sampler);
    return a->model && a->device && a->dtype && a->sampler;
}

static bool set_prompts(struct asdm_analysis *a, const char *const *prompts, int count) {
    a->prompts = calloc((size_t)count + 1, sizeof *a->prompts);
    for (int i = 0; a->prompts && i < count; i++, a->prompt_count++)
        if (!(a->prompts[i] = strdup(prompts[i])))
            return false;
    return a->prompts != NULL;
}

/* What follows from the model: units, sizes, the number of rows. */
static enum asdm_status fill(struct asdm_analysis *a, const struct asdm_model *model, struct asdm_error *err) {
    const struct asdm_unet_config *config = &model->checkpoint->unet;
    struct asdm_sampler_table *table;
    struct asdm_unet unet;
    ASDM_TRY(asdm_fingerprint(model, a->steps, &a->fingerprint, err));
    ASDM_TRY(asdm_sampler_table_build(&model->checkpoint->scheduler, model->sampler, ASDM_SCHEDULE_DEFAULT, a->steps,
                                      -1, &table, err));
    a->evaluations = table->row_count;
    free(table);
    a->row_count = a->prompt_count * a->evaluations * (a->guidance_scale > 1 ? 2 : 1);
    a->random_weights = model->checkpoint->layout == ASDM_LAYOUT_RANDOM;
    a->unit_count = asdm_units_of(config, a->units);
    ASDM_TRY(asdm_unet_build(config, ASDM_PROMPT_TOKENS, &unet, err));
    asdm_unit_measure(unet.program, a->height / ASDM_PIXELS_PER_LATENT, a->width / ASDM_PIXELS_PER_LATENT,
                      model->backend->element_bytes, &a->full);
    asdm_program_destroy(&unet.program);
    return ASDM_OK;
}

enum asdm_status asdm_analysis_create(const struct asdm_model *model, const struct asdm_analyze_options *options,
                                      struct asdm_analysis **ret, struct asdm_error *err) {
    struct asdm_analysis *a = calloc(1, sizeof *a);
    if (!a)
        return no_memory(err);
    a->rows = options->rows;
    a->steps = options->steps;
    a->runs = options->runs;
    a->width = options->width;
    a->height = options->height;
    a->threads = options->threads;
    a->guidance_scale = options->guidance_scale;
    a->seed = options->seed;
    bool made = set_texts(a, model->checkpoint->path, asdm_model_device(model), asdm_model_dtype_name(model),
                          asdm_sampler_name(model->sampler)) &&
                set_prompts(a, options->prompts, options->prompt_count);
    enum asdm_status status = made ? fill(a, model, err) : no_memory(err);
    if (status != ASDM_OK)
        asdm_analysis_destroy(&a);
    else
        *ret = a;
    return status;
}

enum asdm_status asdm_analysis_add(struct asdm_analysis *a, const struct asdm_trial *trial, struct asdm_error *err) {
    if (a->trial_count == a->trial_room) {
        int room = a->trial_room ? 2 * a->trial_room : 16;
        struct asdm_trial *grown = realloc(a->trials, (size_t)room * sizeof *grown);
        if (!grown)
            return no_memory(err);
        a->trials = grown;
        a->trial_room = room;
    }
    a->trials[a->trial_count++] = *trial;
    return ASDM_OK;
}

/* ---- asking */

void asdm_analysis_options(const struct asdm_analysis *a, struct asdm_analyze_options *ret) {
    *ret = (struct asdm_analyze_options){.prompts = (const char *const *)a->prompts,
                                         .prompt_count = a->prompt_count,
                                         .steps = a->steps,
                                         .rows = a->rows,
                                         .runs = a->runs,
                                         .width = a->width,
                                         .height = a->height,
                                         .threads = a->threads,
                                         .guidance_scale = a->guidance_scale,
                                         .seed = a->seed,
                                         .known = a};
}

const struct asdm_trial *asdm_analysis_trial(const struct asdm_analysis *a, unsigned removed) {
    for (int i = 0; i < a->trial_count; i++)
        if (a->trials[i].removed == removed)
            return &a->trials[i];
    return NULL;
}

double asdm_analysis_full_ms(const struct asdm_analysis *a) {
    double *numbers = calloc((size_t)a->trial_count + 1, sizeof *numbers), median = 0;
    for (int i = 0; numbers && i < a->trial_count; i++)
        numbers[i] = a->trials[i].full_ms;
    if (numbers && a->trial_count)
        median = asdm_spread_of(numbers, a->trial_count).quartiles[1];
    free(numbers);
    return median;
}

void asdm_analysis_names(const struct asdm_analysis *a, unsigned removed, char *text, size_t room) {
    size_t used = 0;
    text[0] = '\0';
    for (int i = 0; i < a->unit_count && used < room; i++)
        if (removed & 1u << i)
            used += (size_t)snprintf(text + used, room - used, "%s%s", used ? "," : "", a->units[i].name);
}

static enum asdm_status differ(struct asdm_error *err, const char *what, const char *there, const char *here) {
    return asdm_fail(err, ASDM_ERR_ARGUMENT, "is of another %s: %s, not %s", what, there, here);
}

static enum asdm_status differ_number(struct asdm_error *err, const char *what, double there, double here) {
    return asdm_fail(err, ASDM_ERR_ARGUMENT, "is of another %s: %g, not %g", what, there, here);
}

static enum asdm_status same_model(const struct asdm_analysis *there, uint64_t fingerprint, const char *device,
                                   const char *dtype, const struct asdm_unit *units, int unit_count,
                                   struct asdm_error *err) {
    if (there->fingerprint != fingerprint)
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "is of another model: its weights or its sampler are not these");
    if (strcmp(there->device, device) != 0)
        return differ(err, "device", there->device, device);
    if (strcmp(there->dtype, dtype) != 0)
        return differ(err, "data type", there->dtype, dtype);
    if (there->unit_count != unit_count)
        return differ_number(err, "number of units", there->unit_count, unit_count);
    for (int i = 0; i < unit_count; i++)
        if (strcmp(there->units[i].name, units[i].name) != 0)
            return differ(err, "set of units", there->units[i].name, units[i].name);
    return ASDM_OK;
}

enum asdm_status asdm_analysis_same(const struct asdm_analysis *here, const struct asdm_analysis *there,
                                    struct asdm_error *err) {
    const struct {
        const char *what;
        double there, here;
    } numbers[] = {{"number of steps", there->steps, here->steps},
                   {"number of rows", there->rows, here->rows},
                   {"number of timed runs", there->runs, here->runs},
                   {"width", there->width, here->width},
                   {"height", there->height, here->height},
                   {"number of threads", there->threads, here->threads},
                   {"guidance scale", there->guidance_scale, here->guidance_scale},
                   {"number of prompts", there->prompt_count, here->prompt_count}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (numbers[i].there != numbers[i].here)
            return differ_number(err, numbers[i].what, numbers[i].there, numbers[i].here);
    if (there->seed != here->seed)
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "is of another seed");
    for (int i = 0; i < here->prompt_count; i++)
        if (strcmp(here->prompts[i], there->prompts[i]) != 0)
            return asdm_fail(err, ASDM_ERR_ARGUMENT, "is of other prompts: \"%.60s\", not \"%.60s\"", there->prompts[i],
                             here->prompts[i]);
    return same_model(there, here->fingerprint, here->device, here->dtype, here->units, here->unit_count, err);
}

enum asdm_status asdm_analysis_fits(const struct asdm_analysis *analysis, const struct asdm_model *model,
                                    struct asdm_error *err) {
    struct asdm_unit units[ASDM_UNITS_MAX];
    uint64_t fingerprint;
    ASDM_TRY(asdm_fingerprint(model, analysis->steps, &fingerprint, err));
    return same_model(analysis, fingerprint, asdm_model_device(model), asdm_model_dtype_name(model), units,
                      asdm_units_of(&model->checkpoint->unet, units), err);
}

/* ---- writing */

static void write_text(FILE *out, const char *text) {
    fputc('"', out);
    for (const unsigned char *c = (const unsigned char *)text; *c; c++)
        if (*c == '"' || *c == '\\' || *c < 0x20)
            fprintf(out, "\\u%04x", *c);
        else
            fputc(*c, out);
    fputc('"', out);
}

static void write_spread(FILE *out, const struct asdm_spread *s) {
    fprintf(out,
            "{\"mean\": %.17g, \"deviation\": %.17g, \"min\": %.17g, \"quartiles\": [%.17g, %.17g, %.17g], "
            "\"max\": %.17g}",
            s->mean, s->deviation, s->min, s->quartiles[0], s->quartiles[1], s->quartiles[2], s->max);
}

static void write_set(FILE *out, const struct asdm_analysis *a, unsigned set) {
    bool first = true;
    fputc('[', out);
    for (int i = 0; i < a->unit_count; i++)
        if (set & 1u << i) {
            fprintf(out, "%s\"%s\"", first ? "" : ", ", a->units[i].name);
            first = false;
        }
    fputc(']', out);
}

static void write_head(FILE *out, const struct asdm_analysis *a, bool complete) {
    fprintf(out, "{\n\"asdm_analysis\": %d,\n\"complete\": %s,\n\"model\": ", ASDM_ANALYSIS_VERSION,
            complete ? "true" : "false");
    write_text(out, a->model);
    fprintf(out,
            ",\n\"fingerprint\": \"%016llx\",\n\"random_weights\": %s,\n\"device\": \"%s\",\n\"dtype\": \"%s\",\n"
            "\"threads\": %d,\n\"rows\": %d,\n\"runs\": %d,\n\"width\": %d,\n\"height\": %d,\n\"sampler\": \"%s\",\n"
            "\"steps\": %d,\n\"guidance_scale\": %.17g,\n\"seed\": \"%llu\",\n\"evaluations\": %d,\n"
            "\"calibration_rows\": %d,\n\"prompts\": [",
            (unsigned long long)a->fingerprint, a->random_weights ? "true" : "false", a->device, a->dtype, a->threads,
            a->rows, a->runs, a->width, a->height, a->sampler, a->steps, a->guidance_scale, (unsigned long long)a->seed,
            a->evaluations, a->row_count);
    for (int i = 0; i < a->prompt_count; i++) {
        fputs(i ? ",\n  " : "\n  ", out);
        write_text(out, a->prompts[i]);
    }
    fprintf(out, "],\n\"unet\": {\"parameters\": %lld, \"gmac\": %.17g, \"bytes\": %lld, \"ms\": %.17g}",
            (long long)a->full.parameters, a->full.gmac, (long long)a->full.bytes, asdm_analysis_full_ms(a));
}

/* What each unit alone is and does; its numbers are null until it is measured. */
static void write_units(FILE *out, const struct asdm_analysis *a) {
    fputs(",\n\"units\": [", out);
    for (int i = 0; i < a->unit_count; i++) {
        const struct asdm_unit *unit = &a->units[i];
        const struct asdm_trial *t = asdm_analysis_trial(a, 1u << i);
        fprintf(out, "%s\n  {\"name\": \"%s\", \"kind\": \"%s\", \"stage\": %d, ", i ? "," : "", unit->name,
                asdm_unit_kind_name(unit->kind), unit->stage);
        if (t)
            fprintf(out, "\"parameters\": %lld, \"gmac\": %.17g, \"saved_ms\": %.17g, \"damage\": %.17g}",
                    (long long)(a->full.parameters - t->size.parameters), a->full.gmac - t->size.gmac,
                    t->full_ms - t->ms, t->damage.mean);
        else
            fputs("\"parameters\": null, \"gmac\": null, \"saved_ms\": null, \"damage\": null}", out);
    }
    fputs("]", out);
}

static void write_trial(FILE *out, const struct asdm_analysis *a, const struct asdm_trial *t) {
    fputs("{\"removed\": ", out);
    write_set(out, a, t->removed);
    fprintf(out,
            ", \"parameters\": %lld, \"gmac\": %.17g, \"bytes\": %lld, \"full_ms\": %.17g, \"ms\": %.17g,\n   "
            "\"damage\": ",
            (long long)t->size.parameters, t->size.gmac, (long long)t->size.bytes, t->full_ms, t->ms);
    write_spread(out, &t->damage);
    fputs(t->block_count ? ",\n   \"blocks\": [" : "", out);
    for (int b = 0; b < t->block_count; b++) {
        fprintf(out, "%s\n    {\"name\": \"%s\", \"damage\": ", b ? "," : "", t->blocks[b].name);
        write_spread(out, &t->blocks[b].damage);
        fputs("}", out);
    }
    fputs(t->block_count ? "]}" : "}", out);
}

static void write_search(FILE *out, const struct asdm_analysis *a) {
    fputs(",\n\"order\": [", out);
    for (int i = 0; i < a->path_count; i++) {
        const struct asdm_trial *t = asdm_analysis_trial(a, a->path[i]);
        char add[160];
        asdm_analysis_names(a, a->path[i] & ~(i ? a->path[i - 1] : 0), add, sizeof add);
        fprintf(out, "%s\n  {\"add\": \"%s\", \"removed\": ", i ? "," : "", add);
        write_set(out, a, a->path[i]);
        fprintf(out, ", \"saved_ms\": %.17g, \"speedup\": %.17g, \"damage\": %.17g}", t->full_ms - t->ms,
                t->full_ms / t->ms, t->damage.mean);
    }
    fputs("]", out);
    if (a->chosen) {
        fputs(",\n\"chosen\": ", out);
        write_set(out, a, a->chosen);
    }
}

enum asdm_status asdm_analysis_write(const struct asdm_analysis *a, const char *path, bool complete,
                                     struct asdm_error *err) {
    struct asdm_file_writer writer = {0};
    ASDM_TRY(asdm_file_writer_open(&writer, path, err));
    FILE *out = writer.stream;
    write_head(out, a, complete);
    write_units(out, a);
    fputs(",\n\"trials\": [", out);
    for (int i = 0; i < a->trial_count; i++) {
        fputs(i ? ",\n  " : "\n  ", out);
        write_trial(out, a, &a->trials[i]);
    }
    fputs("]", out);
    write_search(out, a);
    fputs("\n}\n", out);
    return asdm_file_writer_commit(&writer, err);
}

/* ---- reading */

struct reader {
    const char *path;
    struct asdm_analysis *a;
    struct asdm_error *err;
};

static enum asdm_status bad(const struct reader *r, const char *what) {
    return asdm_fail(r->err, ASDM_ERR_FORMAT, "%s: %s is missing or no such thing", r->path, what);
}

static bool has_type(const struct asdm_json *node, enum asdm_json_type type) {
    return node && asdm_json_type(node) == type;
}

static enum asdm_status get_number(const struct reader *r, const struct asdm_json *object, const char *key,
                                   double *ret) {
    const struct asdm_json *node = asdm_json_get(object, key);
    if (!has_type(node, ASDM_JSON_NUMBER) || !isfinite(asdm_json_number(node)))
        return bad(r, key);
    *ret = asdm_json_number(node);
    return ASDM_OK;
}

static enum asdm_status get_int(const struct reader *r, const struct asdm_json *object, const char *key, double max,
                                int64_t *ret) {
    double number = 0;
    ASDM_TRY(get_number(r, object, key, &number));
    if (number < 0 || number > max || number != floor(number))
        return bad(r, key);
    *ret = (int64_t)number;
    return ASDM_OK;
}

static enum asdm_status get_spread(const struct reader *r, const struct asdm_json *object, struct asdm_spread *ret) {
    const struct asdm_json *node = asdm_json_get(object, "damage");
    const struct asdm_json *quartiles = has_type(node, ASDM_JSON_OBJECT) ? asdm_json_get(node, "quartiles") : NULL;
    if (!has_type(quartiles, ASDM_JSON_ARRAY))
        return bad(r, "damage");
    ASDM_TRY(get_number(r, node, "mean", &ret->mean));
    ASDM_TRY(get_number(r, node, "deviation", &ret->deviation));
    ASDM_TRY(get_number(r, node, "min", &ret->min));
    ASDM_TRY(get_number(r, node, "max", &ret->max));
    int count = 0;
    for (const struct asdm_json *q = asdm_json_first(quartiles); q && count < 3; q = asdm_json_next(q), count++) {
        if (!has_type(q, ASDM_JSON_NUMBER))
            return bad(r, "quartiles");
        ret->quartiles[count] = asdm_json_number(q);
    }
    return count == 3 ? ASDM_OK : bad(r, "quartiles");
}

static enum asdm_status get_set(const struct reader *r, const struct asdm_json *node, unsigned *ret) {
    *ret = 0;
    if (!has_type(node, ASDM_JSON_ARRAY))
        return bad(r, "removed");
    for (const struct asdm_json *name = asdm_json_first(node); name; name = asdm_json_next(name)) {
        unsigned bit = 0;
        for (int i = 0; has_type(name, ASDM_JSON_STRING) && i < r->a->unit_count; i++)
            if (strcmp(asdm_json_string(name), r->a->units[i].name) == 0)
                bit = 1u << i;
        if (!bit || *ret & bit)
            return bad(r, "removed");
        *ret |= bit;
    }
    return *ret ? ASDM_OK : bad(r, "removed");
}

static enum asdm_status read_blocks(const struct reader *r, const struct asdm_json *node, struct asdm_trial *trial) {
    const struct asdm_json *blocks = asdm_json_get(node, "blocks");
    if (!blocks)
        return ASDM_OK;
    if (!has_type(blocks, ASDM_JSON_ARRAY))
        return bad(r, "blocks");
    for (const struct asdm_json *b = asdm_json_first(blocks); b; b = asdm_json_next(b)) {
        const struct asdm_json *name = has_type(b, ASDM_JSON_OBJECT) ? asdm_json_get(b, "name") : NULL;
        if (!has_type(name, ASDM_JSON_STRING) || trial->block_count == ASDM_ANALYSIS_BLOCKS_MAX)
            return bad(r, "blocks");
        struct asdm_block_damage *block = &trial->blocks[trial->block_count++];
        snprintf(block->name, sizeof block->name, "%.19s", asdm_json_string(name));
        ASDM_TRY(get_spread(r, b, &block->damage));
    }
    return ASDM_OK;
}

static enum asdm_status get_size(const struct reader *r, const struct asdm_json *node, struct asdm_unet_size *ret) {
    ASDM_TRY(get_int(r, node, "parameters", 1e15, &ret->parameters));
    ASDM_TRY(get_int(r, node, "bytes", 1e15, &ret->bytes));
    return get_number(r, node, "gmac", &ret->gmac);
}

static enum asdm_status read_trial(const struct reader *r, const struct asdm_json *node) {
    struct asdm_trial trial = {0};
    if (!has_type(node, ASDM_JSON_OBJECT))
        return bad(r, "trials");
    ASDM_TRY(get_set(r, asdm_json_get(node, "removed"), &trial.removed));
    ASDM_TRY(get_size(r, node, &trial.size));
    ASDM_TRY(get_number(r, node, "full_ms", &trial.full_ms));
    ASDM_TRY(get_number(r, node, "ms", &trial.ms));
    if (trial.full_ms <= 0 || trial.ms <= 0 || asdm_analysis_trial(r->a, trial.removed))
        return bad(r, "trials");
    ASDM_TRY(get_spread(r, node, &trial.damage));
    ASDM_TRY(read_blocks(r, node, &trial));
    return asdm_analysis_add(r->a, &trial, r->err);
}

static enum asdm_status read_unit(const struct reader *r, const struct asdm_json *node) {
    struct asdm_analysis *a = r->a;
    int64_t stage = 0;
    const struct asdm_json *name = has_type(node, ASDM_JSON_OBJECT) ? asdm_json_get(node, "name") : NULL;
    const struct asdm_json *kind = name ? asdm_json_get(node, "kind") : NULL;
    if (!has_type(name, ASDM_JSON_STRING) || !has_type(kind, ASDM_JSON_STRING) || a->unit_count == ASDM_UNITS_MAX)
        return bad(r, "units");
    ASDM_TRY(get_int(r, node, "stage", ASDM_STAGES_MAX - 1, &stage));
    struct asdm_unit *unit = &a->units[a->unit_count++];
    unit->stage = (int)stage;
    snprintf(unit->name, sizeof unit->name, "%.15s", asdm_json_string(name));
    for (int k = ASDM_UNIT_PAIR; k <= ASDM_UNIT_GRI; k++)
        if (strcmp(asdm_json_string(kind), asdm_unit_kind_name((enum asdm_unit_kind)k)) == 0) {
            unit->kind = (enum asdm_unit_kind)k;
            return ASDM_OK;
        }
    return bad(r, "kind");
}

typedef enum asdm_status read_item(const struct reader *r, const struct asdm_json *node);

static enum asdm_status read_items(const struct reader *r, const struct asdm_json *root, const char *key,
                                   read_item *item) {
    const struct asdm_json *list = asdm_json_get(root, key);
    if (!has_type(list, ASDM_JSON_ARRAY))
        return bad(r, key);
    for (const struct asdm_json *node = asdm_json_first(list); node; node = asdm_json_next(node))
        ASDM_TRY(item(r, node));
    return ASDM_OK;
}

static enum asdm_status read_prompt(const struct reader *r, const struct asdm_json *node) {
    struct asdm_analysis *a = r->a;
    if (!has_type(node, ASDM_JSON_STRING) || a->prompt_count == ASDM_ANALYSIS_PROMPTS_MAX)
        return bad(r, "prompts");
    a->prompts[a->prompt_count] = strdup(asdm_json_string(node));
    return a->prompts[a->prompt_count++] ? ASDM_OK : no_memory(r->err);
}

static enum asdm_status read_step(const struct reader *r, const struct asdm_json *node) {
    struct asdm_analysis *a = r->a;
    if (!has_type(node, ASDM_JSON_OBJECT) || a->path_count == ASDM_UNITS_MAX)
        return bad(r, "order");
    ASDM_TRY(get_set(r, asdm_json_get(node, "removed"), &a->path[a->path_count]));
    return asdm_analysis_trial(a, a->path[a->path_count++]) ? ASDM_OK : bad(r, "order");
}

static enum asdm_status read_numbers(const struct reader *r, const struct asdm_json *root) {
    struct asdm_analysis *a = r->a;
    const struct {
        const char *key;
        int *place;
    } numbers[] = {{"threads", &a->threads},
                   {"rows", &a->rows},
                   {"runs", &a->runs},
                   {"width", &a->width},
                   {"height", &a->height},
                   {"steps", &a->steps},
                   {"evaluations", &a->evaluations},
                   {"calibration_rows", &a->row_count}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        int64_t value = 0;
        ASDM_TRY(get_int(r, root, numbers[i].key, 1 << 30, &value));
        *numbers[i].place = (int)value;
    }
    return get_number(r, root, "guidance_scale", &a->guidance_scale);
}

static enum asdm_status read_texts(const struct reader *r, const struct asdm_json *root) {
    static const char *const keys[] = {"model", "device", "dtype", "sampler", "fingerprint", "seed"};
    const char *texts[6];
    for (int i = 0; i < 6; i++) {
        const struct asdm_json *node = asdm_json_get(root, keys[i]);
        if (!has_type(node, ASDM_JSON_STRING))
            return bad(r, keys[i]);
        texts[i] = asdm_json_string(node);
    }
    r->a->fingerprint = strtoull(texts[4], NULL, 16);
    r->a->seed = strtoull(texts[5], NULL, 10);
    return set_texts(r->a, texts[0], texts[1], texts[2], texts[3]) ? ASDM_OK : no_memory(r->err);
}

static enum asdm_status read_all(const struct reader *r, const struct asdm_json *root) {
    struct asdm_analysis *a = r->a;
    int64_t version = 0;
    if (!has_type(root, ASDM_JSON_OBJECT) || !asdm_json_get(root, "asdm_analysis"))
        return asdm_fail(r->err, ASDM_ERR_FORMAT, "%s: is no analysis", r->path);
    ASDM_TRY(get_int(r, root, "asdm_analysis", 1e9, &version));
    if (version != ASDM_ANALYSIS_VERSION)
        return asdm_fail(r->err, ASDM_ERR_FORMAT, "%s: is an analysis of version %d, this program reads %d", r->path,
                         (int)version, ASDM_ANALYSIS_VERSION);
    a->prompts = calloc(ASDM_ANALYSIS_PROMPTS_MAX, sizeof *a->prompts);
    if (!a->prompts)
        return no_memory(r->err);
    ASDM_TRY(read_texts(r, root));
    ASDM_TRY(read_numbers(r, root));
    ASDM_TRY(asdm_json_get_bool(root, r->path, "random_weights", &a->random_weights, r->err));
    if (!has_type(asdm_json_get(root, "unet"), ASDM_JSON_OBJECT))
        return bad(r, "unet");
    ASDM_TRY(get_size(r, asdm_json_get(root, "unet"), &a->full));
    ASDM_TRY(read_items(r, root, "prompts", read_prompt));
    ASDM_TRY(read_items(r, root, "units", read_unit));
    ASDM_TRY(read_items(r, root, "trials", read_trial));
    ASDM_TRY(read_items(r, root, "order", read_step));
    return asdm_json_get(root, "chosen") ? get_set(r, asdm_json_get(root, "chosen"), &a->chosen) : ASDM_OK;
}

enum asdm_status asdm_analysis_read(const char *path, struct asdm_analysis **ret, struct asdm_error *err) {
    struct asdm_json *root = NULL;
    ASDM_TRY(asdm_json_read(path, ASDM_ANALYSIS_BYTES_MAX, &root, err));
    struct reader reader = {path, calloc(1, sizeof *reader.a), err};
    enum asdm_status status = reader.a ? read_all(&reader, root) : no_memory(err);
    asdm_json_destroy(&root);
    if (status != ASDM_OK)
        asdm_analysis_destroy(&reader.a);
    else
        *ret = reader.a;
    return status;
}
