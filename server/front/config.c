#include "front/config.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>
#include <asdm/json.h>

#include "asdm_limits.h"

/* ---- the table */

enum type { INTEGER, BOOLEAN, TEXT, FILE_PATH, ADDRESS, URL, DEVICE, DTYPE, MODELS };

struct row {
    const char *name; /* as in the file, objects joined by dots */
    enum type type;
    int min, max;     /* INTEGER */
    int number;       /* default of INTEGER and BOOLEAN */
    const char *text; /* default of the others; NULL: none */
    size_t offset;    /* in struct config */
    const char *help;
};

#define AT(field) offsetof(struct config, field)

static const struct row rows[] = {
    {"listen", ADDRESS, 0, 0, 0, "127.0.0.1:8080", AT(listen_host),
     "where to listen; port 0: any free one, told in the log. Other machines reach the daemon only where keys are set"},
    {"tls.certificate", FILE_PATH, 0, 0, 0, NULL, AT(tls_certificate), "PEM file, with its chain; needs tls.key"},
    {"tls.key", FILE_PATH, 0, 0, 0, NULL, AT(tls_key), "PEM file of the certificate's private key"},
    {"api_keys", FILE_PATH, 0, 0, 0, NULL, AT(api_keys),
     "file of the keys' SHA-256; without it everybody who reaches the address may draw"},
    {"public_url", URL, 0, 0, 0, NULL, AT(public_url),
     "how clients reach the daemon, for addresses of pictures; without it the request's Host header"},
    {"access_log", BOOLEAN, 0, 0, true, NULL, AT(access_log), "one JSON line on stderr for every request"},
    {"drain_timeout_ms", INTEGER, 0, 3600000, 30000, NULL, AT(drain_timeout_ms),
     "SIGTERM to exit; what is not finished by then is answered with 503"},
    {"models", MODELS, 0, 0, 0, NULL, AT(models), "the models to serve, see below; the first is the default"},
    {"worker.program", FILE_PATH, 0, 0, 0, NULL, AT(worker), "without it asdm-worker beside asdmd, or in libexec"},
    {"worker.device", DEVICE, 0, 0, 0, "auto", AT(device), "what to run on, where a model does not say"},
    {"worker.dtype", DTYPE, 0, 0, 0, "auto", AT(dtype), "what to compute in, where a model does not say"},
    {"worker.threads", INTEGER, 0, 1024, 0, NULL, AT(threads), "on a CPU; 0: one per core"},
    {"worker.rows_max", INTEGER, 2, 64, 16, NULL, AT(rows_max), "rows of the batch; a picture has two with guidance"},
    {"worker.memory_mb", INTEGER, 0, 1 << 20, 0, NULL, AT(memory_mb), "beside the weights; 0: what is free"},
    {"worker.step_timeout_ms", INTEGER, 1000, 3600000, 120000, NULL, AT(step_timeout_ms),
     "a worker silent for so long is killed and started anew"},
    {"worker.load_timeout_ms", INTEGER, 1000, 3600000, 300000, NULL, AT(load_timeout_ms), "the same while it loads"},
    {"worker.attempts_max", INTEGER, 1, 10, 3, NULL, AT(attempts_max),
     "a picture whose worker died so often is given up"},
    {"worker.shared_memory_mb", INTEGER, 16, 65536, 256, NULL, AT(shared_memory_mb),
     "pixels on their way between the daemon and a worker"},
    {"queue.pictures_max", INTEGER, 1, 100000, 256, NULL, AT(queue_pictures_max),
     "pictures that may wait; more are refused with 503"},
    {"queue.default_deadline_ms", INTEGER, 0, 86400000, 0, NULL, AT(default_deadline_ms),
     "of requests that name none; 0: none"},
    {"limits.pixels_max", INTEGER, 4096, 64 << 20, 4194304, NULL, AT(pixels_max), "width times height of one picture"},
    {"limits.steps_max", INTEGER, 1, ASDM_LIMIT_STEPS, 150, NULL, AT(steps_max), "steps of one picture"},
    {"limits.count_max", INTEGER, 1, 100, 10, NULL, AT(count_max), "pictures of one request"},
    {"results.ttl_s", INTEGER, 1, 604800, 3600, NULL, AT(result_ttl_s), "finished pictures are kept so long"},
    {"results.memory_mb", INTEGER, 1, 1 << 20, 512, NULL, AT(result_memory_mb),
     "and at most so much of them, the oldest go first"},
    {"png.threads", INTEGER, 1, 64, 2, NULL, AT(png_threads), "threads that write PNG files"},
    {"png.level", INTEGER, 0, 9, 0, NULL, AT(png_level), "of zlib, 1 fast to 9 small; 0: runs alone, the fastest"},
    {"http.threads", INTEGER, 1, 64, 4, NULL, AT(http_threads), "threads that read requests"},
    {"http.connections_max", INTEGER, 8, 100000, 4096, NULL, AT(connections_max), "connections open at once"},
    {"http.body_bytes_max", INTEGER, 1024, 1 << 30, 64 << 20, NULL, AT(body_bytes_max), "of a request"},
    {"http.header_timeout_ms", INTEGER, 100, 3600000, 10000, NULL, AT(header_timeout_ms),
     "a request's header must be there by then"},
    {"http.body_timeout_ms", INTEGER, 100, 3600000, 60000, NULL, AT(body_timeout_ms), "and its body"},
    {"http.idle_timeout_ms", INTEGER, 100, 3600000, 60000, NULL, AT(idle_timeout_ms),
     "a connection without a request is closed after it"},
};
enum { ROWS = sizeof rows / sizeof *rows };

