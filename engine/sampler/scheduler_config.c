#include "sampler/scheduler_config.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>
#include "base/file.h"

/* One document being read: the object, the name its messages start with, the result. */
struct reader {
    const struct asdm_json *object;
    const char *name;
    struct asdm_scheduler_config *config;
    struct asdm_error *err;
};

struct word {
    const char *text;
    int value;
};

static const struct word beta_schedules[] = {
    {"linear", ASDM_BETA_LINEAR},
    {"scaled_linear", ASDM_BETA_SCALED_LINEAR},
    {"squaredcos_cap_v2", ASDM_BETA_SQUAREDCOS_CAP_V2},
    {NULL, 0},
};
static const struct word predictions[] = {
    {"epsilon", ASDM_PREDICT_EPSILON},
    {"v_prediction", ASDM_PREDICT_V},
    {NULL, 0},
};
static const struct word spacings[] = {
    {"leading", ASDM_SPACING_LEADING},
    {"linspace", ASDM_SPACING_LINSPACE},
    {"trailing", ASDM_SPACING_TRAILING},
    {NULL, 0},
};
static const struct word final_sigmas[] = {
    {"zero", ASDM_FINAL_SIGMA_ZERO},
    {"sigma_min", ASDM_FINAL_SIGMA_MIN},
    {NULL, 0},
};
static const struct word interpolations[] = {{"linear", false}, {"log_linear", true}, {NULL, 0}};
static const struct word timestep_types[] = {{"discrete", false}, {"continuous", true}, {NULL, 0}};
static const struct word variances[] = {
    {"fixed_small", ASDM_VARIANCE_FIXED_SMALL},
    {"fixed_small_log", ASDM_VARIANCE_FIXED_SMALL_LOG},
    {"fixed_large", ASDM_VARIANCE_FIXED_LARGE},
    {NULL, 0},
};
static const struct word solver_types[] = {
    {"midpoint", ASDM_SOLVER_MIDPOINT}, {"heun", ASDM_SOLVER_HEUN},     {"bh1", ASDM_SOLVER_BH1},
    {"bh2", ASDM_SOLVER_BH2},           {"logrho", ASDM_SOLVER_LOGRHO}, {NULL, 0},
};
static const struct word algorithms[] = {
    {"dpmsolver++", ASDM_ALGORITHM_DPMSOLVERPP},
    {"sde-dpmsolver++", ASDM_ALGORITHM_SDE_DPMSOLVERPP},
    {"dpmsolver", ASDM_ALGORITHM_DPMSOLVER},
    {"sde-dpmsolver", ASDM_ALGORITHM_SDE_DPMSOLVER},
    {"deis", ASDM_ALGORITHM_DEIS},
    {NULL, 0},
};

/* Keys read below, by the name of what they are. */
static const char *const honoured_keys[] = {
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
    "prediction_type",
    "timestep_spacing",
    "steps_offset",
    "set_alpha_to_one",
    "clip_sample",
    "skip_prk_steps",
    "clip_sample_range",
    "thresholding",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_lu_lambdas",
    "use_beta_sigmas",
    "sigma_min",
    "sigma_max",
    "final_sigmas_type",
    "interpolation_type",
    "timestep_type",
    "algorithm_type",
    "solver_order",
    "solver_type",
    "lower_order_final",
    "euler_at_final",
    "lambda_min_clipped",
    "predict_x0",
    "disable_corrector",
    "variance_type",
    "original_inference_steps",
    "timestep_scaling",
    "use_flow_sigmas",
    "use_dynamic_shifting",
    "shift_terminal",
    "solver_p",
    "predict_epsilon",
};

/* Without effect by themselves: parameters of thresholding, of flow matching and of a noise source that is the
 * caller's here; what old versions of diffusers wrote about tensors. */
static const char *const ignored_keys[] = {
    "dynamic_thresholding_ratio", "sample_max_value", "flow_shift",      "time_shift_type",
    "noise_sampler_seed",         "tensor_format",    "timestep_values", "quantization_config",
};

static bool listed(const char *key, const char *const *list, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (strcmp(key, list[i]) == 0)
            return true;
    }
    return false;
}

