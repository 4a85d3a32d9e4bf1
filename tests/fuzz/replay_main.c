/* Runs a fuzz target over files that are kept: main() for builds without libFuzzer.
 *
 *     replay FILE|DIRECTORY...
 *
 * Every file given, and every regular file of every directory given, goes through LLVMFuzzerTestOneInput in memory of
 * exactly its size. Prints how many there were; 1 when a path cannot be read or a directory has no files, 2 without
 * arguments. */
#include <dirent.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay_file(const char *path, size_t size) {
    FILE *file = fopen(path, "rb");
    uint8_t *data = malloc(size ? size : 1);
    int result = file && data && fread(data, 1, size, file) == size ? 0 : 1;
    if (result == 0)
        LLVMFuzzerTestOneInput(data, size);
    else
        fprintf(stderr, "replay: %s: cannot be read\n", path);
    if (file)
        fclose(file);
    free(data);
    return result;
}

static int by_name(const struct dirent **a, const struct dirent **b) {
    return strcmp((*a)->d_name, (*b)->d_name);
}

/* Adds the number of files replayed to *count. */
static int replay_directory(const char *directory, size_t *count) {
    struct dirent **entries = NULL;
    int result = 0, found = scandir(directory, &entries, NULL, by_name);
    size_t before = *count;
    for (int i = 0; i < found; i++) {
        char path[4096];
        struct stat info;
        int length = snprintf(path, sizeof path, "%s/%s", directory, entries[i]->d_name);
        if (length > 0 && (size_t)length < sizeof path && stat(path, &info) == 0 && S_ISREG(info.st_mode)) {
            result |= replay_file(path, (size_t)info.st_size);
            ++*count;
        }
        free(entries[i]);
    }
    free(entries);
    if (*count == before) {
        fprintf(stderr, "replay: %s: no files\n", directory);
        result = 1;
    }
    return result;
}

int main(int argc, char **argv) {
    size_t count = 0;
    int result = 0;
    if (argc < 2) {
        fprintf(stderr, "usage: %s FILE|DIRECTORY...\n", argv[0]);
        return 2;
    }
    for (int i = 1; i < argc; i++) {
        struct stat info;
        if (stat(argv[i], &info) != 0) {
            fprintf(stderr, "replay: %s: cannot be read\n", argv[i]);
            result = 1;
        } else if (S_ISDIR(info.st_mode)) {
            result |= replay_directory(argv[i], &count);
        } else {
            result |= replay_file(argv[i], (size_t)info.st_size);
            count++;
        }
    }
    printf("%zu inputs replayed\n", count);
    return result;
}
