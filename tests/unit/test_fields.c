/* front/dialect/fields.h: every field of every dialect, good and bad, out of JSON and forms. Models, samplers and the
 * exchange are stand-ins; PNG, JSON and base64 are the real ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <asdm/error.h>

#include "front/dialect/fields.h"
#include "front/dialect/form.h"

/* ---- stand-ins */

static char *names[] = {"demo", "large"};
static struct config config = {.steps_max = 150, .pixels_max = 1 << 20, .count_max = 12, .default_deadline_ms = 7000};
static struct dialect dialect = {.config = &config};

int jobs_model_find(const struct jobs *jobs, const char *name) {
    (void)jobs;
    for (int i = 0; name && i < 2; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    return name ? -1 : 0;
}

void jobs_model(struct jobs *jobs, int model, struct model_view *ret) {
    (void)jobs;
    *ret = (struct model_view){.name = names[model],
                               .default_width = model ? 512 : 64,
                               .default_height = model ? 512 : 96,
                               .pixels_max = 512 * 512};
}

void job_request_done(struct job_request *request) {
    free(request->prompt);
    free(request->negative_prompt);
    free(request->idempotency_key);
    free(request->mask);
    asdm_image_done(&request->init);
    *request = (struct job_request){0};
}

static double resolved_strength; /* what the last call was given */

enum asdm_status asdm_sampling_resolve(const struct asdm_sampling *sampling, const char *sampler, const char *schedule,
                                       int steps, double strength, struct asdm_sampling_choice *ret,
                                       struct asdm_error *err) {
    (void)sampling;
    resolved_strength = strength;
    bool suffixed = sampler && strcmp(sampler, "DPM++ 2M Karras") == 0;
    if (sampler && !suffixed && strcmp(sampler, "euler") != 0 && strcmp(sampler, "Euler a") != 0)
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "sampler \"%s\" is not known; known: euler", sampler);
    if (schedule && strcmp(schedule, "karras") != 0 && strcmp(schedule, "default") != 0)
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "schedule: \"%s\" is not known; known: default, karras", schedule);
    if (strength >= 0 && strength * steps < 1)
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "strength: no step is left of %d", steps);
    bool karras = schedule ? *schedule == 'k' : suffixed;
    *ret = (struct asdm_sampling_choice){suffixed                     ? "dpm++_2m"
                                         : sampler && *sampler == 'E' ? "euler_a"
                                                                      : "euler",
                                         karras ? "karras" : "default", steps, steps};
    return ASDM_OK;
}

static const char *body_type, *body_text;

const char *http_header(const struct http_exchange *exchange, const char *name) {
    (void)exchange;
    assert_string_equal(name, "Content-Type");
    return body_type;
}

const unsigned char *http_body(const struct http_exchange *exchange, size_t *ret_size) {
    (void)exchange;
    *ret_size = strlen(body_text);
    return (const unsigned char *)body_text;
}

/* ---- pictures: 2 x 1, black and white; RGBA (white, alpha 0 and 255); 1 x 1 */

#define PNG_BW "iVBORw0KGgoAAAANSUhEUgAAAAIAAAABCAIAAAB7QOjdAAAAD0lEQVR4nGNgYGD4//8/AAYBAv4CsjmuAAAAAElFTkSuQmCC"
#define PNG_ALPHA "iVBORw0KGgoAAAANSUhEUgAAAAIAAAABCAYAAAD0In+KAAAAEElEQVR4nGP4//8/AxD/BwAe6gb6OStlagAAAABJRU5ErkJggg=="
#define PNG_ONE "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNgYGAAAAAEAAH2FzhVAAAAAElFTkSuQmCC"

/* ---- reading */

static bool read_json(enum dialect_kind kind, bool i2i, const char *text, struct job_request *ret,
                      struct problem *ret_problem) {
    struct asdm_json *root;
    struct asdm_error err;
    if (asdm_json_parse(text, strlen(text), "test", &root, &err) != ASDM_OK)
        fail_msg("%s: %s", text, err.message);
    memset(ret, 0x5a, sizeof *ret);
    *ret_problem = (struct problem){0};
    bool good = fields_read(&dialect, kind, i2i, root, ret, ret_problem);
    asdm_json_destroy(&root);
    return good;
}

