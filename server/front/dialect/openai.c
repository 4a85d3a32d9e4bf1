#include "front/dialect/openai.h"

#include "front/dialect/fields.h"
#include "front/dialect/form.h"

enum { MODELS_BYTES_MAX = 64 << 10 };

/* The rest of a request, whichever way its fields came. */
static void start(const struct dialect *dialect, struct http_exchange *exchange, struct job_request *request,
                  const struct fields_wish *wish, bool edit) {
    struct problem problem;
    struct job *job;
    bool again, keyed;
    keyed = request->idempotency_key || http_header(exchange, "Idempotency-Key");
    request->transient = !keyed && !wish->url;
    if (!waiter_submit(dialect, exchange, request, &job, &again, &problem)) {
        openai_answer_problem(exchange, &problem);
        return;
    }
    if (wish->stream)
        http_stream_begin(exchange);
    int form = (wish->url ? OPENAI_URL : 0) | (wish->stream ? OPENAI_STREAM : 0) | (edit ? OPENAI_EDIT : 0);
    /* With an idempotency key the client means to come back for the job. */
    waiter_start(dialect, exchange, job, !keyed, form, openai_on_event);
}

static void on_generations(void *user, struct http_exchange *exchange) {
    const struct dialect *dialect = user;
    struct asdm_json *object = NULL;
    struct job_request request;
    struct fields_wish wish;
    struct problem problem;
    bool good = fields_parse_body(exchange, &object, &problem);
    if (good) {
        struct fields_source source = {.object = object};
        good = fields_read_openai(dialect, false, &source, &request, &wish, &problem);
        asdm_json_destroy(&object);
    }
    if (good)
        start(dialect, exchange, &request, &wish, false);
    else
        openai_answer_problem(exchange, &problem);
}

static void on_edits(void *user, struct http_exchange *exchange) {
    const struct dialect *dialect = user;
    struct form form;
    struct job_request request;
    struct fields_wish wish;
    struct problem problem;
    size_t size;
    const unsigned char *body = http_body(exchange, &size);
    bool good = form_parse(http_header(exchange, "Content-Type"), body, size, &form, &problem);
    if (good) {
        struct fields_source source = {.parts = form.parts, .part_count = form.count};
        good = fields_read_openai(dialect, true, &source, &request, &wish, &problem);
        form_done(&form);
    }
    if (good)
        start(dialect, exchange, &request, &wish, true);
    else
        openai_answer_problem(exchange, &problem);
}

/* ---- models */

static void write_model(const struct dialect *dialect, int model, struct buffer *to) {
    struct model_view view;
    jobs_model(dialect->jobs, model, &view);
    buffer_text(to, "{\"id\":");
    buffer_json(to, view.name);
    /* When the checkpoint was made is not known; the field must be there. */
    buffer_text(to, ",\"object\":\"model\",\"created\":0,\"owned_by\":\"asdm\"}");
}

static void on_models(void *user, struct http_exchange *exchange) {
    const struct dialect *dialect = user;
    struct buffer body;
    buffer_init(&body, MODELS_BYTES_MAX);
    buffer_text(&body, "{\"object\":\"list\",\"data\":[");
    for (int i = 0; i < dialect->config->model_count; i++) {
        if (i)
            buffer_text(&body, ",");
        write_model(dialect, i, &body);
    }
    buffer_text(&body, "]}");
    http_answer(exchange, 200, "application/json", &body);
}

static void on_model(void *user, struct http_exchange *exchange) {
    const struct dialect *dialect = user;
    const char *name = http_param(exchange, "id");
    int model = jobs_model_find(dialect->jobs, name);
    if (model < 0) {
        struct problem problem;
        problem_set(&problem, 404, "unknown_model", "model", "model: \"%.100s\" is not known; see /v1/models", name);
        http_answer_problem(exchange, &problem);
        return;
    }
    struct buffer body;
    buffer_init(&body, MODELS_BYTES_MAX);
    write_model(dialect, model, &body);
    http_answer(exchange, 200, "application/json", &body);
}

size_t openai_routes(struct dialect *dialect, struct http_route *ret, size_t room) {
    size_t body = (size_t)dialect->config->body_bytes_max;
    const struct http_route routes[] = {
        {.method = "POST",
         .path = "/v1/images/generations",
         .handler = on_generations,
         .streams = true,
         .body_bytes_max = body},
        {.method = "POST", .path = "/v1/images/edits", .handler = on_edits, .streams = true, .body_bytes_max = body},
        {.method = "GET", .path = "/v1/models", .handler = on_models},
        {.method = "GET", .path = "/v1/models/{id}", .handler = on_model},
    };
    size_t count = sizeof routes / sizeof *routes;
    for (size_t i = 0; i < count && i < room; i++) {
        ret[i] = routes[i];
        ret[i].name = ret[i].path;
        ret[i].user = dialect;
        ret[i].problem = openai_write_problem;
    }
    return count;
}
