/* Prompts: the attention syntax by cases worked by hand, chunks, padding, limits; and random prompts against
 * tests/support/make_prompt_reference.py. */
#include <locale.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "asdm_limits.h"
#include "text/prompt.h"
#include "text/prompt_parts.h"
#include "tiny_vocab.h"

enum { END = 256 }; /* a byte that ends a word (tiny_vocab.h) */
enum { IDS = ASDM_PROMPT_CHUNK_IDS, TOKENS = ASDM_PROMPT_CHUNK_TOKENS };

static struct asdm_tokenizer *open_tiny(const char *map) {
    struct tiny_vocab tiny;
    struct asdm_tokenizer *tokenizer = NULL;
    tiny_vocab_make(&tiny, NULL, 0);
    struct asdm_tokenizer_files files = {.vocab = {"vocab", tiny.vocab.data, tiny.vocab.length},
                                         .merges = {"merges", tiny.merges.data, tiny.merges.length},
                                         .special_tokens_map = {"map", map, map ? strlen(map) : 0}};
    assert_int_equal(asdm_tokenizer_open_memory(&files, &tokenizer, NULL), ASDM_OK);
    tiny_vocab_done(&tiny);
    return tokenizer;
}

/* "text@weight|..." with "BREAK" for breaks. */
static void check_parts(const char *text, const char *expected) {
    struct asdm_prompt_parts parts = {0};
    struct tiny_text found = {0};
    assert_int_equal(asdm_prompt_parts_init(&parts, text, NULL), ASDM_OK);
    tiny_text_add(&found, "%s", "");
    for (size_t i = 0; i < parts.count; i++) {
        const struct asdm_prompt_part *part = &parts.parts[i];
        tiny_text_add(&found, "%s", i ? "|" : "");
        if (part->is_break)
            tiny_text_add(&found, "BREAK");
        else
            tiny_text_add(&found, "%.*s@%.6g", (int)part->length, parts.text + part->start, part->weight);
    }
    if (strcmp(found.data, expected) != 0)
        fail_msg("\"%s\": \"%s\", expected \"%s\"", text, found.data, expected);
    tiny_text_done(&found);
    asdm_prompt_parts_done(&parts);
}

static void test_attention(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"", ""},
        {"a cat, x:y", "a cat, x:y@1"},
        {"a (cat) b", "a @1|cat@1.1| b@1"},
        {"((cat))", "cat@1.21"},
        {"[cat]", "cat@0.909091"},
        {"[[cat]]", "cat@0.826446"},
        {"(cat:1.3)", "cat@1.3"},
        {"(cat:1.3) b", "cat@1.3| b@1"},
        {"(a (b:2) c)", "a @1.1|b@2.2| c@1.1"},
        {"(a [b] c:2)", "a @2|b@1.81818| c@2"},
        {"(a)(b)", "ab@1.1"},                /* equal weights: one part */
        {"a(b:1)c", "abc@1"},                /* and so no cut at all */
        {"[(a)]b", "ab@1"},                  /* 1.1 * (1 / 1.1) is 1 */
        {"(a[b)c]", "a@1.1|b@1|c@0.909091"}, /* the two kinds do not see each other */
        {"()", ""},
        {"(:2)", ""},
        {"(cat: 1.3 )", "cat@1.3"},
        {"(cat:\xe3\x80\x80"
         "1.3\xc2\xa0)",
         "cat@1.3"}, /* ideographic and no-break space */
        {"(cat:+2)(dog:-.5)(d:3.)", "cat@2|dog@-0.5|d@3"},
        {"(cat:0)", "cat@0"},
        {"(cat:1000)(dog:-1000.0)", "cat@1000|dog@-1000"},
        {"(cat:00000000000000000000000000001.5)", "cat@1.5"},
        /* what is no number */
        {"(cat:1000.1)", "cat:1000.1@1.1"},
        {"(cat:1.2.3)", "cat:1.2.3@1.1"},
        {"(cat:.)", "cat:.@1.1"},
        {"(cat:+)", "cat:+@1.1"},
        {"(cat:)", "cat:@1.1"},
        {"(cat:--1)", "cat:--1@1.1"},
        {"(cat:1e2)", "cat:1e2@1.1"},
        {"(cat:0x2)", "cat:0x2@1.1"},
        {"(cat:inf)", "cat:inf@1.1"},
        {"(cat:nan)", "cat:nan@1.1"},
        {"(cat:1,5)", "cat:1,5@1.1"},
        {"(cat:1.5 x)", "cat:1.5 x@1.1"},
        {"(cat:1.5", "cat:1.5@1.1"},
        {"(cat:1:2)", "cat:1@2"},
        {"[cat:1.5]", "cat:1.5@0.909091"}, /* numbers are for round brackets */
        {"[a:b:0.5]", "a:b:0.5@0.909091"}, /* no scheduling */
        {"[a|b]", "a|b@0.909091"},         /* no alternation */
        {"[(a]:2)", "a@1.81818"},
        /* unbalanced */
        {"a (b", "a @1|b@1.1"},
        {"(a (b", "a @1.1|b@1.21"},
        {"[a (b", "a @0.909091|b@1"},
        {"a) b] c:2)", "a) b] c:2)@1"},
        {"a(", "a@1"},
        {"(", ""},
        {")", ")@1"},
        {"(a))b", "a@1.1|)b@1"},
        /* escapes */
        {"\\(a\\) \\[b\\]", "(a) [b]@1"},
        {"(\\(a\\):1.5)", "(a)@1.5"},
        {"\\\\(a)", "\\@1|a@1.1"},
        {"\\a \\: b\\", "a : b@1"}, /* other backslashes are dropped */
        {"(a\\)", "a)@1.1"},
        {"(a:1\\)", "a:1)@1.1"},
        {"(a\\:1.5)", "a@1.5"},
        {"\\\\\\(", "\\(@1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        check_parts(cases[i][0], cases[i][1]);
}

