#include "light/search.h"

#include <math.h>
#include <stdlib.h>

#include <asdm/error.h>

/* What removing saves, as a part of the whole, below which it is noise and counts as nothing. */
static const double NOISE = 0.001;
/* Damages this close, as a part of them, are equal: other prompts would turn them round. */
static const double EQUAL = 0.001;
/* By how much of its time the set of all units may miss a target that is still looked for. */
static const double MISS = 0.03;

static double saved(const struct asdm_cost *cost) {
    return 1 - cost->ms / cost->full_ms;
}

bool asdm_target_is_set(const struct asdm_target *target) {
    return target->speedup > 0 || target->budget_ms > 0;
}

bool asdm_target_is_met(const struct asdm_target *target, const struct asdm_cost *cost) {
    return (target->speedup <= 0 || cost->full_ms >= target->speedup * cost->ms) &&
           (target->budget_ms <= 0 || cost->ms <= target->budget_ms);
}

/* A search under way: sets that meet the target. */
struct state {
    struct asdm_search *search;
    struct candidate {
        unsigned set;
        struct asdm_cost cost;
    } * candidates;
    int count, room;
    struct asdm_cost fastest; /* of all sets seen; ms 0: none yet */
};

static bool meets(const struct state *s, const struct asdm_cost *cost) {
    return asdm_target_is_set(&s->search->target) && asdm_target_is_met(&s->search->target, cost);
}

/* Measures a set; it is a candidate if it meets the target. */
static enum asdm_status look(struct state *s, unsigned set, struct asdm_cost *ret, struct asdm_error *err) {
    ASDM_TRY(s->search->measure(s->search->user, set, ret, err));
    if (s->fastest.ms <= 0 || ret->ms * s->fastest.full_ms < s->fastest.ms * ret->full_ms)
        s->fastest = *ret;
    if (!meets(s, ret))
        return ASDM_OK;
    if (s->count == s->room) {
        int room = s->room ? 2 * s->room : 64;
        struct candidate *grown = realloc(s->candidates, (size_t)room * sizeof *grown);
        if (!grown)
            return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for a search");
        s->candidates = grown;
        s->room = room;
    }
    s->candidates[s->count++] = (struct candidate){set, *ret};
    return ASDM_OK;
}

static enum asdm_status out_of_reach(const struct state *s, struct asdm_error *err) {
    const struct asdm_target *target = &s->search->target;
    const struct asdm_cost *best = &s->fastest;
    if (target->speedup > 0)
        return asdm_fail(
            err, ASDM_ERR_ARGUMENT,
            "a speed-up of %.4g cannot be reached: the most that removing units gives is %.3g (%.4g ms, not "
            "%.4g)",
            target->speedup, best->full_ms / best->ms, best->ms, best->full_ms);
    return asdm_fail(err, ASDM_ERR_ARGUMENT,
                     "%.4g ms cannot be reached: the least that removing units leads to is %.4g ms (speed-up %.3g)",
                     target->budget_ms, best->ms, best->full_ms / best->ms);
}

/* The candidate to choose; there is one. */
static const struct candidate *choose(const struct state *s) {
    double least = INFINITY;
    const struct candidate *best = NULL;
    for (int i = 0; i < s->count; i++)
        least = fmin(least, s->candidates[i].cost.damage);
    for (int i = 0; i < s->count; i++) {
        const struct candidate *c = &s->candidates[i];
        if (c->cost.damage <= least + EQUAL * fabs(least) &&
            (!best || c->cost.kept > best->cost.kept ||
             (c->cost.kept == best->cost.kept && c->cost.damage < best->cost.damage)))
            best = c;
    }
    return best;
}

/* How good it is to go from `from` to `to`; less is better. */
struct score {
    bool idle;    /* saves nothing */
    double value; /* damage per part of the whole's time; of idle ones damage alone */
};

static struct score score_of(const struct asdm_cost *from, const struct asdm_cost *to) {
    double gain = saved(to) - saved(from), harm = to->damage - from->damage;
    return gain > NOISE ? (struct score){false, harm / gain} : (struct score){true, harm};
}

static bool is_better(struct score a, struct score b) {
    return a.idle == b.idle ? a.value < b.value : !a.idle;
}

/* One round from `set`, which cost *cost, without the `banned` units; both move on, if any unit is left. */
static enum asdm_status remove_one(struct state *s, unsigned banned, unsigned *set, struct asdm_cost *cost,
                                   struct asdm_error *err) {
    unsigned best = *set;
    struct asdm_cost best_cost = *cost;
    for (int i = 0; i < s->search->unit_count; i++) {
        struct asdm_cost next;
        if ((*set | banned) & 1u << i)
            continue;
        ASDM_TRY(look(s, *set | 1u << i, &next, err));
        if (best == *set || is_better(score_of(cost, &next), score_of(cost, &best_cost))) {
            best = *set | 1u << i;
            best_cost = next;
        }
    }
    *set = best;
    *cost = best_cost;
    return ASDM_OK;
}

/* Rounds from *set on, until the target is met or no unit is left; *ret_before and *ret_cost are of the set before the
 * last round. `path`: they are the search's path. */
