/* Byte pair encoding of one word (Sennrich et al. 2016) over bytes, with CLIP's "</w>" on a word's last byte. */
#ifndef ASDM_BPE_H
#define ASDM_BPE_H

#include <stddef.h>
#include <stdint.h>

#include <asdm/status.h>

#include "text/vocabulary.h"

enum { ASDM_BPE_MERGES_MAX = 1000000, ASDM_BPE_WORD_MAX = 1 << 24 /* bytes */ };

struct asdm_bpe_merge {
    int32_t left, right, result; /* ids */
};

struct asdm_bpe {
    int32_t inner[256], final[256]; /* ids of the bytes, without and with "</w>" */
    struct asdm_bpe_merge *merges;  /* by rank */
    size_t count, capacity;
    uint32_t *table; /* rank + 1 by hash of (left, right), 0 where empty; open addressing */
    size_t mask;
};

/* Finds the tokens of the 256 bytes, written as GPT-2 writes them (byte_encoder: printable Latin-1 as itself, the other
 * 68 as U+0100 and up). ERR_FORMAT naming the byte that the vocabulary lacks. No merges yet. */
enum asdm_status asdm_bpe_init(struct asdm_bpe *bpe, const struct asdm_vocabulary *vocabulary, const char *name,
                               struct asdm_error *err);
void asdm_bpe_done(struct asdm_bpe *bpe);

/* Adds the next merge in rank. `where` and `number` say in messages where it stands ("merges.txt", line).
 * ERR_FORMAT when a part or the result is not in the vocabulary. */
enum asdm_status asdm_bpe_add(struct asdm_bpe *bpe, const struct asdm_vocabulary *vocabulary,
                              const struct asdm_vocabulary_token *left, const struct asdm_vocabulary_token *right,
                              const char *where, size_t number, struct asdm_error *err);

/* Builds the table once all merges are in; of equal pairs the last one counts, as in the `tokenizers` crate. */
enum asdm_status asdm_bpe_finish(struct asdm_bpe *bpe, struct asdm_error *err);

/* Memory of asdm_bpe_encode, kept over many words. Starts zeroed. */
struct asdm_bpe_scratch {
    struct asdm_bpe_symbol *symbols;
    uint64_t *heap;
    size_t capacity; /* bytes of the longest word so far */
    size_t steps;    /* heap entries taken since the start, so that a test can hold encoding to its bound */
};

void asdm_bpe_scratch_done(struct asdm_bpe_scratch *scratch);

/* Encodes one word of 1 to ASDM_BPE_WORD_MAX bytes: while some neighbours are a merge's parts, joins the leftmost pair
 * of the lowest rank. Time O(length log length): at most 3 * length heap entries. Returns in *ret_ids (length of them
 * at most, valid until the next call) and *ret_count. ERR_MEMORY. */
enum asdm_status asdm_bpe_encode(const struct asdm_bpe *bpe, struct asdm_bpe_scratch *scratch,
                                 const unsigned char *word, size_t length, const int32_t **ret_ids, size_t *ret_count,
                                 struct asdm_error *err);

#endif
