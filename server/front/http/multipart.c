#include "front/http/multipart.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { NAME_BYTES_MAX = 256, TEXTS_BYTES_MAX = 3 * (NAME_BYTES_MAX + 1) * MULTIPART_PARTS_MAX };

struct reader {
    const char *at, *end;
    char delimiter[MULTIPART_BOUNDARY_MAX + 5]; /* CR LF -- boundary */
    size_t delimiter_length, texts_used;
    struct multipart *form;
    struct problem *problem;
};

static bool fail(struct problem *problem, const char *what) {
    return problem_set(problem, 400, "malformed", "", "multipart body: %s", what);
}

/* ---- parameters of a header's value */

static bool is_token_byte(char byte) {
    char letter = (char)(byte | 0x20);
    return (letter >= 'a' && letter <= 'z') || (byte >= '0' && byte <= '9') ||
           (byte && strchr("!#$%&'*+-.^_`|~", byte));
}

static const char *skip_space(const char *at, const char *end) {
    while (at < end && (*at == ' ' || *at == '\t'))
        at++;
    return at;
}

/* Reads a token or a quoted string from *at into `out` (`room` bytes with the NUL). Browsers write '"' as %22 and a
 * backslash as it is, so only \" and \\ are escapes. */
static bool read_value(const char **at, const char *end, char *out, size_t room) {
    size_t used = 0;
    bool quoted = *at < end && **at == '"';
    *at += quoted;
    for (; *at < end && (quoted ? **at != '"' : is_token_byte(**at)); ++*at) {
        if (quoted && **at == '\\' && *at + 1 < end && ((*at)[1] == '"' || (*at)[1] == '\\'))
            ++*at;
        unsigned char byte = (unsigned char)**at;
        if (used + 1 >= room || byte < 0x20 || byte == 0x7f)
            return false;
        out[used++] = (char)byte;
    }
    if (quoted && *at == end)
        return false;
    *at += quoted;
    out[used] = '\0';
    return quoted || used > 0;
}

struct wanted {
    const char *name;
    char *out;
    size_t room;
    bool found;
};

/* *( OWS ";" OWS name "=" value ) up to `end`; each wanted one at most once. */
static bool read_parameters(const char *at, const char *end, struct wanted *wanted, size_t count) {
    char ignored[MULTIPART_HEAD_BYTES_MAX];
    for (at = skip_space(at, end); at < end; at = skip_space(at, end)) {
        if (*at++ != ';')
            return false;
        const char *name = at = skip_space(at, end);
        while (at < end && is_token_byte(*at))
            at++;
        size_t length = (size_t)(at - name);
        if (length == 0 || at == end || *at++ != '=')
            return false;
        struct wanted *match = NULL;
        for (size_t i = 0; i < count; i++)
            if (strlen(wanted[i].name) == length && strncasecmp(wanted[i].name, name, length) == 0)
                match = &wanted[i];
        if ((match && match->found) ||
            !read_value(&at, end, match ? match->out : ignored, match ? match->room : sizeof ignored))
            return false;
        if (match)
            match->found = true;
    }
    return true;
}

/* bchars of RFC 2046, not ending in a space. */
static bool is_boundary(const char *text) {
    size_t length = strlen(text);
    for (const char *at = text; *at; at++) {
        char letter = (char)(*at | 0x20);
        if (!(letter >= 'a' && letter <= 'z') && !(*at >= '0' && *at <= '9') && !strchr("'()+_,-./:=? ", *at))
            return false;
    }
    return length > 0 && text[length - 1] != ' ';
}

