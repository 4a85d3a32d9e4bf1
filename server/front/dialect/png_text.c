#include "front/dialect/png_text.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { SIGNATURE_BYTES = 8, FRAME_BYTES = 12 /* length, type and checksum of a chunk */, KEY_BYTES_MAX = 79 };

void png_texts_done(struct png_texts *texts) {
    for (int i = 0; i < texts->count; i++) {
        free(texts->items[i].key);
        free(texts->items[i].value);
    }
    texts->count = 0;
}

const char *png_texts_find(const struct png_texts *texts, const char *key) {
    for (int i = 0; i < texts->count; i++)
        if (strcmp(texts->items[i].key, key) == 0)
            return texts->items[i].value;
    return NULL;
}

/* How many bytes the UTF-8 character has that begins here; 0: it is none. */
static size_t utf8_length(const unsigned char *data, size_t size) {
    unsigned char c = data[0];
    size_t length = c < 0x80                ? 1
                    : c >= 0xc2 && c < 0xe0 ? 2
                    : c >= 0xe0 && c < 0xf0 ? 3
                    : c >= 0xf0 && c < 0xf5 ? 4
                                            : 0;
    if (length == 0 || length > size)
        return 0;
    for (size_t i = 1; i < length; i++)
        if ((data[i] & 0xc0) != 0x80)
            return 0;
    /* Longer than needed, surrogates, beyond U+10FFFF. */
    if ((c == 0xe0 && data[1] < 0xa0) || (c == 0xed && data[1] > 0x9f) || (c == 0xf0 && data[1] < 0x90) ||
        (c == 0xf4 && data[1] > 0x8f))
        return 0;
    return length;
}

static bool is_utf8(const unsigned char *data, size_t size) {
    for (size_t i = 0; i < size;) {
        size_t length = utf8_length(data + i, size - i);
        if (length == 0)
            return false;
        i += length;
    }
    return true;
}

static char *from_latin1(const unsigned char *data, size_t size) {
    char *text = malloc(2 * size + 1);
    size_t length = 0;
    for (size_t i = 0; text && i < size; i++) {
        if (data[i] >= 0x80)
            text[length++] = (char)(0xc0 | data[i] >> 6);
        text[length++] = (char)(data[i] < 0x80 ? data[i] : 0x80 | (data[i] & 0x3f));
    }
    if (text)
        text[length] = '\0';
    return text;
}

/* ---- one chunk */

struct reader {
    const char *field;
    struct png_texts *texts;
    size_t bytes; /* of text so far */
    struct problem *problem;
};

static bool fail(struct reader *reader, const char *what) {
    return problem_set(reader->problem, 422, "invalid_value", reader->field, "%s: %s", reader->field, what);
}

static bool fail_memory(struct reader *reader) {
    problem_set(reader->problem, 503, "out_of_memory", "", "the server is short of memory");
    reader->problem->retry_after_ms = 1000;
    return false;
}

static bool add(struct reader *reader, char *key, char *value) {
    struct png_texts *texts = reader->texts;
    int at = 0;
    while (key && at < texts->count && strcmp(texts->items[at].key, key) != 0)
        at++;
    if (!key || !value || at == PNG_TEXTS_MAX) {
        free(key);
        free(value);
        return key && value ? fail(reader, "has too many texts") : fail_memory(reader);
    }
    if (at < texts->count) {
        free(texts->items[at].key);
        free(texts->items[at].value);
    } else {
        texts->count++;
    }
    texts->items[at].key = key;
    texts->items[at].value = value;
    return true;
}

/* Where the text of an iTXt chunk begins, behind its flags, language and translated key; 0: damaged. */
static size_t find_international(struct reader *reader, const unsigned char *data, size_t size, size_t at) {
    if (size - at < 2) {
        fail(reader, "is a damaged PNG (text)");
        return 0;
    }
    if (data[at] != 0) {
        fail(reader, "has compressed text, which is not read");
        return 0;
    }
    at += 2;
    for (int i = 0; i < 2; i++) {
        const unsigned char *end = memchr(data + at, '\0', size - at);
        if (!end) {
            fail(reader, "is a damaged PNG (text)");
            return 0;
        }
        at = (size_t)(end - data) + 1;
    }
    return at;
}

static bool read_text(struct reader *reader, const unsigned char *data, size_t size, bool international) {
    const unsigned char *end = memchr(data, '\0', size);
    if (!end || end == data || end - data > KEY_BYTES_MAX)
        return fail(reader, "is a damaged PNG (key of a text)");
    reader->bytes += size;
    if (reader->bytes > PNG_TEXT_BYTES_MAX)
        return fail(reader, "has too much text");
    size_t at = (size_t)(end - data) + 1;
    if (international && (at = find_international(reader, data, size, at)) == 0)
        return false;
    if (memchr(data + at, '\0', size - at))
        return fail(reader, "is a damaged PNG (text)");
    bool utf8 = international && is_utf8(data + at, size - at);
    return add(reader, from_latin1(data, (size_t)(end - data)),
               utf8 ? strndup((const char *)data + at, size - at) : from_latin1(data + at, size - at));
}

static bool read_chunk(struct reader *reader, const unsigned char *type, const unsigned char *data, size_t size) {
    if (memcmp(type, "tEXt", 4) == 0)
        return read_text(reader, data, size, false);
    if (memcmp(type, "iTXt", 4) == 0)
        return read_text(reader, data, size, true);
    if (memcmp(type, "zTXt", 4) == 0)
        return fail(reader, "has compressed text, which is not read");
    return true;
}

static bool read_chunks(struct reader *reader, const unsigned char *data, size_t size) {
    for (size_t at = SIGNATURE_BYTES; size - at >= FRAME_BYTES;) {
        const unsigned char *chunk = data + at;
        size_t length = (size_t)chunk[0] << 24 | (size_t)chunk[1] << 16 | (size_t)chunk[2] << 8 | chunk[3];
        if (length > size - at - FRAME_BYTES)
            break;
        if (memcmp(chunk + 4, "IEND", 4) == 0)
            return true;
        if (!read_chunk(reader, chunk + 4, chunk + 8, length))
            return false;
        at += FRAME_BYTES + length;
    }
    return fail(reader, "is a damaged PNG (it ends too early)");
}

bool png_texts_read(const unsigned char *data, size_t size, const char *field, struct png_texts *ret,
                    struct problem *ret_problem) {
    static const unsigned char signature[SIGNATURE_BYTES] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    struct png_texts texts = {.count = 0};
    struct reader reader = {.field = field, .texts = &texts, .problem = ret_problem};
    if (size < sizeof signature || memcmp(data, signature, sizeof signature) != 0)
        return fail(&reader, "must be a base64 PNG");
    if (!read_chunks(&reader, data, size)) {
        png_texts_done(&texts);
        return false;
    }
    *ret = texts;
    return true;
}
