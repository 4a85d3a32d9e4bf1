/* The HTTP layer alone, for the tests that speak to it over raw sockets:
 *     http_echo KEYS-FILE|- THREADS HEADER-MS BODY-MS IDLE-MS CONNECTIONS [CERTIFICATE KEY]
 * prints its port, and ends in order when its input does. Addresses: those of the daemon that the hostile cases use
 * (/healthz, POST /v1/jobs, which answers with its body), and /slow, /events, /big, /gone. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <asdm/error.h>

#include "front/http/http.h"

enum { BODY_MAX = 1 << 20, BIG_MAX = 64 << 20 };

static atomic_int gone_count, done_count, started_count;

static void answer_text(struct http_exchange *exchange, const char *text) {
    struct buffer body;
    buffer_init(&body, 4096);
    buffer_text(&body, text);
    http_answer(exchange, 200, "text/plain", &body);
}

static void on_health(void *user, struct http_exchange *exchange) {
    (void)user;
    http_answer_static(exchange, 200, "application/json", "{}\n", 3);
}

static void on_echo(void *user, struct http_exchange *exchange) {
    (void)user;
    size_t size;
    const unsigned char *data = http_body(exchange, &size);
    struct buffer body;
    buffer_init(&body, BODY_MAX);
    buffer_put(&body, data, size);
    http_answer(exchange, 200, "application/octet-stream", &body);
}

static void on_tell(void *user, struct http_exchange *exchange) {
    (void)user;
    struct buffer body;
    buffer_init(&body, 65536);
    buffer_print(&body, "%s %s|%s|%s|%s|%s", http_method(exchange), http_path(exchange), http_param(exchange, "id"),
                 http_query(exchange, "q") ? http_query(exchange, "q") : "-", http_base_url(exchange),
                 http_caller(exchange)->name);
    http_answer(exchange, 200, "text/plain", &body);
}

/* ---- answers from other threads */

struct later {
    struct http_exchange *exchange;
    int ms, events, bytes;
    atomic_int users;
};

static void later_unref(struct later *later) {
    if (atomic_fetch_sub(&later->users, 1) > 1)
        return;
    http_unref(&later->exchange);
    free(later);
}

static void on_gone(void *user) {
    (void)user;
    atomic_fetch_add(&gone_count, 1);
}

static void on_done(void *user) {
    atomic_fetch_add(&done_count, 1);
    later_unref(user);
}

static void pause_ms(int ms) {
    const struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
    nanosleep(&pause, NULL);
}

static void *answer_later(void *user) {
    struct later *later = user;
    char *data = calloc(1, (size_t)later->bytes + 1);
    ASDM_ASSERT(data);
    memset(data, 'x', (size_t)later->bytes);
    if (later->events < 0) {
        pause_ms(later->ms);
        answer_text(later->exchange, "slow\n");
    }
    for (int i = 0; i < later->events; i++) {
        pause_ms(later->ms);
        http_stream_event(later->exchange, "tick", data, (size_t)later->bytes, i % 2);
    }
    if (later->events >= 0)
        http_stream_end(later->exchange);
    free(data);
    later_unref(later);
    return NULL;
}

static int number(struct http_exchange *exchange, const char *name, int fallback) {
    const char *text = http_query(exchange, name);
    return text ? atoi(text) : fallback;
}

static void start_later(struct http_exchange *exchange, int events) {
    struct later *later = calloc(1, sizeof *later);
    pthread_attr_t attributes;
    pthread_t thread;
    ASDM_ASSERT(later);
    later->exchange = http_ref(exchange);
    later->ms = number(exchange, "ms", 100);
    later->bytes = number(exchange, "bytes", 4);
    later->events = events;
    later->users = 2;
    atomic_fetch_add(&started_count, 1);
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, 256 << 10);
    if (events >= 0)
        http_stream_begin(exchange);
    http_on_gone(exchange, on_gone, later, on_done);
    ASDM_ASSERT(pthread_create(&thread, &attributes, answer_later, later) == 0);
    pthread_attr_destroy(&attributes);
}

static void on_slow(void *user, struct http_exchange *exchange) {
    (void)user;
    start_later(exchange, -1);
}

static void on_events(void *user, struct http_exchange *exchange) {
    (void)user;
    start_later(exchange, number(exchange, "count", 3));
}

static void on_big(void *user, struct http_exchange *exchange) {
    (void)user;
    static char block[1 << 16];
    struct buffer body;
    buffer_init(&body, BIG_MAX);
    for (int left = number(exchange, "bytes", 1 << 20); left > 0; left -= (int)sizeof block)
        buffer_put(&body, block, left < (int)sizeof block ? (size_t)left : sizeof block);
    http_answer(exchange, 200, "application/octet-stream", &body);
}

static void on_counts(void *user, struct http_exchange *exchange) {
    (void)user;
    char text[64];
    snprintf(text, sizeof text, "%d %d %d", started_count, gone_count, done_count);
    answer_text(exchange, text);
}

static const struct http_route routes[] = {
    {.method = "GET", .path = "/healthz", .handler = on_health, .open = true},
    {.method = "POST", .path = "/v1/jobs", .handler = on_echo, .body_bytes_max = BODY_MAX},
    {.method = "GET", .path = "/v1/jobs", .handler = on_tell},
    {.method = "GET", .path = "/v1/jobs/{id}", .handler = on_tell},
    {.method = "GET", .path = "/slow", .handler = on_slow},
    {.method = "GET", .path = "/events", .handler = on_events, .streams = true},
    {.method = "GET", .path = "/big", .handler = on_big},
    {.method = "GET", .path = "/gone", .handler = on_counts},
};

int main(int argc, char **argv) {
    if (argc != 7 && argc != 9) {
        fprintf(stderr, "http_echo KEYS-FILE|- THREADS HEADER-MS BODY-MS IDLE-MS CONNECTIONS [CERTIFICATE KEY]\n");
        return 2;
    }
    struct config config = {.listen_host = (char[]){"127.0.0.1"},
                            .api_keys = strcmp(argv[1], "-") ? argv[1] : NULL,
                            .http_threads = atoi(argv[2]),
                            .header_timeout_ms = atoi(argv[3]),
                            .body_timeout_ms = atoi(argv[4]),
                            .idle_timeout_ms = atoi(argv[5]),
                            .connections_max = atoi(argv[6]),
                            .tls_certificate = argc == 9 ? argv[7] : NULL,
                            .tls_key = argc == 9 ? argv[8] : NULL,
                            .body_bytes_max = BODY_MAX,
                            .access_log = true};
    struct asdm_error err;
    struct keys *keys = NULL;
    struct http *http = NULL;
    struct metrics *metrics = metrics_create();
    if (!metrics || keys_open(config.api_keys, &keys, &err) != ASDM_OK ||
        http_create(&config, keys, metrics, routes, sizeof routes / sizeof *routes, &http, &err) != ASDM_OK ||
        http_start(http, -1, &err) != ASDM_OK) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    printf("%d\n", http_port(http));
    fflush(stdout);
    char byte;
    while (read(STDIN_FILENO, &byte, 1) > 0)
        ;
    http_destroy(&http);
    /* Threads that answer late still hold exchanges; they answer nobody. */
    for (int i = 0; i < 300 && done_count < started_count; i++)
        pause_ms(10);
    metrics_destroy(&metrics);
    keys_close(&keys);
    return 0;
}
