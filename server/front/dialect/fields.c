#include "front/dialect/fields.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

#include "front/dialect/fields_table.h"

enum { LOADING_RETRY_MS = 1000 };

enum { JSON_DEPTH_MAX = 16, JSON_NODES_MAX = 10000, SIDE_MULTIPLE = 8 };

/* One request on its way from fields to struct job_request. */
struct reader {
    const struct dialect *dialect;
    enum dialect_kind kind;
    bool i2i;
    struct field_value values[FIELDS];
    struct model_view model;
    struct job_request *out;
    struct problem *problem;
};

static bool invalid(struct reader *reader, const char *code, const char *name, const char *what) {
    return problem_set(reader->problem, 422, code, name, "%s: %s", name, what);
}

static bool no_memory(struct reader *reader) {
    problem_set(reader->problem, 503, "out_of_memory", "", "the server is short of memory");
    reader->problem->retry_after_ms = 1000;
    return false;
}

static const struct field_value *value_of(const struct reader *reader, enum field_id id) {
    return &reader->values[id];
}

static double number_of(const struct reader *reader, enum field_id id) {
    const struct field_value *value = &reader->values[id];
    return value->given ? value->number : fields_table[id].defaults[reader->kind];
}

/* A1111's clients send "" where they mean nothing. */
static const char *text_of(const struct reader *reader, enum field_id id) {
    const struct field_value *value = &reader->values[id];
    if (!value->given || (reader->kind == DIALECT_A1111 && !*value->text))
        return NULL;
    return value->text;
}

/* ---- fields out of JSON or a form */

static bool read_value(struct reader *reader, const char *name, const struct asdm_json *node,
                       const struct form_part *part) {
    int rank, id = fields_find(reader->kind, name, &rank);
    if (id < 0 && reader->kind == DIALECT_NATIVE)
        return problem_set(reader->problem, 422, "unknown_field", name, "%.64s: there is no such field", name);
    if (id < 0 || (node && asdm_json_type(node) == ASDM_JSON_NULL))
        return true;
    const struct field *field = &fields_table[id];
    struct field_value value = {.name = field->names[reader->kind][rank], .rank = rank};
    bool useless = field->i2i_only && !reader->i2i;
    if (useless && reader->kind != DIALECT_NATIVE)
        return true;
    if (useless)
        return invalid(reader, "invalid_value", value.name, "is for requests of kind \"i2i\" only");
    if (part && reader->values[id].given && field->type == FIELD_PNG)
        return invalid(reader, "invalid_value", value.name, "must be one picture, is there more than once");
    if (part && reader->values[id].given && reader->values[id].rank == rank)
        return invalid(reader, "invalid_value", value.name, "is there more than once");
    if (!field_value_read(field, reader->kind, reader->dialect->config, node, part, &value, reader->problem)) {
        field_value_done(&value);
        return false;
    }
    /* An empty sampler_name must not hide sampler_index. */
    bool empty = reader->kind == DIALECT_A1111 && value.text && !*value.text;
    if (!value.given || (reader->values[id].given && (empty || reader->values[id].rank < rank))) {
        field_value_done(&value);
        return true;
    }
    value.rank = empty ? 2 : rank;
    field_value_done(&reader->values[id]);
    reader->values[id] = value;
    return true;
}

/* A1111 has the model in an object of its own. */
static bool read_override(struct reader *reader, const struct asdm_json *object) {
    const struct asdm_json *settings = asdm_json_get(object, "override_settings");
    if (!settings || asdm_json_type(settings) == ASDM_JSON_NULL)
        return true;
    if (asdm_json_type(settings) != ASDM_JSON_OBJECT)
        return invalid(reader, "invalid_value", "override_settings", "must be an object");
    const struct asdm_json *model = asdm_json_get(settings, "sd_model_checkpoint");
    return !model || read_value(reader, "sd_model_checkpoint", model, NULL);
}

static bool read_source(struct reader *reader, const struct fields_source *source) {
    if (!source->object) {
        for (size_t i = 0; i < source->part_count; i++)
            if (!read_value(reader, source->parts[i].name, NULL, &source->parts[i]))
                return false;
        return true;
    }
    const struct asdm_json *member = asdm_json_first(source->object);
    for (; member; member = asdm_json_next(member)) {
        const char *key = asdm_json_key(member);
        if (reader->kind == DIALECT_A1111 && strcmp(key, "sd_model_checkpoint") == 0)
            continue; /* counts inside override_settings only */
        if (!read_value(reader, key, member, NULL))
            return false;
    }
    return reader->kind != DIALECT_A1111 || read_override(reader, source->object);
}

