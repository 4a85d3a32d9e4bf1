#include <asdm/batch.h>
#include <asdm/files.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

static const char help[] =
    "Draws pictures from a prompt, or from a prompt and a picture.\n"
    "\n"
    "  asdm generate --model DIR|FILE --prompt TEXT --output OUT.png [options]\n"
    "\n"
    "  --model DIR|FILE           diffusers directory, or one-file .safetensors checkpoint\n"
    "  --tokenizer DIR            vocab.json and merges.txt for a one-file checkpoint\n"
    "  --prompt TEXT              what to draw\n"
    "  --negative-prompt TEXT     what to avoid\n"
    "  --output OUT.png           where the picture goes; more pictures go to OUT-1.png, OUT-2.png, ...\n"
    "  --width N  --height N      pixels, multiples of 8 (default: what the model was made for)\n"
    "  --steps N                  default 25\n"
    "  --sampler NAME             ddim pndm euler euler_a heun lms dpm++_2m dpm++_2m_sde unipc lcm ddpm,\n"
    "                             or as A1111 writes them (default: the checkpoint's)\n"
    "  --schedule NAME            default karras exponential sgm_uniform\n"
    "  --guidance-scale X         default 7.5; 1 or less turns guidance off\n"
    "  --seed N                   default 0; picture k uses seed + k\n"
    "  --rng philox|torch         philox (default) draws as A1111 and GPUs do, torch as diffusers on a CPU\n"
    "  --count N                  number of pictures, default 1\n"
    "  --init-image PNG           start from this picture, resized to width x height\n"
    "  --strength X               how much of it is redrawn, 0 to 1, default 0.75\n"
    "  --device auto|cpu|ref|cuda[:N]\n"
    "  --dtype auto|fp32|tf32|bf16|fp16\n"
    "                             tf32: float32 with products of 10 bits of mantissa, on cuda\n"
    "  --batch-invariant on|off   on (default): a picture's bytes do not depend on what is drawn with it; off lets "
    "cuda\n"
    "                             take other kernels for other numbers of rows, cpu and ref have no others\n"
    "  --plan FILE                kernels as asdm tune found them (default: the built-in choices)\n"
    "  --threads N                CPU threads, each bound to one processor (default: one per processor, unbound)\n"
    "  --save-latents FILE        tensor \"latents\" before the decoder, as .safetensors (FILE-1, ... like the "
    "pictures)\n"
    "  --quiet                    no progress\n"
    "\n"
    "Example:\n"
    "  asdm generate --model deploy/models/scenes-256 --prompt \"a red house in the snow at night\" \\\n"
    "      --guidance-scale 5 --output house.png\n";

struct options {
    struct cli_model model;
    struct asdm_request request;
    const char *output, *rng, *init_image, *save_latents;
    int count;
    bool quiet;
};

static int parse(int argc, char **argv, struct options *o) {
    struct asdm_request *r = &o->request;
    const struct cli_option list[] = {
        {.name = "model", .text = &o->model.path},
        {.name = "tokenizer", .text = &o->model.tokenizer},
        {.name = "prompt", .text = &r->prompt},
        {.name = "negative-prompt", .text = &r->negative_prompt},
        {.name = "output", .text = &o->output},
        {.name = "width", .integer = &r->width, .min = 8, .max = ASDM_SIDE_MAX},
        {.name = "height", .integer = &r->height, .min = 8, .max = ASDM_SIDE_MAX},
        {.name = "steps", .integer = &r->steps, .min = 1, .max = 1000},
        {.name = "sampler", .text = &r->sampler},
        {.name = "schedule", .text = &r->schedule},
        {.name = "guidance-scale", .real = &r->guidance_scale, .least = -1000, .most = 1000},
        {.name = "seed", .seed = &r->seed},
        {.name = "rng", .text = &o->rng},
        {.name = "count", .integer = &o->count, .min = 1, .max = 10000},
        {.name = "init-image", .text = &o->init_image},
        {.name = "strength", .real = &r->strength, .least = 0, .most = 1},
        {.name = "device", .text = &o->model.device},
        {.name = "dtype", .text = &o->model.dtype},
        {.name = "batch-invariant", .text = &o->model.batch_invariant},
        {.name = "plan", .text = &o->model.plan},
        {.name = "threads", .integer = &o->model.threads, .min = 1, .max = 1024},
        {.name = "save-latents", .text = &o->save_latents},
        {.name = "quiet", .flag = &o->quiet},
        {0}};
    int code = cli_parse(&cli_generate_verb, argc, argv, list, NULL, 0);
    if (code >= 0)
        return code;
    const char *missing = !o->model.path ? "--model" : !r->prompt ? "--prompt" : !o->output ? "--output" : NULL;
    if (missing) {
        cli_message("%s: is needed\nTry: asdm generate --help", missing);
        return CLI_USAGE;
    }
    if (o->rng && strcmp(o->rng, "philox") != 0 && strcmp(o->rng, "torch") != 0) {
        cli_message("--rng: must be philox or torch, is \"%.60s\"", o->rng);
        return CLI_USAGE;
    }
    r->rng = o->rng && strcmp(o->rng, "torch") == 0 ? ASDM_REQUEST_TORCH : ASDM_REQUEST_PHILOX;
    return -1;
}

