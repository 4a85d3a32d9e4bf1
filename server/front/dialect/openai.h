/* What openai.c and openai_answer.c share. */
#ifndef ASDM_FRONT_OPENAI_H
#define ASDM_FRONT_OPENAI_H

#include "front/dialect/waiter.h"

enum openai_form { OPENAI_URL = 1, OPENAI_STREAM = 2, OPENAI_EDIT = 4 }; /* bits of waiter's form */

const char *openai_write_problem(const struct problem *problem, const char *request_id, struct buffer *body);
void openai_answer_problem(struct http_exchange *exchange, struct problem *problem);

/* Answers by the job's events, at its end or as a stream. */
void openai_on_event(struct waiter *waiter, const struct job_event *event);

#endif
