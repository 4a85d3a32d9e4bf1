#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "front/http/multipart.h"

static const char type[] = "multipart/form-data; boundary=B";

static bool parse_as(const char *content_type, const char *body, size_t size, struct multipart *form) {
    struct problem problem = {0};
    /* A copy of exactly that size, so that a read beyond it is seen. */
    unsigned char *copy = malloc(size + !size);
    assert_non_null(copy);
    memcpy(copy, body, size);
    bool good = multipart_parse(content_type, copy, size, form, &problem);
    assert_true(good || (problem.status == 400 && strcmp(problem.code, "malformed") == 0 && *problem.message));
    free(copy); /* only texts are looked at by the callers */
    return good;
}

static void refused_as(const char *content_type, const char *body, size_t size) {
    struct multipart form;
    assert_false(parse_as(content_type, body, size, &form));
}
#define REFUSED(body) refused_as(type, body, sizeof(body) - 1)

#define NAME "Content-Disposition: form-data; name=\"a\"\r\n"
#define GOOD "--B\r\n" NAME "\r\nx\r\n--B--\r\n"

static void test_parts(void **state) {
    (void)state;
    static const char body[] = "--B\r\n" NAME "\r\none\r\n"
                               "--B\r\ncontent-disposition:form-data ; filename=\"p \\\"q\\\".png\"; name=image\r\n"
                               "Content-Type: image/png\r\nContent-Transfer-Encoding: binary\r\nX-Other: y\r\n\r\n"
                               "\0\r\n--C\r\n--\r\n\r\n--B\r\n" NAME "\r\n\r\n--B--\r\n";
    struct multipart form;
    struct problem problem;
    assert_true(multipart_parse("Multipart/Form-Data; charset=utf-8; Boundary=\"B\"", (const unsigned char *)body,
                                sizeof body - 1, &form, &problem));
    assert_int_equal(form.count, 3);
    assert_string_equal(form.parts[0].name, "a");
    assert_null(form.parts[0].file_name);
    assert_null(form.parts[0].content_type);
    assert_int_equal(form.parts[0].size, 3);
    assert_memory_equal(form.parts[0].data, "one", 3);
    assert_string_equal(form.parts[1].name, "image");
    assert_string_equal(form.parts[1].file_name, "p \"q\".png");
    assert_string_equal(form.parts[1].content_type, "image/png");
    assert_int_equal(form.parts[1].size, 12);
    assert_memory_equal(form.parts[1].data, "\0\r\n--C\r\n--\r\n", 12);
    assert_int_equal(form.parts[2].size, 0);
    multipart_done(&form);
}

static void test_content_type(void **state) {
    (void)state;
    static const char *const bad[] = {"multipart/form-data",
                                      "multipart/form-data; boundary=",
                                      "multipart/form-data; boundary=\"\"",
                                      "multipart/form-data; boundary=\"B",
                                      "multipart/form-data; boundary=B; boundary=B",
                                      "multipart/form-data; boundary=\"B \"",
                                      "multipart/form-data; boundary=B\"",
                                      "multipart/form-data; boundary=B x",
                                      "multipart/form-data boundary=B",
                                      "multipart/form-dataX; boundary=B",
                                      "multipart/mixed; boundary=B",
                                      "application/json",
                                      "",
                                      NULL};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        refused_as(bad[i], GOOD, sizeof GOOD - 1);
    for (int length = 69; length <= 72; length++) {
        char content_type[200], body[400], name[100] = "";
        memset(name, 'b', (size_t)length);
        snprintf(content_type, sizeof content_type, "multipart/form-data; boundary=%s", name);
        int size = snprintf(body, sizeof body, "--%s\r\n" NAME "\r\nx\r\n--%s--", name, name);
        struct multipart form;
        assert_int_equal(parse_as(content_type, body, (size_t)size, &form), length <= 70);
        if (length <= 70)
            multipart_done(&form);
    }
}

static void test_framing(void **state) {
    (void)state;
    struct multipart form;
    assert_true(parse_as(type, GOOD, sizeof GOOD - 1, &form));
    multipart_done(&form);
    /* Every cut but those of the last line end is refused. */
    for (size_t size = 0; size < sizeof GOOD - 1; size++) {
        bool whole = size == sizeof GOOD - 3;
        assert_int_equal(parse_as(type, GOOD, size, &form), whole);
        if (whole)
            multipart_done(&form);
    }
    REFUSED("--B--\r\n");
    REFUSED("preamble\r\n" GOOD);
    REFUSED("\r\n" GOOD);
    REFUSED(GOOD "x");
    REFUSED(GOOD "\r\n");
    REFUSED("--B \r\n" NAME "\r\nx\r\n--B--");
    REFUSED("--B\n" NAME "\r\nx\r\n--B--");
    REFUSED("--B\r\n" NAME "\r\nx\n--B--");
    REFUSED("--B\r\n" NAME "\r\nx\r\n--Bx--");
}

