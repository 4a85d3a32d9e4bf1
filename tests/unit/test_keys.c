/* front/keys.h */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "front/keys.h"

/* printf %s alpha | sha256sum, and of beta */
#define ALPHA "8ed3f6ad685b959ead7022518e1af76cd816f8e8ec7ccdda1ed4018e8f2223f8"
#define BETA "f44e64e75f3948e9f73f8dfa94721c4ce8cbb4f265c4790c702b2d41cfbf2753"

static char path[] = "/tmp/asdm-keys-XXXXXX";

static void write_keys(const char *text) {
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static struct keys *open_good(const char *text) {
    struct keys *keys = NULL;
    struct asdm_error err = {0};
    write_keys(text);
    if (keys_open(path, &keys, &err) != ASDM_OK)
        fail_msg("%s", err.message);
    return keys;
}

static int setup(void **state) {
    (void)state;
    int fd = mkstemp(path);
    return fd < 0 ? -1 : close(fd);
}

static int teardown(void **state) {
    (void)state;
    return unlink(path);
}

static void without_a_file_everybody_is_anonymous(void **state) {
    (void)state;
    struct keys *keys = NULL;
    struct key key;
    assert_int_equal(keys_open(NULL, &keys, NULL), ASDM_OK);
    assert_false(keys_required(keys));
    assert_true(keys_find(keys, NULL, &key));
    assert_string_equal(key.name, "anonymous");
    assert_int_equal(key.index, 0);
    assert_true(key.queue_max == 0 && key.rate_per_minute == 0 && key.pixels_per_minute == 0 && !key.admin);
    assert_true(keys_find(keys, "Bearer whatever", &key));
    assert_int_equal(keys_reload(keys, NULL), ASDM_OK);
    keys_close(&keys);
    assert_null(keys);
}

static void bearer_and_basic(void **state) {
    (void)state;
    struct keys *keys =
        open_good("# who\n\n  ann " ALPHA " queue=8 rate=60 pixels=1e6 # comment\nbob " BETA "  - admin\r\n");
    static const struct {
        const char *authorization, *name;
    } cases[] = {
        {"Bearer alpha", "ann"},
        {"bearer  alpha", "ann"},
        {"Bearer beta", "bob"},
        {"Basic YW5uOmFscGhh", "ann"},     /* ann:alpha */
        {"BASIC YW55Ym9keTpiZXRh", "bob"}, /* anybody:beta */
        {"Basic OmFscGhh", "ann"},         /* :alpha */
        {NULL, NULL},
        {"", NULL},
        {"Bearer", NULL},
        {"Bearer ", NULL},
        {"Bearer alph", NULL},
        {"Bearer alphaa", NULL},
        {"Bearer " ALPHA, NULL},
        {"Beareralpha", NULL},
        {"alpha", NULL},
        {"Digest alpha", NULL},
        {"Basic alpha", NULL},
        {"Basic YWxwaGE=", NULL}, /* alpha, no colon */
        {"Basic YW5uOg==", NULL}, /* ann: */
        {"Basic !!!!", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct key key = {.name = "untouched"};
        bool found = keys_find(keys, cases[i].authorization, &key);
        if (found != (cases[i].name != NULL))
            fail_msg("%s: %s", cases[i].authorization, found ? "found" : "not found");
        assert_string_equal(key.name, found ? cases[i].name : "untouched");
    }
    struct key key;
    assert_true(keys_find(keys, "Bearer alpha", &key));
    assert_true(key.queue_max == 8 && key.rate_per_minute == 60 && key.pixels_per_minute == 1e6 && !key.admin);
    assert_true(keys_find(keys, "Bearer beta", &key));
    assert_true(key.queue_max == 0 && key.rate_per_minute == 0 && key.pixels_per_minute == 0 && key.admin);
    assert_true(keys_required(keys));
    keys_close(&keys);
}

static void long_credentials_are_refused(void **state) {
    (void)state;
    struct keys *keys = open_good("ann " ALPHA "\n");
    static char text[1 << 16];
    struct key key;
    memset(text, 'a', sizeof text - 1);
    memcpy(text, "Bearer ", 7);
    assert_false(keys_find(keys, text, &key));
    memcpy(text, "Basic  ", 7);
    assert_false(keys_find(keys, text, &key));
    keys_close(&keys);
}

static void bad_files_name_the_line(void **state) {
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"", "no key in it"},
        {"# nothing\n", "no key in it"},
        {"ann\n", "line 1: after the name"},
        {"\nann abc\n", "line 2: after the name"},
        {"ann " ALPHA "0\n", "line 1: after the name"},
        {"ann g" ALPHA "\n", "line 1: after the name"},
        {"a/b " ALPHA "\n", "line 1: the name must be"},
        {"a234567890123456789012345678901234567890123456789012345678901234 " ALPHA "\n", "line 1: the name must be"},
        {"ann " ALPHA "\nann " BETA "\n", "line 2: the name ann is there twice"},
        {"ann " ALPHA "\nbob " ALPHA "\n", "line 2: bob has the same key as ann"},
        {"ann " ALPHA " queue=0\n", "line 1: queue must be an integer from 1"},
        {"ann " ALPHA " queue=1.5\n", "line 1: queue must be an integer from 1"},
        {"ann " ALPHA " queue=\n", "line 1: queue must be an integer from 1"},
        {"ann " ALPHA " rate=-1\n", "line 1: rate must be a number above 0"},
        {"ann " ALPHA " rate=nan\n", "line 1: rate must be a number above 0"},
        {"ann " ALPHA " pixels=x\n", "line 1: pixels must be a number above 0"},
        {"ann " ALPHA " root\n", "line 1: \"root\" must be queue=N, rate=N, pixels=N or admin"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct keys *keys = NULL;
        struct asdm_error err = {0};
        write_keys(cases[i].text);
        assert_int_equal(keys_open(path, &keys, &err), ASDM_ERR_FORMAT);
        assert_null(keys);
        if (!strstr(err.message, cases[i].message) || strncmp(err.message, path, strlen(path)) != 0)
            fail_msg("\"%s\" is not in \"%s\"", cases[i].message, err.message);
    }
    struct keys *keys = NULL;
    assert_int_equal(keys_open("/nonexistent/keys", &keys, NULL), ASDM_ERR_NOT_FOUND);
}

static void reload_keeps_indices_and_survives_a_bad_file(void **state) {
    (void)state;
    struct keys *keys = open_good("ann " ALPHA "\n");
    struct key ann, bob, again;
    struct asdm_error err;
    assert_true(keys_find(keys, "Bearer alpha", &ann));
    write_keys("bob " BETA "\n");
    assert_int_equal(keys_reload(keys, &err), ASDM_OK);
    assert_false(keys_find(keys, "Bearer alpha", &again));
    assert_true(keys_find(keys, "Bearer beta", &bob));
    assert_int_not_equal(ann.index, bob.index);
    write_keys("bob " ALPHA "\nann " BETA "\n"); /* each has the other's key now */
    assert_int_equal(keys_reload(keys, &err), ASDM_OK);
    assert_true(keys_find(keys, "Bearer alpha", &again) && again.index == bob.index);
    assert_true(keys_find(keys, "Bearer beta", &again) && again.index == ann.index);
    write_keys("nonsense\n");
    assert_int_equal(keys_reload(keys, &err), ASDM_ERR_FORMAT);
    assert_true(keys_find(keys, "Bearer beta", &again) && again.index == ann.index);
    keys_close(&keys);
}

static void many_keys(void **state) {
    (void)state;
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    for (int i = 0; i < 1000; i++)
        fprintf(file, "key%d %064x\n", i, i);
    fputs("ann " ALPHA "\n", file);
    assert_int_equal(fclose(file), 0);
    struct keys *keys = NULL;
    struct key key;
    assert_int_equal(keys_open(path, &keys, NULL), ASDM_OK);
    assert_true(keys_find(keys, "Bearer alpha", &key));
    assert_int_equal(key.index, 1000);
    keys_close(&keys);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_a_file_everybody_is_anonymous),
        cmocka_unit_test(bearer_and_basic),
        cmocka_unit_test(long_credentials_are_refused),
        cmocka_unit_test(bad_files_name_the_line),
        cmocka_unit_test(reload_keeps_indices_and_survives_a_bad_file),
        cmocka_unit_test(many_keys),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
