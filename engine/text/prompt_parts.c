/* See prompt_parts.h. The text is read once, left to right. Each piece of it starts with weight 1; a bracket that
 * closes multiplies all pieces since its opening, so factors come in the order of closing. */
#include "text/prompt_parts.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>
#include "text/prompt.h"
#include "text/unicode.h"

/* The open brackets of one kind. */
struct brackets {
    double factor;
    size_t first[ASDM_PROMPT_DEPTH_MAX]; /* the piece that comes after each */
    int depth;
};

struct parser {
    struct asdm_prompt_parts *result;
    size_t text_length; /* of result->text */
    struct brackets round, square;
};

static void add_piece(struct parser *parser, const char *text, size_t length) {
    struct asdm_prompt_parts *result = parser->result;
    result->parts[result->count++] =
        (struct asdm_prompt_part){.start = parser->text_length, .length = length, .weight = 1};
    memcpy(result->text + parser->text_length, text, length);
    parser->text_length += length;
}

static void add_break(struct parser *parser) {
    parser->result->parts[parser->result->count++] =
        (struct asdm_prompt_part){.start = parser->text_length, .weight = 1, .is_break = true};
}

static bool open_bracket(struct parser *parser, struct brackets *brackets) {
    if (brackets->depth == ASDM_PROMPT_DEPTH_MAX)
        return false;
    brackets->first[brackets->depth++] = parser->result->count;
    return true;
}

static void multiply_from(struct parser *parser, size_t first, double factor) {
    for (size_t i = first; i < parser->result->count; i++)
        parser->result->parts[i].weight *= factor;
}

static bool close_bracket(struct parser *parser, struct brackets *brackets, double factor) {
    if (brackets->depth == 0)
        return false;
    multiply_from(parser, brackets->first[--brackets->depth], factor);
    return true;
}

/* Brackets still open at the end, outermost first. */
static void close_all(struct parser *parser, const struct brackets *brackets) {
    for (int i = 0; i < brackets->depth; i++)
        multiply_from(parser, brackets->first[i], brackets->factor);
}

static size_t skip_space(const char *text, size_t length) {
    size_t at = 0, size;
    uint32_t point;
    while (at < length && (size = asdm_unicode_decode((const unsigned char *)text + at, length - at, &point)) > 0 &&
           asdm_unicode_class(point) == ASDM_UNICODE_SPACE)
        at += size;
    return at;
}

/* Reads `length` bytes of [+-]?[0-9.]+ as a decimal number with one point at most. The point becomes an exponent, since
 * where strtod expects it depends on the locale. */
static bool read_number(const char *text, size_t length, double *ret) {
    enum { LENGTH_MAX = 63 };
    char number[LENGTH_MAX + 8];
    size_t size = 0, digits = 0, fraction = 0;
    bool point = false;
    if (length > LENGTH_MAX)
        return false;
    for (size_t i = 0; i < length; i++) {
        if (text[i] == '.') {
            if (point)
                return false;
            point = true;
            continue;
        }
        number[size++] = text[i];
        digits += text[i] >= '0';
        fraction += point && text[i] >= '0';
    }
    if (digits == 0)
        return false;
    snprintf(number + size, sizeof number - size, "e-%zu", fraction);
    double value = strtod(number, NULL);
    if (!(fabs(value) <= ASDM_PROMPT_FACTOR_MAX))
        return false;
    *ret = value;
    return true;
}

/* ":1.3)" with white space around the number: its length in bytes, 0 where `text` does not start with one. */
static size_t read_factor(const char *text, size_t length, double *ret) {
    size_t start = 1 + skip_space(text + 1, length - 1), end = start;
    if (text[end] == '+' || text[end] == '-')
        end++;
    end += strspn(text + end, ".0123456789");
    size_t close = end + skip_space(text + end, length - end);
    return text[close] == ')' && read_number(text + start, end - start, ret) ? close + 1 : 0;
}

/* Does a letter, a number or a low line start at `at`? */
static bool is_word_at(const char *text, size_t length, size_t at) {
    uint32_t point;
    if (at >= length || asdm_unicode_decode((const unsigned char *)text + at, length - at, &point) == 0)
        return false;
    enum asdm_unicode_class class = asdm_unicode_class(point);
    return point == '_' || class == ASDM_UNICODE_LETTER || class == ASDM_UNICODE_NUMBER;
}

