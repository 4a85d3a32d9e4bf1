#include "base/json_scan.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>

void asdm_json_scan_init(struct asdm_json_scan *scan, const char *text, size_t length, const char *name) {
    *scan = (struct asdm_json_scan){text, text, text + length, name};
}

enum asdm_status asdm_json_scan_fail(const struct asdm_json_scan *scan, const char *at, struct asdm_error *err,
                                     const char *format, ...) {
    char what[512];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    size_t line = 1, column = 1;
    for (const char *c = scan->text; c < at; c++) {
        if (*c == '\n')
            line++, column = 1;
        else if ((*c & 0xc0) != 0x80) /* not a continuation byte */
            column++;
    }
    return asdm_fail(err, ASDM_ERR_FORMAT, "%s: line %zu, column %zu: %s", scan->name, line, column, what);
}

enum asdm_status asdm_json_scan_expected(const struct asdm_json_scan *scan, const char *what, struct asdm_error *err) {
    if (scan->at == scan->end)
        return asdm_json_scan_fail(scan, scan->at, err, "expected %s, found the end of the text", what);
    unsigned char c = (unsigned char)*scan->at;
    if (c > ' ' && c < 0x7f)
        return asdm_json_scan_fail(scan, scan->at, err, "expected %s, found '%c'", what, c);
    return asdm_json_scan_fail(scan, scan->at, err, "expected %s, found byte 0x%02x", what, c);
}

void asdm_json_scan_space(struct asdm_json_scan *scan) {
    while (scan->at < scan->end && (*scan->at == ' ' || *scan->at == '\n' || *scan->at == '\r' || *scan->at == '\t'))
        scan->at++;
}

int asdm_json_scan_peek(struct asdm_json_scan *scan) {
    asdm_json_scan_space(scan);
    return scan->at < scan->end ? (unsigned char)*scan->at : -1;
}

enum asdm_status asdm_json_scan_expect(struct asdm_json_scan *scan, char c, const char *what, struct asdm_error *err) {
    if (asdm_json_scan_peek(scan) != c)
        return asdm_json_scan_expected(scan, what, err);
    scan->at++;
    return ASDM_OK;
}

enum asdm_status asdm_json_scan_more(struct asdm_json_scan *scan, char close, bool *first, bool *ret_more,
                                     struct asdm_error *err) {
    int next = asdm_json_scan_peek(scan);
    bool closed = next == close;
    if (!closed && !*first) {
        if (next != ',')
            return asdm_json_scan_expected(scan, close == '}' ? "',' or '}'" : "',' or ']'", err);
        const char *comma = scan->at++;
        if (asdm_json_scan_peek(scan) == close)
            return asdm_json_scan_fail(scan, comma, err, "a comma before '%c'", close);
    }
    if (closed)
        scan->at++;
    *first = false;
    *ret_more = !closed;
    return ASDM_OK;
}

size_t asdm_utf8_length(const char *text, size_t length) {
    const unsigned char *c = (const unsigned char *)text;
    if (c[0] < 0x80)
        return 1;
    if (c[0] < 0xc2 || c[0] > 0xf4) /* c0, c1: overlong; above f4: past U+10FFFF */
        return 0;
    size_t need = c[0] < 0xe0 ? 2 : c[0] < 0xf0 ? 3 : 4;
    if (length < need)
        return 0;
    /* The second byte excludes overlong forms, surrogates and what lies past U+10FFFF. */
    unsigned char low = c[0] == 0xe0 ? 0xa0 : c[0] == 0xf0 ? 0x90 : 0x80;
    unsigned char high = c[0] == 0xed ? 0x9f : c[0] == 0xf4 ? 0x8f : 0xbf;
    if (c[1] < low || c[1] > high)
        return 0;
    for (size_t i = 2; i < need; i++)
        if ((c[i] & 0xc0) != 0x80)
            return 0;
    return need;
}

/* Four hexadecimal digits; -1 when they are not. */
static int hex4(const char *text, const char *end) {
    int value = 0;
    if (end - text < 4)
        return -1;
    for (int i = 0; i < 4; i++) {
        char c = text[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0)
            return -1;
        value = value << 4 | digit;
    }
    return value;
}

