/* See prompt.h. What the syntax means is text/prompt_parts.h's; here tokens are put into chunks. */
#include "text/prompt.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>
#include "asdm_limits.h"
#include "text/prompt_parts.h"

enum { IDS = ASDM_PROMPT_CHUNK_IDS, TOKENS = ASDM_PROMPT_CHUNK_TOKENS };

void asdm_prompt_done(struct asdm_prompt *prompt) {
    free(prompt->ids);
    free(prompt->weights);
    *prompt = (struct asdm_prompt){0};
}

/* Room for so many chunks; those that there are stay. */
static enum asdm_status reserve(struct asdm_prompt *prompt, int chunks, struct asdm_error *err) {
    size_t count = (size_t)chunks * IDS;
    int32_t *ids = realloc(prompt->ids, count * sizeof *ids);
    if (ids)
        prompt->ids = ids;
    float *weights = realloc(prompt->weights, count * sizeof *weights);
    if (weights)
        prompt->weights = weights;
    if (!ids || !weights)
        return asdm_fail(err, ASDM_ERR_MEMORY, "out of memory for a prompt of %d chunks", chunks);
    return ASDM_OK;
}

/* The next chunk has `length` tokens in their places: puts bos, eos and pads around them. */
static void finish_chunk(struct asdm_prompt *prompt, const struct asdm_tokenizer *tokenizer, int length) {
    int32_t *ids = prompt->ids + (size_t)prompt->chunk_count * IDS;
    float *weights = prompt->weights + (size_t)prompt->chunk_count * IDS;
    ids[0] = asdm_tokenizer_bos(tokenizer);
    ids[length + 1] = asdm_tokenizer_eos(tokenizer);
    for (int i = length + 2; i < IDS; i++)
        ids[i] = asdm_tokenizer_pad(tokenizer);
    weights[0] = 1;
    for (int i = length + 1; i < IDS; i++)
        weights[i] = 1;
    prompt->chunk_count++;
}

/* Tokens on their way into chunks. The one being filled is number prompt->chunk_count. */
struct filler {
    const struct asdm_tokenizer *tokenizer;
    struct asdm_prompt *prompt;
    int chunks_max;
    int length, last_comma; /* tokens in the chunk; place among them of its last comma, or -1 */
};

static bool is_full(const struct filler *filler) {
    return filler->prompt->chunk_count == filler->chunks_max;
}

static void next_chunk(struct filler *filler) {
    finish_chunk(filler->prompt, filler->tokenizer, filler->length);
    filler->length = 0;
    filler->last_comma = -1;
}

/* Ends a full chunk after its last comma; what came then starts the next. */
static void next_chunk_at_comma(struct filler *filler) {
    struct asdm_prompt *prompt = filler->prompt;
    int kept = filler->last_comma + 1, moved = filler->length - kept;
    size_t from = (size_t)prompt->chunk_count * IDS + 1 + (size_t)kept,
           to = (size_t)(prompt->chunk_count + 1) * IDS + 1;
    if (prompt->chunk_count + 1 < filler->chunks_max) {
        memcpy(prompt->ids + to, prompt->ids + from, (size_t)moved * sizeof *prompt->ids);
        memcpy(prompt->weights + to, prompt->weights + from, (size_t)moved * sizeof *prompt->weights);
    }
    filler->length = kept;
    next_chunk(filler);
    filler->length = moved;
}

static void add_token(struct filler *filler, int32_t id, float weight) {
    if (id == asdm_tokenizer_comma(filler->tokenizer))
        filler->last_comma = filler->length;
    else if (filler->length == TOKENS && filler->last_comma >= 0 &&
             filler->length - filler->last_comma <= ASDM_PROMPT_COMMA_TOKENS)
        next_chunk_at_comma(filler);
    if (filler->length == TOKENS)
        next_chunk(filler);
    if (is_full(filler))
        return;
    size_t place = (size_t)filler->prompt->chunk_count * IDS + 1 + (size_t)filler->length++;
    filler->prompt->ids[place] = id;
    filler->prompt->weights[place] = weight;
}

