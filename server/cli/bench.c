#include <asdm/batch.h>
#include <asdm/bench.h>
#include <asdm/png.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

static const char help[] =
    "Times one part of a model, or whole pictures.\n"
    "\n"
    "  asdm bench unet|text|vae-encode|vae-decode|pipeline --model DIR | --arch sd15|sd21|bk-base|bk-small|bk-tiny\n"
    "\n"
    "  --arch NAME                that architecture with random weights (not for pipeline)\n"
    "  --rows N                   UNet rows, prompts or pictures, default 2 (pipeline: pictures, default 1)\n"
    "  --width N  --height N      default 512\n"
    "  --runs N                   timed calls, default 30\n"
    "  --steps N, --sampler NAME  of pipeline, default 25 and the checkpoint's\n"
    "  --png                      pipeline: pictures are encoded as PNG, too, each by a thread of its own\n"
    "  --device, --dtype, --threads, --tokenizer, --batch-invariant, --plan   as for generate\n"
    "  --profile                  a roofline table instead: time, TFLOP/s and GB/s by operation, kernel and shape "
    "(not\n"
    "                             for pipeline); inputs and weights count as read once, results as written once\n"
    "  --peak-tflops N  --peak-gbs N   what the machine can do: adds the share of it that is reached\n"
    "  --json                     one JSON object instead of text\n"
    "\n"
    "Example:\n"
    "  asdm bench unet --arch sd15 --width 256 --height 256 --dtype bf16 --runs 5\n";

enum { LINES_MAX = 512 };

struct options {
    struct cli_model model;
    const char *what;
    int rows, width, height, runs, steps;
    const char *sampler;
    double peak_tflops, peak_gbs; /* 0: not given */
    bool json, profile, png;
};

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_times(const struct options *o, const struct asdm_model *model, double *seconds) {
    const char *name = o->model.path ? o->model.path : o->model.architecture;
    qsort(seconds, (size_t)o->runs, sizeof *seconds, compare);
    double median = (seconds[(o->runs - 1) / 2] + seconds[o->runs / 2]) / 2 * 1e3;
    double least = seconds[0] * 1e3, most = seconds[o->runs - 1] * 1e3;
    if (o->json)
        printf("{\"what\":\"%s\",\"model\":\"%s\",\"device\":\"%s\",\"dtype\":\"%s\",\"rows\":%d,\"width\":%d,"
               "\"height\":%d,"
               "\"batch_invariant\":%s,\"runs\":%d,\"median_ms\":%.4f,\"min_ms\":%.4f,\"max_ms\":%.4f}\n",
               o->what, name, asdm_model_device(model), asdm_model_dtype_name(model), o->rows, o->width, o->height,
               cli_batch_invariant(&o->model) ? "true" : "false", o->runs, median, least, most);
    else
        printf("%s, %s, %s %s, %d row(s), %dx%d: median %.2f ms, min %.2f ms, max %.2f ms of %d runs\n", o->what, name,
               asdm_model_device(model), asdm_model_dtype_name(model), o->rows, o->width, o->height, median, least,
               most, o->runs);
}

/* `stages`: sums over all pictures. */
static void print_stages(const struct options *o, const double *stages) {
    double pictures = (double)o->runs * o->rows / 1e3;
    printf("mean of a picture's stages: text %.2f ms, steps %.2f ms, decoding %.2f ms\n",
           stages[ASDM_STAGE_TEXT] / pictures, stages[ASDM_STAGE_DENOISE] / pictures,
           stages[ASDM_STAGE_DECODE] / pictures);
}

/* ---- the roofline table */

/* Seconds that the work of a line takes at the machine's peaks: the longer of arithmetic and memory. */
static double floor_seconds(const struct options *o, const struct asdm_bench_line *line) {
    double compute = o->peak_tflops > 0 ? 2 * line->gmac / o->peak_tflops / 1e3 : 0;
    double memory = o->peak_gbs > 0 ? line->bytes / o->peak_gbs / 1e9 : 0;
    return compute > memory ? compute : memory;
}

