#include "analyze.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <asdm/files.h>

static const char help[] =
    "Measures which parts of a UNet are redundant: for every unit that prune can remove, and every stage that it can\n"
    "give global-regional attention (gri64), the time that saves here and the damage that it does; then takes one\n"
    "after the other, least damage per millisecond first.\n"
    "\n"
    "  asdm analyze MODEL [options]\n"
    "  asdm analyze --arch sd15|sd21|bk-base|bk-small|bk-tiny [options]     random weights: only times mean something\n"
    "\n"
    "  --prompts FILE             a prompt a line, empty lines and # left out (default: MODEL/prompts.txt where there "
    "is\n"
    "                             one, else twelve built-in ones); they should be what the model is used for\n"
    "  --steps N                  of the model's own sampler for each prompt, default 10; damage is measured at each\n"
    "  --guidance-scale X         of those, default 7.5; 1 or less turns guidance off\n"
    "  --seed N                   of their noise, default 0\n"
    "  --width N  --height N      pixels, multiples of 8 (default: what the model was made for)\n"
    "  --rows N                   UNet rows of the call that is timed, default 2: one picture with guidance\n"
    "  --runs N                   timed calls, default 15; the whole and the light UNet take turns, medians count\n"
    "  --gri-window N  --gri-pool N   of the global-regional attention that stages are tried with (default 16 and 4)\n"
    "  --speedup X                stop at a UNet this many times as fast, and say which units to remove for it\n"
    "  --budget-ms X              the same with the time of a call\n"
    "  --sets A,B[;C...]          measure these sets of units instead of searching\n"
    "  --json FILE                everything, kept up to date while it is measured: run again after an interruption,\n"
    "                             it goes on where it was\n"
    "  --force                    a FILE of another model or of other options is replaced\n"
    "  --html FILE                a report to look at\n"
    "  --save-latents FILE        what damage is measured on, as .safetensors: latents, timesteps, embeds\n"
    "  --device, --dtype, --threads, --tokenizer, --quiet   as for generate\n"
    "\n"
    "A stage whose map one window covers is named and not measured: global-regional attention changes nothing there.\n"
    "Damage is |light - whole| / |whole| of the predicted noise, for the latents, timesteps and prompts (and the "
    "empty\n"
    "one) of the whole model's own pictures: 0.1 is a tenth. Nothing is trained between removing and measuring.\n"
    "\n"
    "Examples:\n"
    "  asdm analyze deploy/models/scenes-256 --guidance-scale 5 --json scenes.json --html scenes.html\n"
    "  asdm analyze --arch sd15 --device cuda --steps 4 --html sd15.html\n";

/* ---- progress */

static void show(struct cli_analyze_progress *p, const struct asdm_analyze_progress *at) {
    double now = clock_seconds();
    bool new = strcmp(p->what, at->what) != 0;
    if (!new && (!p->terminal || now - p->shown < 0.2))
        return;
    if (!*p->what)
        p->first = at->trial;
    snprintf(p->what, sizeof p->what, "%s", at->what);
    p->shown = now;
    fprintf(stderr, p->terminal ? "\r\033[K%d of at most %d measured" : "%d of at most %d measured", at->trial,
            at->trial_count);
    if (at->trial > p->first) { /* the part of the trial under way counts */
        double done = at->trial - p->first + (double)at->done / at->total;
        fprintf(stderr, ", ETA %.0f s", (now - p->start) / done * (at->trial_count - p->first - done));
    }
    fprintf(stderr, "; now %s", at->what);
    if (p->terminal)
        fprintf(stderr, " %d/%d", at->done, at->total);
    else
        fputc('\n', stderr);
    fflush(stderr);
}

static bool watch(void *user, const struct asdm_analyze_progress *at) {
    struct cli_analyze_progress *progress = user;
    if (!progress->quiet)
        show(progress, at);
    return !cli_interrupted();
}

void cli_analyze_watch(struct cli_analyze_progress *progress, bool quiet, struct asdm_analyze_options *options) {
    *progress =
        (struct cli_analyze_progress){.quiet = quiet, .terminal = isatty(STDERR_FILENO) == 1, .start = clock_seconds()};
    options->progress = watch;
    options->user = progress;
    cli_catch_interrupts();
}

