/* CLIP's byte-level BPE tokenizer, from a checkpoint's own vocab.json and merges.txt, giving the ids that transformers'
 * CLIPTokenizer (5.x, on the Rust `tokenizers` crate) gives: added tokens cut out, NFC, white space folded, lower case,
 * CLIP's pattern and then GPT-2's, BPE with "</w>", <|startoftext|> and <|endoftext|> around, truncation, padding with
 * the tokenizer's pad token. */
#ifndef ASDM_TOKENIZER_H
#define ASDM_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

#include <asdm/status.h>

struct asdm_tokenizer;

enum {
    ASDM_TOKENIZER_TEXT_MAX = 1 << 20, /* bytes of one text */
    ASDM_TOKENIZER_COUNT_MAX = 1 << 20 /* ids of one text */
};

/* Reads DIRECTORY/{vocab.json,merges.txt} and, where present, tokenizer_config.json, special_tokens_map.json and
 * added_tokens.json (bos, eos, unk, pad and other tokens, each a string or an object with "content"). Where a
 * tokenizer.json (transformers' fast format) is present it takes the place of vocab.json and merges.txt, as in
 * transformers. ERR_NOT_FOUND when neither is there. ERR_FORMAT naming file and entry: a byte that the vocabulary lacks
 * (with and without "</w>"), a merge whose parts or result are not in the vocabulary, ids that repeat or have gaps,
 * missing special tokens. */
enum asdm_status asdm_tokenizer_open(const char *directory, struct asdm_tokenizer **ret, struct asdm_error *err);

/* The same from texts in memory. A file with a NULL `text` is absent. `name` starts the messages about it. */
struct asdm_tokenizer_file {
    const char *name, *text;
    size_t length; /* bytes */
};

struct asdm_tokenizer_files {
    struct asdm_tokenizer_file vocab, merges, tokenizer, config, special_tokens_map, added_tokens;
};

enum asdm_status asdm_tokenizer_open_memory(const struct asdm_tokenizer_files *files, struct asdm_tokenizer **ret,
                                            struct asdm_error *err);

void asdm_tokenizer_close(struct asdm_tokenizer **tokenizer);

/* Ids are below this: the vocabulary's tokens and, after them, added tokens that it does not have. */
size_t asdm_tokenizer_vocab_size(const struct asdm_tokenizer *tokenizer);
int32_t asdm_tokenizer_bos(const struct asdm_tokenizer *tokenizer);
int32_t asdm_tokenizer_eos(const struct asdm_tokenizer *tokenizer);
int32_t asdm_tokenizer_pad(const struct asdm_tokenizer *tokenizer);
/* A comma that ends a word. */
int32_t asdm_tokenizer_comma(const struct asdm_tokenizer *tokenizer);

/* Is this a text that can be encoded? ERR_ARGUMENT: invalid UTF-8, more than ASDM_TOKENIZER_TEXT_MAX bytes. */
enum asdm_status asdm_tokenizer_check(const char *text, size_t length, struct asdm_error *err);

/* Encodes `length` bytes of UTF-8 to exactly `count` ids: bos, at most count - 2 tokens, eos, pads. Time is linear in
 * `length` up to the logarithm of the longest word. *ret_tokens (may be NULL): how many tokens the text has without bos
 * and eos, so that a caller can say that it was truncated. ERR_ARGUMENT: a text that fails
 * asdm_tokenizer_check, `count` below 2 or above ASDM_TOKENIZER_COUNT_MAX. Any number of threads may encode with one
 * tokenizer. */
enum asdm_status asdm_tokenizer_encode(const struct asdm_tokenizer *tokenizer, const char *text, size_t length,
                                       int32_t *ret_ids, size_t count, size_t *ret_tokens, struct asdm_error *err);

/* Encodes a part of a longer text: tokens alone, without bos, eos and pads. The first `capacity` of them are written to
 * `ids`, whose contents are undefined after a failure; *ret_tokens is how many the part has. ERR_ARGUMENT: a text that
 * fails asdm_tokenizer_check. */
enum asdm_status asdm_tokenizer_encode_part(const struct asdm_tokenizer *tokenizer, const char *text, size_t length,
                                            int32_t *ids, size_t capacity, size_t *ret_tokens, struct asdm_error *err);

#endif
