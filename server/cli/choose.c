/* Which units make a UNet as fast as prune is told. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "analyze.h"

static bool has_target(const struct cli_choice *choice) {
    return choice->target.speedup > 0 || choice->target.budget_ms > 0;
}

/* What can be known to fail before minutes are spent on measuring. */
static int check(const struct cli_choice *choice, const char *out, const struct asdm_light_options *options) {
    struct asdm_error err = {0};
    if (!has_target(choice)) {
        if (!choice->analysis && !choice->prompts)
            return 0;
        cli_message("--analysis, --prompts: go with --speedup or --budget-ms");
        return CLI_USAGE;
    }
    if ((choice->target.speedup > 0 && choice->target.budget_ms > 0) || options->remove) {
        cli_message("--remove, --speedup, --budget-ms: only one can be given");
        return CLI_USAGE;
    }
    if (asdm_light_check(choice->model.path, options, &err) != ASDM_OK)
        return cli_fail(&err);
    if (out && !options->dry_run && !options->force && access(out, F_OK) == 0) {
        cli_message("%s exists; --force replaces it", out);
        return CLI_USAGE;
    }
    return 0;
}

/* Whether the analysis is of what is asked for: window, pool, model. */
static bool fits(const struct asdm_analysis *analysis, const struct asdm_light_options *options,
                 const struct asdm_model *model, struct asdm_error *err) {
    if ((!options->gri_window || options->gri_window == analysis->gri_window) &&
        (!options->gri_pool || options->gri_pool == analysis->gri_pool))
        return asdm_analysis_fits(analysis, model, err) == ASDM_OK;
    snprintf(err->message, sizeof err->message, "is of another window or pool of global-regional attention: %d and %d",
             analysis->gri_window, analysis->gri_pool);
    return false;
}

static unsigned of_kind_gri(const struct asdm_analysis *analysis, unsigned set) {
    unsigned found = 0;
    for (int i = 0; i < analysis->unit_count; i++)
        if (analysis->units[i].kind == ASDM_UNIT_GRI)
            found |= set & 1u << i;
    return found;
}

/* The stages of `set` after those that were asked for. */
static void add_stages(const struct asdm_analysis *analysis, unsigned set, char *text, size_t room) {
    size_t used = strlen(text);
    for (int i = 0; i < analysis->unit_count && used < room; i++)
        if (set & 1u << i)
            used += (size_t)snprintf(text + used, room - used, "%s%s", used ? "," : "",
                                     analysis->units[i].name + strlen("gri"));
}

/* The options that make the light UNet of the chosen set. */
static void take(struct cli_choice *choice, const struct asdm_analysis *analysis, struct asdm_light_options *options) {
    unsigned gri = of_kind_gri(analysis, analysis->chosen), removed = analysis->chosen & ~gri;
    choice->trial = *asdm_analysis_trial(analysis, analysis->chosen);
    asdm_analysis_names(analysis, analysis->chosen, choice->chosen, sizeof choice->chosen);
    asdm_analysis_names(analysis, removed, choice->removed, sizeof choice->removed);
    snprintf(choice->gri, sizeof choice->gri, "%s", options->gri ? options->gri : "");
    add_stages(analysis, gri & ~analysis->given, choice->gri, sizeof choice->gri);
    options->remove = removed ? choice->removed : NULL;
    options->gri = *choice->gri ? choice->gri : NULL;
    options->gri_window = options->gri ? analysis->gri_window : 0;
    options->gri_pool = options->gri ? analysis->gri_pool : 0;
    if (!removed && options->condconv && strcmp(options->condconv, "off") != 0) {
        cli_message("--condconv: no layer is taken out that could be an expert");
        options->condconv = NULL;
    }
}

/* The search, on top of what `known` has, if that fits. */
static int search(struct cli_choice *choice, struct asdm_model *model, const struct asdm_analysis *known,
                  const struct asdm_light_options *options, struct asdm_analysis **ret) {
    struct asdm_analyze_options analyze;
    struct cli_analyze_progress progress;
    struct cli_prompts prompts = {0};
    struct asdm_error err = {0};
    asdm_analyze_options_init(&analyze);
    int code = known ? 0 : cli_prompts_read(choice->prompts, choice->model.path, &prompts);
    if (code)
        return code;
    if (known) {
        asdm_analysis_options(known, &analyze);
    } else {
        analyze.threads = choice->model.threads;
        analyze.gri_window = options->gri_window;
        analyze.gri_pool = options->gri_pool;
    }
    if (prompts.count) {
        analyze.prompts = (const char *const *)prompts.lines;
        analyze.prompt_count = prompts.count;
    }
    analyze.target = choice->target;
    analyze.gri = options->gri;
    cli_analyze_watch(&progress, choice->quiet, &analyze);
    enum asdm_status status = asdm_analyze(model, &analyze, ret, &err);
    cli_analyze_end(&progress);
    cli_prompts_done(&prompts);
    return status == ASDM_OK ? 0 : cli_fail(&err);
}

int cli_choose_units(struct cli_choice *choice, const char *out, struct asdm_light_options *options) {
    struct asdm_analysis *read = NULL, *analysis = NULL;
    struct asdm_model *model = NULL;
    struct asdm_error err = {0};
    int code = check(choice, out, options);
    if (code || !has_target(choice))
        return code;
    if (choice->analysis && asdm_analysis_read(choice->analysis, &read, &err) != ASDM_OK)
        return cli_fail(&err);
    struct cli_model opened = choice->model;
    if (read) { /* as it was measured, where nothing else is said */
        opened.device = opened.device ? opened.device : read->device;
        opened.dtype = opened.dtype ? opened.dtype : read->dtype;
        opened.threads = opened.threads ? opened.threads : read->threads;
    }
    code = cli_open_model(&opened, &model);
    if (code == 0 && read && !fits(read, options, model, &err)) {
        cli_message("%s: %s; measuring anew", choice->analysis, err.message);
        asdm_analysis_destroy(&read);
    }
    if (code == 0)
        code = search(choice, model, read, options, &analysis);
    if (code == 0)
        take(choice, analysis, options);
    asdm_analysis_destroy(&analysis);
    asdm_analysis_destroy(&read);
    asdm_model_close(&model);
    return code;
}

void cli_choice_print(const struct cli_choice *choice) {
    const struct asdm_trial *t = &choice->trial;
    if (has_target(choice))
        printf("chosen   %s: %.4g ms a call instead of %.4g, speed-up %.3f; damage %.4f of the predicted noise\n",
               choice->chosen, t->ms, t->full_ms, t->full_ms / t->ms, t->damage.mean);
}