/* Members of one object in "models". */
static const struct model_row {
    const char *name;
    enum type type;
    size_t offset; /* in struct config_model */
    bool required;
    const char *help;
} model_rows[] = {
    {"name", TEXT, offsetof(struct config_model, name), true, "what requests call it"},
    {"path", FILE_PATH, offsetof(struct config_model, path), true,
     "directory as diffusers writes it, or a one-file .safetensors"},
    {"tokenizer", FILE_PATH, offsetof(struct config_model, tokenizer), false, "directory; for one-file checkpoints"},
    {"device", DEVICE, offsetof(struct config_model, device), false, "instead of worker.device"},
    {"dtype", DTYPE, offsetof(struct config_model, dtype), false, "instead of worker.dtype"},
};
enum { MODEL_ROWS = sizeof model_rows / sizeof *model_rows, MODEL_NAME_BYTES_MAX = 63 };

/* What a value must be, in words. */
static const char *allowed(enum type type, int min, int max, char *text, size_t room) {
    static const char *const words[] = {
        [BOOLEAN] = "true or false",
        [TEXT] = "a text of 1 to 63 letters, digits or any of . _ - : /",
        [FILE_PATH] = "a path",
        [ADDRESS] = "ADDRESS:PORT such as 127.0.0.1:8080, [::1]:8080 or 0.0.0.0:8080",
        [URL] = "an address that begins with http:// or https://",
        [DEVICE] = "auto, cpu, ref, cuda or cuda:N",
        [DTYPE] = "auto, fp32, bf16 or fp16",
        [MODELS] = "a list of 1 to 16 objects",
    };
    if (type == INTEGER)
        snprintf(text, room, "an integer from %d to %d", min, max);
    else
        snprintf(text, room, "%s", words[type]);
    return text;
}

/* ---- texts */

/* Where a value came from: its key for messages, and the directory that relative paths start in (NULL: the process's).
 */
struct source {
    const char *key;
    const char *directory;
};

static enum asdm_status no_memory(struct asdm_error *err) {
    return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for the configuration");
}

static enum asdm_status replace(char **field, const char *text, struct asdm_error *err) {
    char *copy = strdup(text);
    if (!copy)
        return no_memory(err);
    free(*field);
    *field = copy;
    return ASDM_OK;
}

static enum asdm_status replace_path(const struct source *source, char **field, const char *path,
                                     struct asdm_error *err) {
    char *joined;
    if (path[0] == '/' || !source->directory)
        return replace(field, path, err);
    if (asprintf(&joined, "%s/%s", source->directory, path) < 0)
        return no_memory(err);
    free(*field);
    *field = joined;
    return ASDM_OK;
}

static bool is_device(const char *text) {
    static const char *const names[] = {"auto", "cpu", "ref", "cuda"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(text, names[i]) == 0)
            return true;
    if (strncmp(text, "cuda:", 5) != 0)
        return false;
    int digits = 0;
    for (text += 5; *text >= '0' && *text <= '9'; text++)
        digits++;
    return digits > 0 && digits < 4 && *text == '\0';
}

static bool is_dtype(const char *text) {
    return strcmp(text, "auto") == 0 || strcmp(text, "fp32") == 0 || strcmp(text, "bf16") == 0 ||
           strcmp(text, "fp16") == 0;
}

