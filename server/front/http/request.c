/* What a request's header says, and whether it says it without doubt (RFC 9110, RFC 9112). The library below reads
 * leniently; whoever stands before or behind this server may read otherwise, and where the two differ requests are
 * smuggled. So what has two readings is refused and the connection ends. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "front/http/internal.h"

static bool malformed(struct problem *problem, const char *what) {
    return problem_set(problem, 400, "malformed", "", "request header: %s", what);
}

static bool is_token(const char *text) {
    static const char others[] = "!#$%&'*+-.^_`|~";
    if (!*text)
        return false;
    for (; *text; text++) {
        char letter = (char)(*text | 0x20);
        if (!(letter >= 'a' && letter <= 'z') && !(*text >= '0' && *text <= '9') && !strchr(others, *text))
            return false;
    }
    return true;
}

/* ---- the bytes as they came
 * libmicrohttpd 0.9.75 takes a header apart in place: in its buffer, from the method on, '\0' stands for each separator
 * and for both bytes of a line's end. What it overlooks is still to be seen there: a line that ends in one byte (bare
 * LF or CR), a NUL from the client, a folded line. Versions with another layout read strictly themselves. */

const char *request_version_at(const struct http *http, const char *uri) {
    return http->raw_layout_known ? uri + strlen(uri) + 1 : NULL;
}

/* From *at over the two bytes of a line's end. */
static bool skip_line_end(const char **at, const char *end) {
    if (end - *at < 2 || (*at)[0] != '\0' || (*at)[1] != '\0')
        return false;
    *at += 2;
    return true;
}

/* From *at over a text without its NUL. */
static bool skip_text(const char **at, const char *end) {
    const char *nul = memchr(*at, '\0', (size_t)(end - *at));
    if (!nul)
        return false;
    *at = nul;
    return true;
}

static bool check_raw(const struct http_exchange *exchange, const char *method, const char *version,
                      struct problem *problem) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(exchange->mhd, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    if (!info)
        return malformed(problem, "cannot be read");
    const char *end = method + info->header_size, *at = version;
    /* One space between the three, and no NUL in the target. */
    if (version != exchange->version_at || version - method >= (ptrdiff_t)info->header_size ||
        method + strlen(method) + 1 != version - strlen(exchange->target_text) - 1)
        return malformed(problem, "the request line is not three words with one space between");
    if (!skip_text(&at, end) || !skip_line_end(&at, end))
        return malformed(problem, "the request line does not end in CR LF");
    size_t lines = 0;
    while (at < end && *at) {
        if (*at == ' ' || *at == '\t')
            return malformed(problem, "folded line");
        if (!skip_text(&at, end) || ++at == end || !skip_text(&at, end) || !skip_line_end(&at, end))
            return malformed(problem, "a line does not end in CR LF, or holds a NUL");
        lines++;
    }
    if (!skip_line_end(&at, end) || at != end || lines != exchange->header_count)
        return malformed(problem, "a line does not end in CR LF, or holds a NUL");
    return true;
}

/* ---- headers */

struct collector {
    struct http_exchange *exchange;
    size_t bytes, used;
    int count;
};

static enum MHD_Result measure(void *user, enum MHD_ValueKind kind, const char *name, size_t name_size,
                               const char *value, size_t value_size) {
    struct collector *collector = user;
    (void)kind, (void)name, (void)value;
    collector->bytes += name_size + value_size + 2;
    collector->count++;
    return MHD_YES;
}

static const char *copy(struct collector *collector, const char *text, size_t size) {
    char *to = collector->exchange->header_storage + collector->used;
    if (size)
        memcpy(to, text, size);
    to[size] = '\0';
    collector->used += size + 1;
    return to;
}

static enum MHD_Result collect(void *user, enum MHD_ValueKind kind, const char *name, size_t name_size,
                               const char *value, size_t value_size) {
    struct collector *collector = user;
    (void)kind;
    struct header *header = &collector->exchange->headers[collector->exchange->header_count++];
    while (value_size && (value[value_size - 1] == ' ' || value[value_size - 1] == '\t'))
        value_size--;
    while (value_size && (*value == ' ' || *value == '\t')) {
        value++;
        value_size--;
    }
    header->name = copy(collector, name, name_size);
    header->value = copy(collector, value ? value : "", value_size);
    return MHD_YES;
}

/* Copies, since a handler may look at them when the connection is gone. */
static bool take_headers(struct http_exchange *exchange, struct problem *problem) {
    struct collector collector = {.exchange = exchange};
    MHD_get_connection_values_n(exchange->mhd, MHD_HEADER_KIND, measure, &collector);
    if (collector.count > HTTP_HEADERS_MAX)
        return problem_set(problem, 431, "too_large", "", "request header: more than %d fields", HTTP_HEADERS_MAX);
    exchange->header_storage = malloc(collector.bytes + 1);
    if (!exchange->header_storage) {
        problem_set(problem, 503, "out_of_memory", "", "the server is short of memory");
        problem->retry_after_ms = 1000;
        return false;
    }
    MHD_get_connection_values_n(exchange->mhd, MHD_HEADER_KIND, collect, &collector);
    return true;
}

static bool check_values(const struct http_exchange *exchange, struct problem *problem) {
    for (size_t i = 0; i < exchange->header_count; i++) {
        if (!is_token(exchange->headers[i].name))
            return malformed(problem, "a field's name is not a token");
        for (const char *at = exchange->headers[i].value; *at; at++)
            if (((unsigned char)*at < 0x20 && *at != '\t') || *at == 0x7f)
                return malformed(problem, "a field's value holds a control character");
    }
    return true;
}

