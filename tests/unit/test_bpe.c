/* Byte pair encoding of words: against the textbook's loop, and its bound. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <asdm/json.h>
#include "text/bpe.h"
#include "tiny_vocab.h"

/* A vocabulary with its merges, as the code under test has it and as strings. */
struct fixture {
    struct asdm_vocabulary vocabulary;
    struct asdm_bpe bpe;
    struct asdm_bpe_scratch scratch;
    const char *const *merges;
    size_t count;
};

static void set_up(struct fixture *f, const char *const *merges, size_t count) {
    struct tiny_vocab tiny;
    struct asdm_json *root = NULL;
    struct asdm_error err = {0};
    memset(f, 0, sizeof *f);
    f->merges = merges;
    f->count = count;
    tiny_vocab_make(&tiny, merges, count);
    assert_int_equal(asdm_json_parse(tiny.vocab.data, tiny.vocab.length, "vocab", &root, &err), ASDM_OK);
    assert_int_equal(asdm_vocabulary_init(&f->vocabulary, root, "vocab", &err), ASDM_OK);
    assert_int_equal(asdm_bpe_init(&f->bpe, &f->vocabulary, "vocab", &err), ASDM_OK);
    for (size_t i = 0; i < count; i++) {
        const char *space = strchr(merges[i], ' ');
        struct asdm_vocabulary_token left = {merges[i], (size_t)(space - merges[i])},
                                     right = {space + 1, strlen(space + 1)};
        assert_int_equal(asdm_bpe_add(&f->bpe, &f->vocabulary, &left, &right, "merge", i, &err), ASDM_OK);
    }
    assert_int_equal(asdm_bpe_finish(&f->bpe, &err), ASDM_OK);
    asdm_json_destroy(&root);
    tiny_vocab_done(&tiny);
}

static void tear_down(struct fixture *f) {
    asdm_bpe_scratch_done(&f->scratch);
    asdm_bpe_done(&f->bpe);
    asdm_vocabulary_done(&f->vocabulary);
}

enum { WORD_MAX = 64, TOKEN_MAX = 400 };

/* The rank of a pair: the last merge that spells it, or -1. */
static int rank_of(const struct fixture *f, const char *left, const char *right) {
    char pair[2 * TOKEN_MAX + 2];
    snprintf(pair, sizeof pair, "%s %s", left, right);
    int rank = -1;
    for (size_t i = 0; i < f->count; i++)
        if (strcmp(f->merges[i], pair) == 0)
            rank = (int)i;
    return rank;
}

/* The textbook: find the pair of the lowest rank, the leftmost of equals, join it, begin again. All on strings. */
static size_t naive(const struct fixture *f, const unsigned char *word, size_t length, int32_t *ids) {
    static char tokens[WORD_MAX][TOKEN_MAX];
    size_t count = length;
    for (size_t i = 0; i < length; i++)
        snprintf(tokens[i], TOKEN_MAX, "%s%s", tiny_byte(word[i]), i + 1 < length ? "" : "</w>");
    for (;;) {
        int best = -1;
        size_t place = 0;
        for (size_t i = 0; i + 1 < count; i++) {
            int rank = rank_of(f, tokens[i], tokens[i + 1]);
            if (rank >= 0 && (best < 0 || rank < best)) {
                best = rank;
                place = i;
            }
        }
        if (best < 0)
            break;
        size_t used = strlen(tokens[place]);
        memmove(tokens[place] + used, tokens[place + 1], strlen(tokens[place + 1]) + 1);
        memmove(tokens[place + 1], tokens[place + 2], (count - place - 2) * TOKEN_MAX);
        count--;
    }
    for (size_t i = 0; i < count; i++)
        ids[i] = asdm_vocabulary_find(&f->vocabulary, tokens[i], strlen(tokens[i]));
    return count;
}

