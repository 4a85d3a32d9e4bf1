#include <stdio.h>
#include <string.h>
#include <sys/sysinfo.h>

#include "front/dialect/a1111.h"

enum { LIST_BYTES = 256 << 10 };

void a1111_model_title(const struct model_view *model, char ret[A1111_TITLE_BYTES]) {
    if (*model->sha256)
        snprintf(ret, A1111_TITLE_BYTES, "%.170s [%.10s]", model->name, model->sha256);
    else
        snprintf(ret, A1111_TITLE_BYTES, "%.170s", model->name);
}

static void on_samplers(void *user, struct http_exchange *exchange) {
    struct buffer body;
    (void)user;
    buffer_init(&body, LIST_BYTES);
    buffer_text(&body, "[");
    for (int i = 0; asdm_sampling_sampler_name(i); i++) {
        buffer_text(&body, i ? ",{\"name\":" : "{\"name\":");
        buffer_json(&body, asdm_sampling_sampler_label(i));
        buffer_text(&body, ",\"aliases\":[");
        buffer_json(&body, asdm_sampling_sampler_name(i));
        buffer_text(&body, "],\"options\":{}}");
    }
    buffer_text(&body, "]");
    http_answer(exchange, 200, "application/json", &body);
}

static void on_schedulers(void *user, struct http_exchange *exchange) {
    struct buffer body;
    (void)user;
    buffer_init(&body, LIST_BYTES);
    buffer_text(&body, "[");
    for (int i = 0; asdm_sampling_schedule_name(i); i++) {
        /* The first is the checkpoint's own, which A1111's clients know as "automatic". */
        buffer_text(&body, i ? ",{\"name\":" : "{\"name\":");
        buffer_json(&body, i ? asdm_sampling_schedule_name(i) : "automatic");
        buffer_text(&body, ",\"label\":");
        buffer_json(&body, asdm_sampling_schedule_label(i));
        buffer_text(&body, ",\"aliases\":[");
        buffer_json(&body, asdm_sampling_schedule_name(i));
        buffer_text(&body, "],\"default_rho\":-1,\"need_inner_model\":false}");
    }
    buffer_text(&body, "]");
    http_answer(exchange, 200, "application/json", &body);
}

static void on_models(void *user, struct http_exchange *exchange) {
    const struct dialect *dialect = user;
    struct buffer body;
    buffer_init(&body, LIST_BYTES);
    buffer_text(&body, "[");
    for (int i = 0; i < dialect->config->model_count; i++) {
        struct model_view model;
        char title[A1111_TITLE_BYTES], hash[11];
        jobs_model(dialect->jobs, i, &model);
        a1111_model_title(&model, title);
        snprintf(hash, sizeof hash, "%.10s", model.sha256);
        buffer_text(&body, i ? ",{\"title\":" : "{\"title\":");
        buffer_json(&body, title);
        buffer_text(&body, ",\"model_name\":");
        buffer_json(&body, model.name);
        buffer_text(&body, ",\"hash\":");
        buffer_json(&body, *hash ? hash : NULL);
        buffer_text(&body, ",\"sha256\":");
        buffer_json(&body, *model.sha256 ? model.sha256 : NULL);
        buffer_text(&body, ",\"filename\":"); /* where the file is, is nobody's business */
        buffer_json(&body, model.name);
        buffer_text(&body, ",\"config\":null}");
    }
    buffer_text(&body, "]");
    http_answer(exchange, 200, "application/json", &body);
}

/* The machine's memory: the front alone says little about it. */
static void on_memory(void *user, struct http_exchange *exchange) {
    struct sysinfo info;
    struct buffer body;
    unsigned long long total = 0, left = 0;
    (void)user;
    if (sysinfo(&info) == 0) {
        total = (unsigned long long)info.totalram * info.mem_unit;
        left = (unsigned long long)info.freeram * info.mem_unit;
    }
    buffer_init(&body, LIST_BYTES);
    buffer_print(&body, "{\"ram\":{\"free\":%llu,\"used\":%llu,\"total\":%llu},\"cuda\":{\"error\":\"unavailable\"}}",
                 left, total - left, total);
    http_answer(exchange, 200, "application/json", &body);
}

/* What this server has none of, in the form that clients take for an empty list. */
static const struct {
    const char *path, *answer;
} fixed[] = {
    {"/sdapi/v1/cmd-flags", "{\"api\":true,\"nowebui\":true}"},
    {"/sdapi/v1/sd-vae", "[]"},
    {"/sdapi/v1/sd-modules", "[]"},
    {"/sdapi/v1/upscalers",
     "[{\"name\":\"None\",\"model_name\":null,\"model_path\":null,\"model_url\":null,\"scale\":4}]"},
    {"/sdapi/v1/latent-upscale-modes", "[]"},
    {"/sdapi/v1/loras", "[]"},
    {"/sdapi/v1/embeddings", "{\"loaded\":{},\"skipped\":{}}"},
    {"/sdapi/v1/hypernetworks", "[]"},
    {"/sdapi/v1/face-restorers", "[]"},
    {"/sdapi/v1/realesrgan-models", "[]"},
    {"/sdapi/v1/prompt-styles", "[]"},
    {"/sdapi/v1/scripts", "{\"txt2img\":[],\"img2img\":[]}"},
    {"/sdapi/v1/script-info", "[]"},
    {"/sdapi/v1/extensions", "[]"},
    {"/sdapi/v1/artists", "[]"},
    {"/sdapi/v1/artist-categories", "[]"},
};

static void on_fixed(void *user, struct http_exchange *exchange) {
    (void)user;
    for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++)
        if (strcmp(fixed[i].path, http_path(exchange)) == 0) {
            a1111_answer_text(exchange, fixed[i].answer);
            return;
        }
    a1111_answer_text(exchange, "[]");
}

size_t a1111_list_routes(struct http_route *ret, size_t room) {
    static const struct http_route routes[] = {
        {.method = "GET", .path = "/sdapi/v1/samplers", .handler = on_samplers},
        {.method = "GET", .path = "/sdapi/v1/schedulers", .handler = on_schedulers},
        {.method = "GET", .path = "/sdapi/v1/sd-models", .handler = on_models},
        {.method = "GET", .path = "/sdapi/v1/memory", .handler = on_memory},
    };
    size_t own = sizeof routes / sizeof *routes, count = own + sizeof fixed / sizeof *fixed;
    for (size_t i = 0; i < count && i < room; i++)
        ret[i] = i < own ? routes[i]
                         : (struct http_route){.method = "GET", .path = fixed[i - own].path, .handler = on_fixed};
    return count;
}
