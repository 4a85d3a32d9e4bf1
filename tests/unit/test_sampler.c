#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "sampler/sampler.h"

#ifndef ASDM_TEST_DATA
#define ASDM_TEST_DATA "tests/unit/data"
#endif

enum { ELEMENTS = 4, LINE_MAX_BYTES = 4096 };

static const double tolerance = 1e-4; /* of the largest latent */

/* The noise, image and model of tests/support/sampler_reference.py. */
static void fill_noise(int draw, float *dst) {
    for (int i = 0; i < ELEMENTS; i++)
        dst[i] = (float)(1.5 * sin(12.9898 * (draw * ELEMENTS + i) + 0.3));
}

static void fill_image(float *dst) {
    for (int i = 0; i < ELEMENTS; i++)
        dst[i] = (float)(-1.2 + 0.7 * i);
}

static void run_model(const float *x, double scale, double timestep, float *dst) {
    for (int i = 0; i < ELEMENTS; i++) {
        double seen = (double)(float)(x[i] * scale);
        dst[i] = (float)(0.8 * sin(1.3 * seen + 0.002 * timestep + 0.5 * i) + 0.1 * seen);
    }
}

/* Final latents, the number of draws and the sum of timesteps of one table. */
static void run_table(const struct asdm_sampler_table *table, float *latents, int *ret_draws, double *ret_sum) {
    float noise[ELEMENTS], model[ELEMENTS], saved[ASDM_SAMPLER_HISTORY_MAX][ELEMENTS] = {{0}};
    float *history[ASDM_SAMPLER_HISTORY_MAX];
    int draws = 0;
    double sum = 0.0;
    fill_image(latents);
    fill_noise(0, noise);
    for (int i = 0; i < ELEMENTS; i++)
        latents[i] = (float)(table->start_image * latents[i] + table->start_noise * noise[i]);
    for (int k = 0; k < ASDM_SAMPLER_HISTORY_MAX; k++)
        history[k] = saved[k];
    for (int r = 0; r < table->row_count; r++) {
        const struct asdm_sampler_row *row = &table->rows[r];
        assert_in_range(row->step, 0, table->step_count - 1);
        if (row->draws_noise)
            fill_noise(++draws, noise);
        run_model(latents, row->input_scale, row->timestep, model);
        asdm_sampler_row_apply(row, table->history_count, latents, history, model, row->draws_noise ? noise : NULL,
                               ELEMENTS);
        sum += row->timestep;
    }
    *ret_draws = draws;
    *ret_sum = sum;
}

static enum asdm_status parse(const char *text, struct asdm_scheduler_config *ret, struct asdm_error *err) {
    struct asdm_json *json = NULL;
    enum asdm_status status = asdm_json_parse(text, strlen(text), "test.json", &json, err);
    if (status == ASDM_OK)
        status = asdm_scheduler_config_parse(json, "test.json", ret, err);
    asdm_json_destroy(&json);
    return status;
}

static void parse_ok(const char *text, struct asdm_scheduler_config *ret) {
    struct asdm_error err;
    if (parse(text, ret, &err) != ASDM_OK)
        fail_msg("%s: %s", text, err.message);
}

