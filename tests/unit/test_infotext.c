/* front/job/infotext.h and png_text.h: what is written into PNGs, what is read out of them, and that what was
 * written is read. The samplers' labels, JSON and PNG are the real ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <version.h>

#include <asdm/json.h>

#include "front/dialect/dialect.h"
#include "front/job/infotext.h"
#include "front/dialect/png_text.h"

#define SHA256 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define END ", Version: asdm " ASDM_VERSION

static char prompt[] = "a cat, (blue:1.2)", negative[] = "dog", empty[] = "";

static struct job_request make_request(void) {
    return (struct job_request){.prompt = prompt,
                                .negative_prompt = negative,
                                .syntax = ASDM_PROMPT_A1111,
                                .width = 512,
                                .height = 256,
                                .steps = 20,
                                .count = 1,
                                .sampler = "dpm++_2m",
                                .schedule = "karras",
                                .guidance_scale = 7,
                                .strength = 0.75,
                                .seed = 41};
}

static void expect_written(const struct job_request *request, int picture, const char *model, const char *sha256,
                           const char *wanted) {
    char *text = infotext_write(request, picture, model, sha256);
    assert_non_null(text);
    assert_string_equal(text, wanted);
    free(text);
}

/* ---- writing */

static void test_write(void **state) {
    (void)state;
    struct job_request request = make_request();
    expect_written(&request, 0, "scenes", SHA256,
                   "a cat, (blue:1.2)\nNegative prompt: dog\nSteps: 20, Sampler: DPM++ 2M, Schedule type: Karras, "
                   "CFG scale: 7, Seed: 41, Size: 512x256, Model hash: 0123456789, Model: scenes" END);
}

static void test_write_without(void **state) {
    (void)state;
    struct job_request request = make_request();
    request.negative_prompt = empty;
    request.sampler = "euler_a";
    request.schedule = "default";
    request.guidance_scale = 7.5;
    expect_written(&request, 2, "scenes", "",
                   "a cat, (blue:1.2)\nSteps: 20, Sampler: Euler a, Schedule type: Automatic, CFG scale: 7.5, "
                   "Seed: 43, Size: 512x256, Model: scenes" END);
    expect_written(&request, 0, "a:b", "",
                   "a cat, (blue:1.2)\nSteps: 20, Sampler: Euler a, Schedule type: Automatic, CFG scale: 7.5, "
                   "Seed: 41, Size: 512x256, Model: \"a:b\"" END);
    request.prompt = empty;
    expect_written(&request, 0, "scenes", "",
                   "Steps: 20, Sampler: Euler a, Schedule type: Automatic, CFG scale: 7.5, Seed: 41, "
                   "Size: 512x256, Model: scenes" END);
    request.negative_prompt = negative;
    expect_written(&request, 0, "scenes", "",
                   "Negative prompt: dog\nSteps: 20, Sampler: Euler a, Schedule type: Automatic, CFG scale: 7.5, "
                   "Seed: 41, Size: 512x256, Model: scenes" END);
}

static void test_write_extras(void **state) {
    (void)state;
    struct job_request request = make_request();
    request.negative_prompt = empty;
    request.i2i = true;
    request.rng = ASDM_REQUEST_TORCH;
    request.syntax = ASDM_PROMPT_PLAIN;
    request.seed = UINT64_MAX - 1;
    expect_written(&request, 1, "a: \"b\", c", SHA256,
                   "a cat, (blue:1.2)\nSteps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, "
                   "Seed: 18446744073709551615, Size: 512x256, Model hash: 0123456789, "
                   "Model: \"a: \\\"b\\\", c\", Denoising strength: 0.75, Emphasis: None, RNG: CPU" END);
}

/* ---- reading */

static struct asdm_json *read_fields(const char *text) {
    struct asdm_json *root;
    struct asdm_error err;
    struct buffer body;
    buffer_init(&body, 1 << 20);
    infotext_write_fields(text, &body);
    assert_false(body.failed);
    if (asdm_json_parse(body.data, body.length, "fields", &root, &err) != ASDM_OK)
        fail_msg("%s: %s", body.data, err.message);
    buffer_done(&body);
    return root;
}

static void expect_field(const struct asdm_json *fields, const char *name, const char *wanted) {
    const struct asdm_json *node = asdm_json_get(fields, name);
    if (!wanted) {
        assert_null(node);
        return;
    }
    if (!node)
        fail_msg("no field %s", name);
    assert_string_equal(asdm_json_string(node), wanted);
}

