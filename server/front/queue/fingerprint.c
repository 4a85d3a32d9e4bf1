/* SHA-256 of each model's UNet weights, by which A1111's clients and PNGs name a model. */
#include <dirent.h>
#include <fcntl.h>
#include <gnutls/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "front/queue/internal.h"

enum { BLOCK_BYTES = 1 << 20, DIGEST_BYTES = 32 };

/* The file that counts: PATH itself, or the .safetensors under PATH/unet that sorts first. */
static bool find_weights(const char *path, char *ret, size_t room) {
    struct stat info;
    char folder[4096], best[256] = "";
    if (stat(path, &info) != 0)
        return false;
    if (S_ISREG(info.st_mode))
        return snprintf(ret, room, "%s", path) < (int)room;
    snprintf(folder, sizeof folder, "%s/unet", path);
    DIR *directory = opendir(folder);
    for (struct dirent *entry; directory && (entry = readdir(directory));) {
        size_t length = strlen(entry->d_name);
        if (length > 12 && length < sizeof best && strcmp(entry->d_name + length - 12, ".safetensors") == 0 &&
            (!*best || strcmp(entry->d_name, best) < 0))
            memcpy(best, entry->d_name, length + 1);
    }
    if (directory)
        closedir(directory);
    return *best && snprintf(ret, room, "%s/%s", folder, best) < (int)room;
}

static bool is_stopping(struct jobs *jobs) {
    jobs_lock(jobs);
    bool stopping = jobs->stopping;
    jobs_unlock(jobs);
    return stopping;
}

static bool hash_file(struct jobs *jobs, const char *path, char ret[65]) {
    unsigned char digest[DIGEST_BYTES];
    char *block = malloc(BLOCK_BYTES);
    gnutls_hash_hd_t hash = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = -1;
    if (fd >= 0 && block && gnutls_hash_init(&hash, GNUTLS_DIG_SHA256) == 0)
        while ((got = read(fd, block, BLOCK_BYTES)) > 0 && !is_stopping(jobs))
            gnutls_hash(hash, block, (size_t)got);
    if (hash)
        gnutls_hash_deinit(hash, digest);
    if (fd >= 0)
        close(fd);
    free(block);
    for (int i = 0; i < DIGEST_BYTES && got == 0; i++)
        snprintf(ret + 2 * i, 3, "%02x", digest[i]);
    return got == 0;
}

void *fingerprint_main(void *user) {
    struct jobs *jobs = user;
    for (int i = 0; i < jobs->config->model_count; i++) {
        char path[4400], text[65] = "";
        if (!find_weights(jobs->config->models[i].path, path, sizeof path) || !hash_file(jobs, path, text))
            memset(text, 0, sizeof text); /* the worker will say what is wrong with it */
        jobs_lock(jobs);
        memcpy(jobs->models[i].sha256, text, sizeof text);
        jobs_unlock(jobs);
    }
    jobs_lock(jobs);
    jobs->fingerprinted = true;
    jobs_unlock(jobs);
    jobs_wake(jobs);
    return NULL;
}
