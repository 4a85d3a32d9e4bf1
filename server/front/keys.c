/* gnutls is used here for SHA-256 and the constant-time comparison. */
#include "front/keys.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>

#include <asdm/error.h>

#include "front/buffer.h"

enum { HASH_BYTES = 32, FILE_BYTES_MAX = 4 << 20, KEYS_MAX = 10000, NAMES_MAX = 20000, KEY_BYTES_MAX = 1024 };

struct line {
    struct key key;
    unsigned char hash[HASH_BYTES];
};

struct table {
    struct line *lines;
    int count;
};

struct keys {
    char *path; /* NULL: no keys */
    pthread_rwlock_t lock;
    struct table table;
    /* Every name ever read; a key's index is its place here. Changed by keys_open and keys_reload alone. */
    char (*names)[sizeof((struct key *)NULL)->name];
    int name_count;
};

/* ---- the file */

/* One value of a line: a number above 0 up to `max`. */
static bool read_number(const char *text, double max, double *ret) {
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    if (errno || end == text || *end || !isfinite(value) || value <= 0 || value > max)
        return false;
    *ret = value;
    return true;
}

static enum asdm_status read_option(const char *word, struct key *key, struct asdm_error *err) {
    double value;
    if (strcmp(word, "admin") == 0) {
        key->admin = true;
        return ASDM_OK;
    }
    if (strncmp(word, "queue=", 6) == 0) {
        if (!read_number(word + 6, 1e6, &value) || value != floor(value))
            return asdm_fail(err, ASDM_ERR_FORMAT, "queue must be an integer from 1 to 1000000 (pictures)");
        key->queue_max = (int)value;
        return ASDM_OK;
    }
    double *rate = NULL;
    if (strncmp(word, "rate=", 5) == 0)
        rate = &key->rate_per_minute;
    else if (strncmp(word, "pixels=", 7) == 0)
        rate = &key->pixels_per_minute;
    if (!rate)
        return asdm_fail(err, ASDM_ERR_FORMAT, "\"%.40s\" must be queue=N, rate=N, pixels=N or admin", word);
    if (!read_number(strchr(word, '=') + 1, 1e15, rate))
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s must be a number above 0, at most 1e15, a minute",
                         rate == &key->rate_per_minute ? "rate" : "pixels");
    return ASDM_OK;
}

static bool read_hash(const char *text, unsigned char ret[HASH_BYTES]) {
    static const char digits[] = "0123456789abcdef";
    if (strlen(text) != 2 * HASH_BYTES)
        return false;
    for (int i = 0; i < 2 * HASH_BYTES; i++) {
        const char *digit = strchr(digits, text[i] >= 'A' && text[i] <= 'F' ? text[i] + ('a' - 'A') : text[i]);
        if (!digit)
            return false;
        ret[i / 2] = (unsigned char)(i % 2 ? ret[i / 2] << 4 | (digit - digits) : digit - digits);
    }
    return true;
}

static bool is_name(const char *text) {
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    size_t length = strlen(text);
    return length > 0 && length < sizeof((struct key *)NULL)->name && strspn(text, allowed) == length;
}

/* Reads a line whose comment is cut off; *ret_empty when nothing is on it. */
static enum asdm_status read_line(char *text, struct line *ret, bool *ret_empty, struct asdm_error *err) {
    char *rest = NULL;
    const char *name = strtok_r(text, " \t\r", &rest);
    *ret_empty = !name;
    if (!name)
        return ASDM_OK;
    *ret = (struct line){0};
    if (!is_name(name))
        return asdm_fail(err, ASDM_ERR_FORMAT, "the name must be 1 to %zu letters, digits, '.', '_' or '-'",
                         sizeof ret->key.name - 1);
    snprintf(ret->key.name, sizeof ret->key.name, "%s", name);
    const char *hash = strtok_r(NULL, " \t\r", &rest);
    if (!hash || !read_hash(hash, ret->hash))
        return asdm_fail(err, ASDM_ERR_FORMAT,
                         "after the name there must be the key's SHA-256 as 64 hexadecimal digits (printf %%s KEY | "
                         "sha256sum)");
    for (const char *word; (word = strtok_r(NULL, " \t\r", &rest));) {
        if (strcmp(word, "-") == 0) /* sha256sum's name for standard input */
            continue;
        ASDM_TRY(read_option(word, &ret->key, err));
    }
    return ASDM_OK;
}