/* One line of the reference file; returns the error relative to the largest latent. */
static double check_run(const struct asdm_scheduler_config *config, const char *line, enum asdm_sampler *ret_sampler) {
    char name[32], schedule_name[32];
    enum asdm_schedule schedule = ASDM_SCHEDULE_DEFAULT;
    struct asdm_sampler_table *table = NULL;
    struct asdm_error err;
    int steps, rows, draws, used = 0, ours;
    double strength, sum, our_sum, worst = 0.0, largest = 1e-3, expected[ELEMENTS];
    float latents[ELEMENTS];
    int fields = sscanf(line, "%31s %31s %d %lf %d %d %lf %n", name, schedule_name, &steps, &strength, &rows, &draws,
                        &sum, &used);
    assert_int_equal(fields, 7);
    assert_int_equal(sscanf(line + used, "%lf %lf %lf %lf", &expected[0], &expected[1], &expected[2], &expected[3]), 4);
    assert_int_equal(asdm_sampler_find(name, ret_sampler, &schedule, &err), ASDM_OK);
    assert_int_equal(asdm_schedule_find(schedule_name, &schedule, &err), ASDM_OK);
    if (asdm_sampler_table_build(config, *ret_sampler, schedule, steps, strength, &table, &err) != ASDM_OK)
        fail_msg("%s%s", line, err.message);
    run_table(table, latents, &ours, &our_sum);
    for (int i = 0; i < ELEMENTS; i++) {
        worst = fmax(worst, fabs(latents[i] - expected[i]));
        largest = fmax(largest, fabs(expected[i]));
    }
    if (table->row_count != rows || ours != draws)
        fail_msg("%s%d rows, %d draws", line, table->row_count, ours);
    if (fabs(our_sum - sum) > 1e-5 * fmax(sum, 1.0) + 1e-3)
        fail_msg("%stimesteps sum to %g", line, our_sum);
    if (!(worst <= tolerance * largest))
        fail_msg("%sours: %g %g %g %g", line, (double)latents[0], (double)latents[1], (double)latents[2],
                 (double)latents[3]);
    free(table);
    return worst / largest;
}

static void test_reference(void **state) {
    FILE *file = fopen(ASDM_TEST_DATA "/sampler_reference.txt", "r");
    char line[LINE_MAX_BYTES];
    struct asdm_scheduler_config config = {.trained_betas = NULL};
    double worst[ASDM_SAMPLER_COUNT] = {0.0};
    int runs = 0;
    (void)state;
    assert_non_null(file);
    while (fgets(line, sizeof line, file)) {
        if (strncmp(line, "config ", 7) == 0) {
            asdm_scheduler_config_done(&config);
            parse_ok(line + 7, &config);
        } else {
            enum asdm_sampler sampler;
            double error = check_run(&config, line, &sampler);
            worst[sampler] = fmax(worst[sampler], error);
            runs++;
        }
    }
    asdm_scheduler_config_done(&config);
    fclose(file);
    assert_true(runs > 3000);
    for (int i = 0; i < ASDM_SAMPLER_COUNT; i++)
        print_message("%-13s largest error %.1e\n", asdm_sampler_name((enum asdm_sampler)i), worst[i]);
}

static void test_names(void **state) {
    static const struct {
        const char *name;
        enum asdm_sampler sampler;
        int schedule; /* -1: left alone */
    } cases[] = {
        {"ddim", ASDM_SAMPLER_DDIM, -1},
        {"DDIM", ASDM_SAMPLER_DDIM, -1},
        {"PLMS", ASDM_SAMPLER_PNDM, -1},
        {"Euler", ASDM_SAMPLER_EULER, -1},
        {"euler karras", ASDM_SAMPLER_EULER, ASDM_SCHEDULE_KARRAS},
        {"Euler a", ASDM_SAMPLER_EULER_A, -1},
        {"euler_a", ASDM_SAMPLER_EULER_A, -1},
        {"Euler a Karras", ASDM_SAMPLER_EULER_A, ASDM_SCHEDULE_KARRAS},
        {"Euler ancestral", ASDM_SAMPLER_EULER_A, -1},
        {"Heun", ASDM_SAMPLER_HEUN, -1},
        {"LMS Karras", ASDM_SAMPLER_LMS, ASDM_SCHEDULE_KARRAS},
        {"DPM++ 2M", ASDM_SAMPLER_DPMPP_2M, -1},
        {"dpm++ 2m karras", ASDM_SAMPLER_DPMPP_2M, ASDM_SCHEDULE_KARRAS},
        {"DPM++ 2M SDE", ASDM_SAMPLER_DPMPP_2M_SDE, -1},
        {"DPM++ 2M SDE Karras", ASDM_SAMPLER_DPMPP_2M_SDE, ASDM_SCHEDULE_KARRAS},
        {"DPM++ 2M SDE Exponential", ASDM_SAMPLER_DPMPP_2M_SDE, ASDM_SCHEDULE_EXPONENTIAL},
        {"DPM++ 2M SGM Uniform", ASDM_SAMPLER_DPMPP_2M, ASDM_SCHEDULE_SGM_UNIFORM},
        {"dpm++_2m_sde", ASDM_SAMPLER_DPMPP_2M_SDE, -1},
        {"k_dpmpp_2m", ASDM_SAMPLER_DPMPP_2M, -1},
        {"UniPC", ASDM_SAMPLER_UNIPC, -1},
        {"LCM", ASDM_SAMPLER_LCM, -1},
        {"ddpm", ASDM_SAMPLER_DDPM, -1},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        enum asdm_sampler sampler = ASDM_SAMPLER_COUNT;
        enum asdm_schedule schedule = ASDM_SCHEDULE_COUNT;
        struct asdm_error err;
        if (asdm_sampler_find(cases[i].name, &sampler, &schedule, &err) != ASDM_OK)
            fail_msg("%s: %s", cases[i].name, err.message);
        assert_int_equal(sampler, cases[i].sampler);
        assert_int_equal(schedule, cases[i].schedule < 0 ? (int)ASDM_SCHEDULE_COUNT : cases[i].schedule);
    }
    for (int i = 0; i < ASDM_SAMPLER_COUNT; i++) {
        enum asdm_sampler sampler;
        enum asdm_schedule schedule;
        assert_int_equal(asdm_sampler_find(asdm_sampler_name((enum asdm_sampler)i), &sampler, &schedule, NULL),
                         ASDM_OK);
        assert_int_equal(sampler, i);
    }
}

