/* An exchange that waits for a job: how the synchronous and the streamed answers hold together job, client and the
 * events between them. */
#ifndef ASDM_FRONT_WAITER_H
#define ASDM_FRONT_WAITER_H

#include <stdatomic.h>

#include "front/dialect/dialect.h"

struct waiter;
/* On the notifier's thread; `event` FINISHED comes last. */
typedef void waiter_event(struct waiter *waiter, const struct job_event *event);

struct waiter {
    const struct dialect *dialect;
    struct http_exchange *exchange;
    struct job *job;
    waiter_event *on_event;
    int form;         /* the dialect's word for how it answers */
    bool *told;       /* [count]: the pictures that the client knows of */
    bool cancels;     /* a client that goes takes the job with it */
    atomic_int users; /* who holds it: the job's events and the exchange's end */
};

/* Watches `job` for `exchange`; takes the reference to the job. `cancels`: the client's leaving cancels it ("gone").
 * Answers by itself when there is no memory. */
void waiter_start(const struct dialect *dialect, struct http_exchange *exchange, struct job *job, bool cancels,
                  int form, waiter_event *on_event);

/* jobs_submit for the exchange's caller; the idempotency key may come as a header, too. */
bool waiter_submit(const struct dialect *dialect, struct http_exchange *exchange, struct job_request *request,
                   struct job **ret, bool *ret_again, struct problem *ret_problem);

/* x-queue-time, x-inference-time, x-total-time and x-job-id. */
void waiter_set_headers(struct http_exchange *exchange, const struct job_view *view);

#endif
