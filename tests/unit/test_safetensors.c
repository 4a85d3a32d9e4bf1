/* tensor/safetensors.h, reader and writer. */
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

#include "tensor/safetensors.h"

/* A file in memory: length, header, `data_size` bytes that count up. Ends with its memory. */
static unsigned char *make_file(const char *header, size_t header_size, uint64_t announced, size_t data_size,
                                size_t *ret_size) {
    unsigned char *file = malloc(8 + header_size + data_size);
    assert_non_null(file);
    memcpy(file, &announced, 8);
    memcpy(file + 8, header, header_size);
    for (size_t i = 0; i < data_size; i++)
        file[8 + header_size + i] = (unsigned char)i;
    *ret_size = 8 + header_size + data_size;
    return file;
}

struct opened {
    unsigned char *memory;
    struct asdm_safetensors *file;
};

static struct opened open_good(const char *header, size_t data_size) {
    struct opened opened;
    struct asdm_error err = {0};
    size_t size;
    opened.memory = make_file(header, strlen(header), strlen(header), data_size, &size);
    if (asdm_safetensors_open_memory(opened.memory, size, "mem", &opened.file, &err) != ASDM_OK)
        fail_msg("%s: %s", header, err.message);
    return opened;
}

static void close_opened(struct opened *opened) {
    asdm_safetensors_close(&opened->file);
    assert_null(opened->file);
    asdm_safetensors_close(&opened->file); /* harmless */
    free(opened->memory);
}

#define F32(name, shape, begin, end)                                                                                   \
    "\"" name "\":{\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end "]}"

