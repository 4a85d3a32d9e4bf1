/* asdmd, the daemon: its command line. */
#include <getopt.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <version.h>

#include <asdm/error.h>

#include "front/config.h"
#include "front/daemon.h"
#include "front/keys.h"

enum { DONE = 0, FAILED = 1, WRONG_USAGE = 2, OVERRIDES_MAX = 256, HELP_BYTES_MAX = 1 << 16 };

static const char help[] =
    "asdmd serves pictures from Stable Diffusion checkpoints over HTTP.\n"
    "\n"
    "  --config FILE         JSON configuration; --help-config shows its keys\n"
    "  --model NAME=DIR      a model to serve; may be repeated, the first is the default\n"
    "  --listen HOST:PORT    default 127.0.0.1:8080; port 0: any free one\n"
    "  --device DEVICE       auto, cpu, ref, cuda or cuda:N\n"
    "  --dtype DTYPE         auto, fp32, tf32, bf16 or fp16\n"
    "  --threads N           of a worker on a CPU; 0: one per core\n"
    "  --set KEY=VALUE       any key of the configuration, e.g. --set queue.pictures_max=64\n"
    "  --check-config        read the configuration and the keys, say whether they are good, and exit\n"
    "  --help, --help-config, --version\n"
    "\n"
    "Options override the file. ASDM_API_KEYS_FILE in the environment overrides its api_keys.\n"
    "SIGTERM and SIGINT finish what is accepted and exit, SIGHUP reads the keys anew.\n"
    "Exit codes: 0 stopped in order, 1 failed, 2 wrong usage or configuration.\n"
    "\n"
    "Example:\n"
    "  asdmd --model scenes=deploy/models/scenes-256\n";

enum option_code {
    OPTION_CONFIG = 1,
    OPTION_SET,
    OPTION_CHECK,
    OPTION_HELP,
    OPTION_HELP_CONFIG,
    OPTION_VERSION,
    OPTION_KEY
};

static const struct option options[] = {
    {"config", required_argument, NULL, OPTION_CONFIG},     {"set", required_argument, NULL, OPTION_SET},
    {"check-config", no_argument, NULL, OPTION_CHECK},      {"help", no_argument, NULL, OPTION_HELP},
    {"help-config", no_argument, NULL, OPTION_HELP_CONFIG}, {"version", no_argument, NULL, OPTION_VERSION},
    {"model", required_argument, NULL, OPTION_KEY},         {"listen", required_argument, NULL, OPTION_KEY},
    {"device", required_argument, NULL, OPTION_KEY},        {"dtype", required_argument, NULL, OPTION_KEY},
    {"threads", required_argument, NULL, OPTION_KEY},       {0},
};

/* What is put before an option's value to make an override. */
static const struct {
    const char *option, *prefix;
} keys[] = {
    {"model", "models."},       {"listen", "listen="},          {"device", "worker.device="},
    {"dtype", "worker.dtype="}, {"threads", "worker.threads="},
};

struct command_line {
    const char *config;
    char *overrides[OVERRIDES_MAX + 1]; /* ended by NULL */
    int override_count;
    bool check;
};

static int wrong_usage(const char *message) {
    fprintf(stderr, "asdmd: %s\nTry: asdmd --help\n", message);
    return WRONG_USAGE;
}

static int add_override(struct command_line *line, const char *prefix, const char *value) {
    if (line->override_count >= OVERRIDES_MAX)
        return wrong_usage("too many options");
    char *text;
    if (asprintf(&text, "%s%s", prefix, value) < 0)
        return wrong_usage("no memory");
    line->overrides[line->override_count++] = text;
    return -1;
}

static int add_key(struct command_line *line, const char *option, const char *value) {
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (strcmp(keys[i].option, option) == 0)
            return add_override(line, keys[i].prefix, value);
    ASDM_ASSERT(!"an option without a key");
    return WRONG_USAGE;
}

static int print_config_help(void) {
    struct buffer text;
    buffer_init(&text, HELP_BYTES_MAX);
    config_write_help(&text);
    bool printed = !text.failed && fwrite(text.data, 1, text.length, stdout) == text.length && fflush(stdout) == 0;
    buffer_done(&text);
    return printed ? DONE : FAILED;
}

/* -1 to go on, or an exit code. */
static int take_option(struct command_line *line, enum option_code code, const char *name) {
    switch (code) {
    case OPTION_CONFIG:
        line->config = optarg;
        return -1;
    case OPTION_SET:
        return add_override(line, "", optarg);
    case OPTION_CHECK:
        line->check = true;
        return -1;
    case OPTION_HELP:
        return fputs(help, stdout) >= 0 && fflush(stdout) == 0 ? DONE : FAILED;
    case OPTION_HELP_CONFIG:
        return print_config_help();
    case OPTION_VERSION:
        return printf("asdmd %s\n", ASDM_VERSION) >= 0 && fflush(stdout) == 0 ? DONE : FAILED;
    case OPTION_KEY:
        return add_key(line, name, optarg);
    }
    fputs("Try: asdmd --help\n", stderr); /* getopt has said what is wrong */
    return WRONG_USAGE;
}

static int parse(int argc, char **argv, struct command_line *ret) {
    int index = 0;
    for (int code; (code = getopt_long(argc, argv, "", options, &index)) != -1;) {
        int result = take_option(ret, (enum option_code)code, options[index].name);
        if (result >= 0)
            return result;
    }
    return optind == argc ? -1 : wrong_usage("every word must be an option");
}

static int check(const struct config *config) {
    struct keys *opened = NULL;
    struct asdm_error err;
    if (keys_open(config->api_keys, &opened, &err) != ASDM_OK) {
        fprintf(stderr, "asdmd: %s\n", err.message);
        return WRONG_USAGE;
    }
    keys_close(&opened);
    return puts("The configuration is good.") >= 0 && fflush(stdout) == 0 ? DONE : FAILED;
}

static int run(const struct command_line *line) {
    struct config config;
    struct asdm_error err;
    if (config_load(line->config, (const char *const *)line->overrides, &config, &err) != ASDM_OK) {
        fprintf(stderr, "asdmd: %s\n", err.message);
        return WRONG_USAGE;
    }
    int code = line->check ? check(&config) : daemon_run(&config);
    config_done(&config);
    return code;
}

/* Threads share two arenas, and what is as large as a picture is mapped and given back by itself: otherwise each arena
   keeps its own high-water mark, and the process grows for hours. */
static void settle_allocator(void) {
    enum { ARENAS = 2, MAPPED_BYTES = 128 << 10 };
    mallopt(M_ARENA_MAX, ARENAS);
    mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES);
}

int main(int argc, char **argv) {
    settle_allocator();
    struct command_line line = {0};
    int code = parse(argc, argv, &line);
    if (code < 0)
        code = run(&line);
    for (int i = 0; i < line.override_count; i++)
        free(line.overrides[i]);
    return code;
}
