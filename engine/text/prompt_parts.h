/* The attention syntax of prompts: which weight each part of a text has. Private to engine/text. */
#ifndef ASDM_PROMPT_PARTS_H
#define ASDM_PROMPT_PARTS_H

#include <stdbool.h>
#include <stddef.h>

#include <asdm/status.h>

struct asdm_prompt_part {
    size_t start, length; /* bytes of asdm_prompt_parts.text */
    double weight;
    bool is_break; /* BREAK: no text */
};

struct asdm_prompt_parts {
    char *text; /* without the syntax, not terminated */
    struct asdm_prompt_part *parts;
    size_t count;
};

/* Takes a text of well-formed UTF-8 apart by the rules in text/prompt.h. An empty text has no parts. ERR_MEMORY. */
enum asdm_status asdm_prompt_parts_init(struct asdm_prompt_parts *ret, const char *text, struct asdm_error *err);
void asdm_prompt_parts_done(struct asdm_prompt_parts *parts);

#endif
