/* A row of a UNet call has the same bits whatever rows are beside it: every number of rows that plans are made for
 * against each row alone, in each precision, on sizes that suit kernels and sizes that do not; and so of light models,
 * whose kernels rows share or do not.
 * test_invariance [DEVICE]: cpu by default. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <ftw.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <asdm/light.h>
#include <asdm/tune.h>
#include "ops/harness.h"
#include "run/internal.h"
#include "run/predict.h"

enum { ROWS = 16, SIZES = 7 };

static const char *device = "cpu";

static const int sizes[SIZES][2] = {{8, 8}, {5, 7}, {1, 1}, {24, 40}, {48, 48}, {32, 32}, {3, 64}};

static void check(enum asdm_status status, const struct asdm_error *err) {
    if (status != ASDM_OK)
        fail_msg("%s", err->message);
}

struct rows {
    struct asdm_denoiser *denoiser;
    struct asdm_state state;
    int32_t prompts[ROWS], timesteps[ROWS];
};

static void add_rows(struct rows *rows, size_t width) {
    struct asdm_error err;
    struct asdm_rng rng;
    float *embeds = malloc((size_t)ASDM_PROMPT_TOKENS * width * sizeof *embeds);
    asdm_rng_init(&rng, ASDM_RNG_PHILOX, 1);
    for (int r = 0; r < ROWS; r++) {
        float timestep = (float)(950 - 50 * (r % 5)); /* some rows share theirs */
        asdm_rng_normal(&rng, embeds, (size_t)ASDM_PROMPT_TOKENS * width);
        check(asdm_denoiser_add_prompt(rows->denoiser, embeds, &rows->prompts[r], &err), &err);
        check(asdm_denoiser_add_timesteps(rows->denoiser, &timestep, 1, &rows->timesteps[r], &err), &err);
    }
    free(embeds);
}

static void run(struct rows *rows, int first, int count, int height, int width, const float *in, float *out) {
    struct asdm_error err;
    size_t numbers = (size_t)ASDM_LATENT_CHANNELS * (size_t)height * (size_t)width;
    check(asdm_predict(rows->denoiser, &rows->state, count, height, width, in + (size_t)first * numbers,
                       rows->prompts + first, rows->timesteps + first, out + (size_t)first * numbers, &err),
          &err);
}

static void compare(struct rows *rows, int height, int width, int most) {
    size_t numbers = (size_t)ASDM_LATENT_CHANNELS * (size_t)height * (size_t)width;
    float *in = malloc(ROWS * numbers * sizeof *in), *alone = malloc(ROWS * numbers * sizeof *alone);
    float *together = malloc(ROWS * numbers * sizeof *together);
    struct asdm_rng rng;
    asdm_rng_init(&rng, ASDM_RNG_PHILOX, 2);
    asdm_rng_normal(&rng, in, ROWS * numbers);
    for (int r = 0; r < most; r++)
        run(rows, r, 1, height, width, in, alone);
    for (int count = 2; count <= most; count *= 2)
        for (int first = 0; first + count <= most; first += count) {
            run(rows, first, count, height, width, in, together);
            for (int r = first; r < first + count; r++)
                if (memcmp(together + (size_t)r * numbers, alone + (size_t)r * numbers, numbers * sizeof *in) != 0)
                    fail_msg("row %d of %d at %d x %d differs", r - first, count, height, width);
        }
    free(in);
    free(alone);
    free(together);
}

/* ---- light models: the demo's, with routers that were given numbers, so that rows differ in their kernels */

static char light_paths[2][64];

static void fill_routers(const char *path) {
    struct asdm_safetensors *file;
    struct asdm_error err;
    struct asdm_rng rng;
    static struct asdm_tensor tensors[4096];
    static float numbers[1 << 20];
    size_t used = 0;
    check(asdm_safetensors_open(path, &file, &err), &err);
    size_t count = asdm_safetensors_count(file);
    asdm_rng_init(&rng, ASDM_RNG_PHILOX, 3);
    for (size_t i = 0; i < count; i++) {
        tensors[i] = *asdm_safetensors_at(file, i);
        if (!strstr(tensors[i].name, ".router.weight"))
            continue;
        tensors[i].data = numbers + used;
        asdm_rng_normal(&rng, numbers + used, tensors[i].count);
        for (size_t j = 0; j < tensors[i].count; j++)
            numbers[used + j] *= 0.1f;
        used += tensors[i].count;
    }
    check(asdm_safetensors_write(path, tensors, count, NULL, &err), &err);
    asdm_safetensors_close(&file);
}

static int make_light(void **state) {
    static const char *const routings[] = {"full", "timestep"};
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct asdm_light_options options = {.remove = "pair32,pair16,pair4,mid",
                                             .gri = "32,16",
                                             .gri_window = 8,
                                             .gri_pool = 4,
                                             .condconv = routings[i],
                                             .force = true};
        struct asdm_light_report report;
        struct asdm_error err;
        char weights[128];
        snprintf(light_paths[i], sizeof light_paths[i], "/tmp/asdm-invariance-%ld-%d", (long)getpid(), i);
        check(asdm_light_prune(ASDM_DEMO_MODEL, light_paths[i], &options, &report, &err), &err);
        snprintf(weights, sizeof weights, "%s/unet/diffusion_pytorch_model.safetensors", light_paths[i]);
        fill_routers(weights);
    }
    return 0;
}

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *walk) {
    (void)info;
    (void)kind;
    (void)walk;
    return remove(path);
}

