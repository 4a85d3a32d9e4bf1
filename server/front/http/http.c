/* The server: libmicrohttpd's callbacks, start and end. Its threads poll by themselves (epoll); a connection whose
 * answer is not there yet is suspended and costs nothing. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <asdm/error.h>

#include "front/http/internal.h"

enum {
    HEADER_MEMORY_BYTES = 32 << 10, /* of MHD, for one connection's header */
    SPARE_CONNECTIONS = 256,        /* beyond the limit: told so with 503; those beyond these are closed at once */
    MEANINGLESS_BODY_BYTES = 4096,  /* of a GET or DELETE that takes none (RFC 9110, 9.3.1): read, not used */
    FIRST_BODY_BYTES = 16 << 10,
    DISCARD_BYTES = 1 << 20, /* read beyond a body's limit, to answer 413 rather than cut the client off */
    BODIES_IN_MEMORY = 16,   /* times the largest allowed body: for all requests together */
    PEM_BYTES_MAX = 1 << 20
};

/* ---- bodies */

/* Room for `size` more bytes, within the route's limit and that of all requests. */
static void reserve_body(struct http_exchange *exchange, size_t size) {
    struct http *http = exchange->http;
    size_t needed = exchange->body_size + size;
    exchange->body_too_large |= needed > exchange->body_max;
    if (exchange->body_too_large || exchange->body_no_room || needed <= exchange->body_room)
        return;
    size_t room = exchange->body_room ? 2 * exchange->body_room : FIRST_BODY_BYTES;
    if (exchange->length_known && exchange->content_length >= needed && room > exchange->content_length)
        room = exchange->content_length;
    room = room < needed ? needed : room > exchange->body_max ? exchange->body_max : room;
    uint64_t more = room - exchange->body_room, most = (uint64_t)http->config->body_bytes_max * BODIES_IN_MEMORY;
    unsigned char *body = NULL;
    if (atomic_fetch_add(&http->body_bytes, more) + more <= most)
        body = realloc(exchange->body, room);
    if (body) {
        exchange->body = body;
        exchange->body_room = room;
    } else {
        atomic_fetch_sub(&http->body_bytes, more);
        exchange->body_no_room = true;
    }
}

/* False: the client sends on and on; the connection ends. */
static bool take_body(struct http_exchange *exchange, const char *data, size_t size) {
    exchange->body_received += size;
    reserve_body(exchange, size);
    if (!exchange->body_too_large && !exchange->body_no_room) {
        memcpy(exchange->body + exchange->body_size, data, size);
        exchange->body_size += size;
    }
    return exchange->body_received <= (uint64_t)exchange->body_max + DISCARD_BYTES;
}

/* ---- one request */

/* Gives MHD the answer. */
static enum MHD_Result queue_answer(struct http_exchange *exchange) {
    pthread_mutex_lock(&exchange->lock);
    struct MHD_Response *response = exchange->state == EXCHANGE_GONE ? NULL : exchange->response;
    unsigned status = (unsigned)exchange->status;
    if (response)
        exchange->response = NULL;
    pthread_mutex_unlock(&exchange->lock);
    if (!response)
        return MHD_NO; /* closes */
    connection_set_stage(exchange->connection, CONNECTION_SENDING);
    enum MHD_Result result = MHD_queue_response(exchange->mhd, status, response);
    MHD_destroy_response(response); /* MHD has its own reference */
    return result;
}

/* Answered before the body is read, after which MHD closes the connection; where there is no body and no doubt, in its
 * turn, so that the connection can be used again. */
static enum MHD_Result refuse(struct http_exchange *exchange) {
    if (!exchange->has_body && !exchange->close_after)
        return MHD_YES;
    exchange->close_after = true;
    exchange->handled = true;
    exchange->connection->lingers = true;
    http_answer_problem(exchange, &exchange->refusal);
    return queue_answer(exchange);
}

static bool check_caller(struct http_exchange *exchange, struct problem *problem) {
    bool known = keys_find(exchange->http->keys, http_header(exchange, "Authorization"), &exchange->caller);
    if (known || exchange->route->open)
        return true;
    return problem_set(problem, 401, "unauthorized", "Authorization",
                       "Authorization: must be a known key, as Bearer token or as the password of Basic");
}

