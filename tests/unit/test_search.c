/* The greedy search for what to remove, on made-up numbers; and the spread of numbers. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <asdm/error.h>
#include "light/meter.h"
#include "light/search.h"

enum { A = 1, B = 2, C = 4, D = 8 };

/* Damage and time of sets: sums, but for what `twist` adds to sets that have all of its units. */
struct world {
    double damage[4], saved[4]; /* of a whole of 100 ms */
    struct {
        unsigned set;
        double damage;
    } twist[3];
    unsigned seen[256]; /* sets, in the order in which they were asked for */
    int count;
    unsigned broken; /* a set that cannot be measured */
};

static enum asdm_status measure(void *user, unsigned set, struct asdm_cost *ret, struct asdm_error *err) {
    struct world *w = user;
    struct asdm_cost cost = {0, 100, 100, 1000};
    w->seen[w->count++] = set;
    if (w->broken && set == w->broken)
        return asdm_fail(err, ASDM_ERR_DEVICE, "broken");
    for (int i = 0; i < 4; i++)
        if (set & 1u << i) {
            cost.damage += w->damage[i];
            cost.ms -= w->saved[i];
            cost.kept -= 100;
        }
    for (int i = 0; i < 3; i++)
        if (w->twist[i].set && (set & w->twist[i].set) == w->twist[i].set)
            cost.damage += w->twist[i].damage;
    *ret = cost;
    return ASDM_OK;
}

static struct asdm_search run(struct world *w, int units, struct asdm_target target, enum asdm_status expected,
                              struct asdm_error *err) {
    struct asdm_search search = {.unit_count = units, .target = target, .measure = measure, .user = w};
    assert_int_equal(asdm_search_run(&search, err), expected);
    return search;
}

/* Damage per millisecond: A 0.01, B 0.005, C 0.03, D 0.002. */
static struct world plain(void) {
    return (struct world){.damage = {0.2, 0.05, 0.3, 0.02}, .saved = {20, 10, 10, 10}};
}

static void test_order_is_by_damage_per_millisecond(void **state) {
    (void)state;
    struct world w = plain();
    struct asdm_search s = run(&w, 4, (struct asdm_target){0}, ASDM_OK, NULL);
    const unsigned want[] = {D, D | B, D | B | A, D | B | A | C};
    assert_int_equal(s.path_count, 4);
    assert_memory_equal(s.path, want, sizeof want);
    assert_int_equal(w.count, 4 + 3 + 2 + 1);
    assert_int_equal(s.chosen, 0);
}

/* With D gone, B costs more and A less than alone: what counts is what was measured together. */
static void test_combinations_count_as_measured(void **state) {
    (void)state;
    struct world w = plain();
    w.twist[0].set = D | B;
    w.twist[0].damage = 0.5;
    w.twist[1].set = D | A;
    w.twist[1].damage = -0.1;
    struct asdm_search s = run(&w, 4, (struct asdm_target){0}, ASDM_OK, NULL);
    assert_int_equal(s.path[0], D);
    assert_int_equal(s.path[1], D | A);
    assert_int_equal(s.path[2], D | A | C);
}

static void test_what_saves_nothing_comes_last(void **state) {
    (void)state;
    struct world w = plain();
    w.damage[1] = 0.0001;
    w.saved[1] = 0.05; /* noise */
    w.damage[3] = 0.00001;
    w.saved[3] = -1;
    struct asdm_search s = run(&w, 4, (struct asdm_target){0}, ASDM_OK, NULL);
    assert_int_equal(s.path[0], A);
    assert_int_equal(s.path[1], A | C);
    assert_int_equal(s.path[2], A | C | D); /* idle both: the less harmful */
}

static void test_stops_at_the_target(void **state) {
    (void)state;
    struct world w = plain();
    struct asdm_search s = run(&w, 4, (struct asdm_target){.speedup = 1.25}, ASDM_OK, NULL); /* 80 ms */
    assert_int_equal(s.path_count, 2);
    assert_int_equal(s.chosen, D | B);
    assert_true(fabs(s.choice.damage - 0.07) < 1e-12);
    assert_int_equal(w.seen[0], A | B | C | D);
    w = plain();
    s = run(&w, 4, (struct asdm_target){.budget_ms = 80.001}, ASDM_OK, NULL);
    assert_int_equal(s.chosen, D | B);
    w = plain();
    s = run(&w, 4, (struct asdm_target){.budget_ms = 79.999}, ASDM_OK, NULL);
    assert_int_equal(s.chosen, D | A); /* seen beside the path D, D B, D B A; B went back */
}