/* `ids` has room for as many tokens as matter: what fits into all chunks, and one more that can move others. */
static enum asdm_status add_parts(struct filler *filler, const struct asdm_prompt_parts *parts, int32_t *ids,
                                  size_t capacity, struct asdm_error *err) {
    for (size_t i = 0; i < parts->count; i++) {
        const struct asdm_prompt_part *part = &parts->parts[i];
        size_t tokens;
        if (part->is_break) {
            if (!is_full(filler))
                next_chunk(filler);
            continue;
        }
        ASDM_TRY(asdm_tokenizer_encode_part(filler->tokenizer, parts->text + part->start, part->length, ids, capacity,
                                            &tokens, err));
        filler->prompt->tokens += tokens;
        float weight = (float)fmin(fmax(part->weight, -ASDM_PROMPT_WEIGHT_MAX), ASDM_PROMPT_WEIGHT_MAX);
        for (size_t k = 0; k < tokens && k < capacity && !is_full(filler); k++)
            add_token(filler, ids[k], weight);
    }
    if (!is_full(filler) && (filler->length > 0 || filler->prompt->chunk_count == 0))
        next_chunk(filler);
    for (int i = 0; i < filler->prompt->chunk_count * IDS; i++) /* at the end: tokens can have moved out of the last */
        filler->prompt->weighted |= filler->prompt->weights[i] != 1;
    return ASDM_OK;
}

static enum asdm_status encode_weighted(const struct asdm_tokenizer *tokenizer, const char *text, int chunks_max,
                                        struct asdm_prompt *prompt, struct asdm_error *err) {
    struct asdm_prompt_parts parts = {0};
    struct filler filler = {.tokenizer = tokenizer, .prompt = prompt, .chunks_max = chunks_max, .last_comma = -1};
    size_t capacity = (size_t)chunks_max * TOKENS + 1;
    ASDM_TRY(asdm_tokenizer_check(text, strlen(text), err));
    ASDM_TRY(reserve(prompt, chunks_max, err));
    ASDM_TRY(asdm_prompt_parts_init(&parts, text, err));
    int32_t *ids = malloc(capacity * sizeof *ids);
    enum asdm_status status = ids ? add_parts(&filler, &parts, ids, capacity, err)
                                  : asdm_fail(err, ASDM_ERR_MEMORY, "out of memory for %zu ids", capacity);
    free(ids);
    asdm_prompt_parts_done(&parts);
    return status;
}

static enum asdm_status encode_plain(const struct asdm_tokenizer *tokenizer, const char *text,
                                     struct asdm_prompt *prompt, struct asdm_error *err) {
    ASDM_TRY(reserve(prompt, 1, err));
    ASDM_TRY(asdm_tokenizer_encode(tokenizer, text, strlen(text), prompt->ids, IDS, &prompt->tokens, err));
    for (int i = 0; i < IDS; i++)
        prompt->weights[i] = 1;
    prompt->chunk_count = 1;
    return ASDM_OK;
}

enum asdm_status asdm_prompt_encode(const struct asdm_tokenizer *tokenizer, const char *text,
                                    enum asdm_prompt_syntax syntax, int chunks_max, struct asdm_prompt *ret,
                                    struct asdm_error *err) {
    ASDM_ASSERT(chunks_max >= 1 && chunks_max <= ASDM_PROMPT_CHUNKS_MAX);
    struct asdm_prompt prompt = {0};
    if (!text)
        text = "";
    if (strnlen(text, ASDM_LIMIT_PROMPT_BYTES + 1) > ASDM_LIMIT_PROMPT_BYTES)
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "the prompt has more than %d bytes", ASDM_LIMIT_PROMPT_BYTES);
    enum asdm_status status = syntax == ASDM_PROMPT_A1111 ? encode_weighted(tokenizer, text, chunks_max, &prompt, err)
                                                          : encode_plain(tokenizer, text, &prompt, err);
    if (status == ASDM_OK)
        *ret = prompt;
    else
        asdm_prompt_done(&prompt);
    return status;
}

enum asdm_status asdm_prompt_pad(struct asdm_prompt *prompt, const struct asdm_tokenizer *tokenizer, int chunk_count,
                                 struct asdm_error *err) {
    ASDM_ASSERT(chunk_count <= ASDM_PROMPT_CHUNKS_MAX);
    if (chunk_count <= prompt->chunk_count)
        return ASDM_OK;
    ASDM_TRY(reserve(prompt, chunk_count, err));
    while (prompt->chunk_count < chunk_count)
        finish_chunk(prompt, tokenizer, 0);
    return ASDM_OK;
}