static void test_round_trip(void **state) {
    (void)state;
    struct job_request request = make_request();
    char lines[] = "first line\nsecond: line, \"quoted\"", other[] = "bad\nworse";
    request.prompt = lines;
    request.negative_prompt = other;
    char *text = infotext_write(&request, 3, "a: \"b\",\nc\\d", SHA256);
    assert_non_null(text);
    struct asdm_json *fields = read_fields(text);
    expect_field(fields, "Prompt", lines);
    expect_field(fields, "Negative prompt", other);
    expect_field(fields, "Steps", "20");
    expect_field(fields, "Sampler", "DPM++ 2M");
    expect_field(fields, "Schedule type", "Karras");
    expect_field(fields, "CFG scale", "7");
    expect_field(fields, "Seed", "44");
    expect_field(fields, "Size", NULL);
    expect_field(fields, "Size-1", "512");
    expect_field(fields, "Size-2", "256");
    expect_field(fields, "Model hash", "0123456789");
    expect_field(fields, "Model", "a: \"b\",\nc\\d");
    expect_field(fields, "Version", "asdm " ASDM_VERSION);
    asdm_json_destroy(&fields);
    free(text);
}

static void test_read_foreign(void **state) {
    (void)state;
    struct asdm_json *fields =
        read_fields("  a <lora:x:1>  \r\n\nNegative prompt: n1\nn2\nSteps: 5, Seed: 9, Lora hashes: "
                    "\"x: 12, y: 34\", Broken: \"q, Size-1: 7, Size: 3x4, Seed: 10, A: 1\n\n");
    expect_field(fields, "Prompt", "a <lora:x:1>\n");
    expect_field(fields, "Negative prompt", "n1\nn2");
    expect_field(fields, "Seed", "9"); /* the first of two */
    expect_field(fields, "Lora hashes", "x: 12, y: 34");
    expect_field(fields, "Broken", "\"q");
    expect_field(fields, "Size-1", "7");
    expect_field(fields, "Size-2", "4");
    expect_field(fields, "A", NULL); /* names have two characters at least */
    asdm_json_destroy(&fields);
}

