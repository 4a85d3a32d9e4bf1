/* HTTP over libmicrohttpd, whose header stays in this folder. A request that is read whole, within limits and beyond
 * doubt about where it ends, goes to its route's handler as one exchange. The handler answers at once or keeps the
 * exchange and answers later, from any thread; meanwhile the connection is suspended. */
#ifndef ASDM_FRONT_HTTP_H
#define ASDM_FRONT_HTTP_H

#include "front/buffer.h"
#include "front/config.h"
#include "front/keys.h"
#include "front/metrics.h"
#include "front/problem.h"

struct http;
struct http_exchange;

typedef void http_handler(void *user, struct http_exchange *exchange);
/* Writes a problem in the dialect's shape: fills `body` and returns its content type. */
typedef const char *http_problem_writer(const struct problem *problem, const char *request_id, struct buffer *body);

/* One row per address. `path` may hold one-segment parameters: "/v1/jobs/{id}/images/{n}". An address that exists with
 * other methods gives 405 with Allow. HEAD is answered as GET without a body. */
struct http_route {
    const char *method, *path;
    const char *name; /* label in metrics and the access log: "/v1/jobs/{id}" */
    http_handler *handler;
    void *user;
    http_problem_writer *problem; /* the dialect's; NULL: plain {"error": ...} */
    bool open;                    /* needs no key */
    bool streams;                 /* an open-ended answer (SSE) may follow */
    size_t
        body_bytes_max; /* 0: none is taken (413), but for a few KiB of a GET or DELETE; at most the configuration's */
};

enum asdm_status http_create(const struct config *config, struct keys *keys, struct metrics *metrics,
                             const struct http_route *routes, size_t route_count, struct http **ret,
                             struct asdm_error *err);
/* Listens: on the configured address, or on `listen_fd` (socket activation) when it is >= 0. */
enum asdm_status http_start(struct http *http, int listen_fd, struct asdm_error *err);
int http_port(const struct http *http);
int http_connections(const struct http *http);
void http_quiesce(struct http *http);  /* no new connections; those open are answered with Connection: close */
void http_destroy(struct http **http); /* ends what is open */

/* One finished request, for the access log. Texts are valid during the call; the path has no query string. */
struct http_log {
    const char *request_id, *method, *path, *route, *caller, *remote;
    int status;                   /* of the answer; 499: the client went before there was one */
    uint64_t bytes_in, bytes_out; /* of the bodies */
    double seconds;               /* from the request line to the end of the answer */
};
/* Instead of lines through log.h, which are written when the configuration asks for them. Before http_start. */
void http_set_log(struct http *http, void (*log)(void *user, const struct http_log *record), void *user);

/* ---- the request; valid until the exchange is answered */

const char *http_method(const struct http_exchange *exchange);
const char *http_path(const struct http_exchange *exchange);                     /* decoded */
const char *http_param(const struct http_exchange *exchange, const char *name);  /* of the route's path */
const char *http_query(const struct http_exchange *exchange, const char *name);  /* decoded; NULL: absent */
const char *http_header(const struct http_exchange *exchange, const char *name); /* case-insensitive; NULL: absent */
const unsigned char *http_body(const struct http_exchange *exchange, size_t *ret_size);
const struct key *http_caller(const struct http_exchange *exchange);
const char *http_request_id(const struct http_exchange *exchange); /* "req_..." */
/* "http://host:port" as the client sees it: the configuration's public_url, or from Host. */
const char *http_base_url(const struct http_exchange *exchange);
bool http_is_tls(const struct http_exchange *exchange);

/* ---- the answer; exactly one of these per exchange, from any thread */

/* Sets a header of the answer to come. `value` is copied; must be called before the answer. */
void http_set_header(struct http_exchange *exchange, const char *name, const char *value);
/* Takes `body`. x-request-id is always there. */
void http_answer(struct http_exchange *exchange, int status, const char *content_type, struct buffer *body);
/* Static bytes, not freed. */
void http_answer_static(struct http_exchange *exchange, int status, const char *content_type, const void *data,
                        size_t size);
/* In the route's shape, with Retry-After where it applies, and x-should-retry: false where repeating has no use. */
void http_answer_problem(struct http_exchange *exchange, const struct problem *problem);

/* Server-sent events. begin sends the header (200, text/event-stream); end closes. An event that a slow client makes
 * wait beyond a limit of bytes is dropped when `droppable`, otherwise the connection is closed. A comment goes out
 * every 15 s of silence. */
void http_stream_begin(struct http_exchange *exchange);
void http_stream_event(struct http_exchange *exchange, const char *event /* or NULL */, const char *data, size_t size,
                       bool droppable);
void http_stream_end(struct http_exchange *exchange);

/* ---- keeping an exchange */

struct http_exchange *http_ref(struct http_exchange *exchange);
void http_unref(struct http_exchange **exchange); /* answering an exchange whose client is gone does nothing */
/* Called once, on a thread of the server's, when the client goes away before the answer is complete (a half-closed
 * connection counts as gone). Not called after the answer. At once when it is gone already. */
void http_on_gone(struct http_exchange *exchange, void (*gone)(void *user), void *user, void (*done)(void *user));

#endif
