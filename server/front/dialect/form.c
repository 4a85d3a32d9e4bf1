#include "front/dialect/form.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { BOUNDARY_MAX = 70 /* RFC 2046 */, HEAD_BYTES_MAX = 4096, NAME_BYTES_MAX = 256 };

static bool fail(struct problem *problem, const char *what) {
    return problem_set(problem, 400, "malformed", "", "multipart body: %s", what);
}

/* A parameter of a header's value ("boundary", "name") into `out`; quoted or a token. False: it is not there once, in
 * a form that we take. */
static bool parameter(const char *value, size_t length, const char *name, char *out, size_t room) {
    const char *at = value, *end = value + length;
    size_t name_length = strlen(name);
    while (at < end && *at != ';')
        at++;
    while (at < end) {
        at++; /* ';' */
        while (at < end && (*at == ' ' || *at == '\t'))
            at++;
        const char *key = at;
        while (at < end && *at != '=' && *at != ';')
            at++;
        if (at == end || *at != '=')
            continue;
        bool wanted = (size_t)(at - key) == name_length && strncasecmp(key, name, name_length) == 0;
        bool quoted = ++at < end && *at == '"';
        const char *start = at += quoted;
        while (at < end && (quoted ? *at != '"' : *at != ';' && *at != ' '))
            at++;
        if (quoted && at == end)
            return false;
        if (wanted) {
            if ((size_t)(at - start) >= room || memchr(start, '\0', (size_t)(at - start)))
                return false;
            memcpy(out, start, (size_t)(at - start));
            out[at - start] = '\0';
            return true;
        }
        while (at < end && *at != ';')
            at++;
    }
    return false;
}

static bool is_header(const char *line, size_t length, const char *name, const char **ret_value, size_t *ret_length) {
    size_t name_length = strlen(name);
    if (length <= name_length || strncasecmp(line, name, name_length) != 0 || line[name_length] != ':')
        return false;
    const char *value = line + name_length + 1;
    while (value < line + length && (*value == ' ' || *value == '\t'))
        value++;
    *ret_value = value;
    *ret_length = length - (size_t)(value - line);
    return true;
}

/* What a part's header says, in malloc'ed texts. */
static bool take_head(const char *head, size_t size, struct form_part *part, struct problem *problem) {
    char name[NAME_BYTES_MAX] = "", file[NAME_BYTES_MAX] = "", type[NAME_BYTES_MAX] = "";
    bool has_name = false, has_file = false, has_type = false;
    for (size_t at = 0; at < size;) {
        const char *line = head + at, *end = memmem(line, size - at, "\r\n", 2), *value;
        size_t length = end ? (size_t)(end - line) : size - at, value_length;
        if (is_header(line, length, "Content-Disposition", &value, &value_length)) {
            if (has_name || value_length < 9 || strncasecmp(value, "form-data", 9) != 0 ||
                !parameter(value, value_length, "name", name, sizeof name))
                return fail(problem, "a part's Content-Disposition is not form-data with a name");
            has_name = true;
            has_file = parameter(value, value_length, "filename", file, sizeof file);
        } else if (is_header(line, length, "Content-Type", &value, &value_length)) {
            has_type = value_length < sizeof type;
            snprintf(type, sizeof type, "%.*s", (int)(has_type ? value_length : 0), value);
        } else if (is_header(line, length, "Content-Transfer-Encoding", &value, &value_length) &&
                   !(value_length == 6 && strncasecmp(value, "binary", 6) == 0) &&
                   !(value_length == 4 && (strncasecmp(value, "7bit", 4) == 0 || strncasecmp(value, "8bit", 4) == 0))) {
            return fail(problem, "a part has a Content-Transfer-Encoding other than binary");
        }
        at += length + 2;
    }
    if (!has_name)
        return fail(problem, "a part has no Content-Disposition");
    part->name = strdup(name);
    part->file_name = has_file ? strdup(file) : NULL;
    part->content_type = has_type ? strdup(type) : NULL;
    if (part->name && (part->file_name || !has_file) && (part->content_type || !has_type))
        return true;
    problem_set(problem, 503, "out_of_memory", "", "the server is short of memory");
    problem->retry_after_ms = 1000;
    return false;
}

