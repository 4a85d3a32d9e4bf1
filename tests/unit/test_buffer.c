#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "front/buffer.h"

static void test_growth_and_cap(void **state) {
    (void)state;
    struct buffer buffer;
    buffer_init(&buffer, 1000);
    for (int i = 0; i < 100; i++)
        buffer_text(&buffer, "0123456789");
    assert_false(buffer.failed);
    assert_int_equal(buffer.length, 1000);
    assert_int_equal(strlen(buffer.data), 1000);
    buffer_text(&buffer, "x");
    assert_true(buffer.failed);
    assert_int_equal(buffer.length, 1000);
    buffer_done(&buffer);
    assert_null(buffer.data);
    buffer_text(&buffer, "again");
    assert_string_equal(buffer.data, "again");
    buffer_done(&buffer);

    buffer_init(&buffer, 4);
    buffer_print(&buffer, "%d", 12345);
    assert_true(buffer.failed && buffer.length == 0);
    buffer_text(&buffer, "a"); /* a failure stays one */
    assert_int_equal(buffer.length, 0);
    buffer_done(&buffer);

    buffer_init(&buffer, SIZE_MAX / 2);
    buffer_base64(&buffer, "", 0);
    assert_false(buffer.failed);
    buffer_put(&buffer, NULL, 0);
    assert_false(buffer.failed);
    buffer_done(&buffer);
}

static void test_json(void **state) {
    (void)state;
    struct buffer buffer;
    buffer_init(&buffer, 4096);
    buffer_json(&buffer, "a\"b\\c\n\r\t\b\f\x01\x1f\x7f/\xc3\xa9");
    assert_string_equal(buffer.data, "\"a\\\"b\\\\c\\n\\r\\t\\b\\f\\u0001\\u001f\\u007f/\xc3\xa9\"");
    buffer_done(&buffer);
    buffer_json(&buffer, NULL);
    buffer_json(&buffer, "");
    assert_string_equal(buffer.data, "null\"\"");
    buffer_done(&buffer);
}

static void test_numbers(void **state) {
    (void)state;
    static const double values[] = {0,
                                    1,
                                    -1,
                                    0.1,
                                    1.0 / 3,
                                    7.5,
                                    1e300,
                                    5e-324,
                                    123456789012345678.0,
                                    1e15,
                                    -2.5,
                                    4294967297.0,
                                    0.30000000000000004};
    struct buffer buffer;
    buffer_init(&buffer, 4096);
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        buffer_json_number(&buffer, values[i]);
        assert_true(strtod(buffer.data, NULL) == values[i]);
        buffer_done(&buffer);
    }
    buffer_json_number(&buffer, 7.5);
    buffer_text(&buffer, " ");
    buffer_json_number(&buffer, 0.1);
    buffer_text(&buffer, " ");
    buffer_json_number(&buffer, (double)NAN);
    buffer_text(&buffer, " ");
    buffer_json_number(&buffer, (double)INFINITY);
    assert_string_equal(buffer.data, "7.5 0.1 null null");
    buffer_done(&buffer);
}

static void test_base64(void **state) {
    (void)state;
    static const char *const pairs[][2] = {{"", ""},
                                           {"f", "Zg=="},
                                           {"fo", "Zm8="},
                                           {"foo", "Zm9v"},
                                           {"foob", "Zm9vYg=="},
                                           {"fooba", "Zm9vYmE="},
                                           {"foobar", "Zm9vYmFy"}}; /* RFC 4648, 10 */
    struct buffer buffer;
    buffer_init(&buffer, 1 << 20);
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        unsigned char *bytes;
        size_t size;
        buffer_base64(&buffer, pairs[i][0], strlen(pairs[i][0]));
        assert_string_equal(buffer.data ? buffer.data : "", pairs[i][1]);
        buffer_done(&buffer);
        assert_true(base64_decode(pairs[i][1], strlen(pairs[i][1]), &bytes, &size));
        assert_int_equal(size, strlen(pairs[i][0]));
        assert_memory_equal(bytes, pairs[i][0], size);
        free(bytes);
    }
    unsigned char data[1000], *back;
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (unsigned char)(i * 167 + (i >> 8));
    for (size_t length = 0; length <= sizeof data; length++) {
        size_t size;
        buffer_base64(&buffer, data, length);
        assert_true(base64_decode(buffer.data ? buffer.data : "", buffer.length, &back, &size));
        assert_int_equal(size, length);
        assert_memory_equal(back, data, length);
        free(back);
        buffer_done(&buffer);
    }
}

static void test_base64_forms(void **state) {
    (void)state;
    static const char *const good[] = {"Zm9v\r\nYmE=\n", "Zm9vYmE", " Z m 9 v Y m E ",
                                       "data:image/png;base64,Zm9vYmE=", "DATA:;base64,Zm9vYmE="};
    static const char *const bad[] = {"Zm9vYmE==",
                                      "Zm9vY",
                                      "Zm9v=",
                                      "=",
                                      "====",
                                      "Zg=",
                                      "Z===",
                                      "Zm9v!mE=",
                                      "Zm9v-mE=",
                                      "Zm=vYmE=",
                                      "Zh==",
                                      "Zm9=",
                                      "data:image/png,Zm9v",
                                      "data:",
                                      "data:;base64",
                                      "http://127.0.0.1/a.png",
                                      "Zm9vYmE=Zm9v",
                                      "\xff"};
    unsigned char *bytes = NULL;
    size_t size;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_true(base64_decode(good[i], strlen(good[i]), &bytes, &size));
        assert_int_equal(size, 5);
        assert_memory_equal(bytes, "fooba", 5);
        free(bytes);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(base64_decode(bad[i], strlen(bad[i]), &bytes, &size));
    assert_false(base64_decode("Zm\0v", 4, &bytes, &size));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_growth_and_cap), cmocka_unit_test(test_json),         cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_base64),         cmocka_unit_test(test_base64_forms),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
