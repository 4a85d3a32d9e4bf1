#include <stdlib.h>
#include <string.h>

#include "front/dialect/a1111.h"
#include "front/dialect/fields.h"
#include "front/dialect/png_text.h"
#include "front/job/infotext.h"
#include "front/dialect/waiter.h"

enum { SLACK_BYTES = 64 << 10, ESCAPED_TWICE_MAX = 8 /* bytes of "\\u0001" in a text in a text */ };

static void answer_problem(struct http_exchange *exchange, struct problem *problem) {
    fields_adapt(DIALECT_A1111, problem);
    http_answer_problem(exchange, problem);
}

/* ---- answers */

static bool is_flag_off(const struct asdm_json *object, const char *name) {
    const struct asdm_json *node = asdm_json_get(object, name);
    return node && asdm_json_type(node) == ASDM_JSON_BOOL && !asdm_json_bool(node);
}

static size_t info_bytes(const struct job_view *view, const struct model_view *model) {
    const struct job_request *request = view->request;
    size_t texts = strlen(request->prompt) + strlen(request->negative_prompt) + strlen(model->name) + 1024;
    return SLACK_BYTES + ESCAPED_TWICE_MAX * texts * (size_t)(3 * request->count + 2);
}

static void write_images(const struct job_view *view, struct buffer *to) {
    bool first = true;
    for (int i = 0; i < view->request->count; i++) {
        if (!view->images[i].png)
            continue;
        buffer_text(to, first ? "\"" : ",\"");
        buffer_base64(to, view->images[i].png, view->images[i].png_size);
        buffer_text(to, "\"");
        first = false;
    }
}

static void answer_pictures(struct waiter *waiter, const struct job_view *view, const struct asdm_json *object) {
    struct model_view model;
    struct buffer body, info;
    size_t asked;
    http_body(waiter->exchange, &asked);
    jobs_model(waiter->dialect->jobs, view->request->model, &model);
    size_t cap = info_bytes(view, &model);
    buffer_init(&info, cap);
    a1111_write_info(object, view, &model, &info);
    for (int i = 0; i < view->request->count; i++)
        cap += view->images[i].png_size / 3 * 4 + 8;
    buffer_init(&body, 2 * cap + ESCAPED_TWICE_MAX * asked);
    buffer_text(&body, "{\"images\":[");
    if (!is_flag_off(object, "send_images"))
        write_images(view, &body);
    buffer_text(&body, "],\"parameters\":");
    a1111_write_parameters(object, view->request, &body);
    buffer_text(&body, ",\"info\":");
    buffer_json(&body, info.length > 0 ? info.data : "");
    buffer_text(&body, "}");
    body.failed = body.failed || info.failed;
    buffer_done(&info);
    waiter_set_headers(waiter->exchange, view);
    http_answer(waiter->exchange, 200, "application/json", &body);
}

/* An interrupted job has made what it has made; only a failed one is an error. */
static void on_event(struct waiter *waiter, const struct job_event *event) {
    struct asdm_json *object = NULL;
    struct problem problem = event->view->problem;
    if (event->type != JOB_EVENT_FINISHED)
        return;
    a1111_forget(waiter->job);
    bool made = event->view->state == JOB_SUCCEEDED || event->view->state == JOB_CANCELLED;
    if (!made && problem.status == 0)
        problem_set(&problem, 500, "internal", "", "the job %s ended without a picture", event->view->id);
    /* Read once more, as the answer repeats the request: cheaper than keeping it while it waits. */
    if (made && fields_parse_body(waiter->exchange, &object, &problem))
        answer_pictures(waiter, event->view, object);
    else
        answer_problem(waiter->exchange, &problem);
    asdm_json_destroy(&object);
}

/* ---- requests */

static bool names_model(const struct asdm_json *object) {
    const struct asdm_json *settings = asdm_json_get(object, "override_settings");
    if (!settings || asdm_json_type(settings) != ASDM_JSON_OBJECT)
        return settings && asdm_json_type(settings) != ASDM_JSON_NULL; /* which is an error, and not ours */
    const struct asdm_json *model = asdm_json_get(settings, "sd_model_checkpoint");
    return model && asdm_json_type(model) != ASDM_JSON_NULL &&
           (asdm_json_type(model) != ASDM_JSON_STRING || *asdm_json_string(model));
}

/* The request with the model that the caller chose by POST options. */
static bool add_model(const struct asdm_json *object, const char *model, size_t size, struct asdm_json **ret) {
    struct buffer text;
    buffer_init(&text, SLACK_BYTES + ESCAPED_TWICE_MAX * size);
    buffer_text(&text, "{\"override_settings\":{\"sd_model_checkpoint\":");
    buffer_json(&text, model);
    const struct asdm_json *settings = asdm_json_get(object, "override_settings");
    const struct asdm_json *member = settings ? asdm_json_first(settings) : NULL;
    for (int level = 0; level < 2; level++) {
        for (; member; member = asdm_json_next(member)) {
            if (strcmp(asdm_json_key(member), level ? "override_settings" : "sd_model_checkpoint") == 0)
                continue;
            buffer_text(&text, ",");
            buffer_json(&text, asdm_json_key(member));
            buffer_text(&text, ":");
            a1111_write_node(member, &text);
        }
        buffer_text(&text, "}");
        member = asdm_json_first(object);
    }
    bool good = !text.failed && asdm_json_parse(text.data, text.length, "request", ret, NULL) == ASDM_OK;
    buffer_done(&text);
    return good;
}

