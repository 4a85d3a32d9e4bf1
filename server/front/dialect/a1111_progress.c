#include <stdlib.h>

#include "front/dialect/a1111.h"

enum { ACTIVE_MAX = 256, SLACK_BYTES = 16 << 10 };

/* The caller's jobs as one, as A1111 has one at a time. */
struct summary {
    int pictures, pictures_done;
    long long step, steps;
    bool interrupted, skipped;
    struct job_view shown; /* the oldest that runs, or else the oldest */
};

/* Returns the one that is shown; NULL: there is none. */
static struct job *summarize(const struct a1111_active *active, int count, struct summary *ret) {
    struct job *shown = NULL;
    *ret = (struct summary){.pictures = 0};
    for (int i = 0; i < count; i++) {
        struct job_view view;
        job_view(active[i].job, &view);
        ret->pictures += view.request->count;
        ret->pictures_done += view.pictures_done;
        ret->step += view.step;
        ret->steps += view.steps;
        ret->interrupted = ret->interrupted || active[i].interrupted;
        ret->skipped = ret->skipped || active[i].skipped;
        if (!shown || (ret->shown.state != JOB_RUNNING && view.state == JOB_RUNNING)) {
            shown = active[i].job;
            ret->shown = view;
        }
    }
    return shown;
}

static void write_state(const struct summary *summary, bool active, struct buffer *to) {
    const struct job_view *view = &summary->shown;
    char timestamp[16] = "0";
    int steps = active ? view->request->steps : 0, step = 0;
    if (active)
        a1111_timestamp(view->created_unix_ms, timestamp);
    if (active && view->steps > 0) /* of all its pictures together, told as if of one */
        step = (int)((long long)steps * view->step / view->steps);
    buffer_print(to,
                 "{\"skipped\":%s,\"interrupted\":%s,\"stopping_generation\":%s,\"job\":\"%s\",\"job_count\":%d,"
                 "\"job_timestamp\":\"%s\",\"job_no\":%d,\"sampling_step\":%d,\"sampling_steps\":%d}",
                 summary->skipped ? "true" : "false", summary->interrupted ? "true" : "false",
                 summary->interrupted ? "true" : "false", active ? view->id : "", summary->pictures, timestamp,
                 summary->pictures_done, step, steps);
}

/* The last preview of `job`, and asks for another, for the next time that the client comes. False: none is wanted, or
 * there is none. */
static bool take_preview(struct job *job, const struct http_exchange *exchange, unsigned char **ret_png,
                         size_t *ret_size) {
    const char *skip = http_query(exchange, "skip_current_image");
    if (!job || (skip && (*skip == 't' || *skip == 'T' || *skip == '1')))
        return false;
    job_preview(job);
    return job_last_preview(job, ret_png, ret_size);
}

static void on_progress(void *user, struct http_exchange *exchange) {
    struct a1111_active active[ACTIVE_MAX];
    struct summary summary;
    struct buffer body;
    int count = a1111_list_active(http_caller(exchange), active, ACTIVE_MAX);
    struct job *shown = summarize(active, count, &summary);
    double progress = summary.steps > 0 ? (double)summary.step / (double)summary.steps : 0;
    double eta = progress > 0 ? summary.shown.total_seconds * (1 / progress - 1) : 0;
    unsigned char *png = NULL;
    size_t png_size = 0;
    bool pictured = take_preview(shown, exchange, &png, &png_size);
    (void)user;
    buffer_init(&body, SLACK_BYTES + png_size / 3 * 4 + 4);
    buffer_text(&body, "{\"progress\":");
    buffer_json_number(&body, progress > 1 ? 1 : progress);
    buffer_text(&body, ",\"eta_relative\":");
    buffer_json_number(&body, eta > 0 ? eta : 0);
    buffer_text(&body, ",\"state\":");
    write_state(&summary, shown, &body);
    buffer_text(&body, ",\"current_image\":");
    buffer_text(&body, pictured ? "\"" : "null");
    buffer_base64(&body, png, png_size);
    buffer_text(&body, pictured ? "\"" : "");
    free(png);
    if (shown && summary.shown.queue_position > 0)
        buffer_print(&body, ",\"textinfo\":\"%d pictures before yours\"}", summary.shown.queue_position);
    else
        buffer_text(&body, ",\"textinfo\":null}");
    for (int i = 0; i < count; i++)
        job_unref(&active[i].job);
    http_answer(exchange, 200, "application/json", &body);
}

static void on_interrupt(void *user, struct http_exchange *exchange) {
    (void)user;
    a1111_interrupt(http_caller(exchange), false);
    a1111_answer_text(exchange, "{}");
}

/* A job's pictures run side by side, so that the one at hand is all of them. */
static void on_skip(void *user, struct http_exchange *exchange) {
    (void)user;
    a1111_interrupt(http_caller(exchange), true);
    a1111_answer_text(exchange, "null");
}

size_t a1111_progress_routes(struct http_route *ret, size_t room) {
    const struct http_route routes[] = {
        {.method = "GET", .path = "/sdapi/v1/progress", .handler = on_progress},
        {.method = "POST",
         .path = "/sdapi/v1/interrupt",
         .handler = on_interrupt,
         .body_bytes_max = A1111_SMALL_BODY_BYTES},
        {.method = "POST", .path = "/sdapi/v1/skip", .handler = on_skip, .body_bytes_max = A1111_SMALL_BODY_BYTES},
    };
    size_t count = sizeof routes / sizeof *routes;
    for (size_t i = 0; i < count && i < room; i++)
        ret[i] = routes[i];
    return count;
}
