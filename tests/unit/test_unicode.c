/* Text rules of the tokenizer: UTF-8, classes, folding. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "text/unicode.h"

static void test_utf8_round_trip(void **state) {
    (void)state;
    for (uint32_t point = 0; point < 0x110000; point++) {
        unsigned char text[4];
        uint32_t back = 0;
        size_t size = asdm_unicode_encode(point, text);
        if (point >= 0xD800 && point < 0xE000) {
            assert_int_equal(asdm_unicode_decode(text, size, &back), 0);
            continue;
        }
        assert_int_equal(asdm_unicode_decode(text, size, &back), size);
        assert_int_equal(back, point);
        for (size_t cut = 0; cut < size; cut++)
            assert_int_equal(asdm_unicode_decode(text, cut, &back), 0);
    }
}

/* Every text of two bytes, and of three and four with chosen last bytes, against the definition: well-formed is what
 * encodes back to itself. */
static void test_utf8_ill_formed(void **state) {
    (void)state;
    static const unsigned char last[] = {0x00, 0x7F, 0x80, 0xBF, 0xC0, 0xFF};
    for (unsigned first = 0x80; first < 256; first++)
        for (unsigned second = 0; second < 256; second++)
            for (unsigned k = 0; k < 36; k++) {
                unsigned char text[4] = {(unsigned char)first, (unsigned char)second, last[k / 6], last[k % 6]},
                              back[4];
                uint32_t point = 0;
                size_t size = asdm_unicode_decode(text, 4, &point);
                if (size == 0) {
                    assert_false(first >= 0xC2 && first < 0xE0 && second >= 0x80 && second < 0xC0);
                    continue;
                }
                assert_true(point < 0x110000 && (point < 0xD800 || point >= 0xE000));
                assert_int_equal(asdm_unicode_encode(point, back), size);
                assert_memory_equal(back, text, size);
            }
}

static void test_check_names_the_offset(void **state) {
    (void)state;
    static const struct {
        const char *text;
        size_t length, offset;
    } cases[] = {{"\xff", 1, 0},         {"ab\x80", 3, 2},           {"a\xc0\x80", 3, 1},    {"\xe2\x82", 2, 0},
                 {"\xed\xa0\x80", 3, 0}, {"\xf4\x90\x80\x80", 4, 0}, {"\xc3\xa9\xc3", 3, 2}, {"\0\xfe", 2, 1}};
    size_t offset;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        offset = 99;
        assert_false(asdm_unicode_check((const unsigned char *)cases[i].text, cases[i].length, &offset));
        assert_int_equal(offset, cases[i].offset);
    }
    assert_true(asdm_unicode_check((const unsigned char *)"a\0\xc3\xa9", 4, &offset));
    assert_true(asdm_unicode_check(NULL, 0, &offset));
}

static void test_classes(void **state) {
    (void)state;
    static const uint32_t letters[] = {'a',     'Z',     0xAA,    0xB5,    0xE9,    0x1C5,  0x2B0,
                                       0x3A3,   0x5D0,   0x627,   0x3005,  0x3042,  0x4E00, 0xAC00,
                                       0x10D4A, 0x16D40, 0x1E5F0, 0x20000, 0x2EBF0, 0x1C89, 0xA7DC};
    static const uint32_t numbers[] = {'0',    '9',    0xB2,   0xBD,    0x663,   0x967,  0x2167,
                                       0x2460, 0x3007, 0x3248, 0x1D7D8, 0x10D40, 0x1E5F1};
    static const uint32_t spaces[] = {9,      10,     11,     12,     13,     32,     0x85,   0xA0,
                                      0x1680, 0x2000, 0x200A, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000};
    static const uint32_t others[] = {0,      1,      8,      0x1C,   0x1F,   '!',     '_',     0x7F,
                                      0x80,   0xAD,   0xD7,   0x300,  0x378,  0x180E,  0x200B,  0x200D,
                                      0x2603, 0xE000, 0xFE0F, 0xFEFF, 0xFFFD, 0x1F600, 0xE0100, 0x10FFFF};
    for (size_t i = 0; i < sizeof letters / sizeof *letters; i++)
        assert_int_equal(asdm_unicode_class(letters[i]), ASDM_UNICODE_LETTER);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        assert_int_equal(asdm_unicode_class(numbers[i]), ASDM_UNICODE_NUMBER);
    for (size_t i = 0; i < sizeof spaces / sizeof *spaces; i++)
        assert_int_equal(asdm_unicode_class(spaces[i]), ASDM_UNICODE_SPACE);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        assert_int_equal(asdm_unicode_class(others[i]), ASDM_UNICODE_OTHER);
}

