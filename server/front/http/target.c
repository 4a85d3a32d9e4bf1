/* The request target (RFC 9112, 3.2): origin form or absolute form, decoded once and strictly. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "front/http/internal.h"

static bool malformed(struct problem *problem, const char *what) {
    return problem_set(problem, 400, "malformed", "", "request target: %s", what);
}

/* Length of the UTF-8 sequence at `at` (RFC 3629); 0: none. Stops at a NUL. */
static size_t sequence_length(const unsigned char *at) {
    static const struct {
        unsigned char first_min, first_max, second_min, second_max, length;
    } rows[] = {{0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3}, {0xe1, 0xec, 0x80, 0xbf, 3},
                {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3}, {0xf0, 0xf0, 0x90, 0xbf, 4},
                {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4}};
    if (*at < 0x80)
        return 1;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (*at < rows[i].first_min || *at > rows[i].first_max)
            continue;
        if (at[1] < rows[i].second_min || at[1] > rows[i].second_max)
            return 0;
        for (size_t k = 2; k < rows[i].length; k++)
            if ((at[k] & 0xc0) != 0x80)
                return 0;
        return rows[i].length;
    }
    return 0;
}

bool text_is_utf8(const char *text) {
    const unsigned char *at = (const unsigned char *)text;
    while (*at) {
        size_t length = sequence_length(at);
        if (!length)
            return false;
        at += length;
    }
    return true;
}

static int hex_value(char digit) {
    if (digit >= '0' && digit <= '9')
        return digit - '0';
    digit |= 0x20;
    return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

/* Decodes in place: percent escapes, and in a query '+' as a space. NULL: fine, otherwise what is wrong. */
static const char *decode(char *text, bool query) {
    char *to = text;
    for (const char *at = text; *at; at++) {
        int byte = (unsigned char)*at;
        if (byte == '%') {
            int high = hex_value(at[1]), low = high < 0 ? -1 : hex_value(at[2]);
            if (low < 0)
                return "invalid percent escape";
            byte = high * 16 + low;
            at += 2;
            if (!query && (byte == '/' || byte == '\\'))
                return "encoded slash in the path";
        } else if (query && byte == '+') {
            byte = ' ';
        }
        bool line_break = query && (byte == '\n' || byte == '\r' || byte == '\t');
        if (byte == 0 || byte == 0x7f || (byte < 0x20 && !line_break))
            return "control character";
        *to++ = (char)byte;
    }
    *to = '\0';
    return text_is_utf8(text) ? NULL : "not UTF-8";
}

static bool has_dot_segment(const char *path) {
    for (const char *at = path; (at = strchr(at, '/')); at++) {
        size_t length = strcspn(at + 1, "/");
        if ((length == 1 && at[1] == '.') || (length == 2 && at[1] == '.' && at[2] == '.'))
            return true;
    }
    return false;
}

static bool split_query(char *text, struct target *target, struct problem *problem) {
    while (text && *text) {
        char *next = strchr(text, '&'), *value;
        if (next)
            *next++ = '\0';
        value = strchr(text, '=');
        if (value)
            *value++ = '\0';
        const char *wrong = decode(text, true);
        if (!wrong && value)
            wrong = decode(value, true);
        if (wrong)
            return malformed(problem, wrong);
        for (size_t i = 0; i < target->query_count; i++)
            if (strcmp(target->query[i].name, text) == 0)
                return problem_set(problem, 400, "malformed", "", "request target: a parameter is given twice");
        if (target->query_count == HTTP_QUERY_MAX)
            return malformed(problem, "more than 64 parameters");
        if (*text) {
            target->query[target->query_count].name = text;
            target->query[target->query_count++].value = value ? value : "";
        }
        text = next;
    }
    return true;
}

/* "http://authority/path" as if "/path" stood there. */
static char *skip_authority(char *text, struct target *target) {
    size_t scheme = strncasecmp(text, "http://", 7) == 0 ? 7 : strncasecmp(text, "https://", 8) == 0 ? 8 : 0;
    if (!scheme)
        return text;
    size_t length = strcspn(text + scheme, "/?");
    if (text[scheme + length] != '/')
        return NULL;
    /* Moved to the front, so that a NUL fits between it and the path. */
    memmove(text, text + scheme, length);
    text[length] = '\0';
    target->authority = text;
    return text + scheme + length;
}

static bool parse(char *text, struct target *target, struct problem *problem) {
    if (strlen(text) > HTTP_TARGET_BYTES_MAX)
        return problem_set(problem, 414, "too_large", "", "request target: longer than %d bytes",
                           HTTP_TARGET_BYTES_MAX);
    for (const char *at = text; *at; at++)
        if ((unsigned char)*at <= 0x20 || *at == 0x7f || *at == '#' || *at == '\\')
            return malformed(problem, "character that is not allowed there");
    text = skip_authority(text, target);
    if (!text || *text != '/')
        return malformed(problem, "must be a path or an http URL");
    char *query = strchr(text, '?');
    if (query)
        *query++ = '\0';
    const char *wrong = decode(text, false);
    if (wrong)
        return malformed(problem, wrong);
    if (has_dot_segment(text))
        return malformed(problem, "dot segment");
    target->path = text;
    return split_query(query, target, problem);
}

bool target_parse(const char *text, struct target *ret, struct problem *ret_problem) {
    struct target target = {.storage = strdup(text)};
    if (!target.storage)
        return problem_set(ret_problem, 503, "out_of_memory", "", "the server is short of memory");
    if (!parse(target.storage, &target, ret_problem)) {
        free(target.storage);
        return false;
    }
    *ret = target;
    return true;
}

void target_done(struct target *target) {
    free(target->storage);
    *target = (struct target){0};
}