void cli_analyze_end(struct cli_analyze_progress *progress) {
    if (!progress->quiet && progress->terminal && *progress->what)
        fputc('\n', stderr);
}

/* ---- the tables */

static void print_units(const struct asdm_analysis *a) {
    printf("%-8s %12s %9s %9s   %7s %7s %7s %7s %7s   %10s\n", "unit", "parameters", "GMAC", "ms saved", "damage", "+-",
           "least", "median", "most", "damage/ms");
    for (int i = 0; i < a->unit_count; i++) {
        const struct asdm_trial *t = asdm_analysis_trial(a, 1u << i);
        if (!t)
            continue;
        double saved = asdm_analysis_saved_ms(a, t);
        printf("%-8s %12lld %9.3f %9.3f   %7.4f %7.4f %7.4f %7.4f %7.4f   ", a->units[i].name,
               (long long)(a->full.parameters - t->size.parameters), a->full.gmac - t->size.gmac, saved, t->damage.mean,
               t->damage.deviation, t->damage.min, t->damage.quartiles[1], t->damage.max);
        if (saved > 0)
            printf("%10.5f\n", t->damage.mean / saved);
        else
            printf("%10s\n", "-");
    }
    for (int i = 0; i < a->covered_count; i++)
        printf("%-8s changes nothing: a window of %d covers the map\n", a->covered[i].name, a->gri_window);
}

static void print_set(const struct asdm_analysis *a, const char *label, unsigned set) {
    const struct asdm_trial *t = asdm_analysis_trial(a, set);
    char names[256];
    asdm_analysis_names(a, set, names, sizeof names);
    printf("%-8s %12lld %9.3f %9.3f   %7.4f %7.4f %8.3f   %s\n", label, (long long)t->size.parameters, t->size.gmac,
           asdm_analysis_saved_ms(a, t), t->damage.mean, t->damage.deviation, t->full_ms / t->ms, names);
}

static void print_sets_head(const char *label) {
    printf("\n%-8s %12s %9s %9s   %7s %7s %8s   %s\n", label, "parameters", "GMAC", "ms saved", "damage", "+-",
           "speed-up", "removed");
}

void cli_analysis_print(const struct asdm_analysis *a) {
    printf("%s, %s %s: %lld parameters, %.2f GMAC a row, a call of %d row(s) of %dx%d pixels takes %.2f ms\n", a->model,
           a->device, a->dtype, (long long)a->full.parameters, a->full.gmac, a->rows, a->width, a->height,
           asdm_analysis_full_ms(a));
    printf("damage over %d rows: %d prompts, %d steps of %s, guidance %g%s\n\n", a->row_count, a->prompt_count,
           a->steps, a->sampler, a->guidance_scale, a->random_weights ? "; random weights: it means nothing" : "");
    print_units(a);
    if (a->path_count)
        print_sets_head("in order");
    for (int i = 0; i < a->path_count; i++) {
        char label[32];
        asdm_analysis_names(a, a->path[i] & ~(i ? a->path[i - 1] : 0), label, sizeof label);
        print_set(a, label, a->path[i]);
    }
    if (a->chosen) {
        print_sets_head("chosen");
        print_set(a, "", a->chosen);
    }
}

/* What was asked for by --sets and is no single unit. */
static void print_other_sets(const struct asdm_analysis *a) {
    bool any = false;
    for (int i = 0; i < a->trial_count; i++) {
        unsigned set = a->trials[i].removed;
        if (!(set & (set - 1)))
            continue;
        if (!any)
            print_sets_head("sets");
        any = true;
        print_set(a, "", set);
    }
}

/* ---- the verb */

struct options {
    struct cli_model model;
    struct asdm_analyze_options analyze;
    const char *prompts, *html;
    bool quiet;
};