static void print_line(const struct options *o, const struct asdm_bench_line *line, double total, double floor) {
    printf("%-19s %-28s %-24s %5d %9.4f %6.1f%% %8.2f %8.1f", line->op, line->kernel, line->shape, line->count,
           line->seconds * 1e3, 100 * line->seconds / total, 2 * line->gmac / line->seconds / 1e3,
           line->bytes / line->seconds / 1e9);
    if (o->peak_tflops > 0 || o->peak_gbs > 0)
        printf(" %10.1f%%", 100 * floor / line->seconds);
    putchar('\n');
}

static void print_profile(const struct options *o, const struct asdm_bench_line *lines, int count,
                          double whole_seconds) {
    struct asdm_bench_line all = {.op = "all"};
    double floor = 0;
    for (int i = 0; i < count; i++) {
        all.count += lines[i].count;
        all.seconds += lines[i].seconds;
        all.gmac += lines[i].gmac;
        all.bytes += lines[i].bytes;
        floor += floor_seconds(o, &lines[i]);
    }
    printf("%-19s %-28s %-24s %5s %9s %7s %8s %8s%s\n", "operation", "kernel", "shape", "count", "ms", "share",
           "TFLOP/s", "GB/s", o->peak_tflops > 0 || o->peak_gbs > 0 ? "  of ceiling" : "");
    for (int i = 0; i < count; i++)
        print_line(o, &lines[i], all.seconds, floor_seconds(o, &lines[i]));
    print_line(o, &all, all.seconds, floor);
    if (whole_seconds > 0)
        printf("in one piece, over and over: %.4f ms\n", whole_seconds * 1e3);
}

static void print_profile_json(const struct options *o, const struct asdm_model *model,
                               const struct asdm_bench_line *lines, int count, double whole_seconds) {
    printf("{\"what\":\"%s\",\"device\":\"%s\",\"dtype\":\"%s\",\"rows\":%d,\"width\":%d,\"height\":%d,\"whole_ms\":%."
           "5f,\"lines\":[",
           o->what, asdm_model_device(model), asdm_model_dtype_name(model), o->rows, o->width, o->height,
           whole_seconds * 1e3);
    for (int i = 0; i < count; i++)
        printf("%s\n{\"operation\":\"%s\",\"kernel\":\"%s\",\"shape\":\"%s\",\"count\":%d,\"ms\":%.5f,\"gflop\":%.4f,"
               "\"mbyte\":%.4f,\"floor_ms\":%.5f}",
               i ? "," : "", lines[i].op, lines[i].kernel, lines[i].shape, lines[i].count, lines[i].seconds * 1e3,
               2 * lines[i].gmac, lines[i].bytes / 1e6, floor_seconds(o, &lines[i]) * 1e3);
    printf("]}\n");
}

static int profile(const struct options *o, struct asdm_model *model, enum asdm_bench_what what) {
    static struct asdm_bench_line lines[LINES_MAX];
    struct asdm_error err = {0};
    int count = 0;
    double whole = 0;
    if (asdm_bench_profile(model, what, o->rows, o->width, o->height, lines, LINES_MAX, &count, &whole, &err) !=
        ASDM_OK)
        return cli_fail(&err);
    if (o->json)
        print_profile_json(o, model, lines, count, whole);
    else
        print_profile(o, lines, count, whole);
    return CLI_DONE;
}

/* ---- whole pictures */

/* One picture's PNG, made beside the decoding of the next. */
struct png_job {
    pthread_t thread;
    uint8_t *rgb;
    uint32_t width, height;
    enum asdm_status status;
    struct asdm_error error;
};

static void *encode_png(void *argument) {
    struct png_job *job = argument;
    unsigned char *data = NULL;
    size_t size;
    job->status = asdm_png_encode(job->rgb, job->width, job->height, NULL, 0, &data, &size, &job->error);
    free(data);
    return NULL;
}

