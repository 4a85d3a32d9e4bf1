/* The tokenizer over hand-made vocabularies: words, added tokens, padding, files in all their forms, damaged files. The
 * comparison with transformers is tests/golden/test_tokenizer.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "text/tokenizer.h"
#include "tiny_vocab.h"

static const char *const merges[] = {"l o",        "lo w</w>", "e r</w>", "lo w",
                                     "low er</w>", "' s</w>",  "! !</w>", "< |</w>"};
enum { MERGES = sizeof merges / sizeof merges[0] };
/* ids of the merges' results and of the two tokens after them (tiny_vocab.h) */
enum { LO = 512, LOW_END, ER_END, LOW, LOWER_END, S_END, BANGS_END, OPEN_END, BOS, EOS };
enum { END = 256 }; /* a byte that ends a word */

static struct asdm_tokenizer_file file(const char *name, const char *text) {
    return (struct asdm_tokenizer_file){name, text, text ? strlen(text) : 0};
}

/* Opens the vocabulary above with these special_tokens_map.json and tokenizer_config.json (NULL: absent). */
static struct asdm_tokenizer *open_tiny(const char *map, const char *config) {
    struct tiny_vocab tiny;
    struct asdm_tokenizer *tokenizer = NULL;
    struct asdm_error err = {0};
    tiny_vocab_make(&tiny, merges, MERGES);
    struct asdm_tokenizer_files files = {.vocab = file("vocab.json", tiny.vocab.data),
                                         .merges = file("merges.txt", tiny.merges.data),
                                         .special_tokens_map = file("special_tokens_map.json", map),
                                         .config = file("tokenizer_config.json", config)};
    if (asdm_tokenizer_open_memory(&files, &tokenizer, &err) != ASDM_OK)
        fail_msg("%s", err.message);
    tiny_vocab_done(&tiny);
    return tokenizer;
}

static void check(const struct asdm_tokenizer *tokenizer, const char *text, size_t length, const int32_t *expected,
                  size_t size) {
    int32_t ids[128], early[128];
    size_t tokens = 0;
    assert_true(size + 3 <= 128);
    assert_int_equal(asdm_tokenizer_encode(tokenizer, text, length, ids, size + 3, &tokens, NULL), ASDM_OK);
    assert_int_equal(tokens, size);
    assert_int_equal(ids[0], asdm_tokenizer_bos(tokenizer));
    assert_memory_equal(ids + 1, expected, size * sizeof *ids);
    assert_int_equal(ids[size + 1], asdm_tokenizer_eos(tokenizer));
    assert_int_equal(ids[size + 2], asdm_tokenizer_pad(tokenizer));
    for (size_t count = 2; count < size + 3; count++) { /* cut, counted or not */
        memset(early, 0xff, sizeof early);
        assert_int_equal(asdm_tokenizer_encode(tokenizer, text, length, early, count, count % 2 ? &tokens : NULL, NULL),
                         ASDM_OK);
        assert_memory_equal(early, ids, (count - 1) * sizeof *ids);
        assert_int_equal(early[count - 1], asdm_tokenizer_eos(tokenizer));
        assert_int_equal(early[count], -1);
        assert_int_equal(tokens, size);
    }
}

#define CHECK(tokenizer, text, ...)                                                                                    \
    check(tokenizer, text, sizeof(text) - 1, (const int32_t[]){0, __VA_ARGS__} + 1,                                    \
          sizeof((const int32_t[]){0, __VA_ARGS__}) / sizeof(int32_t) - 1)