static void test_unknown_names(void **state) {
    static const char *const samplers[] = {"", "eulerx", "DPM++ 2S a", "ddim karras x", "euler a b", "karras"};
    enum asdm_sampler sampler = ASDM_SAMPLER_LMS;
    enum asdm_schedule schedule = ASDM_SCHEDULE_KARRAS;
    struct asdm_error err;
    (void)state;
    for (size_t i = 0; i < sizeof samplers / sizeof *samplers; i++) {
        assert_int_equal(asdm_sampler_find(samplers[i], &sampler, &schedule, &err), ASDM_ERR_ARGUMENT);
        assert_non_null(strstr(err.message, "dpm++_2m_sde"));
    }
    assert_int_equal(sampler, ASDM_SAMPLER_LMS);
    assert_int_equal(schedule, ASDM_SCHEDULE_KARRAS);
    assert_int_equal(asdm_schedule_find("polyexponential", &schedule, &err), ASDM_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "sgm_uniform"));
    assert_int_equal(asdm_schedule_find("SGM Uniform", &schedule, &err), ASDM_OK);
    assert_int_equal(schedule, ASDM_SCHEDULE_SGM_UNIFORM);
    assert_int_equal(asdm_schedule_find("Automatic", &schedule, &err), ASDM_OK);
    assert_int_equal(schedule, ASDM_SCHEDULE_DEFAULT);
}