static enum asdm_status check_keys(const struct reader *r) {
    if (asdm_json_type(r->object) != ASDM_JSON_OBJECT)
        return asdm_fail(r->err, ASDM_ERR_FORMAT, "%s: must be an object, is %s", r->name,
                         asdm_json_type_name(asdm_json_type(r->object)));
    for (const struct asdm_json *child = asdm_json_first(r->object); child; child = asdm_json_next(child)) {
        const char *key = asdm_json_key(child);
        if (key[0] == '_' || listed(key, honoured_keys, sizeof honoured_keys / sizeof *honoured_keys) ||
            listed(key, ignored_keys, sizeof ignored_keys / sizeof *ignored_keys))
            continue;
        return asdm_fail(r->err, ASDM_ERR_UNSUPPORTED, "%s: %s: is not a scheduler key that this program knows",
                         r->name, key);
    }
    return ASDM_OK;
}

/* *ret is untouched when the key is absent or null. */
static enum asdm_status get_word(const struct reader *r, const char *key, const struct word *words, int *ret) {
    const char *text = NULL;
    ASDM_TRY(asdm_json_get_string(r->object, r->name, key, &text, r->err));
    if (!text)
        return ASDM_OK;
    char known[256] = "";
    for (const struct word *word = words; word->text; word++) {
        if (strcmp(text, word->text) == 0) {
            *ret = word->value;
            return ASDM_OK;
        }
        size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", used ? ", " : "", word->text);
    }
    return asdm_fail(r->err, ASDM_ERR_UNSUPPORTED, "%s: %s: \"%s\" is not supported; supported: %s", r->name, key, text,
                     known);
}

static enum asdm_status get_int(const struct reader *r, const char *key, int min, int max, int *ret) {
    int64_t value = *ret;
    ASDM_TRY(asdm_json_get_int(r->object, r->name, key, min, max, &value, r->err));
    *ret = (int)value;
    return ASDM_OK;
}

static enum asdm_status get_double(const struct reader *r, const char *key, double min, double max, double *ret) {
    return asdm_json_get_double(r->object, r->name, key, min, max, ret, r->err);
}

static enum asdm_status get_bool(const struct reader *r, const char *key, bool *ret) {
    return asdm_json_get_bool(r->object, r->name, key, ret, r->err);
}

/* Null is "off", not "absent", as it is for Python. */
static enum asdm_status get_tristate(const struct reader *r, const char *key, int *ret) {
    bool value = false;
    ASDM_TRY(get_bool(r, key, &value));
    if (asdm_json_get(r->object, key))
        *ret = value;
    return ASDM_OK;
}

/* Keys whose one supported value is "off". */
static enum asdm_status refuse_set(const struct reader *r, const char *key, const char *why) {
    const struct asdm_json *node = asdm_json_get(r->object, key);
    if (!node || asdm_json_type(node) == ASDM_JSON_NULL ||
        (asdm_json_type(node) == ASDM_JSON_BOOL && !asdm_json_bool(node)))
        return ASDM_OK;
    return asdm_fail(r->err, ASDM_ERR_UNSUPPORTED, "%s: %s: is set, and %s is not supported", r->name, key, why);
}

static enum asdm_status read_trained_betas(const struct reader *r) {
    const struct asdm_json *array = asdm_json_get(r->object, "trained_betas");
    struct asdm_scheduler_config *config = r->config;
    if (!array || asdm_json_type(array) == ASDM_JSON_NULL)
        return ASDM_OK;
    if (asdm_json_type(array) != ASDM_JSON_ARRAY)
        return asdm_fail(r->err, ASDM_ERR_FORMAT, "%s: trained_betas: must be an array of numbers, is %s", r->name,
                         asdm_json_type_name(asdm_json_type(array)));
    size_t count = asdm_json_count(array);
    if (count != (size_t)config->train_steps)
        return asdm_fail(r->err, ASDM_ERR_FORMAT, "%s: trained_betas: has %zu numbers, num_train_timesteps is %d",
                         r->name, count, config->train_steps);
    config->trained_betas = malloc(count * sizeof *config->trained_betas);
    if (!config->trained_betas)
        return asdm_fail(r->err, ASDM_ERR_MEMORY, "%s: trained_betas: out of memory", r->name);
    size_t i = 0;
    for (const struct asdm_json *child = asdm_json_first(array); child; child = asdm_json_next(child), i++) {
        double beta = asdm_json_type(child) == ASDM_JSON_NUMBER ? asdm_json_number(child) : NAN;
        if (!(beta > 0.0 && beta <= 1.0))
            return asdm_fail(r->err, ASDM_ERR_FORMAT, "%s: trained_betas: number %zu must lie above 0 and not above 1",
                             r->name, i);
        config->trained_betas[i] = beta;
    }
    return ASDM_OK;
}

