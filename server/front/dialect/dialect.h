/* The three ways to ask for pictures. Each file turns its requests into struct job_request through one table of fields
 * (fields.h) and jobs into its answers. Their routes are put together by the daemon's main. */
#ifndef ASDM_FRONT_DIALECT_H
#define ASDM_FRONT_DIALECT_H

#include "front/http/http.h"
#include "front/job/job.h"

struct dialect {
    const struct config *config;
    struct jobs *jobs;
    struct metrics *metrics;
    struct keys *keys;
};

/* Each fills `ret` with its routes (user = dialect) and returns how many there are (at most `room` are written). */
size_t native_routes(struct dialect *dialect, struct http_route *ret, size_t room);
size_t openai_routes(struct dialect *dialect, struct http_route *ret, size_t room);
size_t a1111_routes(struct dialect *dialect, struct http_route *ret, size_t room);

#endif
