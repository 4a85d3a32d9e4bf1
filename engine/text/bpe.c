/* See bpe.h. */
#include "text/bpe.h"

#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>
#include "text/unicode.h"

static const char word_end[] = "</w>";

/* GPT-2's byte_encoder: the character that stands for a byte in vocab.json. */
static uint32_t byte_character(unsigned byte) {
    static const unsigned char first[] = {0, 127, 173}, last[] = {32, 160, 173};
    uint32_t next = 256;
    for (size_t i = 0; i < sizeof first; i++) {
        if (byte >= first[i] && byte <= last[i])
            return next + byte - first[i];
        next += last[i] - first[i] + 1u;
    }
    return byte;
}

enum asdm_status asdm_bpe_init(struct asdm_bpe *bpe, const struct asdm_vocabulary *vocabulary, const char *name,
                               struct asdm_error *err) {
    memset(bpe, 0, sizeof *bpe);
    for (unsigned byte = 0; byte < 256; byte++) {
        char text[4 + sizeof word_end];
        size_t length = asdm_unicode_encode(byte_character(byte), (unsigned char *)text);
        memcpy(text + length, word_end, sizeof word_end);
        bpe->inner[byte] = asdm_vocabulary_find(vocabulary, text, length);
        bpe->final[byte] = asdm_vocabulary_find(vocabulary, text, length + sizeof word_end - 1);
        if (bpe->inner[byte] < 0)
            text[length] = '\0';
        if (bpe->inner[byte] < 0 || bpe->final[byte] < 0)
            return asdm_fail(err, ASDM_ERR_FORMAT, "%s: no token \"%s\" for the byte 0x%02X", name, text, byte);
    }
    return ASDM_OK;
}

void asdm_bpe_done(struct asdm_bpe *bpe) {
    free(bpe->merges);
    free(bpe->table);
    memset(bpe, 0, sizeof *bpe);
}

static enum asdm_status reserve_merge(struct asdm_bpe *bpe, const char *where, struct asdm_error *err) {
    if (bpe->count == ASDM_BPE_MERGES_MAX)
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: more than %d merges", where, ASDM_BPE_MERGES_MAX);
    if (bpe->count < bpe->capacity)
        return ASDM_OK;
    size_t capacity = bpe->capacity ? 2 * bpe->capacity : 1024;
    struct asdm_bpe_merge *merges = realloc(bpe->merges, capacity * sizeof *merges);
    if (!merges)
        return asdm_fail(err, ASDM_ERR_MEMORY, "%s: out of memory for %zu merges", where, capacity);
    bpe->merges = merges;
    bpe->capacity = capacity;
    return ASDM_OK;
}

static enum asdm_status fail_merge(const char *where, size_t number, const struct asdm_vocabulary_token *left,
                                   const struct asdm_vocabulary_token *right, const char *problem,
                                   struct asdm_error *err) {
    return asdm_fail(err, ASDM_ERR_FORMAT, "%s %zu: merge \"%.*s %.*s\": %s", where, number,
                     (int)(left->length < 100 ? left->length : 100), left->text,
                     (int)(right->length < 100 ? right->length : 100), right->text, problem);
}

/* The id of `left` and `right` written together, or -1. */
static int32_t find_joined(const struct asdm_vocabulary *vocabulary, const struct asdm_vocabulary_token *left,
                           const struct asdm_vocabulary_token *right, char **ret_memory) {
    char local[256], *text = local;
    size_t length = left->length + right->length;
    if (length > sizeof local)
        text = *ret_memory = malloc(length);
    if (!text)
        return -1;
    memcpy(text, left->text, left->length);
    memcpy(text + left->length, right->text, right->length);
    return asdm_vocabulary_find(vocabulary, text, length);
}

enum asdm_status asdm_bpe_add(struct asdm_bpe *bpe, const struct asdm_vocabulary *vocabulary,
                              const struct asdm_vocabulary_token *left, const struct asdm_vocabulary_token *right,
                              const char *where, size_t number, struct asdm_error *err) {
    char *memory = NULL;
    struct asdm_bpe_merge merge;
    ASDM_TRY(reserve_merge(bpe, where, err));
    merge.left = asdm_vocabulary_find(vocabulary, left->text, left->length);
    if (merge.left < 0)
        return fail_merge(where, number, left, right, "its left part is not in the vocabulary", err);
    merge.right = asdm_vocabulary_find(vocabulary, right->text, right->length);
    if (merge.right < 0)
        return fail_merge(where, number, left, right, "its right part is not in the vocabulary", err);
    merge.result = find_joined(vocabulary, left, right, &memory);
    free(memory);
    if (merge.result < 0)
        return fail_merge(where, number, left, right, "its result is not in the vocabulary", err);
    bpe->merges[bpe->count++] = merge;
    return ASDM_OK;
}

static size_t hash_pair(int32_t left, int32_t right) {
    uint64_t value = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9E3779B97F4A7C15u;
    return (size_t)(value ^ value >> 29);
}

/* The slot that holds the pair, or the empty one where it belongs. */
static size_t find_slot(const struct asdm_bpe *bpe, int32_t left, int32_t right) {
    size_t slot = hash_pair(left, right) & bpe->mask;
    while (bpe->table[slot]) {
        const struct asdm_bpe_merge *merge = &bpe->merges[bpe->table[slot] - 1];
        if (merge->left == left && merge->right == right)
            break;
        slot = (slot + 1) & bpe->mask;
    }
    return slot;
}