/* Refused when the file is read; the message names the file and the key. */
static void test_config_refusals(void **state) {
    static const struct {
        const char *text, *named;
        enum asdm_status status;
    } cases[] = {
        {"[]", "object", ASDM_ERR_FORMAT},
        {"{\"shiny\": 1}", "shiny", ASDM_ERR_UNSUPPORTED},
        {"{\"prediction_type\": \"sample\"}", "prediction_type", ASDM_ERR_UNSUPPORTED},
        {"{\"prediction_type\": \"flow_prediction\"}", "flow_prediction", ASDM_ERR_UNSUPPORTED},
        {"{\"predict_epsilon\": false}", "predict_epsilon", ASDM_ERR_UNSUPPORTED},
        {"{\"beta_schedule\": \"sigmoid\"}", "scaled_linear", ASDM_ERR_UNSUPPORTED},
        {"{\"beta_start\": \"0.1\"}", "beta_start", ASDM_ERR_FORMAT},
        {"{\"beta_end\": 2}", "beta_end", ASDM_ERR_FORMAT},
        {"{\"num_train_timesteps\": 100000}", "num_train_timesteps", ASDM_ERR_FORMAT},
        {"{\"num_train_timesteps\": 3, \"trained_betas\": [0.1, 0.2]}", "trained_betas", ASDM_ERR_FORMAT},
        {"{\"num_train_timesteps\": 2, \"trained_betas\": [0.1, -0.2]}", "trained_betas", ASDM_ERR_FORMAT},
        {"{\"num_train_timesteps\": 2, \"trained_betas\": [0.1, \"a\"]}", "trained_betas", ASDM_ERR_FORMAT},
        {"{\"timestep_spacing\": \"sideways\"}", "timestep_spacing", ASDM_ERR_UNSUPPORTED},
        {"{\"steps_offset\": 0.5}", "steps_offset", ASDM_ERR_FORMAT},
        {"{\"clip_sample\": 1}", "clip_sample", ASDM_ERR_FORMAT},
        {"{\"variance_type\": \"learned_range\"}", "variance_type", ASDM_ERR_UNSUPPORTED},
        {"{\"variance_type\": \"fixed_large_log\"}", "variance_type", ASDM_ERR_UNSUPPORTED},
        {"{\"algorithm_type\": \"other\"}", "algorithm_type", ASDM_ERR_UNSUPPORTED},
        {"{\"solver_type\": \"other\"}", "solver_type", ASDM_ERR_UNSUPPORTED},
        {"{\"solver_order\": 5}", "solver_order", ASDM_ERR_FORMAT},
        {"{\"solver_p\": {}}", "solver_p", ASDM_ERR_UNSUPPORTED},
        {"{\"use_flow_sigmas\": true}", "use_flow_sigmas", ASDM_ERR_UNSUPPORTED},
        {"{\"use_dynamic_shifting\": true}", "use_dynamic_shifting", ASDM_ERR_UNSUPPORTED},
        {"{\"shift_terminal\": 0.1}", "shift_terminal", ASDM_ERR_UNSUPPORTED},
        {"{\"disable_corrector\": [0.5]}", "disable_corrector", ASDM_ERR_FORMAT},
        {"{\"use_karras_sigmas\": true, \"use_exponential_sigmas\": true}", "use_karras_sigmas", ASDM_ERR_FORMAT},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct asdm_scheduler_config config = {.train_steps = -7};
        struct asdm_error err;
        if (parse(cases[i].text, &config, &err) != cases[i].status)
            fail_msg("%s: not status %d", cases[i].text, (int)cases[i].status);
        if (!strstr(err.message, cases[i].named) || !strstr(err.message, "test.json"))
            fail_msg("%s: message is \"%s\"", cases[i].text, err.message);
        assert_int_equal(config.train_steps, -7);
    }
}

static void test_config_accepts(void **state) {
    struct asdm_scheduler_config config;
    (void)state;
    parse_ok("{}", &config);
    assert_int_equal(config.spacing, -1);
    assert_int_equal(config.clip_sample, -1);
    assert_true(isnan(config.beta_start));
    parse_ok("{\"_anything\": [1], \"thresholding\": false, \"solver_p\": null, \"flow_shift\": 3.0, "
             "\"sample_max_value\": 1,"
             "\"trained_betas\": null, \"clip_sample\": null, \"use_flow_sigmas\": false, \"variance_type\": null,"
             "\"skip_prk_steps\": true, \"disable_corrector\": [], \"_class_name\": \"DDIMScheduler\"}",
             &config);
    assert_int_equal(config.clip_sample, 0);
    assert_int_equal(config.skip_prk_steps, 1);
    assert_int_equal(config.set_alpha_to_one, -1);
    assert_string_equal(config.class_name, "DDIMScheduler");
    assert_int_equal(asdm_sampler_default(&config), ASDM_SAMPLER_DDIM);
    asdm_scheduler_config_init(&config);
    assert_int_equal(asdm_sampler_default(&config), ASDM_SAMPLER_PNDM);
    parse_ok("{\"_class_name\": \"DPMSolverMultistepScheduler\", \"algorithm_type\": \"sde-dpmsolver++\"}", &config);
    assert_int_equal(asdm_sampler_default(&config), ASDM_SAMPLER_DPMPP_2M_SDE);
}