/* OUT.png, OUT-1.png, OUT-2.png, ...; malloc'ed. */
static char *numbered(const char *path, int number) {
    size_t size = strlen(path) + 16;
    char *name = malloc(size);
    if (!name)
        return NULL;
    const char *slash = strrchr(path, '/'), *dot = strrchr(path, '.');
    if (!dot || (slash && dot < slash))
        dot = path + strlen(path);
    if (number == 0)
        snprintf(name, size, "%s", path);
    else
        snprintf(name, size, "%.*s-%d%s", (int)(dot - path), path, number, dot);
    return name;
}

/* What A1111 and its many readers expect in the text chunk "parameters". */
static char *parameters_text(const struct options *o, const struct asdm_model *model,
                             const struct asdm_picture *picture, uint64_t seed) {
    const struct asdm_request *r = &o->request;
    const char *negative = r->negative_prompt ? r->negative_prompt : "";
    char *text = NULL;
    int length =
        asprintf(&text, "%s%s%s\nSteps: %d, Sampler: %s, Schedule type: %s, CFG scale: %g, Seed: %llu, Size: %dx%d%s",
                 r->prompt, *negative ? "\nNegative prompt: " : "", negative, r->steps,
                 r->sampler ? r->sampler : asdm_model_default_sampler(model), r->schedule ? r->schedule : "default",
                 r->guidance_scale, (unsigned long long)seed, picture->width, picture->height,
                 r->rng == ASDM_REQUEST_TORCH ? ", RNG: CPU" : "");
    return length < 0 ? NULL : text;
}

static int write_picture(const struct options *o, const struct asdm_model *model, const struct asdm_picture *picture,
                         int number, uint64_t seed) {
    struct asdm_error err = {ASDM_ERR_MEMORY, "no memory to write the picture"};
    enum asdm_status status = ASDM_ERR_MEMORY;
    char *output = numbered(o->output, number);
    char *latents = o->save_latents ? numbered(o->save_latents, number) : NULL;
    char *parameters = parameters_text(o, model, picture, seed);
    if (output && parameters && (latents || !o->save_latents)) {
        status = latents ? asdm_write_latents(latents, picture->latents, picture->height / 8, picture->width / 8, &err)
                         : ASDM_OK;
        if (status == ASDM_OK)
            status = asdm_write_png(output, picture->rgb, picture->width, picture->height,
                                    (const char *[]){"parameters", parameters, NULL}, &err);
    }
    free(output);
    free(latents);
    free(parameters);
    return status == ASDM_OK ? 0 : cli_fail(&err);
}

