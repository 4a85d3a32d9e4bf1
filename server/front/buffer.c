#include "front/buffer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { FIRST_ROOM = 256 };

void buffer_init(struct buffer *buffer, size_t cap) {
    *buffer = (struct buffer){.cap = cap};
}

void buffer_done(struct buffer *buffer) {
    free(buffer->data);
    *buffer = (struct buffer){.cap = buffer->cap};
}

/* Room for `size` more bytes and the NUL. */
static bool reserve(struct buffer *buffer, size_t size) {
    if (buffer->failed || size > buffer->cap || buffer->length > buffer->cap - size) {
        buffer->failed = true;
        return false;
    }
    size_t needed = buffer->length + size + 1;
    if (needed <= buffer->room)
        return true;
    size_t room = buffer->room ? buffer->room : FIRST_ROOM;
    while (room < needed)
        room = room > buffer->cap / 2 ? (needed > buffer->cap ? needed : buffer->cap + 1) : room * 2;
    char *data = realloc(buffer->data, room);
    if (!data) {
        buffer->failed = true;
        return false;
    }
    buffer->data = data;
    buffer->room = room;
    return true;
}

void buffer_put(struct buffer *buffer, const void *data, size_t size) {
    if (size == 0 || !reserve(buffer, size))
        return;
    memcpy(buffer->data + buffer->length, data, size);
    buffer->length += size;
    buffer->data[buffer->length] = '\0';
}

void buffer_text(struct buffer *buffer, const char *text) {
    buffer_put(buffer, text, strlen(text));
}

void buffer_print(struct buffer *buffer, const char *format, ...) {
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, arguments);
    if (length < 0) {
        buffer->failed = true;
    } else if (length > 0 && reserve(buffer, (size_t)length)) {
        vsnprintf(buffer->data + buffer->length, (size_t)length + 1, format, again);
        buffer->length += (size_t)length;
    }
    va_end(again);
    va_end(arguments);
}

void buffer_json(struct buffer *buffer, const char *text) {
    if (!text) {
        buffer_text(buffer, "null");
        return;
    }
    static const char names[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
    buffer_text(buffer, "\"");
    const char *plain = text; /* start of what needs no escape */
    for (const char *at = text; *at; at++) {
        unsigned char byte = (unsigned char)*at;
        if (byte >= 0x20 && byte != '"' && byte != '\\' && byte != 0x7f)
            continue;
        buffer_put(buffer, plain, (size_t)(at - plain));
        plain = at + 1;
        const char *name = strchr(names, byte);
        if (name)
            buffer_print(buffer, "\\%c", letters[name - names]);
        else
            buffer_print(buffer, "\\u%04x", byte);
    }
    buffer_text(buffer, plain);
    buffer_text(buffer, "\"");
}

void buffer_json_number(struct buffer *buffer, double value) {
    char text[40];
    if (!isfinite(value)) {
        buffer_text(buffer, "null");
        return;
    }
    /* The shortest of these that reads back; 17 digits always do. */
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    buffer_text(buffer, text);
}

/* ---- base64 */

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void buffer_base64(struct buffer *buffer, const void *data, size_t size) {
    const unsigned char *from = data;
    if (size > buffer->cap || !reserve(buffer, (size + 2) / 3 * 4)) {
        buffer->failed = true;
        return;
    }
    char *to = buffer->data + buffer->length;
    for (; size >= 3; size -= 3, from += 3, to += 4) {
        uint32_t bits = (uint32_t)from[0] << 16 | (uint32_t)from[1] << 8 | from[2];
        to[0] = alphabet[bits >> 18];
        to[1] = alphabet[bits >> 12 & 63];
        to[2] = alphabet[bits >> 6 & 63];
        to[3] = alphabet[bits & 63];
    }
    if (size) {
        uint32_t bits = (uint32_t)from[0] << 16 | (size == 2 ? (uint32_t)from[1] << 8 : 0);
        to[0] = alphabet[bits >> 18];
        to[1] = alphabet[bits >> 12 & 63];
        to[2] = size == 2 ? alphabet[bits >> 6 & 63] : '=';
        to[3] = '=';
        to += 4;
    }
    buffer->length = (size_t)(to - buffer->data);
    *to = '\0';
}

enum { DIGIT_BAD = 64, DIGIT_SPACE = 65, DIGIT_PAD = 66 };

/* What each byte means: 0..63, or one of the above. */
static void fill_digits(unsigned char digits[256]) {
    memset(digits, DIGIT_BAD, 256);
    for (int i = 0; i < 64; i++)
        digits[(unsigned char)alphabet[i]] = (unsigned char)i;
    for (const char *space = " \t\r\n\f"; *space; space++)
        digits[(unsigned char)*space] = DIGIT_SPACE;
    digits['='] = DIGIT_PAD;
}

/* Behind "data:[type];base64,", if the text starts so. */
static const char *skip_data_url(const char *text, const char *end) {
    if (end - text < 5 || strncasecmp(text, "data:", 5) != 0)
        return text;
    const char *comma = memchr(text, ',', (size_t)(end - text) < 256 ? (size_t)(end - text) : 256);
    if (!comma || comma - text < 12 || strncasecmp(comma - 7, ";base64", 7) != 0)
        return NULL;
    return comma + 1;
}

bool base64_decode(const char *text, size_t length, unsigned char **ret, size_t *ret_size) {
    unsigned char digits[256];
    const char *end = text + length, *at = skip_data_url(text, end);
    unsigned char *bytes = at ? malloc(length / 4 * 3 + 4) : NULL, *to = bytes;
    if (!bytes)
        return false;
    fill_digits(digits);
    uint32_t bits = 0;
    int count = 0, pads = 0; /* digits of the group so far */
    for (; at < end; at++) {
        unsigned digit = digits[(unsigned char)*at];
        if (digit < 64 && pads == 0) {
            bits = bits << 6 | digit;
            if (++count == 4) {
                *to++ = (unsigned char)(bits >> 16);
                *to++ = (unsigned char)(bits >> 8);
                *to++ = (unsigned char)bits;
                count = 0;
                bits = 0;
            }
        } else if (digit == DIGIT_PAD && pads < 2) {
            pads++;
        } else if (digit != DIGIT_SPACE) {
            free(bytes);
            return false;
        }
    }
    /* Two or three digits are one or two bytes more, whose unused bits must be 0; padding is whole or not there. */
    bool good = count == 0   ? pads == 0
                : count == 2 ? (pads == 0 || pads == 2) && (bits & 15) == 0
                             : count == 3 && pads <= 1 && (bits & 3) == 0;
    if (!good) {
        free(bytes);
        return false;
    }
    if (count >= 2)
        *to++ = (unsigned char)(count == 2 ? bits >> 4 : bits >> 10);
    if (count == 3)
        *to++ = (unsigned char)(bits >> 2);
    *ret = bytes;
    *ret_size = (size_t)(to - bytes);
    return true;
}
