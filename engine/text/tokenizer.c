/* See tokenizer.h. A text goes through: added tokens of the raw text are cut out; each piece between is folded
 * (text/unicode.h); added tokens of the folded text are cut out; what remains is split into words; each word is encoded
 * (text/bpe.h). */
#include "text/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>
#include "base/file.h"
#include "text/tokenizer_files.h"
#include "text/unicode.h"

void asdm_tokenizer_close(struct asdm_tokenizer **tokenizer) {
    if (!*tokenizer)
        return;
    asdm_bpe_done(&(*tokenizer)->bpe);
    asdm_added_set_done(&(*tokenizer)->raw);
    asdm_added_set_done(&(*tokenizer)->folded);
    free(*tokenizer);
    *tokenizer = NULL;
}

enum asdm_status asdm_tokenizer_open_memory(const struct asdm_tokenizer_files *files, struct asdm_tokenizer **ret,
                                            struct asdm_error *err) {
    struct asdm_tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    if (!tokenizer)
        return asdm_fail(err, ASDM_ERR_MEMORY, "out of memory for a tokenizer");
    enum asdm_status status = asdm_tokenizer_load(tokenizer, files, err);
    if (status == ASDM_OK)
        *ret = tokenizer;
    else
        asdm_tokenizer_close(&tokenizer);
    return status;
}

/* Reads DIRECTORY/NAME where it exists; file->name stays set either way. */
static enum asdm_status read_file(const char *directory, const char *name, size_t limit,
                                  struct asdm_tokenizer_file *file, struct asdm_error *err) {
    char *path = asdm_path_join(directory, name), *text;
    if (!path)
        return asdm_fail(err, ASDM_ERR_MEMORY, "out of memory for the name of %s", name);
    file->name = path;
    if (!asdm_file_exists(path))
        return ASDM_OK;
    ASDM_TRY(asdm_file_read(path, limit, &text, &file->length, err));
    file->text = text;
    return ASDM_OK;
}

static enum asdm_status read_directory(const char *directory, struct asdm_tokenizer_files *files,
                                       struct asdm_error *err) {
    enum { MIB = 1 << 20 };
    if (!asdm_file_is_directory(directory))
        return asdm_fail(err, ASDM_ERR_NOT_FOUND, "%s: not a directory", directory);
    ASDM_TRY(read_file(directory, "tokenizer.json", 64 * MIB, &files->tokenizer, err));
    if (!files->tokenizer.text) {
        ASDM_TRY(read_file(directory, "vocab.json", 16 * MIB, &files->vocab, err));
        ASDM_TRY(read_file(directory, "merges.txt", 16 * MIB, &files->merges, err));
        if (!files->vocab.text)
            return asdm_fail(err, ASDM_ERR_NOT_FOUND, "%s: neither vocab.json with merges.txt nor tokenizer.json",
                             directory);
        if (!files->merges.text)
            return asdm_fail(err, ASDM_ERR_NOT_FOUND, "%s: no such file", files->merges.name);
    }
    ASDM_TRY(read_file(directory, "tokenizer_config.json", MIB, &files->config, err));
    ASDM_TRY(read_file(directory, "special_tokens_map.json", MIB, &files->special_tokens_map, err));
    return read_file(directory, "added_tokens.json", MIB, &files->added_tokens, err);
}

enum asdm_status asdm_tokenizer_open(const char *directory, struct asdm_tokenizer **ret, struct asdm_error *err) {
    struct asdm_tokenizer_files files = {0};
    enum asdm_status status = read_directory(directory, &files, err);
    if (status == ASDM_OK)
        status = asdm_tokenizer_open_memory(&files, ret, err);
    struct asdm_tokenizer_file *const all[] = {
        &files.vocab, &files.merges, &files.tokenizer, &files.config, &files.special_tokens_map, &files.added_tokens};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        free((void *)all[i]->name);
        free((void *)all[i]->text);
    }
    return status;
}

size_t asdm_tokenizer_vocab_size(const struct asdm_tokenizer *tokenizer) {
    return tokenizer->size;
}