static const struct bad {
    const char *header;
    size_t data_size;
    const char *message; /* found in it */
} bad_headers[] = {
    {"", 8, "mem: header: line 1, column 1: expected '{' at the start of the header"},
    {" {}", 0, "expected '{' at the start of the header, found byte 0x20"},
    {"[]", 0, "expected '{' at the start of the header, found '['"},
    {"{", 0, "column 2: expected a key in quotation marks"},
    {"{} x", 0, "column 4: expected nothing more, found 'x'"},
    {"{}{}", 0, "column 3: expected nothing more"},
    {"{}\x01", 0, "column 3: expected nothing more, found byte 0x01"},
    {"{}", 1, "mem: 1 bytes at the end belong to no tensor"},
    {"{" F32("a", "[1]", 0, 4) ",}", 4, "a comma before '}'"},
    {"{" F32("a", "[1]", 0, 4) F32("b", "[1]", 4, 8) "}", 8, "expected ',' or '}'"},
    {"{" F32("a", "[1]", 0, 4) "," F32("a", "[1]", 4, 8) "}", 8, "the tensor \"a\" is there twice"},
    {"{" F32("a", "[1]", 0, 4) "," F32("\\u0061", "[1]", 4, 8) "}", 8, "the tensor \"a\" is there twice"},
    {"{" F32("a\\u0000b", "[1]", 0, 4) "}", 4, "\\u0000 is not allowed"},
    {"{" F32("a\xff", "[1]", 0, 4) "}", 4, "invalid UTF-8"},
    {"{" F32("a\\ud800", "[1]", 0, 4) "}", 4, "a high surrogate without"},
    {"{\"a\":1}", 0, "expected an object that describes a tensor, found '1'"},
    {"{\"a\":null}", 0, "expected an object that describes a tensor, found 'n'"},
    {"{\"a\":{}}", 0, "mem: tensor \"a\": has no dtype"},
    {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "mem: tensor \"a\": has no shape"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "mem: tensor \"a\": has no data_offsets"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"dtype\":\"F32\"}}", 4,
     "a tensor's description has \"dtype\" twice"},
    {"{\"a\":{\"shape\":[1],\"shape\":[1],\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "has \"shape\" twice"},
    {"{\"a\":{\"shape\":[1],\"dtype\":\"F32\",\"data_offsets\":[0,4],\"data_o\\u0066fsets\":[0,4]}}", 4,
     "has \"data_offsets\" twice"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"extra\":0}}", 4, "unknown key \"extra\""},
    {"{\"a\":{\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "expected a string, found '7'"},
    {"{\"a\":{\"dtype\":null,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "expected a string, found 'n'"},
    {"{" F32("a", "1", 0, 4) "}", 4, "expected a list of dimensions, found '1'"},
    {"{" F32("a", "{}", 0, 4) "}", 4, "expected a list of dimensions, found '{'"},
    {"{" F32("a", "[-1]", 0, 4) "}", 4, "expected an integer from 0 on, found '-'"},
    {"{" F32("a", "[1.0]", 0, 4) "}", 4, "a number with a fraction or exponent"},
    {"{" F32("a", "[1e0]", 0, 4) "}", 4, "a number with a fraction or exponent"},
    {"{" F32("a", "[01]", 0, 4) "}", 4, "a number with a leading zero"},
    {"{" F32("a", "[\"1\"]", 0, 4) "}", 4, "expected an integer from 0 on"},
    {"{" F32("a", "[1,]", 0, 4) "}", 4, "a comma before ']'"},
    {"{" F32("a", "[18446744073709551616]", 0, 4) "}", 4, "an integer that does not fit 64 bits"},
    {"{" F32("a", "[18446744073709551615]", 0, 4) "}", 4, "tensor \"a\": a dimension of 2^63 or more"},
    {"{" F32("a", "[9223372036854775808]", 0, 4) "}", 4, "tensor \"a\": a dimension of 2^63 or more"},
    {"{" F32("a", "[4294967296,4294967296]", 0, 4) "}", 4, "tensor \"a\": its shape has more elements than"},
    {"{" F32("a", "[4611686018427387904]", 0, 0) "}", 0,
     "tensor \"a\": its shape has more elements than"}, /* x 4 = 0 */
    {"{" F32("a", "[4611686018427387905]", 0, 4) "}", 4,
     "tensor \"a\": its shape has more elements than"}, /* x 4 = 4 */
    {"{" F32("a", "[4294967296,4294967296,0]", 0, 0) "}", 0, "its shape has more elements than"},
    {"{" F32("a", "[1,1,1,1,1,1,1,1,1]", 0, 4) "}", 4, "tensor \"a\": more than 8 dimensions"},
    {"{" F32("a", "[2]", 0, 4) "}", 4, "tensor \"a\": its shape [2] needs 8 bytes, its offsets give 4"},
    {"{" F32("a", "[0]", 0, 4) "}", 4, "tensor \"a\": its shape [0] needs 0 bytes, its offsets give 4"},
    {"{" F32("a", "[]", 0, 0) "}", 0, "tensor \"a\": its shape [] needs 4 bytes, its offsets give 0"},
    {"{\"a\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "its shape [2] needs 4 bytes"},
    {"{\"a\":{\"dtype\":\"F64\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "its shape [2] needs 16 bytes"},
    {"{\"a\":{\"dtype\":\"BOOL\",\"shape\":[9],\"data_offsets\":[0,8]}}", 8, "its shape [9] needs 9 bytes"},
    {"{" F32("a", "[1]", 4, 0) "}", 4, "tensor \"a\": its data ends before it begins"},
    {"{" F32("a", "[2]", 0, 8) "}", 4, "tensor \"a\": its data ends at byte 8, the file has 4 bytes of data"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[5],\"data_offsets\":[0,5]}}", 4,
     "tensor \"a\": its data ends at byte 5, the file has 4 bytes of data"},
    {"{" F32("a", "[1]", 18446744073709551612, 18446744073709551615) "}", 4,
     "its data ends at byte 18446744073709551615"},
    {"{" F32("a", "[1]", 18446744073709551612, 18446744073709551616) "}", 4, "does not fit 64 bits"},
    {"{" F32("a", "[1]", -4, 0) "}", 4, "expected an integer from 0 on"},
    {"{" F32("a", "[1]", 0.0, 4) "}", 4, "a number with a fraction"},
    {"{" F32("a", "[1]", 4, 8) "}", 8, "tensor \"a\": there are bytes before its data that belong to no tensor"},
    {"{" F32("a", "[1]", 0, 4) "," F32("b", "[1]", 8, 12) "}", 12, "tensor \"b\": there are bytes before its data"},
    {"{" F32("a", "[2]", 0, 8) "," F32("b", "[2]", 4, 12) "}", 12, "tensor \"b\": its data overlaps that of another"},
    {"{" F32("a", "[1]", 0, 4) "," F32("b", "[1]", 0, 4) "}", 4, "tensor \"b\": its data overlaps that of another"},
    {"{" F32("a", "[3]", 0, 12) "," F32("e", "[0]", 4, 4) "}", 12, "tensor \"e\": its data overlaps that of another"},
    {"{" F32("a", "[1]", 0, 4) "}", 5, "mem: 1 bytes at the end belong to no tensor"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4,
     "expected ',' and a second offset, found ']'"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", 4,
     "expected ']' after two offsets, found ','"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[]}}", 4, "expected an integer from 0 on, found ']'"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":{}}}", 4, "expected two offsets, found '{'"},
    {"{\"a\":[{}]}", 4, "expected an object that describes a tensor"},
    {"{\"__metadata__\":\"x\"}", 0, "expected an object of strings as __metadata__"},
    {"{\"__metadata__\":[]}", 0, "expected an object of strings as __metadata__"},
    {"{\"__metadata__\":{\"a\":1}}", 0, "expected a string as a value of __metadata__, found '1'"},
    {"{\"__metadata__\":{\"a\":{}}}", 0, "expected a string as a value of __metadata__, found '{'"},
    {"{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", 0, "the metadata key \"a\" is there twice"},
    {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "__metadata__ is there twice"},
    {"{\"__metadata__\":{},\"__met\\u0061data__\":{}}", 0, "__metadata__ is there twice"},
    {"{\"a\\nb\":{}}", 0, "tensor \"a?b\": has no dtype"}, /* no line breaks of a stranger in messages */
};

static void malformed_headers_are_refused_in_words(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof bad_headers / sizeof *bad_headers; i++) {
        const struct bad *bad = &bad_headers[i];
        struct asdm_safetensors *file = (struct asdm_safetensors *)&file; /* must stay as it is */
        struct asdm_error err = {0};
        size_t size;
        unsigned char *memory = make_file(bad->header, strlen(bad->header), strlen(bad->header), bad->data_size, &size);
        if (asdm_safetensors_open_memory(memory, size, "mem", &file, &err) != ASDM_ERR_FORMAT)
            fail_msg("accepted: %s", bad->header);
        if (!strstr(err.message, bad->message))
            fail_msg("%s: \"%s\" instead of \"%s\"", bad->header, err.message, bad->message);
        assert_memory_equal(err.message, "mem: ", 5);
        assert_ptr_equal(file, &file);
        free(memory);
    }
}