static void test_heads(void **state) {
    (void)state;
    REFUSED("--B\r\n\r\nx\r\n--B--");
    REFUSED("--B\r\nContent-Type: a/b\r\n\r\nx\r\n--B--");
    REFUSED("--B\r\n" NAME NAME "\r\nx\r\n--B--");
    REFUSED("--B\r\nContent-Disposition: form-data\r\n\r\nx\r\n--B--");
    REFUSED("--B\r\nContent-Disposition: attachment; name=\"a\"\r\n\r\nx\r\n--B--");
    REFUSED("--B\r\nContent-Disposition: form-datax; name=\"a\"\r\n\r\nx\r\n--B--");
    REFUSED("--B\r\nContent-Disposition: form-data; name=\"a\"; name=\"b\"\r\n\r\nx\r\n--B--");
    REFUSED("--B\r\nContent-Disposition: form-data; name=\"a\r\n\r\nx\r\n--B--");
    REFUSED("--B\r\nContent-Disposition: form-data; name=\"a\0b\"\r\n\r\nx\r\n--B--");
    REFUSED("--B\r\nContent-Disposition : form-data; name=\"a\"\r\n\r\nx\r\n--B--");
    REFUSED("--B\r\nContent-Disposition: form-data;\r\n name=\"a\"\r\n\r\nx\r\n--B--");
    REFUSED("--B\r\n" NAME "no colon\r\n\r\nx\r\n--B--");
    REFUSED("--B\r\n" NAME "X: a\rb\r\n\r\nx\r\n--B--");
    REFUSED("--B\r\n" NAME "Content-Type: a/b\r\nContent-Type: a/b\r\n\r\nx\r\n--B--");
    REFUSED("--B\r\n" NAME "Content-Transfer-Encoding: base64\r\n\r\neA==\r\n--B--");
    REFUSED("--B\r\n" NAME "Content-Transfer-Encoding: quoted-printable\r\n\r\nx\r\n--B--");
}

static void test_limits(void **state) {
    (void)state;
    struct multipart form;
    for (int count = 63; count <= 65; count++) {
        char body[8192] = "";
        size_t size = 0;
        for (int i = 0; i < count; i++)
            size += (size_t)snprintf(body + size, sizeof body - size, "--B\r\n" NAME "\r\nx\r\n");
        size += (size_t)snprintf(body + size, sizeof body - size, "--B--");
        assert_int_equal(parse_as(type, body, size, &form), count <= 64);
        if (count <= 64) {
            assert_int_equal(form.count, count);
            multipart_done(&form);
        }
    }
    /* A part's header of 8192 bytes with its empty line, and one byte more. */
    for (int extra = 0; extra <= 1; extra++) {
        static char body[10000];
        int fixed = (int)(sizeof NAME - 1 + sizeof "X: \r\n\r\n" - 1);
        int size = snprintf(body, sizeof body, "--B\r\n" NAME "X: %0*d\r\n\r\nx\r\n--B--",
                            MULTIPART_HEAD_BYTES_MAX - fixed + extra, 0);
        assert_int_equal(parse_as(type, body, (size_t)size, &form), !extra);
        if (!extra)
            multipart_done(&form);
    }
}

/* Nothing that is made of a form's pieces is read beyond its end (under the address sanitizer). */
static void test_random(void **state) {
    (void)state;
    static const char *const pieces[] = {"--B", "\r\n", "--", NAME, "\"", ";",    ":",        "name=",          "\r",
                                         "\n",  "x",    "B",  "=",  " ",  "\\\"", "\r\n\r\n", "Content-Type: ", "\\"};
    uint32_t random = 1;
    for (int turn = 0; turn < 20000; turn++) {
        char body[600] = "--B\r\n" NAME;
        size_t size = turn % 2 ? strlen(body) : 0;
        for (int i = turn % 20; i > 0; i--) {
            random = random * 1664525 + 1013904223;
            const char *piece = pieces[(random >> 16) % (sizeof pieces / sizeof *pieces)];
            size += (size_t)snprintf(body + size, sizeof body - size, "%s", piece);
        }
        struct multipart form;
        if (parse_as(type, body, size, &form))
            multipart_done(&form);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parts), cmocka_unit_test(test_content_type), cmocka_unit_test(test_framing),
        cmocka_unit_test(test_heads), cmocka_unit_test(test_limits),       cmocka_unit_test(test_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
