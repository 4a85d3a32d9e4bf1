/* What native.c and native_answer.c share. */
#ifndef ASDM_FRONT_NATIVE_H
#define ASDM_FRONT_NATIVE_H

#include "front/dialect/waiter.h"

enum native_form { NATIVE_JSON, NATIVE_PNG, NATIVE_EVENTS };

const char *native_write_problem(const struct problem *problem, const char *request_id, struct buffer *body);
/* A job as the API shows it. */
void native_write_job(const struct dialect *dialect, const struct job_view *view, struct buffer *to);
/* Bytes that are enough for native_write_job. */
size_t native_job_bytes(const struct job_view *view);
void native_answer_job(const struct dialect *dialect, struct http_exchange *exchange, int status, struct job *job);
/* Finished job or event stream, as the waiter's form says. */
void native_on_event(struct waiter *waiter, const struct job_event *event);
/* The event "progress" as things are now. */
void native_send_progress(struct http_exchange *exchange, const struct job_view *view);

#endif
