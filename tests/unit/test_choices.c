/* Measured choices: what is chosen from measurements, and the file that remembers it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "ops/choices.h"

static const struct asdm_choices_key key = {"NVIDIA H200", "580.65.06", "cuBLASLt 130002", "0.1.0", "fp16", true};
static char directory[] = "/tmp/asdm-choices-XXXXXX";
static char path[64];

static int set_up(void **state) {
    (void)state;
    bool made = mkdtemp(directory) != NULL;
    snprintf(path, sizeof path, "%s/plan.json", directory);
    return made ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    unlink(path);
    return rmdir(directory);
}

static void check(enum asdm_status status, const struct asdm_error *err) {
    if (status != ASDM_OK)
        fail_msg("%s", err->message);
}

static void write_choice(const struct asdm_choices_key *of, int rows, const char *implementation) {
    struct asdm_choices *choices;
    struct asdm_error err;
    check(asdm_choices_create(&choices, &err), &err);
    check(asdm_choices_set(choices, "conv a", rows, implementation, &err), &err);
    check(asdm_choices_set(choices, "conv a", 16, "wgmma 16", &err), &err);
    check(asdm_choices_write(path, of, choices, &err), &err);
    asdm_choices_destroy(&choices);
}

/* The implementation that the file has for two rows; NULL: it has no plan of the key. */
static const char *read_choice(const struct asdm_choices_key *of) {
    static char kept[ASDM_CHOICE_BYTES];
    struct asdm_choices *choices = NULL;
    struct asdm_error err;
    char words[256];
    bool found, exact;
    check(asdm_choices_read(path, of, &choices, &found, words, &err), &err);
    if (!found)
        return NULL;
    snprintf(kept, sizeof kept, "%s", asdm_choices_find(choices, "conv a", 2, &exact));
    assert_true(exact);
    asdm_choices_destroy(&choices);
    return kept;
}

static void test_file(void **state) {
    struct asdm_choices_key keys[5] = {key, key, key, key, key};
    (void)state;
    keys[1].gpu = "NVIDIA A100";
    keys[2].driver = "580.65.07";
    keys[3].dtype = "bf16";
    keys[4].batch_invariant = false;
    unlink(path);
    for (int i = 0; i < 5; i++) {
        char name[16];
        if (i)
            assert_null(read_choice(&keys[i]));
        snprintf(name, sizeof name, "wgmma %d", i);
        write_choice(&keys[i], 2, name);
    }
    for (int i = 4; i >= 0; i--) {
        char name[16];
        snprintf(name, sizeof name, "wgmma %d", i);
        assert_string_equal(read_choice(&keys[i]), name);
    }
    write_choice(&keys[2], 2, "other");
    assert_string_equal(read_choice(&keys[2]), "other");
    assert_string_equal(read_choice(&keys[3]), "wgmma 3");
    struct asdm_choices_key foreign = key;
    struct asdm_choices *choices = NULL;
    struct asdm_error err;
    char words[256];
    bool found;
    foreign.version = "0.2.0";
    check(asdm_choices_read(path, &foreign, &choices, &found, words, &err), &err);
    assert_false(found);
    assert_non_null(strstr(words, "NVIDIA H200"));
}

static void test_find(void **state) {
    struct asdm_choices *choices;
    struct asdm_error err;
    bool exact;
    (void)state;
    check(asdm_choices_create(&choices, &err), &err);
    check(asdm_choices_set(choices, "conv", 8, "b", &err), &err);
    check(asdm_choices_set(choices, "conv", 2, "a", &err), &err);
    check(asdm_choices_set(choices, "conv", 8, "c", &err), &err);
    assert_int_equal(asdm_choices_count(choices), 2);
    assert_string_equal(asdm_choices_find(choices, "conv", 8, &exact), "c");
    assert_true(exact);
    assert_string_equal(asdm_choices_find(choices, "conv", 4, &exact), "a");
    assert_false(exact);
    assert_null(asdm_choices_find(choices, "linear", 2, &exact));
    assert_null(asdm_choices_find(NULL, "conv", 2, &exact));
    asdm_choices_destroy(&choices);
}