static void test_words(void **state) {
    (void)state;
    struct asdm_tokenizer *t = open_tiny(NULL, NULL);
    assert_int_equal(asdm_tokenizer_vocab_size(t), EOS + 1);
    assert_int_equal(asdm_tokenizer_bos(t), BOS);
    assert_int_equal(asdm_tokenizer_eos(t), EOS);
    assert_int_equal(asdm_tokenizer_pad(t), EOS);
    check(t, "", 0, NULL, 0);
    check(t, NULL, 0, NULL, 0);
    check(t, " \t\n ", 4, NULL, 0);
    CHECK(t, "low", LOW_END);
    CHECK(t, " LOWER  low\n", LOWER_END, LOW_END);
    CHECK(t, "low's", LOW_END, S_END);
    CHECK(t, "'sx", S_END, END + 'x');
    CHECK(t, "!'s", '!', END + '\'', END + 's');
    CHECK(t, "'t're've'm'll'd", '\'', END + 't', '\'', 'r', END + 'e', '\'', 'v', END + 'e', '\'', END + 'm', '\'', 'l',
          END + 'l', '\'', END + 'd');
    CHECK(t, "low!!", LOW_END, BANGS_END);
    CHECK(t, "12", END + '1', END + '2');
    CHECK(t, "a1b", END + 'a', END + '1', END + 'b');
    CHECK(t, "a\0b", END + 'a', END + 0, END + 'b');
    CHECK(t, "\xc3\x89", 0xC3, END + 0xA9);                           /* É, as é */
    CHECK(t, "e\xcc\x81", 0xC3, END + 0xA9);                          /* e and an acute, as é */
    CHECK(t, "\xc4\xb0", END + 'i', 0xCC, END + 0x87);                /* İ: the dot is no letter */
    CHECK(t, "\xc2\xbd\xc2\xb2", 0xC2, END + 0xBD, 0xC2, END + 0xB2); /* ½²: two numbers */
    asdm_tokenizer_close(&t);
    assert_null(t);
    asdm_tokenizer_close(&t);
}

static void test_special_tokens_in_the_text(void **state) {
    (void)state;
    struct asdm_tokenizer *t = open_tiny(NULL, NULL);
    CHECK(t, "<|endoftext|>", EOS);
    CHECK(t, "low<|startoftext|>low", LOW_END, BOS, LOW_END);
    CHECK(t, "<<|endoftext|>>", END + '<', EOS, END + '>');
    /* in capitals it is not the token, but it still is cut from its neighbours */
    CHECK(t, "!<|ENDOFTEXT|>", '!', OPEN_END, 'e', 'n', 'd', 'o', 'f', 't', 'e', 'x', END + 't', '|', END + '>');
    CHECK(t, "<|ENDOFTEXT|>!", OPEN_END, 'e', 'n', 'd', 'o', 'f', 't', 'e', 'x', END + 't', '|', END + '>', END + '!');
    asdm_tokenizer_close(&t);
    /* "normalized": looked for after folding */
    t = open_tiny("{\"eos_token\": {\"content\": \"<|endoftext|>\", \"normalized\": true}, "
                  "\"unk_token\": {\"content\": \"<|endoftext|>\", \"normalized\": true}, \"pad_token\": \"!\"}",
                  NULL);
    CHECK(t, "<|ENDOFTEXT|>x", EOS, END + 'x');
    CHECK(t, "<|STARTOFTEXT|>", OPEN_END, 's', 't', 'a', 'r', 't', 'o', 'f', 't', 'e', 'x', END + 't', '|', END + '>');
    asdm_tokenizer_close(&t);
}

static void test_pad(void **state) {
    (void)state;
    static const struct {
        const char *map, *config;
        int32_t pad;
    } cases[] = {
        {NULL, NULL, EOS},
        {"{}", "{}", EOS},
        {"{\"pad_token\": \"!\"}", NULL, '!'},
        {NULL, "{\"pad_token\": \"!\"}", '!'},
        {"{\"pad_token\": \"a\"}", "{\"pad_token\": \"!\"}", 'a'},
        {"{\"pad_token\": {\"content\": \"b\"}}", "{\"pad_token\": \"!\"}", 'b'},
        {NULL, "{\"pad_token\": null}", EOS},
        {"{\"pad_token\": \"a\"}", "{\"pad_token\": \"!\", \"added_tokens_decoder\": {}}", '!'},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct asdm_tokenizer *t = open_tiny(cases[i].map, cases[i].config);
        assert_int_equal(asdm_tokenizer_pad(t), cases[i].pad);
        asdm_tokenizer_close(&t);
    }
    /* transformers looks for the pad token in the text too: in Stable Diffusion 2 every "!" becomes id 0 */
    struct asdm_tokenizer *t = open_tiny("{\"pad_token\": \"!\"}", NULL);
    CHECK(t, "low!!", LOW_END, '!', '!');
    asdm_tokenizer_close(&t);
}