static bool is_model_name(const char *text) {
    static const char known[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-:/";
    size_t length = strlen(text);
    return length > 0 && length <= MODEL_NAME_BYTES_MAX && strspn(text, known) == length;
}

static bool is_url(const char *text) {
    const char *host = strncmp(text, "http://", 7) == 0 ? text + 7 : strncmp(text, "https://", 8) == 0 ? text + 8 : "";
    if (*host == '\0' || *host == '/')
        return false;
    for (const char *at = text; *at; at++)
        if (*at <= ' ' || *at > '~' || *at == '"' || *at == '\\')
            return false;
    return true;
}

static enum asdm_status refuse(const struct source *source, enum type type, const char *text, struct asdm_error *err) {
    char words[128];
    return asdm_fail(err, ASDM_ERR_ARGUMENT, "%s: must be %s, is \"%.100s\"", source->key,
                     allowed(type, 0, 0, words, sizeof words), text);
}

/* Checks and copies a text of any type that is held as one text. */
static enum asdm_status set_text(const struct source *source, enum type type, char **field, const char *text,
                                 struct asdm_error *err) {
    bool good = type == FILE_PATH ? *text && strlen(text) < PATH_MAX
                : type == DEVICE  ? is_device(text)
                : type == DTYPE   ? is_dtype(text)
                : type == URL     ? is_url(text)
                                  : is_model_name(text);
    if (!good)
        return refuse(source, type, text, err);
    if (type == FILE_PATH)
        return replace_path(source, field, text, err);
    ASDM_TRY(replace(field, text, err));
    size_t length = strlen(*field);
    if (type == URL && (*field)[length - 1] == '/')
        (*field)[length - 1] = '\0';
    return ASDM_OK;
}

static bool parse_number(const char *text, int *ret) {
    char *end;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (errno || end == text || *end || value < INT_MIN || value > INT_MAX)
        return false;
    *ret = (int)value;
    return true;
}

static bool is_ip(const char *host) {
    unsigned char address[sizeof(struct in6_addr)];
    return inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1;
}

/* ADDRESS:PORT into listen_host and listen_port. */
static enum asdm_status set_address(const struct source *source, struct config *config, const char *text,
                                    struct asdm_error *err) {
    char host[64];
    int port;
    const char *colon = strrchr(text, ':');
    size_t length = colon ? (size_t)(colon - text) : 0;
    if (!colon || length == 0 || length >= sizeof host || colon[1] < '0' || colon[1] > '9' ||
        !parse_number(colon + 1, &port) || port > 65535)
        return refuse(source, ADDRESS, text, err);
    bool bracketed = text[0] == '[' && text[length - 1] == ']' && length > 2;
    snprintf(host, sizeof host, "%.*s", (int)(bracketed ? length - 2 : length), bracketed ? text + 1 : text);
    if (strcmp(host, "localhost") == 0)
        strcpy(host, "127.0.0.1");
    if (!is_ip(host) || bracketed != (strchr(host, ':') != NULL))
        return refuse(source, ADDRESS, text, err);
    ASDM_TRY(replace(&config->listen_host, host, err));
    config->listen_port = port;
    return ASDM_OK;
}

/* ---- one key */

static void *place(struct config *config, const struct row *row) {
    return (char *)config + row->offset;
}

static const struct row *find_row(const char *name) {
    for (int i = 0; i < ROWS; i++)
        if (strcmp(rows[i].name, name) == 0)
            return &rows[i];
    return NULL;
}

static enum asdm_status unknown_key(const char *key, struct asdm_error *err) {
    char known[900] = "";
    size_t used = 0;
    for (int i = 0; i < ROWS && used < sizeof known; i++)
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", rows[i].name);
    return asdm_fail(err, ASDM_ERR_ARGUMENT, "%.80s: unknown key; known: %s", key, known);
}

static enum asdm_status set_from_text(struct config *config, const struct row *row, const char *text,
                                      const struct source *source, struct asdm_error *err) {
    char words[128];
    int number;
    switch (row->type) {
    case INTEGER:
        if (!parse_number(text, &number) || number < row->min || number > row->max)
            return asdm_fail(err, ASDM_ERR_ARGUMENT, "%s: must be %s, is \"%.40s\"", source->key,
                             allowed(INTEGER, row->min, row->max, words, sizeof words), text);
        *(int *)place(config, row) = number;
        return ASDM_OK;
    case BOOLEAN:
        if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0)
            return refuse(source, BOOLEAN, text, err);
        *(bool *)place(config, row) = text[0] == 't';
        return ASDM_OK;
    case ADDRESS:
        return set_address(source, config, text, err);
    case MODELS:
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "models: on the command line a model is --model NAME=DIR");
    default:
        return set_text(source, row->type, place(config, row), text, err);
    }
}

