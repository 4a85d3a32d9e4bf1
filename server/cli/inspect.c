#include <stdio.h>

#include "cli.h"

static const char help[] =
    "Says what a checkpoint is made of: parameters, multiply-accumulates and bytes by block.\n"
    "\n"
    "  asdm inspect MODEL [--tokenizer DIR] [--width N] [--height N] [--json]\n"
    "  asdm inspect --arch sd15|sd21|bk-base|bk-small|bk-tiny [--json]\n"
    "\n"
    "  --width N  --height N      picture size the GMAC are counted for (default: the model's own)\n"
    "  --json                     one JSON object instead of a table\n"
    "\n"
    "GMAC are per UNet row (text encoder: per prompt), with both matrix products of attention counted. Step GMAC are "
    "what\n"
    "each step is left with: keys and values of the prompt and time embeddings are computed once, upsampling is folded "
    "into\n"
    "the convolution after it.\n"
    "\n"
    "Example:\n"
    "  asdm inspect deploy/models/scenes-256\n";

enum { PARTS_MAX = 64 };

static void print_json_text(const char *text) {
    putchar('"');
    for (const unsigned char *c = (const unsigned char *)text; *c; c++)
        if (*c == '"' || *c == '\\' || *c < 0x20)
            printf("\\u%04x", *c);
        else
            putchar(*c);
    putchar('"');
}

static void print_json(const char *name, const struct asdm_model *model, int width, int height,
                       const struct asdm_model_part *parts, int count) {
    printf("{\"model\":");
    print_json_text(name);
    printf(",\"width\":%d,\"height\":%d,\"sampler\":\"%s\",\"parts\":[", width, height,
           asdm_model_default_sampler(model));
    for (int i = 0; i < count; i++)
        printf("%s{\"name\":\"%s\",\"parameters\":%lld,\"gmac\":%.6f,\"step_gmac\":%.6f,\"bytes\":%lld}", i ? "," : "",
               parts[i].name, (long long)parts[i].parameters, parts[i].gmac, parts[i].step_gmac,
               (long long)parts[i].bytes);
    printf("]}\n");
}

static void print_table(const struct asdm_model *model, int width, int height, const struct asdm_model_part *parts,
                        int count) {
    printf("%dx%d pixels, sampler %s; GMAC per row, attention counted\n", width, height,
           asdm_model_default_sampler(model));
    printf("%-24s %14s %10s %10s %14s\n", "part", "parameters", "GMAC", "step GMAC", "bytes");
    for (int i = 0; i < count; i++)
        printf("%-24s %14lld %10.2f %10.2f %14lld\n", parts[i].name, (long long)parts[i].parameters, parts[i].gmac,
               parts[i].step_gmac, (long long)parts[i].bytes);
}

int cli_inspect(int argc, char **argv) {
    struct cli_model options = {.device = "ref"}; /* nothing is computed */
    struct asdm_model *model = NULL;
    struct asdm_model_part parts[PARTS_MAX];
    int width = 0, height = 0;
    bool json = false;
    const char *path = NULL;
    const struct cli_option list[] = {{.name = "arch", .text = &options.architecture},
                                      {.name = "model", .text = &path},
                                      {.name = "tokenizer", .text = &options.tokenizer},
                                      {.name = "width", .integer = &width, .min = 8, .max = 1 << 20},
                                      {.name = "height", .integer = &height, .min = 8, .max = 1 << 20},
                                      {.name = "json", .flag = &json},
                                      {0}};
    int code = cli_parse(&cli_inspect_verb, argc, argv, list, &path, 1);
    if (code >= 0)
        return code;
    options.path = path;
    if (!path && !options.architecture) {
        cli_message("a model is needed\nTry: asdm inspect --help");
        return CLI_USAGE;
    }
    if (width % 8 || height % 8) {
        cli_message("--width, --height: must be multiples of 8");
        return CLI_USAGE;
    }
    code = cli_open_model(&options, &model);
    if (code)
        return code;
    int own_width, own_height;
    asdm_model_default_size(model, &own_width, &own_height);
    width = width ? width : own_width;
    height = height ? height : own_height;
    int count = asdm_model_describe(model, width, height, parts, PARTS_MAX);
    if (json)
        print_json(path ? path : options.architecture, model, width, height, parts, count);
    else
        print_table(model, width, height, parts, count);
    asdm_model_close(&model);
    return CLI_DONE;
}

const struct cli_verb cli_inspect_verb = {"inspect", help, cli_inspect};