int32_t asdm_tokenizer_bos(const struct asdm_tokenizer *tokenizer) {
    return tokenizer->bos;
}

int32_t asdm_tokenizer_eos(const struct asdm_tokenizer *tokenizer) {
    return tokenizer->eos;
}

int32_t asdm_tokenizer_pad(const struct asdm_tokenizer *tokenizer) {
    return tokenizer->pad;
}

int32_t asdm_tokenizer_comma(const struct asdm_tokenizer *tokenizer) {
    return tokenizer->bpe.final[','];
}

/* One text on its way. */
struct encoder {
    const struct asdm_tokenizer *tokenizer;
    struct asdm_unicode_folder folder;
    struct asdm_bpe_scratch scratch;
    int32_t *ids;
    size_t capacity, total; /* ids kept at most; tokens so far, kept or not */
    bool count_all;         /* go on when the ids are full */
    struct asdm_error *err;
};

static bool is_full(const struct encoder *encoder) {
    return !encoder->count_all && encoder->total >= encoder->capacity;
}

static void emit(struct encoder *encoder, const int32_t *ids, size_t count) {
    for (size_t i = 0; i < count && encoder->total + i < encoder->capacity; i++)
        encoder->ids[encoder->total + i] = ids[i];
    encoder->total += count;
}

static enum asdm_status encode_word(struct encoder *encoder, const unsigned char *word, size_t length) {
    const int32_t *ids;
    size_t count;
    ASDM_TRY(asdm_bpe_encode(&encoder->tokenizer->bpe, &encoder->scratch, word, length, &ids, &count, encoder->err));
    emit(encoder, ids, count);
    return ASDM_OK;
}

static size_t match(const unsigned char *text, size_t length, const char *const *words, size_t count) {
    for (size_t i = 0; i < count; i++) {
        size_t size = strlen(words[i]);
        if (size <= length && memcmp(text, words[i], size) == 0)
            return size;
    }
    return 0;
}

/* How many bytes at the start of `text` are one word, 1 or more; *ret_class is their class (SPACE: no word at all).
 * CLIP's pattern:
 *     <|startoftext|> or <|endoftext|>   's 't 're 've 'm 'll 'd   letters   one number   what is none of these, nor
 * space and GPT-2's pattern after it, which leaves those as they are but for the two tokens: these become "<|",
 * letters, "|>". (They are here at all only when written with capitals and looked for in the raw text.) */
static size_t next_word(const unsigned char *text, size_t length, enum asdm_unicode_class *ret_class) {
    static const char *const contractions[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
    uint32_t point = 0;
    size_t size = asdm_unicode_decode(text, length, &point), next;
    enum asdm_unicode_class class = asdm_unicode_class(point);
    *ret_class = class;
    if (point == '\'' && (next = match(text, length, contractions, 7)) > 0)
        return next;
    if (class == ASDM_UNICODE_NUMBER || class == ASDM_UNICODE_SPACE)
        return size;
    while (size < length) {
        next = asdm_unicode_decode(text + size, length - size, &point);
        if (asdm_unicode_class(point) != class)
            break;
        size += next;
    }
    return size;
}

/* Splits folded text without added tokens into words. */
static enum asdm_status encode_words(struct encoder *encoder, const unsigned char *text, size_t length) {
    static const char *const tokens[] = {"<|startoftext|>", "<|endoftext|>"};
    size_t token_end = 0; /* where a written-out token that has begun ends */
    for (size_t i = 0, size; i < length && !is_full(encoder); i += size) {
        enum asdm_unicode_class class;
        if (i >= token_end && text[i] == '<' && (size = match(text + i, length - i, tokens, 2)) > 0)
            token_end = i + size;
        size = next_word(text + i, (i < token_end ? token_end : length) - i, &class);
        if (class != ASDM_UNICODE_SPACE)
            ASDM_TRY(encode_word(encoder, text + i, size));
    }
    return ASDM_OK;
}

/* A piece of the text as given, without raw added tokens. */
static enum asdm_status encode_piece(struct encoder *encoder, const unsigned char *text, size_t length) {
    ASDM_TRY(asdm_unicode_fold(&encoder->folder, text, length, encoder->err));
    const unsigned char *folded = encoder->folder.text;
    for (size_t i = 0; i < encoder->folder.length && !is_full(encoder);) {
        size_t end = encoder->folder.length;
        const struct asdm_added_token *token =
            asdm_added_set_find(&encoder->tokenizer->folded, folded, encoder->folder.length, i, &end);
        ASDM_TRY(encode_words(encoder, folded + i, end - i));
        if (token)
            emit(encoder, &token->id, 1);
        i = end + (token ? token->length : 0);
    }
    return ASDM_OK;
}

static enum asdm_status encode_text(struct encoder *encoder, const unsigned char *text, size_t length) {
    for (size_t i = 0; i < length && !is_full(encoder);) {
        size_t end = length;
        const struct asdm_added_token *token = asdm_added_set_find(&encoder->tokenizer->raw, text, length, i, &end);
        ASDM_TRY(encode_piece(encoder, text + i, end - i));
        if (token)
            emit(encoder, &token->id, 1);
        i = end + (token ? token->length : 0);
    }
    return ASDM_OK;
}

enum asdm_status asdm_tokenizer_check(const char *text, size_t length, struct asdm_error *err) {
    size_t offset;
    if (length > ASDM_TOKENIZER_TEXT_MAX)
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "the text has %zu bytes, at most %d can be encoded", length,
                         ASDM_TOKENIZER_TEXT_MAX);
    if (!asdm_unicode_check((const unsigned char *)text, length, &offset))
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "the text is not valid UTF-8 at byte %zu", offset);
    return ASDM_OK;
}

