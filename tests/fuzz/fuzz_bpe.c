/* Fuzzes the tokenizer. The first byte chooses: 0 to 3 a vocabulary made here, and all the rest is the prompt; else the
 * rest is six texts with NUL bytes between: prompt, merges, special_tokens_map.json, tokenizer_config.json,
 * added_tokens.json, vocab.json (where the last is missing, a vocabulary made here; where it starts with "J", it is a
 * tokenizer.json without that letter). */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer.h"
#include "text/unicode.h"
#include "tiny_vocab.h"

static void require(int condition) {
    if (!condition)
        abort();
}

static const char *const merges[] = {"a a",     "aa aa",   "a b",        "ab a",    "b a</w>",  "l o", "lo w</w>",
                                     "e r</w>", "lo w",    "low er</w>", "' s</w>", "! !</w>",  "! !", "!! !!",
                                     "< |</w>", "Ã ©</w>", "ð Ł",        "ðŁ ĺ",    "ðŁĺ Ģ</w>"};
enum { MERGES = sizeof merges / sizeof merges[0] };
static struct tiny_vocab plain, merging;
static struct asdm_tokenizer *tokenizers[4];

static struct asdm_tokenizer_file file(const char *name, const char *text, size_t length) {
    return (struct asdm_tokenizer_file){name, text, length};
}

static struct asdm_tokenizer *open_made(const struct tiny_vocab *tiny, const char *map) {
    struct asdm_tokenizer *tokenizer = NULL;
    struct asdm_tokenizer_files files = {.vocab = file("vocab", tiny->vocab.data, tiny->vocab.length),
                                         .merges = file("merges", tiny->merges.data, tiny->merges.length),
                                         .special_tokens_map = file("map", map, map ? strlen(map) : 0)};
    require(asdm_tokenizer_open_memory(&files, &tokenizer, NULL) == ASDM_OK);
    return tokenizer;
}

static void set_up(void) {
    if (tokenizers[0])
        return;
    tiny_vocab_make(&plain, NULL, 0);
    tiny_vocab_make(&merging, merges, MERGES);
    tokenizers[0] = open_made(&plain, NULL);
    tokenizers[1] = open_made(&merging, NULL);
    tokenizers[2] = open_made(&merging, "{\"pad_token\": \"!\", \"eos_token\": {\"content\": \"<|endoftext|>\", "
                                        "\"normalized\": true}, \"unk_token\": null}");
    tokenizers[3] = open_made(&merging, "{\"extra_special_tokens\": [\"<a>\", \"<a>>\", {\"content\": \"É  x\", "
                                        "\"normalized\": true}, \"lo\"]}");
}

/* Encodes and holds the result to what always is true of it. */
static void encode(const struct asdm_tokenizer *tokenizer, const char *text, size_t length) {
    enum { COUNT = 77 };
    int32_t ids[COUNT], again[COUNT], few[5];
    size_t tokens = 0, offset = 0;
    int valid = asdm_unicode_check((const unsigned char *)text, length, &offset);
    enum asdm_status status = asdm_tokenizer_encode(tokenizer, text, length, ids, COUNT, &tokens, NULL);
    require(status == (valid && length <= ASDM_TOKENIZER_TEXT_MAX ? ASDM_OK : ASDM_ERR_ARGUMENT));
    if (status != ASDM_OK)
        return;
    require(tokens <= 3 * length); /* U+0130 and decompositions make more bytes, never three times as many */
    size_t kept = tokens < COUNT - 2 ? tokens : COUNT - 2;
    require(ids[0] == asdm_tokenizer_bos(tokenizer) && ids[kept + 1] == asdm_tokenizer_eos(tokenizer));
    for (size_t i = 0; i < COUNT; i++) {
        require(ids[i] >= 0 && (size_t)ids[i] < asdm_tokenizer_vocab_size(tokenizer));
        require(i < kept + 2 || ids[i] == asdm_tokenizer_pad(tokenizer));
    }
    require(asdm_tokenizer_encode(tokenizer, text, length, again, COUNT, NULL, NULL) == ASDM_OK);
    require(memcmp(ids, again, sizeof ids) == 0);
    require(asdm_tokenizer_encode(tokenizer, text, length, few, 5, NULL, NULL) == ASDM_OK);
    require(memcmp(ids, few, (kept < 3 ? kept + 1 : 4) * sizeof *few) == 0);
}

/* Cuts the next text off at its NUL. An empty text counts as an absent file. */
static struct asdm_tokenizer_file next(const char *name, const char **data, size_t *size) {
    const char *end = *size ? memchr(*data, 0, *size) : NULL;
    size_t length = end ? (size_t)(end - *data) : *size;
    struct asdm_tokenizer_file result = file(name, length ? *data : NULL, length);
    *data += length + (end != NULL);
    *size -= length + (end != NULL);
    return result;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    set_up();
    if (size == 0)
        return 0;
    const char *data = (const char *)bytes + 1;
    size--;
    if (bytes[0] < 4) {
        encode(tokenizers[bytes[0]], data, size);
        return 0;
    }
    struct asdm_tokenizer *tokenizer = NULL;
    struct asdm_error err = {0};
    struct asdm_tokenizer_file prompt = next("prompt", &data, &size);
    struct asdm_tokenizer_files files = {.merges = next("merges", &data, &size)};
    files.special_tokens_map = next("map", &data, &size);
    files.config = next("config", &data, &size);
    files.added_tokens = next("added", &data, &size);
    files.vocab = next("vocab", &data, &size);
    if (files.vocab.text && files.vocab.text[0] == 'J')
        files.tokenizer = file("tokenizer", files.vocab.text + 1, files.vocab.length - 1);
    else if (!files.vocab.text)
        files.vocab = file("vocab", merging.vocab.data, merging.vocab.length);
    enum asdm_status status = asdm_tokenizer_open_memory(&files, &tokenizer, &err);
    require((status == ASDM_OK) == (tokenizer != NULL));
    if (status == ASDM_OK)
        encode(tokenizer, prompt.text ? prompt.text : "", prompt.length);
    else
        require(err.status == status && err.message[0] && memchr(err.message, 0, sizeof err.message));
    asdm_tokenizer_close(&tokenizer);
    return 0;
}
