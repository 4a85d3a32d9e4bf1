#include "base/memory.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <asdm/error.h>
#include "base/size.h"

enum { HUGE_FROM = 16 << 20 /* bytes */ };

/* The number after `key` in a file of "key value" lines, or the file's first number when key is ""; SIZE_MAX when
 * absent. */
static size_t read_number(const char *path, const char *key) {
    FILE *file = fopen(path, "re");
    size_t result = SIZE_MAX;
    char line[256];
    if (!file)
        return SIZE_MAX;
    while (fgets(line, sizeof line, file)) {
        size_t value;
        if (strncmp(line, key, strlen(key)) == 0 && sscanf(line + strlen(key), "%zu", &value) == 1) {
            result = value;
            break;
        }
    }
    fclose(file);
    return result;
}

static size_t left_of(size_t limit, size_t used) {
    return limit == SIZE_MAX || used == SIZE_MAX ? SIZE_MAX : limit > used ? limit - used : 0;
}

size_t asdm_memory_available(void) {
    size_t kib = read_number("/proc/meminfo", "MemAvailable:");
    size_t result = kib == SIZE_MAX ? SIZE_MAX : kib * 1024;
    /* Control groups, version 2 then 1, as seen from inside a container. */
    result = asdm_size_least(result, left_of(read_number("/sys/fs/cgroup/memory.max", ""),
                                             read_number("/sys/fs/cgroup/memory.current", "")));
    result = asdm_size_least(result, left_of(read_number("/sys/fs/cgroup/memory/memory.limit_in_bytes", ""),
                                             read_number("/sys/fs/cgroup/memory/memory.usage_in_bytes", "")));
    struct rlimit address_space;
    if (getrlimit(RLIMIT_AS, &address_space) == 0 && address_space.rlim_cur != RLIM_INFINITY) {
        size_t pages = read_number("/proc/self/statm", "");
        result = asdm_size_least(result, left_of(address_space.rlim_cur, pages == SIZE_MAX ? 0 : pages * 4096));
    }
    return result;
}

enum asdm_status asdm_memory_check(size_t bytes, const char *what, struct asdm_error *err) {
    size_t available = asdm_memory_available();
    if (bytes <= available)
        return ASDM_OK;
    return asdm_fail(err, ASDM_ERR_MEMORY, "%s needs %.1f GB of memory, %.1f GB are available", what,
                     (double)bytes / 1e9, (double)available / 1e9);
}

enum asdm_status asdm_memory_map(size_t bytes, const char *what, void **ret, struct asdm_error *err) {
    ASDM_TRY(asdm_memory_check(bytes, what, err));
    void *memory = mmap(NULL, bytes ? bytes : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return asdm_fail(err, ASDM_ERR_MEMORY, "%s: %.1f GB of memory could not be had", what, (double)bytes / 1e9);
    if (bytes >= HUGE_FROM)                    /* smaller blocks would mostly clear what nobody uses */
        madvise(memory, bytes, MADV_HUGEPAGE); /* a wish: without it the pages are small */
    *ret = memory;
    return ASDM_OK;
}

void asdm_memory_unmap(void *memory, size_t bytes) {
    if (memory)
        munmap(memory, bytes ? bytes : 1);
}

enum asdm_status asdm_memory_ensure(float **memory, size_t *have, size_t bytes, const char *what,
                                    struct asdm_error *err) {
    void *larger;
    if (*have >= bytes)
        return ASDM_OK;
    ASDM_TRY(asdm_memory_map(bytes, what, &larger, err));
    asdm_memory_unmap(*memory, *have);
    *memory = larger;
    *have = bytes;
    return ASDM_OK;
}
