#include "front/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LINE_BYTES_MAX = 8192, ENDING_BYTES = 2 /* "}\n" */, VALUE_BYTES_MAX = 1024 };

static const char *const level_names[] = {"error", "warning", "info"};

/* Length of the UTF-8 sequence at `text` (RFC 3629), 0 when there is none. Reads no byte beyond a NUL. */
static size_t utf8_length(const unsigned char *text) {
    if (text[0] < 0x80)
        return 1;
    size_t length = text[0] >= 0xc2 && text[0] < 0xe0 ? 2
                    : (text[0] & 0xf0) == 0xe0        ? 3
                    : (text[0] & 0xf8) == 0xf0        ? 4
                                                      : 0;
    for (size_t i = 1; i < length; i++)
        if ((text[i] & 0xc0) != 0x80)
            return 0;
    bool overlong = (text[0] == 0xe0 && text[1] < 0xa0) || (text[0] == 0xf0 && text[1] < 0x90);
    bool surrogate = text[0] == 0xed && text[1] >= 0xa0;
    bool too_high = text[0] > 0xf4 || (text[0] == 0xf4 && text[1] >= 0x90);
    return overlong || surrogate || too_high ? 0 : length;
}

/* Copies what fits and is UTF-8. */
static void clean(const char *text, char ret[VALUE_BYTES_MAX + 1]) {
    const unsigned char *from = (const unsigned char *)text;
    size_t used = 0;
    while (*from) {
        size_t length = utf8_length(from);
        size_t bytes = length ? length : 1;
        if (used + bytes > VALUE_BYTES_MAX)
            break;
        if (length)
            memcpy(ret + used, from, length);
        else
            ret[used] = '?';
        used += bytes;
        from += bytes;
    }
    ret[used] = '\0';
}

/* Keeps what was put since `mark` only when it went in whole and the line can still be ended. */
static void keep_or_cut(struct buffer *text, size_t mark) {
    if (!text->failed && text->length + ENDING_BYTES <= LINE_BYTES_MAX)
        return;
    text->length = mark;
    text->failed = false;
}

static void put_key(struct buffer *text, const char *key) {
    buffer_text(text, ",");
    buffer_json(text, key);
    buffer_text(text, ":");
}

void log_begin(struct log_line *line, enum log_level level, const char *message) {
    struct timespec now;
    struct tm parts;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &parts);
    char time[32];
    strftime(time, sizeof time, "%Y-%m-%dT%H:%M:%S", &parts);
    buffer_init(&line->text, LINE_BYTES_MAX);
    buffer_print(&line->text, "{\"time\":\"%s.%03ldZ\",\"level\":\"%s\"", time, now.tv_nsec / 1000000,
                 level_names[level]);
    log_text(line, "message", message);
}

void log_text(struct log_line *line, const char *key, const char *value) {
    size_t mark = line->text.length;
    char cleaned[VALUE_BYTES_MAX + 1];
    if (value)
        clean(value, cleaned);
    put_key(&line->text, key);
    buffer_json(&line->text, value ? cleaned : NULL);
    keep_or_cut(&line->text, mark);
}

void log_integer(struct log_line *line, const char *key, int64_t value) {
    size_t mark = line->text.length;
    put_key(&line->text, key);
    buffer_print(&line->text, "%" PRId64, value);
    keep_or_cut(&line->text, mark);
}

void log_seconds(struct log_line *line, const char *key, double seconds) {
    size_t mark = line->text.length;
    put_key(&line->text, key);
    buffer_print(&line->text, "%.6f", seconds);
    keep_or_cut(&line->text, mark);
}

void log_end(struct log_line *line) {
    buffer_text(&line->text, "}\n");
    /* A log that cannot be written is no reason to stop serving; a part of a line is not written a second time. */
    if (!line->text.failed)
        while (write(STDERR_FILENO, line->text.data, line->text.length) < 0 && errno == EINTR)
            ;
    buffer_done(&line->text);
}

void log_message(enum log_level level, const char *format, ...) {
    char text[VALUE_BYTES_MAX + 1];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    struct log_line line;
    log_begin(&line, level, text);
    log_end(&line);
}