/* At a backslash; moves past the escape. */
static enum asdm_status scan_escape(struct asdm_json_scan *scan, struct asdm_error *err) {
    const char *start = scan->at++;
    if (scan->at == scan->end)
        return asdm_json_scan_fail(scan, start, err, "a string does not end");
    char kind = *scan->at++;
    if (kind != 'u') {
        if (kind != '\0' && strchr("\"\\/bfnrt", kind))
            return ASDM_OK;
        return asdm_json_scan_fail(scan, start, err, "an unknown escape in a string");
    }
    int unit = hex4(scan->at, scan->end);
    if (unit < 0)
        return asdm_json_scan_fail(scan, start, err, "\\u is not followed by four hexadecimal digits");
    if (unit == 0)
        return asdm_json_scan_fail(scan, start, err, "\\u0000 is not allowed");
    scan->at += 4;
    if (unit >= 0xdc00 && unit <= 0xdfff)
        return asdm_json_scan_fail(scan, start, err, "a low surrogate without the high one before it");
    if (unit < 0xd800 || unit > 0xdbff)
        return ASDM_OK;
    int low =
        scan->end - scan->at >= 6 && scan->at[0] == '\\' && scan->at[1] == 'u' ? hex4(scan->at + 2, scan->end) : -1;
    if (low < 0xdc00 || low > 0xdfff)
        return asdm_json_scan_fail(scan, start, err, "a high surrogate without the low one after it");
    scan->at += 6;
    return ASDM_OK;
}

enum asdm_status asdm_json_scan_string(struct asdm_json_scan *scan, struct asdm_json_text *ret,
                                       struct asdm_error *err) {
    ASDM_TRY(asdm_json_scan_expect(scan, '"', "a string", err));
    struct asdm_json_text text = {scan->at, 0, false};
    while (scan->at < scan->end && *scan->at != '"') {
        unsigned char c = (unsigned char)*scan->at;
        if (c == '\\') {
            text.escaped = true;
            ASDM_TRY(scan_escape(scan, err));
        } else if (c < 0x20) {
            return asdm_json_scan_fail(scan, scan->at, err, "a control character (0x%02x) in a string", c);
        } else if (c < 0x80) {
            scan->at++;
        } else {
            size_t length = asdm_utf8_length(scan->at, (size_t)(scan->end - scan->at));
            if (length == 0)
                return asdm_json_scan_fail(scan, scan->at, err, "invalid UTF-8 in a string");
            scan->at += length;
        }
    }
    if (scan->at == scan->end)
        return asdm_json_scan_fail(scan, text.raw - 1, err, "a string does not end");
    text.length = (size_t)(scan->at++ - text.raw);
    *ret = text;
    return ASDM_OK;
}

enum asdm_status asdm_json_scan_key(struct asdm_json_scan *scan, struct asdm_json_text *ret, struct asdm_error *err) {
    if (asdm_json_scan_peek(scan) != '"')
        return asdm_json_scan_expected(scan, "a key in quotation marks", err);
    struct asdm_json_text key;
    ASDM_TRY(asdm_json_scan_string(scan, &key, err));
    ASDM_TRY(asdm_json_scan_expect(scan, ':', "':' after a key", err));
    *ret = key;
    return ASDM_OK;
}

static bool is_digit(const struct asdm_json_scan *scan) {
    return scan->at < scan->end && *scan->at >= '0' && *scan->at <= '9';
}

static enum asdm_status scan_digits(struct asdm_json_scan *scan, struct asdm_error *err) {
    if (!is_digit(scan))
        return asdm_json_scan_expected(scan, "a digit", err);
    while (is_digit(scan))
        scan->at++;
    return ASDM_OK;
}

/* Does a number with an exponent overflow a double? The point is moved into the exponent, so that the answer does not
 * depend on the locale's decimal point. */
static bool overflows(const char *number, const char *end) {
    char text[ASDM_JSON_NUMBER_LENGTH_MAX + 24];
    size_t used = 0;
    int point = 0, exponent = 0;
    const char *c = *number == '-' ? number + 1 : number;
    for (bool fraction = false; *c != 'e' && *c != 'E'; c++) {
        if (*c == '.') {
            fraction = true;
        } else {
            text[used++] = *c;
            point -= fraction;
        }
    }
    c++;
    bool negative = *c == '-';
    if (*c == '-' || *c == '+')
        c++;
    for (; c < end; c++)
        exponent = exponent > 99999 ? exponent : exponent * 10 + (*c - '0');
    snprintf(text + used, sizeof text - used, "e%d", (negative ? -exponent : exponent) + point);
    return isinf(strtod(text, NULL));
}

enum asdm_status asdm_json_scan_number(struct asdm_json_scan *scan, struct asdm_error *err) {
    asdm_json_scan_space(scan);
    const char *start = scan->at;
    bool exponent = false;
    if (scan->at < scan->end && *scan->at == '-')
        scan->at++;
    const char *first = scan->at;
    ASDM_TRY(scan_digits(scan, err));
    if (*first == '0' && scan->at - first > 1)
        return asdm_json_scan_fail(scan, start, err, "a number with a leading zero");
    if (scan->at < scan->end && *scan->at == '.') {
        scan->at++;
        ASDM_TRY(scan_digits(scan, err));
    }
    if (scan->at < scan->end && (*scan->at == 'e' || *scan->at == 'E')) {
        exponent = true;
        scan->at++;
        if (scan->at < scan->end && (*scan->at == '+' || *scan->at == '-'))
            scan->at++;
        ASDM_TRY(scan_digits(scan, err));
    }
    if (scan->at - start > ASDM_JSON_NUMBER_LENGTH_MAX) /* cJSON would cut it */
        return asdm_json_scan_fail(scan, start, err, "a number of more than %d characters",
                                   ASDM_JSON_NUMBER_LENGTH_MAX);
    if (exponent && overflows(start, scan->at))
        return asdm_json_scan_fail(scan, start, err, "a number too large for a double");
    return ASDM_OK;
}