static enum asdm_status start_png(struct png_job *job, const struct asdm_picture *picture, struct asdm_error *err) {
    size_t bytes = 3 * (size_t)picture->width * (size_t)picture->height;
    *job = (struct png_job){.width = (uint32_t)picture->width, .height = (uint32_t)picture->height};
    job->rgb = malloc(bytes);
    if (job->rgb) {
        memcpy(job->rgb, picture->rgb, bytes);
        if (pthread_create(&job->thread, NULL, encode_png, job) == 0)
            return ASDM_OK;
    }
    free(job->rgb);
    snprintf(err->message, sizeof err->message, "no memory or no thread for a PNG");
    return err->status = ASDM_ERR_MEMORY;
}

static enum asdm_status join_pngs(struct png_job *jobs, int count, struct asdm_error *err) {
    enum asdm_status status = ASDM_OK;
    for (int i = 0; i < count; i++) {
        pthread_join(jobs[i].thread, NULL);
        free(jobs[i].rgb);
        if (jobs[i].status != ASDM_OK) {
            *err = jobs[i].error;
            status = jobs[i].status;
        }
    }
    return status;
}

static enum asdm_status submit_all(struct asdm_batch *batch, const struct options *o, struct asdm_error *err) {
    struct asdm_request request;
    asdm_request_init(&request);
    request.prompt = "a house";
    request.width = o->width;
    request.height = o->height;
    request.steps = o->steps;
    request.sampler = o->sampler;
    enum asdm_status status = ASDM_OK;
    for (int i = 0; i < o->rows && status == ASDM_OK; i++) {
        uint64_t id;
        request.seed = (uint64_t)i;
        status = asdm_batch_submit(batch, &request, &id, err);
    }
    return status;
}

/* Takes what is finished; *done and *pngs count up, and `stages` by what each took. */
static enum asdm_status take_finished(struct asdm_batch *batch, const struct options *o, struct png_job *jobs,
                                      int *done, int *pngs, double *stages, struct asdm_error *err) {
    struct asdm_picture picture;
    enum asdm_status status = ASDM_OK;
    for (; status == ASDM_OK && asdm_batch_poll(batch, &picture); ++*done) {
        if (picture.status != ASDM_OK) {
            snprintf(err->message, sizeof err->message, "%s", picture.message);
            return err->status = picture.status;
        }
        for (int i = 0; i < ASDM_STAGE_COUNT; i++)
            stages[i] += picture.seconds[i];
        if (o->png && (status = start_png(&jobs[*pngs], &picture, err)) == ASDM_OK)
            ++*pngs;
    }
    return status;
}

/* One whole picture (all `rows` of them) from prompts to pixels, or to PNGs in memory. `jobs` is room for them. */
static enum asdm_status draw_all(struct asdm_batch *batch, const struct options *o, struct png_job *jobs,
                                 double *stages, struct asdm_error *err) {
    int done = 0, pngs = 0;
    struct asdm_error png_error = {0};
    enum asdm_status status = submit_all(batch, o, err);
    while (status == ASDM_OK && done < o->rows) {
        status = asdm_batch_step(batch, NULL, err);
        if (status == ASDM_OK)
            status = take_finished(batch, o, jobs, &done, &pngs, stages, err);
    }
    enum asdm_status png_status = join_pngs(jobs, pngs, &png_error);
    if (status == ASDM_OK && png_status != ASDM_OK)
        *err = png_error;
    return status == ASDM_OK ? png_status : status;
}

static enum asdm_status time_pipeline(const struct options *o, struct asdm_model *model, double *seconds,
                                      double *stages, struct asdm_error *err) {
    struct asdm_batch *batch;
    enum asdm_status status = asdm_batch_create(model, &(struct asdm_batch_options){o->rows, 0}, &batch, err);
    if (status != ASDM_OK)
        return status;
    struct png_job *jobs = calloc((size_t)o->rows, sizeof *jobs);
    if (!jobs) {
        snprintf(err->message, sizeof err->message, "no memory");
        status = err->status = ASDM_ERR_MEMORY;
    }
    for (int i = -1; i < o->runs && status == ASDM_OK; i++) { /* the first is not counted */
        double start = clock_seconds();
        status = draw_all(batch, o, jobs, stages, err);
        if (i < 0)
            memset(stages, 0, ASDM_STAGE_COUNT * sizeof *stages);
        else
            seconds[i] = clock_seconds() - start;
    }
    free(jobs);
    asdm_batch_destroy(&batch);
    return status;
}

