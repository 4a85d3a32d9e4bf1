/* Arena: many small objects with one lifetime (a model's configuration, a program), freed together. */
#ifndef ASDM_BASE_ARENA_H
#define ASDM_BASE_ARENA_H

#include <stddef.h>

struct asdm_arena {
    struct asdm_arena_block *blocks;
    size_t limit, used; /* bytes; an allocation past `limit` fails */
};

void asdm_arena_init(struct asdm_arena *arena, size_t limit);
void asdm_arena_done(struct asdm_arena *arena);

/* Zeroed memory aligned for any type; NULL when count * size overflows, passes the limit or memory is out. */
void *asdm_arena_alloc(struct asdm_arena *arena, size_t count, size_t size);

/* A copy with a terminating NUL; NULL as above. */
char *asdm_arena_strndup(struct asdm_arena *arena, const char *text, size_t length);
char *asdm_arena_printf(struct asdm_arena *arena, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
