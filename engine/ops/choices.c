#include "ops/choices.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>
#include <asdm/json.h>
#include "asdm_limits.h"
#include "base/file.h"

enum { FORMAT = 1, ROWS_MAX = 1024 };

struct entry {
    struct entry *next;
    int rows;
    char implementation[ASDM_CHOICE_BYTES];
};

struct operation {
    struct operation *next;
    char name[ASDM_CHOICE_BYTES];
    struct entry *entries; /* by rows */
};

struct asdm_choices {
    struct operation *operations, *last; /* in the order in which they came */
    int count;
    char *path; /* NULL: from no file */
};

/* ---- in memory */

enum asdm_status asdm_choices_create(struct asdm_choices **ret, struct asdm_error *err) {
    struct asdm_choices *choices = calloc(1, sizeof *choices);
    if (!choices)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for the choices of kernels");
    *ret = choices;
    return ASDM_OK;
}

void asdm_choices_destroy(struct asdm_choices **choices) {
    if (!*choices)
        return;
    for (struct operation *o = (*choices)->operations, *next; o; o = next) {
        next = o->next;
        for (struct entry *e = o->entries, *after; e; e = after) {
            after = e->next;
            free(e);
        }
        free(o);
    }
    free((*choices)->path);
    free(*choices);
    *choices = NULL;
}

static struct operation *find_operation(const struct asdm_choices *choices, const char *name) {
    for (struct operation *o = choices->operations; o; o = o->next)
        if (strcmp(o->name, name) == 0)
            return o;
    return NULL;
}

static struct operation *add_operation(struct asdm_choices *choices, const char *name) {
    struct operation *o = calloc(1, sizeof *o);
    if (!o)
        return NULL;
    snprintf(o->name, sizeof o->name, "%s", name);
    if (choices->last)
        choices->last->next = o;
    else
        choices->operations = o;
    return choices->last = o;
}

enum asdm_status asdm_choices_set(struct asdm_choices *choices, const char *operation, int rows,
                                  const char *implementation, struct asdm_error *err) {
    struct operation *o = find_operation(choices, operation);
    if (!o)
        o = add_operation(choices, operation);
    struct entry **link = o ? &o->entries : NULL;
    while (link && *link && (*link)->rows < rows)
        link = &(*link)->next;
    if (link && (!*link || (*link)->rows > rows)) {
        struct entry *made = calloc(1, sizeof *made);
        if (made) {
            *made = (struct entry){.next = *link, .rows = rows};
            *link = made;
            choices->count++;
        } else {
            link = NULL;
        }
    }
    if (!link)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for the choices of kernels");
    snprintf((*link)->implementation, sizeof(*link)->implementation, "%s", implementation);
    return ASDM_OK;
}

const char *asdm_choices_find(const struct asdm_choices *choices, const char *operation, int rows, bool *ret_exact) {
    const struct operation *o = choices ? find_operation(choices, operation) : NULL;
    if (!o)
        return NULL;
    for (const struct entry *e = o->entries; e; e = e->next)
        if (e->rows == rows) {
            *ret_exact = true;
            return e->implementation;
        }
    *ret_exact = false;
    return o->entries->implementation;
}

int asdm_choices_count(const struct asdm_choices *choices) {
    return choices->count;
}

const char *asdm_choices_path(const struct asdm_choices *choices) {
    return choices->path ? choices->path : "";
}

/* ---- reading */

/* A text of the file: printable, so that messages and files stay one line each. */
static bool is_text(const char *text) {
    size_t length = strlen(text);
    for (const char *at = text; *at; at++)
        if (*at < ' ' || *at > '~' || *at == '"' || *at == '\\')
            return false;
    return length < ASDM_CHOICE_BYTES;
}

