/* base/arena.h, base/size.h, asdm/error.h, base/half.h. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/arena.h"
#include <asdm/error.h>
#include "base/half.h"
#include "base/size.h"

static void arena_gives_zeroed_aligned_memory(void **state) {
    (void)state;
    struct asdm_arena arena;
    asdm_arena_init(&arena, 1 << 20);
    unsigned char *previous = NULL;
    for (size_t size = 0; size < 300; size++) {
        unsigned char *memory = asdm_arena_alloc(&arena, size, 1);
        assert_non_null(memory);
        assert_int_equal((uintptr_t)memory % _Alignof(max_align_t), 0);
        assert_ptr_not_equal(memory, previous);
        for (size_t i = 0; i < size; i++)
            assert_int_equal(memory[i], 0);
        memset(memory, 0xa5, size); /* the next one must not see this */
        previous = memory;
    }
    asdm_arena_done(&arena);
    assert_null(arena.blocks);
    asdm_arena_done(&arena); /* harmless when empty */
}

static void arena_serves_blocks_larger_than_its_own(void **state) {
    (void)state;
    struct asdm_arena arena;
    asdm_arena_init(&arena, 8 << 20);
    char *small = asdm_arena_alloc(&arena, 10, 1), *large = asdm_arena_alloc(&arena, 1 << 20, 3);
    assert_non_null(small);
    assert_non_null(large);
    memset(large, 1, 3 << 20);
    assert_int_equal(small[0], 0);
    asdm_arena_done(&arena);
}

static void arena_keeps_its_limit(void **state) {
    (void)state;
    struct asdm_arena arena;
    asdm_arena_init(&arena, 1000);
    assert_null(asdm_arena_alloc(&arena, 1001, 1));
    assert_null(asdm_arena_alloc(&arena, 100, 11));
    assert_non_null(asdm_arena_alloc(&arena, 900, 1));
    assert_null(asdm_arena_alloc(&arena, 200, 1));
    assert_non_null(asdm_arena_alloc(&arena, 80, 1)); /* a refusal costs nothing */
    assert_null(asdm_arena_alloc(&arena, SIZE_MAX / 2 + 2, 2));
    assert_null(asdm_arena_alloc(&arena, SIZE_MAX, SIZE_MAX));
    asdm_arena_done(&arena);
    asdm_arena_init(&arena, SIZE_MAX);
    assert_null(asdm_arena_alloc(&arena, SIZE_MAX / 2 + 2, 2));
    asdm_arena_done(&arena);
}

static void arena_copies_and_prints_text(void **state) {
    (void)state;
    struct asdm_arena arena;
    asdm_arena_init(&arena, 4096);
    const char source[4] = {'a', 'b', 'c', 'd'}; /* no NUL */
    char *copy = asdm_arena_strndup(&arena, source, 3);
    assert_string_equal(copy, "abc");
    assert_string_equal(asdm_arena_strndup(&arena, "", 0), "");
    assert_string_equal(asdm_arena_printf(&arena, "%s-%d", copy, 42), "abc-42");
    assert_null(asdm_arena_printf(&arena, "%5000d", 1));
    asdm_arena_done(&arena);
}

static void size_arithmetic_refuses_overflow(void **state) {
    (void)state;
    size_t result = 7;
    assert_false(asdm_size_mul(SIZE_MAX, 2, &result));
    assert_false(asdm_size_mul((size_t)1 << 32, (size_t)1 << 32, &result));
    assert_false(asdm_size_add(SIZE_MAX, 1, &result));
    assert_int_equal(result, 7); /* untouched */
    assert_true(asdm_size_mul(SIZE_MAX, 1, &result));
    assert_true(result == SIZE_MAX);
    assert_true(asdm_size_mul(SIZE_MAX, 0, &result));
    assert_int_equal(result, 0);
    assert_true(asdm_size_add(SIZE_MAX - 1, 1, &result));
    assert_true(result == SIZE_MAX);
    assert_int_equal(asdm_size_align(0, 64), 0);
    assert_int_equal(asdm_size_align(1, 64), 64);
    assert_int_equal(asdm_size_align(64, 64), 64);
    assert_int_equal(asdm_size_align(65, 64), 128);
}

static enum asdm_status failing(struct asdm_error *err) {
    return asdm_fail(err, ASDM_ERR_IO, "inner %d", 1);
}

static enum asdm_status passing_up(struct asdm_error *err) {
    ASDM_TRY(failing(err));
    return ASDM_OK;
}