static enum asdm_status wrong_type(const struct source *source, enum type type, int min, int max,
                                   const struct asdm_json *node, struct asdm_error *err) {
    char words[128];
    return asdm_fail(err, ASDM_ERR_ARGUMENT, "%s: must be %s, is %s", source->key,
                     allowed(type, min, max, words, sizeof words), asdm_json_type_name(asdm_json_type(node)));
}

/* ---- models */

/* NULL: there are too many. */
static struct config_model *add_model(struct config *config, struct asdm_error *err) {
    if (config->model_count < CONFIG_MODELS_MAX)
        return &config->models[config->model_count++];
    asdm_fail(err, ASDM_ERR_ARGUMENT, "models: more than %d", CONFIG_MODELS_MAX);
    return NULL;
}

static struct config_model *find_model(struct config *config, const char *name) {
    for (int i = 0; i < config->model_count; i++)
        if (config->models[i].name && strcmp(config->models[i].name, name) == 0)
            return &config->models[i];
    return NULL;
}

/* --model NAME=DIR. */
static enum asdm_status set_model(struct config *config, const char *name, const char *path, struct asdm_error *err) {
    const struct source of_name = {"--model NAME=DIR", NULL};
    if (!is_model_name(name))
        return refuse(&of_name, TEXT, name, err);
    struct config_model *model = find_model(config, name);
    if (!model) {
        model = add_model(config, err);
        if (!model)
            return ASDM_ERR_ARGUMENT;
        ASDM_TRY(replace(&model->name, name, err));
    }
    char key[MODEL_NAME_BYTES_MAX + 16];
    snprintf(key, sizeof key, "models.%.*s", MODEL_NAME_BYTES_MAX, name);
    return set_text(&(struct source){key, NULL}, FILE_PATH, &model->path, path, err);
}

static const struct model_row *find_model_row(const char *name) {
    for (int i = 0; i < MODEL_ROWS; i++)
        if (strcmp(model_rows[i].name, name) == 0)
            return &model_rows[i];
    return NULL;
}

static enum asdm_status read_model(struct config_model *model, const struct asdm_json *object, int index,
                                   const char *directory, struct asdm_error *err) {
    char key[160];
    struct source source = {key, directory};
    for (const struct asdm_json *member = asdm_json_first(object); member; member = asdm_json_next(member)) {
        const struct model_row *row = find_model_row(asdm_json_key(member));
        snprintf(key, sizeof key, "models[%d].%.80s", index, asdm_json_key(member));
        if (!row)
            return asdm_fail(err, ASDM_ERR_ARGUMENT, "%s: unknown key; known: name, path, tokenizer, device, dtype",
                             key);
        if (asdm_json_type(member) == ASDM_JSON_NULL && !row->required)
            continue;
        if (asdm_json_type(member) != ASDM_JSON_STRING)
            return wrong_type(&source, row->type, 0, 0, member, err);
        ASDM_TRY(set_text(&source, row->type, (char **)((char *)model + row->offset), asdm_json_string(member), err));
    }
    for (int i = 0; i < MODEL_ROWS; i++)
        if (model_rows[i].required && !*(char **)((char *)model + model_rows[i].offset))
            return asdm_fail(err, ASDM_ERR_ARGUMENT, "models[%d].%s: is needed: %s", index, model_rows[i].name,
                             model_rows[i].help);
    return ASDM_OK;
}

static enum asdm_status read_models(struct config *config, const struct asdm_json *list, const char *directory,
                                    struct asdm_error *err) {
    const struct source source = {"models", directory};
    if (asdm_json_type(list) != ASDM_JSON_ARRAY || !asdm_json_first(list))
        return wrong_type(&source, MODELS, 0, 0, list, err);
    int index = 0;
    for (const struct asdm_json *node = asdm_json_first(list); node; node = asdm_json_next(node), index++) {
        if (asdm_json_type(node) != ASDM_JSON_OBJECT)
            return asdm_fail(err, ASDM_ERR_ARGUMENT, "models[%d]: must be an object, is %s", index,
                             asdm_json_type_name(asdm_json_type(node)));
        struct config_model *model = add_model(config, err);
        if (!model)
            return ASDM_ERR_ARGUMENT;
        ASDM_TRY(read_model(model, node, index, directory, err));
        if (find_model(config, model->name) != model)
            return asdm_fail(err, ASDM_ERR_ARGUMENT, "models[%d].name: \"%s\" is there twice", index, model->name);
    }
    return ASDM_OK;
}

