#include "front/problem.h"

#include <stdarg.h>
#include <stdio.h>

bool problem_set(struct problem *problem, int status, const char *code, const char *field, const char *format, ...) {
    va_list arguments;
    problem->status = status;
    problem->code = code;
    problem->retry_after_ms = 0;
    snprintf(problem->field, sizeof problem->field, "%s", field ? field : "");
    va_start(arguments, format);
    vsnprintf(problem->message, sizeof problem->message, format, arguments);
    va_end(arguments);
    return false;
}
