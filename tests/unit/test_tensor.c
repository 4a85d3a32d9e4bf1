/* tensor/tensor.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/half.h"
#include "tensor/tensor.h"

static const enum asdm_dtype all_dtypes[] = {ASDM_F32, ASDM_F16, ASDM_BF16, ASDM_I64, ASDM_I32, ASDM_OTHER_DTYPE};

static void dtypes_have_names_and_widths(void **state) {
    (void)state;
    static const char *const names[] = {"F32", "F16", "BF16", "I64", "I32", "another type"};
    static const size_t widths[] = {4, 2, 2, 8, 4, 0};
    for (size_t i = 0; i < 6; i++) {
        assert_string_equal(asdm_dtype_name(all_dtypes[i]), names[i]);
        assert_int_equal(asdm_dtype_bytes(all_dtypes[i]), widths[i]);
    }
}

/* All 65,536 values of a 16-bit type, at an address that is odd when `shift` is, give the scalar conversion's bits. */
static void check_all_halves(enum asdm_dtype dtype, size_t shift) {
    enum { COUNT = 65536 };
    unsigned char *memory = malloc(2 * COUNT + 8);
    float *values = malloc(COUNT * sizeof *values);
    assert_non_null(memory);
    assert_non_null(values);
    for (uint32_t bits = 0; bits < COUNT; bits++) {
        uint16_t half = (uint16_t)bits;
        memcpy(memory + shift + 2 * bits, &half, 2);
    }
    struct asdm_tensor tensor = {"t", dtype, 1, {COUNT}, memory + shift, COUNT, 2 * COUNT};
    asdm_tensor_to_f32(&tensor, 0, COUNT, values);
    for (uint32_t bits = 0; bits < COUNT; bits++) {
        float expected = dtype == ASDM_F16 ? asdm_f16_to_f32((uint16_t)bits) : asdm_bf16_to_f32((uint16_t)bits);
        if (asdm_f32_bits(values[bits]) != asdm_f32_bits(expected))
            fail_msg("%s 0x%04x gives 0x%08x, not 0x%08x", asdm_dtype_name(dtype), bits, asdm_f32_bits(values[bits]),
                     asdm_f32_bits(expected));
    }
    free(values);
    free(memory);
}

static void f16_converts_as_the_scalar_does(void **state) {
    (void)state;
    check_all_halves(ASDM_F16, 0);
    check_all_halves(ASDM_F16, 1);
}

static void bf16_converts_as_the_scalar_does(void **state) {
    (void)state;
    check_all_halves(ASDM_BF16, 0);
    check_all_halves(ASDM_BF16, 3);
}

static void f32_is_copied_bit_for_bit(void **state) {
    (void)state;
    static const uint32_t bits[] = {0, 0x80000000, 1, 0x7f800000, 0x7f800001, 0xffc12345, 0x3f800000, 0x00800000};
    unsigned char memory[sizeof bits + 1];
    float values[8];
    memcpy(memory + 1, bits, sizeof bits);
    struct asdm_tensor tensor = {"t", ASDM_F32, 2, {2, 4}, memory + 1, 8, sizeof bits};
    asdm_tensor_to_f32(&tensor, 0, 8, values);
    assert_memory_equal(values, bits, sizeof bits);
}

static void ranges_of_all_lengths_stay_inside(void **state) {
    (void)state;
    enum { COUNT = 80, GUARD = 0x7fa5a5a5 };
    uint16_t halves[COUNT];
    for (int i = 0; i < COUNT; i++)
        halves[i] = (uint16_t)(0x3c00 + i);
    struct asdm_tensor tensor = {"t", ASDM_F16, 1, {COUNT}, halves, COUNT, sizeof halves};
    for (size_t first = 0; first <= COUNT; first += 7) {
        for (size_t count = 0; first + count <= COUNT; count++) {
            float values[COUNT + 1];
            for (int i = 0; i <= COUNT; i++)
                values[i] = asdm_bits_f32(GUARD);
            asdm_tensor_to_f32(&tensor, first, count, values);
            for (size_t i = 0; i < count; i++)
                assert_true(values[i] == asdm_f16_to_f32(halves[first + i]));
            assert_int_equal(asdm_f32_bits(values[count]), GUARD);
        }
    }
}

static void empty_tensors_need_no_memory(void **state) {
    (void)state;
    for (int i = 0; i < 3; i++) {
        struct asdm_tensor tensor = {"t", all_dtypes[i], 1, {0}, NULL, 0, 0};
        asdm_tensor_to_f32(&tensor, 0, 0, NULL);
    }
}

static void dims_are_printed_and_cut(void **state) {
    (void)state;
    char text[128];
    const int64_t shape[] = {320, 4, 3, 3};
    assert_string_equal(asdm_dims_text(shape, 4, text), "[320, 4, 3, 3]");
    assert_string_equal(asdm_dims_text(shape, 1, text), "[320]");
    assert_string_equal(asdm_dims_text(shape, 0, text), "[]");
    int64_t huge[8];
    for (int i = 0; i < 8; i++)
        huge[i] = INT64_MAX;
    memset(text, 'x', sizeof text);
    asdm_dims_text(huge, 8, text);
    assert_true(strlen(text) < sizeof text);
    assert_memory_equal(text, "[9223372036854775807, 9223372036854775807, ", 43);
    assert_string_equal(text + strlen(text) - 6, ", ...]");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dtypes_have_names_and_widths),      cmocka_unit_test(f16_converts_as_the_scalar_does),
        cmocka_unit_test(bf16_converts_as_the_scalar_does),  cmocka_unit_test(f32_is_copied_bit_for_bit),
        cmocka_unit_test(ranges_of_all_lengths_stay_inside), cmocka_unit_test(empty_tensors_need_no_memory),
        cmocka_unit_test(dims_are_printed_and_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
