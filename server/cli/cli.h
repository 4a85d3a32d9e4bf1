/* The command line tool: what its verbs share. */
#ifndef ASDM_CLI_H
#define ASDM_CLI_H

#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>

#include <asdm/model.h>
#include "clock.h"

enum { CLI_DONE = 0, CLI_FAILED = 1, CLI_USAGE = 2 /* exit codes */ };

/* ---- options */

/* One long option of a verb. Exactly one target is set; a flag takes no value. */
struct cli_option {
    const char *name;
    bool *flag;
    const char **text;
    int *integer;
    int64_t min, max; /* of integer */
    double *real;
    double least, most; /* of real */
    uint64_t *seed;
};

/* A verb's own words about itself. */
struct cli_verb {
    const char *name;
    const char *help; /* whole text of --help, with an example */
    int (*run)(int argc, char **argv);
};

/* Parses argv[1..] against `options` (ended by a NULL name). Words that are no options are put into `words`, at most
 * `word_max`. Returns -1 to go on, or an exit code: --help was printed, or the usage was wrong and a message says how.
 */
int cli_parse(const struct cli_verb *verb, int argc, char **argv, const struct cli_option *options, const char **words,
              int word_max);

/* ---- messages and exit codes */

/* "asdm: ..." on stderr. */
void cli_message(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Prints the error and gives the exit code: wrong arguments 2, everything else 1. */
int cli_fail(const struct asdm_error *err);

/* True after SIGINT or SIGTERM. cli_catch_interrupts installs the handlers. */
void cli_catch_interrupts(void);
bool cli_interrupted(void);

/* ---- sha256.c: SHA-256 of a file in hexadecimal digits; false: unreadable, or built without GnuTLS */
bool cli_sha256(const char *path, char ret[65]);

/* ---- the model options that several verbs have */

struct cli_model {
    const char *path, *architecture, *tokenizer, *device, *dtype;
    const char *batch_invariant, *plan; /* "on" or "off", NULL: on; a file, NULL: none */
    int threads;
};

/* Whether --batch-invariant is on. */
bool cli_batch_invariant(const struct cli_model *options);
/* Opens what the options say; 0 or an exit code after a message. */
int cli_open_model(const struct cli_model *options, struct asdm_model **ret);

/* ---- progress on stderr: a bar on a terminal, lines otherwise */

struct cli_progress {
    bool quiet, terminal;
    int picture, pictures, last; /* last: step shown */
    double start;                /* seconds */
};

void cli_progress_start(struct cli_progress *progress, bool quiet, int picture, int pictures);
void cli_progress_show(struct cli_progress *progress, int step, int total);
void cli_progress_end(struct cli_progress *progress);

/* ---- the verbs */

int cli_generate(int argc, char **argv);
int cli_inspect(int argc, char **argv);
int cli_bench(int argc, char **argv);
int cli_analyze(int argc, char **argv);
int cli_prune(int argc, char **argv);
int cli_tune(int argc, char **argv);

extern const struct cli_verb cli_generate_verb, cli_inspect_verb, cli_analyze_verb, cli_prune_verb, cli_bench_verb,
    cli_tune_verb;

#endif
