/* Preloaded into a program that runs models: has its GPU lost on demand. When the file that ASDM_TEST_LOSE_GPU names
 * exists, the next launch of a graph removes it and puts a kernel that writes to address 0 before the graph: a real
 * error of the device, which stays until the process ends. One file, one loss; a process started after it is well.
 *
 * The runtime, which is linked statically, takes the driver's functions through dlsym and cuGetProcAddress: both are
 * answered here. */
#include <cuda.h>
#include <cuda_runtime.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

namespace {

typedef void *dlsym_function(void *, const char *);
typedef CUresult launch_function(CUgraphExec, CUstream);
typedef CUresult find_function(const char *, void **, int, cuuint64_t, void *);
typedef CUresult find_function_v1(const char *, void **, int, cuuint64_t);

launch_function *real_launch;
find_function *real_find;
find_function_v1 *real_find_v1;

__global__ void write_to_nowhere(volatile int *nowhere) {
    *nowhere = 1;
}

dlsym_function *real_dlsym() {
    static void *const found = [] {
        void *symbol = dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.34");
        return symbol ? symbol : dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.2.5");
    }();
    return (dlsym_function *)found;
}

CUresult launch(CUgraphExec graph, CUstream stream) {
    const char *path = getenv("ASDM_TEST_LOSE_GPU");
    if (path && unlink(path) == 0) {
        fprintf(stderr, "lose_gpu: the GPU is lost now\n");
        write_to_nowhere<<<1, 1, 0, stream>>>(nullptr);
    }
    return real_launch(graph, stream);
}

enum { V2_SINCE = 12000 /* the CUDA version from which on cuGetProcAddress has five arguments */ };

CUresult find(const char *name, void **ret, int version, cuuint64_t flags, void *status);
CUresult find_v1(const char *name, void **ret, int version, cuuint64_t flags);

/* In place of what was found for a name; the runtime asks for cuGetProcAddress through itself, too. */
void replace(const char *name, int version, void **function) {
    if (!*function)
        return;
    if (strcmp(name, "cuGraphLaunch") == 0) {
        real_launch = (launch_function *)*function;
        *function = (void *)launch;
    } else if (strcmp(name, "cuGetProcAddress_v2") == 0 ||
               (strcmp(name, "cuGetProcAddress") == 0 && version >= V2_SINCE)) {
        real_find = (find_function *)*function;
        *function = (void *)find;
    } else if (strcmp(name, "cuGetProcAddress") == 0) {
        real_find_v1 = (find_function_v1 *)*function;
        *function = (void *)find_v1;
    }
}

CUresult find(const char *name, void **ret, int version, cuuint64_t flags, void *status) {
    const CUresult result = real_find(name, ret, version, flags, status);
    if (result == CUDA_SUCCESS)
        replace(name, version, ret);
    return result;
}

CUresult find_v1(const char *name, void **ret, int version, cuuint64_t flags) {
    const CUresult result = real_find_v1(name, ret, version, flags);
    if (result == CUDA_SUCCESS)
        replace(name, version, ret);
    return result;
}

} // namespace

extern "C" __attribute__((visibility("default"))) void *dlsym(void *handle, const char *name) noexcept {
    void *symbol = real_dlsym()(handle, name);
    replace(name, 0, &symbol);
    return symbol;
}
