#include "cli.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OPTIONS_MAX = 40 };

/* ---- messages */

void cli_message(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fputs("asdm: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
}

int cli_fail(const struct asdm_error *err) {
    cli_message("%s", err->message);
    return err->status == ASDM_ERR_ARGUMENT ? CLI_USAGE : CLI_FAILED;
}

static volatile sig_atomic_t interrupted;

static void on_signal(int number) {
    (void)number;
    interrupted = 1;
}

void cli_catch_interrupts(void) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESETHAND}; /* a second one ends at once */
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

bool cli_interrupted(void) {
    return interrupted;
}

/* ---- options */

static bool parse_integer(const char *text, int64_t min, int64_t max, int *ret) {
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno || isspace((unsigned char)*text) || end == text || *end || value < min || value > max)
        return false;
    *ret = (int)value;
    return true;
}

static bool parse_seed(const char *text, uint64_t *ret) {
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno || isspace((unsigned char)*text) || end == text || *end || strchr(text, '-'))
        return false;
    *ret = value;
    return true;
}

static bool parse_real(const char *text, double least, double most, double *ret) {
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    if (errno || isspace((unsigned char)*text) || end == text || *end || !(value >= least && value <= most))
        return false;
    *ret = value;
    return true;
}

/* Stores a value; false after a message. */
static bool store(const struct cli_option *option, const char *value) {
    if (option->flag) {
        *option->flag = true;
    } else if (option->text) {
        *option->text = value;
    } else if (option->integer) {
        if (!parse_integer(value, option->min, option->max, option->integer)) {
            cli_message("--%s: must be a whole number from %lld to %lld, is \"%.60s\"", option->name,
                        (long long)option->min, (long long)option->max, value);
            return false;
        }
    } else if (option->real) {
        if (!parse_real(value, option->least, option->most, option->real)) {
            cli_message("--%s: must be a number from %g to %g, is \"%.60s\"", option->name, option->least, option->most,
                        value);
            return false;
        }
    } else if (!parse_seed(value, option->seed)) {
        cli_message("--%s: must be a whole number from 0 to 2^64 - 1, is \"%.60s\"", option->name, value);
        return false;
    }
    return true;
}

static int wrong_usage(const struct cli_verb *verb) {
    fprintf(stderr, "Try: asdm %s --help\n", verb->name);
    return CLI_USAGE;
}

static int list_options(const struct cli_option *options, struct option *list) {
    int count = 0;
    for (; options[count].name && count < OPTIONS_MAX; count++)
        list[count] =
            (struct option){options[count].name, options[count].flag ? no_argument : required_argument, NULL, count};
    list[count] = (struct option){"help", no_argument, NULL, OPTIONS_MAX};
    return count;
}

/* The word that getopt could not use; optind is already past it. */
static int refuse_option(const struct cli_verb *verb, char **argv, bool missing) {
    const char *word = argv[optind - 1];
    cli_message(missing ? "%s: needs a value" : "%s: unknown option", word);
    return wrong_usage(verb);
}

int cli_parse(const struct cli_verb *verb, int argc, char **argv, const struct cli_option *options, const char **words,
              int word_max) {
    struct option list[OPTIONS_MAX + 2] = {{0}};
    int index, word_count = 0;
    list_options(options, list);
    optind = 1;
    opterr = 0;
    while ((index = getopt_long(argc, argv, ":h", list, NULL)) != -1) {
        if (index == OPTIONS_MAX || index == 'h') {
            fputs(verb->help, stdout);
            return CLI_DONE;
        }
        if (index == '?' || index == ':')
            return refuse_option(verb, argv, index == ':');
        if (!store(&options[index], optarg))
            return wrong_usage(verb);
    }
    for (; optind < argc; optind++) {
        if (word_count == word_max) {
            cli_message("%s: not expected", argv[optind]);
            return wrong_usage(verb);
        }
        words[word_count++] = argv[optind];
    }
    return -1;
}

/* ---- models */

bool cli_batch_invariant(const struct cli_model *options) {
    return !options->batch_invariant || strcmp(options->batch_invariant, "off") != 0;
}

int cli_open_model(const struct cli_model *options, struct asdm_model **ret) {
    struct asdm_error err = {0};
    struct asdm_model_options model = {.device = options->device,
                                       .threads = options->threads,
                                       .tokenizer = options->tokenizer,
                                       .batch_dependent = !cli_batch_invariant(options),
                                       .plan = options->plan};
    if (cli_batch_invariant(options) && options->batch_invariant && strcmp(options->batch_invariant, "on") != 0) {
        cli_message("--batch-invariant: must be on or off, is \"%.60s\"", options->batch_invariant);
        return CLI_USAGE;
    }
    enum asdm_status status = asdm_dtype_find(options->dtype ? options->dtype : "auto", &model.dtype, &err);
    if (status == ASDM_OK && options->path && options->architecture) {
        cli_message("--model and --arch: only one can be given");
        return CLI_USAGE;
    }
    if (status == ASDM_OK)
        status = options->architecture ? asdm_model_open_random(options->architecture, &model, ret, &err)
                                       : asdm_model_open(options->path, &model, ret, &err);
    if (status == ASDM_OK && asdm_model_note(*ret))
        cli_message("%s", asdm_model_note(*ret));
    return status == ASDM_OK ? 0 : cli_fail(&err);
}

/* ---- progress */

void cli_progress_start(struct cli_progress *progress, bool quiet, int picture, int pictures) {
    *progress = (struct cli_progress){.quiet = quiet,
                                      .terminal = isatty(STDERR_FILENO) == 1,
                                      .picture = picture,
                                      .pictures = pictures,
                                      .start = clock_seconds()};
}

static void show_bar(int step, int total) {
    enum { WIDTH = 30 };
    char bar[WIDTH + 1];
    int filled = total ? WIDTH * step / total : WIDTH;
    memset(bar, ' ', WIDTH);
    memset(bar, '=', (size_t)filled);
    bar[WIDTH] = '\0';
    fprintf(stderr, "\r[%s] ", bar);
}

void cli_progress_show(struct cli_progress *progress, int step, int total) {
    if (progress->quiet || step == 0 || step == progress->last)
        return;
    double each = (clock_seconds() - progress->start) / step;
    progress->last = step;
    if (progress->terminal)
        show_bar(step, total);
    if (progress->pictures > 1)
        fprintf(stderr, "picture %d/%d, ", progress->picture + 1, progress->pictures);
    fprintf(stderr, "step %d/%d, %.3f s/step, ETA %.1f s", step, total, each, each * (total - step));
    fputs(progress->terminal ? "  " : "\n", stderr);
    fflush(stderr);
}

void cli_progress_end(struct cli_progress *progress) {
    if (!progress->quiet && progress->terminal)
        fputc('\n', stderr);
}
