/* The strings of a vocabulary and their ids. Used while a tokenizer is read; encoding works on ids alone. */
#ifndef ASDM_VOCABULARY_H
#define ASDM_VOCABULARY_H

#include <stddef.h>
#include <stdint.h>

#include <asdm/status.h>

#include "base/arena.h"
#include <asdm/json.h>

enum { ASDM_VOCABULARY_IDS_MAX = 1000000 };

struct asdm_vocabulary_token {
    const char *text; /* UTF-8, not terminated */
    size_t length;    /* bytes */
};

struct asdm_vocabulary {
    struct asdm_arena arena;
    struct asdm_vocabulary_token *tokens; /* by id */
    size_t count;
    uint32_t *table; /* id + 1 by hash, 0 where empty; open addressing */
    size_t mask;
};

/* Reads a JSON object {"token": id, ...}. Its ids must be 0 to count - 1, each once. `name` starts the messages.
 * ERR_FORMAT, ERR_MEMORY. The strings are copied. */
enum asdm_status asdm_vocabulary_init(struct asdm_vocabulary *vocabulary, const struct asdm_json *object,
                                      const char *name, struct asdm_error *err);
void asdm_vocabulary_done(struct asdm_vocabulary *vocabulary);

/* The id of a token, or -1. */
int32_t asdm_vocabulary_find(const struct asdm_vocabulary *vocabulary, const char *text, size_t length);

#endif
