/* See vocabulary.h. */
#include "text/vocabulary.h"

#include <string.h>

#include <asdm/error.h>

enum { ARENA_MAX = 256 << 20 }; /* bytes; the files are limited to much less */

static size_t hash(const char *text, size_t length) { /* FNV-1a */
    uint64_t value = 0xcbf29ce484222325u;
    for (size_t i = 0; i < length; i++)
        value = (value ^ (unsigned char)text[i]) * 0x100000001b3u;
    return (size_t)(value ^ value >> 32);
}

static enum asdm_status allocate(struct asdm_vocabulary *vocabulary, size_t count, const char *name,
                                 struct asdm_error *err) {
    size_t slots = 16;
    while (slots < 2 * count)
        slots *= 2;
    vocabulary->tokens = asdm_arena_alloc(&vocabulary->arena, count, sizeof *vocabulary->tokens);
    vocabulary->table = asdm_arena_alloc(&vocabulary->arena, slots, sizeof *vocabulary->table);
    if (!vocabulary->tokens || !vocabulary->table)
        return asdm_fail(err, ASDM_ERR_MEMORY, "%s: out of memory for %zu tokens", name, count);
    vocabulary->mask = slots - 1;
    vocabulary->count = count;
    return ASDM_OK;
}

static enum asdm_status insert(struct asdm_vocabulary *vocabulary, const struct asdm_json *entry, const char *name,
                               struct asdm_error *err) {
    const char *key = asdm_json_key(entry);
    if (asdm_json_type(entry) != ASDM_JSON_NUMBER)
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: token \"%.100s\": the id must be a number, is %s", name, key,
                         asdm_json_type_name(asdm_json_type(entry)));
    double number = asdm_json_number(entry);
    if (!(number >= 0 && number < (double)vocabulary->count) || number != (double)(size_t)number)
        return asdm_fail(err, ASDM_ERR_FORMAT,
                         "%s: token \"%.100s\": the id must be an integer from 0 to %zu (ids have no gaps), is %g",
                         name, key, vocabulary->count - 1, number);
    size_t id = (size_t)number, length = strlen(key);
    if (vocabulary->tokens[id].text)
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: tokens \"%.100s\" and \"%.100s\" have the same id %zu", name,
                         vocabulary->tokens[id].text, key, id);
    char *text = asdm_arena_strndup(&vocabulary->arena, key, length);
    if (!text)
        return asdm_fail(err, ASDM_ERR_MEMORY, "%s: out of memory for its tokens", name);
    vocabulary->tokens[id].text = text;
    vocabulary->tokens[id].length = length;
    size_t slot = hash(key, length) & vocabulary->mask;
    while (vocabulary->table[slot]) /* keys differ: the JSON reader refuses duplicates */
        slot = (slot + 1) & vocabulary->mask;
    vocabulary->table[slot] = (uint32_t)id + 1;
    return ASDM_OK;
}

enum asdm_status asdm_vocabulary_init(struct asdm_vocabulary *vocabulary, const struct asdm_json *object,
                                      const char *name, struct asdm_error *err) {
    memset(vocabulary, 0, sizeof *vocabulary);
    asdm_arena_init(&vocabulary->arena, ARENA_MAX);
    if (asdm_json_type(object) != ASDM_JSON_OBJECT)
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: the vocabulary must be an object, is %s", name,
                         asdm_json_type_name(asdm_json_type(object)));
    size_t count = asdm_json_count(object);
    if (count == 0 || count > ASDM_VOCABULARY_IDS_MAX)
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: a vocabulary has 1 to %d tokens, this one has %zu", name,
                         ASDM_VOCABULARY_IDS_MAX, count);
    enum asdm_status status = allocate(vocabulary, count, name, err);
    for (const struct asdm_json *entry = asdm_json_first(object); entry && status == ASDM_OK;
         entry = asdm_json_next(entry))
        status = insert(vocabulary, entry, name, err);
    if (status != ASDM_OK)
        asdm_vocabulary_done(vocabulary);
    return status;
}

void asdm_vocabulary_done(struct asdm_vocabulary *vocabulary) {
    asdm_arena_done(&vocabulary->arena);
    memset(vocabulary, 0, sizeof *vocabulary);
}

int32_t asdm_vocabulary_find(const struct asdm_vocabulary *vocabulary, const char *text, size_t length) {
    for (size_t slot = hash(text, length) & vocabulary->mask; vocabulary->table[slot];
         slot = (slot + 1) & vocabulary->mask) {
        uint32_t id = vocabulary->table[slot] - 1;
        const struct asdm_vocabulary_token *token = &vocabulary->tokens[id];
        if (token->length == length && memcmp(token->text, text, length) == 0)
            return (int32_t)id;
    }
    return -1;
}