static void test_follow_pipeline(void **state) {
    struct asdm_scheduler_config config;
    (void)state;
    parse_ok("{}", &config);
    asdm_scheduler_config_follow_pipeline(&config, false);
    assert_int_equal(config.steps_offset, -1);
    assert_int_equal(config.clip_sample, -1);
    asdm_scheduler_config_follow_pipeline(&config, true);
    assert_int_equal(config.steps_offset, 1);
    assert_int_equal(config.clip_sample, 0);
    parse_ok("{\"steps_offset\": 0, \"clip_sample\": true}", &config);
    assert_int_equal(config.steps_offset, 0);
    asdm_scheduler_config_follow_pipeline(&config, false);
    assert_int_equal(config.steps_offset, 1);
    assert_int_equal(config.clip_sample, 0);
}

/* diffusers writes -Infinity, which is no JSON, for one key. */
static void test_config_file(void **state) {
    static const struct {
        const char *text;
        enum asdm_status status;
    } cases[] = {
        {"{\"lambda_min_clipped\": -Infinity, \"steps_offset\": 1}", ASDM_OK},
        {"{\"lambda_min_clipped\":-Infinity}", ASDM_OK},
        {"{\"lambda_min_clipped\": -5.1}", ASDM_OK},
        {"{\"beta_start\": -Infinity}", ASDM_ERR_FORMAT},
        {"{\"lambda_min_clipped\": Infinity}", ASDM_ERR_FORMAT},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[] = "/tmp/asdm-test-sampler-XXXXXX";
        struct asdm_scheduler_config config;
        struct asdm_error err;
        int fd = mkstemp(path);
        assert_true(fd >= 0);
        assert_int_equal(write(fd, cases[i].text, strlen(cases[i].text)), strlen(cases[i].text));
        close(fd);
        assert_int_equal(asdm_scheduler_config_read(path, &config, &err), cases[i].status);
        unlink(path);
    }
    struct asdm_scheduler_config config;
    assert_int_equal(asdm_scheduler_config_read("/nowhere/scheduler_config.json", &config, NULL), ASDM_ERR_NOT_FOUND);
}

static void expect_refusal(const char *text, enum asdm_sampler sampler, enum asdm_schedule schedule, int steps,
                           double strength, enum asdm_status status, const char *named) {
    struct asdm_scheduler_config config;
    struct asdm_sampler_table *table = NULL;
    struct asdm_error err = {.message = ""};
    parse_ok(text, &config);
    if (asdm_sampler_table_build(&config, sampler, schedule, steps, strength, &table, &err) != status)
        fail_msg("%s, %s, %d steps: not status %d (%s)", text, asdm_sampler_name(sampler), steps, (int)status,
                 err.message);
    assert_null(table);
    if (!strstr(err.message, named))
        fail_msg("%s: \"%s\" does not name %s", text, err.message, named);
    asdm_scheduler_config_done(&config);
}

static void test_table_refusals(void **state) {
    const enum asdm_schedule plain = ASDM_SCHEDULE_DEFAULT;
    (void)state;
    expect_refusal("{}", ASDM_SAMPLER_EULER, plain, 0, -1.0, ASDM_ERR_ARGUMENT, "1 to 1000");
    expect_refusal("{}", ASDM_SAMPLER_EULER, plain, 1001, -1.0, ASDM_ERR_ARGUMENT, "1 to 1000");
    expect_refusal("{\"num_train_timesteps\": 20}", ASDM_SAMPLER_DDIM, plain, 21, -1.0, ASDM_ERR_ARGUMENT, "1 to 20");
    expect_refusal("{}", ASDM_SAMPLER_EULER, plain, 10, 1.01, ASDM_ERR_ARGUMENT, "strength");
    expect_refusal("{}", ASDM_SAMPLER_EULER, plain, 10, NAN, ASDM_ERR_ARGUMENT, "strength");
    expect_refusal("{}", ASDM_SAMPLER_LCM, plain, 51, -1.0, ASDM_ERR_ARGUMENT, "1 to 50");
    expect_refusal("{}", ASDM_SAMPLER_PNDM, plain, 3, -1.0, ASDM_ERR_ARGUMENT, "at least 4");
    expect_refusal("{}", ASDM_SAMPLER_DDIM, ASDM_SCHEDULE_KARRAS, 9, -1.0, ASDM_ERR_ARGUMENT, "default, sgm_uniform");
    expect_refusal("{}", ASDM_SAMPLER_DDPM, ASDM_SCHEDULE_EXPONENTIAL, 9, -1.0, ASDM_ERR_ARGUMENT, "exponential");
    expect_refusal("{}", ASDM_SAMPLER_LCM, ASDM_SCHEDULE_SGM_UNIFORM, 9, -1.0, ASDM_ERR_ARGUMENT, "it has: default");
    /* past the last training step */
    expect_refusal("{\"steps_offset\": 1}", ASDM_SAMPLER_DDIM, plain, 1000, -1.0, ASDM_ERR_ARGUMENT, "steps_offset");
    /* pure noise tells a model of noise nothing */
    expect_refusal("{\"rescale_betas_zero_snr\": true, \"timestep_spacing\": \"trailing\"}", ASDM_SAMPLER_DDIM, plain,
                   10, -1.0, ASDM_ERR_ARGUMENT, "timestep 999");
    /* all timesteps the same */
    expect_refusal("{\"timestep_spacing\": \"leading\"}", ASDM_SAMPLER_DPMPP_2M, plain, 1000, -1.0, ASDM_ERR_ARGUMENT,
                   "cannot step");
    expect_refusal("{\"thresholding\": true}", ASDM_SAMPLER_DDIM, plain, 9, -1.0, ASDM_ERR_UNSUPPORTED, "thresholding");
    expect_refusal("{\"use_beta_sigmas\": true}", ASDM_SAMPLER_HEUN, plain, 9, -1.0, ASDM_ERR_UNSUPPORTED,
                   "use_beta_sigmas");
    expect_refusal("{\"algorithm_type\": \"dpmsolver\"}", ASDM_SAMPLER_DPMPP_2M, plain, 9, -1.0, ASDM_ERR_UNSUPPORTED,
                   "algorithm_type");
}

