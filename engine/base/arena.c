#include "base/arena.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"

enum { BLOCK_BYTES = 64 << 10, ALIGNMENT = 16 };

struct asdm_arena_block {
    struct asdm_arena_block *next;
    size_t size, used; /* bytes of `data` */
    _Alignas(ALIGNMENT) unsigned char data[];
};

void asdm_arena_init(struct asdm_arena *arena, size_t limit) {
    *arena = (struct asdm_arena){.limit = limit};
}

void asdm_arena_done(struct asdm_arena *arena) {
    for (struct asdm_arena_block *block = arena->blocks, *next; block; block = next) {
        next = block->next;
        free(block);
    }
    *arena = (struct asdm_arena){0};
}

static struct asdm_arena_block *add_block(struct asdm_arena *arena, size_t least) {
    size_t size = least > BLOCK_BYTES ? least : BLOCK_BYTES;
    struct asdm_arena_block *block = calloc(1, sizeof *block + size);
    if (!block)
        return NULL;
    block->size = size;
    block->next = arena->blocks;
    arena->blocks = block;
    return block;
}

void *asdm_arena_alloc(struct asdm_arena *arena, size_t count, size_t size) {
    size_t bytes;
    if (!asdm_size_mul(count, size, &bytes) || bytes > arena->limit)
        return NULL;
    bytes = asdm_size_align(bytes ? bytes : 1, ALIGNMENT);
    if (bytes > arena->limit - arena->used)
        return NULL;
    struct asdm_arena_block *block = arena->blocks;
    if (!block || block->size - block->used < bytes)
        block = add_block(arena, bytes);
    if (!block)
        return NULL;
    void *memory = block->data + block->used;
    block->used += bytes;
    arena->used += bytes;
    return memory;
}

char *asdm_arena_strndup(struct asdm_arena *arena, const char *text, size_t length) {
    char *copy = asdm_arena_alloc(arena, length + 1, 1);
    if (copy)
        memcpy(copy, text, length);
    return copy;
}

char *asdm_arena_printf(struct asdm_arena *arena, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (length < 0)
        return NULL;
    char *text = asdm_arena_alloc(arena, (size_t)length + 1, 1);
    if (!text)
        return NULL;
    va_start(args, format);
    vsnprintf(text, (size_t)length + 1, format, args);
    va_end(args);
    return text;
}