/* One picture from submit to file. */
static int draw(const struct options *o, const struct asdm_model *model, struct asdm_batch *batch, int number) {
    struct asdm_error err = {0};
    struct asdm_request request = o->request;
    struct asdm_picture picture;
    struct cli_progress progress;
    struct asdm_picture_progress state;
    bool found = false;
    uint64_t id;
    request.seed += (uint64_t)number;
    if (asdm_batch_submit(batch, &request, &id, &err) != ASDM_OK)
        return cli_fail(&err);
    cli_progress_start(&progress, o->quiet, number, o->count);
    while (!(found = asdm_batch_poll(batch, &picture)) && !cli_interrupted()) {
        if (asdm_batch_step(batch, NULL, &err) != ASDM_OK)
            return cli_fail(&err);
        if (asdm_batch_progress(batch, id, &state) && state.done > 0)
            cli_progress_show(&progress, state.done, state.total);
    }
    cli_progress_end(&progress);
    if (!found) {
        cli_message("stopped");
        return CLI_FAILED;
    }
    if (picture.status != ASDM_OK) {
        cli_message("%s", picture.message);
        return CLI_FAILED;
    }
    if (picture.prompt_tokens > 75 && number == 0 && !o->quiet)
        cli_message("the prompt has %zu tokens; those after the first 75 were cut off", picture.prompt_tokens);
    return write_picture(o, model, &picture, number, request.seed);
}

/* Everything that can be wrong before minutes of work are spent. */
static int check(struct options *o, const struct asdm_model *model, uint8_t **init) {
    struct asdm_error err = {0};
    for (int i = 0; i<o->count; i += o->count> 1 ? o->count - 1 : 1) {
        char *output = numbered(o->output, i);
        enum asdm_status status = output ? asdm_check_writable(output, &err) : ASDM_ERR_MEMORY;
        free(output);
        if (status != ASDM_OK)
            return cli_fail(&err);
    }
    if (o->save_latents && asdm_check_writable(o->save_latents, &err) != ASDM_OK)
        return cli_fail(&err);
    if (o->init_image &&
        asdm_read_png(o->init_image, init, &o->request.init_width, &o->request.init_height, &err) != ASDM_OK)
        return cli_fail(&err);
    o->request.init_rgb = *init;
    return asdm_request_check(model, &o->request, &err) == ASDM_OK ? 0 : cli_fail(&err);
}

/* What a device's memory will be used for; refuses what cannot fit, before weights are laid out. */
static int plan_memory(const struct options *o, struct asdm_model *model) {
    struct asdm_error err = {0};
    struct asdm_memory memory;
    int width, height;
    asdm_model_default_size(model, &width, &height);
    width = o->request.width ? o->request.width : width;
    height = o->request.height ? o->request.height : height;
    int rows = o->request.guidance_scale > 1 ? 2 : 1;
    if (asdm_batch_plan_memory(model, width, height, rows, &memory, &err) != ASDM_OK)
        return cli_fail(&err);
    if (memory.device && !o->quiet)
        cli_message("device memory: weights about %.2f GB, plans up to %.2f GB, free %.2f of %.2f GB",
                    (double)memory.weights / 1e9, (double)memory.plans / 1e9, (double)memory.free / 1e9,
                    (double)memory.device / 1e9);
    return 0;
}

int cli_generate(int argc, char **argv) {
    struct options o = {.count = 1};
    struct asdm_model *model = NULL;
    struct asdm_batch *batch = NULL;
    struct asdm_error err = {0};
    uint8_t *init = NULL;
    asdm_request_init(&o.request);
    int code = parse(argc, argv, &o);
    if (code >= 0)
        return code;
    cli_catch_interrupts();
    code = cli_open_model(&o.model, &model);
    if (code == 0)
        code = check(&o, model, &init);
    if (code == 0)
        code = plan_memory(&o, model);
    if (code == 0 && asdm_batch_create(model, &(struct asdm_batch_options){1, 0}, &batch, &err) != ASDM_OK)
        code = cli_fail(&err);
    for (int i = 0; i < o.count && code == 0; i++)
        code = draw(&o, model, batch, i);
    asdm_batch_destroy(&batch);
    asdm_model_close(&model);
    free(init);
    return code;
}

const struct cli_verb cli_generate_verb = {"generate", help, cli_generate};
