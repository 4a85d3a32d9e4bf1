/* Server-sent events (WHATWG HTML, 9.2). What is to be sent waits in one buffer; MHD asks for it when the client takes
 * it, and is suspended while there is nothing. */
#include <string.h>

#include <asdm/error.h>

#include "front/http/internal.h"

enum {
    DROP_BYTES = 1 << 20,         /* that wait: more are dropped, if they may be */
    WAITING_BYTES_MAX = 64 << 20, /* that wait: the client is too slow */
    STREAM_BYTES_MAX = 128 << 20, /* with the event that comes to those */
    BLOCK_BYTES = 64 << 10,       /* handed to MHD at once */
    SILENCE_MS = 15000
};

/* MHD's thread wants more of the stream. */
static ssize_t read_stream(void *user, uint64_t position, char *to, size_t room) {
    struct http_exchange *exchange = user;
    ssize_t result = 0;
    (void)position;
    pthread_mutex_lock(&exchange->lock);
    size_t waiting = exchange->stream.length - exchange->stream_sent;
    if (exchange->state == EXCHANGE_GONE || exchange->stream_broken) {
        result = MHD_CONTENT_READER_END_WITH_ERROR;
    } else if (waiting > 0) {
        size_t size = waiting < room ? waiting : room;
        memcpy(to, exchange->stream.data + exchange->stream_sent, size);
        exchange->stream_sent += size;
        exchange->bytes_out += size;
        if (size == waiting) {
            /* A large buffer is not kept for a small event. */
            buffer_done(&exchange->stream);
            exchange->stream_sent = 0;
        }
        result = (ssize_t)size;
    } else if (exchange->state == EXCHANGE_ANSWERED) {
        result = MHD_CONTENT_READER_END_OF_STREAM;
    } else {
        exchange->suspended = true;
        MHD_suspend_connection(exchange->mhd);
    }
    pthread_mutex_unlock(&exchange->lock);
    return result;
}

static void free_stream(void *user) {
    struct http_exchange *exchange = user;
    http_unref(&exchange);
}

void http_stream_begin(struct http_exchange *exchange) {
    struct MHD_Response *response =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK_BYTES, read_stream, http_ref(exchange), free_stream);
    if (!response)
        http_unref(&(struct http_exchange *){exchange});
    pthread_mutex_lock(&exchange->lock);
    ASDM_ASSERT(exchange->state == EXCHANGE_OPEN || exchange->state == EXCHANGE_GONE);
    if (exchange->state == EXCHANGE_OPEN) {
        exchange->state = EXCHANGE_STREAMING;
        exchange->status = 200;
        exchange->stream_ms = clock_ms();
        buffer_init(&exchange->stream, STREAM_BYTES_MAX);
        exchange->response = response;
        if (response) {
            MHD_add_response_header(response, "Content-Type", "text/event-stream");
            MHD_add_response_header(response, "X-Accel-Buffering", "no");
            exchange_put_headers(exchange, response);
        }
        exchange_resume(exchange);
    } else if (response) {
        /* The response's reference to the exchange goes with it; the caller has one. */
        MHD_destroy_response(response);
    }
    pthread_mutex_unlock(&exchange->lock);
}

/* One line of the protocol for each line of data. */
static void put_event(struct buffer *to, const char *event, const char *data, size_t size) {
    if (event) {
        buffer_text(to, "event: ");
        buffer_text(to, event);
        buffer_text(to, "\n");
    }
    const char *end = data + size;
    for (const char *line = data; line <= end;) {
        const char *next = memchr(line, '\n', (size_t)(end - line));
        buffer_text(to, "data: ");
        buffer_put(to, line, (size_t)((next ? next : end) - line));
        buffer_text(to, "\n");
        line = (next ? next : end) + 1;
    }
    buffer_text(to, "\n");
}

/* What was sent goes when it is the larger part, so that bytes are moved once on average. */
static void compact(struct http_exchange *exchange) {
    size_t waiting = exchange->stream.length - exchange->stream_sent;
    if (exchange->stream_sent <= waiting)
        return;
    memmove(exchange->stream.data, exchange->stream.data + exchange->stream_sent, waiting);
    exchange->stream.length = waiting;
    exchange->stream_sent = 0;
}

void http_stream_event(struct http_exchange *exchange, const char *event, const char *data, size_t size,
                       bool droppable) {
    pthread_mutex_lock(&exchange->lock);
    ASDM_ASSERT(exchange->state == EXCHANGE_STREAMING || exchange->state == EXCHANGE_GONE);
    size_t waiting = exchange->stream.length - exchange->stream_sent;
    if (exchange->state == EXCHANGE_STREAMING && !exchange->stream_broken && !(droppable && waiting > DROP_BYTES)) {
        compact(exchange);
        if (waiting <= WAITING_BYTES_MAX)
            put_event(&exchange->stream, event, data, size);
        exchange->stream_broken = waiting > WAITING_BYTES_MAX || exchange->stream.failed;
        exchange->stream_ms = clock_ms();
        exchange_resume(exchange);
    }
    pthread_mutex_unlock(&exchange->lock);
}

void http_stream_end(struct http_exchange *exchange) {
    pthread_mutex_lock(&exchange->lock);
    ASDM_ASSERT(exchange->state == EXCHANGE_STREAMING || exchange->state == EXCHANGE_GONE);
    if (exchange->state == EXCHANGE_STREAMING) {
        exchange->state = EXCHANGE_ANSWERED;
        exchange_resume(exchange);
    }
    pthread_mutex_unlock(&exchange->lock);
}

void stream_keep_alive(struct http_exchange *exchange, int64_t now_ms) {
    pthread_mutex_lock(&exchange->lock);
    bool silent = exchange->state == EXCHANGE_STREAMING && now_ms - exchange->stream_ms >= SILENCE_MS &&
                  exchange->stream.length == exchange->stream_sent;
    if (silent) {
        buffer_text(&exchange->stream, ": waiting\n\n");
        exchange->stream_ms = now_ms;
        exchange_resume(exchange);
    }
    pthread_mutex_unlock(&exchange->lock);
}