static enum asdm_status read_disable_corrector(const struct reader *r) {
    const struct asdm_json *array = asdm_json_get(r->object, "disable_corrector");
    struct asdm_scheduler_config *config = r->config;
    if (!array || asdm_json_type(array) == ASDM_JSON_NULL)
        return ASDM_OK;
    if (asdm_json_type(array) != ASDM_JSON_ARRAY)
        return asdm_fail(r->err, ASDM_ERR_FORMAT, "%s: disable_corrector: must be an array of step indices, is %s",
                         r->name, asdm_json_type_name(asdm_json_type(array)));
    for (const struct asdm_json *child = asdm_json_first(array); child; child = asdm_json_next(child)) {
        double step = asdm_json_type(child) == ASDM_JSON_NUMBER ? asdm_json_number(child) : NAN;
        if (!(step >= 0.0 && step <= ASDM_TRAIN_STEPS_MAX && step == floor(step)))
            return asdm_fail(r->err, ASDM_ERR_FORMAT, "%s: disable_corrector: must be an array of step indices",
                             r->name);
        if (config->corrector_off_count == ASDM_CORRECTOR_OFF_MAX)
            return asdm_fail(r->err, ASDM_ERR_UNSUPPORTED, "%s: disable_corrector: has more than %d entries", r->name,
                             ASDM_CORRECTOR_OFF_MAX);
        config->corrector_off[config->corrector_off_count++] = (int)step;
    }
    return ASDM_OK;
}

static enum asdm_status read_betas(const struct reader *r) {
    struct asdm_scheduler_config *config = r->config;
    int prediction = config->prediction;
    ASDM_TRY(get_int(r, "num_train_timesteps", 2, ASDM_TRAIN_STEPS_MAX, &config->train_steps));
    ASDM_TRY(get_double(r, "beta_start", 1e-12, 1.0, &config->beta_start));
    ASDM_TRY(get_double(r, "beta_end", 1e-12, 1.0, &config->beta_end));
    ASDM_TRY(get_word(r, "beta_schedule", beta_schedules, &config->beta_schedule));
    ASDM_TRY(read_trained_betas(r));
    ASDM_TRY(get_bool(r, "rescale_betas_zero_snr", &config->rescale_betas_zero_snr));
    ASDM_TRY(get_word(r, "prediction_type", predictions, &prediction));
    config->prediction = (enum asdm_prediction)prediction;
    /* Before prediction_type there was predict_epsilon; false meant predicting the sample. */
    bool predict_epsilon = true;
    ASDM_TRY(get_bool(r, "predict_epsilon", &predict_epsilon));
    if (!predict_epsilon)
        return asdm_fail(r->err, ASDM_ERR_UNSUPPORTED,
                         "%s: predict_epsilon: false is not supported (a model that predicts the sample)", r->name);
    return ASDM_OK;
}