/* Tokens alone. *ret_total: how many there are; when not `count_all`, only that there are `capacity` or more. */
static enum asdm_status encode_tokens(const struct asdm_tokenizer *tokenizer, const char *text, size_t length,
                                      int32_t *ids, size_t capacity, bool count_all, size_t *ret_total,
                                      struct asdm_error *err) {
    struct encoder encoder = {
        .tokenizer = tokenizer, .ids = ids, .capacity = capacity, .count_all = count_all, .err = err};
    enum asdm_status status = encode_text(&encoder, (const unsigned char *)text, length);
    if (status == ASDM_OK)
        *ret_total = encoder.total;
    asdm_bpe_scratch_done(&encoder.scratch);
    asdm_unicode_folder_done(&encoder.folder);
    return status;
}

enum asdm_status asdm_tokenizer_encode_part(const struct asdm_tokenizer *tokenizer, const char *text, size_t length,
                                            int32_t *ids, size_t capacity, size_t *ret_tokens, struct asdm_error *err) {
    ASDM_TRY(asdm_tokenizer_check(text, length, err));
    return encode_tokens(tokenizer, text, length, ids, capacity, true, ret_tokens, err);
}

enum asdm_status asdm_tokenizer_encode(const struct asdm_tokenizer *tokenizer, const char *text, size_t length,
                                       int32_t *ret_ids, size_t count, size_t *ret_tokens, struct asdm_error *err) {
    if (count < 2 || count > ASDM_TOKENIZER_COUNT_MAX)
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "a text is encoded to 2 to %d ids, not to %zu",
                         ASDM_TOKENIZER_COUNT_MAX, count);
    ASDM_TRY(asdm_tokenizer_check(text, length, err));
    size_t total = 0;
    int32_t *ids = malloc((count - 1) * sizeof *ids);
    enum asdm_status status = ids ? encode_tokens(tokenizer, text, length, ids, count - 2, ret_tokens, &total, err)
                                  : asdm_fail(err, ASDM_ERR_MEMORY, "out of memory for %zu ids", count);
    if (status == ASDM_OK) {
        size_t kept = total < count - 2 ? total : count - 2;
        ret_ids[0] = tokenizer->bos;
        memcpy(ret_ids + 1, ids, kept * sizeof *ret_ids);
        ret_ids[kept + 1] = tokenizer->eos;
        for (size_t i = kept + 2; i < count; i++)
            ret_ids[i] = tokenizer->pad;
        if (ret_tokens)
            *ret_tokens = total;
    }
    free(ids);
    return status;
}
