#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <asdm/tune.h>

#include "cli.h"

static const char help[] =
    "Measures which kernel computes each layer fastest on this GPU, and keeps the choices in a file.\n"
    "\n"
    "  asdm tune MODEL | --arch sd15|sd21|bk-base|bk-small|bk-tiny  --plan FILE [options]\n"
    "\n"
    "  --plan FILE                where the choices go; --plan FILE of generate and bench, and worker.plan in asdmd's\n"
    "                             configuration, read them. The file may hold plans of several GPUs, drivers, "
    "versions\n"
    "                             and types: only the one measured now is replaced\n"
    "  --rows N[,N...]            rows of the UNet that are measured, default 1,2,4,8,16\n"
    "  --width N  --height N      default: what the model was made for\n"
    "  --device, --dtype, --tokenizer   as for generate\n"
    "  --batch-invariant on|off   on (default): only kernels that leave a picture's bytes the same in any batch\n"
    "  --quiet                    only what was gained\n"
    "\n"
    "Without a plan file the built-in choices hold, which are good; nothing needs to be tuned before a start.\n"
    "\n"
    "Example:\n"
    "  asdm tune deploy/models/scenes-256 --device cuda --plan scenes.plan.json\n";

enum { ROWS_LIST_MAX = 16, ROWS_MOST = 1024 };

struct options {
    struct cli_model model;
    const char *rows, *plan;
    int width, height;
    bool quiet;
};

/* What was chosen so far. */
struct totals {
    bool quiet;
    int lines, changed;
    double us, built_in_us;
};

static void show_part(void *user, const char *what, int rows) {
    (void)user;
    fprintf(stderr, "measuring %s, %d row(s)\n", what, rows);
}

static void show_line(void *user, const struct asdm_tune_line *line) {
    struct totals *totals = user;
    bool changed = strcmp(line->implementation, line->built_in) != 0;
    totals->lines++;
    totals->changed += changed;
    totals->us += line->us;
    totals->built_in_us += line->built_in_us;
    if (changed && !totals->quiet)
        printf("%-60s x%-3d %9.2f us  %-20.20s -> %9.2f us  %.20s (of %d)\n", line->operation, line->rows,
               line->built_in_us, line->built_in, line->us, line->implementation, line->candidates);
}

static bool is_stopped(void *user) {
    (void)user;
    return cli_interrupted();
}

/* "1,2,16"; the number of numbers, 0 when it is no such list. */
static int parse_rows(const char *text, int *rows) {
    int count = 0;
    for (const char *at = text; count < ROWS_LIST_MAX;) {
        char *end;
        long value = strtol(at, &end, 10);
        if (*at < '1' || *at > '9' || value > ROWS_MOST || (*end && *end != ','))
            return 0;
        rows[count++] = (int)value;
        if (!*end)
            return count;
        at = end + 1;
    }
    return 0;
}

static int run(const struct options *o, const int *rows, int row_count) {
    struct asdm_model *model = NULL;
    struct asdm_error err = {0};
    struct totals totals = {.quiet = o->quiet};
    int code = cli_open_model(&o->model, &model);
    if (code != 0)
        return code;
    struct asdm_tune_options options = {
        .rows = rows, .row_count = row_count, .width = o->width, .height = o->height, .plan = o->plan};
    struct asdm_tune_watch watch = {&totals, o->quiet ? NULL : show_part, show_line, is_stopped};
    int width, height;
    asdm_model_default_size(model, &width, &height);
    options.width = options.width ? options.width : width;
    options.height = options.height ? options.height : height;
    if (asdm_tune_run(model, &options, &watch, &err) != ASDM_OK)
        code = cli_fail(&err);
    else
        printf("%s: %d choices, %d of them other than the built-in ones; sum of their times %.1f us, built-in %.1f "
               "us\n",
               o->plan, totals.lines, totals.changed, totals.us, totals.built_in_us);
    asdm_model_close(&model);
    return code;
}

int cli_tune(int argc, char **argv) {
    struct options o = {.rows = "1,2,4,8,16"};
    int rows[ROWS_LIST_MAX];
    const struct cli_option list[] = {{.name = "arch", .text = &o.model.architecture},
                                      {.name = "tokenizer", .text = &o.model.tokenizer},
                                      {.name = "plan", .text = &o.plan},
                                      {.name = "rows", .text = &o.rows},
                                      {.name = "width", .integer = &o.width, .min = 8, .max = 16384},
                                      {.name = "height", .integer = &o.height, .min = 8, .max = 16384},
                                      {.name = "device", .text = &o.model.device},
                                      {.name = "dtype", .text = &o.model.dtype},
                                      {.name = "batch-invariant", .text = &o.model.batch_invariant},
                                      {.name = "quiet", .flag = &o.quiet},
                                      {0}};
    int code = cli_parse(&cli_tune_verb, argc, argv, list, &o.model.path, 1);
    if (code >= 0)
        return code;
    int row_count = parse_rows(o.rows, rows);
    const char *wrong = !o.model.path == !o.model.architecture ? "a model or --arch: one of them is needed"
                        : !o.plan                              ? "--plan: is needed"
                        : !row_count ? "--rows: must be up to 16 whole numbers from 1 to 1024, with commas"
                        : o.width % 8 || o.height % 8 ? "--width, --height: must be multiples of 8"
                                                      : NULL;
    if (wrong) {
        cli_message("%s\nTry: asdm tune --help", wrong);
        return CLI_USAGE;
    }
    cli_catch_interrupts();
    return run(&o, rows, row_count);
}

const struct cli_verb cli_tune_verb = {"tune", help, cli_tune};
