#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <asdm/error.h>

static enum asdm_status fail_errno(struct asdm_error *err, const char *path, const char *what) {
    enum asdm_status status = errno == ENOENT || errno == ENOTDIR ? ASDM_ERR_NOT_FOUND
                              : errno == ENOMEM                   ? ASDM_ERR_MEMORY
                                                                  : ASDM_ERR_IO;
    return asdm_fail(err, status, "%s: %s: %s", path, what, strerror(errno));
}

/* What a path leads to, when that is not a regular file. */
static const char *kind_name(mode_t mode) {
    return S_ISDIR(mode)    ? "is a directory"
           : S_ISFIFO(mode) ? "is a pipe"
           : S_ISCHR(mode)  ? "is a character device"
           : S_ISBLK(mode)  ? "is a block device"
           : S_ISSOCK(mode) ? "is a socket"
                            : "is not a regular file";
}

static enum asdm_status check_regular(const struct stat *info, const char *path, struct asdm_error *err) {
    if (S_ISREG(info->st_mode))
        return ASDM_OK;
    return asdm_fail(err, ASDM_ERR_IO, "%s: %s, not a file", path, kind_name(info->st_mode));
}

/* Opens a regular file for reading. Looked at before it is opened, because opening a device or a pipe can wait or have
 * effects, and after, because it can have been exchanged in between. */
static enum asdm_status open_regular(const char *path, int *ret_fd, size_t *ret_size, struct asdm_error *err) {
    struct stat info;
    if (stat(path, &info) != 0)
        return fail_errno(err, path, "cannot be opened");
    ASDM_TRY(check_regular(&info, path, err));
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return fail_errno(err, path, "cannot be opened");
    enum asdm_status status =
        fstat(fd, &info) != 0 ? fail_errno(err, path, "cannot be examined") : check_regular(&info, path, err);
    if (status == ASDM_OK && (uintmax_t)info.st_size > SIZE_MAX / 2)
        status = asdm_fail(err, ASDM_ERR_UNSUPPORTED, "%s: too large for this machine's addresses", path);
    if (status != ASDM_OK) {
        close(fd);
        return status;
    }
    *ret_fd = fd;
    *ret_size = (size_t)info.st_size;
    return ASDM_OK;
}

enum asdm_status asdm_file_map(const char *path, struct asdm_mapping *ret, struct asdm_error *err) {
    int fd = -1;
    size_t size = 0;
    ASDM_TRY(open_regular(path, &fd, &size, err));
    enum asdm_status status = ASDM_OK;
    void *data = size ? mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0) : NULL;
    if (data == MAP_FAILED)
        status = fail_errno(err, path, "cannot be mapped");
    else
        *ret = (struct asdm_mapping){data, size};
    close(fd);
    return status;
}

void asdm_file_unmap(struct asdm_mapping *mapping) {
    if (mapping->data)
        munmap((void *)mapping->data, mapping->size);
    *mapping = (struct asdm_mapping){0};
}

void asdm_file_release(const struct asdm_mapping *mapping, size_t offset, size_t size) {
    if (!mapping->data || offset >= mapping->size)
        return;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t end = size < mapping->size - offset ? offset + size : mapping->size;
    size_t first = (offset + page - 1) / page * page; /* only pages that lie wholly inside */
    if (end != mapping->size)
        end = end / page * page;
    if (first < end)
        madvise((void *)(mapping->data + first), end - first, MADV_DONTNEED); /* a failure costs memory, no more */
}

