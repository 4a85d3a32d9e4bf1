#include <stdlib.h>
#include <string.h>

#include "front/http/internal.h"

struct match {
    const char *name[HTTP_PARAMS_MAX], *value[HTTP_PARAMS_MAX];
    size_t name_length[HTTP_PARAMS_MAX], value_length[HTTP_PARAMS_MAX];
    size_t count;
};

/* Whether `path` is one of `pattern`'s: segment by segment, "{name}" being any one that is not empty. */
static bool matches(const char *pattern, const char *path, struct match *ret) {
    ret->count = 0;
    while (*pattern && *path) {
        if (*pattern != '{') {
            if (*pattern++ != *path++)
                return false;
            continue;
        }
        size_t name = strcspn(pattern, "}"), value = strcspn(path, "/");
        if (value == 0 || ret->count == HTTP_PARAMS_MAX)
            return false;
        ret->name[ret->count] = pattern + 1;
        ret->name_length[ret->count] = name - 1;
        ret->value[ret->count] = path;
        ret->value_length[ret->count++] = value;
        pattern += name + 1;
        path += value;
    }
    return *pattern == *path;
}

static bool take_params(struct http_exchange *exchange, const struct match *match) {
    for (size_t i = 0; i < match->count; i++) {
        /* Both texts in one block, the value first. */
        size_t value = match->value_length[i], name = match->name_length[i];
        char *block = malloc(value + name + 2);
        if (!block)
            return false;
        memcpy(block, match->value[i], value);
        block[value] = '\0';
        memcpy(block + value + 1, match->name[i], name);
        block[value + 1 + name] = '\0';
        exchange->params[i].value = block;
        exchange->params[i].name = block + value + 1;
        exchange->param_count = i + 1;
    }
    return true;
}

static bool refuse_method(struct http_exchange *exchange, struct problem *problem) {
    struct buffer allow;
    struct match match;
    const struct http *http = exchange->http;
    buffer_init(&allow, 256);
    for (size_t i = 0; i < http->route_count; i++) {
        if (!matches(http->routes[i].path, exchange->target.path, &match))
            continue;
        buffer_print(&allow, "%s%s", allow.length ? ", " : "", http->routes[i].method);
        if (strcmp(http->routes[i].method, "GET") == 0)
            buffer_text(&allow, ", HEAD");
    }
    if (allow.length && !allow.failed)
        http_set_header(exchange, "Allow", allow.data);
    problem_set(problem, 405, "method_not_allowed", "", "method: must be one of %s",
                allow.length ? allow.data : "those allowed");
    buffer_done(&allow);
    return false;
}

bool route_find(struct http_exchange *exchange, struct problem *ret_problem) {
    const struct http *http = exchange->http;
    const char *method = strcmp(exchange->method, "HEAD") == 0 ? "GET" : exchange->method;
    const struct http_route *other = NULL; /* the address, with another method */
    struct match match;
    for (size_t i = 0; i < http->route_count; i++) {
        const struct http_route *route = &http->routes[i];
        if (!matches(route->path, exchange->target.path, &match))
            continue;
        if (strcmp(route->method, method) == 0) {
            exchange->route = route;
            if (take_params(exchange, &match))
                return true;
            problem_set(ret_problem, 503, "out_of_memory", "", "the server is short of memory");
            ret_problem->retry_after_ms = 1000;
            return false;
        }
        other = route;
    }
    if (!other)
        return problem_set(ret_problem, 404, "not_found", "", "there is nothing at this address");
    exchange->route = other; /* for the shape of the answer */
    return refuse_method(exchange, ret_problem);
}