static enum asdm_status descend(struct state *s, unsigned banned, bool path, unsigned *set, struct asdm_cost *cost,
                                unsigned *ret_before, struct asdm_cost *ret_cost, struct asdm_error *err) {
    do {
        *ret_before = *set;
        *ret_cost = *cost;
        ASDM_TRY(remove_one(s, banned, set, cost, err));
        if (*set == *ret_before)
            return ASDM_OK;
        if (path)
            s->search->path[s->search->path_count++] = *set;
    } while (!meets(s, cost));
    return ASDM_OK;
}

/* Takes `next` in place of the best so far if it meets the target with less damage. */
static enum asdm_status consider(struct state *s, unsigned next, unsigned *best, double *least,
                                 struct asdm_error *err) {
    struct asdm_cost cost;
    ASDM_TRY(look(s, next, &cost, err));
    if (meets(s, &cost) && cost.damage < *least) {
        *best = next;
        *least = cost.damage;
    }
    return ASDM_OK;
}

/* Puts back the unit without which the damage is least, if the target stays met. */
static enum asdm_status put_one_back(struct state *s, unsigned *set, bool *ret_moved, struct asdm_error *err) {
    unsigned best = *set;
    double least = INFINITY;
    for (int i = 0; i < s->search->unit_count; i++) {
        unsigned next = *set & ~(1u << i);
        if (next != *set && next && !(s->search->given & 1u << i))
            ASDM_TRY(consider(s, next, &best, &least, err));
    }
    *ret_moved = best != *set;
    *set = best;
    return ASDM_OK;
}

/* Puts one back and removes another for it, if that does less damage. */
static enum asdm_status exchange_one(struct state *s, unsigned *set, bool *ret_moved, struct asdm_error *err) {
    unsigned best = *set;
    struct asdm_cost now;
    ASDM_TRY(look(s, *set, &now, err));
    double least = now.damage;
    for (int i = 0; i < s->search->unit_count; i++)
        for (int k = 0; k < s->search->unit_count; k++)
            if ((*set & ~s->search->given & 1u << i) && !(*set & 1u << k))
                ASDM_TRY(consider(s, (*set & ~(1u << i)) | 1u << k, &best, &least, err));
    *ret_moved = best != *set;
    *set = best;
    return ASDM_OK;
}

/* All units together should be the fastest; a target that they miss by more than timing's noise is not looked for. */
static enum asdm_status check_reachable(struct state *s, struct asdm_error *err) {
    struct asdm_cost all;
    if (s->search->unit_count == 0)
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "this model has no unit that could be removed");
    ASDM_TRY(look(s, (1u << s->search->unit_count) - 1, &all, err));
    all.ms *= 1 - MISS;
    return s->count || asdm_target_is_met(&s->search->target, &all) ? ASDM_OK : out_of_reach(s, err);
}

/* From where the target was nearly met, without the unit that met it: a large unit that is cheap for what it saves may
 * save far more than is needed. */
static enum asdm_status descend_again(struct state *s, unsigned set, unsigned before, struct asdm_cost before_cost,
                                      struct asdm_error *err) {
    unsigned banned = 0;
    struct asdm_cost cost;
    do {
        banned |= set & ~before;
        set = before;
        cost = before_cost;
        ASDM_TRY(descend(s, banned, false, &set, &cost, &before, &before_cost, err));
    } while (set != before && meets(s, &cost));
    return ASDM_OK;
}

/* Puts back and exchanges, from the best candidate on, until neither helps. */
static enum asdm_status improve(struct state *s, struct asdm_error *err) {
    unsigned set, start;
    do {
        bool moved = true;
        start = set = choose(s)->set;
        while (moved)
            ASDM_TRY(put_one_back(s, &set, &moved, err));
        for (moved = true; moved;)
            ASDM_TRY(exchange_one(s, &set, &moved, err));
    } while (choose(s)->set != start);
    return ASDM_OK;
}

/* The known sets may be chosen, too. */
static enum asdm_status look_at_known(struct state *s, struct asdm_error *err) {
    const struct asdm_search *search = s->search;
    for (int i = 0; i < search->known_count; i++) {
        struct asdm_cost known;
        if ((search->known[i] & search->given) == search->given)
            ASDM_TRY(look(s, search->known[i], &known, err));
    }
    return ASDM_OK;
}

static enum asdm_status run(struct state *s, struct asdm_error *err) {
    struct asdm_search *search = s->search;
    struct asdm_cost cost = {.damage = 0, .full_ms = 1, .ms = 1}, before_cost;
    unsigned set = search->given, before;
    bool limited = asdm_target_is_set(&search->target);
    if (limited) {
        ASDM_TRY(look_at_known(s, err));
        ASDM_TRY(check_reachable(s, err));
    }
    if (set) {
        ASDM_TRY(look(s, set, &cost, err));
        search->path[search->path_count++] = set;
    }
    if (!set || !meets(s, &cost)) {
        ASDM_TRY(descend(s, 0, true, &set, &cost, &before, &before_cost, err));
        if (limited)
            ASDM_TRY(descend_again(s, set, before, before_cost, err));
    }
    if (!limited)
        return ASDM_OK;
    if (!s->count)
        return out_of_reach(s, err);
    ASDM_TRY(improve(s, err));
    search->chosen = choose(s)->set;
    search->choice = choose(s)->cost;
    return ASDM_OK;
}

enum asdm_status asdm_search_run(struct asdm_search *search, struct asdm_error *err) {
    struct state state = {.search = search};
    search->path_count = 0;
    search->chosen = 0;
    enum asdm_status status = run(&state, err);
    free(state.candidates);
    return status;
}
