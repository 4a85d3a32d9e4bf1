#include "light/search.h"

#include <math.h>

#include <asdm/error.h>

/* What removing saves, as a part of the whole, below which it is noise and counts as nothing. */
static const double NOISE = 0.001;

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

/* Measures a set, and keeps it where it is the best that meets the target. */
static enum asdm_status look(struct asdm_search *search, unsigned set, struct asdm_cost *ret, struct asdm_error *err) {
    ASDM_TRY(search->measure(search->user, set, ret, err));
    if (asdm_target_is_set(&search->target) && asdm_target_is_met(&search->target, ret) &&
        (!search->has_choice || ret->damage < search->choice.damage)) {
        search->has_choice = true;
        search->chosen = set;
        search->choice = *ret;
    }
    return ASDM_OK;
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

/* One round from `set`, which cost *cost; both move on. */
static enum asdm_status remove_one(struct asdm_search *search, unsigned *set, struct asdm_cost *cost,
                                   struct asdm_error *err) {
    unsigned best = 0;
    struct asdm_cost best_cost = {0};
    for (int i = 0; i < search->unit_count; i++) {
        struct asdm_cost next;
        if (*set & 1u << i)
            continue;
        ASDM_TRY(look(search, *set | 1u << i, &next, err));
        if (!best || is_better(score_of(cost, &next), score_of(cost, &best_cost))) {
            best = *set | 1u << i;
            best_cost = next;
        }
    }
    search->path[search->path_count++] = *set = best;
    *cost = best_cost;
    return ASDM_OK;
}

/* Puts back the unit without which the damage is least, if the target stays met; false in *ret_moved if there is none.
 */
static enum asdm_status put_one_back(struct asdm_search *search, unsigned *set, bool *ret_moved,
                                     struct asdm_error *err) {
    double least = INFINITY;
    unsigned best = 0;
    for (int i = 0; i < search->unit_count; i++) {
        struct asdm_cost cost;
        unsigned without = *set & ~(1u << i);
        if (without == *set || !without)
            continue;
        ASDM_TRY(look(search, without, &cost, err));
        if (asdm_target_is_met(&search->target, &cost) && cost.damage < least) {
            best = without;
            least = cost.damage;
        }
    }
    *ret_moved = best != 0;
    *set = best ? best : *set;
    return ASDM_OK;
}

static enum asdm_status check_reachable(struct asdm_search *search, struct asdm_error *err) {
    struct asdm_cost all;
    const struct asdm_target *target = &search->target;
    ASDM_TRY(look(search, (1u << search->unit_count) - 1, &all, err));
    if (asdm_target_is_met(target, &all))
        return ASDM_OK;
    double speedup = all.full_ms / all.ms;
    if (target->speedup > 0)
        return asdm_fail(err, ASDM_ERR_ARGUMENT,
                         "a speed-up of %.4g cannot be reached: with all units removed it is %.3g (%.4g ms, not %.4g)",
                         target->speedup, speedup, all.ms, all.full_ms);
    return asdm_fail(err, ASDM_ERR_ARGUMENT,
                     "%.4g ms cannot be reached: with all units removed a call takes %.4g ms (speed-up %.3g)",
                     target->budget_ms, all.ms, speedup);
}

enum asdm_status asdm_search_run(struct asdm_search *search, struct asdm_error *err) {
    bool limited = asdm_target_is_set(&search->target);
    struct asdm_cost cost = {.damage = 0, .full_ms = 1, .ms = 1};
    unsigned set = 0;
    search->path_count = 0;
    search->has_choice = false;
    if (search->unit_count == 0)
        return limited ? asdm_fail(err, ASDM_ERR_ARGUMENT, "this model has no unit that could be removed") : ASDM_OK;
    if (limited)
        ASDM_TRY(check_reachable(search, err));
    for (int i = 0; i < search->unit_count && !(i > 0 && limited && asdm_target_is_met(&search->target, &cost)); i++)
        ASDM_TRY(remove_one(search, &set, &cost, err));
    for (bool moved = limited; moved;)
        ASDM_TRY(put_one_back(search, &set, &moved, err));
    return ASDM_OK;
}