enum asdm_status asdm_bpe_finish(struct asdm_bpe *bpe, struct asdm_error *err) {
    size_t slots = 16;
    while (slots < 2 * bpe->count)
        slots *= 2;
    bpe->table = calloc(slots, sizeof *bpe->table);
    if (!bpe->table)
        return asdm_fail(err, ASDM_ERR_MEMORY, "out of memory for a table of %zu merges", bpe->count);
    bpe->mask = slots - 1;
    for (size_t rank = 0; rank < bpe->count; rank++)
        bpe->table[find_slot(bpe, bpe->merges[rank].left, bpe->merges[rank].right)] = (uint32_t)rank + 1;
    return ASDM_OK;
}

/* A token of the word being encoded. It keeps the place of its first byte; a joined right neighbour becomes dead. */
struct asdm_bpe_symbol {
    int32_t id; /* -1: dead */
    uint32_t previous, next;
};

static const uint32_t none = UINT32_MAX;

void asdm_bpe_scratch_done(struct asdm_bpe_scratch *scratch) {
    free(scratch->symbols);
    free(scratch->heap);
    memset(scratch, 0, sizeof *scratch);
}

static enum asdm_status reserve_scratch(struct asdm_bpe_scratch *scratch, size_t length, struct asdm_error *err) {
    if (length <= scratch->capacity)
        return ASDM_OK;
    size_t capacity = length < 64 ? 64 : length + length / 2;
    struct asdm_bpe_symbol *symbols = realloc(scratch->symbols, capacity * sizeof *symbols);
    if (symbols)
        scratch->symbols = symbols;
    /* length - 1 entries at the start, and each of at most length - 1 joins takes one out and puts in two at most */
    uint64_t *heap = realloc(scratch->heap, 2 * capacity * sizeof *heap);
    if (heap)
        scratch->heap = heap;
    if (!symbols || !heap)
        return asdm_fail(err, ASDM_ERR_MEMORY, "out of memory for a word of %zu bytes", length);
    scratch->capacity = capacity;
    return ASDM_OK;
}

/* A binary heap of (rank << 32 | place): the least is the lowest rank and, of that, the leftmost. */
static void heap_push(uint64_t *heap, size_t *count, uint64_t entry) {
    size_t i = (*count)++;
    for (; i > 0 && heap[(i - 1) / 2] > entry; i = (i - 1) / 2)
        heap[i] = heap[(i - 1) / 2];
    heap[i] = entry;
}

static uint64_t heap_pop(uint64_t *heap, size_t *count) {
    uint64_t least = heap[0], entry = heap[--*count];
    size_t i = 0, child;
    for (; (child = 2 * i + 1) < *count; i = child) {
        if (child + 1 < *count && heap[child + 1] < heap[child])
            child++;
        if (heap[child] >= entry)
            break;
        heap[i] = heap[child];
    }
    heap[i] = entry;
    return least;
}

/* Puts the pair that starts at `place` on the heap, if it is one that merges. */
static void push_pair(const struct asdm_bpe *bpe, struct asdm_bpe_scratch *scratch, size_t *count, uint32_t place) {
    const struct asdm_bpe_symbol *symbols = scratch->symbols;
    if (place == none || symbols[place].next == none)
        return;
    uint32_t found = bpe->table[find_slot(bpe, symbols[place].id, symbols[symbols[place].next].id)];
    if (found)
        heap_push(scratch->heap, count, (uint64_t)(found - 1) << 32 | place);
}

/* Joins the symbol at `place` with its right neighbour, which must match `merge`; false when the entry is stale. */
static bool join(struct asdm_bpe_symbol *symbols, uint32_t place, const struct asdm_bpe_merge *merge) {
    struct asdm_bpe_symbol *left = &symbols[place];
    if (left->id != merge->left || left->next == none || symbols[left->next].id != merge->right)
        return false;
    struct asdm_bpe_symbol *right = &symbols[left->next];
    right->id = -1;
    left->id = merge->result;
    left->next = right->next;
    if (left->next != none)
        symbols[left->next].previous = place;
    return true;
}

enum asdm_status asdm_bpe_encode(const struct asdm_bpe *bpe, struct asdm_bpe_scratch *scratch,
                                 const unsigned char *word, size_t length, const int32_t **ret_ids, size_t *ret_count,
                                 struct asdm_error *err) {
    ASDM_ASSERT(length > 0 && length <= ASDM_BPE_WORD_MAX);
    ASDM_TRY(reserve_scratch(scratch, length, err));
    struct asdm_bpe_symbol *symbols = scratch->symbols;
    for (size_t i = 0; i < length; i++)
        symbols[i] = (struct asdm_bpe_symbol){i + 1 < length ? bpe->inner[word[i]] : bpe->final[word[i]],
                                              i ? (uint32_t)i - 1 : none, i + 1 < length ? (uint32_t)i + 1 : none};
    size_t entries = 0, count = 0;
    for (size_t i = 0; i + 1 < length; i++)
        push_pair(bpe, scratch, &entries, (uint32_t)i);
    while (entries > 0) {
        uint64_t entry = heap_pop(scratch->heap, &entries);
        uint32_t place = (uint32_t)entry;
        scratch->steps++;
        if (!join(symbols, place, &bpe->merges[entry >> 32]))
            continue;
        push_pair(bpe, scratch, &entries, symbols[place].previous);
        push_pair(bpe, scratch, &entries, place);
    }
    /* The heap is empty: its memory takes the ids (two fit where one entry was). */
    int32_t *ids = (int32_t *)scratch->heap;
    for (uint32_t place = 0; place != none; place = symbols[place].next)
        ids[count++] = symbols[place].id;
    *ret_ids = ids;
    *ret_count = count;
    return ASDM_OK;
}