/* The way there takes D and B first, but A and B are enough. */
static void test_puts_back_what_is_not_needed(void **state) {
    (void)state;
    struct world w = {.damage = {0.5, 0.011, 0.9, 0.001}, .saved = {40, 5, 1, 1}};
    struct asdm_search s = run(&w, 4, (struct asdm_target){.budget_ms = 58}, ASDM_OK, NULL);
    assert_int_equal(s.path[s.path_count - 1], A | B | D);
    assert_int_equal(s.chosen, A | B);
}

static void test_best_of_all_that_was_measured(void **state) {
    (void)state;
    /* C alone meets it in the first round with less damage than the path's end. */
    struct world w = {.damage = {0.1, 0.1, 0.25, 9}, .saved = {20, 20, 40, 1}};
    w.twist[0].set = A | B;
    w.twist[0].damage = 1;
    w.twist[1].set = A | C;
    w.twist[1].damage = 1;
    w.twist[2].set = B | C;
    w.twist[2].damage = 1;
    struct asdm_search s = run(&w, 4, (struct asdm_target){.budget_ms = 60}, ASDM_OK, NULL);
    assert_int_equal(s.chosen, C);
}

/* A goes first and hides that B and C do each other good. */
static void test_exchanges(void **state) {
    (void)state;
    struct world w = {.damage = {0.01, 0.3, 0.35, 0.9}, .saved = {10, 11, 11, 1}};
    w.twist[0].set = B | C;
    w.twist[0].damage = -0.4;
    w.twist[1].set = A | B | C;
    w.twist[1].damage = 0.4;
    struct asdm_search s = run(&w, 4, (struct asdm_target){.budget_ms = 79.5}, ASDM_OK, NULL);
    assert_int_equal(s.path[1], A | B);
    assert_int_equal(s.path_count, 2);
    assert_int_equal(s.chosen, B | C);
}

/* A and B with C is a little better than A and B, on these numbers. */
static void test_equal_damage_keeps_more(void **state) {
    (void)state;
    struct world w = {.damage = {0.1, 0.1, 0.1, 0.1}, .saved = {20, 20, 1, 1}};
    w.twist[0].set = A | B | C;
    w.twist[0].damage = -0.1001;
    struct asdm_search s = run(&w, 4, (struct asdm_target){.budget_ms = 60}, ASDM_OK, NULL);
    assert_int_equal(s.chosen, A | B);
    w.twist[0].damage = -0.11;
    s = run(&w, 4, (struct asdm_target){.budget_ms = 59}, ASDM_OK, NULL);
    assert_int_equal(s.chosen, A | B | C);
}

/* A is the cheapest for what it saves, and saves twice of what is needed. */
static void test_a_large_unit_is_done_without(void **state) {
    (void)state;
    struct world w = {.damage = {0.4, 0.15, 0.16, 0.001}, .saved = {40, 10, 10, 1}};
    struct asdm_search s = run(&w, 4, (struct asdm_target){.budget_ms = 79.5}, ASDM_OK, NULL);
    assert_int_equal(s.path_count, 2);
    assert_int_equal(s.path[1], A | D);
    assert_int_equal(s.chosen, B | C | D);
}

static void test_out_of_reach(void **state) {
    (void)state;
    struct world w = plain();
    struct asdm_error err = {0};
    run(&w, 4, (struct asdm_target){.speedup = 2.1}, ASDM_ERR_ARGUMENT, &err);
    assert_non_null(strstr(err.message, "2.1 cannot be reached"));
    assert_non_null(strstr(err.message, "gives is 2 (50 ms"));
    assert_int_equal(w.count, 1);
    run(&w, 4, (struct asdm_target){.budget_ms = 40}, ASDM_ERR_ARGUMENT, &err);
    assert_int_equal(w.count, 2);
    run(&w, 4, (struct asdm_target){.budget_ms = 49}, ASDM_ERR_ARGUMENT, &err); /* near enough to be looked for */
    assert_true(w.count > 3);
    assert_non_null(strstr(err.message, "leads to is 50 ms"));
    run(&w, 0, (struct asdm_target){.speedup = 1.1}, ASDM_ERR_ARGUMENT, &err);
    assert_non_null(strstr(err.message, "no unit"));
    run(&w, 0, (struct asdm_target){0}, ASDM_OK, &err);
}

