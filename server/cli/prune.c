#include <stdio.h>

#include <asdm/error.h>
#include <asdm/light.h>

#include "analyze.h"
#include "cli.h"

static const char help[] =
    "Writes a light model: a checkpoint without some of its layers or with cheaper attention, whose weights are the\n"
    "original's.\n"
    "\n"
    "  asdm prune MODEL OUT [--remove UNIT[,UNIT...]] [--gri HEIGHT[,HEIGHT...]] [--condconv HOW] [--force]\n"
    "  asdm prune MODEL OUT --speedup X | --budget-ms X [--gri HEIGHT[,HEIGHT...]] [--condconv HOW] [--analysis FILE]\n"
    "  asdm prune MODEL | --arch sd15|sd21|bk-base|bk-small|bk-tiny ... --dry-run\n"
    "\n"
    "  --remove UNITS   pairs of layers (one on the way down, one on the way up), named by the height of their map, "
    "and\n"
    "                   mid, the middle block; a name that the model does not have tells which it has\n"
    "  --speedup X      chooses what to remove, and which stages get global-regional attention, itself: the least "
    "damage\n"
    "                   that makes the UNet X times as fast, measured here (without experts); stages of --gri are "
    "given\n"
    "  --budget-ms X    the same, so that a call of the UNet takes at most X milliseconds\n"
    "  --analysis FILE  what asdm analyze --json wrote for this model on this device; without it, and for what it "
    "lacks,\n"
    "                   the analysis is made now (--prompts, --device, --dtype, --threads, --quiet as for analyze)\n"
    "  --gri HEIGHTS    stages, by the height of their map, whose tokens attend to their own window and to the means "
    "of\n"
    "                   the cells of the rest of the map (global-regional attention) instead of to all tokens\n"
    "  --gri-window N   tokens along a side of a window (default 16)\n"
    "  --gri-pool N     tokens along a side of a cell; divides the window (default 4)\n"
    "  --condconv HOW   full or timestep: the convolutions of the layers taken out stay, as experts of conditional\n"
    "                   convolutions in the layers beside them, chosen by a layer's input and the timestep or by the\n"
    "                   timestep alone; off (default): they go\n"
    "  --dry-run        sizes before and after, and nothing written\n"
    "  --force          replaces OUT where it exists\n"
    "\n"
    "GMAC are of a UNet row with both products of attention; step GMAC what each step is left with, as for inspect.\n"
    "MODEL is a diffusers directory, and so is OUT; unet/config.json says under \"asdm\" what it is and what it came\n"
    "from.\n"
    "\n"
    "Examples:\n"
    "  asdm prune deploy/models/scenes-256 light --remove pair32,mid --gri 32 --gri-window 8\n"
    "  asdm prune deploy/models/scenes-256 light --speedup 1.4 --condconv timestep\n";

static void print_size(const char *name, const struct asdm_unet_size *size, const struct asdm_unet_size *before) {
    printf("%-8s %14lld %10.2f %10.2f %14lld %8.2f %%\n", name, (long long)size->parameters, size->gmac,
           size->step_gmac, (long long)size->bytes, 100 * size->gmac / before->gmac);
}

int cli_prune(int argc, char **argv) {
    struct asdm_light_options options = {.sha256 = cli_sha256};
    struct asdm_light_report report;
    struct asdm_error err = {0};
    struct cli_choice choice = {0};
    const char *words[2] = {0};
    const struct cli_option list[] = {
        {.name = "arch", .text = &options.architecture},
        {.name = "remove", .text = &options.remove},
        {.name = "gri", .text = &options.gri},
        {.name = "gri-window", .integer = &options.gri_window, .min = 1, .max = 1024},
        {.name = "gri-pool", .integer = &options.gri_pool, .min = 1, .max = 1024},
        {.name = "condconv", .text = &options.condconv},
        {.name = "speedup", .real = &choice.target.speedup, .least = 1, .most = 1000},
        {.name = "budget-ms", .real = &choice.target.budget_ms, .least = 1e-6, .most = 1e9},
        {.name = "analysis", .text = &choice.analysis},
        {.name = "prompts", .text = &choice.prompts},
        {.name = "device", .text = &choice.model.device},
        {.name = "dtype", .text = &choice.model.dtype},
        {.name = "threads", .integer = &choice.model.threads, .min = 1, .max = 1024},
        {.name = "quiet", .flag = &choice.quiet},
        {.name = "dry-run", .flag = &options.dry_run},
        {.name = "force", .flag = &options.force},
        {0}};
    int code = cli_parse(&cli_prune_verb, argc, argv, list, words, 2);
    if (code >= 0)
        return code;
    if (!words[0] == !options.architecture || (!words[1] && !options.dry_run)) {
        cli_message("a model and a directory to write are needed, or --arch and --dry-run\nTry: asdm prune --help");
        return CLI_USAGE;
    }
    choice.model.path = words[0];
    choice.model.architecture = options.architecture;
    code = cli_choose_units(&choice, words[1], &options);
    if (code != 0)
        return code;
    if (asdm_light_prune(words[0], words[1], &options, &report, &err) != ASDM_OK)
        return cli_fail(&err);
    printf("%-8s %14s %10s %10s %14s %10s\n", "UNet", "parameters", "GMAC", "step GMAC", "bytes", "GMAC left");
    print_size("before", &report.before, &report.before);
    print_size("after", &report.after, &report.before);
    cli_choice_print(&choice);
    return CLI_DONE;
}

const struct cli_verb cli_prune_verb = {"prune", help, cli_prune};
