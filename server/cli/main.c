/* asdm, the command line tool. */
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include <version.h>

static const char help[] =
    "asdm draws pictures with Stable Diffusion 1.x and 2.x checkpoints.\n"
    "\n"
    "  asdm generate ...    draw pictures from a prompt\n"
    "  asdm inspect MODEL   what a checkpoint is made of\n"
    "  asdm analyze MODEL   which of its layers are redundant\n"
    "  asdm prune MODEL OUT  the same model with fewer layers\n"
    "  asdm bench ...       how fast its parts run here\n"
    "  asdm tune MODEL      which kernels are fastest on this GPU\n"
    "  asdm version\n"
    "\n"
    "Each verb has --help. Exit codes: 0 done, 1 failed, 2 wrong usage.\n"
    "\n"
    "Example:\n"
    "  asdm generate --model deploy/models/scenes-256 --prompt \"a red house\" --output house.png\n";

int main(int argc, char **argv) {
    const struct cli_verb *const verbs[] = {&cli_generate_verb, &cli_inspect_verb, &cli_analyze_verb,
                                            &cli_prune_verb,    &cli_bench_verb,   &cli_tune_verb};
    const char *name = argc > 1 ? argv[1] : "";
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++)
        if (strcmp(name, verbs[i]->name) == 0) {
            int code = verbs[i]->run(argc - 1, argv + 1);
            if (fflush(stdout) != 0 && code == CLI_DONE) {
                cli_message("standard output could not be written");
                code = CLI_FAILED;
            }
            return code;
        }
    if (strcmp(name, "version") == 0 || strcmp(name, "--version") == 0) {
        printf("asdm %s\n", ASDM_VERSION);
        return CLI_DONE;
    }
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        fputs(help, stdout);
        return CLI_DONE;
    }
    cli_message(*name ? "%s: unknown verb; known: generate, inspect, analyze, prune, bench, tune, version"
                      : "a verb is needed%s",
                name);
    fputs("Try: asdm --help\n", stderr);
    return CLI_USAGE;
}