enum asdm_status asdm_json_scan_u64(struct asdm_json_scan *scan, uint64_t *ret, struct asdm_error *err) {
    asdm_json_scan_space(scan);
    const char *start = scan->at;
    uint64_t value = 0;
    if (!is_digit(scan))
        return asdm_json_scan_expected(scan, "an integer from 0 on", err);
    for (; is_digit(scan); scan->at++) {
        if (__builtin_mul_overflow(value, (uint64_t)10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*scan->at - '0'), &value))
            return asdm_json_scan_fail(scan, start, err, "an integer that does not fit 64 bits");
    }
    if (*start == '0' && scan->at - start > 1)
        return asdm_json_scan_fail(scan, start, err, "a number with a leading zero");
    if (scan->at < scan->end && (*scan->at == '.' || *scan->at == 'e' || *scan->at == 'E'))
        return asdm_json_scan_fail(scan, start, err, "a number with a fraction or exponent where an integer belongs");
    *ret = value;
    return ASDM_OK;
}

enum asdm_status asdm_json_scan_end(struct asdm_json_scan *scan, struct asdm_error *err) {
    return asdm_json_scan_peek(scan) < 0 ? ASDM_OK : asdm_json_scan_expected(scan, "nothing more", err);
}

static size_t encode_utf8(uint32_t code, char *out) {
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        out[0] = (char)(0xc0 | code >> 6);
        out[1] = (char)(0x80 | (code & 0x3f));
        return 2;
    }
    if (code < 0x10000) {
        out[0] = (char)(0xe0 | code >> 12);
        out[1] = (char)(0x80 | (code >> 6 & 0x3f));
        out[2] = (char)(0x80 | (code & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | code >> 18);
    out[1] = (char)(0x80 | (code >> 12 & 0x3f));
    out[2] = (char)(0x80 | (code >> 6 & 0x3f));
    out[3] = (char)(0x80 | (code & 0x3f));
    return 4;
}

size_t asdm_json_text_decode(const struct asdm_json_text *text, char *out) {
    static const char escapes[] = "b\bf\fn\nr\rt\t"; /* the others stand for themselves */
    const char *c = text->raw, *end = text->raw + text->length;
    size_t used = 0;
    while (c < end) {
        if (*c != '\\') {
            out[used++] = *c++;
            continue;
        }
        if (c[1] != 'u') {
            const char *escape = strchr("bfnrt", c[1]) ? strchr(escapes, c[1]) : NULL;
            out[used++] = escape ? escape[1] : c[1];
            c += 2;
            continue;
        }
        uint32_t code = (uint32_t)hex4(c + 2, end);
        c += 6;
        if (code >= 0xd800 && code <= 0xdbff) {
            code = 0x10000 + ((code - 0xd800) << 10) + ((uint32_t)hex4(c + 2, end) - 0xdc00);
            c += 6;
        }
        used += encode_utf8(code, out + used);
    }
    return used;
}

bool asdm_json_text_equals(const struct asdm_json_text *text, const char *word) {
    char decoded[6 * 32]; /* an escape spends at most six bytes on a character of one */
    size_t length = strlen(word);
    if (!text->escaped)
        return text->length == length && memcmp(text->raw, word, length) == 0;
    if (text->length > sizeof decoded)
        return false;
    return asdm_json_text_decode(text, decoded) == length && memcmp(decoded, word, length) == 0;
}

const char *asdm_json_excerpt(const char *text, size_t length, char out[ASDM_JSON_EXCERPT_BYTES]) {
    const size_t room = ASDM_JSON_EXCERPT_BYTES - 4; /* "..." and NUL */
    size_t used = 0;
    for (size_t step; used < length; used += step) {
        step = asdm_utf8_length(text + used, length - used);
        bool strange = step == 0 || (unsigned char)text[used] < 0x20 || text[used] == 0x7f;
        step = step ? step : 1;
        if (used + step > room) {
            memcpy(out + used, "...", 4);
            return out;
        }
        memcpy(out + used, strange ? "?" : text + used, step);
    }
    out[used] = '\0';
    return out;
}