/* ---- the file */

static enum asdm_status set_from_json(struct config *config, const struct row *row, const struct asdm_json *node,
                                      const struct source *source, struct asdm_error *err) {
    enum asdm_json_type type = asdm_json_type(node);
    if (row->type == MODELS)
        return read_models(config, node, source->directory, err);
    if (type == ASDM_JSON_NULL && row->type != INTEGER && row->type != BOOLEAN && !row->text)
        return ASDM_OK;
    if (row->type == INTEGER && type == ASDM_JSON_NUMBER) {
        char text[32];
        snprintf(text, sizeof text, "%.17g", asdm_json_number(node));
        return set_from_text(config, row, text, source, err);
    }
    if (row->type == BOOLEAN && type == ASDM_JSON_BOOL) {
        *(bool *)place(config, row) = asdm_json_bool(node);
        return ASDM_OK;
    }
    if (row->type == INTEGER || row->type == BOOLEAN || type != ASDM_JSON_STRING)
        return wrong_type(source, row->type, row->min, row->max, node, err);
    return set_from_text(config, row, asdm_json_string(node), source, err);
}

/* Whether keys of the table are inside an object of this name. */
static bool is_group(const char *name) {
    size_t length = strlen(name);
    for (int i = 0; i < ROWS; i++)
        if (strncmp(rows[i].name, name, length) == 0 && rows[i].name[length] == '.')
            return true;
    return false;
}

/* `prefix`: "" or the group's name and a dot. Groups are one level deep. */
static enum asdm_status read_object(struct config *config, const struct asdm_json *object, const char *prefix,
                                    const char *directory, struct asdm_error *err) {
    for (const struct asdm_json *member = asdm_json_first(object); member; member = asdm_json_next(member)) {
        char key[160], group[160];
        snprintf(key, sizeof key, "%s%.80s", prefix, asdm_json_key(member));
        const struct source source = {key, directory};
        const struct row *row = strchr(asdm_json_key(member), '.') ? NULL : find_row(key);
        if (row) {
            ASDM_TRY(set_from_json(config, row, member, &source, err));
            continue;
        }
        if (*prefix || strchr(key, '.') || !is_group(key))
            return unknown_key(key, err);
        if (asdm_json_type(member) != ASDM_JSON_OBJECT)
            return asdm_fail(err, ASDM_ERR_ARGUMENT, "%s: must be an object, is %s", key,
                             asdm_json_type_name(asdm_json_type(member)));
        snprintf(group, sizeof group, "%.80s.", key);
        ASDM_TRY(read_object(config, member, group, directory, err));
    }
    return ASDM_OK;
}

static enum asdm_status read_file(struct config *config, const char *path, struct asdm_error *err) {
    struct asdm_json *root = NULL;
    ASDM_TRY(asdm_json_read(path, ASDM_LIMIT_CONFIG_BYTES, &root, err));
    const char *slash = strrchr(path, '/');
    char *directory = slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
    enum asdm_status status;
    if (!directory)
        status = no_memory(err);
    else if (asdm_json_type(root) != ASDM_JSON_OBJECT)
        status = asdm_fail(err, ASDM_ERR_ARGUMENT, "must be an object");
    else
        status = read_object(config, root, "", directory, err);
    if (status != ASDM_OK)
        asdm_fail_context(err, status, "%s", path);
    free(directory);
    asdm_json_destroy(&root);
    return status;
}

/* ---- all of it */

static enum asdm_status set_defaults(struct config *config, struct asdm_error *err) {
    for (int i = 0; i < ROWS; i++) {
        const struct row *row = &rows[i];
        if (row->type == INTEGER)
            *(int *)place(config, row) = row->number;
        else if (row->type == BOOLEAN)
            *(bool *)place(config, row) = row->number;
        else if (row->text)
            ASDM_TRY(set_from_text(config, row, row->text, &(struct source){row->name, NULL}, err));
    }
    return ASDM_OK;
}

