/* What analyze and prune --speedup share: prompts, progress, and showing an analysis. */
#ifndef ASDM_CLI_ANALYZE_H
#define ASDM_CLI_ANALYZE_H

#include <asdm/analyze.h>

#include "cli.h"

/* Lines of a file of prompts. */
struct cli_prompts {
    char **lines;
    int count;
};

/* Reads `path`: a prompt a line, empty lines and those that start with # left out. With `path` NULL, prompts.txt of the
 * directory `model` where there is one, else none. 0, or an exit code after a message. */
int cli_prompts_read(const char *path, const char *model, struct cli_prompts *ret);
void cli_prompts_done(struct cli_prompts *prompts);

/* Progress on stderr, for asdm_analyze_options; also says when the user interrupts. */
struct cli_analyze_progress {
    bool quiet, terminal;
    char what[256]; /* shown last */
    double start;   /* of all, seconds */
    int first;      /* trials that were known at the start */
    double shown;   /* seconds, on a terminal */
};
void cli_analyze_watch(struct cli_analyze_progress *progress, bool quiet, struct asdm_analyze_options *options);
void cli_analyze_end(struct cli_analyze_progress *progress);

/* prune's choice of units by what they cost and damage. */
struct cli_choice {
    struct asdm_target target;
    const char *analysis, *prompts; /* files, or NULL */
    struct cli_model model;
    bool quiet;
    /* Filled in, where there is a target. */
    char removed[256], gri[256]; /* what the options then point to */
    char chosen[256];            /* all units, to be shown */
    struct asdm_trial trial;
};

/* With a target: chooses, and puts what it chose in options->remove and options->gri; stages that are there already are
 * given. Without one: nothing. 0, or an exit code after a message. `out`: what will be written, looked at before
 * anything is measured. */
int cli_choose_units(struct cli_choice *choice, const char *out, struct asdm_light_options *options);
/* What was chosen and why, on stdout; nothing where there was no target. */
void cli_choice_print(const struct cli_choice *choice);

/* The table on stdout, and the report as a file (written whole). */
void cli_analysis_print(const struct asdm_analysis *analysis);
enum asdm_status cli_analysis_write_html(const struct asdm_analysis *analysis, const char *path,
                                         struct asdm_error *err);

#endif
