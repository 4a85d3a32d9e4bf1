/* Nothing is allocated in a step after the first: every allocator of the process is counted, libraries' calls included.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdatomic.h>
#include <stdlib.h>

#include <cmocka.h>

#include <asdm/batch.h>

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#else
#define SANITIZED 0

static atomic_long allocations;

/* glibc's own entry points, under the names that it keeps for such replacements. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

void *malloc(size_t size) {
    atomic_fetch_add(&allocations, 1);
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size) {
    atomic_fetch_add(&allocations, 1);
    return __libc_calloc(count, size);
}

void *realloc(void *memory, size_t size) {
    atomic_fetch_add(&allocations, 1);
    return __libc_realloc(memory, size);
}

void *memalign(size_t alignment, size_t size);
void *memalign(size_t alignment, size_t size) {
    atomic_fetch_add(&allocations, 1);
    return __libc_memalign(alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size) {
    return memalign(alignment, size);
}

int posix_memalign(void **ret, size_t alignment, size_t size) {
    *ret = memalign(alignment, size);
    return *ret ? 0 : 12;
}
#endif

static struct asdm_model *open_demo(enum asdm_model_dtype dtype) {
    struct asdm_model_options options = {.device = "cpu", .dtype = dtype};
    struct asdm_model *model;
    struct asdm_error err;
    enum asdm_status status = asdm_model_open(ASDM_DEMO_MODEL, &options, &model, &err);
    if (status == ASDM_ERR_UNSUPPORTED)
        skip(); /* a build without oneDNN, a processor without bf16 */
    if (status != ASDM_OK)
        fail_msg("%s", err.message);
    return model;
}

static void count_steps(enum asdm_model_dtype dtype, const char *sampler) {
#if SANITIZED
    (void)dtype;
    (void)sampler;
    (void)open_demo;
    skip(); /* the sanitizer owns the allocators */
#else
    struct asdm_model *model = open_demo(dtype);
    struct asdm_batch *batch;
    struct asdm_request request;
    uint64_t id;
    long most = 0;
    asdm_request_init(&request);
    request.prompt = "a red house";
    request.width = request.height = 64;
    request.steps = 12;
    request.sampler = sampler;
    assert_int_equal(asdm_batch_create(model, &(struct asdm_batch_options){2, 0}, &batch, NULL), ASDM_OK);
    assert_int_equal(asdm_batch_submit(batch, &request, &id, NULL), ASDM_OK);
    request.seed = 1;
    assert_int_equal(asdm_batch_submit(batch, &request, &id, NULL), ASDM_OK);
    int both = 0; /* steps that had both pictures */
    struct asdm_batch_report report = {.pictures = 2};
    while (!both || report.pictures == 2) {
        long before = atomic_load(&allocations);
        assert_int_equal(asdm_batch_step(batch, &report, NULL), ASDM_OK);
        assert_true(report.worked);
        long during = atomic_load(&allocations) - before;
        both += report.pictures == 2;
        /* The first step of both pictures, and of each precision, makes its plans. */
        if (report.pictures == 2 && both > 1 && !(dtype == ASDM_DTYPE_BF16 && both < 7) && during > most)
            most = during;
    }
    assert_true(both > 8);
    asdm_batch_destroy(&batch);
    asdm_model_close(&model);
    assert_int_equal(most, 0);
#endif
}

static void test_fp32(void **state) {
    (void)state;
    count_steps(ASDM_DTYPE_FP32, "euler_a");
}

static void test_bf16(void **state) {
    (void)state;
    count_steps(ASDM_DTYPE_BF16, "dpm++_2m");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_fp32), cmocka_unit_test(test_bf16)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
