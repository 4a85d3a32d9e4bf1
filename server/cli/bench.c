#include <asdm/batch.h>
#include <asdm/bench.h>

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
    "  --steps N                  of pipeline, default 25\n"
    "  --device, --dtype, --threads, --tokenizer   as for generate\n"
    "  --profile                  time by kind of operation instead (not for pipeline)\n"
    "  --json                     one JSON object instead of a line\n"
    "\n"
    "Example:\n"
    "  asdm bench unet --arch sd15 --width 256 --height 256 --dtype bf16 --runs 5\n";

enum { LINES_MAX = 64 };

struct options {
    struct cli_model model;
    const char *what;
    int rows, width, height, runs, steps;
    bool json, profile;
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
               "\"runs\":%d,\"median_ms\":%.4f,\"min_ms\":%.4f,\"max_ms\":%.4f}\n",
               o->what, name, asdm_model_device(model), asdm_model_dtype_name(model), o->rows, o->width, o->height,
               o->runs, median, least, most);
    else
        printf("%s, %s, %s %s, %d row(s), %dx%d: median %.2f ms, min %.2f ms, max %.2f ms of %d runs\n", o->what, name,
               asdm_model_device(model), asdm_model_dtype_name(model), o->rows, o->width, o->height, median, least,
               most, o->runs);
}

static int profile(const struct options *o, struct asdm_model *model, enum asdm_bench_what what) {
    struct asdm_bench_line lines[LINES_MAX];
    struct asdm_error err = {0};
    int count = 0;
    double total = 0;
    if (asdm_bench_profile(model, what, o->rows, o->width, o->height, lines, LINES_MAX, &count, &err) != ASDM_OK)
        return cli_fail(&err);
    for (int i = 0; i < count; i++)
        total += lines[i].seconds;
    printf("%-20s %-36s %6s %10s %7s %9s\n", "operation", "kernel", "count", "ms", "share", "GFLOP/s");
    for (int i = 0; i < count; i++)
        printf("%-20s %-36s %6d %10.3f %6.1f%% %9.1f\n", lines[i].op, lines[i].kernel, lines[i].count,
               lines[i].seconds * 1e3, 100 * lines[i].seconds / total, 2 * lines[i].gmac / lines[i].seconds);
    printf("%-64s %10.3f\n", "all", total * 1e3);
    return CLI_DONE;
}

/* One whole picture (all `rows` of them) from prompts to pixels. */
static enum asdm_status draw_all(struct asdm_batch *batch, const struct options *o, struct asdm_error *err) {
    struct asdm_request request;
    struct asdm_picture picture;
    asdm_request_init(&request);
    request.prompt = "a house";
    request.width = o->width;
    request.height = o->height;
    request.steps = o->steps;
    for (int i = 0; i < o->rows; i++) {
        uint64_t id;
        request.seed = (uint64_t)i;
        enum asdm_status status = asdm_batch_submit(batch, &request, &id, err);
        if (status != ASDM_OK)
            return status;
    }
    for (int left = o->rows; left > 0;) {
        enum asdm_status status = asdm_batch_step(batch, NULL, err);
        if (status != ASDM_OK)
            return status;
        for (; asdm_batch_poll(batch, &picture); left--)
            if (picture.status != ASDM_OK) {
                snprintf(err->message, sizeof err->message, "%s", picture.message);
                return err->status = picture.status;
            }
    }
    return ASDM_OK;
}

static enum asdm_status time_pipeline(const struct options *o, struct asdm_model *model, double *seconds,
                                      struct asdm_error *err) {
    struct asdm_batch *batch;
    enum asdm_status status = asdm_batch_create(model, &(struct asdm_batch_options){o->rows, 0}, &batch, err);
    if (status != ASDM_OK)
        return status;
    for (int i = -1; i < o->runs && status == ASDM_OK; i++) { /* the first is not counted */
        double start = cli_seconds();
        status = draw_all(batch, o, err);
        if (i >= 0)
            seconds[i] = cli_seconds() - start;
    }
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
    double *seconds = calloc((size_t)o->runs, sizeof *seconds);
    if (code == 0 && o->profile) {
        code = profile(o, model, (enum asdm_bench_what)part);
    } else if (code == 0 && seconds) {
        enum asdm_status status = part < 0 ? time_pipeline(o, model, seconds, &err)
                                           : asdm_bench_run(model, (enum asdm_bench_what)part, o->rows, o->width,
                                                            o->height, o->runs, seconds, &err);
        if (status == ASDM_OK)
            print_times(o, model, seconds);
        else
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
                                      {.name = "device", .text = &o.model.device},
                                      {.name = "dtype", .text = &o.model.dtype},
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