/* The only field of that name, or NULL. False: there are several. */
static bool find_one(const struct http_exchange *exchange, const char *name, const char **ret) {
    *ret = NULL;
    for (size_t i = 0; i < exchange->header_count; i++) {
        if (strcasecmp(exchange->headers[i].name, name) != 0)
            continue;
        if (*ret)
            return false;
        *ret = exchange->headers[i].value;
    }
    return true;
}

/* 1*DIGIT, of at most 15 digits. */
static bool read_length(const char *text, uint64_t *ret) {
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || digits > 15 || text[digits])
        return false;
    *ret = strtoull(text, NULL, 10);
    return true;
}

/* Where the body ends (RFC 9112, 6.3). */
static bool read_framing(struct http_exchange *exchange, bool old, struct problem *problem) {
    const char *length, *coding, *expect;
    if (!find_one(exchange, "Content-Length", &length) || !find_one(exchange, "Transfer-Encoding", &coding))
        return malformed(problem, "Content-Length or Transfer-Encoding is given twice");
    if (length && coding)
        return malformed(problem, "Content-Length beside Transfer-Encoding");
    if (coding && (old || strcasecmp(coding, "chunked") != 0))
        return malformed(problem, "Transfer-Encoding other than chunked, or in HTTP/1.0");
    if (length && !read_length(length, &exchange->content_length))
        return malformed(problem, "Content-Length is not a number of bytes");
    if (!find_one(exchange, "Expect", &expect) || (expect && strcasecmp(expect, "100-continue") != 0))
        return problem_set(problem, 417, "malformed", "Expect", "Expect: must be 100-continue");
    exchange->length_known = length != NULL;
    exchange->has_body = coding || exchange->content_length > 0;
    return true;
}

/* A host with an optional port (RFC 3986), as far as it matters: no user, no path, nothing to break out of a URL with.
 */
static bool is_host(const char *text) {
    static const char others[] = "-._~:[]%";
    size_t length = 0;
    for (; text[length]; length++) {
        char letter = (char)(text[length] | 0x20);
        if (!(letter >= 'a' && letter <= 'z') && !(text[length] >= '0' && text[length] <= '9') &&
            !strchr(others, text[length]))
            return false;
    }
    return length > 0 && length <= 255;
}

static bool read_host(struct http_exchange *exchange, bool old, struct problem *problem) {
    const struct http *http = exchange->http;
    const char *host, *authority = exchange->target.authority;
    if (!find_one(exchange, "Host", &host) || (!host && !old))
        return malformed(problem, "must have one Host");
    if (host && !is_host(host))
        return malformed(problem, "Host is not a host");
    if (authority && host && strcasecmp(authority, host) != 0)
        return malformed(problem, "Host differs from the host of the request target");
    if (authority && !is_host(authority))
        return malformed(problem, "the host of the request target is not one");
    const char *scheme = http->tls_certificate ? "https" : "http", *name = http->config->listen_host;
    if (http->config->public_url)
        snprintf(exchange->base_url, sizeof exchange->base_url, "%s", http->config->public_url);
    else if (host || authority)
        snprintf(exchange->base_url, sizeof exchange->base_url, "%s://%s", scheme, host ? host : authority);
    else
        snprintf(exchange->base_url, sizeof exchange->base_url, strchr(name, ':') ? "%s://[%s]:%d" : "%s://%s:%d",
                 scheme, name, http->port);
    return true;
}

/* The client's own id is kept, so that it finds the request in both logs. */
static bool take_request_id(struct http_exchange *exchange, struct problem *problem) {
    const char *id;
    if (!find_one(exchange, "x-request-id", &id))
        return malformed(problem, "x-request-id is given twice");
    if (!id)
        return true;
    size_t length = strspn(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_");
    if (length > 0 && length <= 64 && !id[length])
        snprintf(exchange->request_id, sizeof exchange->request_id, "%s", id);
    return true;
}

static bool check_single(const struct http_exchange *exchange, struct problem *problem) {
    static const char *const names[] = {"Authorization", "Content-Type", "Content-Encoding", "Idempotency-Key"};
    const char *value;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!find_one(exchange, names[i], &value))
            return problem_set(problem, 400, "malformed", names[i], "request header: %s is given twice", names[i]);
    find_one(exchange, "Content-Encoding", &value);
    if (value && exchange->has_body && strcasecmp(value, "identity") != 0)
        return problem_set(problem, 415, "unsupported", "Content-Encoding", "Content-Encoding: must be identity");
    return true;
}

bool request_read(struct http_exchange *exchange, const char *method, const char *version,
                  struct problem *ret_problem) {
    bool old = strcmp(version, "HTTP/1.0") == 0;
    if (!is_token(method) || strlen(method) >= sizeof exchange->method)
        return malformed(ret_problem, "the method is not one");
    snprintf(exchange->method, sizeof exchange->method, "%s", method);
    if (!old && strcmp(version, "HTTP/1.1") != 0)
        return problem_set(ret_problem, 505, "unsupported", "", "the version must be HTTP/1.1 or HTTP/1.0");
    if (!take_headers(exchange, ret_problem) || !take_request_id(exchange, ret_problem))
        return false;
    if (exchange->version_at && !check_raw(exchange, method, version, ret_problem))
        return false;
    return check_values(exchange, ret_problem) && read_framing(exchange, old, ret_problem) &&
           target_parse(exchange->target_text, &exchange->target, ret_problem) &&
           read_host(exchange, old, ret_problem) && check_single(exchange, ret_problem);
}