static void check_word(struct fixture *f, const unsigned char *word, size_t length) {
    int32_t expected[WORD_MAX];
    const int32_t *ids = NULL;
    size_t count = 0, size = naive(f, word, length, expected);
    assert_int_equal(asdm_bpe_encode(&f->bpe, &f->scratch, word, length, &ids, &count, NULL), ASDM_OK);
    assert_int_equal(count, size);
    assert_memory_equal(ids, expected, size * sizeof *ids);
}

/* Random merges over a few bytes: parts come before or after the merges that make them, results repeat, pairs repeat,
 * so most of what a trained vocabulary cannot have is there too. */
static void test_random_vocabularies(void **state) {
    (void)state;
    static const unsigned char bytes[] = {'a', 'b', 'c', 0xC3, 0x20};
    enum { VOCABULARIES = 60, WORDS = 100, MERGES = 40 };
    srand(1);
    for (int v = 0; v < VOCABULARIES; v++) {
        char *tokens[2 * MERGES + 20], *merges[MERGES];
        size_t token_count = 0, kinds = 1 + (size_t)rand() % 5;
        for (size_t i = 0; i < kinds; i++)
            for (int end = 0; end < 2; end++) {
                char text[16];
                snprintf(text, sizeof text, "%s%s", tiny_byte(bytes[i]), end ? "</w>" : "");
                tokens[token_count++] = strdup(text);
            }
        for (size_t i = 0; i < MERGES; i++) {
            const char *left, *right;
            do {
                left = tokens[(size_t)rand() % token_count];
                right = tokens[(size_t)rand() % token_count];
            } while (strchr(left, '<') || strlen(left) + strlen(right) > 60);
            struct tiny_text pair = {0}, result = {0};
            tiny_text_add(&pair, "%s %s", left, right);
            tiny_text_add(&result, "%s%s", left, right);
            merges[i] = pair.data;
            tokens[token_count++] = result.data;
        }
        for (size_t i = MERGES - 1; v % 2 && i > 0; i--) { /* every other time in any order */
            size_t j = (size_t)rand() % (i + 1);
            char *swap = merges[i];
            merges[i] = merges[j];
            merges[j] = swap;
        }
        struct fixture f;
        set_up(&f, (const char *const *)merges, MERGES);
        for (int w = 0; w < WORDS; w++) {
            unsigned char word[WORD_MAX];
            size_t length = 1 + (size_t)rand() % WORD_MAX;
            for (size_t i = 0; i < length; i++)
                word[i] = bytes[(size_t)rand() % kinds];
            check_word(&f, word, length);
        }
        tear_down(&f);
        for (size_t i = 0; i < token_count; i++)
            free(tokens[i]);
        for (size_t i = 0; i < MERGES; i++)
            free(merges[i]);
    }
}

static void expect(struct fixture *f, const char *word, const char *const *tokens, size_t size) {
    const int32_t *ids = NULL;
    size_t count = 0;
    assert_int_equal(
        asdm_bpe_encode(&f->bpe, &f->scratch, (const unsigned char *)word, strlen(word), &ids, &count, NULL), ASDM_OK);
    assert_int_equal(count, size);
    for (size_t i = 0; i < size; i++)
        assert_int_equal(ids[i], asdm_vocabulary_find(&f->vocabulary, tokens[i], strlen(tokens[i])));
}

#define EXPECT(f, word, ...)                                                                                           \
    expect(f, word, (const char *const[]){__VA_ARGS__},                                                                \
           sizeof((const char *const[]){__VA_ARGS__}) / sizeof(const char *))