static void test_break(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"BREAK", "@1|BREAK|@1"},
        {"a BREAK b", "a@1|BREAK|b@1"},
        {"a\n \xc2\xa0"
         "BREAK\t b",
         "a@1|BREAK|b@1"},
        {"a BREAK BREAK b", "a@1|BREAK|@1|BREAK|b@1"},
        {"a,BREAK,b", "a,@1|BREAK|,b@1"},
        {"aBREAK BREAKb BREAK_ 1BREAK BREAKBREAK", "aBREAK BREAKb BREAK_ 1BREAK BREAKBREAK@1"},
        {"\xc3\xa9"
         "BREAK BREAK\xc3\xa9",
         "\xc3\xa9"
         "BREAK BREAK\xc3\xa9@1"}, /* é is a letter */
        {"\xe2\x80\xa6"
         "BREAK\xe2\x80\xa6",
         "\xe2\x80\xa6@1|BREAK|\xe2\x80\xa6@1"}, /* an ellipsis is none */
        {"break Break BREAKS", "break Break BREAKS@1"},
        {"(a BREAK b)", "a@1.1|BREAK|b@1.1"},
        {"(a)BREAK[b]", "a@1.1|@1|BREAK|@1|b@0.909091"},
        {"a:BREAK", "a:@1|BREAK|@1"},
        {"BREA", "BREA@1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        check_parts(cases[i][0], cases[i][1]);
}

