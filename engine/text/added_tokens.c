/* See added_tokens.h. */
#include "text/added_tokens.h"

#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>

enum asdm_status asdm_added_set_add(struct asdm_added_set *set, const unsigned char *text, size_t length, int32_t id,
                                    const char *name, struct asdm_error *err) {
    for (size_t i = 0; i < set->count; i++)
        if (set->tokens[i].length == length && memcmp(set->tokens[i].text, text, length) == 0)
            return asdm_fail(err, ASDM_ERR_FORMAT, "%s: two added tokens are looked for as \"%.*s\"", name,
                             (int)(length < 100 ? length : 100), (const char *)text);
    if (set->count == ASDM_ADDED_TOKENS_MAX)
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: more than %d added tokens", name, ASDM_ADDED_TOKENS_MAX);
    if (set->count == set->capacity) {
        size_t capacity = set->capacity ? 2 * set->capacity : 8;
        struct asdm_added_token *tokens = realloc(set->tokens, capacity * sizeof *tokens);
        if (!tokens)
            return asdm_fail(err, ASDM_ERR_MEMORY, "%s: out of memory for added tokens", name);
        set->tokens = tokens;
        set->capacity = capacity;
    }
    unsigned char *copy = malloc(length);
    if (!copy)
        return asdm_fail(err, ASDM_ERR_MEMORY, "%s: out of memory for added tokens", name);
    memcpy(copy, text, length);
    set->tokens[set->count++] = (struct asdm_added_token){copy, length, id};
    return ASDM_OK;
}

static int compare(const void *a, const void *b) {
    const struct asdm_added_token *left = a, *right = b;
    if (left->text[0] != right->text[0])
        return left->text[0] < right->text[0] ? -1 : 1;
    return left->length > right->length ? -1 : left->length < right->length;
}

void asdm_added_set_finish(struct asdm_added_set *set) {
    memset(set->first, 0, sizeof set->first);
    if (set->count == 0)
        return;
    qsort(set->tokens, set->count, sizeof *set->tokens, compare);
    for (size_t i = 0; i < set->count; i++)
        set->first[set->tokens[i].text[0] + 1]++;
    for (size_t byte = 1; byte < 257; byte++)
        set->first[byte] += set->first[byte - 1];
}

void asdm_added_set_done(struct asdm_added_set *set) {
    for (size_t i = 0; i < set->count; i++)
        free(set->tokens[i].text);
    free(set->tokens);
    memset(set, 0, sizeof *set);
}

const struct asdm_added_token *asdm_added_set_find(const struct asdm_added_set *set, const unsigned char *text,
                                                   size_t length, size_t from, size_t *ret_place) {
    if (set->count == 0)
        return NULL;
    for (size_t place = from; place < length; place++)
        for (uint32_t i = set->first[text[place]]; i < set->first[text[place] + 1]; i++) {
            const struct asdm_added_token *token = &set->tokens[i];
            if (token->length <= length - place && memcmp(token->text, text + place, token->length) == 0) {
                *ret_place = place;
                return token;
            }
        }
    return NULL;
}
