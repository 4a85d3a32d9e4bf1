/* The only place that knows which back ends exist. */
#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>
#include "cpu/cpu.h"
#include "cuda/cuda.h"
#include "ops/backend.h"
#include "ref/ref.h"

/* In order of preference for "auto". */
static const struct asdm_backend_class *const classes[] = {
#ifdef ASDM_HAVE_CUDA
    &asdm_cuda_class,
#endif
#ifdef ASDM_HAVE_ONEDNN
    &asdm_cpu_class,
#endif
    &asdm_ref_class,
};

enum { CLASS_COUNT = sizeof classes / sizeof *classes };

/* "cuda:1" is device 1 of class "cuda". */
static bool split_device(const char *text, char name[16], int *ret_device) {
    const char *colon = strchr(text, ':');
    size_t length = colon ? (size_t)(colon - text) : strlen(text);
    char *end = NULL;
    long device = colon ? strtol(colon + 1, &end, 10) : 0;
    if (length >= 16 || (colon && (end == colon + 1 || *end || device < 0 || device > 1023)))
        return false;
    memcpy(name, text, length);
    name[length] = '\0';
    *ret_device = (int)device;
    return true;
}

enum asdm_status asdm_backend_find(const char *device, const struct asdm_backend_class **ret, int *ret_device,
                                   struct asdm_error *err) {
    char name[16];
    int number;
    if (!split_device(device, name, &number))
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "device \"%s\": must be auto, cpu, ref, cuda or cuda:N", device);
    for (int i = 0; i < CLASS_COUNT; i++)
        if (strcmp(name, "auto") == 0 ? !classes[i]->is_present || classes[i]->is_present()
                                      : strcmp(name, classes[i]->name) == 0) {
            if (number != 0 && !classes[i]->device)
                return asdm_fail(err, ASDM_ERR_ARGUMENT, "device \"%s\": %s has one device, 0", device, name);
            *ret = classes[i];
            *ret_device = number;
            return ASDM_OK;
        }
    if (strcmp(name, "cpu") == 0 || strcmp(name, "cuda") == 0)
        return asdm_fail(err, ASDM_ERR_UNSUPPORTED, "device \"%s\": this build has no %s back end", device, name);
    return asdm_fail(err, ASDM_ERR_ARGUMENT, "device \"%s\": must be auto, cpu, ref, cuda or cuda:N", device);
}
