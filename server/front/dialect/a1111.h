/* What the a1111_*.c files share. A1111's clients name no job, so progress and interrupt are about the caller's jobs of
 * this dialect, and the choice of a model is the caller's, too. Both are kept here while the daemon runs. */
#ifndef ASDM_FRONT_A1111_H
#define ASDM_FRONT_A1111_H

#include <asdm/json.h>

#include "front/dialect/dialect.h"

enum { A1111_TITLE_BYTES = 192, A1111_SMALL_BODY_BYTES = 1 << 20 };

const char *a1111_write_problem(const struct problem *problem, const char *request_id, struct buffer *body);
void a1111_answer_text(struct http_exchange *exchange, const char *json); /* 200; a static text */

/* ---- a1111_state.c: by caller */

/* The job counts as the caller's until it is forgotten or finished. Has a reference of its own. Without memory for it
 * the job runs all the same, out of reach of progress and interrupt. */
void a1111_track(const struct key *caller, struct job *job);
void a1111_forget(struct job *job);

struct a1111_active {
    struct job *job; /* a reference */
    bool interrupted, skipped;
};
/* The caller's unfinished jobs, oldest first. Returns how many were written. */
int a1111_list_active(const struct key *caller, struct a1111_active *ret, int room);
/* Cancels them all. */
void a1111_interrupt(const struct key *caller, bool skip);

/* The model that the caller chose, 0 before. False: no memory. */
bool a1111_choose_model(const struct key *caller, int model);
int a1111_chosen_model(const struct key *caller);

/* ---- a1111_lists.c */

/* "name [hash]", or "name" while the hash is not known. */
void a1111_model_title(const struct model_view *model, char ret[A1111_TITLE_BYTES]);

/* ---- a1111_json.c */

void a1111_write_node(const struct asdm_json *node, struct buffer *to);
/* The request as it was understood: every field that A1111 has, with its value or default. Pictures are left out. */
void a1111_write_parameters(const struct asdm_json *object, const struct job_request *request, struct buffer *to);
/* "info" without the quotes around it: how the pictures that are there were made. */
void a1111_write_info(const struct asdm_json *object, const struct job_view *view, const struct model_view *model,
                      struct buffer *to);
/* "20240131235959", in UTC. */
void a1111_timestamp(int64_t unix_ms, char ret[16]);

/* ---- the addresses; each fills `ret` as a1111_routes does, without user and problem */

size_t a1111_generate_routes(const struct config *config, struct http_route *ret, size_t room);
size_t a1111_progress_routes(struct http_route *ret, size_t room);
size_t a1111_list_routes(struct http_route *ret, size_t room);
size_t a1111_option_routes(struct http_route *ret, size_t room);

#endif
