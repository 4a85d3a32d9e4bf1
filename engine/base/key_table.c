#include "base/key_table.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

struct asdm_key_slot {
    const char *key; /* NULL: free */
    size_t length;
    uint64_t hash;
    uint32_t space, value;
};

enum { SLOTS_MIN = 64 };

static uint64_t rotate(uint64_t x, int bits) {
    return x << bits | x >> (64 - bits);
}

static void sip_round(uint64_t v[4]) {
    v[0] += v[1], v[1] = rotate(v[1], 13) ^ v[0], v[0] = rotate(v[0], 32);
    v[2] += v[3], v[3] = rotate(v[3], 16) ^ v[2];
    v[0] += v[3], v[3] = rotate(v[3], 21) ^ v[0];
    v[2] += v[1], v[1] = rotate(v[1], 17) ^ v[2], v[2] = rotate(v[2], 32);
}

/* SipHash-1-3: Aumasson and Bernstein, "SipHash: a fast short-input PRF" (2012), with one and three rounds. */
static uint64_t sip_hash(const uint64_t seed[2], const char *key, size_t length) {
    uint64_t v[4] = {seed[0] ^ 0x736f6d6570736575u, seed[1] ^ 0x646f72616e646f6du, seed[0] ^ 0x6c7967656e657261u,
                     seed[1] ^ 0x7465646279746573u};
    uint64_t word;
    size_t i = 0;
    for (; i + 8 <= length; i += 8) {
        memcpy(&word, key + i, 8);
        v[3] ^= word;
        sip_round(v);
        v[0] ^= word;
    }
    word = (uint64_t)length << 56;
    for (int shift = 0; i < length; i++, shift += 8)
        word |= (uint64_t)(unsigned char)key[i] << shift;
    v[3] ^= word;
    sip_round(v);
    v[0] ^= word;
    v[2] ^= 0xff;
    for (int round = 0; round < 3; round++)
        sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

static uint64_t hash_key(const struct asdm_key_table *table, uint32_t space, const char *key, size_t length) {
    return sip_hash(table->seed, key, length) + space * 0x9e3779b97f4a7c15u;
}

/* The slot of the key, or the free slot where it belongs. */
static struct asdm_key_slot *probe(const struct asdm_key_table *table, uint64_t hash, uint32_t space, const char *key,
                                   size_t length) {
    for (size_t i = (size_t)hash & table->mask;; i = (i + 1) & table->mask) {
        struct asdm_key_slot *slot = &table->slots[i];
        if (!slot->key || (slot->hash == hash && slot->space == space && slot->length == length &&
                           memcmp(slot->key, key, length) == 0))
            return slot;
    }
}

static int grow(struct asdm_key_table *table) {
    size_t size = table->slots ? 2 * (table->mask + 1) : SLOTS_MIN;
    struct asdm_key_slot *slots = calloc(size, sizeof *slots);
    if (!slots)
        return -1;
    /* Early in boot there may be no randomness yet; the address of the table is better than nothing. */
    if (!table->slots && getrandom(table->seed, sizeof table->seed, GRND_NONBLOCK) != (ssize_t)sizeof table->seed)
        table->seed[0] = (uint64_t)(uintptr_t)slots;
    struct asdm_key_table larger = {slots, size - 1, table->count, {table->seed[0], table->seed[1]}};
    for (size_t i = 0; table->slots && i <= table->mask; i++) {
        const struct asdm_key_slot *old = &table->slots[i];
        if (old->key)
            *probe(&larger, old->hash, old->space, old->key, old->length) = *old;
    }
    free(table->slots);
    *table = larger;
    return 0;
}

enum asdm_key_insert asdm_key_table_insert(struct asdm_key_table *table, uint32_t space, const char *key, size_t length,
                                           uint32_t value) {
    if ((!table->slots || 2 * table->count > table->mask) && grow(table) != 0)
        return ASDM_KEY_NO_MEMORY;
    uint64_t hash = hash_key(table, space, key, length);
    struct asdm_key_slot *slot = probe(table, hash, space, key, length);
    if (slot->key)
        return ASDM_KEY_KNOWN;
    *slot = (struct asdm_key_slot){key, length, hash, space, value};
    table->count++;
    return ASDM_KEY_NEW;
}

int64_t asdm_key_table_find(const struct asdm_key_table *table, uint32_t space, const char *key, size_t length) {
    if (!table->slots)
        return -1;
    const struct asdm_key_slot *slot = probe(table, hash_key(table, space, key, length), space, key, length);
    return slot->key ? (int64_t)slot->value : -1;
}

void asdm_key_table_done(struct asdm_key_table *table) {
    free(table->slots);
    *table = (struct asdm_key_table){0};
}
