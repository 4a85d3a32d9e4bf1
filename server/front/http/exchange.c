/* One request and its answer: read by the handler, answered from any thread, sent by the connection's thread. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

#include <asdm/error.h>

#include "front/http/internal.h"

/* ---- life */

static void make_request_id(char to[HTTP_REQUEST_ID_BYTES]) {
    unsigned char bytes[12] = {0};
    size_t length = 4;
    /* So few bytes come whole or not at all; an id need not be secret. */
    if (getrandom(bytes, sizeof bytes, 0) < 0)
        memcpy(bytes, &(int64_t){clock_ns()}, sizeof(int64_t));
    memcpy(to, "req_", length);
    for (size_t i = 0; i < sizeof bytes; i++, length += 2)
        snprintf(to + length, 3, "%02x", bytes[i]);
}

struct http_exchange *exchange_create(struct http *http, struct MHD_Connection *mhd, const char *uri) {
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct http_exchange *exchange = info && info->socket_context ? calloc(1, sizeof *exchange) : NULL;
    if (!exchange)
        return NULL;
    exchange->target_text = strdup(uri);
    if (!exchange->target_text) {
        free(exchange);
        return NULL;
    }
    atomic_fetch_add(&http->refs, 1);
    exchange->http = http;
    exchange->mhd = mhd;
    exchange->connection = info->socket_context;
    exchange->version_at = request_version_at(http, uri);
    exchange->start_ns = clock_ns();
    exchange->caller.index = -1;
    atomic_init(&exchange->refs, 1);
    pthread_mutex_init(&exchange->lock, NULL);
    make_request_id(exchange->request_id);
    return exchange;
}

struct http_exchange *http_ref(struct http_exchange *exchange) {
    atomic_fetch_add(&exchange->refs, 1);
    return exchange;
}

void http_unref(struct http_exchange **reference) {
    struct http_exchange *exchange = *reference;
    *reference = NULL;
    if (!exchange || atomic_fetch_sub(&exchange->refs, 1) > 1)
        return;
    if (exchange->response)
        MHD_destroy_response(exchange->response);
    for (size_t i = 0; i < exchange->answer_header_count; i++) {
        free(exchange->answer_headers[i].name);
        free(exchange->answer_headers[i].value);
    }
    for (size_t i = 0; i < exchange->param_count; i++)
        free(exchange->params[i].value);
    atomic_fetch_sub(&exchange->http->body_bytes, exchange->body_room);
    buffer_done(&exchange->stream);
    free(exchange->body);
    free(exchange->header_storage);
    free(exchange->target_text);
    target_done(&exchange->target);
    pthread_mutex_destroy(&exchange->lock);
    http_release(exchange->http);
    free(exchange);
}

void exchange_resume(struct http_exchange *exchange) {
    if (!exchange->suspended)
        return;
    exchange->suspended = false;
    MHD_resume_connection(exchange->mhd);
}

/* ---- the request */

const char *http_method(const struct http_exchange *exchange) {
    return exchange->method;
}

const char *http_path(const struct http_exchange *exchange) {
    return exchange->target.path;
}

const char *http_param(const struct http_exchange *exchange, const char *name) {
    for (size_t i = 0; i < exchange->param_count; i++)
        if (strcmp(exchange->params[i].name, name) == 0)
            return exchange->params[i].value;
    return NULL;
}

const char *http_query(const struct http_exchange *exchange, const char *name) {
    for (size_t i = 0; i < exchange->target.query_count; i++)
        if (strcmp(exchange->target.query[i].name, name) == 0)
            return exchange->target.query[i].value;
    return NULL;
}

const char *http_header(const struct http_exchange *exchange, const char *name) {
    for (size_t i = 0; i < exchange->header_count; i++)
        if (strcasecmp(exchange->headers[i].name, name) == 0)
            return exchange->headers[i].value;
    return NULL;
}

const unsigned char *http_body(const struct http_exchange *exchange, size_t *ret_size) {
    *ret_size = exchange->body_size;
    return exchange->body ? exchange->body : (const unsigned char *)"";
}