bool asdm_file_exists(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

bool asdm_file_is_directory(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

/* Reads up to `size` bytes; fewer only at the end of the file. */
static ssize_t read_fully(int fd, char *data, size_t size) {
    size_t used = 0;
    while (used < size) {
        ssize_t count = read(fd, data + used, size - used);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return -1;
        if (count == 0)
            break;
        used += (size_t)count;
    }
    return (ssize_t)used;
}

enum asdm_status asdm_file_read(const char *path, size_t limit, char **ret_data, size_t *ret_size,
                                struct asdm_error *err) {
    int fd = -1;
    size_t size = 0;
    ASDM_TRY(open_regular(path, &fd, &size, err));
    enum asdm_status status = ASDM_OK;
    char *data = NULL;
    if (size > limit) {
        status = asdm_fail(err, ASDM_ERR_FORMAT, "%s: %zu bytes, more than the %zu allowed", path, size, limit);
        goto cleanup;
    }
    data = malloc(size + 1);
    if (!data) {
        status = asdm_fail(err, ASDM_ERR_MEMORY, "%s: out of memory for %zu bytes", path, size);
        goto cleanup;
    }
    ssize_t count = read_fully(fd, data, size + 1); /* the byte more shows a file that grows */
    if (count < 0)
        status = fail_errno(err, path, "cannot be read");
    else if ((size_t)count != size)
        status = asdm_fail(err, ASDM_ERR_IO, "%s: changed its size while it was read", path);
    if (status == ASDM_OK) {
        data[size] = '\0';
        *ret_data = data;
        *ret_size = size;
        data = NULL;
    }
cleanup:
    free(data);
    close(fd);
    return status;
}

/* The directory part of `path` ("." when it has none), malloc'ed. */
static char *directory_of(const char *path) {
    const char *slash = strrchr(path, '/');
    if (!slash)
        return strdup(".");
    return strndup(path, slash == path ? 1 : (size_t)(slash - path));
}

/* Names ".NAME.tmp-PID-RANDOM" beside `path`. */
static char *temporary_name(const char *path) {
    enum { NAME_MAX_KEPT = 200 }; /* bytes of NAME, so that the whole stays a legal file name */
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    uint32_t salt;
    if (getrandom(&salt, sizeof salt, GRND_NONBLOCK) != (ssize_t)sizeof salt)
        salt = (uint32_t)(uintptr_t)&salt;
    size_t size = strlen(path) + 64;
    char *temporary = malloc(size);
    if (temporary)
        snprintf(temporary, size, "%.*s.%.*s.tmp-%ld-%08x", (int)(name - path), path, NAME_MAX_KEPT, name,
                 (long)getpid(), salt);
    return temporary;
}

/* Refuses a path that a rename cannot replace with a file. *ret_mode: permissions of the file that is there, untouched
 * when there is none. */
static enum asdm_status check_target(const char *path, mode_t *ret_mode, struct asdm_error *err) {
    struct stat info;
    size_t length = strlen(path);
    if (length == 0)
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "cannot write a file whose name is empty");
    if (path[length - 1] == '/')
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "%s: names a directory, not a file to write", path);
    if (stat(path, &info) != 0)
        return ASDM_OK;
    if (!S_ISREG(info.st_mode))
        return asdm_fail(err, ASDM_ERR_IO, "%s: %s, cannot be replaced by a file", path, kind_name(info.st_mode));
    *ret_mode = info.st_mode & 0777;
    return ASDM_OK;
}

/* Creates the temporary file; -1 with errno. */
static int create_temporary(const char *path, char **ret_temporary) {
    for (int attempt = 0;; attempt++) {
        char *temporary = temporary_name(path);
        if (!temporary) {
            errno = ENOMEM;
            return -1;
        }
        int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd >= 0) {
            *ret_temporary = temporary;
            return fd;
        }
        int reason = errno;
        free(temporary);
        errno = reason;
        if (reason != EEXIST || attempt == 100)
            return -1;
    }
}

enum asdm_status asdm_file_writer_open(struct asdm_file_writer *writer, const char *path, struct asdm_error *err) {
    mode_t mode = 0;
    *writer = (struct asdm_file_writer){0};
    ASDM_TRY(check_target(path, &mode, err));
    int fd = create_temporary(path, &writer->temporary);
    if (fd < 0)
        return fail_errno(err, path, "cannot be written");
    writer->path = strdup(path);
    writer->stream = fdopen(fd, "wb");
    enum asdm_status status = ASDM_OK;
    if (!writer->path || !writer->stream)
        status = asdm_fail(err, ASDM_ERR_MEMORY, "%s: out of memory", path);
    else if (mode && fchmod(fd, mode) != 0) /* the new file is no more open to others than the old one */
        status = fail_errno(err, path, "cannot be written");
    if (status != ASDM_OK) {
        if (!writer->stream)
            close(fd);
        asdm_file_writer_abort(writer);
    }
    return status;
}