/* "kind", or what the presence of an init image says. Known before the fields are read, as some depend on it. */
static bool find_kind(struct reader *reader, const struct fields_source *source) {
    if (reader->kind != DIALECT_NATIVE)
        return true;
    const struct asdm_json *node = asdm_json_get(source->object, "kind");
    const struct asdm_json *init = asdm_json_get(source->object, "init_image");
    if (!node || asdm_json_type(node) == ASDM_JSON_NULL) {
        reader->i2i = init && asdm_json_type(init) != ASDM_JSON_NULL;
        return true;
    }
    struct field_value value = {.name = "kind"};
    if (!field_value_read(&fields_table[FIELD_KIND], reader->kind, reader->dialect->config, node, NULL, &value,
                          reader->problem))
        return false;
    reader->i2i = value.number == 1;
    return true;
}

/* ---- struct job_request out of fields */

static bool fill_model(struct reader *reader) {
    const struct config *config = reader->dialect->config;
    const char *wanted = text_of(reader, FIELD_MODEL);
    char name[160] = "";
    if (wanted)
        snprintf(name, sizeof name, "%s", wanted);
    char *hash = strstr(name, " [");
    if (reader->kind == DIALECT_A1111 && hash)
        *hash = '\0'; /* "name [hash]" is how A1111 lists models */
    int model = jobs_model_find(reader->dialect->jobs, wanted ? name : NULL);
    if (model < 0) {
        char known[256] = "";
        for (int i = 0; i < config->model_count; i++) {
            size_t used = strlen(known);
            snprintf(known + used, sizeof known - used, "%s%s", used ? ", " : "", config->models[i].name);
        }
        const char *field = value_of(reader, FIELD_MODEL)->name;
        return problem_set(reader->problem, 422, "unknown_model", field, "%s: \"%.100s\" is not known; known: %s",
                           field, name, known);
    }
    reader->out->model = model;
    jobs_model(reader->dialect->jobs, model, &reader->model);
    if (reader->model.default_width)
        return true;
    problem_set(reader->problem, 503, "loading", "", "the model is being loaded");
    reader->problem->retry_after_ms = LOADING_RETRY_MS;
    return false;
}

static bool copy_text(struct reader *reader, enum field_id id, char **ret) {
    const struct field_value *value = value_of(reader, id);
    *ret = strdup(value->given ? value->text : "");
    return *ret || no_memory(reader);
}

static bool fill_prompt(struct reader *reader) {
    const char *name = value_of(reader, FIELD_PROMPT)->name;
    if (!value_of(reader, FIELD_PROMPT)->given && reader->kind != DIALECT_A1111)
        return invalid(reader, "missing_field", name, "is missing");
    reader->out->syntax = (enum asdm_prompt_syntax)number_of(reader, FIELD_SYNTAX);
    return copy_text(reader, FIELD_PROMPT, &reader->out->prompt) &&
           copy_text(reader, FIELD_NEGATIVE, &reader->out->negative_prompt);
}

/* OpenAI's "WxH" or "auto". */
static bool parse_size(struct reader *reader, int *ret_width, int *ret_height) {
    const struct field_value *size = value_of(reader, FIELD_SIZE);
    if (!size->given || strcmp(size->text, "auto") == 0)
        return true;
    int width = 0, height = 0, used = 0;
    bool digits = strspn(size->text, "0123456789x") == strlen(size->text) && strlen(size->text) < 16;
    if (!digits || sscanf(size->text, "%6dx%6d%n", &width, &height, &used) != 2 || size->text[used] || width == 0 ||
        height == 0)
        return problem_set(reader->problem, 422, "invalid_value", "size",
                           "size: must be \"auto\" or WIDTHxHEIGHT in pixels, such as \"%dx%d\", is \"%.40s\"",
                           reader->model.default_width, reader->model.default_height, size->text);
    *ret_width = width;
    *ret_height = height;
    return true;
}

