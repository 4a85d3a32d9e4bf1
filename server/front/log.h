/* The daemon's log: one JSON object a line on stderr, {"time":..,"level":..,"message":..,fields}, each line one
 * write(2), so that lines of threads and processes do not mix. Safe from any thread. */
#ifndef ASDM_FRONT_LOG_H
#define ASDM_FRONT_LOG_H

#include <stdint.h>

#include "front/buffer.h"

/* Named apart from syslog.h's LOG_INFO and so on. */
enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO };

/* A line being made. What comes from outside is cut to a limit, and bytes that are not UTF-8 become '?'. A field for
 * which the line has no room is left out. */
struct log_line {
    struct buffer text;
};

/* log_begin(&line, LOG_LEVEL_INFO, "request"); log_text(&line, "path", path); ...; log_end(&line); */
void log_begin(struct log_line *line, enum log_level level, const char *message);
void log_text(struct log_line *line, const char *key, const char *value); /* NULL: null */
void log_integer(struct log_line *line, const char *key, int64_t value);
void log_seconds(struct log_line *line, const char *key, double seconds); /* six decimals */
void log_end(struct log_line *line);

/* A line without fields. */
void log_message(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
