/* Directories that are written whole or not at all. */
#ifndef ASDM_LIGHT_DIRECTORY_H
#define ASDM_LIGHT_DIRECTORY_H

#include <stdbool.h>

#include <asdm/status.h>

/* Whether `path`, which need not exist, lies in `directory` or is it, links followed. */
bool asdm_path_is_below(const char *path, const char *directory);

/* A directory being written: everything goes to `temporary` beside the path, which commit renames. What was there is
 * then removed. */
struct asdm_directory {
    char *path, *temporary;
    bool committed;
};

/* ERR_ARGUMENT where the path exists, without `force`. */
enum asdm_status asdm_directory_open(struct asdm_directory *directory, const char *path, bool force,
                                     struct asdm_error *err);
enum asdm_status asdm_directory_commit(struct asdm_directory *directory, struct asdm_error *err);
/* Removes what was not committed; fine on a zeroed one. */
void asdm_directory_close(struct asdm_directory *directory);

/* Copies regular files and directories below `from` to `to`, which exists, but not the entry `except` at its top. */
enum asdm_status asdm_directory_copy(const char *from, const char *to, const char *except, struct asdm_error *err);
enum asdm_status asdm_directory_make(const char *path, struct asdm_error *err);

#endif