static enum asdm_status damaged(const char *path, int plan, struct asdm_error *err, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static enum asdm_status damaged(const char *path, int plan, struct asdm_error *err, const char *format, ...) {
    char what[384];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    return asdm_fail(err, ASDM_ERR_FORMAT, "%s: plans[%d].%s", path, plan, what);
}

static bool parse_rows(const char *text, int *ret) {
    char *end;
    long rows = strtol(text, &end, 10);
    if (*text < '1' || *text > '9' || *end || rows > ROWS_MAX)
        return false;
    *ret = (int)rows;
    return true;
}

/* One operation: {"2": "wgmma ...", ...}. */
static enum asdm_status read_operation(const char *path, int plan, const struct asdm_json *member,
                                       struct asdm_choices *into, struct asdm_error *err) {
    const char *name = asdm_json_key(member);
    int rows;
    if (!is_text(name))
        return damaged(path, plan, err, "choices: a key is not a text of fewer than %d printable characters",
                       ASDM_CHOICE_BYTES);
    if (asdm_json_type(member) != ASDM_JSON_OBJECT || !asdm_json_first(member))
        return damaged(path, plan, err, "choices.%s: must be an object by numbers of rows, is %s", name,
                       asdm_json_first(member) ? asdm_json_type_name(asdm_json_type(member)) : "empty");
    for (const struct asdm_json *e = asdm_json_first(member); e; e = asdm_json_next(e)) {
        if (!parse_rows(asdm_json_key(e), &rows))
            return damaged(path, plan, err, "choices.%s: \"%.40s\": must be a number of rows from 1 to %d", name,
                           asdm_json_key(e), ROWS_MAX);
        if (asdm_json_type(e) != ASDM_JSON_STRING || !is_text(asdm_json_string(e)))
            return damaged(path, plan, err, "choices.%s.%d: must be the name of an implementation", name, rows);
        ASDM_TRY(asdm_choices_set(into, name, rows, asdm_json_string(e), err));
    }
    return ASDM_OK;
}

/* A plan's own keys. */
struct header {
    const char *gpu, *driver, *libraries, *version, *dtype;
    bool batch_invariant;
    const struct asdm_json *choices;
};

static enum asdm_status read_header(const char *path, int plan, const struct asdm_json *object, struct header *ret,
                                    struct asdm_error *err) {
    static const char *const known[] = {"gpu", "driver", "libraries", "asdm", "dtype", "batch_invariant", "choices"};
    enum { TEXTS = 5, KEYS = 7 };
    const char *texts[TEXTS];
    const struct asdm_json *members[KEYS];
    if (asdm_json_type(object) != ASDM_JSON_OBJECT)
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: plans[%d]: must be an object, is %s", path, plan,
                         asdm_json_type_name(asdm_json_type(object)));
    for (const struct asdm_json *m = asdm_json_first(object); m; m = asdm_json_next(m)) {
        int i = 0;
        while (i < KEYS && strcmp(known[i], asdm_json_key(m)) != 0)
            i++;
        if (i == KEYS)
            return damaged(path, plan, err,
                           "%.40s: unknown key; known: gpu, driver, libraries, asdm, dtype, batch_invariant, choices",
                           asdm_json_key(m));
    }
    for (int i = 0; i < KEYS; i++) {
        enum asdm_json_type type = i < TEXTS ? ASDM_JSON_STRING : i == KEYS - 1 ? ASDM_JSON_OBJECT : ASDM_JSON_BOOL;
        members[i] = asdm_json_get(object, known[i]);
        if (!members[i] || asdm_json_type(members[i]) != type)
            return damaged(path, plan, err, "%s: must be %s, is %s", known[i], asdm_json_type_name(type),
                           members[i] ? asdm_json_type_name(asdm_json_type(members[i])) : "missing");
        if (i < TEXTS)
            texts[i] = asdm_json_string(members[i]);
        if (i < TEXTS && !is_text(texts[i]))
            return damaged(path, plan, err, "%s: must be printable characters, fewer than %d", known[i],
                           ASDM_CHOICE_BYTES);
    }
    *ret = (struct header){texts[0], texts[1], texts[2], texts[3], texts[4], asdm_json_bool(members[5]), members[6]};
    return ASDM_OK;
}

static bool is_of(const struct header *h, const struct asdm_choices_key *key) {
    return strcmp(h->gpu, key->gpu) == 0 && strcmp(h->driver, key->driver) == 0 &&
           strcmp(h->libraries, key->libraries) == 0 && strcmp(h->version, key->version) == 0 &&
           strcmp(h->dtype, key->dtype) == 0 && h->batch_invariant == key->batch_invariant;
}

static void describe(const struct header *h, char ret_words[256]) {
    snprintf(ret_words, 256, "%.60s, driver %.30s%s%.40s, asdm %.20s, %.8s, batch-invariant %s", h->gpu, h->driver,
             *h->libraries ? ", " : "", h->libraries, h->version, h->dtype, h->batch_invariant ? "on" : "off");
}

/* The list of plans, after everything beside it was checked. */
static enum asdm_status read_root(const char *path, const struct asdm_json *root, const struct asdm_json **ret_plans,
                                  struct asdm_error *err) {
    int64_t format = 0;
    if (asdm_json_type(root) != ASDM_JSON_OBJECT)
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: must be an object", path);
    for (const struct asdm_json *m = asdm_json_first(root); m; m = asdm_json_next(m))
        if (strcmp(asdm_json_key(m), "asdm_plan_file") != 0 && strcmp(asdm_json_key(m), "plans") != 0)
            return asdm_fail(err, ASDM_ERR_FORMAT, "%s: %.40s: unknown key; known: asdm_plan_file, plans", path,
                             asdm_json_key(m));
    ASDM_TRY(asdm_json_get_int(root, path, "asdm_plan_file", FORMAT, FORMAT, &format, err));
    *ret_plans = asdm_json_get(root, "plans");
    if (format != FORMAT)
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: asdm_plan_file: is missing: not a file that asdm tune wrote", path);
    if (!*ret_plans || asdm_json_type(*ret_plans) != ASDM_JSON_ARRAY)
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: plans: must be an array", path);
    return ASDM_OK;
}

