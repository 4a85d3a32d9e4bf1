#include <asdm/error.h>

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *asdm_status_name(enum asdm_status status) {
    switch (status) {
#define ASDM_STATUS_NAME(symbol, name, meaning)                                                                        \
    case symbol:                                                                                                       \
        return name;
        ASDM_STATUS_LIST(ASDM_STATUS_NAME)
#undef ASDM_STATUS_NAME
    }
    return "unknown status";
}

enum asdm_status asdm_fail(struct asdm_error *err, enum asdm_status status, const char *format, ...) {
    if (err) {
        va_list args;
        va_start(args, format);
        err->status = status;
        vsnprintf(err->message, sizeof err->message, format, args);
        va_end(args);
    }
    return status;
}

enum asdm_status asdm_fail_context(struct asdm_error *err, enum asdm_status status, const char *format, ...) {
    if (err) {
        char context[sizeof err->message];
        char inner[sizeof err->message];
        va_list args;
        va_start(args, format);
        vsnprintf(context, sizeof context, format, args);
        va_end(args);
        memcpy(inner, err->message, sizeof inner);
        err->status = status;
        size_t used = (size_t)snprintf(err->message, sizeof err->message, "%s: ", context);
        if (used < sizeof err->message)
            snprintf(err->message + used, sizeof err->message - used, "%s", inner);
    }
    return status;
}

void asdm_assert_failed(const char *condition, const char *file, int line) {
    fprintf(stderr, "asdm: assertion failed: %s (%s:%d)\n", condition, file, line);
    abort();
}