static enum asdm_status add_line(struct table *table, const struct line *line, struct asdm_error *err) {
    for (int i = 0; i < table->count; i++) {
        if (strcmp(table->lines[i].key.name, line->key.name) == 0)
            return asdm_fail(err, ASDM_ERR_FORMAT, "the name %s is there twice", line->key.name);
        if (memcmp(table->lines[i].hash, line->hash, HASH_BYTES) == 0)
            return asdm_fail(err, ASDM_ERR_FORMAT, "%s has the same key as %s", line->key.name,
                             table->lines[i].key.name);
    }
    if (table->count >= KEYS_MAX)
        return asdm_fail(err, ASDM_ERR_FORMAT, "more than %d keys", KEYS_MAX);
    if ((table->count & (table->count - 1)) == 0) { /* a power of two, or none: full */
        size_t room = table->count ? 2 * (size_t)table->count : 1;
        struct line *grown = realloc(table->lines, room * sizeof *grown);
        if (!grown)
            return asdm_fail(err, ASDM_ERR_MEMORY, "no memory");
        table->lines = grown;
    }
    table->lines[table->count++] = *line;
    return ASDM_OK;
}

/* Reads the whole file into *ret, which holds something to free also on failure. */
static enum asdm_status read_table(const char *path, struct table *ret, struct asdm_error *err) {
    enum asdm_status status = ASDM_OK;
    char *text = NULL;
    size_t room = 0, total = 0;
    int number = 0;
    FILE *file = fopen(path, "re");
    if (!file)
        return asdm_fail(err, errno == ENOENT ? ASDM_ERR_NOT_FOUND : ASDM_ERR_IO, "%s: %s", path, strerror(errno));
    for (ssize_t length; status == ASDM_OK && (length = getline(&text, &room, file)) >= 0;) {
        struct line line;
        bool empty = true;
        number++;
        total += (size_t)length;
        if (total > FILE_BYTES_MAX || memchr(text, '\0', (size_t)length))
            status = asdm_fail(err, ASDM_ERR_FORMAT, total > FILE_BYTES_MAX ? "the file is too large" : "a NUL byte");
        else {
            text[strcspn(text, "#\n")] = '\0';
            status = read_line(text, &line, &empty, err);
        }
        if (status == ASDM_OK && !empty)
            status = add_line(ret, &line, err);
    }
    if (status != ASDM_OK)
        asdm_fail_context(err, status, "%s: line %d", path, number);
    else if (ferror(file))
        status = asdm_fail(err, ASDM_ERR_IO, "%s: %s", path, strerror(errno));
    else if (ret->count == 0)
        status = asdm_fail(err, ASDM_ERR_FORMAT, "%s: no key in it", path);
    free(text);
    fclose(file);
    return status;
}

/* ---- indices */

static int find_name(const struct keys *keys, const char *name) {
    for (int i = 0; i < keys->name_count; i++)
        if (strcmp(keys->names[i], name) == 0)
            return i;
    return -1;
}

static enum asdm_status give_indices(struct keys *keys, struct table *table, struct asdm_error *err) {
    for (int i = 0; i < table->count; i++) {
        struct key *key = &table->lines[i].key;
        key->index = find_name(keys, key->name);
        if (key->index >= 0)
            continue;
        if (keys->name_count >= NAMES_MAX)
            return asdm_fail(err, ASDM_ERR_FORMAT, "%s: more than %d names since the start; restart", keys->path,
                             NAMES_MAX);
        void *grown = realloc(keys->names, (size_t)(keys->name_count + 1) * sizeof *keys->names);
        if (!grown)
            return asdm_fail(err, ASDM_ERR_MEMORY, "%s: no memory", keys->path);
        keys->names = grown;
        key->index = keys->name_count++;
        snprintf(keys->names[key->index], sizeof *keys->names, "%s", key->name);
    }
    return ASDM_OK;
}