/* Timing's noise may have a set faster than all units together. */
static void test_all_together_need_not_be_fastest(void **state) {
    (void)state;
    struct world w = {.damage = {0.1, 0.1, 0.1, 0.01}, .saved = {20, 20, 10, -0.5}};
    struct asdm_search s = run(&w, 4, (struct asdm_target){.budget_ms = 50}, ASDM_OK, NULL);
    assert_int_equal(s.chosen, A | B | C);
}

/* A set that the way there never sees, but that was measured before. */
static void test_known_sets_count(void **state) {
    (void)state;
    struct world w = {.damage = {0.01, 0.3, 0.35, 0.9}, .saved = {10, 11, 11, 1}};
    w.twist[0].set = C | D;
    w.twist[0].damage = -1.2;
    const unsigned known[] = {C | D};
    struct asdm_search search = {.unit_count = 4,
                                 .target = {.budget_ms = 88.5},
                                 .measure = measure,
                                 .user = &w,
                                 .known = known,
                                 .known_count = 1};
    assert_int_equal(asdm_search_run(&search, NULL), ASDM_OK);
    assert_int_equal(search.chosen, C | D);
}

/* A is given: rounds start from it, it is neither put back nor exchanged, and known sets without it do not count. */
static void test_given_units_stay(void **state) {
    (void)state;
    const unsigned known[] = {B | C};
    struct world w = plain();
    struct asdm_search search = {
        .unit_count = 4, .given = A, .measure = measure, .user = &w, .known = known, .known_count = 1};
    assert_int_equal(asdm_search_run(&search, NULL), ASDM_OK);
    assert_int_equal(search.path_count, 4);
    assert_int_equal(search.path[0], A);
    assert_int_equal(search.path[1], A | D);
    search.target.budget_ms = 65; /* B, C and D do it, and B and C with less damage than any with A */
    w.twist[0].set = B | C;
    w.twist[0].damage = -0.3;
    w.saved[1] = w.saved[2] = 20;
    assert_int_equal(asdm_search_run(&search, NULL), ASDM_OK);
    assert_int_equal(search.chosen, A | B);
    search.target.budget_ms = 80; /* met by what is given */
    w.count = 0;
    assert_int_equal(asdm_search_run(&search, NULL), ASDM_OK);
    assert_int_equal(search.chosen, A);
    assert_int_equal(search.path_count, 1);
}

static void test_failures_come_up(void **state) {
    (void)state;
    struct world w = plain();
    struct asdm_error err = {0};
    w.broken = D | B;
    run(&w, 4, (struct asdm_target){0}, ASDM_ERR_DEVICE, &err);
    assert_string_equal(err.message, "broken");
}

static void test_spread(void **state) {
    (void)state;
    double numbers[] = {4, 1, 3, 2};
    struct asdm_spread s = asdm_spread_of(numbers, 4);
    assert_true(s.mean == 2.5 && s.min == 1 && s.max == 4);
    assert_true(fabs(s.deviation - sqrt(1.25)) < 1e-15);
    assert_true(s.quartiles[0] == 1.75 && s.quartiles[1] == 2.5 && s.quartiles[2] == 3.25);
    double one[] = {7};
    s = asdm_spread_of(one, 1);
    assert_true(s.mean == 7 && s.deviation == 0 && s.quartiles[0] == 7 && s.quartiles[2] == 7);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_order_is_by_damage_per_millisecond),
                                       cmocka_unit_test(test_combinations_count_as_measured),
                                       cmocka_unit_test(test_what_saves_nothing_comes_last),
                                       cmocka_unit_test(test_stops_at_the_target),
                                       cmocka_unit_test(test_puts_back_what_is_not_needed),
                                       cmocka_unit_test(test_best_of_all_that_was_measured),
                                       cmocka_unit_test(test_exchanges),
                                       cmocka_unit_test(test_a_large_unit_is_done_without),
                                       cmocka_unit_test(test_equal_damage_keeps_more),
                                       cmocka_unit_test(test_out_of_reach),
                                       cmocka_unit_test(test_all_together_need_not_be_fastest),
                                       cmocka_unit_test(test_known_sets_count),
                                       cmocka_unit_test(test_given_units_stay),
                                       cmocka_unit_test(test_failures_come_up),
                                       cmocka_unit_test(test_spread)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