static bool check_body_size(struct http_exchange *exchange, struct problem *problem) {
    size_t most = (size_t)exchange->http->config->body_bytes_max, wanted = exchange->route->body_bytes_max;
    if (wanted == 0 && strcmp(exchange->route->method, "POST") != 0)
        wanted = MEANINGLESS_BODY_BYTES;
    exchange->body_max = wanted < most ? wanted : most;
    if (exchange->content_length <= exchange->body_max && (exchange->body_max || !exchange->has_body))
        return true;
    return problem_set(problem, 413, "too_large", "", "body: must have at most %zu bytes", exchange->body_max);
}

static bool check_room(const struct http_exchange *exchange, struct problem *problem) {
    const struct http *http = exchange->http;
    if (atomic_load(&http->connection_count) <= http->config->connections_max)
        return true;
    problem_set(problem, 503, "busy", "", "more than %d connections are open", http->config->connections_max);
    problem->retry_after_ms = 1000;
    return false;
}

/* The header is there. */
static enum MHD_Result begin_request(struct http_exchange *exchange, const char *method, const char *version) {
    struct problem problem = {0};
    exchange->seen = true;
    connection_set_stage(exchange->connection, CONNECTION_BODY);
    exchange->close_after = !request_read(exchange, method, version, &problem) || !check_room(exchange, &problem);
    if (!exchange->close_after && route_find(exchange, &problem) && check_caller(exchange, &problem) &&
        check_body_size(exchange, &problem))
        return MHD_YES;
    exchange->refusal = problem;
    return refuse(exchange);
}

/* The body is there, too: the handler's turn. */
static enum MHD_Result handle_request(struct http_exchange *exchange) {
    struct problem *refusal = &exchange->refusal;
    connection_set_stage(exchange->connection, CONNECTION_BUSY);
    if (exchange->body_too_large) {
        exchange->close_after = true;
        problem_set(refusal, 413, "too_large", "", "body: must have at most %zu bytes", exchange->body_max);
    } else if (exchange->body_no_room) {
        problem_set(refusal, 503, "busy", "", "the bodies of other requests fill the memory for them");
        refusal->retry_after_ms = 1000;
    }
    if (refusal->status)
        http_answer_problem(exchange, refusal);
    else
        exchange->route->handler(exchange->route->user, exchange);

    pthread_mutex_lock(&exchange->lock);
    bool whole = exchange->state == EXCHANGE_ANSWERED, waits = exchange->state == EXCHANGE_OPEN;
    bool goes_on = whole || reaper_watch(exchange);
    if (goes_on && waits) {
        exchange->suspended = true;
        MHD_suspend_connection(exchange->mhd);
    }
    pthread_mutex_unlock(&exchange->lock);
    if (!goes_on)
        return MHD_NO;
    return waits ? MHD_YES : queue_answer(exchange);
}

/* ---- callbacks of MHD */

static void *on_request_line(void *user, const char *uri, struct MHD_Connection *mhd) {
    struct http_exchange *exchange = exchange_create(user, mhd, uri);
    /* The time for the header runs from connect or from its first byte, if the reaper saw that. */
    if (exchange && atomic_load(&exchange->connection->stage) != CONNECTION_HEADER)
        connection_set_stage(exchange->connection, CONNECTION_HEADER);
    return exchange;
}

static enum MHD_Result on_access(void *user, struct MHD_Connection *mhd, const char *url, const char *method,
                                 const char *version, const char *upload, size_t *upload_size, void **context) {
    struct http_exchange *exchange = *context;
    (void)user, (void)mhd, (void)url;
    if (!exchange)
        return MHD_NO; /* there was no memory */
    if (!exchange->seen)
        return begin_request(exchange, method, version);
    if (*upload_size) {
        bool goes_on = take_body(exchange, upload, *upload_size);
        *upload_size = 0;
        return goes_on ? MHD_YES : MHD_NO;
    }
    if (!exchange->handled) {
        exchange->handled = true;
        return handle_request(exchange);
    }
    return queue_answer(exchange);
}

