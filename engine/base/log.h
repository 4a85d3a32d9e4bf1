/* The library's only voice: it returns errors and never prints them, but may tell what it did. The application
 * chooses where that goes; without a sink nothing is written. */
#ifndef ASDM_BASE_LOG_H
#define ASDM_BASE_LOG_H

enum asdm_log_level { ASDM_LOG_DEBUG, ASDM_LOG_INFO, ASDM_LOG_WARNING };

/* `message` has no newline and is valid during the call only. Called from any thread. */
typedef void asdm_log_sink(void *user, enum asdm_log_level level, const char *message);

/* Set once at start, before other threads run. NULL: silence. */
void asdm_log_set_sink(asdm_log_sink *sink, void *user, enum asdm_log_level least);

void asdm_log(enum asdm_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