/* All plans are checked, `key`'s stays. */
static enum asdm_status read_plans(const char *path, const struct asdm_json *plans, const struct asdm_choices_key *key,
                                   struct asdm_choices **ret, char ret_words[256], struct asdm_error *err) {
    int index = 0;
    snprintf(ret_words, 256, "no plan");
    for (const struct asdm_json *p = asdm_json_first(plans); p; p = asdm_json_next(p), index++) {
        struct header header;
        struct asdm_choices *choices;
        ASDM_TRY(read_header(path, index, p, &header, err));
        ASDM_TRY(asdm_choices_create(&choices, err));
        enum asdm_status status = ASDM_OK;
        for (const struct asdm_json *m = asdm_json_first(header.choices); m && status == ASDM_OK; m = asdm_json_next(m))
            status = read_operation(path, index, m, choices, err);
        if (status == ASDM_OK && is_of(&header, key) && *ret)
            status = damaged(path, index, err, "gpu: the plan is there twice");
        else if (status == ASDM_OK && is_of(&header, key)) {
            *ret = choices;
            continue;
        }
        describe(&header, ret_words);
        asdm_choices_destroy(&choices);
        if (status != ASDM_OK)
            return status;
    }
    return ASDM_OK;
}

enum asdm_status asdm_choices_read(const char *path, const struct asdm_choices_key *key, struct asdm_choices **ret,
                                   bool *ret_found, char ret_words[256], struct asdm_error *err) {
    struct asdm_json *root;
    const struct asdm_json *plans = NULL;
    struct asdm_choices *choices = NULL;
    ASDM_TRY(asdm_json_read(path, ASDM_LIMIT_PLAN_FILE_BYTES, &root, err));
    enum asdm_status status = read_root(path, root, &plans, err);
    if (status == ASDM_OK)
        status = read_plans(path, plans, key, &choices, ret_words, err);
    asdm_json_destroy(&root);
    if (status == ASDM_OK && choices && !(choices->path = strdup(path)))
        status = asdm_fail(err, ASDM_ERR_MEMORY, "no memory for the choices of kernels");
    if (status != ASDM_OK) {
        asdm_choices_destroy(&choices);
        return status;
    }
    *ret_found = choices != NULL;
    if (choices)
        *ret = choices;
    return ASDM_OK;
}

/* ---- writing */

static void put_plan(FILE *to, const struct asdm_choices_key *key, const struct asdm_choices *choices) {
    fprintf(to,
            "{\n\"gpu\": \"%s\",\n\"driver\": \"%s\",\n\"libraries\": \"%s\",\n\"asdm\": \"%s\",\n\"dtype\": \"%s\",\n"
            "\"batch_invariant\": %s,\n\"choices\": {",
            key->gpu, key->driver, key->libraries, key->version, key->dtype, key->batch_invariant ? "true" : "false");
    for (const struct operation *o = choices->operations; o; o = o->next) {
        fprintf(to, "%s\n\"%s\": {", o == choices->operations ? "" : ",", o->name);
        for (const struct entry *e = o->entries; e; e = e->next)
            fprintf(to, "%s\"%d\": \"%s\"", e == o->entries ? "" : ", ", e->rows, e->implementation);
        fputs("}", to);
    }
    fputs("\n}}", to);
}

/* The plans of other keys that the file has, as they are. */
static enum asdm_status put_others(FILE *to, const char *path, const struct asdm_choices_key *key,
                                   struct asdm_error *err) {
    struct asdm_json *root;
    const struct asdm_json *plans = NULL;
    struct asdm_choices *ours = NULL;
    char words[256];
    if (!asdm_file_exists(path))
        return ASDM_OK;
    ASDM_TRY(asdm_json_read(path, ASDM_LIMIT_PLAN_FILE_BYTES, &root, err));
    enum asdm_status status = read_root(path, root, &plans, err);
    if (status == ASDM_OK)
        status = read_plans(path, plans, key, &ours, words, err);
    int index = 0;
    for (const struct asdm_json *p = status == ASDM_OK ? asdm_json_first(plans) : NULL; p; p = asdm_json_next(p)) {
        struct header header;
        status = read_header(path, index++, p, &header, err);
        if (status != ASDM_OK || is_of(&header, key))
            continue;
        char *text = asdm_json_print(p);
        fprintf(to, "%s,\n", text ? text : "");
        if (!text)
            status = asdm_fail(err, ASDM_ERR_MEMORY, "no memory to write %s", path);
        free(text);
    }
    asdm_choices_destroy(&ours);
    asdm_json_destroy(&root);
    return status;
}

enum asdm_status asdm_choices_write(const char *path, const struct asdm_choices_key *key,
                                    const struct asdm_choices *choices, struct asdm_error *err) {
    char *text = NULL;
    size_t size = 0;
    FILE *to = open_memstream(&text, &size);
    if (!to)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory to write %s", path);
    fprintf(to, "{\"asdm_plan_file\": %d, \"plans\": [\n", FORMAT);
    enum asdm_status status = put_others(to, path, key, err);
    put_plan(to, key, choices);
    fputs("\n]}\n", to);
    if (fclose(to) != 0 && status == ASDM_OK)
        status = asdm_fail(err, ASDM_ERR_MEMORY, "no memory to write %s", path);
    if (status == ASDM_OK)
        status = asdm_file_write(path, text, size, err);
    free(text);
    return status;
}