static void errors_carry_status_message_and_context(void **state) {
    (void)state;
    struct asdm_error err = {0};
    assert_int_equal(passing_up(&err), ASDM_ERR_IO);
    assert_int_equal(err.status, ASDM_ERR_IO);
    assert_string_equal(err.message, "inner 1");
    assert_int_equal(asdm_fail_context(&err, ASDM_ERR_FORMAT, "file %s", "x"), ASDM_ERR_FORMAT);
    assert_int_equal(err.status, ASDM_ERR_FORMAT);
    assert_string_equal(err.message, "file x: inner 1");
    assert_int_equal(passing_up(NULL), ASDM_ERR_IO); /* nobody has to want the words */
    assert_int_equal(asdm_fail_context(NULL, ASDM_ERR_IO, "x"), ASDM_ERR_IO);
}

static void long_errors_are_cut_and_terminated(void **state) {
    (void)state;
    struct asdm_error err;
    memset(&err, 'z', sizeof err);
    char text[5000];
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = '\0';
    asdm_fail(&err, ASDM_ERR_IO, "%s", text);
    assert_int_equal(strlen(err.message), sizeof err.message - 1);
    asdm_fail_context(&err, ASDM_ERR_IO, "%s", text);
    assert_int_equal(strlen(err.message), sizeof err.message - 1);
    asdm_fail_context(&err, ASDM_ERR_IO, "short");
    assert_int_equal(strlen(err.message), sizeof err.message - 1);
    assert_memory_equal(err.message, "short: xxx", 10);
}

static void every_status_has_a_name(void **state) {
    (void)state;
    for (int status = ASDM_OK; status <= ASDM_ERR_INTERNAL; status++) {
        const char *name = asdm_status_name((enum asdm_status)status);
        assert_non_null(name);
        assert_string_not_equal(name, "unknown status");
        for (int other = ASDM_OK; other < status; other++)
            assert_string_not_equal(name, asdm_status_name((enum asdm_status)other));
    }
    assert_string_equal(asdm_status_name((enum asdm_status)999), "unknown status");
}

/* The value of binary16 by its definition (IEEE 754-2008, 3.4). */
static double f16_value(uint16_t half) {
    int exponent = (half >> 10) & 31, fraction = half & 0x3ff;
    double value = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
    return half & 0x8000 ? -value : value;
}

static void f16_converts_all_values(void **state) {
    (void)state;
    for (uint32_t bits = 0; bits < 65536; bits++) {
        float value = asdm_f16_to_f32((uint16_t)bits);
        assert_int_equal(signbit(value) != 0, bits >> 15);
        if ((bits & 0x7c00) != 0x7c00)
            assert_true((double)value == f16_value((uint16_t)bits));
        else if (bits & 0x3ff)
            assert_true(isnan(value));
        else
            assert_true(isinf(value));
    }
}

static void bf16_round_trips_all_values(void **state) {
    (void)state;
    for (uint32_t bits = 0; bits < 65536; bits++) {
        float value = asdm_bf16_to_f32((uint16_t)bits);
        uint16_t back = asdm_f32_to_bf16(value);
        if (isnan(value))
            assert_true(isnan(asdm_bf16_to_f32(back)));
        else
            assert_int_equal(back, bits);
    }
}

static void bf16_rounds_to_nearest_even(void **state) {
    (void)state;
    static const struct {
        uint32_t bits;
        uint16_t expected;
    } cases[] = {
        {0x3f800000, 0x3f80}, {0x3f807fff, 0x3f80}, {0x3f808000, 0x3f80}, /* a tie, down to even */
        {0x3f808001, 0x3f81}, {0x3f818000, 0x3f82},                       /* a tie, up to even */
        {0x7f7fffff, 0x7f80},                                             /* the largest float rounds to infinity */
        {0xff7fffff, 0xff80}, {0x7f800000, 0x7f80}, {0xff800000, 0xff80},
        {0x00000001, 0x0000}, {0x80000000, 0x8000}, {0x7f800001, 0x7fc0}, /* a NaN whose payload is cut off stays one */
        {0xffffffff, 0xffff},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(asdm_f32_to_bf16(asdm_bits_f32(cases[i].bits)), cases[i].expected);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arena_gives_zeroed_aligned_memory),
        cmocka_unit_test(arena_serves_blocks_larger_than_its_own),
        cmocka_unit_test(arena_keeps_its_limit),
        cmocka_unit_test(arena_copies_and_prints_text),
        cmocka_unit_test(size_arithmetic_refuses_overflow),
        cmocka_unit_test(errors_carry_status_message_and_context),
        cmocka_unit_test(long_errors_are_cut_and_terminated),
        cmocka_unit_test(every_status_has_a_name),
        cmocka_unit_test(f16_converts_all_values),
        cmocka_unit_test(bf16_round_trips_all_values),
        cmocka_unit_test(bf16_rounds_to_nearest_even),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