static void test_added_tokens(void **state) {
    (void)state;
    struct asdm_tokenizer *t = open_tiny(
        NULL, "{\"additional_special_tokens\": [\"<a>\", {\"content\": \"<A B>\", \"normalized\": true}, \"<a>>\"]}");
    assert_int_equal(asdm_tokenizer_vocab_size(t), EOS + 4);
    CHECK(t, "<a>", EOS + 1);
    CHECK(t, "<a>>x", EOS + 3, END + 'x'); /* the longest at one place */
    CHECK(t, "<<a>x<A   b>", END + '<', EOS + 1, END + 'x', EOS + 2);
    CHECK(t, "<A>", END + '<', END + 'a', END + '>');
    asdm_tokenizer_close(&t);
}

static void test_arguments(void **state) {
    (void)state;
    struct asdm_tokenizer *t = open_tiny(NULL, NULL);
    int32_t ids[8];
    size_t tokens = 77;
    struct asdm_error err = {0};
    memset(ids, 0xff, sizeof ids);
    assert_int_equal(asdm_tokenizer_encode(t, "low \xff", 5, ids, 8, &tokens, &err), ASDM_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "byte 4"));
    assert_int_equal(asdm_tokenizer_encode(t, "low", 3, ids, 1, &tokens, &err), ASDM_ERR_ARGUMENT);
    assert_int_equal(asdm_tokenizer_encode(t, "low", 3, ids, 0, &tokens, NULL), ASDM_ERR_ARGUMENT);
    assert_int_equal(asdm_tokenizer_encode(t, "low", 3, ids, ASDM_TOKENIZER_COUNT_MAX + 1, &tokens, &err),
                     ASDM_ERR_ARGUMENT);
    char *text = calloc(1, ASDM_TOKENIZER_TEXT_MAX + 1);
    assert_non_null(text);
    assert_int_equal(asdm_tokenizer_encode(t, text, ASDM_TOKENIZER_TEXT_MAX + 1, ids, 8, &tokens, &err),
                     ASDM_ERR_ARGUMENT);
    for (int i = 0; i < 8; i++)
        assert_int_equal(ids[i], -1);
    assert_int_equal(tokens, 77);
    assert_int_equal(asdm_tokenizer_encode(t, text, ASDM_TOKENIZER_TEXT_MAX, ids, 8, &tokens, &err), ASDM_OK);
    assert_int_equal(tokens, ASDM_TOKENIZER_TEXT_MAX);
    free(text);
    asdm_tokenizer_close(&t);
}

/* tokenizer.json with the merges as strings or as pairs. */
static void make_tokenizer_json(struct tiny_text *text, const struct tiny_vocab *tiny, int pairs, const char *more) {
    tiny_text_add(text,
                  "{\"added_tokens\": [{\"id\": %d, \"content\": \"<|endoftext|>\", \"normalized\": false, "
                  "\"special\": true}], \"model\": {\"vocab\": %s, \"merges\": [",
                  EOS, tiny->vocab.data);
    for (size_t i = 0; i < MERGES; i++) {
        const char *space = strchr(merges[i], ' ');
        tiny_text_add(text, pairs ? "%s[\"%.*s\", \"%s\"]" : "%s\"%.*s %s\"", i ? ", " : "", (int)(space - merges[i]),
                      merges[i], space + 1);
    }
    tiny_text_add(text, "]%s}}", more);
}

static void test_tokenizer_json(void **state) {
    (void)state;
    struct tiny_vocab tiny;
    tiny_vocab_make(&tiny, merges, MERGES);
    for (int pairs = 0; pairs < 2; pairs++) {
        struct tiny_text text = {0};
        struct asdm_tokenizer *t = NULL;
        make_tokenizer_json(&text, &tiny, pairs, ", \"type\": \"BPE\"");
        /* it takes the place of the other two, as in transformers */
        struct asdm_tokenizer_files files = {.tokenizer = file("tokenizer.json", text.data),
                                             .vocab = file("v", "{"),
                                             .merges = file("m", "?"),
                                             .config = file("tokenizer_config.json", "{\"pad_token\": \"!\"}")};
        assert_int_equal(asdm_tokenizer_open_memory(&files, &t, NULL), ASDM_OK);
        CHECK(t, "Lower low<|endoftext|>", LOWER_END, LOW_END, EOS);
        assert_int_equal(asdm_tokenizer_pad(t), '!');
        asdm_tokenizer_close(&t);
        tiny_text_done(&text);
    }
    tiny_vocab_done(&tiny);
}