static void read_good(enum dialect_kind kind, bool i2i, const char *text, struct job_request *ret) {
    struct problem problem;
    if (!read_json(kind, i2i, text, ret, &problem))
        fail_msg("%s: %s", text, problem.message);
}

struct bad {
    const char *text, *code, *field, *message; /* message: NULL: begins with the field */
};

static void expect_bad(enum dialect_kind kind, bool i2i, const struct bad *bad, int status) {
    struct job_request request;
    struct problem problem;
    if (read_json(kind, i2i, bad->text, &request, &problem)) {
        job_request_done(&request);
        fail_msg("accepted: %s", bad->text);
    }
    if (problem.status != status || strcmp(problem.field, bad->field) != 0 || strcmp(problem.code, bad->code) != 0 ||
        strncmp(problem.message, bad->field, strlen(bad->field)) != 0)
        fail_msg("%s: %d %s, field \"%s\": %s", bad->text, problem.status, problem.code, problem.field,
                 problem.message);
    if (bad->message)
        assert_string_equal(problem.message, bad->message);
}

static void native_defaults(void **state) {
    (void)state;
    struct job_request request;
    read_good(DIALECT_NATIVE, false, "{\"prompt\":\"a cat\"}", &request);
    assert_string_equal(request.prompt, "a cat");
    assert_string_equal(request.negative_prompt, "");
    assert_int_equal(request.model, 0);
    assert_int_equal(request.width, 64);
    assert_int_equal(request.height, 96);
    assert_int_equal(request.steps, 25);
    assert_int_equal(request.count, 1);
    assert_int_equal(request.evaluations, 25);
    assert_string_equal(request.sampler, "euler");
    assert_string_equal(request.schedule, "default");
    assert_true(request.guidance_scale == 7.5 && request.strength == 0.75 && resolved_strength == -1);
    assert_true(request.seed < (uint64_t)1 << 32);
    assert_int_equal(request.syntax, ASDM_PROMPT_PLAIN);
    assert_int_equal(request.rng, ASDM_REQUEST_PHILOX);
    assert_true(!request.init.rgb && !request.mask && !request.idempotency_key);
    assert_int_equal(request.previews, 0);
    assert_int_equal(request.priority, 5);
    assert_int_equal(request.deadline_ms, 7000);
    uint64_t seed = request.seed;
    job_request_done(&request);
    read_good(DIALECT_NATIVE, false, "{\"prompt\":\"a cat\",\"seed\":null,\"model\":null}", &request);
    assert_true(request.seed != seed);
    job_request_done(&request);
}

static void every_native_field_arrives(void **state) {
    (void)state;
    struct job_request request;
    read_good(DIALECT_NATIVE, false,
              "{\"kind\":\"i2i\",\"model\":\"large\",\"prompt\":\"p\",\"negative_prompt\":\"n\",\"width\":128,"
              "\"height\":256,\"steps\":7,\"sampler\":\"Euler a\",\"schedule\":\"karras\",\"guidance_scale\":2.5,"
              "\"seed\":9007199254740991,\"rng\":\"torch\",\"count\":3,\"init_image\":\"" PNG_BW "\","
              "\"strength\":0.5,\"mask\":\"data:image/png;base64," PNG_BW "\",\"previews\":10,\"priority\":1,"
              "\"deadline_ms\":1500,\"idempotency_key\":\"k\",\"prompt_syntax\":\"a1111\"}",
              &request);
    assert_int_equal(request.model, 1);
    assert_string_equal(request.prompt, "p");
    assert_string_equal(request.negative_prompt, "n");
    assert_int_equal(request.width, 128);
    assert_int_equal(request.height, 256);
    assert_int_equal(request.steps, 7);
    assert_string_equal(request.sampler, "euler_a");
    assert_string_equal(request.schedule, "karras");
    assert_true(request.guidance_scale == 2.5 && request.strength == 0.5 && resolved_strength == 0.5);
    assert_true(request.seed == 9007199254740991u);
    assert_int_equal(request.rng, ASDM_REQUEST_TORCH);
    assert_int_equal(request.count, 3);
    assert_int_equal(request.init.width, 2);
    assert_memory_equal(request.init.rgb, "\0\0\0\xff\xff\xff", 6);
    assert_memory_equal(request.mask, "\0\xff", 2);
    assert_int_equal(request.previews, 10);
    assert_int_equal(request.priority, 1);
    assert_int_equal(request.deadline_ms, 1500);
    assert_string_equal(request.idempotency_key, "k");
    assert_int_equal(request.syntax, ASDM_PROMPT_A1111);
    job_request_done(&request);
}

