#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>

static struct {
    asdm_log_sink *sink;
    void *user;
    enum asdm_log_level least;
} log_target;

void asdm_log_set_sink(asdm_log_sink *sink, void *user, enum asdm_log_level least) {
    log_target.sink = sink;
    log_target.user = user;
    log_target.least = least;
}

void asdm_log(enum asdm_log_level level, const char *format, ...) {
    if (!log_target.sink || level < log_target.least)
        return;
    char message[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    log_target.sink(log_target.user, level, message);
}
