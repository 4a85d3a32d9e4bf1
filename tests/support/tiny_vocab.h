/* Small vocabularies in CLIP's format, made in memory for tests. */
#ifndef ASDM_TESTS_TINY_VOCAB_H
#define ASDM_TESTS_TINY_VOCAB_H

#include <stddef.h>
#include <stdint.h>

/* Growing text; aborts when memory is out. Starts zeroed. */
struct tiny_text {
    char *data; /* terminated */
    size_t length, capacity;
};

void tiny_text_add(struct tiny_text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
void tiny_text_done(struct tiny_text *text);

/* The UTF-8 of the character that stands for a byte in vocab.json (valid until the 4th next call). */
const char *tiny_byte(unsigned byte);

/* vocab.json and merges.txt. Ids: byte b is b, with "</w>" 256 + b; then the merges' results in order, each once; then
 * <|startoftext|> and <|endoftext|>. `merges` holds `count` pairs "left right". `vocab` is one JSON object. */
struct tiny_vocab {
    struct tiny_text vocab, merges;
    int32_t bos, eos; /* ids; eos is the last */
};

void tiny_vocab_make(struct tiny_vocab *tiny, const char *const *merges, size_t count);
void tiny_vocab_done(struct tiny_vocab *tiny);

#endif
