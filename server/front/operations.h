/* The addresses for those who run the daemon: /metrics, /healthz, /readyz, /version. */
#ifndef ASDM_FRONT_OPERATIONS_H
#define ASDM_FRONT_OPERATIONS_H

#include <stdatomic.h>

#include "front/http/http.h"
#include "front/job/job.h"

struct operations {
    const struct config *config;
    struct jobs *jobs;
    struct metrics *metrics;
    struct http *http;    /* set between http_create and http_start */
    atomic_bool stopping; /* SIGTERM came: not ready from now on */
};

/* Fills `ret` with the routes (user = operations) and returns how many there are (at most `room` are written). */
size_t operations_routes(struct operations *operations, struct http_route *ret, size_t room);

#endif
