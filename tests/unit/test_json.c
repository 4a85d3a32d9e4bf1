/* asdm/json.h, and through it base/json_scan.h and base/key_table.h. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include <asdm/json.h>
#include "base/json_scan.h"
#include "base/key_table.h"

/* A text with a length of its own, so that it can hold NUL bytes. */
#define TEXT(literal) literal, sizeof(literal) - 1

/* Parses from memory that ends with the text, so that reading past it shows under a sanitizer. */
static enum asdm_status parse(const char *text, size_t length, struct asdm_json **ret, struct asdm_error *err) {
    char *exact = malloc(length ? length : 1);
    assert_non_null(exact);
    memcpy(exact, text, length);
    enum asdm_status status = asdm_json_parse(exact, length, "test", ret, err);
    free(exact);
    return status;
}

static struct asdm_json *parse_good(const char *text) {
    struct asdm_json *root = NULL;
    struct asdm_error err = {0};
    if (parse(text, strlen(text), &root, &err) != ASDM_OK)
        fail_msg("%s: %s", text, err.message);
    return root;
}

static void malformed_texts_are_refused_in_words(void **state) {
    (void)state;
    static const struct {
        const char *text;
        size_t length;
        const char *message; /* begins with this, after "test: " */
    } cases[] = {
        {TEXT(""), "line 1, column 1: expected a value, found the end of the text"},
        {TEXT("   \n "), "line 2, column 2: expected a value, found the end of the text"},
        {TEXT("\xef\xbb\xbf{}"), "line 1, column 1: a byte order mark"},
        {TEXT("{"), "line 1, column 2: expected a key in quotation marks, found the end"},
        {TEXT("["), "line 1, column 2: expected a value, found the end"},
        {TEXT("]"), "line 1, column 1: expected a value, found ']'"},
        {TEXT("[1"), "line 1, column 3: expected ',' or ']', found the end"},
        {TEXT("[1}"), "line 1, column 3: expected ',' or ']', found '}'"},
        {TEXT("{\"a\":1]"), "line 1, column 7: expected ',' or '}', found ']'"},
        {TEXT("[1,]"), "line 1, column 3: a comma before ']'"},
        {TEXT("[,1]"), "line 1, column 2: expected a value, found ','"},
        {TEXT("[1,,2]"), "line 1, column 4: expected a value, found ','"},
        {TEXT("[1 2]"), "line 1, column 4: expected ',' or ']', found '2'"},
        {TEXT("{\"a\":1,}"), "line 1, column 7: a comma before '}'"},
        {TEXT("{,}"), "line 1, column 2: expected a key in quotation marks, found ','"},
        {TEXT("{\"a\"}"), "line 1, column 5: expected ':' after a key, found '}'"},
        {TEXT("{\"a\":}"), "line 1, column 6: expected a value, found '}'"},
        {TEXT("{a:1}"), "line 1, column 2: expected a key in quotation marks, found 'a'"},
        {TEXT("{1:1}"), "line 1, column 2: expected a key in quotation marks, found '1'"},
        {TEXT("{'a':1}"), "line 1, column 2: expected a key in quotation marks, found '''"},
        {TEXT("{\"a\":1 \"b\":2}"), "line 1, column 8: expected ',' or '}', found '\"'"},
        {TEXT("{\"a\":1,\n \"a\":2}"), "line 2, column 2: the key \"a\" is there twice"},
        {TEXT("{\"a\":1,\"\\u0061\":2}"), "line 1, column 8: the key \"a\" is there twice"},
        {TEXT("{\"\":1,\"\":2}"), "line 1, column 7: the key \"\" is there twice"},
        {TEXT("[{\"x\":{\"y\":[],\"y\":0}}]"), "line 1, column 15: the key \"y\" is there twice"},
        {TEXT("{\"\xc3\xa9\":1,\"\\u00e9\":2}"), "line 1, column 8: the key \"\xc3\xa9\" is there twice"},
        {TEXT("{\"\xf0\x9f\x98\x80\":1,\"\\ud83d\\ude00\":2}"), "line 1, column 8: the key"},
        {TEXT("1 2"), "line 1, column 3: expected nothing more, found '2'"},
        {TEXT("{} {}"), "line 1, column 4: expected nothing more, found '{'"},
        {TEXT("{}\0"), "line 1, column 3: expected nothing more, found byte 0x00"},
        {TEXT("[1]//c"), "line 1, column 4: expected nothing more, found '/'"},
        {TEXT("[1/*c*/]"), "line 1, column 3: expected ',' or ']', found '/'"},
        {TEXT("[\f1]"), "line 1, column 2: expected a value, found byte 0x0c"},
        {TEXT("[\xa0"
              "1]"),
         "line 1, column 2: expected a value, found byte 0xa0"},
        {TEXT("True"), "line 1, column 1: expected a value, found 'T'"},
        {TEXT("tru"), "line 1, column 1: expected a value, found 't'"},
        {TEXT("nul"), "line 1, column 1: expected a value, found 'n'"},
        {TEXT("nulll"), "line 1, column 5: expected nothing more, found 'l'"},
        {TEXT("NaN"), "line 1, column 1: expected a value, found 'N'"},
        {TEXT("Infinity"), "line 1, column 1: expected a value, found 'I'"},
        {TEXT("-Infinity"), "line 1, column 2: expected a digit, found 'I'"},
        {TEXT("-"), "line 1, column 2: expected a digit, found the end"},
        {TEXT("+1"), "line 1, column 1: expected a value, found '+'"},
        {TEXT("01"), "line 1, column 1: a number with a leading zero"},
        {TEXT("-01"), "line 1, column 1: a number with a leading zero"},
        {TEXT("00"), "line 1, column 1: a number with a leading zero"},
        {TEXT("1."), "line 1, column 3: expected a digit"},
        {TEXT(".5"), "line 1, column 1: expected a value, found '.'"},
        {TEXT("1.e5"), "line 1, column 3: expected a digit, found 'e'"},
        {TEXT("1e"), "line 1, column 3: expected a digit"},
        {TEXT("1e+"), "line 1, column 4: expected a digit"},
        {TEXT("0x10"), "line 1, column 2: expected nothing more, found 'x'"},
        {TEXT("1e309"), "line 1, column 1: a number too large for a double"},
        {TEXT("-1e309"), "line 1, column 1: a number too large for a double"},
        {TEXT("1.7976931348623159e308"), "line 1, column 1: a number too large for a double"},
        {TEXT("[1, 1e99999999999999999999]"), "line 1, column 5: a number too large for a double"},
        {TEXT("12345678901234567890123456789012345678901234567890123456789012345"),
         "line 1, column 1: a number of more than 63 characters"},
        {TEXT("\"abc"), "line 1, column 1: a string does not end"},
        {TEXT("\"abc\\"), "line 1, column 5: a string does not end"},
        {TEXT("\"abc\\\""), "line 1, column 1: a string does not end"},
        {TEXT("\"a\nb\""), "line 1, column 3: a control character (0x0a) in a string"},
        {TEXT("\"a\tb\""), "line 1, column 3: a control character (0x09) in a string"},
        {TEXT("\"a\0b\""), "line 1, column 3: a control character (0x00) in a string"},
        {TEXT("\"\\x41\""), "line 1, column 2: an unknown escape in a string"},
        {TEXT("\"\\\0\""), "line 1, column 2: an unknown escape in a string"},
        {TEXT("\"\\u12\""), "line 1, column 2: \\u is not followed by four hexadecimal digits"},
        {TEXT("\"\\u12g4\""), "line 1, column 2: \\u is not followed by four hexadecimal digits"},
        {TEXT("\"\\u+123\""), "line 1, column 2: \\u is not followed by four hexadecimal digits"},
        {TEXT("\"\\u00"), "line 1, column 2: \\u is not followed by four hexadecimal digits"},
        {TEXT("\"\\u0000\""), "line 1, column 2: \\u0000 is not allowed"},
        {TEXT("{\"a\\u0000b\":1}"), "line 1, column 4: \\u0000 is not allowed"},
        {TEXT("\"\\ud800\""), "line 1, column 2: a high surrogate without the low one"},
        {TEXT("\"\\ud800x\""), "line 1, column 2: a high surrogate without the low one"},
        {TEXT("\"\\ud800\\ud800\""), "line 1, column 2: a high surrogate without the low one"},
        {TEXT("\"\\ud800\\u0041\""), "line 1, column 2: a high surrogate without the low one"},
        {TEXT("\"\\udc00\""), "line 1, column 2: a low surrogate without the high one"},
        {TEXT("\"\\udc00\\ud800\""), "line 1, column 2: a low surrogate without the high one"},
        {TEXT("\"\x80\""), "line 1, column 2: invalid UTF-8 in a string"},
        {TEXT("\"\xc0\xaf\""), "line 1, column 2: invalid UTF-8"},     /* overlong '/' */
        {TEXT("\"\xc1\xbf\""), "line 1, column 2: invalid UTF-8"},     /* overlong DEL */
        {TEXT("\"\xe0\x9f\xbf\""), "line 1, column 2: invalid UTF-8"}, /* overlong U+07FF */
        {TEXT("\"\xf0\x8f\xbf\xbf\""), "line 1, column 2: invalid UTF-8"},
        {TEXT("\"\xed\xa0\x80\""), "line 1, column 2: invalid UTF-8"},     /* a surrogate */
        {TEXT("\"\xf4\x90\x80\x80\""), "line 1, column 2: invalid UTF-8"}, /* past U+10FFFF */
        {TEXT("\"\xf5\x80\x80\x80\""), "line 1, column 2: invalid UTF-8"},
        {TEXT("\"\xe2\x82\""), "line 1, column 2: invalid UTF-8"},
        {TEXT("\"\xe2\x82"), "line 1, column 2: invalid UTF-8"},
        {TEXT("\"\xff\""), "line 1, column 2: invalid UTF-8"},
        {TEXT("[\"\xc3\xa9\xe2\x82\xac\", x]"), "line 1, column 8: expected a value, found 'x'"},
        {TEXT("[\r\n1,\n\n  x]"), "line 4, column 3: expected a value, found 'x'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct asdm_json *root = (struct asdm_json *)&root; /* must stay as it is */
        struct asdm_error err = {0};
        char expected[200];
        snprintf(expected, sizeof expected, "test: %s", cases[i].message);
        if (parse(cases[i].text, cases[i].length, &root, &err) != ASDM_ERR_FORMAT)
            fail_msg("accepted: %s", cases[i].text);
        if (strncmp(err.message, expected, strlen(expected)) != 0)
            fail_msg("case %zu: \"%s\" instead of \"%s\"", i, err.message, expected);
        assert_ptr_equal(root, &root);
        assert_int_equal(err.status, ASDM_ERR_FORMAT);
    }
}

static void every_cut_of_a_text_is_refused(void **state) {
    (void)state;
    static const char text[] =
        "{\"a\\u00e9\\ud83d\\ude00\": [1.5e+3, true, null, \"\xf0\x9f\x98\x80\"], \"b\": {\"c\": -0}}";
    for (size_t length = 0; length < sizeof text - 1; length++) {
        struct asdm_json *root;
        assert_int_equal(parse(text, length, &root, NULL), ASDM_ERR_FORMAT);
    }
    struct asdm_json *root = parse_good(text);
    asdm_json_destroy(&root);
    assert_null(root);
}

static void good_texts_are_read(void **state) {
    (void)state;
    static const char *const texts[] = {
        "0",
        "-0",
        "1e308",
        "1.7976931348623157e308",
        "1e-999",
        "0e999999",
        "\"\"",
        "[]",
        "{}",
        "null",
        " \t\r\n1 \t\r\n",
        "[[],{},[[]]]",
        "{\"\":0}",
        "{\"a\":{\"a\":{\"a\":1}}}",
        "[{\"a\":1},{\"a\":1}]",
        "{\"A\":1,\"a\":2}",
        "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"",
        "\"\x7f\"",
        "\"\xef\xbb\xbf\"",
        "\"\xf4\x8f\xbf\xbf\"",
        "\"\\uFFFF\\uffff\"",
        "123456789012345678901234567890123456789012345678901234567890123",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct asdm_json *root = parse_good(texts[i]);
        asdm_json_destroy(&root);
    }
}

static void strings_are_decoded(void **state) {
    (void)state;
    struct asdm_json *root = parse_good("[\"\\u0001\\u007f\\u0080\\u07ff\\u0800\\uffff\\ud800\\udc00\\udbff\\udfff\","
                                        "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\",\"plain \xe2\x82\xac\"]");
    const struct asdm_json *child = asdm_json_first(root);
    assert_string_equal(asdm_json_string(child), "\x01\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xef\xbf\xbf\xf0\x90\x80\x80"
                                                 "\xf4\x8f\xbf\xbf");
    child = asdm_json_next(child);
    assert_string_equal(asdm_json_string(child), "\"\\/\b\f\n\r\t");
    child = asdm_json_next(child);
    assert_string_equal(asdm_json_string(child), "plain \xe2\x82\xac");
    assert_null(asdm_json_next(child));
    asdm_json_destroy(&root);
}

static void nesting_stops_at_64(void **state) {
    (void)state;
    for (int depth = 60; depth <= 70; depth++) {
        char text[300] = "";
        for (int i = 0; i < depth; i++)
            strcat(text, i % 2 ? "[" : "{\"a\":");
        strcat(text, "1");
        for (int i = depth - 1; i >= 0; i--)
            strcat(text, i % 2 ? "]" : "}");
        struct asdm_json *root = NULL;
        struct asdm_error err = {0};
        enum asdm_status status = parse(text, strlen(text), &root, &err);
        assert_int_equal(status, depth <= 64 ? ASDM_OK : ASDM_ERR_FORMAT);
        if (depth > 64)
            assert_non_null(strstr(err.message, "nested deeper than 64 levels"));
        else
            asdm_json_destroy(&root);
    }
    char *deep = malloc(1000000);
    assert_non_null(deep);
    memset(deep, '[', 1000000);
    struct asdm_json *root;
    assert_int_equal(asdm_json_parse(deep, 1000000, "deep", &root, NULL), ASDM_ERR_FORMAT);
    free(deep);
}

static void nodes_are_walked_in_file_order(void **state) {
    (void)state;
    struct asdm_json *root =
        parse_good("{\"z\":null,\"a\":false,\"m\":true,\"n\":-2.5,\"s\":\"x\",\"l\":[1,2],\"o\":{}}");
    static const char *const keys[] = {"z", "a", "m", "n", "s", "l", "o"};
    static const enum asdm_json_type types[] = {ASDM_JSON_NULL,   ASDM_JSON_BOOL,  ASDM_JSON_BOOL,  ASDM_JSON_NUMBER,
                                                ASDM_JSON_STRING, ASDM_JSON_ARRAY, ASDM_JSON_OBJECT};
    int i = 0;
    for (const struct asdm_json *child = asdm_json_first(root); child; child = asdm_json_next(child), i++) {
        assert_string_equal(asdm_json_key(child), keys[i]);
        assert_int_equal(asdm_json_type(child), types[i]);
        assert_ptr_equal(asdm_json_get(root, keys[i]), child);
    }
    assert_int_equal(i, 7);
    assert_int_equal(asdm_json_count(root), 7);
    assert_false(asdm_json_bool(asdm_json_get(root, "a")));
    assert_true(asdm_json_bool(asdm_json_get(root, "m")));
    assert_true(asdm_json_number(asdm_json_get(root, "n")) == -2.5);
    assert_null(asdm_json_get(root, "Z")); /* case counts */
    assert_null(asdm_json_get(root, ""));
    assert_null(asdm_json_get(asdm_json_get(root, "l"), "0"));
    assert_null(asdm_json_first(asdm_json_get(root, "o")));
    assert_null(asdm_json_first(asdm_json_get(root, "n")));
    asdm_json_destroy(&root);
}

static void type_names_are_words(void **state) {
    (void)state;
    assert_string_equal(asdm_json_type_name(ASDM_JSON_NULL), "null");
    assert_string_equal(asdm_json_type_name(ASDM_JSON_BOOL), "a boolean");
    assert_string_equal(asdm_json_type_name(ASDM_JSON_OBJECT), "an object");
}

static void numbers_keep_their_value(void **state) {
    (void)state;
    static const char *const texts[] = {
        "0.1", "1e-7", "5e-324", "2.2250738585072014e-308", "0.18215", "9007199254740993"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct asdm_json *root = parse_good(texts[i]);
        assert_true(asdm_json_number(root) == strtod(texts[i], NULL));
        asdm_json_destroy(&root);
    }
}

#define EXPECT_REFUSED(call, words)                                                                                    \
    do {                                                                                                               \
        struct asdm_error err = {0};                                                                                   \
        struct asdm_error *e = &err;                                                                                   \
        assert_int_equal(call, ASDM_ERR_FORMAT);                                                                       \
        assert_string_equal(err.message, words);                                                                       \
    } while (0)

static void integers_are_checked(void **state) {
    (void)state;
    struct asdm_json *root = parse_good("{\"i\":5,\"f\":5.5,\"w\":1e3,\"s\":\"5\",\"n\":null,\"big\":1e18,\"neg\":-3}");
    int64_t value = 77;
    assert_int_equal(asdm_json_get_int(root, "c", "absent", 0, 9, &value, NULL), ASDM_OK);
    assert_int_equal(asdm_json_get_int(root, "c", "n", 0, 9, &value, NULL), ASDM_OK);
    assert_int_equal(value, 77); /* absent and null leave it */
    EXPECT_REFUSED(asdm_json_get_int(root, "c.json", "f", 0, 9, &value, e),
                   "c.json: f: must be an integer from 0 to 9, is 5.5");
    EXPECT_REFUSED(asdm_json_get_int(root, "c.json", "s", 0, 9, &value, e),
                   "c.json: s: must be an integer from 0 to 9, is a string");
    EXPECT_REFUSED(asdm_json_get_int(root, "c.json", "i", 6, 9, &value, e),
                   "c.json: i: must be an integer from 6 to 9, is 5");
    EXPECT_REFUSED(asdm_json_get_int(root, "c.json", "i", -4, 4, &value, e),
                   "c.json: i: must be an integer from -4 to 4, is 5");
    EXPECT_REFUSED(asdm_json_get_int(root, "c.json", "big", INT64_MIN, INT64_MAX, &value, e),
                   "c.json: big: must be an integer from -9007199254740991 to 9007199254740991, is 1e+18");
    assert_int_equal(value, 77);
    assert_int_equal(asdm_json_get_int(root, "c", "i", 5, 5, &value, NULL), ASDM_OK);
    assert_int_equal(value, 5);
    assert_int_equal(asdm_json_get_int(root, "c", "w", 0, 1000, &value, NULL), ASDM_OK);
    assert_int_equal(value, 1000);
    assert_int_equal(asdm_json_get_int(root, "c", "neg", INT64_MIN, 0, &value, NULL), ASDM_OK);
    assert_int_equal(value, -3);
    asdm_json_destroy(&root);
}

static void other_values_are_checked(void **state) {
    (void)state;
    struct asdm_json *root = parse_good("{\"d\":0.5,\"b\":true,\"s\":\"x\",\"n\":null}");
    double number = 7;
    bool flag = false;
    const char *text = "before";
    EXPECT_REFUSED(asdm_json_get_double(root, "c", "d", 1, 2, &number, e),
                   "c: d: must be a number from 1 to 2, is 0.5");
    EXPECT_REFUSED(asdm_json_get_double(root, "c", "b", 1, 2, &number, e),
                   "c: b: must be a number from 1 to 2, is a boolean");
    EXPECT_REFUSED(asdm_json_get_bool(root, "c", "d", &flag, e), "c: d: must be true or false, is a number");
    EXPECT_REFUSED(asdm_json_get_string(root, "c", "b", &text, e), "c: b: must be a string, is a boolean");
    assert_int_equal(asdm_json_get_double(root, "c", "n", 1, 2, &number, NULL), ASDM_OK);
    assert_int_equal(asdm_json_get_bool(root, "c", "n", &flag, NULL), ASDM_OK);
    assert_int_equal(asdm_json_get_string(root, "c", "n", &text, NULL), ASDM_OK);
    assert_true(number == 7);
    assert_false(flag);
    assert_string_equal(text, "before");
    assert_int_equal(asdm_json_get_double(root, "c", "d", 0, 1, &number, NULL), ASDM_OK);
    assert_int_equal(asdm_json_get_bool(root, "c", "b", &flag, NULL), ASDM_OK);
    assert_int_equal(asdm_json_get_string(root, "c", "s", &text, NULL), ASDM_OK);
    assert_true(number == 0.5);
    assert_true(flag);
    assert_string_equal(text, "x");
    asdm_json_destroy(&root);
}

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* A vocabulary as a tokenizer has it. A quadratic search for duplicates takes minutes here, so the bound is wide enough
 * for any machine and any sanitizer. */
static void large_vocabularies_are_read_fast(void **state) {
    (void)state;
    enum { COUNT = 400000 };
    size_t used = 0, size = COUNT * 32;
    char *text = malloc(size);
    assert_non_null(text);
    for (int i = 0; i < COUNT; i++)
        used += (size_t)snprintf(text + used, size - used, "%c\"%s%d</w>\":%d", i ? ',' : '{',
                                 i % 2 ? "\\u0120" : "tok", i, i);
    text[used++] = '}';
    struct asdm_json *root;
    double start = seconds();
    assert_int_equal(asdm_json_parse(text, used, "vocabulary", &root, NULL), ASDM_OK);
    size_t count = 0;
    for (const struct asdm_json *child = asdm_json_first(root); child; child = asdm_json_next(child))
        assert_true(asdm_json_number(child) == (double)count++);
    assert_int_equal(count, COUNT);
    assert_true(seconds() - start < 10);
    asdm_json_destroy(&root);
    memcpy(text + used - 1, ",\"tok0</w>\":1}", 14); /* one duplicate at the far end */
    struct asdm_error err;
    assert_int_equal(asdm_json_parse(text, used + 13, "vocabulary", &root, &err), ASDM_ERR_FORMAT);
    assert_non_null(strstr(err.message, "the key \"tok0</w>\" is there twice"));
    free(text);
}

static void foreign_text_in_messages_is_tamed(void **state) {
    (void)state;
    char out[ASDM_JSON_EXCERPT_BYTES], text[400];
    assert_string_equal(asdm_json_excerpt("a\nb\x7f\xc3\xa9\xff", 7, out), "a?b?\xc3\xa9?");
    for (int i = 0; i < 200; i++)
        memcpy(text + 2 * i, "\xc3\xa9", 2);
    asdm_json_excerpt(text, 399, out);
    assert_int_equal(strlen(out), 103);
    assert_string_equal(out + 100, "...");
    memset(text, 'x', sizeof text);
    assert_int_equal(strlen(asdm_json_excerpt(text, 100, out)), 100);
    assert_int_equal(strlen(asdm_json_excerpt(text, 101, out)), 103);
    asdm_json_excerpt("xxx", 0, out);
    assert_string_equal(out, "");
}

static void key_table_keeps_spaces_apart(void **state) {
    (void)state;
    struct asdm_key_table table = {0};
    char keys[2000][8];
    assert_int_equal(asdm_key_table_find(&table, 0, "k", 1), -1);
    for (uint32_t i = 0; i < 2000; i++) {
        snprintf(keys[i], sizeof keys[i], "k%u", i);
        for (uint32_t space = 0; space < 3; space++)
            assert_int_equal(asdm_key_table_insert(&table, space, keys[i], strlen(keys[i]), 3 * i + space),
                             ASDM_KEY_NEW);
    }
    for (uint32_t i = 0; i < 2000; i++) {
        assert_int_equal(asdm_key_table_insert(&table, 1, keys[i], strlen(keys[i]), 0), ASDM_KEY_KNOWN);
        assert_int_equal(asdm_key_table_find(&table, 2, keys[i], strlen(keys[i])), 3 * i + 2);
        assert_int_equal(asdm_key_table_find(&table, 3, keys[i], strlen(keys[i])), -1);
    }
    assert_int_equal(asdm_key_table_find(&table, 0, "k", 1), -1); /* a prefix is another key */
    assert_int_equal(table.count, 6000);
    asdm_key_table_done(&table);
    assert_int_equal(asdm_key_table_find(&table, 0, "k1", 2), -1);
}

static void files_are_read_with_a_limit(void **state) {
    (void)state;
    char path[] = "test_json.XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "{\"a\": x}", 8), 8);
    close(fd);
    struct asdm_json *root;
    struct asdm_error err;
    char expected[100];
    assert_int_equal(asdm_json_read(path, 8, &root, &err), ASDM_ERR_FORMAT);
    snprintf(expected, sizeof expected, "%s: line 1, column 7: expected a value, found 'x'", path);
    assert_string_equal(err.message, expected);
    assert_int_equal(asdm_json_read(path, 7, &root, &err), ASDM_ERR_FORMAT);
    snprintf(expected, sizeof expected, "%s: 8 bytes, more than the 7 allowed", path);
    assert_string_equal(err.message, expected);
    unlink(path);
    assert_int_equal(asdm_json_read(path, 8, &root, &err), ASDM_ERR_NOT_FOUND);
    assert_non_null(strstr(err.message, path));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(malformed_texts_are_refused_in_words),
        cmocka_unit_test(every_cut_of_a_text_is_refused),
        cmocka_unit_test(good_texts_are_read),
        cmocka_unit_test(strings_are_decoded),
        cmocka_unit_test(nesting_stops_at_64),
        cmocka_unit_test(nodes_are_walked_in_file_order),
        cmocka_unit_test(type_names_are_words),
        cmocka_unit_test(numbers_keep_their_value),
        cmocka_unit_test(integers_are_checked),
        cmocka_unit_test(other_values_are_checked),
        cmocka_unit_test(large_vocabularies_are_read_fast),
        cmocka_unit_test(foreign_text_in_messages_is_tamed),
        cmocka_unit_test(key_table_keeps_spaces_apart),
        cmocka_unit_test(files_are_read_with_a_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
