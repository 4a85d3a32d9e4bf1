/* Reading JSON strictly, one token at a time (RFC 8259): what the parser of configurations (json.c) and the reader of
 * safetensors headers (tensor/safetensors.c) share. Stricter than the RFC: NUL bytes, \u0000, lone surrogates, numbers
 * that overflow a double and numbers of more than 63 characters are refused. All failures are ERR_FORMAT with
 * "NAME: line L, column C: ..."; columns count characters. */
#ifndef ASDM_BASE_JSON_SCAN_H
#define ASDM_BASE_JSON_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <asdm/status.h>

struct asdm_json_scan {
    const char *text, *at, *end; /* at: the next byte to read */
    const char *name;            /* starts every message */
};

/* A string token: the bytes between the quotation marks, checked. */
struct asdm_json_text {
    const char *raw;
    size_t length; /* bytes of `raw`; decoding never makes it longer */
    bool escaped;  /* has backslashes, so `raw` is not the string itself */
};

enum { ASDM_JSON_NUMBER_LENGTH_MAX = 63, ASDM_JSON_EXCERPT_BYTES = 104 };

void asdm_json_scan_init(struct asdm_json_scan *scan, const char *text, size_t length, const char *name);

/* Fails at `at`, a place in the text. */
enum asdm_status asdm_json_scan_fail(const struct asdm_json_scan *scan, const char *at, struct asdm_error *err,
                                     const char *format, ...) __attribute__((format(printf, 4, 5), cold));
/* "expected WHAT, found ..." at the present place. */
enum asdm_status asdm_json_scan_expected(const struct asdm_json_scan *scan, const char *what, struct asdm_error *err)
    __attribute__((cold));

void asdm_json_scan_space(struct asdm_json_scan *scan);
/* Skips space and looks at the next byte; -1 at the end. */
int asdm_json_scan_peek(struct asdm_json_scan *scan);
/* Takes the byte `c`, after space; what it is for is named by `what` when something else stands there. */
enum asdm_status asdm_json_scan_expect(struct asdm_json_scan *scan, char c, const char *what, struct asdm_error *err);

/* Inside an array or object: is there another element? Takes the comma before it, or the closing bracket `close`.
 * *first is true before the first call. */
enum asdm_status asdm_json_scan_more(struct asdm_json_scan *scan, char close, bool *first, bool *ret_more,
                                     struct asdm_error *err);
enum asdm_status asdm_json_scan_string(struct asdm_json_scan *scan, struct asdm_json_text *ret, struct asdm_error *err);
/* A member's key and its colon. */
enum asdm_status asdm_json_scan_key(struct asdm_json_scan *scan, struct asdm_json_text *ret, struct asdm_error *err);
enum asdm_status asdm_json_scan_number(struct asdm_json_scan *scan, struct asdm_error *err);
/* An integer from 0 to 2^64 - 1, written without fraction or exponent. */
enum asdm_status asdm_json_scan_u64(struct asdm_json_scan *scan, uint64_t *ret, struct asdm_error *err);
/* Nothing but space follows. */
enum asdm_status asdm_json_scan_end(struct asdm_json_scan *scan, struct asdm_error *err);

/* Writes the string (UTF-8, no NUL after it) to `out`, which has room for text->length bytes; returns its length. */
size_t asdm_json_text_decode(const struct asdm_json_text *text, char *out);

/* Is the decoded string `word`, which is shorter than 32 bytes? */
bool asdm_json_text_equals(const struct asdm_json_text *text, const char *word);

/* A piece of foreign UTF-8 fit for a message: at most 100 bytes of whole characters, "..." where it was cut, control
 * characters as '?'. Returns `out`. */
const char *asdm_json_excerpt(const char *text, size_t length, char out[ASDM_JSON_EXCERPT_BYTES]);

/* Length of the valid UTF-8 character at `text` (1 to 4), 0 when it is none. `length` is at least 1. */
size_t asdm_utf8_length(const char *text, size_t length);

#endif