/* The decimal point of a number is a point in every locale. */
static void test_locale(void **state) {
    (void)state;
    static const char *const names[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        setlocale(LC_NUMERIC, names[i]);
    struct asdm_prompt_parts parts = {0};
    assert_int_equal(asdm_prompt_parts_init(&parts, "(a:1.25)", NULL), ASDM_OK);
    assert_true(parts.parts[0].weight == 1.25);
    asdm_prompt_parts_done(&parts);
    setlocale(LC_NUMERIC, "C");
}

static void encode(const struct asdm_tokenizer *tokenizer, const char *text, int chunks_max, struct asdm_prompt *ret) {
    struct asdm_error err = {0};
    if (asdm_prompt_encode(tokenizer, text, ASDM_PROMPT_A1111, chunks_max, ret, &err) != ASDM_OK)
        fail_msg("%s", err.message);
}

/* How many tokens a chunk has before its eos; holds what is around them to the rules. */
static int chunk_length(const struct asdm_tokenizer *tokenizer, const struct asdm_prompt *prompt, int chunk) {
    const int32_t *ids = prompt->ids + (size_t)chunk * IDS;
    const float *weights = prompt->weights + (size_t)chunk * IDS;
    int length = 0;
    assert_int_equal(ids[0], asdm_tokenizer_bos(tokenizer));
    assert_true(weights[0] == 1);
    while (length < TOKENS && ids[length + 1] != asdm_tokenizer_eos(tokenizer))
        length++;
    assert_int_equal(ids[length + 1], asdm_tokenizer_eos(tokenizer));
    for (int i = length + 1; i < IDS; i++)
        assert_true(weights[i] == 1 && (i == length + 1 || ids[i] == asdm_tokenizer_pad(tokenizer)));
    return length;
}

/* A text of `count` one-letter words. */
static void add_words(struct tiny_text *text, char letter, int count) {
    for (int i = 0; i < count; i++)
        tiny_text_add(text, " %c", letter);
}

/* `pattern`: letters, each with how many words of it, "a74 ,1 b2", or other text in quotes. */
static void make_text(struct tiny_text *text, const char *pattern) {
    for (int used; *pattern; pattern += used) {
        char letter;
        int count;
        used = 1;
        if (*pattern == '"') {
            used = (int)(strchr(pattern + 1, '"') - pattern) + 1;
            tiny_text_add(text, "%.*s", used - 2, pattern + 1);
        } else if (*pattern != ' ') {
            assert_int_equal(sscanf(pattern, "%c%d%n", &letter, &count, &used), 2);
            add_words(text, letter, count);
        }
    }
}

struct chunk_case {
    const char *pattern;
    int chunks_max;
    int lengths[4]; /* of the chunks, 0 after the last unless `chunks` says more */
    int chunks;
    size_t tokens;
};

static void test_chunks(void **state) {
    (void)state;
    static const struct chunk_case cases[] = {
        {"", 4, {0}, 1, 0},
        {"a75", 4, {75}, 1, 75},
        {"a76", 4, {75, 1}, 2, 76},
        {"a150", 4, {75, 75}, 2, 150},
        {"a151", 4, {75, 75, 1}, 3, 151},
        {"a151", 2, {75, 75}, 2, 151},
        {"a400", 1, {75}, 1, 400},
        /* a comma near the end of a full chunk */
        {"a55 ,1 b19", 4, {75}, 1, 75},
        {"a55 ,1 b20", 4, {56, 20}, 2, 76},
        {"a54 ,1 b21", 4, {75, 1}, 2, 76}, /* 21 back: too far */
        {"a74 ,1 b1", 4, {75, 1}, 2, 76},
        {"a75 ,1 b1", 4, {75, 2}, 2, 77}, /* the comma starts the next */
        {"a60 ,1 a9 ,1 b10", 4, {71, 10}, 2, 81},
        {"a55 ,1 a19 ,1", 4, {75, 1}, 2, 76},   /* a comma moves none */
        {"a60 ,1 b80", 4, {61, 75, 5}, 3, 141}, /* the moved tokens have left their comma behind */
        {"a60 ,1 b20 ,1 c60", 4, {61, 75, 6}, 3, 142},
        {"a60 ,1 b50 ,1 c30", 4, {61, 75, 6}, 3, 142},
        {"a60 ,1 b60 ,1 c30", 4, {61, 61, 30}, 3, 152},
        {"a60 ,1 b20", 1, {61}, 1, 81},
        {"a75 \" BREAK\" ,1 b80", 4, {75, 75, 6}, 3, 156}, /* commas of the chunk before do not count */
        {"a60 ,1 b14 \" BREAK\" c1", 4, {75, 1}, 2, 76},
        /* BREAK */
        {"\"BREAK\"", 4, {0}, 1, 0},
        {"\"BREAK\" a1", 4, {0, 1}, 2, 1},
        {"a1 \" BREAK\"", 4, {1}, 1, 1},
        {"a1 \" BREAK BREAK\" b2", 4, {1, 0, 2}, 3, 3},
        {"a1 \" BREAK BREAK\" b2", 2, {1, 0}, 2, 3},
        {"a75 \" BREAK\" b2", 4, {75, 2}, 2, 77},
        {"\"(\" a70 \" BREAK\" b7 \":1.5)\" c70", 4, {70, 75, 2}, 3, 147},
    };
    struct asdm_tokenizer *t = open_tiny("{\"pad_token\": \"!\"}");
    assert_int_equal(asdm_tokenizer_pad(t), '!');
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct asdm_prompt prompt = {0};
        struct tiny_text text = {0};
        tiny_text_add(&text, "%s", "");
        make_text(&text, cases[i].pattern);
        encode(t, text.data, cases[i].chunks_max, &prompt);
        if (prompt.chunk_count != cases[i].chunks || prompt.tokens != cases[i].tokens)
            fail_msg("%s: %d chunks, %zu tokens", cases[i].pattern, prompt.chunk_count, prompt.tokens);
        for (int k = 0; k < cases[i].chunks; k++)
            if (chunk_length(t, &prompt, k) != cases[i].lengths[k])
                fail_msg("%s: chunk %d has %d tokens", cases[i].pattern, k, chunk_length(t, &prompt, k));
        asdm_prompt_done(&prompt);
        tiny_text_done(&text);
    }
    asdm_tokenizer_close(&t);
}

