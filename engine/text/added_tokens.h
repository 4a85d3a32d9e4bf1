/* Tokens that are found in the text as they are written, before it is split into words: <|startoftext|>, <|endoftext|>,
 * the pad token, and what a checkpoint adds ("added tokens" of the `tokenizers` crate). */
#ifndef ASDM_ADDED_TOKENS_H
#define ASDM_ADDED_TOKENS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <asdm/status.h>

struct asdm_added_token {
    unsigned char *text;
    size_t length; /* bytes, 1 or more */
    int32_t id;
};

enum { ASDM_ADDED_TOKENS_MAX = 10000 };

/* One group of tokens that are looked for together. Starts zeroed. */
struct asdm_added_set {
    struct asdm_added_token *tokens; /* after finish: by first byte, then longest first */
    size_t count, capacity;
    uint32_t first[257]; /* tokens that start with byte b are first[b] .. first[b + 1] - 1 */
};

/* Copies the text. A text that is there already: ERR_FORMAT. */
enum asdm_status asdm_added_set_add(struct asdm_added_set *set, const unsigned char *text, size_t length, int32_t id,
                                    const char *name, struct asdm_error *err);
void asdm_added_set_finish(struct asdm_added_set *set);
void asdm_added_set_done(struct asdm_added_set *set);

/* The leftmost match at or after `from`, of those at one place the longest; NULL when there is none. */
const struct asdm_added_token *asdm_added_set_find(const struct asdm_added_set *set, const unsigned char *text,
                                                   size_t length, size_t from, size_t *ret_place);

#endif