static bool read_boundary(const char *content_type, char boundary[MULTIPART_BOUNDARY_MAX + 1],
                          struct problem *problem) {
    static const char type[] = "multipart/form-data";
    size_t length = sizeof type - 1;
    if (!content_type || strncasecmp(content_type, type, length) != 0 ||
        (content_type[length] && !strchr("; \t", content_type[length])))
        return problem_set(problem, 400, "malformed", "", "Content-Type: must be multipart/form-data, is %.100s",
                           content_type ? content_type : "missing");
    struct wanted wanted = {"boundary", boundary, MULTIPART_BOUNDARY_MAX + 1, false};
    if (!read_parameters(content_type + length, content_type + strlen(content_type), &wanted, 1) || !wanted.found ||
        !is_boundary(boundary))
        return problem_set(problem, 400, "malformed", "", "Content-Type: must have one boundary of 1 to %d characters",
                           MULTIPART_BOUNDARY_MAX);
    return true;
}

/* ---- a part's header */

/* What one part's header says so far. */
struct head {
    char name[NAME_BYTES_MAX], file_name[NAME_BYTES_MAX], content_type[NAME_BYTES_MAX];
    bool has_name, has_file_name, has_content_type, has_encoding;
};

static bool read_disposition(const char *value, const char *end, struct head *head) {
    static const char type[] = "form-data";
    size_t length = sizeof type - 1;
    if (head->has_name || (size_t)(end - value) < length || strncasecmp(value, type, length) != 0)
        return false;
    struct wanted wanted[] = {{"name", head->name, sizeof head->name, false},
                              {"filename", head->file_name, sizeof head->file_name, false}};
    if (!read_parameters(value + length, end, wanted, 2) || !wanted[0].found)
        return false;
    head->has_name = true;
    head->has_file_name = wanted[1].found;
    return true;
}

static bool read_type(const char *value, const char *end, struct head *head) {
    size_t length = (size_t)(end - value);
    if (head->has_content_type || length >= sizeof head->content_type)
        return false;
    memcpy(head->content_type, value, length);
    head->content_type[length] = '\0';
    head->has_content_type = true;
    return true;
}

static bool is_plain_encoding(const char *value, const char *end, struct head *head) {
    static const char *const names[] = {"binary", "8bit", "7bit"};
    size_t length = (size_t)(end - value);
    bool again = head->has_encoding;
    head->has_encoding = true;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i]) == length && strncasecmp(names[i], value, length) == 0)
            return !again;
    return false;
}

static bool read_line(const char *line, const char *end, struct head *head, struct problem *problem) {
    const char *colon = line;
    while (colon < end && is_token_byte(*colon))
        colon++;
    if (colon == line || colon == end || *colon != ':')
        return fail(problem, "a line of a part's header is not NAME: VALUE");
    for (const char *at = colon; at < end; at++)
        if (((unsigned char)*at < 0x20 && *at != '\t') || *at == 0x7f)
            return fail(problem, "a part's header holds a control character");
    const char *value = skip_space(colon + 1, end);
    while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    size_t length = (size_t)(colon - line);
    if (length == 19 && strncasecmp(line, "Content-Disposition", length) == 0 && !read_disposition(value, end, head))
        return fail(problem, "a part's Content-Disposition must be form-data with one name");
    if (length == 12 && strncasecmp(line, "Content-Type", length) == 0 && !read_type(value, end, head))
        return fail(problem, "a part's Content-Type is given twice, or is too long");
    if (length == 25 && strncasecmp(line, "Content-Transfer-Encoding", length) == 0 &&
        !is_plain_encoding(value, end, head))
        return fail(problem, "a part's Content-Transfer-Encoding must be binary, 8bit or 7bit");
    return true;
}

static const char *keep(struct reader *reader, const char *text) {
    char *to = reader->form->texts + reader->texts_used;
    size_t size = strlen(text) + 1;
    memcpy(to, text, size);
    reader->texts_used += size;
    return to;
}

