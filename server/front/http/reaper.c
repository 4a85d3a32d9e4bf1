/* What MHD does not see: requests that trickle in, and clients that leave while their connection is suspended. One
 * thread looks at all connections ten times a second. A descriptor stays open while its connection is in the list. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <linux/tcp.h> /* tcpi_bytes_received */
#include <netinet/in.h>

#include <asdm/error.h>

#include "front/http/internal.h"

enum { TICK_MS = 100, LINGER_MS = 2000, SENDING_FACTOR = 10 /* times the limit for bodies */ };

static uint64_t bytes_received(int fd) {
    struct tcp_info info;
    socklen_t length = sizeof info;
    memset(&info, 0, sizeof info);
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) != 0)
        return 0;
    return info.tcpi_bytes_received;
}

void connection_set_stage(struct connection *connection, enum connection_stage stage) {
    if (stage == CONNECTION_IDLE)
        atomic_store(&connection->bytes_base, bytes_received(connection->fd));
    atomic_store(&connection->since_ms, clock_ms());
    atomic_store(&connection->stage, stage);
}

/* ---- the list */

void reaper_add(struct http *http, struct connection *connection) {
    pthread_mutex_lock(&http->lock);
    connection->next = http->connections;
    if (connection->next)
        connection->next->previous = connection;
    http->connections = connection;
    pthread_mutex_unlock(&http->lock);
    atomic_fetch_add(&http->connection_count, 1);
}

static void keep_lingering(struct http *http, const struct connection *connection) {
    if (!connection->lingers || http->stopping || http->leftover_count == LEFTOVERS_MAX)
        return;
    int fd = dup(connection->fd);
    if (fd >= 0)
        http->leftovers[http->leftover_count++] = (struct leftover){fd, clock_ms() + LINGER_MS};
}

void reaper_remove(struct http *http, struct connection *connection) {
    pthread_mutex_lock(&http->lock);
    keep_lingering(http, connection);
    if (connection->previous)
        connection->previous->next = connection->next;
    else
        http->connections = connection->next;
    if (connection->next)
        connection->next->previous = connection->previous;
    pthread_mutex_unlock(&http->lock);
    atomic_fetch_sub(&http->connection_count, 1);
}

bool reaper_watch(struct http_exchange *exchange) {
    struct http *http = exchange->http;
    pthread_mutex_lock(&http->lock);
    bool stopping = http->stopping;
    if (!stopping && !exchange->connection->exchange)
        exchange->connection->exchange = http_ref(exchange);
    pthread_mutex_unlock(&http->lock);
    return !stopping;
}

void reaper_forget(struct http_exchange *exchange) {
    struct http *http = exchange->http;
    pthread_mutex_lock(&http->lock);
    struct http_exchange *watched = exchange->connection->exchange;
    exchange->connection->exchange = NULL;
    pthread_mutex_unlock(&http->lock);
    http_unref(&watched);
}

/* ---- limits of time */

/* In ms; 0: none. A request's first bytes may be seen here (IDLE becomes HEADER). */
static int64_t limit_of(const struct http *http, struct connection *connection, enum connection_stage stage) {
    const struct config *config = http->config;
    switch (stage) {
    case CONNECTION_HEADER:
        /* At the end nothing is awaited from a client that has not begun. */
        if (atomic_load(&http->quiesced) && bytes_received(connection->fd) == atomic_load(&connection->bytes_base))
            return 1;
        return config->header_timeout_ms;
    case CONNECTION_IDLE:
        if (bytes_received(connection->fd) != atomic_load(&connection->bytes_base)) {
            enum connection_stage idle = CONNECTION_IDLE;
            atomic_store(&connection->since_ms, clock_ms());
            atomic_compare_exchange_strong(&connection->stage, &idle, CONNECTION_HEADER);
            return config->header_timeout_ms;
        }
        return atomic_load(&http->quiesced) ? 1 : config->idle_timeout_ms;
    case CONNECTION_BODY:
        return config->body_timeout_ms;
    case CONNECTION_SENDING:
        return (int64_t)config->body_timeout_ms * SENDING_FACTOR;
    case CONNECTION_BUSY:
        break;
    }
    return 0;
}

/* Whether the client is the one to blame: not while bytes of it lie unread because our threads are busy, but for a
 * while; at once when it sends no more before its request is whole, where MHD would wait for the rest. */
