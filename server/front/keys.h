/* Who may use the daemon: a file of SHA-256 hashes of API keys, one line each,
 *     NAME SHA256-IN-HEX [queue=PICTURES] [rate=REQUESTS-PER-MINUTE] [pixels=PIXELS-PER-MINUTE] [admin]
 * '#' starts a comment. A key is given as Bearer token or as the password of Basic (any user name, or NAME). */
#ifndef ASDM_FRONT_KEYS_H
#define ASDM_FRONT_KEYS_H

#include <stdbool.h>
#include <stddef.h>

#include <asdm/status.h>

struct keys;

/* One line. `index` stays the same for a name over reloads. */
struct key {
    char name[64];
    int index;
    int queue_max;            /* pictures waiting at once; 0: no limit of its own */
    double rate_per_minute;   /* requests; 0: none */
    double pixels_per_minute; /* of pictures asked for; 0: none */
    bool admin;
};

/* `path` NULL: no keys, everybody is the one caller "anonymous" (index 0, no limits). ERR_FORMAT names the line. */
enum asdm_status keys_open(const char *path, struct keys **ret, struct asdm_error *err);
/* On failure what was is kept. */
enum asdm_status keys_reload(struct keys *keys, struct asdm_error *err);
void keys_close(struct keys **keys);
bool keys_required(const struct keys *keys);

/* `authorization`: the header's value or NULL. False: nobody we know. Compared in constant time. Any thread. */
bool keys_find(struct keys *keys, const char *authorization, struct key *ret);

#endif