static bool fill_size(struct reader *reader) {
    struct job_request *out = reader->out;
    bool one = reader->kind == DIALECT_OPENAI;
    const char *names[2] = {one ? "size" : "width", one ? "size" : "height"};
    int sides[2] = {reader->model.default_width, reader->model.default_height};
    if (value_of(reader, FIELD_WIDTH)->given)
        sides[0] = (int)number_of(reader, FIELD_WIDTH);
    if (value_of(reader, FIELD_HEIGHT)->given)
        sides[1] = (int)number_of(reader, FIELD_HEIGHT);
    if (!parse_size(reader, &sides[0], &sides[1]))
        return false;
    for (int i = 0; i < 2; i++)
        if (sides[i] % SIDE_MULTIPLE != 0)
            return problem_set(reader->problem, 422, "invalid_value", names[i], "%s: must be %s of %d pixels, is %d",
                               names[i], one ? "of sides that are multiples" : "a multiple", SIDE_MULTIPLE, sides[i]);
    uint64_t pixels = (uint64_t)sides[0] * (uint64_t)sides[1], most = (uint64_t)reader->dialect->config->pixels_max;
    /* The model's limit is for two rows of the batch; a picture without guidance takes one. */
    uint64_t fits = reader->model.pixels_max * (out->guidance_scale > 1 ? 1 : 2);
    if (fits && fits < most)
        most = fits;
    if (pixels > most)
        return problem_set(reader->problem, 422, "invalid_value", names[0],
                           "%s: %d x %d is %llu pixels, at most %llu are allowed", names[0], sides[0], sides[1],
                           (unsigned long long)pixels, (unsigned long long)most);
    out->width = sides[0];
    out->height = sides[1];
    return true;
}

static bool fill_count(struct reader *reader) {
    int size = (int)number_of(reader, FIELD_COUNT_OF), iterations = (int)number_of(reader, FIELD_ITERATIONS);
    if (reader->kind != DIALECT_A1111)
        iterations = 1;
    if (size * iterations > reader->dialect->config->count_max)
        return problem_set(reader->problem, 422, "invalid_value", "n_iter",
                           "n_iter: batch_size * n_iter is %d, at most %d are allowed", size * iterations,
                           reader->dialect->config->count_max);
    reader->out->count = size * iterations;
    return true;
}

static bool fill_numbers(struct reader *reader) {
    struct job_request *out = reader->out;
    double steps_min, steps_max;
    fields_range(&fields_table[FIELD_STEPS], reader->kind, reader->dialect->config, &steps_min, &steps_max);
    out->steps = (int)number_of(reader, FIELD_STEPS);
    if (out->steps > (int)steps_max) /* the default alone can be */
        out->steps = (int)steps_max;
    out->guidance_scale = number_of(reader, FIELD_GUIDANCE);
    out->strength = number_of(reader, FIELD_STRENGTH);
    out->rng = (enum asdm_request_rng)number_of(reader, FIELD_RNG);
    out->previews = (int)number_of(reader, FIELD_PREVIEWS);
    out->priority = (int)number_of(reader, FIELD_PRIORITY);
    out->deadline_ms = value_of(reader, FIELD_DEADLINE)->given ? (int)number_of(reader, FIELD_DEADLINE)
                                                               : reader->dialect->config->default_deadline_ms;
    if (number_of(reader, FIELD_SEED) >= 0) {
        out->seed = (uint64_t)number_of(reader, FIELD_SEED);
    } else {
        uint32_t random;
        if (getrandom(&random, sizeof random, 0) != sizeof random)
            return problem_set(reader->problem, 500, "internal", "", "no random numbers from the system");
        out->seed = random;
        out->seed_drawn = true;
    }
    if (value_of(reader, FIELD_IDEMPOTENCY)->given) {
        if (!*value_of(reader, FIELD_IDEMPOTENCY)->text)
            return invalid(reader, "invalid_value", "idempotency_key", "must not be empty");
        return copy_text(reader, FIELD_IDEMPOTENCY, &out->idempotency_key);
    }
    return true;
}

/* asdm_sampling_resolve's field, in the client's words. */
static const char *client_name(const struct reader *reader, const char *field, size_t length) {
    static const struct {
        const char *name;
        enum field_id id;
    } known[] = {
        {"sampler", FIELD_SAMPLER}, {"schedule", FIELD_SCHEDULE}, {"steps", FIELD_STEPS}, {"strength", FIELD_STRENGTH}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strlen(known[i].name) == length && memcmp(field, known[i].name, length) == 0)
            return value_of(reader, known[i].id)->name;
    return "";
}