/* Ids and weights where a comma moves tokens: they keep both. */
static void test_moved_tokens(void **state) {
    (void)state;
    struct asdm_tokenizer *t = open_tiny(NULL);
    struct asdm_prompt prompt = {0};
    struct tiny_text text = {0};
    make_text(&text, "a60 ,1 \"(\" b10 \":1.5)[\" c4 \"]\" d1");
    encode(t, text.data, 4, &prompt);
    assert_int_equal(prompt.chunk_count, 2);
    assert_true(prompt.weighted);
    assert_int_equal(prompt.ids[61], END + ',');
    assert_int_equal(prompt.ids[62], asdm_tokenizer_eos(t));
    const int32_t *ids = prompt.ids + IDS;
    const float *weights = prompt.weights + IDS;
    for (int i = 1; i <= 15; i++) {
        assert_int_equal(ids[i], END + (i <= 10 ? 'b' : i <= 14 ? 'c' : 'd'));
        assert_true(weights[i] == (i <= 10 ? 1.5F : i <= 14 ? (float)(1 / 1.1) : 1));
    }
    assert_int_equal(chunk_length(t, &prompt, 0), 61);
    assert_int_equal(chunk_length(t, &prompt, 1), 15);
    asdm_prompt_done(&prompt);
    encode(t, text.data, 1, &prompt); /* all that was weighted is cut off */
    assert_true(chunk_length(t, &prompt, 0) == 61 && !prompt.weighted);
    asdm_prompt_done(&prompt);
    tiny_text_done(&text);
    asdm_tokenizer_close(&t);
}

/* A part is tokenized by itself: a bracket inside a word ends it, but not between equal weights. */
static void test_parts_are_tokenized_apart(void **state) {
    (void)state;
    struct asdm_tokenizer *t = open_tiny(NULL);
    struct asdm_prompt prompt = {0};
    encode(t, "ab(cd)(ef)", 4, &prompt);
    static const int32_t expected[] = {'a', END + 'b', 'c', 'd', 'e', END + 'f'};
    assert_memory_equal(prompt.ids + 1, expected, sizeof expected);
    assert_true(prompt.weights[2] == 1 && prompt.weights[3] == 1.1F && prompt.weights[6] == 1.1F);
    assert_true(prompt.weighted);
    asdm_prompt_done(&prompt);
    int32_t ids[2] = {-1, -1};
    size_t tokens = 0;
    assert_int_equal(asdm_tokenizer_encode_part(t, "abc", 3, ids, 1, &tokens, NULL), ASDM_OK);
    assert_true(ids[0] == 'a' && ids[1] == -1 && tokens == 3);
    assert_int_equal(asdm_tokenizer_encode_part(t, "abc", 3, NULL, 0, &tokens, NULL), ASDM_OK);
    assert_int_equal(tokens, 3);
    asdm_tokenizer_close(&t);
}