static size_t previous(const char *text, size_t at) {
    do
        at--;
    while (at > 0 && ((unsigned char)text[at] & 0xC0) == 0x80);
    return at;
}

/* The first BREAK at or after `from` that is a word by itself; `length` when there is none. */
static size_t find_break(const char *text, size_t length, size_t from) {
    for (size_t at = from; length - at >= 5; at++)
        if (memcmp(text + at, "BREAK", 5) == 0 && !(at > 0 && is_word_at(text, length, previous(text, at))) &&
            !is_word_at(text, length, at + 5))
            return at;
    return length;
}

static size_t trim_end(const char *text, size_t start, size_t end) {
    while (end > start) {
        size_t at = previous(text, end);
        if (skip_space(text + at, end - at) == 0)
            break;
        end = at;
    }
    return end;
}

/* A run without syntax but for BREAK, which takes the white space around it along. */
static void add_run(struct parser *parser, const char *text, size_t length) {
    for (size_t start = 0;;) {
        size_t at = find_break(text, length, start);
        if (at == length) {
            add_piece(parser, text + start, length - start);
            return;
        }
        add_piece(parser, text + start, trim_end(text, start, at) - start);
        add_break(parser);
        start = at + 5 + skip_space(text + at + 5, length - at - 5);
    }
}

/* Reads what `text` (`length` > 0 bytes, terminated) starts with and returns its length. */
static size_t parse_next(struct parser *parser, const char *text, size_t length) {
    double factor;
    size_t size;
    bool is_syntax = false;
    switch (*text) {
    case '\\':
        size = text[1] && strchr("()[]\\", text[1]) ? 2 : 1;
        add_piece(parser, text + 1, size - 1);
        return size;
    case '(':
        is_syntax = open_bracket(parser, &parser->round);
        break;
    case '[':
        is_syntax = open_bracket(parser, &parser->square);
        break;
    case ')':
        is_syntax = close_bracket(parser, &parser->round, parser->round.factor);
        break;
    case ']':
        is_syntax = close_bracket(parser, &parser->square, parser->square.factor);
        break;
    case ':':
        if (parser->round.depth > 0 && (size = read_factor(text, length, &factor)) > 0) {
            close_bracket(parser, &parser->round, factor);
            return size;
        }
        break;
    default:
        size = strcspn(text, "\\()[]:");
        add_run(parser, text, size);
        return size;
    }
    if (!is_syntax)
        add_piece(parser, text, 1);
    return 1;
}

/* Makes one part of neighbours with equal weights. Their texts are neighbours already. */
static void join_equal(struct asdm_prompt_parts *parts) {
    size_t count = 0;
    for (size_t i = 0; i < parts->count; i++) {
        struct asdm_prompt_part *part = &parts->parts[i], *last = count ? &parts->parts[count - 1] : NULL;
        if (last && !last->is_break && !part->is_break && last->weight == part->weight)
            last->length += part->length;
        else
            parts->parts[count++] = *part;
    }
    parts->count = count;
}

enum asdm_status asdm_prompt_parts_init(struct asdm_prompt_parts *ret, const char *text, struct asdm_error *err) {
    size_t length = strlen(text);
    /* never more pieces than bytes: a run with b breaks has 2b + 1, and 5b bytes at least */
    struct asdm_prompt_parts parts = {.text = malloc(length + 1), .parts = calloc(length + 1, sizeof *parts.parts)};
    if (!parts.text || !parts.parts) {
        asdm_prompt_parts_done(&parts);
        return asdm_fail(err, ASDM_ERR_MEMORY, "out of memory for the parts of a prompt of %zu bytes", length);
    }
    struct parser parser = {.result = &parts, .round.factor = 1.1, .square.factor = 1 / 1.1};
    for (size_t at = 0; at < length;)
        at += parse_next(&parser, text + at, length - at);
    ASDM_ASSERT(parts.count <= length && parser.text_length <= length);
    close_all(&parser, &parser.round);
    close_all(&parser, &parser.square);
    join_equal(&parts);
    *ret = parts;
    return ASDM_OK;
}

void asdm_prompt_parts_done(struct asdm_prompt_parts *parts) {
    free(parts->text);
    free(parts->parts);
    *parts = (struct asdm_prompt_parts){0};
}
