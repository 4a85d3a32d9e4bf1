#include "front/job/infotext.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include <version.h>

#include <asdm/json.h>

enum { HASH_DIGITS = 10, FIELDS_BYTES = 2048, ESCAPED_MAX = 6 /* bytes of "\u0001" */ };
enum { KEYS_MAX = 128, KEY_BYTES = 64, PARAMETERS_MIN = 3 };

static const char *find_label(const char *wanted, const char *(*name)(int), const char *(*label)(int)) {
    for (int i = 0; name(i); i++)
        if (strcmp(name(i), wanted) == 0)
            return label(i);
    return wanted;
}

const char *infotext_sampler_label(const char *sampler) {
    return find_label(sampler, asdm_sampling_sampler_name, asdm_sampling_sampler_label);
}

const char *infotext_schedule_label(const char *schedule) {
    return find_label(schedule, asdm_sampling_schedule_name, asdm_sampling_schedule_label);
}

/* ---- writing */

/* Readers split fields at commas and colons. */
static void put_value(struct buffer *to, const char *value) {
    if (strpbrk(value, ",:\n"))
        buffer_json(to, value);
    else
        buffer_text(to, value);
}

static void put_number(struct buffer *to, const char *name, double value) {
    buffer_print(to, ", %s: ", name);
    buffer_json_number(to, value);
}

static void put_fields(struct buffer *to, const struct job_request *request, int picture, const char *model_name,
                       const char *sha256) {
    buffer_print(to, "Steps: %d, Sampler: ", request->steps);
    put_value(to, infotext_sampler_label(request->sampler));
    buffer_text(to, ", Schedule type: ");
    put_value(to, infotext_schedule_label(request->schedule));
    put_number(to, "CFG scale", request->guidance_scale);
    buffer_print(to, ", Seed: %llu, Size: %dx%d", (unsigned long long)request->seed + (unsigned long long)picture,
                 request->width, request->height);
    if (*sha256)
        buffer_print(to, ", Model hash: %.*s", HASH_DIGITS, sha256);
    buffer_text(to, ", Model: ");
    put_value(to, model_name);
    if (request->i2i)
        put_number(to, "Denoising strength", request->strength);
    /* A1111's words for a prompt whose brackets are only text. */
    if (request->syntax == ASDM_PROMPT_PLAIN &&
        (strpbrk(request->prompt, "()[]\\") || strpbrk(request->negative_prompt, "()[]\\")))
        buffer_text(to, ", Emphasis: None");
    if (request->rng == ASDM_REQUEST_TORCH)
        buffer_text(to, ", RNG: CPU");
    buffer_text(to, ", Version: asdm " ASDM_VERSION);
}

char *infotext_write(const struct job_request *request, int picture, const char *model_name, const char *sha256) {
    const char *prompt = request->prompt;
    struct buffer to;
    buffer_init(&to,
                strlen(prompt) + strlen(request->negative_prompt) + ESCAPED_MAX * strlen(model_name) + FIELDS_BYTES);
    /* As A1111: the whole text has no white space around it. */
    prompt += strspn(prompt, " \t\r\n\v\f");
    buffer_text(&to, prompt);
    if (*request->negative_prompt) {
        buffer_text(&to, *prompt ? "\nNegative prompt: " : "Negative prompt: ");
        buffer_text(&to, request->negative_prompt);
    }
    if (to.length > 0)
        buffer_text(&to, "\n");
    put_fields(&to, request, picture, model_name, sha256);
    if (!to.failed)
        return to.data;
    buffer_done(&to);
    return NULL;
}

/* ---- reading */

/* One "Name: value" of the last line. */
struct parameter {
    const char *name, *value;
    size_t name_length, value_length;
};

static bool is_word(char c) {
    return isalnum((unsigned char)c) || c == '_' || (unsigned char)c >= 0x80;
}

/* Length of a quoted text that a comma or the end follows; 0: it is not one. */
static size_t quoted_length(const char *text) {
    size_t i = 1;
    if (*text != '"')
        return 0;
    while (text[i] && text[i] != '"')
        i += text[i] == '\\' && text[i + 1] ? 2 : 1;
    if (text[i] != '"' || i == 1)
        return 0;
    return text[i + 1] == ',' || text[i + 1] == '\0' ? i + 1 : 0;
}

/* The next one from *text on, which moves behind it. A1111 has the expression
 * \s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$) for this. */
static bool next_parameter(const char **text, struct parameter *ret) {
    const char *at = *text;
    while (*at) {
        if (!is_word(*at)) {
            at++;
            continue;
        }
        const char *end = at;
        while (is_word(*end) || *end == ' ' || *end == '-' || *end == '/')
            end++;
        if (*end != ':' || end - at < 2) {
            at = *end ? end + 1 : end;
            continue;
        }
        ret->name = at;
        ret->name_length = (size_t)(end - at);
        ret->value = end + 1 + strspn(end + 1, " \t\r\v\f");
        ret->value_length = quoted_length(ret->value);
        if (ret->value_length == 0)
            ret->value_length = strcspn(ret->value, ",");
        at = ret->value + ret->value_length;
        *text = *at ? at + 1 : at;
        return true;
    }
    *text = at;
    return false;
}