/* Without syntax and with 75 tokens at most, the two give the same. */
static void test_plain(void **state) {
    (void)state;
    static const char *const texts[] = {"", "a cat", "A photo, of: an \xc3\xa9l\xc3\xa9phant's 12 !",
                                        "<|endoftext|> x"};
    struct asdm_tokenizer *t = open_tiny("{\"pad_token\": \"!\"}");
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct asdm_prompt plain = {0}, weighted = {0};
        int32_t ids[IDS];
        size_t tokens;
        assert_int_equal(asdm_tokenizer_encode(t, texts[i], strlen(texts[i]), ids, IDS, &tokens, NULL), ASDM_OK);
        assert_int_equal(asdm_prompt_encode(t, texts[i], ASDM_PROMPT_PLAIN, 3, &plain, NULL), ASDM_OK);
        encode(t, texts[i], 3, &weighted);
        assert_true(plain.chunk_count == 1 && weighted.chunk_count == 1);
        assert_true(!plain.weighted && !weighted.weighted);
        assert_true(plain.tokens == tokens && weighted.tokens == tokens);
        assert_memory_equal(plain.ids, ids, sizeof ids);
        assert_memory_equal(weighted.ids, ids, sizeof ids);
        assert_memory_equal(weighted.weights, plain.weights, IDS * sizeof(float));
        for (int k = 0; k < IDS; k++)
            assert_true(plain.weights[k] == 1);
        asdm_prompt_done(&plain);
        asdm_prompt_done(&weighted);
    }
    struct asdm_prompt plain = {0}; /* syntax is text */
    assert_int_equal(asdm_prompt_encode(t, "(a:2) BREAK", ASDM_PROMPT_PLAIN, 3, &plain, NULL), ASDM_OK);
    assert_true(plain.ids[1] == END + '(' && plain.tokens == 10 && !plain.weighted);
    asdm_prompt_done(&plain);
    asdm_tokenizer_close(&t);
}

static void test_pad(void **state) {
    (void)state;
    struct asdm_tokenizer *t = open_tiny("{\"pad_token\": \"!\"}");
    struct asdm_prompt prompt = {0}, empty = {0};
    encode(t, "(a:2) b", 9, &prompt);
    encode(t, NULL, 9, &empty);
    assert_int_equal(asdm_prompt_pad(&prompt, t, 1, NULL), ASDM_OK);
    assert_int_equal(prompt.chunk_count, 1);
    assert_int_equal(asdm_prompt_pad(&prompt, t, 20, NULL), ASDM_OK);
    assert_int_equal(prompt.chunk_count, 20);
    assert_int_equal(asdm_prompt_pad(&prompt, t, 3, NULL), ASDM_OK);
    assert_int_equal(prompt.chunk_count, 20);
    assert_true(prompt.ids[1] == END + 'a' && prompt.weights[1] == 2 && prompt.tokens == 2 && prompt.weighted);
    for (int i = 1; i < 20; i++) {
        assert_memory_equal(prompt.ids + (size_t)i * IDS, empty.ids, IDS * sizeof *empty.ids);
        assert_memory_equal(prompt.weights + (size_t)i * IDS, empty.weights, IDS * sizeof *empty.weights);
    }
    asdm_prompt_done(&prompt);
    assert_null(prompt.ids);
    asdm_prompt_done(&prompt);
    asdm_prompt_done(&empty);
    asdm_tokenizer_close(&t);
}

static void check_refused(const struct asdm_tokenizer *tokenizer, const char *text, const char *message) {
    for (int syntax = ASDM_PROMPT_PLAIN; syntax <= ASDM_PROMPT_A1111; syntax++) {
        struct asdm_prompt prompt = {.chunk_count = -7};
        struct asdm_error err = {0};
        assert_int_equal(asdm_prompt_encode(tokenizer, text, (enum asdm_prompt_syntax)syntax, 2, &prompt, &err),
                         ASDM_ERR_ARGUMENT);
        assert_int_equal(prompt.chunk_count, -7);
        if (!strstr(err.message, message))
            fail_msg("\"%s\" is not in \"%s\"", message, err.message);
    }
}

/* Repeats a text up to the limit of a prompt. */
static char *make_long(const char *unit, size_t *ret_count) {
    size_t length = strlen(unit), count = ASDM_LIMIT_PROMPT_BYTES / length;
    char *text = malloc(count * length + 2);
    assert_non_null(text);
    for (size_t i = 0; i < count; i++)
        memcpy(text + i * length, unit, length);
    text[count * length] = 0;
    *ret_count = count;
    return text;
}