static void on_completed(void *user, struct MHD_Connection *mhd, void **context, enum MHD_RequestTerminationCode code) {
    struct http_exchange *exchange = *context;
    (void)user, (void)mhd;
    if (!exchange)
        return;
    if (!exchange->seen && (code == MHD_REQUEST_TERMINATED_COMPLETED_OK || code == MHD_REQUEST_TERMINATED_WITH_ERROR))
        exchange->status = 400; /* MHD refused the header by itself */
    *context = NULL;
    reaper_forget(exchange);
    exchange_complete(exchange);
    connection_set_stage(exchange->connection, CONNECTION_IDLE);
    http_unref(&exchange);
}

static void on_connection(void *user, struct MHD_Connection *mhd, void **context,
                          enum MHD_ConnectionNotificationCode code) {
    struct http *http = user;
    struct connection *connection = *context;
    if (code == MHD_CONNECTION_NOTIFY_CLOSED) {
        if (connection)
            reaper_remove(http, connection);
        free(connection);
        *context = NULL;
        return;
    }
    connection = calloc(1, sizeof *connection);
    if (!connection)
        return; /* its requests are refused: exchange_create */
    connection->http = http;
    connection->fd = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
    listen_name(MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS)->client_addr, connection->remote,
                sizeof connection->remote);
    connection_set_stage(connection, CONNECTION_HEADER);
    reaper_add(http, connection);
    *context = connection;
}

static enum MHD_Result on_accept(void *user, const struct sockaddr *address, socklen_t length) {
    const struct http *http = user;
    (void)address, (void)length;
    return atomic_load(&http->connection_count) < http->config->connections_max + SPARE_CONNECTIONS ? MHD_YES : MHD_NO;
}

/* Addresses stay as they came: target.c decodes them. */
static size_t on_unescape(void *user, struct MHD_Connection *mhd, char *text) {
    (void)user, (void)mhd;
    return strlen(text);
}

/* ---- start and end */

static enum asdm_status read_pem(const char *path, char **ret, struct asdm_error *err) {
    FILE *file = fopen(path, "re");
    if (!file)
        return asdm_fail(err, ASDM_ERR_IO, "%s: %s", path, strerror(errno));
    char *text = malloc(PEM_BYTES_MAX + 1);
    size_t size = text ? fread(text, 1, PEM_BYTES_MAX + 1, file) : 0;
    fclose(file);
    if (size == 0 || size > PEM_BYTES_MAX) {
        free(text);
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: is not a PEM file", path);
    }
    text[size] = '\0';
    *ret = text;
    return ASDM_OK;
}

enum asdm_status http_create(const struct config *config, struct keys *keys, struct metrics *metrics,
                             const struct http_route *routes, size_t route_count, struct http **ret,
                             struct asdm_error *err) {
    enum asdm_status status = ASDM_OK;
    struct http *http = calloc(1, sizeof *http);
    struct http_route *copied = calloc(route_count, sizeof *copied);
    if (!http || !copied) {
        free(http);
        free(copied);
        return asdm_fail(err, ASDM_ERR_MEMORY, "http: no memory");
    }
    memcpy(copied, routes, route_count * sizeof *copied);
    for (size_t i = 0; i < route_count; i++)
        copied[i].name = copied[i].name ? copied[i].name : copied[i].path;
    atomic_init(&http->refs, 1);
    http->config = config;
    http->keys = keys;
    http->metrics = metrics;
    http->routes = copied;
    http->route_count = route_count;
    http->log = config->access_log ? access_write : NULL;
    http->raw_layout_known = strncmp(MHD_get_version(), "0.9.75", 6) == 0;
    pthread_mutex_init(&http->lock, NULL);
    pthread_cond_init(&http->wake, NULL);
    if (config->tls_certificate) {
        status = read_pem(config->tls_certificate, &http->tls_certificate, err);
        if (status == ASDM_OK)
            status = read_pem(config->tls_key, &http->tls_key, err);
    }
    if (status == ASDM_OK)
        *ret = http;
    else
        http_destroy(&http);
    return status;
}

void http_set_log(struct http *http, void (*log)(void *user, const struct http_log *record), void *user) {
    http->log = log;
    http->log_user = user;
}