/* The part's header, from reader->at over its empty line. */
static bool read_head(struct reader *reader, struct form_part *part) {
    struct head head = {.has_name = false};
    const char *limit = reader->end;
    if (limit - reader->at > MULTIPART_HEAD_BYTES_MAX)
        limit = reader->at + MULTIPART_HEAD_BYTES_MAX;
    for (;;) {
        const char *end = memmem(reader->at, (size_t)(limit - reader->at), "\r\n", 2);
        if (!end)
            return fail(reader->problem, "a part's header does not end, or is larger than 8192 bytes");
        const char *line = reader->at;
        reader->at = end + 2;
        if (end == line)
            break;
        if (!read_line(line, end, &head, reader->problem))
            return false;
    }
    if (!head.has_name)
        return fail(reader->problem, "a part has no Content-Disposition");
    part->name = keep(reader, head.name);
    part->file_name = head.has_file_name ? keep(reader, head.file_name) : NULL;
    part->content_type = head.has_content_type ? keep(reader, head.content_type) : NULL;
    return true;
}

/* ---- the body */

static bool read_part(struct reader *reader) {
    struct multipart *form = reader->form;
    if (form->count == MULTIPART_PARTS_MAX)
        return fail(reader->problem, "more than 64 parts");
    struct form_part *part = &form->parts[form->count++];
    if (!read_head(reader, part))
        return false;
    /* The delimiter's line end may be the one that ends the header: then the part is empty (RFC 2046 has no such form,
     * but writes of it are seen), which is not ambiguous. */
    const char *from = reader->at - 2;
    const char *next = memmem(from, (size_t)(reader->end - from), reader->delimiter, reader->delimiter_length);
    if (!next)
        return fail(reader->problem, "the last part does not end with the boundary");
    part->data = (const unsigned char *)reader->at;
    part->size = next > reader->at ? (size_t)(next - reader->at) : 0;
    reader->at = next + reader->delimiter_length;
    return true;
}

static bool read_body(struct reader *reader) {
    size_t first = reader->delimiter_length - 2; /* the first one has no line end before it */
    if ((size_t)(reader->end - reader->at) < first || memcmp(reader->at, reader->delimiter + 2, first) != 0)
        return fail(reader->problem, "must begin with the boundary");
    reader->at += first;
    for (;;) {
        if (reader->end - reader->at < 2)
            return fail(reader->problem, "ends within a boundary's line");
        bool last = memcmp(reader->at, "--", 2) == 0;
        if (!last && memcmp(reader->at, "\r\n", 2) != 0)
            return fail(reader->problem, "a boundary must be followed by a line end or by \"--\"");
        reader->at += 2;
        if (last)
            break;
        if (!read_part(reader))
            return false;
    }
    size_t left = (size_t)(reader->end - reader->at);
    if (left != 0 && !(left == 2 && memcmp(reader->at, "\r\n", 2) == 0))
        return fail(reader->problem, "there is something after the last boundary");
    if (reader->form->count == 0)
        return fail(reader->problem, "has no parts");
    return true;
}

bool multipart_parse(const char *content_type, const unsigned char *body, size_t size, struct multipart *ret,
                     struct problem *ret_problem) {
    char boundary[MULTIPART_BOUNDARY_MAX + 1];
    if (!read_boundary(content_type, boundary, ret_problem))
        return false;
    ret->count = 0;
    ret->texts = malloc(TEXTS_BYTES_MAX);
    if (!ret->texts) {
        problem_set(ret_problem, 503, "out_of_memory", "", "the server is short of memory");
        ret_problem->retry_after_ms = 1000;
        return false;
    }
    struct reader reader = {
        .at = (const char *)body, .end = (const char *)body + size, .form = ret, .problem = ret_problem};
    reader.delimiter_length = (size_t)snprintf(reader.delimiter, sizeof reader.delimiter, "\r\n--%s", boundary);
    if (read_body(&reader))
        return true;
    multipart_done(ret);
    return false;
}

void multipart_done(struct multipart *multipart) {
    free(multipart->texts);
    multipart->texts = NULL;
    multipart->count = 0;
}
