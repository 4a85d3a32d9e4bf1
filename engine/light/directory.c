#include "light/directory.h"

#include <dirent.h>
#include <errno.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <asdm/error.h>
#include "base/file.h"

static enum asdm_status no_memory(struct asdm_error *err) {
    return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for a path");
}

static enum asdm_status io_error(const char *path, struct asdm_error *err) {
    return asdm_fail(err, ASDM_ERR_IO, "%s: %s", path, strerror(errno));
}

bool asdm_path_is_below(const char *path, const char *directory) {
    char *copy = strdup(path), *parent = copy ? realpath(dirname(copy), NULL) : NULL;
    char *whole = realpath(path, NULL), *above = realpath(directory, NULL);
    const char *from = whole ? whole : parent;
    size_t length = above ? strlen(above) : 0;
    bool below = from && above && strncmp(from, above, length) == 0 && (from[length] == '/' || !from[length]);
    free(copy);
    free(parent);
    free(whole);
    free(above);
    return below;
}

enum asdm_status asdm_directory_make(const char *path, struct asdm_error *err) {
    return mkdir(path, 0777) == 0 ? ASDM_OK : io_error(path, err);
}

/* ---- copying */

static enum asdm_status copy_file(const char *from, const char *to, struct asdm_error *err) {
    struct asdm_mapping mapping = {0};
    ASDM_TRY(asdm_file_map(from, &mapping, err));
    enum asdm_status status = asdm_file_write(to, mapping.data, mapping.size, err);
    asdm_file_unmap(&mapping);
    return status;
}

static enum asdm_status copy_entry(const char *from, const char *to, struct asdm_error *err) {
    if (!asdm_file_is_directory(from))
        return asdm_file_exists(from) ? copy_file(from, to, err) : ASDM_OK;
    ASDM_TRY(asdm_directory_make(to, err));
    return asdm_directory_copy(from, to, NULL, err);
}

enum asdm_status asdm_directory_copy(const char *from, const char *to, const char *except, struct asdm_error *err) {
    DIR *entries = opendir(from);
    if (!entries)
        return io_error(from, err);
    enum asdm_status status = ASDM_OK;
    for (const struct dirent *entry; status == ASDM_OK && (entry = readdir(entries));) {
        const char *name = entry->d_name;
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || (except && strcmp(name, except) == 0))
            continue;
        char *source = asdm_path_join(from, name), *target = asdm_path_join(to, name);
        status = source && target ? copy_entry(source, target, err) : no_memory(err);
        free(source);
        free(target);
    }
    closedir(entries);
    return status;
}

/* ---- removing; what cannot be removed stays */

static void remove_tree(const char *path) {
    DIR *entries = opendir(path);
    for (const struct dirent *entry; entries && (entry = readdir(entries));) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        char *below = asdm_path_join(path, entry->d_name);
        struct stat info;
        if (below && lstat(below, &info) == 0 && S_ISDIR(info.st_mode))
            remove_tree(below);
        else if (below)
            unlink(below);
        free(below);
    }
    if (entries)
        closedir(entries);
    rmdir(path);
}

/* ---- whole or not at all */

/* "PATH.WORD-PID", beside the path. */
static char *beside(const char *path, const char *word) {
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/')
        length--;
    size_t room = length + 40;
    char *name = malloc(room);
    if (name)
        snprintf(name, room, "%.*s.%s-%ld", (int)length, path, word, (long)getpid());
    return name;
}

enum asdm_status asdm_directory_open(struct asdm_directory *directory, const char *path, bool force,
                                     struct asdm_error *err) {
    struct stat info;
    *directory = (struct asdm_directory){0};
    if (lstat(path, &info) == 0 && !force)
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "%s exists; --force replaces it", path);
    if (lstat(path, &info) == 0 && !S_ISDIR(info.st_mode))
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "%s is no directory", path);
    directory->path = strdup(path);
    directory->temporary = beside(path, "tmp");
    enum asdm_status status =
        directory->path && directory->temporary ? asdm_directory_make(directory->temporary, err) : no_memory(err);
    if (status != ASDM_OK) { /* nothing of ours is there */
        free(directory->temporary);
        directory->temporary = NULL;
    }
    return status;
}

enum asdm_status asdm_directory_commit(struct asdm_directory *directory, struct asdm_error *err) {
    struct stat info;
    char *old = lstat(directory->path, &info) == 0 ? beside(directory->path, "old") : NULL;
    if (old && rename(directory->path, old) != 0) {
        free(old);
        return io_error(directory->path, err);
    }
    if (rename(directory->temporary, directory->path) != 0) {
        enum asdm_status status = io_error(directory->path, err);
        if (old)
            rename(old, directory->path);
        free(old);
        return status;
    }
    directory->committed = true;
    if (old)
        remove_tree(old);
    free(old);
    return ASDM_OK;
}

void asdm_directory_close(struct asdm_directory *directory) {
    if (directory->temporary && !directory->committed)
        remove_tree(directory->temporary);
    free(directory->path);
    free(directory->temporary);
    *directory = (struct asdm_directory){0};
}
