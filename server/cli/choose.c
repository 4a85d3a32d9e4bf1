/* Which units prune removes to make a UNet as fast as it is told. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "analyze.h"

static bool has_target(const struct cli_choice *choice) {
    return choice->target.speedup > 0 || choice->target.budget_ms > 0;
}

/* What can be known to fail before minutes are spent on measuring; the rest is asdm_light_prune's to say. */
static int check(const struct cli_choice *choice, const char *out, const struct asdm_light_options *options) {
    if (!has_target(choice)) {
        if (!choice->analysis)
            return 0;
        cli_message("--analysis: goes with --speedup or --budget-ms");
        return CLI_USAGE;
    }
    if ((choice->target.speedup > 0 && choice->target.budget_ms > 0) || options->remove) {
        cli_message("--remove, --speedup, --budget-ms: only one can be given");
        return CLI_USAGE;
    }
    if (out && !options->dry_run && !options->force && access(out, F_OK) == 0) {
        cli_message("%s exists; --force replaces it", out);
        return CLI_USAGE;
    }
    return 0;
}

/* The file's analysis, if it is of this model as it is opened; else NULL after a message. */
static struct asdm_analysis *fitting(const struct cli_choice *choice, const struct asdm_model *model,
                                     struct asdm_analysis *read) {
    struct asdm_error err = {0};
    if (read && asdm_analysis_fits(read, model, &err) != ASDM_OK) {
        cli_message("%s: %s; measuring anew", choice->analysis, err.message);
        asdm_analysis_destroy(&read);
    }
    return read;
}

/* The search, on top of what `known` has. */
static int search(struct cli_choice *choice, struct asdm_model *model, const struct asdm_analysis *known,
                  struct asdm_light_options *options) {
    struct asdm_analyze_options analyze;
    struct cli_analyze_progress progress;
    struct cli_prompts prompts = {0};
    struct asdm_analysis *analysis = NULL;
    struct asdm_error err = {0};
    asdm_analyze_options_init(&analyze);
    int code = known ? 0 : cli_prompts_read(choice->prompts, choice->model.path, &prompts);
    if (code)
        return code;
    if (known)
        asdm_analysis_options(known, &analyze);
    else
        analyze.threads = choice->model.threads;
    if (prompts.count) {
        analyze.prompts = (const char *const *)prompts.lines;
        analyze.prompt_count = prompts.count;
    }
    analyze.target = choice->target;
    cli_analyze_watch(&progress, choice->quiet, &analyze);
    enum asdm_status status = asdm_analyze(model, &analyze, &analysis, &err);
    cli_analyze_end(&progress);
    cli_prompts_done(&prompts);
    if (status != ASDM_OK)
        return cli_fail(&err);
    choice->trial = *asdm_analysis_trial(analysis, analysis->chosen);
    asdm_analysis_names(analysis, analysis->chosen, choice->removed, sizeof choice->removed);
    options->remove = choice->removed;
    asdm_analysis_destroy(&analysis);
    return 0;
}

int cli_choose_units(struct cli_choice *choice, const char *out, struct asdm_light_options *options) {
    struct asdm_analysis *read = NULL;
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
    if (code == 0) {
        read = fitting(choice, model, read);
        code = search(choice, model, read, options);
    }
    asdm_analysis_destroy(&read);
    asdm_model_close(&model);
    return code;
}

void cli_choice_print(const struct cli_choice *choice) {
    const struct asdm_trial *t = &choice->trial;
    if (has_target(choice))
        printf("removed  %s: %.4g ms a call instead of %.4g, speed-up %.3f; damage %.4f of the predicted noise\n",
               choice->removed, t->ms, t->full_ms, t->full_ms / t->ms, t->damage.mean);
}