static void bad_lengths_are_refused(void **state) {
    (void)state;
    static const struct {
        uint64_t announced;
        const char *message;
    } cases[] = {
        {3, "mem: cut off inside its header: 3 bytes announced, 2 are there"},
        {100000000, "mem: cut off inside its header: 100000000 bytes announced, 2 are there"},
        {100000001, "mem: not a safetensors file: a header of 100000001 bytes, at most 100000000 are allowed"},
        {UINT64_MAX,
         "mem: not a safetensors file: a header of 18446744073709551615 bytes, at most 100000000 are allowed"},
        {UINT64_MAX - 7, "mem: not a safetensors file: a header of 18446744073709551608 bytes"},
        {(uint64_t)1 << 63, "mem: not a safetensors file: a header of 9223372036854775808 bytes"},
        {0, "mem: header: line 1, column 1: expected '{' at the start of the header, found the end"},
        {1, "mem: header: line 1, column 2: expected a key in quotation marks, found the end"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct asdm_safetensors *file;
        struct asdm_error err;
        size_t size;
        unsigned char *memory = make_file("{}", 2, cases[i].announced, 0, &size);
        assert_int_equal(asdm_safetensors_open_memory(memory, size, "mem", &file, &err), ASDM_ERR_FORMAT);
        assert_memory_equal(err.message, cases[i].message, strlen(cases[i].message));
        free(memory);
    }
}

static void every_cut_of_a_file_is_refused(void **state) {
    (void)state;
    const char *header = "{\"__metadata__\":{\"k\":\"v\"}," F32("a", "[2]", 0, 8) "," F32("b", "[]", 8, 12) "}  ";
    size_t size;
    unsigned char *memory = make_file(header, strlen(header), strlen(header), 12, &size);
    for (size_t cut = 0; cut < size; cut++) {
        unsigned char *part = malloc(cut ? cut : 1);
        assert_non_null(part);
        memcpy(part, memory, cut);
        struct asdm_safetensors *file;
        assert_int_equal(asdm_safetensors_open_memory(part, cut, "mem", &file, NULL), ASDM_ERR_FORMAT);
        free(part);
    }
    free(memory);
}

static void good_files_are_read(void **state) {
    (void)state;
    struct opened o = open_good("{\"__metadata__\":{\"format\":\"pt\",\"\":\"empty key\"},"
                                "\"later\":{\"shape\":[2,3],\"data_offsets\":[8,20],\"dtype\":\"BF16\"},"
                                "\"first\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
                                "\"scalar\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[20,28]}}   \n",
                                28);
    assert_string_equal(asdm_safetensors_path(o.file), "mem");
    assert_int_equal(asdm_safetensors_count(o.file), 3);
    static const char *const order[] = {"first", "later", "scalar"}; /* by place, not by mention */
    for (size_t i = 0; i < 3; i++) {
        const struct asdm_tensor *tensor = asdm_safetensors_at(o.file, i);
        assert_string_equal(tensor->name, order[i]);
        assert_ptr_equal(asdm_safetensors_find(o.file, order[i]), tensor);
    }
    const struct asdm_tensor *later = asdm_safetensors_find(o.file, "later");
    assert_int_equal(later->dtype, ASDM_BF16);
    assert_int_equal(later->rank, 2);
    assert_int_equal(later->dims[0], 2);
    assert_int_equal(later->dims[1], 3);
    assert_int_equal(later->count, 6);
    assert_int_equal(later->bytes, 12);
    assert_int_equal(*(const unsigned char *)later->data, 8); /* the bytes count up */
    const struct asdm_tensor *scalar = asdm_safetensors_find(o.file, "scalar");
    assert_int_equal(scalar->rank, 0);
    assert_int_equal(scalar->count, 1);
    assert_null(asdm_safetensors_find(o.file, "fir"));
    assert_null(asdm_safetensors_find(o.file, "format")); /* metadata are elsewhere */
    assert_string_equal(asdm_safetensors_metadata(o.file, "format"), "pt");
    assert_string_equal(asdm_safetensors_metadata(o.file, ""), "empty key");
    assert_null(asdm_safetensors_metadata(o.file, "first"));
    asdm_safetensors_release(o.file, later); /* nothing to give back */
    close_opened(&o);
}

static void empty_files_and_tensors_are_legal(void **state) {
    (void)state;
    struct opened o = open_good("{}", 0);
    assert_int_equal(asdm_safetensors_count(o.file), 0);
    assert_null(asdm_safetensors_find(o.file, "a"));
    assert_null(asdm_safetensors_metadata(o.file, "a"));
    close_opened(&o);
    o = open_good(
        "{" F32("z", "[0]", 4, 4) "," F32("a", "[1]", 0, 4) "," F32("y", "[7,0,9223372036854775807]", 0, 0) "}", 4);
    assert_int_equal(asdm_safetensors_count(o.file), 3);
    assert_string_equal(asdm_safetensors_at(o.file, 0)->name, "y");
    assert_string_equal(asdm_safetensors_at(o.file, 2)->name, "z");
    assert_int_equal(asdm_safetensors_find(o.file, "y")->count, 0);
    close_opened(&o);
    o = open_good("{" F32("", "[1,1,1,1,1,1,1,1]", 0, 4) "}", 4); /* the empty name, the most dimensions */
    assert_int_equal(asdm_safetensors_find(o.file, "")->rank, 8);
    close_opened(&o);
}

static void names_are_decoded(void **state) {
    (void)state;
    struct opened o = open_good("{" F32("a\\u002eb\\\"\\ud83d\\ude00", "[1]", 0, 4) "}", 4);
    assert_non_null(asdm_safetensors_find(o.file, "a.b\"\xf0\x9f\x98\x80"));
    close_opened(&o);
    o = open_good("{\"a\":{\"d\\u0074ype\":\"F\\u0031\\u0036\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4);
    assert_int_equal(asdm_safetensors_find(o.file, "a")->dtype, ASDM_F16);
    close_opened(&o);
}

static void other_dtypes_are_listed(void **state) {
    (void)state;
    struct opened o = open_good("{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"
                                "\"b\":{\"dtype\":\"F8_E4M3\",\"shape\":[5],\"data_offsets\":[3,8]},"
                                "\"c\":{\"dtype\":\"\",\"shape\":[4],\"data_offsets\":[8,10]},"
                                "\"d\":{\"dtype\":\"f32\",\"shape\":[1],\"data_offsets\":[10,14]}}",
                                14);
    assert_int_equal(asdm_safetensors_at(o.file, 0)->dtype, ASDM_U8);
    for (size_t i = 1; i < 4; i++)
        assert_int_equal(asdm_safetensors_at(o.file, i)->dtype, ASDM_OTHER_DTYPE);
    assert_int_equal(asdm_safetensors_find(o.file, "b")->bytes, 5);
    assert_int_equal(asdm_safetensors_find(o.file, "c")->count, 4);
    close_opened(&o);
}

static void misaligned_data_is_converted(void **state) {
    (void)state;
    struct opened o =
        open_good("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}," F32("b", "[4]", 1, 17) "}", 17);
    const struct asdm_tensor *tensor = asdm_safetensors_find(o.file, "b");
    float values[4];
    asdm_tensor_to_f32(tensor, 0, 4, values);
    assert_memory_equal(values, tensor->data, 16);
    close_opened(&o);
}

static void many_tensors_are_read_fast(void **state) {
    (void)state;
    enum { COUNT = 200000 };
    size_t room = COUNT * 100, used = 0, size;
    char *header = malloc(room);
    assert_non_null(header);
    for (int i = 0; i < COUNT; i++) /* listed backwards, so that they have to be sorted */
        used += (size_t)snprintf(header + used, room - used,
                                 "%c\"t%d\":{\"dtype\":\"I32\",\"shape\":[1],\"data_offsets\":[%d,%d]}", i ? ',' : '{',
                                 i, 4 * (COUNT - 1 - i), 4 * (COUNT - i));
    header[used++] = '}';
    unsigned char *memory = make_file(header, used, used, 4 * COUNT, &size);
    struct asdm_safetensors *file;
    clock_t start = clock();
    assert_int_equal(asdm_safetensors_open_memory(memory, size, "mem", &file, NULL), ASDM_OK);
    assert_string_equal(asdm_safetensors_at(file, 0)->name, "t199999");
    for (int i = 0; i < COUNT; i++) {
        char name[16];
        snprintf(name, sizeof name, "t%d", i);
        assert_non_null(asdm_safetensors_find(file, name));
    }
    assert_true((double)(clock() - start) / CLOCKS_PER_SEC < 10); /* a quadratic step takes minutes */
    asdm_safetensors_close(&file);
    free(memory);
    free(header);
}

static const float floats[6] = {1, -2, 3.5f, 0, 1e30f, -0.0f};
static const uint16_t halves[3] = {0x3c00, 0x8000, 0x7c00};
static const int64_t longs[1] = {-5};
static const struct asdm_tensor written[] = {
    {"b.half", ASDM_F16, 1, {3}, halves, 3, 6},
    {"z \"q\"\\\n\xc3\xa9", ASDM_F32, 2, {2, 3}, floats, 6, 24},
    {"a.scalar", ASDM_I64, 0, {0}, longs, 1, 8},
    {"c.empty", ASDM_BF16, 2, {4, 0}, NULL, 0, 0},
};
static const char *const metadata[] = {"format", "pt", "k\x01", "v\"\\", NULL};

static void written_files_read_back(void **state) {
    (void)state;
    const char *path = "test_safetensors.tmp.safetensors";
    struct asdm_error err;
    if (asdm_safetensors_write(path, written, 4, metadata, &err) != ASDM_OK)
        fail_msg("%s", err.message);
    struct asdm_safetensors *file;
    assert_int_equal(asdm_safetensors_open(path, &file, NULL), ASDM_OK);
    assert_int_equal(asdm_safetensors_count(file), 4);
    for (size_t i = 0; i < 4; i++) {
        const struct asdm_tensor *tensor = asdm_safetensors_find(file, written[i].name);
        assert_non_null(tensor);
        assert_int_equal(tensor->dtype, written[i].dtype);
        assert_int_equal(tensor->rank, written[i].rank);
        assert_memory_equal(tensor->dims, written[i].dims, sizeof tensor->dims);
        assert_int_equal(tensor->bytes, written[i].bytes);
        if (tensor->bytes) {
            assert_int_equal((uintptr_t)tensor->data % asdm_dtype_bytes(tensor->dtype), 0);
            assert_memory_equal(tensor->data, written[i].data, tensor->bytes);
        }
        asdm_safetensors_release(file, tensor);
    }
    assert_string_equal(asdm_safetensors_metadata(file, "format"), "pt");
    assert_string_equal(asdm_safetensors_metadata(file, "k\x01"), "v\"\\");
    asdm_safetensors_close(&file);
    unlink(path);
}

static void written_bytes_do_not_depend_on_the_order(void **state) {
    (void)state;
    const char *path = "test_safetensors.tmp.safetensors";
    struct asdm_tensor shuffled[] = {written[3], written[1], written[0], written[2]};
    char *one, *two;
    size_t size_one, size_two;
    assert_int_equal(asdm_safetensors_write(path, written, 4, NULL, NULL), ASDM_OK);
    assert_int_equal(asdm_file_read(path, 1 << 20, &one, &size_one, NULL), ASDM_OK);
    assert_int_equal(asdm_safetensors_write(path, shuffled, 4, NULL, NULL), ASDM_OK);
    assert_int_equal(asdm_file_read(path, 1 << 20, &two, &size_two, NULL), ASDM_OK);
    assert_int_equal(size_one, size_two);
    assert_memory_equal(one, two, size_one);
    free(one);
    free(two);
    assert_int_equal(asdm_safetensors_write(path, NULL, 0, NULL, NULL), ASDM_OK); /* no tensors at all */
    assert_int_equal(asdm_file_read(path, 1 << 20, &one, &size_one, NULL), ASDM_OK);
    assert_int_equal(size_one, 16);
    assert_memory_equal(one, "\x08\0\0\0\0\0\0\0{}      ", 16);
    free(one);
    unlink(path);
}

static void what_no_reader_takes_is_not_written(void **state) {
    (void)state;
    const char *path = "test_safetensors.refused.safetensors";
    static const char *const odd[] = {"key", NULL}, *const twice[] = {"k", "1", "k", "2", NULL};
    static const char *const broken[] = {"k", "\xff", NULL};
    const struct asdm_tensor good = {"a", ASDM_F32, 1, {6}, floats, 6, 24};
    struct asdm_tensor bad[9];
    for (int i = 0; i < 9; i++)
        bad[i] = good;
    bad[0].dims[0] = 5, bad[1].bytes = 23, bad[2].dtype = ASDM_OTHER_DTYPE, bad[3].rank = 9, bad[4].dims[0] = -6;
    bad[5].name = "__metadata__", bad[6].name = "\xc3", bad[7].name = NULL, bad[8].count = 7;
    for (int i = 0; i < 9; i++)
        assert_int_equal(asdm_safetensors_write(path, &bad[i], 1, NULL, NULL), ASDM_ERR_ARGUMENT);
    const struct asdm_tensor same[] = {good, good};
    struct asdm_error err;
    assert_int_equal(asdm_safetensors_write(path, same, 2, NULL, &err), ASDM_ERR_ARGUMENT);
    assert_string_equal(err.message, "test_safetensors.refused.safetensors: two tensors are called \"a\"");
    assert_int_equal(asdm_safetensors_write(path, &good, 1, odd, NULL), ASDM_ERR_ARGUMENT);
    assert_int_equal(asdm_safetensors_write(path, &good, 1, twice, NULL), ASDM_ERR_ARGUMENT);
    assert_int_equal(asdm_safetensors_write(path, &good, 1, broken, NULL), ASDM_ERR_ARGUMENT);
    assert_int_equal(asdm_safetensors_write("absent/x", &good, 1, NULL, NULL), ASDM_ERR_NOT_FOUND);
    assert_false(asdm_file_exists(path));
}

static void files_that_cannot_be_opened_are_named(void **state) {
    (void)state;
    struct asdm_safetensors *file;
    struct asdm_error err;
    assert_int_equal(asdm_safetensors_open("absent.safetensors", &file, &err), ASDM_ERR_NOT_FOUND);
    assert_memory_equal(err.message, "absent.safetensors: ", 20);
    assert_int_equal(asdm_safetensors_open(".", &file, &err), ASDM_ERR_IO);
    assert_string_equal(err.message, ".: is a directory, not a file");
    assert_int_equal(asdm_safetensors_open_memory(NULL, 0, "none", &file, &err), ASDM_ERR_FORMAT);
    assert_string_equal(err.message, "none: 0 bytes are too few for a safetensors file");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(malformed_headers_are_refused_in_words),
        cmocka_unit_test(bad_lengths_are_refused),
        cmocka_unit_test(every_cut_of_a_file_is_refused),
        cmocka_unit_test(good_files_are_read),
        cmocka_unit_test(empty_files_and_tensors_are_legal),
        cmocka_unit_test(names_are_decoded),
        cmocka_unit_test(other_dtypes_are_listed),
        cmocka_unit_test(misaligned_data_is_converted),
        cmocka_unit_test(many_tensors_are_read_fast),
        cmocka_unit_test(written_files_read_back),
        cmocka_unit_test(written_bytes_do_not_depend_on_the_order),
        cmocka_unit_test(what_no_reader_takes_is_not_written),
        cmocka_unit_test(files_that_cannot_be_opened_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