static bool is_to_end(struct http *http, struct connection *connection, int64_t now_ms) {
    enum { PATIENCE = 4 }; /* times the limit */
    enum connection_stage stage = atomic_load(&connection->stage);
    int64_t limit_ms = limit_of(http, connection, stage), age_ms = now_ms - atomic_load(&connection->since_ms);
    bool is_late = limit_ms > 0 && age_ms >= limit_ms;
    if (stage != CONNECTION_HEADER && stage != CONNECTION_BODY)
        return is_late;
    char byte;
    ssize_t unread = recv(connection->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return unread == 0 || (is_late && (unread < 0 || age_ms >= PATIENCE * limit_ms));
}

static void end_slow(struct http *http, int64_t now_ms) {
    for (struct connection *connection = http->connections; connection; connection = connection->next)
        if (is_to_end(http, connection, now_ms))
            shutdown(connection->fd, SHUT_RDWR);
}

static void read_lingering(struct http *http, int64_t now_ms) {
    char unread[16384];
    for (int i = 0; i < http->leftover_count;) {
        struct leftover *leftover = &http->leftovers[i];
        ssize_t got = 1;
        for (int turn = 0; turn < 64 && got > 0; turn++)
            got = recv(leftover->fd, unread, sizeof unread, MSG_DONTWAIT);
        bool waits = got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR));
        if (waits && now_ms < leftover->until_ms && !http->stopping) {
            i++;
            continue;
        }
        close(leftover->fd);
        *leftover = http->leftovers[--http->leftover_count];
    }
}

/* ---- clients that went */

struct looked {
    struct pollfd *polled;
    struct http_exchange **exchanges;
    size_t room;
};

/* Room for `count`; false: no memory, then it is tried again at the next tick. */
static bool grow(struct looked *looked, size_t count) {
    if (count <= looked->room)
        return true;
    struct pollfd *polled = realloc(looked->polled, 2 * count * sizeof *polled);
    if (polled)
        looked->polled = polled;
    struct http_exchange **exchanges = realloc(looked->exchanges, 2 * count * sizeof *exchanges);
    if (exchanges)
        looked->exchanges = exchanges;
    if (polled && exchanges)
        looked->room = 2 * count;
    return polled && exchanges;
}

/* References to every exchange that waits or streams in looked->exchanges, those whose client went first; returns how
 * many went. `all`: as if all had. */
static size_t find_gone(struct http *http, struct looked *looked, bool all, size_t *ret_count) {
    size_t count = 0, filled = 0, gone = 0;
    struct connection *connection;
    for (connection = http->connections; connection; connection = connection->next)
        count += connection->exchange != NULL;
    if (!grow(looked, count))
        count = 0;
    for (connection = http->connections; connection && filled < count; connection = connection->next)
        if (connection->exchange) {
            looked->polled[filled] = (struct pollfd){.fd = connection->fd, .events = POLLRDHUP};
            looked->exchanges[filled++] = http_ref(connection->exchange);
        }
    if (count)
        poll(looked->polled, count, 0);
    for (size_t i = 0; i < count; i++) {
        if (!all && !(looked->polled[i].revents & (POLLRDHUP | POLLHUP | POLLERR)))
            continue;
        shutdown(looked->polled[i].fd, SHUT_RDWR); /* one that MHD is sending to ends, too */
        struct http_exchange *exchange = looked->exchanges[i];
        looked->exchanges[i] = looked->exchanges[gone];
        looked->exchanges[gone++] = exchange;
    }
    *ret_count = count;
    return gone;
}

/* Called and returns with the server's lock held, lets go of it meanwhile. */
static void look_after_waiting(struct http *http, struct looked *looked, bool all, int64_t now_ms) {
    size_t count, gone = find_gone(http, looked, all, &count);
    pthread_mutex_unlock(&http->lock);
    for (size_t i = 0; i < count; i++) {
        if (i < gone)
            exchange_abandon(looked->exchanges[i]);
        else
            stream_keep_alive(looked->exchanges[i], now_ms);
        http_unref(&looked->exchanges[i]);
    }
    pthread_mutex_lock(&http->lock);
}

static void *run(void *user) {
    struct http *http = user;
    struct looked looked = {0};
    pthread_mutex_lock(&http->lock);
    while (!http->stopping) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += TICK_MS * 1000000L;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&http->wake, &http->lock, &until);
        int64_t now_ms = clock_ms();
        end_slow(http, now_ms);
        read_lingering(http, now_ms);
        look_after_waiting(http, &looked, false, now_ms);
    }
    look_after_waiting(http, &looked, true, 0);
    pthread_mutex_unlock(&http->lock);
    free(looked.polled);
    free(looked.exchanges);
    return NULL;
}

enum asdm_status reaper_start(struct http *http, struct asdm_error *err) {
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_destroy(&http->wake);
    pthread_cond_init(&http->wake, &attributes);
    pthread_condattr_destroy(&attributes);
    int failure = pthread_create(&http->reaper, NULL, run, http);
    if (failure)
        return asdm_fail(err, ASDM_ERR_IO, "http: no thread: %s", strerror(failure));
    http->reaper_runs = true;
    return ASDM_OK;
}

void reaper_stop(struct http *http) {
    pthread_mutex_lock(&http->lock);
    http->stopping = true;
    pthread_cond_signal(&http->wake);
    pthread_mutex_unlock(&http->lock);
    if (http->reaper_runs)
        pthread_join(http->reaper, NULL);
    http->reaper_runs = false;
    read_lingering(http, INT64_MAX);
}