static void test_fold(void **state) {
    (void)state;
    static const struct {
        const char *text, *folded;
    } cases[] = {
        {"", ""},
        {"Hello World", "hello world"},
        {" a \t\r\n b ", " a b "},
        {"a\u00a0\u3000\u2003b", "a b"},
        {"e\u0301", "\u00e9"},
        {"E\u0301", "\u00e9"},
        {"A\u030a\u212b", "\u00e5\u00e5"},
        {"a\u0301\u0323", "\u1ea1\u0301"},
        {"\u1112\u1161\u11ab", "\ud55c"},
        {"\u0130", "i\u0307"},                        /* two code points, not composed again */
        {"I\u0307", "i\u0307"},                       /* composes to U+0130 first */
        {"\u03a3\u0391\u03a3", "\u03c3\u03b1\u03c3"}, /* no final sigma */
        {"\u1e9e\u00df\ufb01", "\u00df\u00df\ufb01"}, /* lower case, not case folding; no compatibility forms */
        {"\u01c5\u2c6f", "\u01c6\u0250"},
        {"\u0344", "\u0308\u0301"}, /* excluded from composition */
        {"\u1fef\u037e", "`;"},     /* singletons */
        {"\uac00\u11a7", "\uac00\u11a7"},
        {"a\u1df6\u0301", "a\u1df6\u0301"}, /* newer than Unicode 9: the mark neither moves nor lets pass */
        {"\U00011935\U00011930", "\U00011935\U00011930"},
        {"\ua7dc\u1c89\U00010d50\U00016eb8", "\u019b\u1c8a\U00010d70\U00016ed3"},
    };
    struct asdm_unicode_folder folder = {0};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const unsigned char *text = (const unsigned char *)cases[i].text;
        assert_int_equal(asdm_unicode_fold(&folder, text, strlen(cases[i].text), NULL), ASDM_OK);
        assert_int_equal(folder.length, strlen(cases[i].folded));
        assert_memory_equal(folder.text, cases[i].folded, folder.length);
    }
    assert_int_equal(asdm_unicode_fold(&folder, (const unsigned char *)"A\0B", 3, NULL), ASDM_OK);
    assert_int_equal(folder.length, 3);
    assert_memory_equal(folder.text, "a\0b", 3);
    asdm_unicode_folder_done(&folder);
}

/* Marks of three classes in a long run: sorted by class, in their old order within one. */
static void test_long_runs_of_marks(void **state) {
    (void)state;
    static const uint32_t marks[] = {0x0316, 0x0317, 0x0334, 0x0335, 0x0313, 0x0314}; /* classes 220, 1, 230 */
    static const uint32_t order[] = {0x0334, 0x0335, 0x0316, 0x0317, 0x0313, 0x0314};
    enum { COUNT = 5000 };
    static unsigned char text[2 * COUNT + 1], expected[2 * COUNT + 1];
    static size_t picks[COUNT];
    struct asdm_unicode_folder folder = {0};
    for (size_t length = 1; length <= COUNT; length = length < 40 ? length + 1 : 5 * length) {
        size_t size = 1, sorted = 1;
        text[0] = expected[0] = '!';
        srand((unsigned)length);
        for (size_t i = 0; i < length; i++) {
            picks[i] = (size_t)rand() % 6;
            size += asdm_unicode_encode(marks[picks[i]], text + size);
        }
        for (size_t class = 0; class < 3; class ++)
            for (size_t i = 0; i < length; i++)
                for (size_t k = 2 * class; k < 2 * class + 2; k++)
                    if (marks[picks[i]] == order[k])
                        sorted += asdm_unicode_encode(order[k], expected + sorted);
        assert_int_equal(asdm_unicode_fold(&folder, text, size, NULL), ASDM_OK);
        assert_int_equal(folder.length, sorted);
        assert_memory_equal(folder.text, expected, sorted);
    }
    asdm_unicode_folder_done(&folder);
}

/* A megabyte of marks in the worst order. Linear work takes milliseconds; work that is quadratic in the run would be
 * stopped by the alarm. */
static void test_longest_run_of_marks(void **state) {
    (void)state;
    enum { SIZE = 1 << 20 };
    unsigned char *text = malloc(SIZE);
    struct asdm_unicode_folder folder = {0};
    assert_non_null(text);
    for (size_t i = 0; i < SIZE; i += 4)
        memcpy(text + i, i < SIZE / 2 ? "\u0301\u0301" : "\u0323\u0323", 4); /* classes 230, then 220 */
    alarm(60);
    assert_int_equal(asdm_unicode_fold(&folder, text, SIZE, NULL), ASDM_OK);
    alarm(0);
    assert_int_equal(folder.length, SIZE);
    assert_memory_equal(folder.text, text + SIZE / 2, SIZE / 2);
    assert_memory_equal(folder.text + SIZE / 2, text, SIZE / 2);
    asdm_unicode_folder_done(&folder);
    free(text);
}

/* The room that folding books is enough for every code point, alone and many times. */
static void test_fold_every_code_point(void **state) {
    (void)state;
    struct asdm_unicode_folder folder = {0};
    for (uint32_t point = 0; point < 0x110000; point++) {
        unsigned char text[64];
        size_t size = 0;
        if (point >= 0xD800 && point < 0xE000)
            continue;
        for (int i = 0; i < 16; i++)
            size += asdm_unicode_encode(point, text + size);
        asdm_unicode_folder_done(&folder); /* so that a small buffer is a small one */
        assert_int_equal(asdm_unicode_fold(&folder, text, size, NULL), ASDM_OK);
        assert_true(asdm_unicode_check(folder.text, folder.length, &size));
    }
    asdm_unicode_folder_done(&folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_utf8_round_trip),
        cmocka_unit_test(test_utf8_ill_formed),
        cmocka_unit_test(test_check_names_the_offset),
        cmocka_unit_test(test_classes),
        cmocka_unit_test(test_fold),
        cmocka_unit_test(test_long_runs_of_marks),
        cmocka_unit_test(test_longest_run_of_marks),
        cmocka_unit_test(test_fold_every_code_point),
    };
    return cmocka_run_group_tests_name("unicode", tests, NULL, NULL);
}