/* Inactivity, as MHD counts it: what reads its answer too slowly. The reaper has the rest. */
static unsigned inactivity_s(const struct config *config) {
    int most = config->idle_timeout_ms;
    most = most > config->body_timeout_ms ? most : config->body_timeout_ms;
    most = most > config->header_timeout_ms ? most : config->header_timeout_ms;
    return (unsigned)most / 1000 + 1;
}

static struct MHD_Daemon *start_daemon(struct http *http, int fd) {
    const struct config *config = http->config;
    struct MHD_OptionItem tls[] = {{MHD_OPTION_HTTPS_MEM_CERT, 0, http->tls_certificate},
                                   {MHD_OPTION_HTTPS_MEM_KEY, 0, http->tls_key},
                                   {MHD_OPTION_HTTPS_PRIORITIES, 0, "SECURE128:-VERS-TLS1.0:-VERS-TLS1.1"},
                                   {MHD_OPTION_END, 0, NULL}};
    struct MHD_OptionItem none[] = {{MHD_OPTION_END, 0, NULL}};
    unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME;
    /* MHD divides its limit among the threads; it must not be what ends first. */
    unsigned connections = (unsigned)(config->connections_max + SPARE_CONNECTIONS) * 2;
    return MHD_start_daemon(
        http->tls_certificate ? flags | MHD_USE_TLS : flags, (uint16_t)http->port, on_accept, http, on_access, http,
        MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_THREAD_POOL_SIZE, (unsigned)config->http_threads,
        MHD_OPTION_CONNECTION_LIMIT, connections, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HEADER_MEMORY_BYTES,
        MHD_OPTION_CONNECTION_TIMEOUT, inactivity_s(config), MHD_OPTION_STRICT_FOR_CLIENT, 0,
        MHD_OPTION_UNESCAPE_CALLBACK, on_unescape, NULL, MHD_OPTION_URI_LOG_CALLBACK, on_request_line, http,
        MHD_OPTION_NOTIFY_COMPLETED, on_completed, http, MHD_OPTION_NOTIFY_CONNECTION, on_connection, http,
        MHD_OPTION_ARRAY, http->tls_certificate ? tls : none, MHD_OPTION_END);
}

enum asdm_status http_start(struct http *http, int listen_fd, struct asdm_error *err) {
    const struct config *config = http->config;
    int fd = listen_fd;
    if (fd < 0)
        ASDM_TRY(listen_open(config->listen_host, config->listen_port, &fd, err));
    enum asdm_status status = listen_port(fd, &http->port, err);
    if (status == ASDM_OK) {
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
        status = reaper_start(http, err);
    }
    if (status == ASDM_OK) {
        http->daemon = start_daemon(http, fd);
        if (http->daemon)
            return ASDM_OK; /* MHD has the socket now */
        status =
            asdm_fail(err, ASDM_ERR_IO, "http: the server does not start%s",
                      http->tls_certificate ? "; are tls.certificate and tls.key PEM files that belong together?" : "");
    }
    close(fd);
    return status;
}

int http_port(const struct http *http) {
    return http->port;
}

int http_connections(const struct http *http) {
    return atomic_load(&http->connection_count);
}

void http_quiesce(struct http *http) {
    if (!http->daemon || atomic_exchange(&http->quiesced, true))
        return;
    int fd = MHD_quiesce_daemon(http->daemon);
    if (fd >= 0)
        close(fd);
}

void http_release(struct http *http) {
    if (atomic_fetch_sub(&http->refs, 1) > 1)
        return;
    pthread_cond_destroy(&http->wake);
    pthread_mutex_destroy(&http->lock);
    free(http->tls_certificate);
    free(http->tls_key);
    free(http->routes);
    free(http);
}

void http_destroy(struct http **reference) {
    struct http *http = *reference;
    *reference = NULL;
    if (!http)
        return;
    http_quiesce(http);
    reaper_stop(http); /* before MHD: it cannot stop with a connection suspended */
    if (http->daemon)
        MHD_stop_daemon(http->daemon);
    ASDM_ASSERT(atomic_load(&http->connection_count) == 0);
    http_release(http);
}