static bool fill_sampling(struct reader *reader) {
    struct job_request *out = reader->out;
    struct asdm_sampling_choice choice;
    struct asdm_error err;
    const char *schedule = text_of(reader, FIELD_SCHEDULE);
    /* As in A1111: "Automatic" leaves a schedule that the sampler's name carries ("DPM++ 2M Karras") in force. */
    if (schedule && reader->kind == DIALECT_A1111 && strcasecmp(schedule, "automatic") == 0)
        schedule = NULL;
    enum asdm_status status = asdm_sampling_resolve(reader->model.sampling, text_of(reader, FIELD_SAMPLER), schedule,
                                                    out->steps, reader->i2i ? out->strength : -1, &choice, &err);
    if (status == ASDM_OK) {
        out->sampler = choice.sampler;
        out->schedule = choice.schedule;
        out->evaluations = choice.evaluations;
        return true;
    }
    if (status == ASDM_ERR_MEMORY)
        return no_memory(reader);
    size_t length = strspn(err.message, "abcdefghijklmnopqrstuvwxyz");
    const char *name = client_name(reader, err.message, length);
    if (!*name)
        return problem_set(reader->problem, 422, "invalid_value", "", "%.300s", err.message);
    const char *rest = err.message + length + strspn(err.message + length, ": ");
    bool unknown = strncmp(err.message, "sampler", length) == 0 && strstr(rest, "is not known");
    const char *code = unknown ? "unknown_sampler" : "invalid_value";
    return problem_set(reader->problem, 422, code, name, "%s: %.300s", name, rest);
}

/* ---- pictures */

static bool fail_png(struct reader *reader, const struct field_value *value, enum asdm_status status,
                     const struct asdm_error *err) {
    if (status == ASDM_ERR_MEMORY)
        return no_memory(reader);
    return problem_set(reader->problem, 422, "invalid_value", value->name, "%.390s", err->message);
}

/* How much each pixel is to be redrawn: 255 fully, 0 not at all. OpenAI: where the PNG is transparent; native: where it
 * is white; A1111: where it is white, or opaque when it has transparency, one or the other with nothing between. */
static void convert_mask(const struct reader *reader, const uint8_t *rgba, size_t pixels, uint8_t *mask) {
    bool transparent = false;
    for (size_t i = 0; i < pixels; i++)
        transparent = transparent || rgba[4 * i + 3] != 255;
    for (size_t i = 0; i < pixels; i++) {
        const uint8_t *pixel = rgba + 4 * i;
        int luma = (299 * pixel[0] + 587 * pixel[1] + 114 * pixel[2] + 500) / 1000; /* ITU-R BT.601 */
        if (reader->kind == DIALECT_OPENAI)
            mask[i] = (uint8_t)(255 - pixel[3]);
        else if (reader->kind == DIALECT_NATIVE)
            mask[i] = (uint8_t)luma;
        else
            mask[i] = (transparent ? pixel[3] : luma) > 128 ? 255 : 0;
        if (number_of(reader, FIELD_MASK_INVERT) == 1)
            mask[i] = (uint8_t)(255 - mask[i]);
    }
}

static bool fill_mask(struct reader *reader) {
    const struct field_value *value = value_of(reader, FIELD_MASK);
    struct job_request *out = reader->out;
    if (!value->given)
        return true;
    uint8_t *rgba;
    uint32_t width, height;
    struct asdm_error err;
    enum asdm_status status =
        asdm_png_decode_rgba(value->data, value->size, value->name, (size_t)reader->dialect->config->pixels_max, &rgba,
                             &width, &height, &err);
    if (status != ASDM_OK)
        return fail_png(reader, value, status, &err);
    bool done = false;
    if (width != out->init.width || height != out->init.height) {
        problem_set(reader->problem, 422, "invalid_value", value->name,
                    "%s: must be as large as %s, which is %u x %u pixels, is %u x %u", value->name,
                    value_of(reader, FIELD_INIT)->name, out->init.width, out->init.height, width, height);
    } else if (!(out->mask = malloc((size_t)width * height))) {
        no_memory(reader);
    } else {
        convert_mask(reader, rgba, (size_t)width * height, out->mask);
        done = true;
    }
    free(rgba);
    return done;
}

static bool fill_pictures(struct reader *reader) {
    const struct field_value *value = value_of(reader, FIELD_INIT);
    struct asdm_error err;
    reader->out->i2i = reader->i2i;
    if (!reader->i2i)
        return true;
    if (!value->given)
        return invalid(reader, "missing_image", value->name, "is missing; it must be a PNG");
    enum asdm_status status = asdm_png_decode(value->data, value->size, value->name,
                                              (size_t)reader->dialect->config->pixels_max, &reader->out->init, &err);
    if (status != ASDM_OK)
        return fail_png(reader, value, status, &err);
    return fill_mask(reader);
}

/* ---- whole requests */