static int remove_light(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++)
        nftw(light_paths[i], remove_one, 8, FTW_DEPTH | FTW_PHYS);
    return 0;
}

/* `path`: NULL for random weights; `plan`: NULL for the built-in choices of kernels. */
static void test_with_plan(enum asdm_model_dtype dtype, const char *path, const char *plan) {
    struct asdm_model_options options = {.device = device, .dtype = dtype, .threads = 2, .plan = plan};
    struct asdm_model *model;
    struct asdm_error err;
    struct rows rows = {0};
    bool demo = path != NULL;
    enum asdm_status status = demo ? asdm_model_open(path, &options, &model, &err)
                                   : asdm_model_open_random("bk-tiny", &options, &model, &err);
    if (status == ASDM_ERR_UNSUPPORTED || status == ASDM_ERR_MEMORY)
        skip(); /* this processor has no bf16, or this machine not so much memory */
    check(status, &err);
    assert_true(!plan || (model->choices && asdm_choices_count(model->choices) > 0));
    check(asdm_model_denoiser(model, ASDM_PRECISION_MAIN, 1, &rows.denoiser, &err), &err);
    add_rows(&rows, (size_t)model->text.width);
    for (int i = 0; i < (demo ? SIZES : 1); i++)
        compare(&rows, sizes[i][0], sizes[i][1], demo ? ROWS : 4);
    asdm_state_done(&rows.state);
    asdm_model_close(&model);
}

static void test_model(enum asdm_model_dtype dtype, const char *path) {
    test_with_plan(dtype, path, NULL);
}

/* Kernels that were chosen by measurement, the vendor's among them. */
static void test_demo_tuned(void **state) {
    struct asdm_model_options options = {.device = device, .dtype = ASDM_DTYPE_FP16};
    const int rows[] = {1, 2, 4, 8, 16};
    struct asdm_tune_watch watch = {0};
    struct asdm_model *model;
    struct asdm_error err;
    char plan[] = "/tmp/asdm-invariance-XXXXXX";
    (void)state;
    if (asdm_model_open(ASDM_DEMO_MODEL, &options, &model, &err) != ASDM_OK)
        skip(); /* no fp16 here */
    int file = mkstemp(plan);
    assert_true(file >= 0);
    close(file);
    unlink(plan);
    struct asdm_tune_options tune = {rows, 5, 256, 256, plan};
    check(asdm_tune_run(model, &tune, &watch, &err), &err);
    asdm_model_close(&model);
    test_with_plan(ASDM_DTYPE_FP16, ASDM_DEMO_MODEL, plan);
    unlink(plan);
}

static void test_demo_fp32(void **state) {
    (void)state;
    test_model(ASDM_DTYPE_FP32, ASDM_DEMO_MODEL);
}

static void test_demo_bf16(void **state) {
    (void)state;
    test_model(ASDM_DTYPE_BF16, ASDM_DEMO_MODEL);
}

static void test_demo_fp16(void **state) {
    (void)state;
    test_model(ASDM_DTYPE_FP16, ASDM_DEMO_MODEL);
}

static void test_demo_tf32(void **state) {
    (void)state;
    test_model(ASDM_DTYPE_TF32, ASDM_DEMO_MODEL);
}

static void test_wide_fp32(void **state) {
    (void)state;
    test_model(ASDM_DTYPE_FP32, NULL);
}

static void test_wide_bf16(void **state) {
    (void)state;
    test_model(ASDM_DTYPE_BF16, NULL);
}

static void test_wide_fp16(void **state) {
    (void)state;
    test_model(ASDM_DTYPE_FP16, NULL);
}

static void test_light_fp32(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++)
        test_model(ASDM_DTYPE_FP32, light_paths[i]);
}

static void test_light_bf16(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++)
        test_model(ASDM_DTYPE_BF16, light_paths[i]);
}

static void test_light_fp16(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++)
        test_model(ASDM_DTYPE_FP16, light_paths[i]);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_demo_fp32),  cmocka_unit_test(test_demo_bf16),  cmocka_unit_test(test_demo_fp16),
        cmocka_unit_test(test_wide_fp32),  cmocka_unit_test(test_wide_bf16),  cmocka_unit_test(test_wide_fp16),
        cmocka_unit_test(test_light_fp32), cmocka_unit_test(test_light_bf16), cmocka_unit_test(test_light_fp16),
        cmocka_unit_test(test_demo_tf32),  cmocka_unit_test(test_demo_tuned)};
    device = argc > 1 ? argv[1] : device;
    if (!test_has_device(device))
        return TEST_SKIPPED;
    return cmocka_run_group_tests(tests, make_light, remove_light);
}
