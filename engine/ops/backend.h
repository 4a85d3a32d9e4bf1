/* What a back end offers to the planner: kernels for operations, and memory. Vendor headers stay behind this. */
#ifndef ASDM_BACKEND_H
#define ASDM_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <asdm/model.h>
#include "ops/choices.h"
#include "ops/moments.h"
#include "ops/program.h"
#include "ops/weights.h"

/* What a kernel finds when it runs; all in the back end's own memory. */
struct asdm_run {
    void *const *values;            /* address of each of the program's values: row 0 */
    const int32_t *const *row_maps; /* by rate: row of the run -> row of a value of that rate */
    void *scratch;                  /* at least the kernel's scratch_bytes, 64-byte aligned */
};

/* One planned operation. `run` only computes: no allocation, no shape logic, no failure. */
struct asdm_kernel {
    const char *name; /* of the implementation, for profiles */
    void (*run)(const struct asdm_kernel *kernel, const struct asdm_run *run);
    void (*destroy)(struct asdm_kernel *kernel); /* may be NULL */
    void *state;
    size_t scratch_bytes;
    int in_place; /* place in op->inputs of the operand that the result may overwrite, or ASDM_NONE */
};

/* An operation with its sizes: all that a candidate needs to decide whether it fits. */
struct asdm_site {
    const struct asdm_program *program;
    const struct asdm_op *op;
    struct asdm_weight_store *weights;
    int rows;
    struct asdm_extent {
        int64_t height, width, channels;
        bool mapped; /* read through the row map of `rate` */
        enum asdm_rate rate;
        struct asdm_moments_layout moments; /* kept behind the value's rows */
    } in[ASDM_SRC_COUNT], out;
};

struct asdm_backend;

/* What measured times hold for, beside shapes: texts without quotes or backslashes. */
struct asdm_machine {
    char gpu[128], driver[64];
    char libraries[96]; /* vendor libraries among the candidates, with versions; "": none */
};

/* What a back end brings whose memory the processor does not reach and whose kernels run behind its back. Work is done
 * in the order in which it was put in. A failure of that work stays: `finish` reports it from then on. */
struct asdm_device_class {
    /* Zeroed, 256-byte aligned. ERR_MEMORY in words ("WHAT needs X GB ..."). */
    enum asdm_status (*map)(struct asdm_backend *backend, size_t bytes, const char *what, void **ret,
                            struct asdm_error *err);
    void (*unmap)(struct asdm_backend *backend, void *memory);
    /* Bytes that `map` could still give, and how many there are in all (NULL: not asked for). */
    size_t (*available)(struct asdm_backend *backend, size_t *ret_total);
    /* Memory of the processor's that `copy` reaches at full speed, and that kernels read where it is. */
    enum asdm_status (*map_staging)(struct asdm_backend *backend, size_t bytes, void **ret, struct asdm_error *err);
    void (*unmap_staging)(struct asdm_backend *backend, void *memory);
    /* Between any two memories. What is in neither staging nor the device's own must stay until `finish`. */
    void (*copy)(struct asdm_backend *backend, void *to, const void *from, size_t bytes);
    /* Waits for all work. ERR_DEVICE in words when any of it failed. */
    enum asdm_status (*finish)(struct asdm_backend *backend, struct asdm_error *err);
    /* What `enqueue` puts in, kept to be put in again as one piece; NULL: it could not be, which is no failure. */
    void *(*record)(struct asdm_backend *backend, void (*enqueue)(void *user), void *user);
    void (*replay)(struct asdm_backend *backend, void *recording);
    void (*forget)(struct asdm_backend *backend, void *recording);
    /* Seconds that the device itself takes for what `enqueue` puts in, the shortest of a few times. */
    double (*time)(struct asdm_backend *backend, void (*enqueue)(void *user), void *user);
    void (*describe)(struct asdm_backend *backend, struct asdm_machine *ret);
};

/* One row per back end in the registry (ops/registry.c). */
struct asdm_backend_class {
    const char *name;  /* "ref", "cpu", "cuda" */
    unsigned rewrites; /* enum asdm_rewrite, those its kernels accept */
    /* `device` is the number after the colon, `threads` 0 for all processors. ERR_UNSUPPORTED when this machine or
     * build cannot. */
    enum asdm_status (*create)(int device, int threads, enum asdm_model_dtype dtype, struct asdm_backend **ret,
                               struct asdm_error *err);
    void (*destroy)(struct asdm_backend *backend);
    /* The first candidate that fits. Lays out the weights it needs. */
    enum asdm_status (*plan)(struct asdm_backend *backend, const struct asdm_site *site, struct asdm_kernel *ret,
                             struct asdm_error *err);
    /* Before a plan is made or run on the calling thread; may be NULL. */
    void (*begin)(struct asdm_backend *backend);
    const struct asdm_device_class *device; /* NULL: its memory is the process's, and a kernel that ran is done */
    bool (*is_present)(void);               /* whether "auto" may choose it; NULL: always */
};

/* A back end in use. Its own state follows in the structure that embeds this one. */
struct asdm_backend {
    const struct asdm_backend_class *class;
    enum asdm_model_dtype dtype;
    size_t element_bytes; /* of a value between operations */
    /* Set by the owner before the first plan; the back ends without measured choices have no use for them. */
    bool batch_dependent;                   /* a row's bits may depend on the number of rows */
    const struct asdm_choices *choices;     /* NULL: the built-in ones */
    struct asdm_measurements *measurements; /* not NULL: candidates are measured while plans are made */
};

/* Finds the class by device name, "auto" or "cuda:1" (that number in *ret_device). Unknown or not in this build:
 * ERR_ARGUMENT or ERR_UNSUPPORTED in words, listing what there is. */
enum asdm_status asdm_backend_find(const char *device, const struct asdm_backend_class **ret, int *ret_device,
                                   struct asdm_error *err);

/* Memory for values and weights, wherever the back end wants it. */
enum asdm_status asdm_backend_map(struct asdm_backend *backend, size_t bytes, const char *what, void **ret,
                                  struct asdm_error *err);
void asdm_backend_unmap(struct asdm_backend *backend, void *memory, size_t bytes);
/* Bytes that can still be had, and how many there are in all: 0 when they are the process's. */
size_t asdm_backend_available(struct asdm_backend *backend, size_t *ret_total);
/* ERR_MEMORY when `bytes` more cannot be had. */
enum asdm_status asdm_backend_memory_check(struct asdm_backend *backend, size_t bytes, const char *what,
                                           struct asdm_error *err);

#endif