/* One part from *at (after its delimiter's line) to the next delimiter, behind which *at is left. */
static bool take_part(const char **at, const char *end, const char *delimiter, struct form *form,
                      struct problem *problem) {
    size_t delimiter_length = strlen(delimiter);
    size_t head_room = (size_t)(end - *at) < HEAD_BYTES_MAX ? (size_t)(end - *at) : HEAD_BYTES_MAX;
    const char *head_end = memmem(*at, head_room, "\r\n\r\n", 4);
    if (!head_end)
        return fail(problem, "a part's header does not end, or is larger than 4096 bytes");
    if (form->count == FORM_PARTS_MAX)
        return fail(problem, "more than 64 parts");
    struct form_part *part = &form->parts[form->count++];
    *part = (struct form_part){0}; /* form_done frees its texts whatever happens */
    if (!take_head(*at, (size_t)(head_end - *at), part, problem))
        return false;
    const char *data = head_end + 4;
    /* An empty part's delimiter begins with the header's last line end. */
    const char *next = memmem(data - 2, (size_t)(end - data) + 2, delimiter, delimiter_length);
    if (!next)
        return fail(problem, "the last part does not end with the boundary");
    part->data = (const unsigned char *)data;
    part->size = next > data ? (size_t)(next - data) : 0;
    *at = next + delimiter_length;
    return true;
}

static bool parse(const char *at, const char *end, const char *delimiter, struct form *form, struct problem *problem) {
    size_t first = strlen(delimiter) - 2; /* without the line end before it */
    if ((size_t)(end - at) < first || memcmp(at, delimiter + 2, first) != 0)
        return fail(problem, "does not begin with the boundary of its Content-Type");
    at += first;
    while (end - at >= 2 && memcmp(at, "\r\n", 2) == 0) {
        at += 2;
        if (!take_part(&at, end, delimiter, form, problem))
            return false;
    }
    if (end - at < 2 || memcmp(at, "--", 2) != 0)
        return fail(problem, "a boundary is followed by neither a line end nor \"--\"");
    at += 2;
    if (at != end && !(end - at == 2 && memcmp(at, "\r\n", 2) == 0))
        return fail(problem, "there is something after the last boundary");
    return true;
}

bool form_parse(const char *content_type, const unsigned char *body, size_t size, struct form *ret,
                struct problem *ret_problem) {
    static const char type[] = "multipart/form-data";
    char boundary[BOUNDARY_MAX + 1] = "", delimiter[BOUNDARY_MAX + 8];
    if (!content_type || strncasecmp(content_type, type, sizeof type - 1) != 0)
        return problem_set(ret_problem, 400, "malformed", "", "Content-Type: must be multipart/form-data, is %.100s",
                           content_type ? content_type : "missing");
    if (!parameter(content_type, strlen(content_type), "boundary", boundary, sizeof boundary) || !*boundary)
        return problem_set(ret_problem, 400, "malformed", "", "Content-Type: needs a boundary of 1 to %d characters",
                           BOUNDARY_MAX);
    snprintf(delimiter, sizeof delimiter, "\r\n--%s", boundary);
    ret->count = 0;
    if (size && parse((const char *)body, (const char *)body + size, delimiter, ret, ret_problem))
        return true;
    if (!size)
        fail(ret_problem, "is empty");
    form_done(ret);
    return false;
}

void form_done(struct form *form) {
    for (size_t i = 0; i < form->count; i++) {
        free((char *)form->parts[i].name);
        free((char *)form->parts[i].file_name);
        free((char *)form->parts[i].content_type);
    }
    form->count = 0;
}
