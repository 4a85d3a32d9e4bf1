#include <string.h>

#include "front/dialect/a1111.h"
#include "front/dialect/fields.h"

enum { OPTIONS_BYTES = 16 << 10, HASH_DIGITS = 10 };

static void on_get(void *user, struct http_exchange *exchange) {
    const struct dialect *dialect = user;
    struct model_view model;
    struct buffer body;
    char title[A1111_TITLE_BYTES];
    jobs_model(dialect->jobs, a1111_chosen_model(http_caller(exchange)), &model);
    a1111_model_title(&model, title);
    buffer_init(&body, OPTIONS_BYTES);
    buffer_text(&body, "{\"sd_model_checkpoint\":");
    buffer_json(&body, title);
    buffer_text(&body, ",\"sd_checkpoint_hash\":");
    buffer_json(&body, model.sha256);
    buffer_text(&body, ",\"samples_format\":\"png\",\"enable_pnginfo\":true,\"randn_source\":\"GPU\","
                       "\"sd_vae\":\"Automatic\",\"CLIP_stop_at_last_layers\":1,\"eta_noise_seed_delta\":0}");
    http_answer(exchange, 200, "application/json", &body);
}

/* By title, name, or hash; -1: none. */
static int find_model(const struct dialect *dialect, const char *wanted) {
    for (int i = 0; i < dialect->config->model_count; i++) {
        struct model_view model;
        char title[A1111_TITLE_BYTES];
        jobs_model(dialect->jobs, i, &model);
        a1111_model_title(&model, title);
        if (strcmp(wanted, model.name) == 0 || strcmp(wanted, title) == 0)
            return i;
        if (strlen(wanted) >= HASH_DIGITS && strncmp(wanted, model.sha256, strlen(wanted)) == 0)
            return i;
        /* A title from before the hash was known or after the weights changed. */
        size_t length = strlen(model.name);
        if (strncmp(wanted, model.name, length) == 0 && strncmp(wanted + length, " [", 2) == 0)
            return i;
    }
    return -1;
}

static bool choose(const struct dialect *dialect, const struct http_exchange *exchange, struct problem *problem) {
    static const char name[] = "sd_model_checkpoint";
    struct asdm_json *object = NULL;
    if (!fields_parse_body(exchange, &object, problem))
        return false;
    const struct asdm_json *wanted = asdm_json_get(object, name);
    bool good = true;
    if (wanted && asdm_json_type(wanted) == ASDM_JSON_STRING && *asdm_json_string(wanted)) {
        int model = find_model(dialect, asdm_json_string(wanted));
        if (model < 0) {
            good = problem_set(problem, 404, "unknown_model", name, "%s: \"%.100s\" is not known; see sd-models", name,
                               asdm_json_string(wanted));
        } else if (!a1111_choose_model(http_caller(exchange), model)) {
            good = problem_set(problem, 503, "out_of_memory", "", "the server is short of memory");
            problem->retry_after_ms = 1000;
        }
    } else if (wanted && asdm_json_type(wanted) != ASDM_JSON_NULL && asdm_json_type(wanted) != ASDM_JSON_STRING) {
        good = problem_set(problem, 422, "invalid_value", name, "%s: must be the title of a model", name);
    }
    asdm_json_destroy(&object);
    return good;
}

/* All but the model is taken and has no effect, as clients send back what they got whole. */
static void on_post(void *user, struct http_exchange *exchange) {
    struct problem problem;
    if (choose(user, exchange, &problem))
        a1111_answer_text(exchange, "null");
    else
        http_answer_problem(exchange, &problem);
}

/* Models are loaded as long as the daemon runs. */
static void on_nothing(void *user, struct http_exchange *exchange) {
    (void)user;
    a1111_answer_text(exchange, strstr(http_path(exchange), "refresh") ? "null" : "{}");
}

size_t a1111_option_routes(struct http_route *ret, size_t room) {
    static const struct http_route routes[] = {
        {.method = "GET", .path = "/sdapi/v1/options", .handler = on_get},
        {.method = "POST", .path = "/sdapi/v1/options", .handler = on_post},
        {.method = "POST", .path = "/sdapi/v1/refresh-checkpoints", .handler = on_nothing},
        {.method = "POST", .path = "/sdapi/v1/refresh-vae", .handler = on_nothing},
        {.method = "POST", .path = "/sdapi/v1/refresh-loras", .handler = on_nothing},
        {.method = "POST", .path = "/sdapi/v1/unload-checkpoint", .handler = on_nothing},
        {.method = "POST", .path = "/sdapi/v1/reload-checkpoint", .handler = on_nothing},
    };
    size_t count = sizeof routes / sizeof *routes;
    for (size_t i = 0; i < count && i < room; i++) {
        ret[i] = routes[i];
        ret[i].body_bytes_max = strcmp(routes[i].method, "POST") == 0 ? A1111_SMALL_BODY_BYTES : 0;
    }
    return count;
}