const struct key *http_caller(const struct http_exchange *exchange) {
    return &exchange->caller;
}

const char *http_request_id(const struct http_exchange *exchange) {
    return exchange->request_id;
}

const char *http_base_url(const struct http_exchange *exchange) {
    return exchange->base_url;
}

bool http_is_tls(const struct http_exchange *exchange) {
    return exchange->http->tls_certificate != NULL;
}

/* ---- the answer */

void http_set_header(struct http_exchange *exchange, const char *name, const char *value) {
    pthread_mutex_lock(&exchange->lock);
    size_t i = 0;
    while (i < exchange->answer_header_count && strcasecmp(exchange->answer_headers[i].name, name) != 0)
        i++;
    ASDM_ASSERT(i < HTTP_ANSWER_HEADERS_MAX);
    char *copied_name = strdup(name), *copied_value = strdup(value);
    if (copied_name && copied_value) {
        if (i < exchange->answer_header_count) {
            free(exchange->answer_headers[i].name);
            free(exchange->answer_headers[i].value);
        } else {
            exchange->answer_header_count++;
        }
        exchange->answer_headers[i].name = copied_name;
        exchange->answer_headers[i].value = copied_value;
    } else {
        free(copied_name);
        free(copied_value);
    }
    pthread_mutex_unlock(&exchange->lock);
}

void exchange_put_headers(struct http_exchange *exchange, struct MHD_Response *response) {
    bool cached = false;
    for (size_t i = 0; i < exchange->answer_header_count; i++) {
        cached |= strcasecmp(exchange->answer_headers[i].name, "Cache-Control") == 0;
        MHD_add_response_header(response, exchange->answer_headers[i].name, exchange->answer_headers[i].value);
    }
    if (!cached)
        MHD_add_response_header(response, "Cache-Control", "no-store");
    MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    MHD_add_response_header(response, "x-request-id", exchange->request_id);
    if (exchange->status == 401) {
        MHD_add_response_header(response, "WWW-Authenticate", "Bearer realm=\"asdm\"");
        MHD_add_response_header(response, "WWW-Authenticate", "Basic realm=\"asdm\", charset=\"UTF-8\"");
    }
    if (exchange->close_after || atomic_load(&exchange->http->quiesced))
        MHD_add_response_header(response, "Connection", "close");
}

/* Takes `response` (NULL: there was no memory for it). */
static void answer(struct http_exchange *exchange, int status, const char *content_type, struct MHD_Response *response,
                   size_t size) {
    pthread_mutex_lock(&exchange->lock);
    ASDM_ASSERT(exchange->state == EXCHANGE_OPEN || exchange->state == EXCHANGE_GONE);
    if (exchange->state == EXCHANGE_GONE) {
        if (response)
            MHD_destroy_response(response);
    } else {
        exchange->state = EXCHANGE_ANSWERED;
        exchange->status = status;
        exchange->bytes_out = size;
        exchange->response = response;
        if (response) {
            if (content_type)
                MHD_add_response_header(response, "Content-Type", content_type);
            exchange_put_headers(exchange, response);
        }
        exchange_resume(exchange);
    }
    pthread_mutex_unlock(&exchange->lock);
}

void http_answer_static(struct http_exchange *exchange, int status, const char *content_type, const void *data,
                        size_t size) {
    answer(exchange, status, content_type,
           MHD_create_response_from_buffer(size, (void *)(uintptr_t)data, MHD_RESPMEM_PERSISTENT), size);
}

static void answer_no_room(struct http_exchange *exchange) {
    static const char text[] =
        "{\"error\":{\"code\":\"internal\",\"message\":\"the answer is too large, or the server is "
        "short of memory\",\"field\":null}}\n";
    http_answer_static(exchange, 500, "application/json", text, sizeof text - 1);
}

void http_answer(struct http_exchange *exchange, int status, const char *content_type, struct buffer *body) {
    if (body->failed) {
        buffer_done(body);
        answer_no_room(exchange);
        return;
    }
    size_t size = body->length;
    struct MHD_Response *response = MHD_create_response_from_buffer(
        size, size ? body->data : (void *)(uintptr_t) "", size ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT);
    if (response && size)
        body->data = NULL; /* is the response's */
    buffer_done(body);
    answer(exchange, status, content_type, response, size);
}