/* Cheap checks first: pictures are unpacked for requests that are good otherwise. */
static bool fill(struct reader *reader, const struct fields_source *source) {
    if (!find_kind(reader, source))
        return false;
    for (int i = 0; i < FIELDS; i++)
        reader->values[i].name = fields_table[i].names[reader->kind][0] ? fields_table[i].names[reader->kind][0] : "";
    return read_source(reader, source) && fill_model(reader) && fill_prompt(reader) && fill_numbers(reader) &&
           fill_size(reader) && fill_count(reader) && fill_sampling(reader) && fill_pictures(reader);
}

static bool check_wish(struct reader *reader, struct fields_wish *wish) {
    wish->stream = number_of(reader, FIELD_STREAM) == 1;
    wish->url = number_of(reader, FIELD_RESPONSE) == 1;
    if (!wish->stream)
        reader->out->previews = 0;
    if (wish->stream && reader->out->count > 1)
        return invalid(reader, "invalid_value", "stream", "works with n = 1 only");
    return true;
}

static bool read_request(const struct dialect *dialect, enum dialect_kind kind, bool i2i,
                         const struct fields_source *source, struct job_request *ret, struct fields_wish *ret_wish,
                         struct problem *ret_problem) {
    struct job_request request = {0};
    struct fields_wish wish = {0};
    struct reader reader = {.dialect = dialect, .kind = kind, .i2i = i2i, .out = &request, .problem = ret_problem};
    bool good = fill(&reader, source) && (!ret_wish || check_wish(&reader, &wish));
    for (int i = 0; i < FIELDS; i++)
        field_value_done(&reader.values[i]);
    if (!good) {
        job_request_done(&request);
        fields_adapt(kind, ret_problem);
        return false;
    }
    *ret = request;
    if (ret_wish)
        *ret_wish = wish;
    return true;
}

bool fields_read(const struct dialect *dialect, enum dialect_kind kind, bool i2i, const struct asdm_json *object,
                 struct job_request *ret, struct problem *ret_problem) {
    struct fields_source source = {.object = object};
    return read_request(dialect, kind, i2i, &source, ret, NULL, ret_problem);
}

bool fields_read_openai(const struct dialect *dialect, bool i2i, const struct fields_source *source,
                        struct job_request *ret, struct fields_wish *ret_wish, struct problem *ret_problem) {
    return read_request(dialect, DIALECT_OPENAI, i2i, source, ret, ret_wish, ret_problem);
}

void fields_adapt(enum dialect_kind kind, struct problem *problem) {
    if (problem->status != 422)
        return;
    bool model = strcmp(problem->code, "unknown_model") == 0;
    if (kind == DIALECT_OPENAI)
        problem->status = model ? 404 : 400;
    else if (kind == DIALECT_A1111 &&
             (model || strcmp(problem->code, "unknown_sampler") == 0 || strcmp(problem->code, "missing_image") == 0))
        problem->status = 404;
}

/* "application/json", "application/problem+json; charset=utf-8", "text/json". A browser's form cannot say so, which
 * keeps other sites' pages out. */
static bool is_json(const char *type) {
    size_t length = strcspn(type, "; \t");
    const char *subtype = memchr(type, '/', length);
    if (!subtype)
        return false;
    size_t rest = length - (size_t)(subtype + 1 - type);
    return (rest == 4 || (rest > 5 && type[length - 5] == '+')) && strncasecmp(type + length - 4, "json", 4) == 0;
}

bool fields_parse_body(const struct http_exchange *exchange, struct asdm_json **ret, struct problem *ret_problem) {
    static const struct asdm_json_limits limits = {JSON_DEPTH_MAX, JSON_NODES_MAX};
    const char *type = http_header(exchange, "Content-Type");
    size_t size;
    const unsigned char *body = http_body(exchange, &size);
    struct asdm_error err;
    if (!type || !is_json(type))
        return problem_set(ret_problem, 400, "malformed", "", "Content-Type: must be application/json, is %.100s",
                           type ? type : "missing");
    enum asdm_status status =
        asdm_json_parse_limited(body ? (const char *)body : "", size, "request body", &limits, ret, &err);
    if (status == ASDM_ERR_MEMORY) {
        problem_set(ret_problem, 503, "out_of_memory", "", "the server is short of memory");
        ret_problem->retry_after_ms = 1000;
        return false;
    }
    if (status != ASDM_OK)
        return problem_set(ret_problem, 400, "malformed", "", "%.390s", err.message);
    if (asdm_json_type(*ret) == ASDM_JSON_OBJECT)
        return true;
    problem_set(ret_problem, 400, "malformed", "", "request body: must be an object, is %s",
                asdm_json_type_name(asdm_json_type(*ret)));
    asdm_json_destroy(ret);
    return false;
}
