/* Files of prompts: a line each. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "analyze.h"

void cli_prompts_done(struct cli_prompts *prompts) {
    for (int i = 0; i < prompts->count; i++)
        free(prompts->lines[i]);
    free(prompts->lines);
    *prompts = (struct cli_prompts){0};
}

/* Takes `line` over. */
static bool add_prompt(struct cli_prompts *prompts, char *line) {
    char **grown = line ? realloc(prompts->lines, ((size_t)prompts->count + 1) * sizeof *grown) : NULL;
    if (!grown) {
        free(line);
        return false;
    }
    prompts->lines = grown;
    prompts->lines[prompts->count++] = line;
    return true;
}

/* UTF-8 by its bytes: no stray, missing or overlong ones, no surrogates. */
static bool is_utf8(const char *text) {
    const unsigned char *at = (const unsigned char *)text;
    while (*at) {
        int more = *at < 0x80                  ? 0
                   : *at >= 0xc2 && *at < 0xe0 ? 1
                   : (*at & 0xf0) == 0xe0      ? 2
                   : *at >= 0xf0 && *at < 0xf5 ? 3
                                               : -1;
        if (more < 0 || (*at == 0xe0 && at[1] < 0xa0) || (*at == 0xed && at[1] > 0x9f) ||
            (*at == 0xf0 && at[1] < 0x90) || (*at == 0xf4 && at[1] > 0x8f))
            return false;
        for (int i = 1; i <= more; i++)
            if ((at[i] & 0xc0) != 0x80)
                return false;
        at += more + 1;
    }
    return true;
}

/* One line without its end; false after a message. */
static bool take_line(struct cli_prompts *prompts, const char *path, int number, char *line, size_t length) {
    enum { BYTES_MAX = 4096 };
    if (memchr(line, '\0', length) || !is_utf8(line)) {
        cli_message("%s: line %d: is no UTF-8 text", path, number);
        return false;
    }
    char *start = line + strspn(line, " \t\r");
    for (char *end = start + strlen(start); end > start && strchr(" \t\r\n", end[-1]);)
        *--end = '\0';
    if (!*start || *start == '#')
        return true;
    if (strlen(start) > BYTES_MAX) {
        cli_message("%s: line %d: is longer than %d bytes", path, number, BYTES_MAX);
        return false;
    }
    if (prompts->count == ASDM_ANALYSIS_PROMPTS_MAX) {
        cli_message("%s: line %d: more than %d prompts", path, number, ASDM_ANALYSIS_PROMPTS_MAX);
        return false;
    }
    if (!add_prompt(prompts, strdup(start))) {
        cli_message("%s: no memory", path);
        return false;
    }
    return true;
}

static int read_lines(const char *path, FILE *file, struct cli_prompts *ret) {
    char *line = NULL;
    size_t room = 0;
    bool good = true;
    ssize_t length;
    for (int number = 1; good && (length = getline(&line, &room, file)) >= 0; number++)
        good = take_line(ret, path, number, line, (size_t)length);
    free(line);
    if (good && ferror(file)) {
        cli_message("%s: %s", path, strerror(errno));
        good = false;
    } else if (good && !ret->count) {
        cli_message("%s: has no prompt", path);
        good = false;
    }
    if (!good)
        cli_prompts_done(ret);
    return good ? 0 : CLI_FAILED;
}

int cli_prompts_read(const char *path, const char *model, struct cli_prompts *ret) {
    char own[4096];
    *ret = (struct cli_prompts){0};
    snprintf(own, sizeof own, "%s/prompts.txt", model ? model : "");
    FILE *file = path ? fopen(path, "r") : model ? fopen(own, "r") : NULL;
    if (!file) {
        if (path)
            cli_message("%s: %s", path, strerror(errno));
        return path ? CLI_FAILED : 0;
    }
    int code = read_lines(path ? path : own, file, ret);
    fclose(file);
    return code;
}
