#include "cuda/vendor.h"

#include <dlfcn.h>
#include <string.h>

void *cuda_vendor_load(const char *file, const struct cuda_vendor_function *wanted, size_t count, void *functions) {
    void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    for (size_t i = 0; library && i < count; i++) {
        void *symbol = dlsym(library, wanted[i].name);
        if (!symbol) {
            dlclose(library);
            return NULL;
        }
        memcpy((unsigned char *)functions + wanted[i].offset, &symbol, sizeof symbol);
    }
    return library;
}