/* ---- open, reload, close */

enum asdm_status keys_reload(struct keys *keys, struct asdm_error *err) {
    if (!keys->path)
        return ASDM_OK;
    struct table table = {0};
    enum asdm_status status = read_table(keys->path, &table, err);
    if (status == ASDM_OK)
        status = give_indices(keys, &table, err);
    if (status == ASDM_OK) {
        pthread_rwlock_wrlock(&keys->lock);
        struct table before = keys->table;
        keys->table = table;
        table = before;
        pthread_rwlock_unlock(&keys->lock);
    }
    free(table.lines);
    return status;
}

enum asdm_status keys_open(const char *path, struct keys **ret, struct asdm_error *err) {
    struct keys *keys = calloc(1, sizeof *keys);
    if (!keys)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for the keys");
    pthread_rwlock_init(&keys->lock, NULL);
    enum asdm_status status = ASDM_OK;
    if (path) {
        keys->path = strdup(path);
        status = keys->path ? keys_reload(keys, err) : asdm_fail(err, ASDM_ERR_MEMORY, "no memory for the keys");
    }
    if (status != ASDM_OK)
        keys_close(&keys);
    else
        *ret = keys;
    return status;
}

void keys_close(struct keys **keys) {
    struct keys *k = *keys;
    if (!k)
        return;
    pthread_rwlock_destroy(&k->lock);
    free(k->table.lines);
    free(k->names);
    free(k->path);
    free(k);
    *keys = NULL;
}

bool keys_required(const struct keys *keys) {
    return keys->path != NULL;
}

/* ---- a request's key */

/* What follows the scheme, or NULL when it is another (RFC 9110, 11.4: the scheme's case does not matter). */
static const char *after_scheme(const char *authorization, const char *scheme) {
    size_t length = strlen(scheme);
    if (strncasecmp(authorization, scheme, length) != 0 || authorization[length] != ' ')
        return NULL;
    return authorization + length + strspn(authorization + length, " ");
}

static bool hash_text(const void *text, size_t length, unsigned char ret[HASH_BYTES]) {
    return length > 0 && length <= KEY_BYTES_MAX && gnutls_hash_fast(GNUTLS_DIG_SHA256, text, length, ret) == 0;
}

/* The hash of the password in user:password (RFC 7617). */
static bool hash_password(const char *credentials, unsigned char ret[HASH_BYTES]) {
    unsigned char *decoded;
    size_t size;
    size_t length = strlen(credentials);
    if (length > 4 * KEY_BYTES_MAX || !base64_decode(credentials, length, &decoded, &size))
        return false;
    const unsigned char *colon = memchr(decoded, ':', size);
    bool done = colon && hash_text(colon + 1, size - (size_t)(colon + 1 - decoded), ret);
    free(decoded);
    return done;
}

static bool hash_given(const char *authorization, unsigned char ret[HASH_BYTES]) {
    const char *token = after_scheme(authorization, "Bearer");
    if (token)
        return hash_text(token, strcspn(token, " "), ret);
    const char *credentials = after_scheme(authorization, "Basic");
    return credentials && hash_password(credentials, ret);
}

bool keys_find(struct keys *keys, const char *authorization, struct key *ret) {
    if (!keys->path) {
        *ret = (struct key){.name = "anonymous"};
        return true;
    }
    unsigned char hash[HASH_BYTES];
    if (!authorization || !hash_given(authorization, hash))
        return false;
    int found = -1;
    pthread_rwlock_rdlock(&keys->lock);
    /* Always all lines, so that the time does not tell which one it was. */
    for (int i = 0; i < keys->table.count; i++)
        found = gnutls_memcmp(hash, keys->table.lines[i].hash, HASH_BYTES) == 0 ? i : found;
    if (found >= 0)
        *ret = keys->table.lines[found].key;
    pthread_rwlock_unlock(&keys->lock);
    return found >= 0;
}
