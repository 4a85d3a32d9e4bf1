/* SHA-256: of the models' weights, by which A1111's clients and PNGs name a model, and of requests, to tell whether an
 * idempotency key is used for the same one again. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <gnutls/crypto.h>

#include "front/job/internal.h"
#include "front/log.h"

enum { CHUNK_BYTES = 1 << 20, SHA256_BYTES = 32, PATH_BYTES = 4096 };

/* ---- weights */

static bool is_weights(const char *name) {
    const char *dot = strrchr(name, '.');
    return *name != '.' && dot && strcmp(dot, ".safetensors") == 0;
}

/* The model's own file, or the first by name in its folder "unet". */
static bool find_weights(const char *model, char ret[PATH_BYTES]) {
    struct stat info;
    char folder[PATH_BYTES], first[256] = "";
    if (stat(model, &info) == 0 && S_ISREG(info.st_mode))
        return snprintf(ret, PATH_BYTES, "%s", model) < PATH_BYTES;
    if (snprintf(folder, sizeof folder, "%s/unet", model) >= PATH_BYTES)
        return false;
    DIR *dir = opendir(folder);
    if (!dir)
        return false;
    for (const struct dirent *entry; (entry = readdir(dir));)
        if (is_weights(entry->d_name) && (!*first || strcmp(entry->d_name, first) < 0))
            snprintf(first, sizeof first, "%s", entry->d_name);
    closedir(dir);
    return *first && snprintf(ret, PATH_BYTES, "%s/%s", folder, first) < PATH_BYTES;
}

static bool hash_stream(int fd, gnutls_hash_hd_t hash, const atomic_bool *stopping) {
    unsigned char *chunk = malloc(CHUNK_BYTES);
    ssize_t got = chunk ? 1 : -1;
    while (got > 0 && !atomic_load(stopping)) {
        got = read(fd, chunk, CHUNK_BYTES);
        if (got < 0 && errno == EINTR)
            got = 1;
        else if (got > 0 && gnutls_hash(hash, chunk, (size_t)got) != 0)
            got = -1;
    }
    free(chunk);
    return got == 0;
}

static bool hash_file(const char *path, const atomic_bool *stopping, char ret[2 * SHA256_BYTES + 1]) {
    gnutls_hash_hd_t hash;
    unsigned char digest[SHA256_BYTES];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool good = gnutls_hash_init(&hash, GNUTLS_DIG_SHA256) == 0;
    if (good) {
        good = hash_stream(fd, hash, stopping);
        gnutls_hash_deinit(hash, digest);
    }
    close(fd);
    for (int i = 0; good && i < SHA256_BYTES; i++)
        snprintf(ret + 2 * i, 3, "%02x", digest[i]);
    return good;
}

void *fingerprint_main(void *user) {
    struct jobs *jobs = user;
    for (int i = 0; i < jobs->config->model_count && !atomic_load(&jobs->fingerprint_stopping); i++) {
        char path[PATH_BYTES], sha256[2 * SHA256_BYTES + 1] = "";
        if (!find_weights(jobs->config->models[i].path, path) || !hash_file(path, &jobs->fingerprint_stopping, sha256))
            log_message(LOG_LEVEL_WARNING, "model %s: its weights' SHA-256 is not known", jobs->config->models[i].name);
        pthread_mutex_lock(&jobs->lock);
        memcpy(jobs->models[i].sha256, sha256, sizeof sha256);
        pthread_mutex_unlock(&jobs->lock);
    }
    pthread_mutex_lock(&jobs->lock);
    jobs->fingerprinted = true;
    pthread_mutex_unlock(&jobs->lock);
    return NULL;
}

/* ---- requests */

static int hash_text(gnutls_hash_hd_t hash, const char *text) {
    return gnutls_hash(hash, text, strlen(text) + 1);
}

bool fingerprint_request(const struct job_request *r, unsigned char ret[JOB_DIGEST_BYTES]) {
    gnutls_hash_hd_t hash;
    char numbers[400];
    snprintf(numbers, sizeof numbers, "%d %d %d %d %d %d %.17g %.17g %d %llu %d %d %d %u %u %d %d %d", r->model,
             (int)r->syntax, r->width, r->height, r->steps, r->count, r->guidance_scale, r->strength, r->seed_drawn,
             r->seed_drawn ? 0ull : (unsigned long long)r->seed, (int)r->rng, r->i2i, r->previews, r->init.width,
             r->init.height, r->mask != NULL, r->priority, r->deadline_ms);
    if (gnutls_hash_init(&hash, GNUTLS_DIG_SHA256) != 0)
        return false;
    size_t pixels = (size_t)r->init.width * r->init.height;
    int failed = hash_text(hash, numbers) | hash_text(hash, r->prompt) | hash_text(hash, r->negative_prompt) |
                 hash_text(hash, r->sampler) | hash_text(hash, r->schedule);
    if (r->init.rgb)
        failed |= gnutls_hash(hash, r->init.rgb, pixels * 3);
    if (r->init.rgb && r->mask)
        failed |= gnutls_hash(hash, r->mask, pixels);
    gnutls_hash_deinit(hash, ret);
    return failed == 0;
}
