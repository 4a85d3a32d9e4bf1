/* What went wrong with a request, in one form for all dialects; each dialect writes it in its own shape. */
#ifndef ASDM_FRONT_PROBLEM_H
#define ASDM_FRONT_PROBLEM_H

#include <stdbool.h>

struct problem {
    int status;         /* HTTP; 0: none */
    const char *code;   /* static: "invalid_value", "missing_field", "unknown_field", "unknown_model", "queue_full",
                           "rate_limited", "draining", "deadline", "not_found", "gone", "too_large", "unauthorized",
                           "worker_failed", "cancelled", "malformed", ... */
    char field[64];     /* of the request, or "" */
    char message[400];  /* names the field and the allowed values; no path of the server */
    int retry_after_ms; /* 0: repeating the request as it is has no use */
};

/* Fills in *problem and returns false, so that `return problem_set(...)` ends a failing check. */
bool problem_set(struct problem *problem, int status, const char *code, const char *field, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

#endif
