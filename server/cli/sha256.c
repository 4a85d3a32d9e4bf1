#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "cli.h"

#ifdef ASDM_HAVE_GNUTLS

#include <gnutls/crypto.h>

enum { CHUNK_BYTES = 1 << 20, DIGEST_BYTES = 32 };

static bool hash_stream(int fd, gnutls_hash_hd_t hash) {
    unsigned char *chunk = malloc(CHUNK_BYTES);
    ssize_t got = chunk ? 1 : -1;
    while (got > 0) {
        got = read(fd, chunk, CHUNK_BYTES);
        if (got > 0 && gnutls_hash(hash, chunk, (size_t)got) != 0)
            got = -1;
    }
    free(chunk);
    return got == 0;
}

bool cli_sha256(const char *path, char ret[65]) {
    gnutls_hash_hd_t hash;
    unsigned char digest[DIGEST_BYTES];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool good = fd >= 0 && gnutls_hash_init(&hash, GNUTLS_DIG_SHA256) == 0;
    if (good) {
        good = hash_stream(fd, hash);
        gnutls_hash_deinit(hash, digest);
    }
    if (fd >= 0)
        close(fd);
    for (int i = 0; good && i < DIGEST_BYTES; i++)
        snprintf(ret + 2 * i, 3, "%02x", digest[i]);
    return good;
}

#else

bool cli_sha256(const char *path, char ret[65]) {
    (void)path;
    (void)ret;
    return false;
}

#endif
