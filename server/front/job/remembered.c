#include "front/job/remembered.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BUCKETS = 8192, NONE = -1 };

/* A ring of names, each also in the chain of its hash: asking for a made-up name must not cost a walk over all. */
struct remembered {
    int count, next; /* next: where the next one goes */
    int buckets[BUCKETS], chains[REMEMBERED_MAX];
    char names[REMEMBERED_MAX][REMEMBERED_BYTES];
};

static unsigned bucket_of(const char *name) {
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (; *name; name++)
        hash = (hash ^ (unsigned char)*name) * 16777619u;
    return hash % BUCKETS;
}

struct remembered *remembered_create(void) {
    struct remembered *r = malloc(sizeof *r);
    if (!r)
        return NULL;
    memset(r, NONE, sizeof *r); /* touches all of its pages now: the process does not grow as names come */
    r->count = r->next = 0;
    return r;
}

void remembered_destroy(struct remembered **remembered) {
    free(*remembered);
    *remembered = NULL;
}

static void unchain(struct remembered *r, int place) {
    int *at = &r->buckets[bucket_of(r->names[place])];
    while (*at != place)
        at = &r->chains[*at];
    *at = r->chains[place];
}

void remembered_add(struct remembered *r, const char *name) {
    int place = r->next;
    if (r->count == REMEMBERED_MAX)
        unchain(r, place);
    else
        r->count++;
    snprintf(r->names[place], REMEMBERED_BYTES, "%s", name);
    int *bucket = &r->buckets[bucket_of(r->names[place])];
    r->chains[place] = *bucket;
    *bucket = place;
    r->next = (place + 1) % REMEMBERED_MAX;
}

bool remembered_has(const struct remembered *r, const char *name) {
    int place = r->buckets[bucket_of(name)];
    while (place != NONE && strcmp(r->names[place], name) != 0)
        place = r->chains[place];
    return place != NONE;
}