static struct asdm_sampler_table *build(const char *text, enum asdm_sampler sampler, enum asdm_schedule schedule,
                                        int steps, double strength) {
    struct asdm_scheduler_config config;
    struct asdm_sampler_table *table = NULL;
    struct asdm_error err;
    parse_ok(text, &config);
    if (asdm_sampler_table_build(&config, sampler, schedule, steps, strength, &table, &err) != ASDM_OK)
        fail_msg("%s: %s", text, err.message);
    asdm_scheduler_config_done(&config);
    return table;
}

/* What a sampler's class does not read cannot stop it. */
static void test_keys_of_others(void **state) {
    (void)state;
    free(build("{\"thresholding\": true}", ASDM_SAMPLER_EULER, ASDM_SCHEDULE_DEFAULT, 5, -1.0));
    free(build("{\"use_beta_sigmas\": true}", ASDM_SAMPLER_DDIM, ASDM_SCHEDULE_DEFAULT, 5, -1.0));
    free(build("{\"use_beta_sigmas\": true}", ASDM_SAMPLER_HEUN, ASDM_SCHEDULE_KARRAS, 5, -1.0));
    free(build("{\"algorithm_type\": \"dpmsolver\"}", ASDM_SAMPLER_UNIPC, ASDM_SCHEDULE_DEFAULT, 5, -1.0));
}

static void test_strength_zero(void **state) {
    (void)state;
    for (int i = 0; i < ASDM_SAMPLER_COUNT; i++) {
        struct asdm_sampler_table *table = build("{}", (enum asdm_sampler)i, ASDM_SCHEDULE_DEFAULT, 10, 0.0);
        assert_int_equal(table->row_count, 0);
        assert_int_equal(table->step_count, 0);
        assert_true(table->start_image == 1.0 && table->start_noise == 0.0);
        free(table);
    }
}

static void test_steps_of_rows(void **state) {
    struct asdm_sampler_table *table = build("{}", ASDM_SAMPLER_HEUN, ASDM_SCHEDULE_DEFAULT, 10, 0.5);
    (void)state;
    assert_int_equal(table->step_count, 5);
    assert_int_equal(table->row_count, 9);
    for (int i = 0; i < table->row_count; i++)
        assert_int_equal(table->rows[i].step, i / 2);
    free(table);
    table = build("{\"skip_prk_steps\": true}", ASDM_SAMPLER_PNDM, ASDM_SCHEDULE_DEFAULT, 10, -1.0);
    assert_int_equal(table->row_count, 11);
    assert_int_equal(table->rows[1].step, 0);
    assert_int_equal(table->rows[10].step, 9);
    assert_true(table->rows[1].timestep == table->rows[2].timestep);
    free(table);
    table = build("{}", ASDM_SAMPLER_PNDM, ASDM_SCHEDULE_DEFAULT, 10, -1.0);
    assert_int_equal(table->row_count, 19);
    assert_int_equal(table->rows[11].step, 2);
    assert_int_equal(table->rows[18].step, 9);
    free(table);
}

