#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <version.h>

#include "front/dialect/a1111.h"
#include "front/job/infotext.h"

void a1111_write_node(const struct asdm_json *node, struct buffer *to) {
    switch (asdm_json_type(node)) {
    case ASDM_JSON_NULL:
        buffer_text(to, "null");
        return;
    case ASDM_JSON_BOOL:
        buffer_text(to, asdm_json_bool(node) ? "true" : "false");
        return;
    case ASDM_JSON_NUMBER:
        buffer_json_number(to, asdm_json_number(node));
        return;
    case ASDM_JSON_STRING:
        buffer_json(to, asdm_json_string(node));
        return;
    default:
        break;
    }
    bool object = asdm_json_type(node) == ASDM_JSON_OBJECT;
    buffer_text(to, object ? "{" : "[");
    const struct asdm_json *first = asdm_json_first(node);
    for (const struct asdm_json *child = first; child; child = asdm_json_next(child)) {
        buffer_text(to, child == first ? "" : ",");
        if (object) {
            buffer_json(to, asdm_json_key(child));
            buffer_text(to, ":");
        }
        a1111_write_node(child, to);
    }
    buffer_text(to, object ? "}" : "]");
}

/* ---- parameters */

enum { BOTH, T2I, I2I };

/* A1111's fields with its defaults as JSON; NULL: what the request became. */
static const struct {
    const char *name, *value;
    int kind;
} parameters[] = {
    {"prompt", NULL, BOTH},
    {"negative_prompt", NULL, BOTH},
    {"styles", "[]", BOTH},
    {"seed", "-1", BOTH},
    {"subseed", "-1", BOTH},
    {"subseed_strength", "0", BOTH},
    {"seed_resize_from_h", "-1", BOTH},
    {"seed_resize_from_w", "-1", BOTH},
    {"sampler_name", NULL, BOTH},
    {"sampler_index", NULL, BOTH},
    {"scheduler", NULL, BOTH},
    {"batch_size", "1", BOTH},
    {"n_iter", "1", BOTH},
    {"steps", NULL, BOTH},
    {"cfg_scale", NULL, BOTH},
    {"width", NULL, BOTH},
    {"height", NULL, BOTH},
    {"restore_faces", "false", BOTH},
    {"tiling", "false", BOTH},
    {"do_not_save_samples", "false", BOTH},
    {"do_not_save_grid", "false", BOTH},
    {"eta", "null", BOTH},
    {"denoising_strength", NULL, BOTH},
    {"s_min_uncond", "null", BOTH},
    {"s_churn", "null", BOTH},
    {"s_tmax", "null", BOTH},
    {"s_tmin", "null", BOTH},
    {"s_noise", "null", BOTH},
    {"override_settings", "{}", BOTH},
    {"override_settings_restore_afterwards", "true", BOTH},
    {"refiner_checkpoint", "null", BOTH},
    {"refiner_switch_at", "null", BOTH},
    {"disable_extra_networks", "false", BOTH},
    {"comments", "null", BOTH},
    {"enable_hr", "false", T2I},
    {"firstphase_width", "0", T2I},
    {"firstphase_height", "0", T2I},
    {"hr_scale", "2", T2I},
    {"hr_upscaler", "null", T2I},
    {"hr_second_pass_steps", "0", T2I},
    {"hr_resize_x", "0", T2I},
    {"hr_resize_y", "0", T2I},
    {"hr_checkpoint_name", "null", T2I},
    {"hr_sampler_name", "null", T2I},
    {"hr_scheduler", "null", T2I},
    {"hr_prompt", "\"\"", T2I},
    {"hr_negative_prompt", "\"\"", T2I},
    {"resize_mode", "0", I2I},
    {"image_cfg_scale", "null", I2I},
    {"mask_blur", "null", I2I},
    {"inpainting_fill", "0", I2I},
    {"inpaint_full_res", "true", I2I},
    {"inpaint_full_res_padding", "0", I2I},
    {"inpainting_mask_invert", "0", I2I},
    {"initial_noise_multiplier", "null", I2I},
    {"include_init_images", "false", I2I},
    {"script_name", "null", BOTH},
    {"script_args", "[]", BOTH},
    {"send_images", "true", BOTH},
    {"save_images", "false", BOTH},
    {"alwayson_scripts", "{}", BOTH},
    {"infotext", "null", BOTH},
};

static void write_understood(const char *name, const struct job_request *request, struct buffer *to) {
    if (strcmp(name, "prompt") == 0)
        buffer_json(to, request->prompt);
    else if (strcmp(name, "negative_prompt") == 0)
        buffer_json(to, request->negative_prompt);
    else if (strncmp(name, "sampler", strlen("sampler")) == 0)
        buffer_json(to, infotext_sampler_label(request->sampler));
    else if (strcmp(name, "scheduler") == 0)
        buffer_json(to, infotext_schedule_label(request->schedule));
    else if (strcmp(name, "cfg_scale") == 0)
        buffer_json_number(to, request->guidance_scale);
    else if (strcmp(name, "denoising_strength") == 0)
        buffer_json_number(to, request->strength);
    else
        buffer_print(to, "%d", *name == 's' ? request->steps : *name == 'w' ? request->width : request->height);
}