static int parse(int argc, char **argv, struct options *o) {
    struct asdm_analyze_options *a = &o->analyze;
    const struct cli_option list[] = {
        {.name = "model", .text = &o->model.path},
        {.name = "arch", .text = &o->model.architecture},
        {.name = "tokenizer", .text = &o->model.tokenizer},
        {.name = "prompts", .text = &o->prompts},
        {.name = "steps", .integer = &a->steps, .min = 1, .max = 1000},
        {.name = "guidance-scale", .real = &a->guidance_scale, .least = -1000, .most = 1000},
        {.name = "seed", .seed = &a->seed},
        {.name = "width", .integer = &a->width, .min = 8, .max = 16384},
        {.name = "height", .integer = &a->height, .min = 8, .max = 16384},
        {.name = "rows", .integer = &a->rows, .min = 1, .max = 64},
        {.name = "runs", .integer = &a->runs, .min = 1, .max = 100000},
        {.name = "gri-window", .integer = &a->gri_window, .min = 1, .max = 1024},
        {.name = "gri-pool", .integer = &a->gri_pool, .min = 1, .max = 1024},
        {.name = "speedup", .real = &a->target.speedup, .least = 1, .most = 1000},
        {.name = "budget-ms", .real = &a->target.budget_ms, .least = 1e-6, .most = 1e9},
        {.name = "sets", .text = &a->sets},
        {.name = "json", .text = &a->file},
        {.name = "force", .flag = &a->force},
        {.name = "html", .text = &o->html},
        {.name = "save-latents", .text = &a->latents},
        {.name = "device", .text = &o->model.device},
        {.name = "dtype", .text = &o->model.dtype},
        {.name = "threads", .integer = &o->model.threads, .min = 1, .max = 1024},
        {.name = "quiet", .flag = &o->quiet},
        {0}};
    int code = cli_parse(&cli_analyze_verb, argc, argv, list, &o->model.path, 1);
    if (code >= 0)
        return code;
    const char *wrong = !o->model.path && !o->model.architecture ? "a model is needed"
                        : a->width % 8 || a->height % 8          ? "--width, --height: must be multiples of 8"
                        : a->target.speedup > 0 && a->target.budget_ms > 0
                            ? "--speedup, --budget-ms: only one can be given"
                        : a->sets && (a->target.speedup > 0 || a->target.budget_ms > 0)
                            ? "--sets: not together with --speedup or --budget-ms"
                            : NULL;
    if (wrong) {
        cli_message("%s\nTry: asdm analyze --help", wrong);
        return CLI_USAGE;
    }
    a->threads = o->model.threads;
    return -1;
}

static int analyze(const struct options *o, struct asdm_model *model) {
    struct asdm_analyze_options options = o->analyze;
    struct cli_analyze_progress progress;
    struct asdm_analysis *analysis = NULL;
    struct asdm_error err = {0};
    cli_analyze_watch(&progress, o->quiet, &options);
    enum asdm_status status = asdm_analyze(model, &options, &analysis, &err);
    cli_analyze_end(&progress);
    if (status == ASDM_ERR_CANCELLED && options.file)
        cli_message("interrupted; the same command goes on from what %s has", options.file);
    if (status != ASDM_OK)
        return status == ASDM_ERR_CANCELLED && options.file ? CLI_FAILED : cli_fail(&err);
    if (analysis->reused && !o->quiet)
        cli_message("%s already had %d of %d measurements", options.file, analysis->reused, analysis->trial_count);
    cli_analysis_print(analysis);
    if (options.sets)
        print_other_sets(analysis);
    if (o->html)
        status = cli_analysis_write_html(analysis, o->html, &err);
    asdm_analysis_destroy(&analysis);
    return status == ASDM_OK ? CLI_DONE : cli_fail(&err);
}

int cli_analyze(int argc, char **argv) {
    struct options o = {0};
    struct cli_prompts prompts = {0};
    struct asdm_model *model = NULL;
    struct asdm_error err = {0};
    asdm_analyze_options_init(&o.analyze);
    int code = parse(argc, argv, &o);
    if (code >= 0)
        return code;
    if (o.html && asdm_check_writable(o.html, &err) != ASDM_OK)
        return cli_fail(&err);
    code = cli_prompts_read(o.prompts, o.model.path, &prompts);
    if (code == 0)
        code = cli_open_model(&o.model, &model);
    if (code == 0) {
        if (prompts.count) {
            o.analyze.prompts = (const char *const *)prompts.lines;
            o.analyze.prompt_count = prompts.count;
        }
        code = analyze(&o, model);
    }
    asdm_model_close(&model);
    cli_prompts_done(&prompts);
    return code;
}

const struct cli_verb cli_analyze_verb = {"analyze", help, cli_analyze};