static void test_limits(void **state) {
    (void)state;
    struct asdm_tokenizer *t = open_tiny(NULL);
    size_t count;
    check_refused(t, "(ab\xff)", "UTF-8 at byte 3");
    check_refused(t, "a(\xc3)\xa9", "UTF-8 at byte 2"); /* halves of a character that the syntax would part */
    char *text = make_long("a", &count);
    text[count] = 'a';
    text[count + 1] = 0;
    check_refused(t, text, "more than 1048576 bytes");
    free(text);
    /* nesting: weights stay finite, brackets past the depth are text */
    struct asdm_prompt prompt = {0};
    struct tiny_text deep = {0};
    for (int i = 0; i < ASDM_PROMPT_DEPTH_MAX + 2; i++)
        tiny_text_add(&deep, "(");
    tiny_text_add(&deep, "a");
    for (int i = 0; i < ASDM_PROMPT_DEPTH_MAX; i++)
        tiny_text_add(&deep, ":-1000)");
    encode(t, deep.data, 1, &prompt);
    assert_int_equal(prompt.tokens, 3);
    assert_true(prompt.ids[1] == '(' && prompt.ids[2] == END + '(' && prompt.ids[3] == END + 'a');
    assert_true(prompt.weights[3] == ASDM_PROMPT_WEIGHT_MAX);
    asdm_prompt_done(&prompt);
    tiny_text_done(&deep);
    check_parts("(((((a:1000):1000):1000):.00001):.00001)", "a@0.1"); /* only the end result is bounded */
    asdm_tokenizer_close(&t);
}

/* Long prompts of the shapes that cost most: seconds would mean that something is not linear. */
static void test_time(void **state) {
    (void)state;
    static const char *const units[] = {"(",     "[(",      "(a)[b]", "a ",    "BREAK ", "\\\\", ": ",
                                        "(a:1)", "(:1111 ", "a, ",    "     ", "[a",     "B",    "(a:1.1)[["};
    struct asdm_tokenizer *t = open_tiny(NULL);
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        struct asdm_prompt prompt = {0};
        size_t count;
        char *text = make_long(units[i], &count);
        clock_t start = clock();
        encode(t, text, 16, &prompt);
        double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
        if (seconds > 20)
            fail_msg("%zu times \"%s\" took %.1f s", count, units[i], seconds);
        for (int k = 0; k < prompt.chunk_count * IDS; k++)
            assert_true(isfinite(prompt.weights[k]) && prompt.ids[k] >= 0);
        assert_true(prompt.chunk_count <= 16);
        asdm_prompt_done(&prompt);
        free(text);
    }
    asdm_tokenizer_close(&t);
}

static uint64_t hash_words(uint64_t hash, const void *words, size_t count) {
    for (size_t i = 0; i < count; i++) {
        uint32_t word;
        memcpy(&word, (const char *)words + 4 * i, 4);
        hash = (hash ^ word) * 0x100000001b3U;
    }
    return hash;
}

/* prompt_reference.txt: a line with the prompt; a line "chunks_max chunk_count tokens weighted hash". */
static void test_reference(void **state) {
    (void)state;
    struct asdm_tokenizer *t = open_tiny(NULL);
    FILE *file = fopen(ASDM_TEST_DATA "/prompt_reference.txt", "r");
    static char text[1 << 16], line[256];
    assert_non_null(file);
    int cases = 0;
    for (; fgets(text, sizeof text, file); cases++) {
        int chunks_max, chunk_count, weighted;
        unsigned long long tokens, hash;
        text[strcspn(text, "\n")] = 0;
        assert_non_null(fgets(line, sizeof line, file));
        assert_int_equal(sscanf(line, "%d %d %llu %d %llx", &chunks_max, &chunk_count, &tokens, &weighted, &hash), 5);
        struct asdm_prompt prompt = {0};
        encode(t, text, chunks_max, &prompt);
        size_t count = (size_t)prompt.chunk_count * IDS;
        uint64_t found = hash_words(hash_words(0xcbf29ce484222325U, prompt.ids, count), prompt.weights, count);
        if (prompt.chunk_count != chunk_count || prompt.tokens != tokens || prompt.weighted != weighted ||
            found != hash)
            fail_msg("case %d \"%s\": %d %zu %d %llx", cases, text, prompt.chunk_count, prompt.tokens, prompt.weighted,
                     (unsigned long long)found);
        asdm_prompt_done(&prompt);
    }
    assert_true(cases >= 300);
    fclose(file);
    asdm_tokenizer_close(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attention),    cmocka_unit_test(test_break),
        cmocka_unit_test(test_locale),       cmocka_unit_test(test_chunks),
        cmocka_unit_test(test_moved_tokens), cmocka_unit_test(test_parts_are_tokenized_apart),
        cmocka_unit_test(test_plain),        cmocka_unit_test(test_pad),
        cmocka_unit_test(test_limits),       cmocka_unit_test(test_time),
        cmocka_unit_test(test_reference),
    };
    return cmocka_run_group_tests_name("prompt", tests, NULL, NULL);
}
