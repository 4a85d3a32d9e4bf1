/* Which units to remove: a greedy search over measured sets. Knows nothing of models. */
#ifndef ASDM_LIGHT_SEARCH_H
#define ASDM_LIGHT_SEARCH_H

#include <stdbool.h>

#include <asdm/analyze.h>

/* What is known of a set of units. */
struct asdm_cost {
    double damage;
    double full_ms, ms; /* without it, with it removed */
    double kept;        /* parameters that are left */
};

/* Measures a set, or remembers what was measured. */
typedef enum asdm_status asdm_search_measure(void *user, unsigned set, struct asdm_cost *ret, struct asdm_error *err);

struct asdm_search {
    int unit_count;
    unsigned given; /* units that every set has */
    struct asdm_target target;
    asdm_search_measure *measure;
    void *user;
    const unsigned *known; /* [known_count] sets that are measured already, which may be chosen, too */
    int known_count;
    /* Filled in. */
    unsigned path[ASDM_UNITS_MAX]; /* each with one unit more */
    int path_count;
    unsigned chosen; /* with a target */
    struct asdm_cost choice;
};

bool asdm_target_is_set(const struct asdm_target *target);
bool asdm_target_is_met(const struct asdm_target *target, const struct asdm_cost *cost);

/* Rounds, from the given units on: each unit that is left is measured together with those removed; the one with the
 * least additional damage per additional millisecond is removed. One that saves nothing comes after all that do.
 * Without a target, until none is left. With one, all units together are measured first: a target that they and the
 * known sets miss by more than noise is ERR_ARGUMENT, as is one that no set turns out to meet. The rounds end at the
 * first set of the path that meets it, and are tried again from the one before without the unit that met it, which may
 * save more than is needed. Then, from the best set, units are put back as long as the target stays met, and one is
 * exchanged for another as long as that does less damage. Chosen is the set of least damage of all that are known or
 * were measured on the way and meet the target; those within a tenth of a percent of it count as equal, and then the
 * one that keeps most. */
enum asdm_status asdm_search_run(struct asdm_search *search, struct asdm_error *err);

#endif