static void test_merges_text(void **state) {
    (void)state;
    struct tiny_vocab tiny;
    struct asdm_tokenizer *t = NULL;
    tiny_vocab_make(&tiny, merges, MERGES);
    struct asdm_tokenizer_files files = {
        .vocab = file("vocab.json", tiny.vocab.data),
        .merges =
            file("merges.txt", "#version: 0.2\r\nl o\r\n\r\n#version again\nlo w</w>")}; /* no newline at the end */
    assert_int_equal(asdm_tokenizer_open_memory(&files, &t, NULL), ASDM_OK);
    CHECK(t, "low lower", LOW_END, LO, 'w', 'e', END + 'r');
    asdm_tokenizer_close(&t);
    tiny_vocab_done(&tiny);
}

/* Replaces the first `from` in a text. */
static void replace(struct tiny_text *text, const char *from, const char *to) {
    char *place = strstr(text->data, from);
    assert_non_null(place);
    struct tiny_text changed = {0};
    tiny_text_add(&changed, "%.*s%s%s", (int)(place - text->data), text->data, to, place + strlen(from));
    tiny_text_done(text);
    *text = changed;
}

struct damage {
    const char *from, *to; /* in vocab.json; NULL: unchanged */
    const char *merges;    /* whole file; NULL: the right one */
    const char *map, *config, *added;
    enum asdm_status status;
    const char *message; /* a part of it */
};

static void check_damage(const struct damage *damage) {
    struct tiny_vocab tiny;
    struct asdm_tokenizer *t = NULL;
    struct asdm_error err = {0};
    tiny_vocab_make(&tiny, merges, MERGES);
    if (damage->from)
        replace(&tiny.vocab, damage->from, damage->to);
    struct asdm_tokenizer_files files = {.vocab = file("vocab.json", tiny.vocab.data),
                                         .merges =
                                             file("merges.txt", damage->merges ? damage->merges : tiny.merges.data),
                                         .special_tokens_map = file("map.json", damage->map),
                                         .config = file("config.json", damage->config),
                                         .added_tokens = file("added.json", damage->added)};
    assert_int_equal(asdm_tokenizer_open_memory(&files, &t, &err), damage->status);
    assert_null(t);
    if (!strstr(err.message, damage->message))
        fail_msg("\"%s\" is not in \"%s\"", damage->message, err.message);
    tiny_vocab_done(&tiny);
}

