#include "front/dialect/a1111.h"

#include <string.h>

const char *a1111_write_problem(const struct problem *problem, const char *request_id, struct buffer *body) {
    (void)request_id; /* goes into the header x-request-id */
    buffer_print(body,
                 "{\"error\":\"%s\",\"detail\":", problem->status == 422 ? "RequestValidationError" : "HTTPException");
    buffer_json(body, problem->message);
    buffer_text(body, ",\"body\":\"\",\"errors\":");
    buffer_json(body, problem->message);
    buffer_text(body, "}");
    return "application/json";
}

void a1111_answer_text(struct http_exchange *exchange, const char *json) {
    http_answer_static(exchange, 200, "application/json", json, strlen(json));
}

static size_t smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

size_t a1111_routes(struct dialect *dialect, struct http_route *ret, size_t room) {
    size_t count = a1111_generate_routes(dialect->config, ret, room);
    count += a1111_progress_routes(ret + smaller(count, room), room - smaller(count, room));
    count += a1111_list_routes(ret + smaller(count, room), room - smaller(count, room));
    count += a1111_option_routes(ret + smaller(count, room), room - smaller(count, room));
    for (size_t i = 0; i < count && i < room; i++) {
        ret[i].name = ret[i].path;
        ret[i].user = dialect;
        ret[i].problem = a1111_write_problem;
    }
    return count;
}
