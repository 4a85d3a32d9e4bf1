/* Files: mapping for reading, and writing that is never seen half-done (written beside, synced, renamed). */
#ifndef ASDM_BASE_FILE_H
#define ASDM_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include <asdm/status.h>

struct asdm_mapping {
    const unsigned char *data; /* read-only, page aligned; NULL when size is 0 */
    size_t size;               /* bytes */
};

/* Maps a regular file. NOT_FOUND, IO. A mapping that the file shrinks under is the operator's fault (SIGBUS). */
enum asdm_status asdm_file_map(const char *path, struct asdm_mapping *ret, struct asdm_error *err);
void asdm_file_unmap(struct asdm_mapping *mapping);
/* Gives the pages of a range back to the page cache: they no longer count in this process's resident set, and are read
 * again when touched. */
void asdm_file_release(const struct asdm_mapping *mapping, size_t offset, size_t size);

bool asdm_file_exists(const char *path); /* a regular file (or a link to one) */
bool asdm_file_is_directory(const char *path);

char *asdm_path_join(const char *directory, const char *name); /* DIRECTORY/NAME, malloc'ed; NULL: no memory */

/* Whole file into malloc'ed memory with a NUL after it (not counted in *ret_size). Larger than `limit`: ERR_FORMAT. */
enum asdm_status asdm_file_read(const char *path, size_t limit, char **ret_data, size_t *ret_size,
                                struct asdm_error *err);

/* A file being written. Bytes go to a temporary name in the same directory (".NAME.tmp-PID-RANDOM"); commit syncs the
 * data, renames and syncs the directory; abort (also what a failed commit does) removes it. So `path` always is the old
 * or the new file, whole. The permissions of a file that is replaced are kept; a symbolic link is itself replaced. */
struct asdm_file_writer {
    FILE *stream;
    char *path, *temporary;
};

enum asdm_status asdm_file_writer_open(struct asdm_file_writer *writer, const char *path, struct asdm_error *err);
enum asdm_status asdm_file_writer_write(struct asdm_file_writer *writer, const void *data, size_t size,
                                        struct asdm_error *err);
enum asdm_status asdm_file_writer_commit(struct asdm_file_writer *writer, struct asdm_error *err);
void asdm_file_writer_abort(struct asdm_file_writer *writer); /* fine on one that is closed or zeroed */

/* A whole file: open, write, commit. */
enum asdm_status asdm_file_write(const char *path, const void *data, size_t size, struct asdm_error *err);

/* Can a file of this name be written? Checks the directory early, so that nobody computes for minutes in vain. */
enum asdm_status asdm_file_check_writable(const char *path, struct asdm_error *err);

#endif
