/* From a prompt to what the text encoder reads: chunks of 77 token ids with a weight for each. */
#ifndef ASDM_PROMPT_H
#define ASDM_PROMPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <asdm/batch.h>
#include <asdm/status.h>

#include "text/tokenizer.h"

enum {
    ASDM_PROMPT_CHUNK_IDS = 77,    /* bos, 75 tokens, eos */
    ASDM_PROMPT_CHUNK_TOKENS = 75, /* of the text */
    ASDM_PROMPT_CHUNKS_MAX = 1024, /* what a caller may ask for */
    ASDM_PROMPT_COMMA_TOKENS = 20, /* how far before the end of a chunk a comma is looked for */
    ASDM_PROMPT_DEPTH_MAX = 100,   /* brackets of one kind open at once; those deeper are text */
    ASDM_PROMPT_FACTOR_MAX = 1000, /* magnitude of N in (x:N); a larger one is text */
    ASDM_PROMPT_WEIGHT_MAX =
        1000000 /* magnitude of a token's weight, which nesting multiplies; larger ones become it */
};

struct asdm_prompt {
    int chunk_count;
    int32_t *ids;   /* [chunk_count][77]: bos, tokens, eos, pads */
    float *weights; /* [chunk_count][77]; 1 for bos, eos, pads, and everywhere with PLAIN */
    bool weighted;  /* some weight is not 1 */
    size_t tokens;  /* of the whole text, without bos and eos, also those that were cut off */
};

/* Encodes a text (UTF-8; NULL: empty).
 *
 * PLAIN: one chunk, as asdm_tokenizer_encode gives it.
 *
 * A1111: the attention syntax of AUTOMATIC1111's web UI.
 *   (x)      the weight of x times 1.1       [x]  divided by 1.1       (x:1.3)  times 1.3; nesting multiplies
 *   \( \) \[ \] \\  the character itself; any other backslash is dropped
 *   BREAK    a word by itself: fills the chunk up with pads and goes on in the next
 * Brackets that are never closed reach to the end of the text; those that were never opened are text. Neighbours of
 * equal weight are one part; each part is tokenized by itself. A chunk takes 75 tokens. When it is full, the tokens
 * after its last comma move to the next chunk, if there are less than 20 of them.
 * Where it differs from the web UI: a BREAK in brackets is a break too; a malformed or too large number leaves its
 * colon and itself as text and the bracket as (x); [a:b:0.5], [a|b], AND and <...> have no meaning of their own.
 *
 * Chunks past `chunks_max` (1 to ASDM_PROMPT_CHUNKS_MAX) are cut off. Time is linear in the text's bytes, up to the
 * depth of brackets and the logarithm of the longest word. ERR_ARGUMENT: invalid UTF-8, more than
 * ASDM_LIMIT_PROMPT_BYTES. ERR_MEMORY. */
enum asdm_status asdm_prompt_encode(const struct asdm_tokenizer *tokenizer, const char *text,
                                    enum asdm_prompt_syntax syntax, int chunks_max, struct asdm_prompt *ret,
                                    struct asdm_error *err);

/* Appends chunks of an empty prompt until there are `chunk_count` (at most ASDM_PROMPT_CHUNKS_MAX), so that a prompt
 * and its negative can be of one length. Nothing to do when there are. ERR_MEMORY, and the prompt is as it was. */
enum asdm_status asdm_prompt_pad(struct asdm_prompt *prompt, const struct asdm_tokenizer *tokenizer, int chunk_count,
                                 struct asdm_error *err);

void asdm_prompt_done(struct asdm_prompt *prompt);

#endif