static bool read_request(const struct dialect *dialect, struct http_exchange *exchange, bool i2i,
                         struct job_request *ret, struct problem *problem) {
    struct asdm_json *object = NULL, *whole = NULL;
    int model = a1111_chosen_model(http_caller(exchange));
    size_t size;
    bool good = false;
    http_body(exchange, &size);
    if (!fields_parse_body(exchange, &object, problem))
        return false;
    if (model == 0 || names_model(object)) {
        good = fields_read(dialect, DIALECT_A1111, i2i, object, ret, problem);
    } else if (add_model(object, dialect->config->models[model].name, size, &whole)) {
        good = fields_read(dialect, DIALECT_A1111, i2i, whole, ret, problem);
    } else {
        problem_set(problem, 503, "out_of_memory", "", "the server is short of memory");
        problem->retry_after_ms = 1000;
    }
    asdm_json_destroy(&whole);
    asdm_json_destroy(&object);
    return good;
}

static void generate(const struct dialect *dialect, struct http_exchange *exchange, bool i2i) {
    struct job_request request;
    struct problem problem;
    struct job *job;
    bool again, good = read_request(dialect, exchange, i2i, &request, &problem);
    /* With an idempotency key the client means to come back for the job. */
    bool keyed = http_header(exchange, "Idempotency-Key");
    if (good)
        request.transient = !keyed;
    if (!good || !waiter_submit(dialect, exchange, &request, &job, &again, &problem)) {
        answer_problem(exchange, &problem);
        return;
    }
    if (!again)
        a1111_track(http_caller(exchange), job);
    waiter_start(dialect, exchange, job, !keyed, 0, on_event);
}

static void on_txt2img(void *user, struct http_exchange *exchange) {
    generate(user, exchange, false);
}

static void on_img2img(void *user, struct http_exchange *exchange) {
    generate(user, exchange, true);
}

/* ---- png-info */

static bool read_png(const struct http_exchange *exchange, struct png_texts *ret, struct problem *problem) {
    struct asdm_json *object = NULL;
    unsigned char *data = NULL;
    size_t size;
    if (!fields_parse_body(exchange, &object, problem))
        return false;
    const struct asdm_json *image = asdm_json_get(object, "image");
    const char *text = image && asdm_json_type(image) == ASDM_JSON_STRING ? asdm_json_string(image) : NULL;
    bool good = text && base64_decode(text, strlen(text), &data, &size);
    if (good)
        good = png_texts_read(data, size, "image", ret, problem);
    else
        problem_set(problem, 422, "invalid_value", "image", "image: must be a base64 PNG");
    free(data);
    asdm_json_destroy(&object);
    return good;
}

static void on_png_info(void *user, struct http_exchange *exchange) {
    struct png_texts texts;
    struct problem problem;
    struct buffer body;
    bool first = true;
    (void)user;
    if (!read_png(exchange, &texts, &problem)) {
        answer_problem(exchange, &problem);
        return;
    }
    const char *text = png_texts_find(&texts, "parameters");
    buffer_init(&body, SLACK_BYTES + 4 * ESCAPED_TWICE_MAX * (size_t)PNG_TEXT_BYTES_MAX);
    buffer_text(&body, "{\"info\":");
    buffer_json(&body, text ? text : "");
    buffer_text(&body, ",\"items\":{");
    for (int i = 0; i < texts.count; i++) {
        buffer_text(&body, first ? "" : ",");
        buffer_json(&body, texts.items[i].key);
        buffer_text(&body, ":");
        buffer_json(&body, texts.items[i].value);
        first = false;
    }
    buffer_text(&body, "},\"parameters\":");
    infotext_write_fields(text ? text : "", &body);
    buffer_text(&body, "}");
    png_texts_done(&texts);
    http_answer(exchange, 200, "application/json", &body);
}

size_t a1111_generate_routes(const struct config *config, struct http_route *ret, size_t room) {
    const struct http_route routes[] = {
        {.method = "POST", .path = "/sdapi/v1/txt2img", .handler = on_txt2img},
        {.method = "POST", .path = "/sdapi/v1/img2img", .handler = on_img2img},
        {.method = "POST", .path = "/sdapi/v1/png-info", .handler = on_png_info},
    };
    size_t count = sizeof routes / sizeof *routes;
    for (size_t i = 0; i < count && i < room; i++) {
        ret[i] = routes[i];
        ret[i].body_bytes_max = (size_t)config->body_bytes_max;
    }
    return count;
}