#define P "{\"prompt\":\"p\","
#define I "{\"prompt\":\"p\",\"kind\":\"i2i\",\"init_image\":\"" PNG_BW "\","

static void bad_native_fields_are_named(void **state) {
    (void)state;
    static const struct bad cases[] = {
        {"{}", "missing_field", "prompt", "prompt: is missing"},
        {"{\"prompt\":null}", "missing_field", "prompt", NULL},
        {"{\"prompt\":7}", "invalid_value", "prompt", "prompt: must be a text of at most 8192 bytes of UTF-8, is 7"},
        {P "\"Prompt\":\"x\"}", "unknown_field", "Prompt", "Prompt: there is no such field"},
        {P "\"cfg_scale\":7}", "unknown_field", "cfg_scale", NULL},
        {P "\"kind\":\"t3i\"}", "invalid_value", "kind", "kind: must be \"t2i\" or \"i2i\", is \"t3i\""},
        {P "\"kind\":1}", "invalid_value", "kind", NULL},
        {P "\"model\":\"nope\"}", "unknown_model", "model", "model: \"nope\" is not known; known: demo, large"},
        {P "\"model\":{}}", "invalid_value", "model", NULL},
        {P "\"negative_prompt\":[]}", "invalid_value", "negative_prompt", NULL},
        {P "\"width\":\"64\"}", "invalid_value", "width", "width: must be an integer from 8 to 131072, is \"64\""},
        {P "\"width\":7}", "invalid_value", "width", NULL},
        {P "\"width\":-8}", "invalid_value", "width", NULL},
        {P "\"width\":63}", "invalid_value", "width", "width: must be a multiple of 8 pixels, is 63"},
        {P "\"width\":1e300}", "invalid_value", "width", NULL},
        {P "\"height\":0}", "invalid_value", "height", NULL},
        {P "\"height\":100}", "invalid_value", "height", "height: must be a multiple of 8 pixels, is 100"},
        {P "\"width\":2048,\"height\":2048}", "invalid_value", "width",
         "width: 2048 x 2048 is 4194304 pixels, at most 262144 are allowed"},
        {P "\"steps\":0}", "invalid_value", "steps", "steps: must be an integer from 1 to 150, is 0"},
        {P "\"steps\":151}", "invalid_value", "steps", NULL},
        {P "\"steps\":2.5}", "invalid_value", "steps", "steps: must be an integer from 1 to 150, is 2.5"},
        {P "\"steps\":true}", "invalid_value", "steps", "steps: must be an integer from 1 to 150, is true"},
        {P "\"sampler\":\"warp\"}", "unknown_sampler", "sampler", "sampler: \"warp\" is not known; known: euler"},
        {P "\"sampler\":\"\"}", "unknown_sampler", "sampler", NULL},
        {P "\"schedule\":\"x\"}", "invalid_value", "schedule", NULL},
        {P "\"guidance_scale\":-0.5}", "invalid_value", "guidance_scale",
         "guidance_scale: must be a number from 0 to 100, is -0.5"},
        {P "\"guidance_scale\":101}", "invalid_value", "guidance_scale", NULL},
        {P "\"seed\":-1}", "invalid_value", "seed", NULL},
        {P "\"seed\":9007199254740992}", "invalid_value", "seed", NULL},
        {P "\"seed\":9007199254740993}", "invalid_value", "seed", NULL},
        {P "\"seed\":1.5}", "invalid_value", "seed", NULL},
        {P "\"rng\":\"mt\"}", "invalid_value", "rng", "rng: must be \"philox\" or \"torch\", is \"mt\""},
        {P "\"count\":0}", "invalid_value", "count", NULL},
        {P "\"count\":13}", "invalid_value", "count", "count: must be an integer from 1 to 12, is 13"},
        {P "\"init_image\":\"" PNG_BW "\",\"kind\":\"t2i\"}", "invalid_value", "init_image",
         "init_image: is for requests of kind \"i2i\" only"},
        {P "\"strength\":0.5}", "invalid_value", "strength", NULL},
        {P "\"mask\":\"" PNG_BW "\"}", "invalid_value", "mask", NULL},
        {P "\"kind\":\"i2i\"}", "missing_image", "init_image", NULL},
        {P "\"init_image\":\"http://example.com/a.png\"}", "invalid_value", "init_image",
         "init_image: must be a base64 PNG; the server does not fetch addresses"},
        {P "\"init_image\":\"%%%\"}", "invalid_value", "init_image", "init_image: must be a base64 PNG, is \"%%%\""},
        {P "\"init_image\":\"/9j/4AAQ\"}", "invalid_value", "init_image",
         "init_image: is a JPEG file, not a PNG; convert it first"},
        {P "\"init_image\":\"\"}", "invalid_value", "init_image", NULL},
        {P "\"init_image\":5}", "invalid_value", "init_image", NULL},
        {I "\"strength\":1.01}", "invalid_value", "strength", NULL},
        {I "\"strength\":0}", "invalid_value", "strength", "strength: no step is left of 25"},
        {I "\"mask\":\"" PNG_ONE "\"}", "invalid_value", "mask",
         "mask: must be as large as init_image, which is 2 x 1 pixels, is 1 x 1"},
        {I "\"mask\":\"aGVsbG8=\"}", "invalid_value", "mask", "mask: is not a PNG"},
        {P "\"previews\":11}", "invalid_value", "previews", NULL},
        {P "\"priority\":0}", "invalid_value", "priority", NULL},
        {P "\"priority\":11}", "invalid_value", "priority", NULL},
        {P "\"deadline_ms\":0}", "invalid_value", "deadline_ms", NULL},
        {P "\"deadline_ms\":86400001}", "invalid_value", "deadline_ms", NULL},
        {P "\"idempotency_key\":\"\"}", "invalid_value", "idempotency_key", NULL},
        {P "\"idempotency_key\":3}", "invalid_value", "idempotency_key", NULL},
        {P "\"prompt_syntax\":\"comfy\"}", "invalid_value", "prompt_syntax", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_bad(DIALECT_NATIVE, false, &cases[i], 422);
}

static void sizes_and_texts_end_where_they_should(void **state) {
    (void)state;
    static char text[9000];
    struct job_request request;
    struct problem problem;
    for (int length = 8192; length <= 8193; length++) {
        snprintf(text, sizeof text, "{\"prompt\":\"%0*d\"}", length, 0);
        assert_int_equal(read_json(DIALECT_NATIVE, false, text, &request, &problem), length == 8192);
        if (length == 8192)
            job_request_done(&request);
    }
    assert_string_equal(problem.message, "prompt: must be a text of at most 8192 bytes of UTF-8, has 8193");
    /* Without guidance a picture takes one row, so that twice the pixels fit. */
    read_good(DIALECT_NATIVE, false, P "\"width\":1024,\"height\":512,\"guidance_scale\":1}", &request);
    job_request_done(&request);
    assert_false(read_json(DIALECT_NATIVE, false, P "\"width\":1024,\"height\":512}", &request, &problem));
    config.steps_max = 10;
    read_good(DIALECT_NATIVE, false, "{\"prompt\":\"\"}", &request);
    assert_int_equal(request.steps, 10);
    job_request_done(&request);
    config.steps_max = 150;
}

static void openai_fields_and_aliases(void **state) {
    (void)state;
    struct job_request request;
    read_good(DIALECT_OPENAI, false,
              "{\"prompt\":\"p\",\"model\":\"large\",\"n\":10,\"size\":\"64x128\",\"num_inference_steps\":9,"
              "\"cfg_scale\":3,\"sampler\":\"euler\",\"scheduler\":\"karras\",\"negative_prompt\":\"n\",\"seed\":5,"
              "\"quality\":\"hd\",\"style\":\"vivid\",\"background\":\"auto\",\"user\":\"u\",\"moderation\":\"low\","
              "\"output_compression\":50,\"output_format\":\"png\",\"strength\":9,\"partial_images\":3}",
              &request);
    assert_int_equal(request.count, 10);
    assert_int_equal(request.width, 64);
    assert_int_equal(request.height, 128);
    assert_int_equal(request.steps, 9);
    assert_true(request.guidance_scale == 3 && request.seed == 5);
    assert_string_equal(request.schedule, "karras");
    job_request_done(&request);
    read_good(DIALECT_OPENAI, false, "{\"prompt\":\"p\",\"size\":\"auto\",\"num_inference_steps\":9,\"steps\":8}",
              &request);
    assert_int_equal(request.width, 64);
    assert_int_equal(request.height, 96);
    assert_int_equal(request.steps, 8);
    job_request_done(&request);
}

static void bad_openai_fields_are_400(void **state) {
    (void)state;
    static const struct bad cases[] = {
        {"{}", "missing_field", "prompt", NULL},
        {P "\"n\":11}", "invalid_value", "n", "n: must be an integer from 1 to 10, is 11"},
        {P "\"n\":0}", "invalid_value", "n", NULL},
        {P "\"size\":\"64\"}", "invalid_value", "size",
         "size: must be \"auto\" or WIDTHxHEIGHT in pixels, such as \"64x96\", is \"64\""},
        {P "\"size\":\"64x\"}", "invalid_value", "size", NULL},
        {P "\"size\":\"64x64x64\"}", "invalid_value", "size", NULL},
        {P "\"size\":\"-64x64\"}", "invalid_value", "size", NULL},
        {P "\"size\":\" 64x64\"}", "invalid_value", "size", NULL},
        {P "\"size\":\"0x0\"}", "invalid_value", "size", NULL},
        {P "\"size\":\"65x64\"}", "invalid_value", "size",
         "size: must be of sides that are multiples of 8 pixels, is 65"},
        {P "\"size\":\"99999999999x64\"}", "invalid_value", "size", NULL},
        {P "\"size\":\"99992x99992\"}", "invalid_value", "size", NULL},
        {P "\"size\":64}", "invalid_value", "size", NULL},
        {P "\"num_inference_steps\":0}", "invalid_value", "num_inference_steps", NULL},
        {P "\"cfg_scale\":\"7\"}", "invalid_value", "cfg_scale", NULL},
        {P "\"scheduler\":\"x\"}", "invalid_value", "scheduler",
         "scheduler: \"x\" is not known; known: default, karras"},
        {P "\"sampler\":\"x\"}", "unknown_sampler", "sampler", NULL},
        {P "\"output_format\":\"jpeg\"}", "invalid_value", "output_format",
         "output_format: must be \"png\", is \"jpeg\""},
        {P "\"response_format\":\"b64\"}", "invalid_value", "response_format", NULL},
        {P "\"stream\":1}", "invalid_value", "stream", "stream: must be true or false, is 1"},
        {P "\"partial_images\":4}", "invalid_value", "partial_images", NULL},
    };
    static const struct bad unknown = {P "\"model\":\"dall-e-2\"}", "unknown_model", "model", NULL};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_bad(DIALECT_OPENAI, false, &cases[i], 400);
    expect_bad(DIALECT_OPENAI, false, &unknown, 404);
}

static void openai_says_how_it_wants_the_answer(void **state) {
    (void)state;
    static const struct {
        const char *text;
        bool stream, url, good;
        int previews;
    } cases[] = {{P "\"stream\":true,\"partial_images\":2}", true, false, true, 2},
                 {P "\"partial_images\":2,\"response_format\":\"url\"}", false, true, true, 0},
                 {P "\"stream\":true,\"n\":2}", true, false, false, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct asdm_json *root;
        struct job_request request;
        struct fields_wish wish;
        struct problem problem;
        assert_int_equal(asdm_json_parse(cases[i].text, strlen(cases[i].text), "t", &root, NULL), ASDM_OK);
        struct fields_source source = {.object = root};
        assert_int_equal(fields_read_openai(&dialect, false, &source, &request, &wish, &problem), cases[i].good);
        asdm_json_destroy(&root);
        if (!cases[i].good) {
            assert_int_equal(problem.status, 400);
            assert_string_equal(problem.field, "stream");
            continue;
        }
        assert_int_equal(wish.stream, cases[i].stream);
        assert_int_equal(wish.url, cases[i].url);
        assert_int_equal(request.previews, cases[i].previews);
        job_request_done(&request);
    }
}

static void a1111_fields(void **state) {
    (void)state;
    struct job_request request;
    read_good(DIALECT_A1111, false, "{}", &request);
    assert_string_equal(request.prompt, "");
    assert_int_equal(request.steps, 50);
    assert_true(request.guidance_scale == 7);
    assert_int_equal(request.width, 64);
    assert_int_equal(request.syntax, ASDM_PROMPT_A1111);
    job_request_done(&request);
    read_good(DIALECT_A1111, false,
              "{\"prompt\":\"p\",\"seed\":-1,\"batch_size\":3,\"n_iter\":4,\"sampler_name\":\"\","
              "\"sampler_index\":\"DPM++ 2M Karras\",\"scheduler\":\"Automatic\",\"denoising_strength\":7,"
              "\"override_settings\":{\"sd_model_checkpoint\":\"large [0123456789]\",\"x\":1},\"enable_hr\":false,"
              "\"prompt_syntax\":\"plain\",\"sd_model_checkpoint\":5}",
              &request);
    assert_int_equal(request.count, 12);
    assert_true(request.seed < (uint64_t)1 << 32);
    assert_string_equal(request.sampler, "dpm++_2m");
    assert_string_equal(request.schedule, "karras");
    assert_int_equal(request.model, 1);
    assert_int_equal(request.syntax, ASDM_PROMPT_PLAIN);
    job_request_done(&request);
    read_good(DIALECT_A1111, false, "{\"sampler_index\":\"\",\"sampler_name\":\"Euler a\"}", &request);
    assert_string_equal(request.sampler, "euler_a");
    job_request_done(&request);
}

static void a1111_pictures(void **state) {
    (void)state;
    struct job_request request;
    read_good(DIALECT_A1111, true, "{\"init_images\":[\"" PNG_BW "\",\"x\"],\"mask\":\"" PNG_BW "\"}", &request);
    assert_memory_equal(request.mask, "\0\xff", 2);
    job_request_done(&request);
    read_good(DIALECT_A1111, true,
              "{\"init_images\":[\"" PNG_BW "\"],\"mask\":\"" PNG_ALPHA "\",\"inpainting_mask_invert\":1}", &request);
    assert_memory_equal(request.mask, "\xff\0", 2);
    job_request_done(&request);
}

static void bad_a1111_fields(void **state) {
    (void)state;
    static const struct bad cases[] = {
        {"{\"steps\":0}", "invalid_value", "steps", NULL},
        {"{\"cfg_scale\":\"x\"}", "invalid_value", "cfg_scale", NULL},
        {"{\"batch_size\":7,\"n_iter\":2}", "invalid_value", "n_iter",
         "n_iter: batch_size * n_iter is 14, at most 12 are allowed"},
        {"{\"seed\":-2}", "invalid_value", "seed", NULL},
        {"{\"override_settings\":[]}", "invalid_value", "override_settings", NULL},
        {"{\"scheduler\":\"x\"}", "invalid_value", "scheduler", NULL},
        {"{\"init_images\":\"x\"}", "invalid_value", "init_images",
         "init_images: must be a list of base64 PNGs, is \"x\""},
        {"{\"init_images\":[7]}", "invalid_value", "init_images", NULL},
        {"{\"init_images\":[\"" PNG_BW "\"],\"denoising_strength\":2}", "invalid_value", "denoising_strength", NULL},
        {"{\"init_images\":[\"" PNG_BW "\"],\"inpainting_mask_invert\":2}", "invalid_value", "inpainting_mask_invert",
         "inpainting_mask_invert: must be true, false, 0 or 1, is 2"},
        {"{\"init_images\":[\"" PNG_BW "\"],\"mask\":\"" PNG_ONE "\"}", "invalid_value", "mask",
         "mask: must be as large as init_images, which is 2 x 1 pixels, is 1 x 1"},
    };
    static const struct bad missing[] = {
        {"{}", "missing_image", "init_images", NULL},
        {"{\"init_images\":[]}", "missing_image", "init_images", NULL},
        {"{\"init_images\":[\"" PNG_BW "\"],\"sampler_index\":\"x\"}", "unknown_sampler", "sampler_index", NULL},
        {"{\"override_settings\":{\"sd_model_checkpoint\":\"x\"}}", "unknown_model", "sd_model_checkpoint", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_bad(DIALECT_A1111, true, &cases[i], 422);
    for (size_t i = 0; i < sizeof missing / sizeof *missing; i++)
        expect_bad(DIALECT_A1111, true, &missing[i], 404);
}

/* ---- forms */

static struct form_part part(const char *name, const void *data, size_t size) {
    return (struct form_part){.name = name, .data = data, .size = size};
}

static bool read_form(struct form_part *parts, size_t count, struct job_request *ret, struct problem *ret_problem) {
    unsigned char *data[2];
    size_t size[2];
    struct fields_source source = {.parts = parts, .part_count = count};
    struct fields_wish wish;
    assert_true(base64_decode(PNG_BW, strlen(PNG_BW), &data[0], &size[0]));
    assert_true(base64_decode(PNG_ALPHA, strlen(PNG_ALPHA), &data[1], &size[1]));
    parts[0] = part("image", data[0], size[0]);
    parts[1] = part("mask", data[1], size[1]);
    bool good = fields_read_openai(&dialect, true, &source, ret, &wish, ret_problem);
    free(data[0]);
    free(data[1]);
    return good;
}

static void forms_are_read_like_json(void **state) {
    (void)state;
    struct job_request request;
    struct problem problem;
    struct form_part parts[] = {{0},
                                {0},
                                part("prompt", "caf\xc3\xa9", 5),
                                part("n", "2", 1),
                                part("seed", "9007199254740991", 16),
                                part("guidance_scale", "1.5", 3),
                                part("stream", "false", 5),
                                part("unheard_of", "x", 1)};
    if (!read_form(parts, 8, &request, &problem))
        fail_msg("%s", problem.message);
    assert_string_equal(request.prompt, "caf\xc3\xa9");
    assert_int_equal(request.count, 2);
    assert_true(request.seed == 9007199254740991u && request.guidance_scale == 1.5);
    assert_memory_equal(request.mask, "\xff\0", 2); /* where it is transparent */
    job_request_done(&request);
}

static void bad_forms_are_named(void **state) {
    (void)state;
    static const struct {
        const char *name, *data;
        size_t size;
    } cases[] = {{"n", "2x", 2},        {"n", "", 0},          {"n", "0x2", 3},
                 {"seed", "1e400", 5},  {"n", "nan", 3},       {"stream", "yes", 3},
                 {"prompt", "\xc3", 1}, {"prompt", "a\0b", 3}, {"prompt", "\xed\xa0\x80", 3},
                 {"image", "x", 1},     {"image[]", "x", 1},   {"size", "1x\0", 3}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct job_request request;
        struct problem problem = {0};
        struct form_part parts[] = {{0},
                                    {0},
                                    part(cases[i].name, cases[i].data, cases[i].size),
                                    part("prompt", "p", strcmp(cases[i].name, "prompt") ? 1 : 0)};
        if (read_form(parts, strcmp(cases[i].name, "prompt") ? 4 : 3, &request, &problem))
            fail_msg("accepted: %s = %s", cases[i].name, cases[i].data);
        assert_int_equal(problem.status, 400);
        assert_string_equal(problem.field, cases[i].name);
    }
}

#define TYPE "multipart/form-data; boundary=XX"
#define HEAD "Content-Disposition: form-data; name=\"a\"\r\n\r\n"

static void multipart_bodies_are_cut_at_boundaries(void **state) {
    (void)state;
    static const char body[] =
        "--XX\r\n" HEAD "one\r\n--X\r\n\r\n--XX\r\nContent-Type: image/png\r\n"
        "content-disposition: form-data; filename=\"f;n\"; name=b\r\n\r\n\r\n--XX\r\n" HEAD "\r\n--XX--\r\n";
    struct form form;
    struct problem problem;
    assert_true(form_parse(TYPE, (const unsigned char *)body, sizeof body - 1, &form, &problem));
    assert_int_equal(form.count, 3);
    assert_string_equal(form.parts[0].name, "a");
    assert_null(form.parts[0].file_name);
    assert_int_equal(form.parts[0].size, 10);
    assert_memory_equal(form.parts[0].data, "one\r\n--X\r\n", 10);
    assert_string_equal(form.parts[1].name, "b");
    assert_string_equal(form.parts[1].file_name, "f;n");
    assert_string_equal(form.parts[1].content_type, "image/png");
    assert_int_equal(form.parts[1].size, 0);
    assert_int_equal(form.parts[2].size, 0);
    form_done(&form);
    assert_true(form_parse("Multipart/Form-Data; charset=x; boundary=\"XX\"", (const unsigned char *)"--XX--", 6, &form,
                           &problem));
    assert_int_equal(form.count, 0);
}

static void bad_multipart_is_refused(void **state) {
    (void)state;
    static const struct {
        const char *type, *body;
    } cases[] = {
        {NULL, "--XX--"},
        {"application/json", "{}"},
        {"multipart/form-data", "--XX--"},
        {"multipart/form-data; boundary=", "--XX--"},
        {"multipart/form-data; boundary=\"XX", "--XX--"},
        {"multipart/form-data; boundary=0123456789012345678901234567890123456789012345678901234567890123456789x", "-"},
        {TYPE, ""},
        {TYPE, "preamble\r\n--XX--"},
        {TYPE, "--XX"},
        {TYPE, "--XX\r\n"},
        {TYPE, "--XX--x"},
        {TYPE, "--XX\r\n" HEAD "one"},
        {TYPE, "--XX\r\n" HEAD "one\r\n--XX"},
        {TYPE, "--XX\r\n" HEAD "one\r\n--XXX--"},
        {TYPE, "--XX\r\n" HEAD "one--XX--"},
        {TYPE, "--XX\r\nContent-Type: x\r\n\r\none\r\n--XX--"},
        {TYPE, "--XX\r\nContent-Disposition: form-data\r\n\r\none\r\n--XX--"},
        {TYPE, "--XX\r\nContent-Disposition: attachment; name=a\r\n\r\none\r\n--XX--"},
        {TYPE, "--XX\r\nContent-Transfer-Encoding: base64\r\n" HEAD "one\r\n--XX--"},
        {TYPE, "--XX\n" HEAD "one\r\n--XX--"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct form form;
        struct problem problem = {0};
        size_t size = strlen(cases[i].body);
        unsigned char *exact = malloc(size ? size : 1);
        assert_non_null(exact);
        memcpy(exact, cases[i].body, size);
        if (form_parse(cases[i].type, exact, size, &form, &problem))
            fail_msg("accepted: %s", cases[i].body);
        assert_int_equal(problem.status, 400);
        free(exact);
    }
    /* 65 parts */
    static char many[65 * 64 + 16];
    for (int i = 0; i < 65; i++)
        strcat(many, "--XX\r\n" HEAD "\r\n");
    strcat(many, "--XX--");
    struct form form;
    struct problem problem;
    assert_false(form_parse(TYPE, (const unsigned char *)many, strlen(many), &form, &problem));
}

static void bodies_must_be_json_objects(void **state) {
    (void)state;
    static const struct {
        const char *type, *text;
        bool good;
    } cases[] = {
        {"application/json", "{}", true},
        {"Application/JSON; charset=utf-8", "{}", true},
        {"application/vnd.x+json", "{}", true},
        {NULL, "{}", false},
        {"text/plain", "{}", false},
        {"application/notjson", "{}", false},
        {"application/x-www-form-urlencoded", "{}", false},
        {"json", "{}", false},
        {"application/json", "", false},
        {"application/json", "[]", false},
        {"application/json", "{\"a\":1,\"a\":2}", false},
        {"application/json", "{} x", false},
        {"application/json", "{\"a\":[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]}", true},
        {"application/json", "{\"a\":[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]}", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct asdm_json *root;
        struct problem problem = {0};
        body_type = cases[i].type;
        body_text = cases[i].text;
        if (fields_parse_body(NULL, &root, &problem) != cases[i].good)
            fail_msg("case %zu: %s", i, problem.message);
        if (cases[i].good)
            asdm_json_destroy(&root);
        else
            assert_int_equal(problem.status, 400);
    }
}

int main(void) {
    for (int i = 0; i < 2; i++)
        config.models[i].name = names[i];
    config.model_count = 2;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(native_defaults),
        cmocka_unit_test(every_native_field_arrives),
        cmocka_unit_test(bad_native_fields_are_named),
        cmocka_unit_test(sizes_and_texts_end_where_they_should),
        cmocka_unit_test(openai_fields_and_aliases),
        cmocka_unit_test(bad_openai_fields_are_400),
        cmocka_unit_test(openai_says_how_it_wants_the_answer),
        cmocka_unit_test(a1111_fields),
        cmocka_unit_test(a1111_pictures),
        cmocka_unit_test(bad_a1111_fields),
        cmocka_unit_test(forms_are_read_like_json),
        cmocka_unit_test(bad_forms_are_named),
        cmocka_unit_test(multipart_bodies_are_cut_at_boundaries),
        cmocka_unit_test(bad_multipart_is_refused),
        cmocka_unit_test(bodies_must_be_json_objects),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