static void test_damaged_files(void **state) {
    (void)state;
    static const struct damage cases[] = {
        {"\"a\": 97", "\"aa\": 97", .status = ASDM_ERR_FORMAT,
         .message = "vocab.json: no token \"a\" for the byte 0x61"},
        {"\"a</w>\": 353", "\"aa\": 353", .status = ASDM_ERR_FORMAT, .message = "no token \"a</w>\" for the byte 0x61"},
        {"\"\xc4\xa0\": 32", "\"aa\": 32", .status = ASDM_ERR_FORMAT, .message = "for the byte 0x20"},
        {"\"a\": 97", "\"a\": 98", .status = ASDM_ERR_FORMAT, .message = "have the same id 98"},
        {"\"a\": 97", "\"a\": 522", .status = ASDM_ERR_FORMAT,
         .message = "\"a\": the id must be an integer from 0 to 521"},
        {"\"a\": 97", "\"a\": -1", .status = ASDM_ERR_FORMAT, .message = "\"a\": the id must be an integer"},
        {"\"a\": 97", "\"a\": 97.5", .status = ASDM_ERR_FORMAT, .message = "\"a\": the id must be an integer"},
        {"\"a\": 97", "\"a\": 1e300", .status = ASDM_ERR_FORMAT, .message = "\"a\": the id must be an integer"},
        {"\"a\": 97", "\"a\": \"97\"", .status = ASDM_ERR_FORMAT, .message = "\"a\": the id must be a number"},
        {"{", "[", .status = ASDM_ERR_FORMAT, .message = "vocab.json"},
        {"<|startoftext|>", "<s>", .status = ASDM_ERR_FORMAT, .message = "bos_token \"<|startoftext|>\" is not in"},
        {"<|endoftext|>", "</s>", .status = ASDM_ERR_FORMAT, .message = "eos_token \"<|endoftext|>\" is not in"},
        {.merges = "l o\nl oo\n",
         .status = ASDM_ERR_FORMAT,
         .message = "merges.txt: line 2: merge \"l oo\": its right part"},
        {.merges = "ll o\n", .status = ASDM_ERR_FORMAT, .message = "line 1: merge \"ll o\": its left part"},
        {.merges = "o l\n", .status = ASDM_ERR_FORMAT, .message = "merge \"o l\": its result"},
        {.merges = "l o \n", .status = ASDM_ERR_FORMAT, .message = "line 1: must be two tokens"},
        {.merges = "lo\n", .status = ASDM_ERR_FORMAT, .message = "line 1: must be two tokens"},
        {.merges = "#version\n\n l o\n", .status = ASDM_ERR_FORMAT, .message = "line 3: must be two tokens"},
        {.map = "{\"pad_token\": \"<pad>\"}",
         .status = ASDM_ERR_FORMAT,
         .message = "map.json: the pad_token \"<pad>\" is not"},
        {.map = "{\"pad_token\": 7}", .status = ASDM_ERR_FORMAT, .message = "map.json: pad_token: must be a string"},
        {.map = "{\"pad_token\": {}}", .status = ASDM_ERR_FORMAT, .message = "map.json: pad_token: the object has no"},
        {.map = "{\"eos_token\": {\"content\": \"!\", \"single_word\": true}}",
         .status = ASDM_ERR_UNSUPPORTED,
         .message = "single_word"},
        {.map = "{\"eos_token\": {\"content\": \"!\", \"normalized\": 1}}",
         .status = ASDM_ERR_FORMAT,
         .message = "normalized"},
        {.map = "{\"bos_token\": null}", .status = ASDM_ERR_FORMAT, .message = "map.json: no bos_token"},
        {.map = "[]", .status = ASDM_ERR_FORMAT, .message = "map.json: must be an object"},
        {.config = "{\"added_tokens_decoder\": {\"x\": \"a\"}}",
         .status = ASDM_ERR_FORMAT,
         .message = "\"x\" is not an id"},
        {.config = "{\"added_tokens_decoder\": {\"5\": \"a\"}}",
         .status = ASDM_ERR_FORMAT,
         .message = "config.json: token \"a\": has the id 5, should have 97"},
        {.config = "{\"added_tokens_decoder\": []}", .status = ASDM_ERR_FORMAT, .message = "must be an object"},
        {.added = "{\"<x>\": 600}",
         .status = ASDM_ERR_FORMAT,
         .message = "added.json: token \"<x>\": has the id 600, should have 522"},
        {.added = "{\"<x>\": \"y\"}", .status = ASDM_ERR_FORMAT, .message = "added.json: token \"<x>\": bad id"},
        {.config = "{\"extra_special_tokens\": [{\"content\": \"<x>\", \"normalized\": true}, "
                   "{\"content\": \"<X>\", \"normalized\": true}]}",
         .status = ASDM_ERR_FORMAT,
         .message = "two added tokens are looked for as \"<x>\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        check_damage(&cases[i]);
}

static void test_damaged_tokenizer_json(void **state) {
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"{}", "model: must be an object, is missing"},
        {"{\"model\": {}}", "model.vocab is missing"},
        {"{\"model\": {\"vocab\": []}}", "the vocabulary must be an object"},
        {"{\"model\": {\"vocab\": {}}}", "has 0"},
        {"{\"model\": {\"type\": \"Unigram\", \"vocab\": []}}", "\"Unigram\""},
    };
    struct asdm_tokenizer *t = NULL;
    struct asdm_error err = {0};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct asdm_tokenizer_files files = {.tokenizer = file("tokenizer.json", cases[i].text)};
        assert_int_not_equal(asdm_tokenizer_open_memory(&files, &t, &err), ASDM_OK);
        if (!strstr(err.message, cases[i].message))
            fail_msg("\"%s\" is not in \"%s\"", cases[i].message, err.message);
    }
    static const char *const bad_merges[] = {"[\"l\"]", "[\"l\", \"o\", \"w\"]", "[\"l\", 1]", "7",
                                             "\"lo\"",  "{\"l\": \"o\"}"};
    struct tiny_vocab tiny;
    tiny_vocab_make(&tiny, merges, MERGES);
    for (size_t i = 0; i < sizeof bad_merges / sizeof bad_merges[0]; i++) {
        struct tiny_text text = {0};
        tiny_text_add(&text, "{\"model\": {\"vocab\": %s, \"merges\": [[\"l\", \"o\"], %s]}}", tiny.vocab.data,
                      bad_merges[i]);
        struct asdm_tokenizer_files files = {.tokenizer = file("tokenizer.json", text.data)};
        assert_int_equal(asdm_tokenizer_open_memory(&files, &t, &err), ASDM_ERR_FORMAT);
        assert_non_null(strstr(err.message, "tokenizer.json: model.merges: entry 1: must be"));
        tiny_text_done(&text);
    }
    tiny_vocab_done(&tiny);
    assert_null(t);
}