static void test_read_other_texts(void **state) {
    (void)state;
    static const struct {
        const char *text, *prompt;
    } cases[] = {{"", ""},
                 {"only a prompt", "only a prompt"},
                 {"a: b, c\nred: 1, blue: 2", "a: b, c\nred: 1, blue: 2"}, /* two fields are no last line */
                 {"\n\n\n", ""},
                 {"x\n\"", "x\n\""},
                 {"\":\",:::,,\\", "\":\",:::,,\\"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct asdm_json *fields = read_fields(cases[i].text);
        expect_field(fields, "Prompt", cases[i].prompt);
        expect_field(fields, "Negative prompt", "");
        assert_int_equal(asdm_json_count(fields), 2);
        asdm_json_destroy(&fields);
    }
}

/* More fields than are kept, long names, a long text. */
static void test_read_much(void **state) {
    (void)state;
    enum { FIELDS = 5000, BYTES = FIELDS * 100 };
    char *text = malloc(BYTES);
    assert_non_null(text);
    size_t length = 0;
    for (int i = 0; i < FIELDS; i++)
        length += (size_t)snprintf(text + length, BYTES - length, "field %d%s: \"v\\\", ", i,
                                   i % 2 ? "" : " with a name that is longer than any that a reader would want");
    struct asdm_json *fields = read_fields(text);
    assert_in_range(asdm_json_count(fields), 3, 200);
    asdm_json_destroy(&fields);
    free(text);
}

/* ---- text chunks */

struct bytes {
    unsigned char data[4096];
    size_t size;
};

static void put_chunk(struct bytes *to, const char *type, const char *data, size_t size) {
    unsigned char *at = to->data + to->size;
    assert_true(to->size + size + 12 <= sizeof to->data);
    memcpy(at, (unsigned char[]){0, 0, (unsigned char)(size >> 8), (unsigned char)size}, 4);
    memcpy(at + 4, type, 4);
    memcpy(at + 8, data, size);
    memset(at + 8 + size, 0, 4);
    to->size += size + 12;
}

#define CHUNK(to, type, text) put_chunk(to, type, text, sizeof(text) - 1)

static void begin(struct bytes *to) {
    static const unsigned char signature[] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    memcpy(to->data, signature, sizeof signature);
    to->size = sizeof signature;
    CHUNK(to, "IHDR", "\0\0\0\1\0\0\0\1\10\2\0\0\0");
}

/* From a copy of exactly that size, so that a sanitizer sees a read beyond. */
static bool read_chunks(const struct bytes *bytes, struct png_texts *ret, struct problem *ret_problem) {
    unsigned char *copy = malloc(bytes->size ? bytes->size : 1);
    assert_non_null(copy);
    memcpy(copy, bytes->data, bytes->size);
    bool good = png_texts_read(copy, bytes->size, "image", ret, ret_problem);
    free(copy);
    return good;
}

static void test_chunks(void **state) {
    (void)state;
    struct bytes bytes;
    struct png_texts texts;
    struct problem problem;
    begin(&bytes);
    CHUNK(&bytes, "tEXt", "parameters\0caf\xe9");
    CHUNK(&bytes, "iTXt", "Title\0\0\0de\0Titel\0\xe7\x8c\xab");
    CHUNK(&bytes, "iTXt", "Odd\0\0\0\0\0\xff");
    CHUNK(&bytes, "IDAT", "no data");
    CHUNK(&bytes, "tEXt", "Empty\0");
    CHUNK(&bytes, "tEXt", "Title\0second");
    CHUNK(&bytes, "IEND", "");
    assert_true(read_chunks(&bytes, &texts, &problem));
    assert_int_equal(texts.count, 4);
    assert_string_equal(png_texts_find(&texts, "parameters"), "caf\xc3\xa9");
    assert_string_equal(png_texts_find(&texts, "Title"), "second");
    assert_string_equal(png_texts_find(&texts, "Odd"), "\xc3\xbf");
    assert_string_equal(png_texts_find(&texts, "Empty"), "");
    assert_null(png_texts_find(&texts, "title"));
    png_texts_done(&texts);
    /* Cut anywhere, it is damaged, and nothing beyond is read. */
    for (size_t size = bytes.size; size-- > 0;) {
        struct bytes cut = bytes;
        cut.size = size;
        assert_false(read_chunks(&cut, &texts, &problem));
        assert_int_equal(problem.status, 422);
        assert_string_equal(problem.field, "image");
    }
}

static void test_bad_chunks(void **state) {
    (void)state;
    static const struct {
        const char *type, *data;
        size_t size;
        const char *message;
    } cases[] = {{"tEXt", "no end", 6, "key"},
                 {"tEXt", "\0value", 6, "key"},
                 {"tEXt", "", 0, "key"},
                 {"tEXt", "key\0a\0b", 7, "damaged"},
                 {"iTXt", "key\0", 4, "damaged"},
                 {"iTXt", "key\0\0\0", 6, "damaged"},
                 {"iTXt", "key\0\0\0en", 8, "damaged"},
                 {"iTXt", "key\0\0\0en\0k", 10, "damaged"},
                 {"iTXt", "key\0\1\0\0\0xx", 10, "compressed"},
                 {"zTXt", "key\0\0xx", 7, "compressed"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct bytes bytes;
        struct png_texts texts;
        struct problem problem = {0};
        begin(&bytes);
        CHUNK(&bytes, "tEXt", "first\0is good"); /* and must not leak */
        put_chunk(&bytes, cases[i].type, cases[i].data, cases[i].size);
        CHUNK(&bytes, "IEND", "");
        assert_false(read_chunks(&bytes, &texts, &problem));
        assert_int_equal(problem.status, 422);
        assert_non_null(strstr(problem.message, cases[i].message));
    }
}

static void test_many_chunks(void **state) {
    (void)state;
    struct bytes bytes;
    struct png_texts texts;
    struct problem problem;
    char text[] = "00\0x";
    begin(&bytes);
    for (int i = 0; i <= PNG_TEXTS_MAX; i++) {
        text[0] = (char)('0' + i / 10);
        text[1] = (char)('0' + i % 10);
        CHUNK(&bytes, "tEXt", text);
    }
    CHUNK(&bytes, "IEND", "");
    assert_false(read_chunks(&bytes, &texts, &problem));
    assert_non_null(strstr(problem.message, "too many"));
    memset(&bytes.data[8 + 25], 0xff, 4); /* a length beyond the end */
    assert_false(read_chunks(&bytes, &texts, &problem));
    assert_non_null(strstr(problem.message, "damaged"));
}

/* What the server's own PNGs hold. */
static void test_own_png(void **state) {
    (void)state;
    static const char *const values[] = {"plain\nlines", "caf\xc3\xa9", "\xe7\x8c\xab"};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        const char *const text[] = {"parameters", values[i], NULL};
        const uint8_t pixel[3] = {1, 2, 3};
        struct png_texts texts;
        struct problem problem;
        unsigned char *data;
        size_t size;
        assert_int_equal(asdm_png_encode(pixel, 1, 1, text, 0, &data, &size, NULL), ASDM_OK);
        assert_true(png_texts_read(data, size, "image", &texts, &problem));
        assert_string_equal(png_texts_find(&texts, "parameters"), values[i]);
        png_texts_done(&texts);
        free(data);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_write),        cmocka_unit_test(test_write_without),
        cmocka_unit_test(test_write_extras), cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_read_foreign), cmocka_unit_test(test_read_other_texts),
        cmocka_unit_test(test_read_much),    cmocka_unit_test(test_chunks),
        cmocka_unit_test(test_bad_chunks),   cmocka_unit_test(test_many_chunks),
        cmocka_unit_test(test_own_png),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