/* The part by name; -1 for pipeline, -2 for anything else. */
static int find_part(const char *name) {
    static const char *const parts[] = {"unet", "text", "vae-encode", "vae-decode"};
    for (int i = 0; i < 4; i++)
        if (strcmp(name, parts[i]) == 0)
            return i;
    return strcmp(name, "pipeline") == 0 ? -1 : -2;
}

static int run_bench(const struct options *o, int part) {
    struct asdm_model *model = NULL;
    struct asdm_error err = {0};
    int code = cli_open_model(&o->model, &model);
    double *seconds = calloc((size_t)o->runs, sizeof *seconds), stages[ASDM_STAGE_COUNT] = {0};
    if (code == 0 && o->profile) {
        code = profile(o, model, (enum asdm_bench_what)part);
    } else if (code == 0 && seconds) {
        enum asdm_status status = part < 0 ? time_pipeline(o, model, seconds, stages, &err)
                                           : asdm_bench_run(model, (enum asdm_bench_what)part, o->rows, o->width,
                                                            o->height, o->runs, seconds, &err);
        if (status == ASDM_OK) {
            print_times(o, model, seconds);
            if (part < 0 && !o->json)
                print_stages(o, stages);
        }
        if (status != ASDM_OK)
            code = cli_fail(&err);
    }
    free(seconds);
    asdm_model_close(&model);
    return code;
}

int cli_bench(int argc, char **argv) {
    struct options o = {.width = 512, .height = 512, .runs = 30, .steps = 25};
    const struct cli_option list[] = {{.name = "model", .text = &o.model.path},
                                      {.name = "arch", .text = &o.model.architecture},
                                      {.name = "tokenizer", .text = &o.model.tokenizer},
                                      {.name = "rows", .integer = &o.rows, .min = 1, .max = 1024},
                                      {.name = "width", .integer = &o.width, .min = 8, .max = 16384},
                                      {.name = "height", .integer = &o.height, .min = 8, .max = 16384},
                                      {.name = "runs", .integer = &o.runs, .min = 1, .max = 100000},
                                      {.name = "steps", .integer = &o.steps, .min = 1, .max = 1000},
                                      {.name = "sampler", .text = &o.sampler},
                                      {.name = "png", .flag = &o.png},
                                      {.name = "peak-tflops", .real = &o.peak_tflops, .least = 1e-3, .most = 1e6},
                                      {.name = "peak-gbs", .real = &o.peak_gbs, .least = 1e-3, .most = 1e6},
                                      {.name = "device", .text = &o.model.device},
                                      {.name = "dtype", .text = &o.model.dtype},
                                      {.name = "batch-invariant", .text = &o.model.batch_invariant},
                                      {.name = "plan", .text = &o.model.plan},
                                      {.name = "threads", .integer = &o.model.threads, .min = 1, .max = 1024},
                                      {.name = "profile", .flag = &o.profile},
                                      {.name = "json", .flag = &o.json},
                                      {0}};
    int code = cli_parse(&cli_bench_verb, argc, argv, list, &o.what, 1);
    if (code >= 0)
        return code;
    int part = o.what ? find_part(o.what) : -2;
    const char *wrong = part == -2 ? "what to measure: must be unet, text, vae-encode, vae-decode or pipeline"
                        : !o.model.path && !o.model.architecture ? "--model or --arch: is needed"
                        : part == -1 && (o.model.architecture || o.profile)
                            ? "pipeline: needs --model, and has no --profile"
                        : o.width % 8 || o.height % 8 ? "--width, --height: must be multiples of 8"
                                                      : NULL;
    if (wrong) {
        cli_message("%s\nTry: asdm bench --help", wrong);
        return CLI_USAGE;
    }
    if (!o.rows)
        o.rows = part == -1 ? 1 : 2;
    return run_bench(&o, part);
}

const struct cli_verb cli_bench_verb = {"bench", help, cli_bench};