static const char *write_plain(const struct problem *problem, const char *request_id, struct buffer *body) {
    buffer_text(body, "{\"error\":{\"code\":");
    buffer_json(body, problem->code);
    buffer_text(body, ",\"message\":");
    buffer_json(body, problem->message);
    buffer_text(body, ",\"field\":");
    buffer_json(body, *problem->field ? problem->field : NULL);
    buffer_text(body, ",\"request_id\":");
    buffer_json(body, request_id);
    buffer_text(body, "}}\n");
    return "application/json";
}

void http_answer_problem(struct http_exchange *exchange, const struct problem *problem) {
    enum { PROBLEM_BYTES_MAX = 16384 };
    struct buffer body;
    char text[32];
    buffer_init(&body, PROBLEM_BYTES_MAX);
    http_problem_writer *writer = exchange->route && exchange->route->problem ? exchange->route->problem : write_plain;
    const char *type = writer(problem, exchange->request_id, &body);
    if (problem->retry_after_ms > 0) {
        snprintf(text, sizeof text, "%d", problem->retry_after_ms / 1000 + (problem->retry_after_ms % 1000 > 0));
        http_set_header(exchange, "Retry-After", text);
        snprintf(text, sizeof text, "%d", problem->retry_after_ms);
        http_set_header(exchange, "retry-after-ms", text);
    } else {
        http_set_header(exchange, "x-should-retry", "false");
    }
    http_answer(exchange, problem->status, type, &body);
}

/* ---- the client goes */

void http_on_gone(struct http_exchange *exchange, void (*gone)(void *user), void *user, void (*done)(void *user)) {
    pthread_mutex_lock(&exchange->lock);
    ASDM_ASSERT(!exchange->gone && !exchange->gone_done);
    bool is_gone = exchange->state == EXCHANGE_GONE, is_over = is_gone || exchange->completed;
    if (!is_over) {
        exchange->gone = gone;
        exchange->gone_user = user;
        exchange->gone_done = done;
    }
    pthread_mutex_unlock(&exchange->lock);
    if (is_gone)
        gone(user);
    if (is_over && done)
        done(user);
}

/* Takes the callbacks out, so that they are called once. */
static void tell(struct http_exchange *exchange, bool is_gone) {
    pthread_mutex_lock(&exchange->lock);
    void (*gone)(void *) = is_gone ? exchange->gone : NULL;
    void (*done)(void *) = exchange->gone_done;
    void *user = exchange->gone_user;
    exchange->gone = NULL;
    exchange->gone_done = NULL;
    pthread_mutex_unlock(&exchange->lock);
    if (gone)
        gone(user);
    if (done)
        done(user);
}

static bool set_gone(struct http_exchange *exchange) {
    pthread_mutex_lock(&exchange->lock);
    bool is_gone = exchange->state == EXCHANGE_OPEN || exchange->state == EXCHANGE_STREAMING;
    if (is_gone)
        exchange->state = EXCHANGE_GONE;
    pthread_mutex_unlock(&exchange->lock);
    return is_gone;
}

void exchange_abandon(struct http_exchange *exchange) {
    if (!set_gone(exchange))
        return;
    tell(exchange, true);
    pthread_mutex_lock(&exchange->lock);
    exchange_resume(exchange);
    pthread_mutex_unlock(&exchange->lock);
}

void exchange_complete(struct http_exchange *exchange) {
    bool is_gone = set_gone(exchange);
    /* A stream's response refers to the exchange: it must not wait for the last reference. */
    pthread_mutex_lock(&exchange->lock);
    struct MHD_Response *response = exchange->response;
    exchange->response = NULL;
    exchange->completed = true;
    pthread_mutex_unlock(&exchange->lock);
    if (response)
        MHD_destroy_response(response);
    tell(exchange, is_gone);
    access_record(exchange);
}
