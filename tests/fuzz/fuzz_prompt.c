/* Fuzzes prompts: syntax, chunks, padding. The first byte chooses how many chunks (its low 4 bits, and 1) and the
 * tokenizer; the rest is the prompt. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "text/prompt.h"
#include "text/prompt_parts.h"
#include "text/unicode.h"
#include "tiny_vocab.h"

static void require(int condition) {
    if (!condition)
        abort();
}

enum { IDS = ASDM_PROMPT_CHUNK_IDS };

static struct asdm_tokenizer *tokenizers[2]; /* pads with eos; pads with "!" */

static void set_up(void) {
    static const char *const merges[] = {"a a", "aa aa", "l o", "lo w</w>", ", ,</w>", "( (", "Ã ©</w>"};
    struct tiny_vocab tiny;
    if (tokenizers[0])
        return;
    tiny_vocab_make(&tiny, merges, sizeof merges / sizeof merges[0]);
    struct asdm_tokenizer_files files = {.vocab = {"vocab", tiny.vocab.data, tiny.vocab.length},
                                         .merges = {"merges", tiny.merges.data, tiny.merges.length}};
    require(asdm_tokenizer_open_memory(&files, &tokenizers[0], NULL) == ASDM_OK);
    static const char map[] = "{\"pad_token\": \"!\"}";
    files.special_tokens_map = (struct asdm_tokenizer_file){"map", map, sizeof map - 1};
    require(asdm_tokenizer_open_memory(&files, &tokenizers[1], NULL) == ASDM_OK);
    tiny_vocab_done(&tiny);
}

static void check_chunk(const struct asdm_tokenizer *tokenizer, const int32_t *ids, const float *weights) {
    int end = IDS - 1; /* the eos: what comes after it is pads */
    for (int i = 0; i < IDS; i++) {
        require(ids[i] >= 0 && (size_t)ids[i] < asdm_tokenizer_vocab_size(tokenizer));
        require(fabsf(weights[i]) <= ASDM_PROMPT_WEIGHT_MAX);
    }
    require(ids[0] == asdm_tokenizer_bos(tokenizer) && weights[0] == 1);
    while (ids[end] == asdm_tokenizer_pad(tokenizer) && ids[end] != asdm_tokenizer_eos(tokenizer))
        end--;
    require(ids[end] == asdm_tokenizer_eos(tokenizer));
    for (int i = end; i < IDS; i++)
        require(weights[i] == 1);
}

/* The parts, in order and one after the other in the text, no two that should be one. */
static void check_parts(const char *text) {
    struct asdm_prompt_parts parts = {0};
    require(asdm_prompt_parts_init(&parts, text, NULL) == ASDM_OK);
    size_t at = 0, length = strlen(text), offset;
    require(parts.count <= length);
    for (size_t i = 0; i < parts.count; i++) {
        const struct asdm_prompt_part *part = &parts.parts[i], *last = i ? part - 1 : NULL;
        require(part->start == at && isfinite(part->weight) && !(part->is_break && part->length));
        require(asdm_unicode_check((const unsigned char *)parts.text + at, part->length, &offset));
        require(!last || last->is_break || part->is_break || last->weight != part->weight);
        at += part->length;
    }
    require(at <= length);
    asdm_prompt_parts_done(&parts);
}

/* Without syntax and with one chunk at most it is what PLAIN gives. */
static void check_plain(const struct asdm_tokenizer *tokenizer, const char *text, const struct asdm_prompt *prompt) {
    struct asdm_prompt plain = {0};
    require(asdm_prompt_encode(tokenizer, text, ASDM_PROMPT_PLAIN, 1, &plain, NULL) == ASDM_OK);
    require(plain.chunk_count == 1 && !plain.weighted);
    if (!strpbrk(text, "\\()[]") && !strstr(text, "BREAK")) {
        require(prompt->tokens == plain.tokens && !prompt->weighted);
        if (plain.tokens <= ASDM_PROMPT_CHUNK_TOKENS)
            require(prompt->chunk_count == 1 && memcmp(prompt->ids, plain.ids, IDS * sizeof *plain.ids) == 0);
    }
    asdm_prompt_done(&plain);
}

static void check(const struct asdm_tokenizer *tokenizer, const char *text, int chunks_max) {
    struct asdm_prompt prompt = {0}, fewer = {0};
    struct asdm_error err = {0};
    size_t offset;
    int valid = asdm_unicode_check((const unsigned char *)text, strlen(text), &offset);
    enum asdm_status status = asdm_prompt_encode(tokenizer, text, ASDM_PROMPT_A1111, chunks_max, &prompt, &err);
    require(status == (valid ? ASDM_OK : ASDM_ERR_ARGUMENT));
    if (!valid)
        return;
    require(prompt.chunk_count >= 1 && prompt.chunk_count <= chunks_max);
    for (int i = 0; i < prompt.chunk_count; i++)
        check_chunk(tokenizer, prompt.ids + i * IDS, prompt.weights + i * IDS);
    check_parts(text);
    check_plain(tokenizer, text, &prompt);
    /* fewer chunks are the first of more */
    int few = (chunks_max + 1) / 2;
    require(asdm_prompt_encode(tokenizer, text, ASDM_PROMPT_A1111, few, &fewer, NULL) == ASDM_OK);
    require(fewer.chunk_count == (prompt.chunk_count < few ? prompt.chunk_count : few));
    require(fewer.tokens == prompt.tokens);
    require(memcmp(fewer.ids, prompt.ids, (size_t)fewer.chunk_count * IDS * sizeof *prompt.ids) == 0);
    require(memcmp(fewer.weights, prompt.weights, (size_t)fewer.chunk_count * IDS * sizeof *prompt.weights) == 0);
    require(asdm_prompt_pad(&fewer, tokenizer, chunks_max, NULL) == ASDM_OK && fewer.chunk_count == chunks_max);
    check_chunk(tokenizer, fewer.ids + (chunks_max - 1) * IDS, fewer.weights + (chunks_max - 1) * IDS);
    asdm_prompt_done(&prompt);
    asdm_prompt_done(&fewer);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    set_up();
    if (size == 0)
        return 0;
    char *text = malloc(size);
    require(text != NULL);
    memcpy(text, bytes + 1, size - 1);
    text[size - 1] = 0;
    check(tokenizers[bytes[0] >> 7], text, (bytes[0] & 15) + 1);
    free(text);
    return 0;
}
