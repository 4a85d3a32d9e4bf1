/* A growing text, born with a cap: how every answer is written. An allocation that fails, or the cap, is remembered and
 * asked for once at the end. */
#ifndef ASDM_FRONT_BUFFER_H
#define ASDM_FRONT_BUFFER_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer {
    char *data; /* NUL-terminated when length > 0 */
    size_t length, room, cap;
    bool failed;
};

void buffer_init(struct buffer *buffer, size_t cap);
void buffer_done(struct buffer *buffer);
void buffer_put(struct buffer *buffer, const void *data, size_t size);
void buffer_text(struct buffer *buffer, const char *text);
void buffer_print(struct buffer *buffer, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A JSON string with its quotes (RFC 8259); `text` is UTF-8, NULL writes null. */
void buffer_json(struct buffer *buffer, const char *text);
/* A JSON number that reads back as the same double; null for what is not finite. */
void buffer_json_number(struct buffer *buffer, double value);
void buffer_base64(struct buffer *buffer, const void *data, size_t size);

/* Decodes base64 (RFC 4648, padding optional, ASCII white space skipped, an optional "data:...;base64," before it) into
 * malloc'ed bytes. False: not base64, or no memory. */
bool base64_decode(const char *text, size_t length, unsigned char **ret, size_t *ret_size);

#endif
