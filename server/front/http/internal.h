/* What the files of this folder share. Locks: an exchange's `lock` comes before the server's `lock`; neither is held
 * while foreign code is called. */
#ifndef ASDM_FRONT_HTTP_INTERNAL_H
#define ASDM_FRONT_HTTP_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include <microhttpd.h>

#include "clock.h"
#include "front/http/http.h"

enum {
    HTTP_PARAMS_MAX = 4,
    HTTP_QUERY_MAX = 64,
    HTTP_HEADERS_MAX = 100,
    HTTP_TARGET_BYTES_MAX = 8192,
    HTTP_ANSWER_HEADERS_MAX = 16,
    HTTP_REQUEST_ID_BYTES = 72
};

/* What the reaper measures. */
enum connection_stage {
    CONNECTION_HEADER, /* a request's header is awaited from `since_ms` on */
    CONNECTION_IDLE,   /* between requests */
    CONNECTION_BODY,
    CONNECTION_BUSY, /* the request is with its handler */
    CONNECTION_SENDING
};

struct connection {
    struct http *http;
    int fd; /* MHD's; open as long as the connection is in the list */
    char remote[64];
    _Atomic enum connection_stage stage;
    _Atomic int64_t since_ms;
    _Atomic uint64_t bytes_base;    /* received when the last answer ended (struct tcp_info) */
    bool lingers;                   /* what the client still sends is to be read before closing: it was refused early */
    struct http_exchange *exchange; /* one that is with its handler or streams; under http->lock */
    struct connection *next, *previous;
};

/* Refused early and closed for MHD: read until the client ends, so that no reset overtakes the answer. */
enum { LEFTOVERS_MAX = 64 };
struct leftover {
    int fd;
    int64_t until_ms;
};

struct http {
    atomic_int refs; /* its owner's, and one of each exchange: handlers may let go of theirs after the end */
    const struct config *config;
    struct keys *keys;
    struct metrics *metrics;
    struct http_route *routes;
    size_t route_count;
    void (*log)(void *user, const struct http_log *record);
    void *log_user;

    struct MHD_Daemon *daemon;
    char *tls_certificate, *tls_key; /* PEM texts */
    int port;
    bool raw_layout_known; /* of MHD's buffer: see request.c */
    atomic_int connection_count;
    atomic_bool quiesced;
    _Atomic uint64_t body_bytes; /* of all requests in memory */

    pthread_t reaper;
    bool reaper_runs;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t wake;
    bool stopping;
    struct connection *connections;
    struct leftover leftovers[LEFTOVERS_MAX];
    int leftover_count;
};

/* A request's target, taken apart. The texts are in one allocation, `storage`. */
struct target {
    char *storage;
    const char *path;
    const char *authority; /* of the absolute form, or NULL */
    size_t query_count;
    struct {
        const char *name, *value;
    } query[HTTP_QUERY_MAX];
};

struct header {
    const char *name, *value;
};

enum exchange_state {
    EXCHANGE_OPEN,      /* no answer yet */
    EXCHANGE_STREAMING, /* the answer's header is out */
    EXCHANGE_ANSWERED,  /* whole */
    EXCHANGE_GONE       /* the client left before */
};

struct http_exchange {
    struct http *http;
    struct MHD_Connection *mhd;
    struct connection *connection;
    atomic_int refs;

    /* the request: written by the connection's thread before the handler is called, then only read */
    bool seen;              /* the header was looked at */
    char *target_text;      /* as it came */
    const char *version_at; /* where MHD must see the version, or NULL: see request.c */
    struct target target;
    char *header_storage;
    size_t header_count;
    struct header headers[HTTP_HEADERS_MAX];
    char method[16];
    char request_id[HTTP_REQUEST_ID_BYTES];
    char base_url[320];
    bool has_body, length_known, close_after;
    uint64_t content_length;
    const struct http_route *route; /* NULL: none */
    struct {
        const char *name;
        char *value;
    } params[HTTP_PARAMS_MAX];
    size_t param_count;
    struct key caller;
    unsigned char *body;
    size_t body_size, body_room, body_max;
    struct problem refusal; /* status 0: none. What is answered instead of calling the handler */
    uint64_t body_received;
    bool body_too_large, body_no_room;
    int64_t start_ns;

    /* the answer */
    pthread_mutex_t lock; /* of what follows */
    enum exchange_state state;
    bool handled;   /* the handler had its turn */
    bool suspended; /* MHD waits for a resume */
    bool completed; /* MHD has ended with it */
    struct MHD_Response *response;
    int status;
    uint64_t bytes_out;
    size_t answer_header_count;
    struct {
        char *name, *value;
    } answer_headers[HTTP_ANSWER_HEADERS_MAX];
    void (*gone)(void *user);
    void (*gone_done)(void *user);
    void *gone_user;
    struct buffer stream;
    size_t stream_sent; /* of `stream` */
    bool stream_broken;
    int64_t stream_ms; /* when something was last put into it */
};

/* ---- http.c */

void http_release(struct http *http); /* a reference */

/* ---- target.c */

/* Decodes the request target strictly. False: 400 (or 414) in *ret_problem, *ret holds nothing. */
bool target_parse(const char *text, struct target *ret, struct problem *ret_problem);
void target_done(struct target *target);
bool text_is_utf8(const char *text);

/* ---- request.c */

/* Looks at the request line and every header; fills the exchange. False: *ret_problem, and the connection must end. */
bool request_read(struct http_exchange *exchange, const char *method, const char *version, struct problem *ret_problem);
/* Where the version stands if MHD's buffer holds nothing but the request line that it shows. */
const char *request_version_at(const struct http *http, const char *uri);

/* ---- route.c */

/* Finds the exchange's route. False: 404 or 405 (then Allow is set). */
bool route_find(struct http_exchange *exchange, struct problem *ret_problem);

/* ---- exchange.c */

struct http_exchange *exchange_create(struct http *http, struct MHD_Connection *mhd, const char *uri);
/* The client went, or the server ends: tells who wants to know and lets MHD go on, to close. */
void exchange_abandon(struct http_exchange *exchange);
/* MHD has ended with it. */
void exchange_complete(struct http_exchange *exchange);
/* Lets MHD call us again; under the exchange's lock. */
void exchange_resume(struct http_exchange *exchange);
/* Adds the headers of every answer to `response`; under the exchange's lock. */
void exchange_put_headers(struct http_exchange *exchange, struct MHD_Response *response);

/* ---- stream.c */

/* A comment, when the stream was silent for so long. */
void stream_keep_alive(struct http_exchange *exchange, int64_t now_ms);

/* ---- reaper.c */

enum asdm_status reaper_start(struct http *http, struct asdm_error *err);
/* Ends every exchange that waits; from now on none begins to. */
void reaper_stop(struct http *http);
void reaper_add(struct http *http, struct connection *connection);
/* Before MHD closes its descriptor. */
void reaper_remove(struct http *http, struct connection *connection);
/* The exchange is looked after while it waits or streams. False: the server ends. */
bool reaper_watch(struct http_exchange *exchange);
void reaper_forget(struct http_exchange *exchange);
void connection_set_stage(struct connection *connection, enum connection_stage stage);

/* ---- listen.c */

enum asdm_status listen_open(const char *host, int port, int *ret_fd, struct asdm_error *err);
enum asdm_status listen_port(int fd, int *ret_port, struct asdm_error *err);
void listen_name(const struct sockaddr *address, char *to, size_t room); /* the host, as text */

/* ---- access.c */

void access_record(struct http_exchange *exchange);
void access_write(void *user, const struct http_log *record);

#endif
