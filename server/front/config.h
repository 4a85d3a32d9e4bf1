/* The daemon's configuration: one JSON file, command-line options over it. One table in config.c has each key's type,
 * range, default and help. Read-only after start. */
#ifndef ASDM_FRONT_CONFIG_H
#define ASDM_FRONT_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <asdm/status.h>

#include "front/buffer.h"

enum { CONFIG_MODELS_MAX = 16 };

struct config_model {
    char *name, *path, *tokenizer; /* tokenizer may be NULL */
    char *device, *dtype;          /* NULL: the daemon's */
};

struct config {
    char *listen_host;               /* "127.0.0.1", "::1", "0.0.0.0" */
    int listen_port;                 /* 0: any free one, told in the log */
    char *tls_certificate, *tls_key; /* PEM files; NULL: no TLS */
    char *api_keys;                  /* file; NULL: none */
    char *worker;                    /* program; NULL: asdm-worker beside asdmd, or in libexec */
    char *public_url;                /* how clients reach it, for image URLs; NULL: from the Host header */

    struct config_model models[CONFIG_MODELS_MAX];
    int model_count; /* the first is the default */
    char *device, *dtype;
    int threads;          /* of a worker on a CPU; 0: all */
    int rows_max;         /* 16 */
    int memory_mb;        /* of a worker, beside weights; 0: what is free */
    int step_timeout_ms;  /* watchdog: a worker silent for so long is killed; 120000 */
    int load_timeout_ms;  /* 300000 */
    int attempts_max;     /* 3 */
    int shared_memory_mb; /* pixels between front and worker; 256 */

    int queue_pictures_max;  /* waiting pictures; 256 */
    int default_deadline_ms; /* 0: none */
    int pixels_max;          /* of one picture; 4194304 */
    int steps_max;           /* 150 */
    int count_max;           /* pictures of one request; 10 */
    int result_ttl_s;        /* results are kept so long; 3600 */
    int result_memory_mb;    /* and at most so many bytes of them; 512 */
    int png_threads;         /* 2 */
    int png_level;           /* zlib's, 1 .. 9; 0: runs alone; 0 */

    int connections_max;   /* 4096 */
    int body_bytes_max;    /* 64 MiB */
    int header_timeout_ms; /* 10000: from the first byte (or connect) to the end of the header */
    int body_timeout_ms;   /* 60000: to the end of the body */
    int idle_timeout_ms;   /* 60000: keep-alive */
    int http_threads;      /* 4 */

    int drain_timeout_ms; /* 30000: SIGTERM to exit */
    bool access_log;      /* true: one JSON line per request on stderr */
};

/* Defaults, then the file (NULL: none), then ASDM_API_KEYS_FILE from the environment for api_keys, then `overrides`
 * (NULL or ended by NULL): "key=value" texts from the command line, where "models.NAME=DIR" adds a model or changes the
 * path of the one with that name. Relative paths in the file are meant from the file's directory. ERR_ARGUMENT names
 * the key and the allowed values; so does what does not go together, as an address that others reach without keys. */
enum asdm_status config_load(const char *path, const char *const *overrides, struct config *ret,
                             struct asdm_error *err);
void config_done(struct config *config);
/* Whether only this machine reaches the address (an IP address in text). */
bool config_is_loopback(const char *host);
/* The table of keys in Markdown, as config/README.md has it. */
void config_write_help(struct buffer *to);

#endif