static int count_parameters(const char *line) {
    struct parameter parameter;
    int count = 0;
    while (next_parameter(&line, &parameter))
        count++;
    return count;
}

/* The names that are written: an object has each once. */
struct names {
    char names[KEYS_MAX][KEY_BYTES];
    int count;
};

/* `name` with `suffix`; the name is new and was begun. */
static bool begin_field(struct names *names, const char *name, size_t length, const char *suffix, struct buffer *to) {
    char whole[KEY_BYTES];
    if (length + strlen(suffix) >= sizeof whole || names->count == KEYS_MAX)
        return false;
    memcpy(whole, name, length);
    strcpy(whole + length, suffix);
    for (int i = 0; i < names->count; i++)
        if (strcmp(names->names[i], whole) == 0)
            return false;
    strcpy(names->names[names->count], whole);
    buffer_text(to, names->count++ ? "," : "");
    buffer_json(to, whole);
    buffer_text(to, ":");
    return true;
}

static void put_text(struct buffer *to, const char *text, size_t length) {
    char *copy = strndup(text, length);
    if (copy)
        buffer_json(to, copy);
    else
        to->failed = true;
    free(copy);
}

static void put_parameter(struct names *names, const struct parameter *parameter, struct buffer *to) {
    const char *value = parameter->value;
    size_t length = parameter->value_length, first = strspn(value, "0123456789");
    size_t second = first && value[first] == 'x' ? strspn(value + first + 1, "0123456789") : 0;
    struct asdm_json *quoted = NULL;
    if (second && first + 1 + second == length) {
        if (begin_field(names, parameter->name, parameter->name_length, "-1", to))
            put_text(to, value, first);
        if (begin_field(names, parameter->name, parameter->name_length, "-2", to))
            put_text(to, value + first + 1, second);
    } else if (begin_field(names, parameter->name, parameter->name_length, "", to)) {
        if (*value == '"' && asdm_json_parse(value, length, "value", &quoted, NULL) == ASDM_OK)
            buffer_json(to, asdm_json_string(quoted));
        else
            put_text(to, value, length);
        asdm_json_destroy(&quoted);
    }
}

/* Lines of `text` up to `end`, without the white space around each, joined by newlines into `to`. */
static void join_lines(const char *text, const char *end, struct buffer *to) {
    bool first = true;
    while (text < end) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        const char *next = stop ? stop + 1 : end;
        stop = stop ? stop : end;
        while (text < stop && isspace((unsigned char)*text))
            text++;
        while (stop > text && isspace((unsigned char)stop[-1]))
            stop--;
        if (!first)
            buffer_text(to, "\n");
        buffer_put(to, text, (size_t)(stop - text));
        first = to->length == 0;
        text = next;
    }
}

static void put_prompt(struct names *names, const char *name, const char *text, const char *end, struct buffer *to) {
    struct buffer lines;
    buffer_init(&lines, (size_t)(end - text) + 2);
    join_lines(text, end, &lines);
    if (begin_field(names, name, strlen(name), "", to))
        buffer_json(to, lines.length > 0 ? lines.data : "");
    to->failed = to->failed || lines.failed;
    buffer_done(&lines);
}

/* The line that begins so, before `end`; NULL: none. */
static const char *find_line(const char *text, const char *end, const char *begin) {
    size_t length = strlen(begin);
    while (text < end) {
        const char *start = text + strspn(text, " \t\r\v\f");
        if (start < end && strncmp(start, begin, length) == 0)
            return start;
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        text = stop ? stop + 1 : end;
    }
    return NULL;
}

void infotext_write_fields(const char *text, struct buffer *to) {
    static const char mark[] = "Negative prompt:";
    struct names names = {.count = 0};
    struct parameter parameter;
    const char *end = text + strlen(text);
    while (end > text && isspace((unsigned char)end[-1]))
        end--;
    char *last = strndup(text, (size_t)(end - text)), *line = last ? strrchr(last, '\n') : NULL;
    if (!last) {
        to->failed = true;
        return;
    }
    const char *parameters = line ? line + 1 : last;
    if (count_parameters(parameters) >= PARAMETERS_MIN)
        end = text + (parameters - last);
    else
        parameters = "";
    const char *negative = find_line(text, end, mark);
    buffer_text(to, "{");
    put_prompt(&names, "Prompt", text, negative ? negative : end, to);
    put_prompt(&names, "Negative prompt", negative ? negative + strlen(mark) : end, end, to);
    while (next_parameter(&parameters, &parameter))
        put_parameter(&names, &parameter, to);
    buffer_text(to, "}");
    free(last);
}