void a1111_write_parameters(const struct asdm_json *object, const struct job_request *request, struct buffer *to) {
    int other = request->i2i ? T2I : I2I;
    buffer_text(to, "{");
    for (size_t i = 0; i < sizeof parameters / sizeof *parameters; i++) {
        if (parameters[i].kind == other)
            continue;
        const struct asdm_json *given = asdm_json_get(object, parameters[i].name);
        buffer_print(to, "%s\"%s\":", i ? "," : "", parameters[i].name);
        if (given && asdm_json_type(given) != ASDM_JSON_NULL)
            a1111_write_node(given, to);
        else if (parameters[i].value)
            buffer_text(to, parameters[i].value);
        else
            write_understood(parameters[i].name, request, to);
    }
    buffer_text(to, request->i2i ? ",\"init_images\":null,\"mask\":null}" : "}");
}

/* ---- info */

void a1111_timestamp(int64_t unix_ms, char ret[16]) {
    time_t seconds = (time_t)(unix_ms / 1000);
    struct tm parts;
    if (!gmtime_r(&seconds, &parts) || strftime(ret, 16, "%Y%m%d%H%M%S", &parts) == 0)
        strcpy(ret, "0");
}

struct info {
    const struct job_view *view;
    const struct model_view *model;
};

static void write_prompt(const struct info *info, int picture, struct buffer *to) {
    (void)picture;
    buffer_json(to, info->view->request->prompt);
}

static void write_negative(const struct info *info, int picture, struct buffer *to) {
    (void)picture;
    buffer_json(to, info->view->request->negative_prompt);
}

static void write_seed(const struct info *info, int picture, struct buffer *to) {
    buffer_print(to, "%llu", (unsigned long long)info->view->request->seed + (unsigned long long)picture);
}

/* A1111 counts them up although variation is off. */
static void write_subseed(const struct info *info, int picture, struct buffer *to) {
    write_seed(info, picture, to);
}

static void write_infotext(const struct info *info, int picture, struct buffer *to) {
    char *text = infotext_write(info->view->request, picture, info->model->name, info->model->sha256);
    if (text)
        buffer_json(to, text);
    else
        to->failed = true;
    free(text);
}

/* One entry for each finished picture, as in "images". */
static void write_list(const struct info *info, const char *name,
                       void (*write)(const struct info *info, int picture, struct buffer *to), struct buffer *to) {
    bool first = true;
    buffer_print(to, ",\"%s\":[", name);
    for (int i = 0; i < info->view->request->count; i++) {
        if (!info->view->images[i].png)
            continue;
        buffer_text(to, first ? "" : ",");
        write(info, i, to);
        first = false;
    }
    buffer_text(to, "]");
}

static int first_picture(const struct job_view *view) {
    for (int i = 0; i < view->request->count; i++)
        if (view->images[i].png)
            return i;
    return 0;
}

static void write_numbers(const struct asdm_json *object, const struct job_request *request, struct buffer *to) {
    const struct asdm_json *batch = asdm_json_get(object, "batch_size");
    bool given = batch && asdm_json_type(batch) == ASDM_JSON_NUMBER;
    buffer_print(to, ",\"width\":%d,\"height\":%d,\"steps\":%d,\"batch_size\":%d,\"cfg_scale\":", request->width,
                 request->height, request->steps, given ? (int)asdm_json_number(batch) : 1);
    buffer_json_number(to, request->guidance_scale);
    buffer_text(to, ",\"denoising_strength\":");
    if (request->i2i)
        buffer_json_number(to, request->strength);
    else
        buffer_text(to, "null");
}

void a1111_write_info(const struct asdm_json *object, const struct job_view *view, const struct model_view *model,
                      struct buffer *to) {
    const struct job_request *request = view->request;
    struct info info = {view, model};
    char timestamp[16], hash[11];
    int first = first_picture(view);
    a1111_timestamp(view->created_unix_ms, timestamp);
    snprintf(hash, sizeof hash, "%.10s", model->sha256);
    buffer_text(to, "{\"prompt\":");
    buffer_json(to, request->prompt);
    write_list(&info, "all_prompts", write_prompt, to);
    buffer_text(to, ",\"negative_prompt\":");
    buffer_json(to, request->negative_prompt);
    write_list(&info, "all_negative_prompts", write_negative, to);
    buffer_text(to, ",\"seed\":");
    write_seed(&info, first, to);
    write_list(&info, "all_seeds", write_seed, to);
    buffer_text(to, ",\"subseed\":");
    write_subseed(&info, first, to);
    write_list(&info, "all_subseeds", write_subseed, to);
    buffer_text(to, ",\"subseed_strength\":0,\"seed_resize_from_w\":-1,\"seed_resize_from_h\":-1,\"sampler_name\":");
    buffer_json(to, infotext_sampler_label(request->sampler));
    write_numbers(object, request, to);
    buffer_text(to, ",\"restore_faces\":false,\"face_restoration_model\":null,\"sd_model_name\":");
    buffer_json(to, model->name);
    buffer_print(to, ",\"sd_model_hash\":\"%s\",\"sd_vae_name\":null,\"sd_vae_hash\":null", hash);
    buffer_text(to, ",\"extra_generation_params\":{\"Schedule type\":");
    buffer_json(to, infotext_schedule_label(request->schedule));
    buffer_text(to, "},\"index_of_first_image\":0,\"styles\":[],\"clip_skip\":1");
    buffer_text(to, ",\"is_using_inpainting_conditioning\":false");
    write_list(&info, "infotexts", write_infotext, to);
    buffer_print(to, ",\"job_timestamp\":\"%s\",\"version\":\"asdm " ASDM_VERSION "\"}", timestamp);
}