enum asdm_status asdm_file_writer_write(struct asdm_file_writer *writer, const void *data, size_t size,
                                        struct asdm_error *err) {
    if (size && fwrite(data, 1, size, writer->stream) != size)
        return fail_errno(err, writer->path, "cannot be written");
    return ASDM_OK;
}

/* Makes the rename itself last. Some file systems cannot sync directories, and a directory that may be written need not
 * be readable: then there is nothing to be done. */
static enum asdm_status sync_directory(const char *path, struct asdm_error *err) {
    enum asdm_status status = ASDM_OK;
    char *directory = directory_of(path);
    if (!directory)
        return asdm_fail(err, ASDM_ERR_MEMORY, "%s: out of memory", path);
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        if (errno != EACCES)
            status = fail_errno(err, directory, "written, but the directory cannot be synced");
    } else {
        if (fsync(fd) != 0 && errno != EINVAL && errno != ENOTSUP)
            status = fail_errno(err, directory, "written, but the directory cannot be synced");
        close(fd);
    }
    free(directory);
    return status;
}

/* Everything is on the disk under the temporary name, and closed. */
static enum asdm_status finish_stream(struct asdm_file_writer *writer, struct asdm_error *err) {
    if (ferror(writer->stream))
        return asdm_fail(err, ASDM_ERR_IO, "%s: cannot be written: an earlier write failed", writer->path);
    if (fflush(writer->stream) != 0 || fsync(fileno(writer->stream)) != 0)
        return fail_errno(err, writer->path, "cannot be written");
    int closed = fclose(writer->stream);
    writer->stream = NULL;
    return closed == 0 ? ASDM_OK : fail_errno(err, writer->path, "cannot be written");
}

enum asdm_status asdm_file_writer_commit(struct asdm_file_writer *writer, struct asdm_error *err) {
    enum asdm_status status = finish_stream(writer, err);
    if (status == ASDM_OK && rename(writer->temporary, writer->path) != 0)
        status = fail_errno(err, writer->path, "cannot be replaced");
    if (status == ASDM_OK) {
        free(writer->temporary); /* the name is gone: nothing to remove */
        writer->temporary = NULL;
        status = sync_directory(writer->path, err);
    }
    asdm_file_writer_abort(writer);
    return status;
}

void asdm_file_writer_abort(struct asdm_file_writer *writer) {
    if (writer->stream)
        fclose(writer->stream); /* the bytes are not wanted */
    if (writer->temporary)
        unlink(writer->temporary);
    free(writer->temporary);
    free(writer->path);
    *writer = (struct asdm_file_writer){0};
}

enum asdm_status asdm_file_write(const char *path, const void *data, size_t size, struct asdm_error *err) {
    struct asdm_file_writer writer;
    ASDM_TRY(asdm_file_writer_open(&writer, path, err));
    enum asdm_status status = asdm_file_writer_write(&writer, data, size, err);
    if (status == ASDM_OK)
        status = asdm_file_writer_commit(&writer, err);
    asdm_file_writer_abort(&writer); /* nothing to do after a commit */
    return status;
}

/* By doing it: permissions, quotas, read-only file systems and long names all say no in their own way. */
enum asdm_status asdm_file_check_writable(const char *path, struct asdm_error *err) {
    struct asdm_file_writer writer;
    ASDM_TRY(asdm_file_writer_open(&writer, path, err));
    asdm_file_writer_abort(&writer);
    return ASDM_OK;
}

char *asdm_path_join(const char *directory, const char *name) {
    size_t size = strlen(directory) + strlen(name) + 2;
    char *path = malloc(size);
    if (path)
        snprintf(path, size, "%s/%s", directory, name);
    return path;
}