static void write_file(const char *directory, const char *name, const char *text) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *stream = fopen(path, "wb");
    assert_non_null(stream);
    assert_int_equal(fwrite(text, 1, strlen(text), stream), strlen(text));
    assert_int_equal(fclose(stream), 0);
}

static void test_directories(void **state) {
    (void)state;
    static const char *const names[] = {"vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json",
                                        "tokenizer.json"};
    char directory[] = "/tmp/asdm-test-tokenizer-XXXXXX", path[512];
    struct asdm_tokenizer *t = NULL;
    struct asdm_error err = {0};
    struct tiny_vocab tiny;
    struct tiny_text json = {0};
    tiny_vocab_make(&tiny, merges, MERGES);
    assert_non_null(mkdtemp(directory));
    assert_int_equal(asdm_tokenizer_open("/nonexistent", &t, &err), ASDM_ERR_NOT_FOUND);
    assert_int_equal(asdm_tokenizer_open(directory, &t, &err), ASDM_ERR_NOT_FOUND);
    assert_non_null(strstr(err.message, "neither vocab.json"));
    write_file(directory, names[0], tiny.vocab.data);
    assert_int_equal(asdm_tokenizer_open(directory, &t, &err), ASDM_ERR_NOT_FOUND);
    assert_non_null(strstr(err.message, "merges.txt"));
    write_file(directory, names[1], tiny.merges.data);
    write_file(directory, names[2], "{\"pad_token\": \"a\"}");
    write_file(directory, names[3], "{\"pad_token\": \"!\"}");
    assert_int_equal(asdm_tokenizer_open(directory, &t, &err), ASDM_OK);
    assert_int_equal(asdm_tokenizer_pad(t), '!');
    CHECK(t, "lower", LOWER_END);
    asdm_tokenizer_close(&t);
    for (int i = 0; i < 2; i++) { /* and with tokenizer.json alone */
        snprintf(path, sizeof path, "%s/%s", directory, names[i]);
        assert_int_equal(unlink(path), 0);
    }
    make_tokenizer_json(&json, &tiny, 1, "");
    write_file(directory, names[4], json.data);
    assert_int_equal(asdm_tokenizer_open(directory, &t, &err), ASDM_OK);
    CHECK(t, "lower", LOWER_END);
    asdm_tokenizer_close(&t);
    write_file(directory, names[4], "{");
    assert_int_equal(asdm_tokenizer_open(directory, &t, &err), ASDM_ERR_FORMAT);
    assert_non_null(strstr(err.message, "tokenizer.json"));
    for (int i = 2; i < 5; i++) {
        snprintf(path, sizeof path, "%s/%s", directory, names[i]);
        assert_int_equal(unlink(path), 0);
    }
    assert_int_equal(rmdir(directory), 0);
    tiny_text_done(&json);
    tiny_vocab_done(&tiny);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_words),
        cmocka_unit_test(test_special_tokens_in_the_text),
        cmocka_unit_test(test_pad),
        cmocka_unit_test(test_added_tokens),
        cmocka_unit_test(test_arguments),
        cmocka_unit_test(test_tokenizer_json),
        cmocka_unit_test(test_merges_text),
        cmocka_unit_test(test_damaged_files),
        cmocka_unit_test(test_damaged_tokenizer_json),
        cmocka_unit_test(test_directories),
    };
    return cmocka_run_group_tests_name("tokenizer", tests, NULL, NULL);
}
