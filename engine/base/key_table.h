/* A hash table from (space, key) to a number: JSON keys with one space per object, tensor names, metadata. The hash is
 * keyed at random, so a hostile file or request cannot make the keys collide. */
#ifndef ASDM_BASE_KEY_TABLE_H
#define ASDM_BASE_KEY_TABLE_H

#include <stddef.h>
#include <stdint.h>

/* All zero is an empty table. */
struct asdm_key_table {
    struct asdm_key_slot *slots;
    size_t mask, count; /* slots - 1, keys */
    uint64_t seed[2];
};

enum asdm_key_insert { ASDM_KEY_NEW, ASDM_KEY_KNOWN, ASDM_KEY_NO_MEMORY };

/* The bytes are not copied: they stay where they are until the table is done. */
enum asdm_key_insert asdm_key_table_insert(struct asdm_key_table *table, uint32_t space, const char *key, size_t length,
                                           uint32_t value);

/* The value given at insertion, or -1. */
int64_t asdm_key_table_find(const struct asdm_key_table *table, uint32_t space, const char *key, size_t length);

void asdm_key_table_done(struct asdm_key_table *table);

#endif
