#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>
#include "ops/choices.h"

static const double LEAST_GAIN = 0.01; /* of the built-in choice's time: below it is noise */

struct measurement {
    char implementation[ASDM_CHOICE_BYTES], order[ASDM_CHOICE_BYTES];
    double seconds;
    uint64_t bits;
    bool built_in, needs_proof;
};

/* All candidates of one operation with one number of rows. */
struct site {
    struct site *next;
    char operation[ASDM_CHOICE_BYTES];
    int rows, count, room;
    struct measurement *measured;
};

struct asdm_measurements {
    struct site *sites, *last;
    int ladder_count;
    int ladder[];
};

enum asdm_status asdm_measurements_create(const int *ladder, int ladder_count, struct asdm_measurements **ret,
                                          struct asdm_error *err) {
    size_t bytes = (size_t)ladder_count * sizeof *ladder;
    struct asdm_measurements *m = calloc(1, sizeof *m + bytes);
    if (!m)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for measurements");
    m->ladder_count = ladder_count;
    memcpy(m->ladder, ladder, bytes);
    *ret = m;
    return ASDM_OK;
}

void asdm_measurements_destroy(struct asdm_measurements **measurements) {
    if (!*measurements)
        return;
    for (struct site *s = (*measurements)->sites, *next; s; s = next) {
        next = s->next;
        free(s->measured);
        free(s);
    }
    free(*measurements);
    *measurements = NULL;
}

static struct site *find_site(const struct asdm_measurements *m, const char *operation, int rows) {
    for (struct site *s = m->sites; s; s = s->next)
        if (s->rows == rows && strcmp(s->operation, operation) == 0)
            return s;
    return NULL;
}

bool asdm_measurements_has(const struct asdm_measurements *measurements, const char *operation, int rows) {
    return find_site(measurements, operation, rows) != NULL;
}

static struct site *add_site(struct asdm_measurements *m, const char *operation, int rows) {
    struct site *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->rows = rows;
    snprintf(s->operation, sizeof s->operation, "%s", operation);
    if (m->last)
        m->last->next = s;
    else
        m->sites = s;
    return m->last = s;
}

enum asdm_status asdm_measurements_add(struct asdm_measurements *measurements, const char *operation, int rows,
                                       const struct asdm_candidate *candidate, struct asdm_error *err) {
    struct site *s = find_site(measurements, operation, rows);
    if (!s)
        s = add_site(measurements, operation, rows);
    if (s && s->count == s->room) {
        int room = s->room ? 2 * s->room : 16;
        struct measurement *larger = realloc(s->measured, (size_t)room * sizeof *larger);
        if (larger) {
            s->measured = larger;
            s->room = room;
        }
    }
    if (!s || s->count == s->room)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for measurements");
    struct measurement *to = &s->measured[s->count++];
    *to = (struct measurement){.seconds = candidate->seconds,
                               .bits = candidate->bits,
                               .built_in = candidate->built_in,
                               .needs_proof = candidate->needs_proof};
    snprintf(to->implementation, sizeof to->implementation, "%s", candidate->implementation);
    snprintf(to->order, sizeof to->order, "%s", candidate->order);
    return ASDM_OK;
}

/* ---- choosing */

static const struct measurement *built_in_of(const struct site *s) {
    for (int i = 0; i < s->count; i++)
        if (s->measured[i].built_in)
            return &s->measured[i];
    return NULL;
}

/* The fastest of an order (NULL: of all); NULL: there is none. */
static const struct measurement *fastest(const struct site *s, const char *order) {
    const struct measurement *best = NULL;
    for (int i = 0; i < s->count; i++) {
        const struct measurement *m = &s->measured[i];
        if ((!order || strcmp(order, m->order) == 0) && (!best || m->seconds < best->seconds))
            best = m;
    }
    return best;
}

/* Whether all measurements of the order, at this number of rows, have these bits. */
static bool has_bits(const struct site *s, const char *order, uint64_t bits) {
    bool any = false;
    for (int i = 0; i < s->count; i++)
        if (strcmp(s->measured[i].order, order) == 0) {
            any = true;
            if (s->measured[i].bits == 0 || s->measured[i].bits != bits)
                return false;
        }
    return any;
}

/* Sum over the numbers of rows of the order's best time relative to the built-in choice's; INFINITY: the order does not
 * serve all of them, or its bits depend on them. */
static double cost_of(const struct asdm_measurements *m, const struct site *first, const struct measurement *of) {
    double cost = 0;
    for (const struct site *s = first; s; s = s->next) {
        if (strcmp(s->operation, first->operation) != 0)
            continue;
        const struct measurement *built_in = built_in_of(s);
        if (!built_in || !has_bits(s, of->order, of->bits))
            return INFINITY;
        cost += fastest(s, of->order)->seconds / built_in->seconds;
    }
    for (int i = 0; of->needs_proof && i < m->ladder_count; i++)
        if (!find_site(m, first->operation, m->ladder[i]))
            return INFINITY;
    return cost;
}

/* The order that serves all numbers of rows best. `first`: the operation's first site. NULL: not even the built-in
 * choice has the same bits everywhere, so nothing is chosen. */
static const char *best_order(const struct asdm_measurements *m, const struct site *first) {
    const struct measurement *built_in = built_in_of(first), *best = NULL;
    double least = built_in ? cost_of(m, first, built_in) : INFINITY;
    if (least == INFINITY)
        return NULL;
    best = built_in;
    least *= 1 - LEAST_GAIN;
    for (int i = 0; i < first->count; i++) {
        double cost = cost_of(m, first, &first->measured[i]);
        if (cost < least) {
            least = cost;
            best = &first->measured[i];
        }
    }
    return best->order;
}

/* An operation's first site is the one that stands for it. */
static const struct site *first_of(const struct asdm_measurements *m, const struct site *site) {
    const struct site *s = m->sites;
    while (strcmp(s->operation, site->operation) != 0)
        s = s->next;
    return s;
}

enum asdm_status asdm_measurements_choose(const struct asdm_measurements *measurements, bool batch_invariant,
                                          struct asdm_choices *into,
                                          void (*report)(void *user, const struct asdm_choice *choice), void *user,
                                          struct asdm_error *err) {
    for (const struct site *s = measurements->sites; s; s = s->next) {
        const struct measurement *built_in = built_in_of(s), *chosen;
        const char *order = batch_invariant ? best_order(measurements, first_of(measurements, s)) : NULL;
        if (!built_in || (batch_invariant && !order))
            continue;
        chosen = fastest(s, order);
        bool may_stay = !order || strcmp(order, built_in->order) == 0;
        if (may_stay && chosen->seconds > (1 - LEAST_GAIN) * built_in->seconds)
            chosen = built_in;
        ASDM_TRY(asdm_choices_set(into, s->operation, s->rows, chosen->implementation, err));
        struct asdm_choice choice = {s->operation, chosen->implementation, built_in->implementation, s->rows,
                                     s->count,     chosen->seconds,        built_in->seconds};
        if (report)
            report(user, &choice);
    }
    return ASDM_OK;
}