/* diffusers has no ancestral Karras: it must visit Euler's sigmas, and split each next one into noise and what is
 * stepped to. */
static void test_ancestral_karras(void **state) {
    enum { STEPS = 12 };
    (void)state;
    for (int schedule = ASDM_SCHEDULE_KARRAS; schedule <= ASDM_SCHEDULE_EXPONENTIAL; schedule++) {
        struct asdm_sampler_table *plain = build("{}", ASDM_SAMPLER_EULER, (enum asdm_schedule)schedule, STEPS, -1.0);
        struct asdm_sampler_table *noisy = build("{}", ASDM_SAMPLER_EULER_A, (enum asdm_schedule)schedule, STEPS, -1.0);
        assert_int_equal(noisy->row_count, STEPS);
        assert_true(plain->start_noise == noisy->start_noise);
        for (int i = 0; i < STEPS; i++) {
            const struct asdm_sampler_row *a = &plain->rows[i], *b = &noisy->rows[i];
            double sigma = -a->convert_model, next = sigma + a->latents[ASDM_IN_MODEL];
            double down = sigma + b->latents[ASDM_IN_MODEL], up = b->latents[ASDM_IN_NOISE];
            assert_true(a->timestep == b->timestep && a->input_scale == b->input_scale);
            assert_true(b->draws_noise);
            assert_true(fabs(hypot(down, up) - next) < 1e-9);
            assert_true(fabs(up - next * sqrt(fmax(1.0 - next * next / (sigma * sigma), 0.0))) < 1e-9);
        }
        free(plain);
        free(noisy);
    }
}

/* A row reads only values from before it, clamps what it converts, and needs no noise where none is drawn. */
static void test_row_apply(void **state) {
    struct asdm_sampler_row row = {.convert_latents = 2.0, .convert_model = 1.0, .clamp = 3.0};
    float latents[2] = {1.0f, 5.0f}, model[2] = {0.5f, -1.0f}, noise[2] = {10.0f, 20.0f};
    float first[2] = {100.0f, 200.0f}, second[2] = {7.0f, 8.0f};
    float *history[2] = {first, second};
    (void)state;
    row.latents[ASDM_IN_CONVERTED] = 1.0;
    row.latents[ASDM_IN_NOISE] = 2.0;
    row.latents[ASDM_IN_HISTORY + 1] = 1.0;
    row.history[0][ASDM_IN_LATENTS] = 1.0;
    row.history[0][ASDM_IN_MODEL] = 4.0;
    row.history[1][ASDM_IN_HISTORY] = 1.0;
    asdm_sampler_row_apply(&row, 2, latents, history, model, noise, 2);
    assert_true(latents[0] == 2.5f + 20.0f + 7.0f && latents[1] == 3.0f + 40.0f + 8.0f);
    assert_true(first[0] == 3.0f && first[1] == 1.0f);
    assert_true(second[0] == 100.0f && second[1] == 200.0f);
    asdm_sampler_row_apply(&row, 1, latents, history, model, NULL, 2);
    assert_true(latents[0] == 3.0f);
    assert_true(second[0] == 100.0f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference),       cmocka_unit_test(test_names),
        cmocka_unit_test(test_unknown_names),   cmocka_unit_test(test_config_refusals),
        cmocka_unit_test(test_config_accepts),  cmocka_unit_test(test_config_file),
        cmocka_unit_test(test_follow_pipeline), cmocka_unit_test(test_table_refusals),
        cmocka_unit_test(test_keys_of_others),  cmocka_unit_test(test_strength_zero),
        cmocka_unit_test(test_steps_of_rows),   cmocka_unit_test(test_ancestral_karras),
        cmocka_unit_test(test_row_apply),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