static enum asdm_status apply_override(struct config *config, const char *text, struct asdm_error *err) {
    const char *equals = strchr(text, '=');
    char key[160];
    if (!equals || equals == text || (size_t)(equals - text) >= sizeof key)
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "\"%.100s\": must be KEY=VALUE", text);
    snprintf(key, sizeof key, "%.*s", (int)(equals - text), text);
    if (strncmp(key, "models.", 7) == 0)
        return set_model(config, key + 7, equals + 1, err);
    const struct row *row = find_row(key);
    return row ? set_from_text(config, row, equals + 1, &(struct source){key, NULL}, err) : unknown_key(key, err);
}

bool config_is_loopback(const char *host) {
    struct in_addr v4;
    struct in6_addr v6;
    if (inet_pton(AF_INET, host, &v4) == 1)
        return ntohl(v4.s_addr) >> 24 == 127;
    return inet_pton(AF_INET6, host, &v6) == 1 && memcmp(&v6, &in6addr_loopback, sizeof v6) == 0;
}

static enum asdm_status check_together(const struct config *config, struct asdm_error *err) {
    if (config->model_count == 0)
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "models: at least one is needed, here or as --model NAME=DIR");
    if (!config->tls_certificate != !config->tls_key)
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "%s: is needed with %s",
                         config->tls_key ? "tls.certificate" : "tls.key",
                         config->tls_key ? "tls.key" : "tls.certificate");
    if (!config->api_keys && !config_is_loopback(config->listen_host))
        return asdm_fail(err, ASDM_ERR_ARGUMENT,
                         "listen: %s is reached by other machines, which needs api_keys; without keys it must be "
                         "127.0.0.1 or [::1]",
                         config->listen_host);
    return ASDM_OK;
}

enum asdm_status config_load(const char *path, const char *const *overrides, struct config *ret,
                             struct asdm_error *err) {
    struct config config = {0};
    enum asdm_status status = set_defaults(&config, err);
    if (status == ASDM_OK && path)
        status = read_file(&config, path, err);
    const char *secret = getenv("ASDM_API_KEYS_FILE");
    if (status == ASDM_OK && secret)
        status = set_text(&(struct source){"ASDM_API_KEYS_FILE", NULL}, FILE_PATH, &config.api_keys, secret, err);
    for (int i = 0; status == ASDM_OK && overrides && overrides[i]; i++)
        status = apply_override(&config, overrides[i], err);
    if (status == ASDM_OK)
        status = check_together(&config, err);
    if (status == ASDM_OK)
        *ret = config;
    else
        config_done(&config);
    return status;
}

void config_done(struct config *config) {
    for (int i = 0; i < ROWS; i++)
        if (rows[i].type == ADDRESS || rows[i].type == TEXT || rows[i].type == FILE_PATH || rows[i].type == URL ||
            rows[i].type == DEVICE || rows[i].type == DTYPE)
            free(*(char **)place(config, &rows[i]));
    for (int i = 0; i < config->model_count; i++)
        for (int k = 0; k < MODEL_ROWS; k++)
            free(*(char **)((char *)&config->models[i] + model_rows[k].offset));
    *config = (struct config){0};
}

/* ---- help */

static void put_default(struct buffer *to, const struct row *row) {
    if (row->type == INTEGER)
        buffer_print(to, "%d", row->number);
    else if (row->type == BOOLEAN)
        buffer_text(to, row->number ? "true" : "false");
    else
        buffer_text(to, row->text ? row->text : "none");
}

void config_write_help(struct buffer *to) {
    char words[128];
    buffer_text(to, "| key | value | default | what |\n|---|---|---|---|\n");
    for (int i = 0; i < ROWS; i++) {
        buffer_print(to, "| `%s` | %s | ", rows[i].name,
                     allowed(rows[i].type, rows[i].min, rows[i].max, words, sizeof words));
        put_default(to, &rows[i]);
        buffer_print(to, " | %s |\n", rows[i].help);
    }
    buffer_text(to, "\n| key of a model | value | what |\n|---|---|---|\n");
    for (int i = 0; i < MODEL_ROWS; i++)
        buffer_print(to, "| `%s` | %s%s | %s |\n", model_rows[i].name,
                     allowed(model_rows[i].type, 0, 0, words, sizeof words), model_rows[i].required ? ", needed" : "",
                     model_rows[i].help);
}