#define PLAN(rest)                                                                                                     \
    "{\"asdm_plan_file\": 1, \"plans\": [{\"gpu\": \"g\", \"driver\": \"d\", \"libraries\": \"\", \"asdm\": \"1\", "   \
    "\"dtype\": \"fp16\", " rest "}]}"
#define CHOICES(text) PLAN("\"batch_invariant\": true, \"choices\": {" text "}")

static void test_damaged(void **state) {
    static const struct {
        const char *text, *words;
    } cases[] = {
        {"", "line 1"},
        {"{\n\"asdm_plan_file\": 1,\n\"plans\": [", "line 3"},
        {"[]", "must be an object"},
        {"{}", "asdm_plan_file: is missing"},
        {"{\"asdm_plan_file\": 2, \"plans\": []}", "asdm_plan_file: must be an integer from 1 to 1"},
        {"{\"asdm_plan_file\": 1}", "plans: must be an array"},
        {"{\"asdm_plan_file\": 1, \"plans\": [], \"more\": 1}", "more: unknown key"},
        {"{\"asdm_plan_file\": 1, \"plans\": [3]}", "plans[0]: must be an object, is a number"},
        {PLAN("\"batch_invariant\": true"), "plans[0].choices: must be an object, is missing"},
        {PLAN("\"batch_invariant\": 1, \"choices\": {}"), "plans[0].batch_invariant: must be a boolean, is a number"},
        {PLAN("\"batch_invariant\": true, \"rows\": 1, \"choices\": {}"), "plans[0].rows: unknown key"},
        {CHOICES("\"conv\": 1"), "plans[0].choices.conv: must be an object"},
        {CHOICES("\"conv\": {}"), "plans[0].choices.conv: must be an object by numbers of rows, is empty"},
        {CHOICES("\"conv\": {\"0\": \"a\"}"), "plans[0].choices.conv: \"0\": must be a number of rows"},
        {CHOICES("\"conv\": {\"02\": \"a\"}"), "\"02\": must be a number of rows"},
        {CHOICES("\"conv\": {\"2000\": \"a\"}"), "\"2000\": must be a number of rows"},
        {CHOICES("\"conv\": {\"2\": 5}"), "plans[0].choices.conv.2: must be the name"},
        {CHOICES("\"conv\": {\"2\": \"a\\u000a\"}"), "plans[0].choices.conv.2: must be the name"},
        {CHOICES("\"c\\\"\": {\"2\": \"a\"}"), "choices: a key is not a text"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct asdm_choices *choices = NULL;
        struct asdm_error err = {0};
        char words[256];
        bool found;
        check(asdm_file_write(path, cases[i].text, strlen(cases[i].text), &err), &err);
        assert_int_equal(asdm_choices_read(path, &key, &choices, &found, words, &err), ASDM_ERR_FORMAT);
        if (!strstr(err.message, path) || !strstr(err.message, cases[i].words))
            fail_msg("case %zu: \"%s\" does not say \"%s\"", i, err.message, cases[i].words);
        /* What is damaged is not written over. */
        check(asdm_choices_create(&choices, &err), &err);
        assert_int_equal(asdm_choices_write(path, &key, choices, &err), ASDM_ERR_FORMAT);
        asdm_choices_destroy(&choices);
    }
    unlink(path);
    struct asdm_choices *choices;
    struct asdm_error err;
    char words[256];
    bool found;
    assert_int_equal(asdm_choices_read(path, &key, &choices, &found, words, &err), ASDM_ERR_NOT_FOUND);
}

/* ---- choosing */

struct row {
    int rows;
    const char *implementation, *order;
    double seconds;
    uint64_t bits;
    bool built_in, needs_proof;
};

static struct asdm_choices *choose(const struct row *rows, int count, bool invariant) {
    static const int ladder[] = {1, 2, 4};
    struct asdm_measurements *m;
    struct asdm_choices *choices;
    struct asdm_error err;
    check(asdm_measurements_create(ladder, 3, &m, &err), &err);
    for (int i = 0; i < count; i++) {
        struct asdm_candidate candidate = {rows[i].implementation, rows[i].order,    rows[i].seconds,
                                           rows[i].bits,           rows[i].built_in, rows[i].needs_proof};
        assert_true(asdm_measurements_has(m, "op", rows[i].rows) == (i > 0 && rows[i].rows == rows[i - 1].rows));
        check(asdm_measurements_add(m, "op", rows[i].rows, &candidate, &err), &err);
    }
    check(asdm_choices_create(&choices, &err), &err);
    check(asdm_measurements_choose(m, invariant, choices, NULL, NULL, &err), &err);
    asdm_measurements_destroy(&m);
    return choices;
}

static void expect(struct asdm_choices *choices, int rows, const char *implementation) {
    bool exact;
    const char *found = asdm_choices_find(choices, "op", rows, &exact);
    if (!found || !exact || strcmp(found, implementation) != 0)
        fail_msg("%d rows: %s, not %s", rows, found ? found : "nothing", implementation);
}

static void test_choose(void **state) {
    /* Order Y is best for two rows and worst for four; Z best for all, but its bits change with the rows. */
    const struct row rows[] = {
        {2, "x1", "X", 10, 7, true, false},   {2, "x2", "X", 8, 7, false, false},  {2, "y1", "Y", 4, 8, false, false},
        {2, "z1", "Z", 1, 9, false, false},   {4, "x1", "X", 10, 7, false, false}, {4, "x2", "X", 20, 7, true, false},
        {4, "y1", "Y", 100, 8, false, false}, {4, "z1", "Z", 1, 5, false, false},
    };
    (void)state;
    struct asdm_choices *choices = choose(rows, 8, true);
    expect(choices, 2, "x2");
    expect(choices, 4, "x1");
    asdm_choices_destroy(&choices);
    choices = choose(rows, 8, false);
    expect(choices, 2, "z1");
    expect(choices, 4, "z1");
    asdm_choices_destroy(&choices);
}

static void test_one_order_for_all(void **state) {
    /* Y is slower than the built-in choice at two rows, and better for both together. */
    const struct row rows[] = {
        {2, "x1", "X", 10, 7, true, false},
        {2, "y1", "Y", 11, 8, false, false},
        {4, "x1", "X", 10, 7, true, false},
        {4, "y1", "Y", 5, 8, false, false},
    };
    (void)state;
    struct asdm_choices *choices = choose(rows, 4, true);
    expect(choices, 2, "y1");
    expect(choices, 4, "y1");
    asdm_choices_destroy(&choices);
    choices = choose(rows, 4, false);
    expect(choices, 2, "x1");
    expect(choices, 4, "y1");
    asdm_choices_destroy(&choices);
}

static void test_proof(void **state) {
    struct row rows[] = {
        {1, "x1", "X", 10, 7, true, false}, {1, "l", "L", 1, 8, false, true},   {2, "x1", "X", 10, 7, true, false},
        {2, "l", "L", 1, 8, false, true},   {4, "x1", "X", 10, 7, true, false}, {4, "l", "L", 1, 8, false, true},
    };
    (void)state;
    struct asdm_choices *choices = choose(rows, 6, true);
    expect(choices, 4, "l");
    asdm_choices_destroy(&choices);
    choices = choose(rows, 4, true); /* not measured at all numbers of rows */
    expect(choices, 2, "x1");
    asdm_choices_destroy(&choices);
    rows[5].bits = 0; /* rows differed from each other */
    choices = choose(rows, 6, true);
    expect(choices, 1, "x1");
    expect(choices, 4, "x1");
    asdm_choices_destroy(&choices);
    choices = choose(rows, 6, false);
    expect(choices, 4, "l");
    asdm_choices_destroy(&choices);
    rows[1].bits = rows[3].bits = 0;
    choices = choose(rows, 6, true);
    expect(choices, 2, "x1");
    asdm_choices_destroy(&choices);
}

static void test_noise(void **state) {
    const struct row rows[] = {{2, "x1", "X", 10, 7, true, false},
                               {2, "x2", "X", 9.95, 7, false, false},
                               {2, "y1", "Y", 9.93, 8, false, false}};
    (void)state;
    for (int invariant = 0; invariant < 2; invariant++) {
        struct asdm_choices *choices = choose(rows, 3, invariant);
        expect(choices, 2, "x1");
        asdm_choices_destroy(&choices);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_find),
        cmocka_unit_test(test_file),
        cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_choose),
        cmocka_unit_test(test_one_order_for_all),
        cmocka_unit_test(test_proof),
        cmocka_unit_test(test_noise),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