static void test_known_words(void **state) {
    (void)state;
    static const char *const merges[] = {"a a", "aa a", "l o", "lo w</w>", "lo w", "e r</w>", "a a</w>", "low er</w>"};
    struct fixture f;
    set_up(&f, merges, sizeof merges / sizeof merges[0]);
    EXPECT(&f, "l", "l</w>");
    EXPECT(&f, "low", "low</w>");
    EXPECT(&f, "lower", "lower</w>");
    EXPECT(&f, "lowlow", "low", "low</w>");
    EXPECT(&f, "lowere", "low", "e", "r", "e</w>");
    EXPECT(&f, "aa", "aa</w>");
    EXPECT(&f, "aaa", "aa", "a</w>"); /* the leftmost of equal pairs; "aa a" does not end a word */
    EXPECT(&f, "aaaa", "aaa", "a</w>");
    EXPECT(&f, "aaaaaa", "aa", "aaa", "a</w>"); /* aa aa a a</w>, then the first "aa a" is the second aa's */
    tear_down(&f);
}

/* A merge that is written before the one that makes its part is used as soon as the part is there: join by join, as the
 * tokenizers crate does, not rank by rank over the whole word as OpenAI's script does (that gives "ab", "ab", "x</w>").
 */
static void test_lower_rank_appears_late(void **state) {
    (void)state;
    static const char *const merges[] = {"ab a", "a b", "a b</w>"};
    struct fixture f;
    set_up(&f, merges, 3);
    EXPECT(&f, "ababx", "aba", "b", "x</w>");
    tear_down(&f);
}

static void test_repeated_pair_takes_the_last_rank(void **state) {
    (void)state;
    static const char *const merges[] = {"a b", "b c", "a b", "c d</w>"};
    struct fixture f;
    set_up(&f, merges, 4);
    EXPECT(&f, "abcx", "a", "bc", "x</w>");
    tear_down(&f);
}

/* Heap entries taken, not time: at most three per byte whatever the word. */
static void test_steps_are_linear(void **state) {
    (void)state;
    static const char *const merges[] = {"a a",       "aa aa", "aaaa aaaa", "aaaaaaaa aaaaaaaa", "a b", "ab ab",
                                         "abab abab", "b a",   "a a</w>",   "b b</w>",           "b c", "bc a",
                                         "c a",       "ca b",  "a bc"};
    enum { LENGTH = 1 << 17 };
    static unsigned char word[LENGTH];
    struct fixture f;
    set_up(&f, merges, sizeof merges / sizeof merges[0]);
    for (int kind = 0; kind < 4; kind++) {
        const int32_t *ids;
        size_t count;
        for (size_t i = 0; i < LENGTH; i++)
            word[i] = (unsigned char)(kind == 0   ? 'a'
                                      : kind == 1 ? "ab"[i % 2]
                                      : kind == 2 ? "abc"[i % 3]
                                                  : 'a' + rand() % 3);
        f.scratch.steps = 0;
        assert_int_equal(asdm_bpe_encode(&f.bpe, &f.scratch, word, LENGTH, &ids, &count, NULL), ASDM_OK);
        assert_true(f.scratch.steps > LENGTH / 4);
        assert_true(f.scratch.steps <= 3 * (size_t)LENGTH);
    }
    tear_down(&f);
}

static void test_every_byte(void **state) {
    (void)state;
    struct fixture f;
    set_up(&f, NULL, 0);
    for (unsigned byte = 0; byte < 256; byte++) {
        const unsigned char word[2] = {(unsigned char)byte, (unsigned char)byte};
        const int32_t *ids;
        size_t count;
        assert_int_equal(asdm_bpe_encode(&f.bpe, &f.scratch, word, 2, &ids, &count, NULL), ASDM_OK);
        assert_int_equal(count, 2);
        assert_int_equal(ids[0], byte);
        assert_int_equal(ids[1], 256 + byte);
    }
    tear_down(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_words),
        cmocka_unit_test(test_random_vocabularies),
        cmocka_unit_test(test_lower_rank_appears_late),
        cmocka_unit_test(test_repeated_pair_takes_the_last_rank),
        cmocka_unit_test(test_steps_are_linear),
        cmocka_unit_test(test_every_byte),
    };
    return cmocka_run_group_tests_name("bpe", tests, NULL, NULL);
}