static enum asdm_status read_steps(const struct reader *r) {
    struct asdm_scheduler_config *config = r->config;
    int variance = config->variance;
    ASDM_TRY(get_word(r, "timestep_spacing", spacings, &config->spacing));
    ASDM_TRY(get_int(r, "steps_offset", 0, ASDM_TRAIN_STEPS_MAX, &config->steps_offset));
    ASDM_TRY(get_tristate(r, "set_alpha_to_one", &config->set_alpha_to_one));
    ASDM_TRY(get_tristate(r, "clip_sample", &config->clip_sample));
    ASDM_TRY(get_tristate(r, "skip_prk_steps", &config->skip_prk_steps));
    ASDM_TRY(get_double(r, "clip_sample_range", 1e-6, 1e6, &config->clip_sample_range));
    ASDM_TRY(get_bool(r, "thresholding", &config->thresholding));
    ASDM_TRY(get_word(r, "variance_type", variances, &variance));
    config->variance = (enum asdm_variance)variance;
    ASDM_TRY(get_int(r, "original_inference_steps", 1, ASDM_TRAIN_STEPS_MAX, &config->original_inference_steps));
    return get_double(r, "timestep_scaling", 0.0, 1e6, &config->timestep_scaling);
}

static enum asdm_status read_sigmas(const struct reader *r) {
    struct asdm_scheduler_config *config = r->config;
    int final_sigma = config->final_sigma, interpolates_log = config->interpolates_log;
    int continuous_time = config->continuous_time;
    ASDM_TRY(get_bool(r, "use_karras_sigmas", &config->use_karras_sigmas));
    ASDM_TRY(get_bool(r, "use_exponential_sigmas", &config->use_exponential_sigmas));
    ASDM_TRY(get_bool(r, "use_lu_lambdas", &config->use_lu_lambdas));
    ASDM_TRY(get_bool(r, "use_beta_sigmas", &config->use_beta_sigmas));
    ASDM_TRY(get_double(r, "sigma_min", 1e-9, 1e9, &config->sigma_min));
    ASDM_TRY(get_double(r, "sigma_max", 1e-9, 1e9, &config->sigma_max));
    ASDM_TRY(get_word(r, "final_sigmas_type", final_sigmas, &final_sigma));
    ASDM_TRY(get_word(r, "interpolation_type", interpolations, &interpolates_log));
    ASDM_TRY(get_word(r, "timestep_type", timestep_types, &continuous_time));
    config->final_sigma = (enum asdm_final_sigma)final_sigma;
    config->interpolates_log = interpolates_log;
    config->continuous_time = continuous_time;
    if (config->use_karras_sigmas + config->use_exponential_sigmas + config->use_beta_sigmas > 1)
        return asdm_fail(r->err, ASDM_ERR_FORMAT,
                         "%s: at most one of use_karras_sigmas, use_exponential_sigmas and use_beta_sigmas can be true",
                         r->name);
    return ASDM_OK;
}

static enum asdm_status read_solver(const struct reader *r) {
    struct asdm_scheduler_config *config = r->config;
    int algorithm = config->algorithm;
    ASDM_TRY(get_word(r, "algorithm_type", algorithms, &algorithm));
    config->algorithm = (enum asdm_algorithm)algorithm;
    ASDM_TRY(get_int(r, "solver_order", 1, ASDM_SOLVER_ORDER_MAX, &config->solver_order));
    ASDM_TRY(get_word(r, "solver_type", solver_types, &config->solver_type));
    ASDM_TRY(get_bool(r, "lower_order_final", &config->lower_order_final));
    ASDM_TRY(get_bool(r, "euler_at_final", &config->euler_at_final));
    ASDM_TRY(get_double(r, "lambda_min_clipped", -1e9, 1e9, &config->lambda_min_clipped));
    ASDM_TRY(get_bool(r, "predict_x0", &config->predict_x0));
    ASDM_TRY(read_disable_corrector(r));
    ASDM_TRY(refuse_set(r, "use_flow_sigmas", "flow matching"));
    ASDM_TRY(refuse_set(r, "use_dynamic_shifting", "a shifted schedule"));
    ASDM_TRY(refuse_set(r, "shift_terminal", "a shifted schedule"));
    return refuse_set(r, "solver_p", "a predictor of another class");
}

