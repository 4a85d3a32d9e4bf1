#include "cpu/cpu.h"

#include <omp.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include <asdm/error.h>
#include "cpu/cpu_ops.h"
#include "ops/rewrite.h"

enum { THREADS_MAX = 1024 };

/* ---- instruction sets */

extern const struct cpu_vector cpu_vector_base_f32, cpu_vector_base_bf16;
#ifdef __x86_64__
extern const struct cpu_vector cpu_vector_avx2_f32, cpu_vector_avx2_bf16;
extern const struct cpu_vector cpu_vector_avx512_f32, cpu_vector_avx512_bf16;
#endif

const struct cpu_vector *cpu_vector_select(bool bf16) {
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return bf16 ? &cpu_vector_avx512_bf16 : &cpu_vector_avx512_f32;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return bf16 ? &cpu_vector_avx2_bf16 : &cpu_vector_avx2_f32;
#endif
    return bf16 ? &cpu_vector_base_bf16 : &cpu_vector_base_f32;
}

/* oneDNN computes in bfloat16 where the processor has AVX-512; without bf16 instructions slowly, but right. */
static bool has_bf16(void) {
#ifdef __x86_64__
    return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq");
#else
    return false;
#endif
}

/* ---- threads */

/* The processors that the process was given, read before any of its threads is bound to one of them. */
static cpu_set_t process_set;
static pthread_once_t process_set_once = PTHREAD_ONCE_INIT;

static void read_process_set(void) {
    if (sched_getaffinity(0, sizeof process_set, &process_set) != 0)
        CPU_ZERO(&process_set);
}

static int processor_count(void) {
    pthread_once(&process_set_once, read_process_set);
    int count = CPU_COUNT(&process_set);
    return count ? count : 1;
}

/* Thread i to the i-th processor that the process may use; not at all when there are more threads than those. */
static void bind_threads(int threads) {
    if (threads > processor_count())
        return;
#pragma omp parallel num_threads(threads)
    {
        int skip = omp_get_thread_num(), processor = 0;
        while (!CPU_ISSET(processor, &process_set) || skip-- > 0)
            processor++;
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(processor, &one);
        sched_setaffinity(0, sizeof one, &one);
    }
}

/* ---- the back end */

static enum asdm_status plan(struct asdm_backend *base, const struct asdm_site *site, struct asdm_kernel *ret,
                             struct asdm_error *err) {
    const struct cpu_backend *backend = (const struct cpu_backend *)base;
    switch (site->op->kind) {
    case ASDM_OP_CONV2D:
        return cpu_plan_conv2d(backend, site, ret, err);
    case ASDM_OP_LINEAR:
        return cpu_plan_linear(backend, site, ret, err);
    case ASDM_OP_GROUP_NORM:
    case ASDM_OP_LAYER_NORM:
        return cpu_plan_norm(backend, site, ret, err);
    case ASDM_OP_ATTENTION:
        if (asdm_op_is_gri(site->op, site->out.height, site->out.width))
            return cpu_plan_gri(backend, site, ret, err);
        return cpu_plan_attention(backend, site, ret, err);
    case ASDM_OP_GLOBAL_POOL:
    case ASDM_OP_ROUTING:
    case ASDM_OP_MIX:
        return cpu_plan_routing(backend, site, ret, err);
    default:
        return cpu_plan_simple(backend, site, ret, err);
    }
}

static void begin(struct asdm_backend *base) {
    omp_set_num_threads(((struct cpu_backend *)base)->threads);
}

static enum asdm_status create(int device, int threads, enum asdm_model_dtype dtype, struct asdm_backend **ret,
                               struct asdm_error *err) {
    (void)device;
    bool bf16 = dtype == ASDM_DTYPE_BF16;
    if (dtype == ASDM_DTYPE_FP16 || dtype == ASDM_DTYPE_TF32)
        return asdm_fail(err, ASDM_ERR_UNSUPPORTED, "device \"cpu\" computes in fp32 or bf16, not in %s",
                         dtype == ASDM_DTYPE_FP16 ? "fp16" : "tf32");
    if (bf16 && !has_bf16())
        return asdm_fail(err, ASDM_ERR_UNSUPPORTED,
                         "device \"cpu\": this processor has no AVX-512, which bf16 needs; use fp32");
    if (threads < 0 || threads > THREADS_MAX)
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "threads: must be from 0 to %d, is %d", THREADS_MAX, threads);
    struct cpu_backend *backend = calloc(1, sizeof *backend);
    if (!backend)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for the CPU back end");
    backend->base = (struct asdm_backend){
        .class = &asdm_cpu_class, .dtype = bf16 ? ASDM_DTYPE_BF16 : ASDM_DTYPE_FP32, .element_bytes = bf16 ? 2 : 4};
    backend->bf16 = bf16;
    backend->vector = cpu_vector_select(bf16);
    backend->threads = threads ? threads : processor_count();
    omp_set_dynamic(0);
    omp_set_num_threads(backend->threads);
    if (threads)
        bind_threads(threads);
    *ret = &backend->base;
    return ASDM_OK;
}

static void destroy(struct asdm_backend *backend) {
    free(backend);
}

const struct asdm_backend_class asdm_cpu_class = {
    "cpu", ASDM_REWRITE_ALL & ~(ASDM_REWRITE_ROW_BIAS_CONV | ASDM_REWRITE_MOMENTS), create, destroy, plan, begin, NULL,
    NULL};