static void set_defaults(struct asdm_scheduler_config *config) {
    *config = (struct asdm_scheduler_config){
        .train_steps = 1000,
        .beta_start = NAN,
        .beta_end = NAN,
        .beta_schedule = -1,
        .prediction = ASDM_PREDICT_EPSILON,
        .spacing = -1,
        .steps_offset = -1,
        .set_alpha_to_one = -1,
        .clip_sample = -1,
        .skip_prk_steps = -1,
        .clip_sample_range = 1.0,
        .sigma_min = NAN,
        .sigma_max = NAN,
        .final_sigma = ASDM_FINAL_SIGMA_ZERO,
        .algorithm = ASDM_ALGORITHM_DPMSOLVERPP,
        .solver_order = 2,
        .solver_type = -1,
        .lower_order_final = true,
        .lambda_min_clipped = -INFINITY,
        .predict_x0 = true,
        .variance = ASDM_VARIANCE_FIXED_SMALL,
        .original_inference_steps = 50,
        .timestep_scaling = 10.0,
    };
}

void asdm_scheduler_config_init(struct asdm_scheduler_config *ret) {
    set_defaults(ret);
    ret->beta_start = 0.00085;
    ret->beta_end = 0.012;
    ret->beta_schedule = ASDM_BETA_SCALED_LINEAR;
    ret->steps_offset = 1;
    ret->set_alpha_to_one = 0;
    ret->clip_sample = 0;
    ret->skip_prk_steps = 1;
}

void asdm_scheduler_config_follow_pipeline(struct asdm_scheduler_config *config, bool from_image) {
    if (config->steps_offset >= 0 || from_image)
        config->steps_offset = 1;
    if (config->clip_sample == 1 || from_image)
        config->clip_sample = 0;
}

void asdm_scheduler_config_done(struct asdm_scheduler_config *config) {
    free(config->trained_betas);
    config->trained_betas = NULL;
}

static enum asdm_status read_class_name(const struct reader *r) {
    const char *class_name = "";
    ASDM_TRY(asdm_json_get_string(r->object, r->name, "_class_name", &class_name, r->err));
    snprintf(r->config->class_name, sizeof r->config->class_name, "%s", class_name);
    return ASDM_OK;
}

static enum asdm_status read_all(const struct reader *r) {
    ASDM_TRY(check_keys(r));
    ASDM_TRY(read_class_name(r));
    ASDM_TRY(read_betas(r));
    ASDM_TRY(read_steps(r));
    ASDM_TRY(read_sigmas(r));
    return read_solver(r);
}

enum asdm_status asdm_scheduler_config_parse(const struct asdm_json *json, const char *name,
                                             struct asdm_scheduler_config *ret, struct asdm_error *err) {
    struct asdm_scheduler_config config;
    struct reader reader = {.object = json, .name = name, .config = &config, .err = err};
    set_defaults(&config);
    enum asdm_status status = read_all(&reader);
    if (status == ASDM_OK)
        *ret = config;
    else
        asdm_scheduler_config_done(&config);
    return status;
}

/* Overwrites "-Infinity" after the key "lambda_min_clipped" with "null", padded so that places in messages stay. */
static void blank_infinity(char *text) {
    static const char key[] = "\"lambda_min_clipped\"", value[] = "-Infinity", instead[] = "null     ";
    for (char *at = strstr(text, key); at; at = strstr(at, key)) {
        at += sizeof key - 1;
        at += strspn(at, " \t\r\n");
        if (*at != ':')
            continue;
        at++;
        at += strspn(at, " \t\r\n");
        if (strncmp(at, value, sizeof value - 1) == 0)
            memcpy(at, instead, sizeof instead - 1);
    }
}

enum asdm_status asdm_scheduler_config_read(const char *path, struct asdm_scheduler_config *ret,
                                            struct asdm_error *err) {
    char *text = NULL;
    size_t length = 0;
    struct asdm_json *json = NULL;
    ASDM_TRY(asdm_file_read(path, ASDM_SCHEDULER_CONFIG_BYTES_MAX, &text, &length, err));
    blank_infinity(text);
    enum asdm_status status = asdm_json_parse(text, length, path, &json, err);
    if (status == ASDM_OK)
        status = asdm_scheduler_config_parse(json, path, ret, err);
    asdm_json_destroy(&json);
    free(text);
    return status;
}
