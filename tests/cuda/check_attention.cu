/* Checks cuda_attention and cuda_attention_sm90 against a plain float32 reference on the device, and times them.
 *
 *     check_attention            checks, then times
 *     check_attention check|time
 *
 * Build: nvcc -std=c++17 -O3 -gencode=arch=compute_90a,code=sm_90a -I engine -I include tests/cuda/check_attention.cu
 *        engine/cuda/attention.cu engine/cuda/attention_sm90.cu */
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "cuda/launch.cuh"

#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        cudaError_t status_ = (call);                                                                                  \
        if (status_ != cudaSuccess) {                                                                                  \
            printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(status_));                         \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

namespace {

enum fill { RANDOM, LARGE, CONSTANT, NEGATIVE, RISING, DIFFUSE };
const char *const fill_names[] = {"random", "large", "constant", "negative", "rising", "diffuse"};

struct test {
    enum cuda_dtype dtype;
    int rows, heads, head_dim, tokens, keys;
    bool causal, mapped, fused; /* fused: q, k and v in one value */
    enum fill fill;
    int offset; /* elements before q, k and v: breaks alignment */
};

/* A uniform number in -1 .. 1 from a position (splitmix64). */
__device__ float noise(unsigned long long seed) {
    unsigned long long z = (seed + 1) * 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    z ^= z >> 31;
    return (float)(z >> 40) * (2.0f / 16777216.0f) - 1.0f;
}

/* Every token's channels, of one of q (0), k (1) and v (2). */
template <class T>
__global__ void fill_kernel(T *x, int rows, int tokens, int stride, int width, int which, enum fill fill, int seed) {
    const size_t count = (size_t)rows * tokens * width;
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < count; i += (size_t)gridDim.x * blockDim.x) {
        const size_t at = i / width;
        const int token = (int)(at % tokens);
        const float random = noise(i + ((unsigned long long)(seed * 3 + which) << 40));
        float value = random;
        if (which < 2) {
            if (fill == LARGE)
                value = 12.0f * random;
            if (fill == CONSTANT)
                value = 0.5f;
            if (fill == NEGATIVE) /* all scores far below zero */
                value = (which ? -4.0f : 4.0f) + 0.1f * random;
            if (fill == RISING) /* the maximum moves all the time */
                value = which ? 0.02f * (float)token * (1.0f + 0.1f * random) : 1.0f + 0.1f * random;
            if (fill == DIFFUSE)
                value = 0.1f * random;
        } else if (fill == CONSTANT) {
            value = 3.0f;
        }
        x[at * stride + i % width] = cuda_from_float<T>(value);
    }
}

/* A block per query: scores in shared memory, everything in float32, two passes. */
template <class T>
__global__ void reference_kernel(const T *q, const T *k, const T *v, float *y, const int32_t *kv_map, test t,
                                 int q_stride, int k_stride, int v_stride) {
    extern __shared__ float s[];
    __shared__ float total;
    const int token = blockIdx.x, head = blockIdx.y, row = blockIdx.z, d = t.head_dim;
    const int kv = kv_map ? kv_map[row] : row, keys = t.causal ? min(t.keys, token + 1) : t.keys;
    q += ((size_t)row * t.tokens + token) * q_stride + head * d;
    k += (size_t)kv * t.keys * k_stride + head * d;
    v += (size_t)kv * t.keys * v_stride + head * d;
    for (int i = threadIdx.x; i < keys; i += blockDim.x) {
        float sum = 0;
        for (int c = 0; c < d; c++)
            sum += cuda_to_float(q[c]) * cuda_to_float(k[(size_t)i * k_stride + c]);
        s[i] = sum / sqrtf((float)d);
    }
    __syncthreads();
    if (threadIdx.x < 32) {
        float max = -INFINITY, sum = 0;
        for (int i = threadIdx.x; i < keys; i += 32)
            max = fmaxf(max, s[i]);
        for (int i = 16; i; i /= 2)
            max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, i));
        for (int i = threadIdx.x; i < keys; i += 32)
            sum += s[i] = expf(s[i] - max);
        for (int i = 16; i; i /= 2)
            sum += __shfl_xor_sync(0xffffffffu, sum, i);
        total = sum;
    }
    __syncthreads();
    for (int c = threadIdx.x; c < d; c += blockDim.x) {
        float sum = 0;
        for (int i = 0; i < keys; i++)
            sum += s[i] * cuda_to_float(v[(size_t)i * v_stride + c]);
        y[(((size_t)row * t.tokens + token) * t.heads + head) * d + c] = sum / total;
    }
}

/* sums[0] += (y - want)^2, sums[1] += want^2; a NaN counts as an infinite error */
template <class T> __global__ void compare_kernel(const T *y, const float *want, size_t count, double *sums) {
    double error = 0, norm = 0;
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < count; i += (size_t)gridDim.x * blockDim.x) {
        const double e = (double)cuda_to_float(y[i]) - want[i];
        error += e == e ? e * e : INFINITY;
        norm += (double)want[i] * want[i];
    }
    atomicAdd(&sums[0], error);
    atomicAdd(&sums[1], norm);
}

/* Buffers of one test. `value` holds q, k and v. */
struct buffers {
    char *value, *y;
    float *want;
    int32_t *map;
    size_t count, guard;
    struct cuda_attention a;
};

size_t element(enum cuda_dtype dtype) {
    return dtype == CUDA_F32 ? 4 : 2;
}

template <class T> void fill_operand(const void *x, int rows, int tokens, int stride, const test &t, int which) {
    fill_kernel<T><<<512, 256>>>((T *)x, rows, tokens, stride, t.heads * t.head_dim, which, t.fill, 7);
    TRY(cudaGetLastError());
}

buffers prepare(const test &t) {
    buffers b = {};
    const size_t size = element(t.dtype);
    const int width = t.heads * t.head_dim, kv_rows = t.mapped ? (t.rows + 1) / 2 : t.rows;
    const int stride = t.fused ? 3 * width : width;
    const size_t q_count = (size_t)t.rows * t.tokens * stride, kv_count = (size_t)kv_rows * t.keys * stride;
    const size_t total = q_count + 2 * kv_count + 64;
    b.count = (size_t)t.rows * t.tokens * width;
    b.guard = 4096;
    TRY(cudaMalloc(&b.value, total * size));
    TRY(cudaMemset(b.value, 0xFF, total * size)); /* NaN around what is read */
    TRY(cudaMalloc(&b.y, b.count * size + b.guard));
    TRY(cudaMemset(b.y, 0xFF, b.count * size + b.guard));
    TRY(cudaMalloc(&b.want, b.count * 4));
    TRY(cudaMalloc(&b.map, t.rows * 4));
    std::vector<int32_t> map(t.rows);
    for (int i = 0; i < t.rows; i++)
        map[i] = (i * 5 + 3) % kv_rows;
    TRY(cudaMemcpy(b.map, map.data(), t.rows * 4, cudaMemcpyHostToDevice));
    char *first = b.value + t.offset * size;
    b.a = {};
    b.a.dtype = t.dtype, b.a.rows = t.rows, b.a.heads = t.heads, b.a.head_dim = t.head_dim;
    b.a.tokens = t.tokens, b.a.keys = t.keys, b.a.causal = t.causal;
    b.a.q = first, b.a.q_stride = b.a.k_stride = b.a.v_stride = stride;
    b.a.kv_map = t.mapped ? b.map : nullptr, b.a.y = b.y;
    if (t.fused) {
        b.a.k = first + width * size;
        b.a.v = first + 2 * width * size;
    } else {
        b.a.k = first + q_count * size;
        b.a.v = first + (q_count + kv_count) * size;
    }
    CUDA_BY_DTYPE(t.dtype, (fill_operand<T>(b.a.q, t.rows, t.tokens, stride, t, 0),
                            fill_operand<T>(b.a.k, kv_rows, t.keys, stride, t, 1),
                            fill_operand<T>(b.a.v, kv_rows, t.keys, stride, t, 2), cudaSuccess));
    return b;
}

void release(buffers &b) {
    TRY(cudaFree(b.value));
    TRY(cudaFree(b.y));
    TRY(cudaFree(b.want));
    TRY(cudaFree(b.map));
}

template <class T> cudaError_t reference(const test &t, const buffers &b) {
    const dim3 grid(t.tokens, t.heads, t.rows);
    reference_kernel<T><<<grid, 128, t.keys * 4>>>((const T *)b.a.q, (const T *)b.a.k, (const T *)b.a.v, b.want,
                                                   b.a.kv_map, t, b.a.q_stride, b.a.k_stride, b.a.v_stride);
    return cudaGetLastError();
}

template <class T> cudaError_t compare(const buffers &b, double *sums) {
    compare_kernel<T><<<256, 256>>>((const T *)b.y, b.want, b.count, sums);
    return cudaGetLastError();
}

typedef cudaError_t (*launcher)(const struct cuda_attention *, cudaStream_t);

/* The launch's relative L2 error; whether it wrote nothing after y; whether row 1 alone gives the same bytes. */
bool check_one(const char *name, launcher launch, const test &t, buffers &b, double *sums) {
    const size_t bytes = b.count * element(t.dtype), row = bytes / t.rows;
    double host[2];
    TRY(cudaMemset(b.y, 0xFF, bytes + b.guard));
    TRY(cudaMemset(sums, 0, 16));
    TRY(launch(&b.a, 0));
    TRY(CUDA_BY_DTYPE(t.dtype, compare<T>(b, sums)));
    TRY(cudaMemcpy(host, sums, 16, cudaMemcpyDeviceToHost));
    const double error = sqrt(host[0] / (host[1] + 1e-30));
    std::vector<unsigned char> y(bytes + b.guard), again(row);
    TRY(cudaMemcpy(y.data(), b.y, bytes + b.guard, cudaMemcpyDeviceToHost));
    bool clean = true, same = true;
    for (size_t i = bytes; i < y.size(); i++)
        clean = clean && y[i] == 0xFF;
    if (t.rows > 1) { /* rows 1 on become rows 0 on; a map moves with them */
        struct cuda_attention a = b.a;
        const size_t size = element(t.dtype);
        a.rows = 1;
        a.q = (const char *)a.q + (size_t)t.tokens * a.q_stride * size;
        if (a.kv_map) {
            a.kv_map++;
        } else {
            a.k = (const char *)a.k + (size_t)t.keys * a.k_stride * size;
            a.v = (const char *)a.v + (size_t)t.keys * a.v_stride * size;
        }
        TRY(cudaMemset(b.y, 0xFF, bytes));
        if (launch(&a, 0) == cudaSuccess) { /* unaligned rows may not fit */
            TRY(cudaMemcpy(again.data(), b.y, row, cudaMemcpyDeviceToHost));
            same = memcmp(again.data(), y.data() + row, row) == 0;
        }
    }
    const double bound = t.dtype == CUDA_F32 ? 2e-6 * (t.fill == LARGE ? 20 : 1) : t.dtype == CUDA_F16 ? 1.2e-3 : 8e-3;
    const bool good = error < bound && clean && same;
    printf("%-4s %s %-4s rows %2d heads %2d d %3d tokens %4d keys %4d%s%s%s +%d %-8s error %.2e%s%s\n",
           good ? "ok" : "BAD", name,
           t.dtype == CUDA_F16    ? "f16"
           : t.dtype == CUDA_BF16 ? "bf16"
                                  : "f32",
           t.rows, t.heads, t.head_dim, t.tokens, t.keys, t.causal ? " causal" : "", t.mapped ? " mapped" : "",
           t.fused ? " fused" : "", t.offset, fill_names[t.fill], error, clean ? "" : " WROTE PAST THE END",
           same ? "" : " ROWS DIFFER");
    fflush(stdout);
    return good;
}

bool check(const test &t) {
    buffers b = prepare(t);
    double *sums;
    TRY(cudaMalloc(&sums, 16));
    TRY(CUDA_BY_DTYPE(t.dtype, reference<T>(t, b)));
    bool good = true;
    if (cuda_attention_sm90_fits(&b.a))
        good = check_one("sm90   ", cuda_attention_sm90, t, b, sums) && good;
    good = check_one("generic", cuda_attention, t, b, sums) && good;
    TRY(cudaFree(sums));
    release(b);
    return good;
}

/* Median of graph replays of 20 launches each, microseconds per launch. */
double time_launch(launcher launch, const struct cuda_attention &a) {
    enum { LAUNCHES = 20, REPLAYS = 9 };
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaEvent_t start, stop;
    TRY(cudaStreamCreate(&stream));
    TRY(launch(&a, stream)); /* attributes */
    TRY(cudaStreamSynchronize(stream));
    TRY(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < LAUNCHES; i++)
        TRY(launch(&a, stream));
    TRY(cudaStreamEndCapture(stream, &graph));
    TRY(cudaGraphInstantiate(&exec, graph, 0));
    TRY(cudaEventCreate(&start));
    TRY(cudaEventCreate(&stop));
    std::vector<float> times;
    for (int i = 0; i < REPLAYS; i++) {
        float ms;
        TRY(cudaEventRecord(start, stream));
        TRY(cudaGraphLaunch(exec, stream));
        TRY(cudaEventRecord(stop, stream));
        TRY(cudaEventSynchronize(stop));
        TRY(cudaEventElapsedTime(&ms, start, stop));
        times.push_back(ms * 1000 / LAUNCHES);
    }
    TRY(cudaGraphExecDestroy(exec));
    TRY(cudaGraphDestroy(graph));
    TRY(cudaStreamDestroy(stream));
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
}

void time_one(const test &t) {
    buffers b = prepare(t);
    const double flops = 4.0 * t.rows * t.heads * (double)t.tokens * t.keys * t.head_dim;
    printf("%-4s rows %2d heads %2d d %3d tokens %4d keys %4d:", t.dtype == CUDA_F16 ? "f16" : "bf16", t.rows, t.heads,
           t.head_dim, t.tokens, t.keys);
    if (cuda_attention_sm90_fits(&b.a)) {
        const double us = time_launch(cuda_attention_sm90, b.a);
        printf("  sm90 %8.2f us %6.1f TFLOP/s", us, flops / us * 1e-6);
    }
    if (t.rows <= 2) {
        const double us = time_launch(cuda_attention, b.a);
        printf("  generic %8.2f us %6.1f TFLOP/s", us, flops / us * 1e-6);
    }
    printf("\n");
    fflush(stdout);
    release(b);
}

const enum cuda_dtype H = CUDA_F16, B = CUDA_BF16, F = CUDA_F32;

const test checks[] = {
    {H, 2, 2, 40, 512, 512, false, false, true, RANDOM, 0},
    {H, 2, 2, 40, 4096, 4096, false, false, true, RANDOM, 0},
    {H, 2, 8, 80, 1024, 1024, false, false, true, RANDOM, 0},
    {H, 2, 8, 160, 256, 256, false, false, true, RANDOM, 0},
    {H, 2, 8, 160, 64, 64, false, false, true, RANDOM, 0},
    {H, 3, 2, 40, 4096, 77, false, true, false, RANDOM, 0},
    {H, 3, 8, 80, 1024, 77, false, true, false, RANDOM, 0},
    {H, 3, 8, 160, 256, 77, false, true, false, RANDOM, 0},
    {H, 3, 8, 160, 64, 77, false, true, false, RANDOM, 0},
    {H, 2, 1, 512, 1024, 1024, false, false, true, RANDOM, 0},
    {B, 2, 2, 40, 4096, 4096, false, false, true, RANDOM, 0},
    {B, 2, 8, 80, 1024, 1024, false, false, true, RANDOM, 0},
    {B, 2, 8, 160, 256, 256, false, false, true, RANDOM, 0},
    {B, 2, 1, 512, 300, 300, false, false, false, RANDOM, 0},
    {H, 2, 2, 64, 2304, 2304, false, false, true, RANDOM, 0},
    {H, 2, 3, 64, 577, 577, false, false, true, RANDOM, 0},
    {H, 2, 3, 64, 100, 77, false, false, false, RANDOM, 0},
    {H, 2, 3, 40, 100, 1, false, false, false, RANDOM, 0},
    {H, 2, 3, 40, 2049, 81, false, true, false, RANDOM, 0},
    {H, 2, 3, 80, 1, 1, false, false, false, RANDOM, 0},
    {H, 2, 3, 80, 65, 129, false, false, false, RANDOM, 0},
    {H, 2, 3, 160, 63, 321, false, false, false, RANDOM, 0},
    {H, 2, 3, 32, 333, 333, false, false, true, RANDOM, 0},
    {H, 2, 3, 48, 333, 333, false, false, true, RANDOM, 0},
    {H, 2, 3, 96, 333, 333, false, false, true, RANDOM, 0},
    {H, 2, 3, 128, 333, 333, false, false, true, RANDOM, 0},
    {H, 2, 3, 8, 333, 333, false, false, true, RANDOM, 0},
    {H, 2, 3, 24, 2500, 2500, false, false, true, RANDOM, 0},
    {H, 2, 2, 40, 2100, 2100, false, false, true, LARGE, 0},
    {H, 2, 2, 80, 700, 700, false, false, true, LARGE, 0},
    {H, 2, 2, 160, 700, 700, false, false, true, LARGE, 0},
    {H, 2, 2, 40, 2100, 2100, false, false, true, CONSTANT, 0},
    {H, 2, 2, 40, 2100, 2100, false, false, true, NEGATIVE, 0},
    {H, 2, 2, 80, 700, 700, false, false, true, NEGATIVE, 0},
    {H, 2, 2, 160, 700, 700, false, false, true, NEGATIVE, 0},
    {H, 2, 2, 40, 2100, 2100, false, false, true, RISING, 0},
    {H, 2, 2, 80, 700, 700, false, false, true, RISING, 0},
    {H, 2, 1, 512, 700, 700, false, false, true, RISING, 0},
    {B, 2, 2, 40, 2100, 2100, false, false, true, RISING, 0},
    {H, 2, 2, 40, 2100, 2100, false, false, true, DIFFUSE, 0},
    {B, 2, 2, 64, 2100, 2100, false, false, true, DIFFUSE, 0},
    {H, 2, 12, 64, 77, 77, true, false, true, RANDOM, 0},
    {B, 2, 12, 64, 77, 77, true, false, true, RANDOM, 0},
    {H, 2, 2, 40, 300, 300, true, false, true, RISING, 0},
    {H, 2, 3, 20, 70, 90, false, false, true, RANDOM, 0},
    {H, 2, 3, 33, 70, 90, false, true, false, RANDOM, 1},
    {H, 2, 1, 1, 70, 90, false, false, false, RANDOM, 3},
    {B, 2, 2, 250, 70, 90, false, false, false, RANDOM, 2},
    {H, 2, 2, 256, 130, 200, false, false, false, LARGE, 0},
    {F, 2, 2, 40, 200, 200, false, false, true, RANDOM, 0},
    {F, 2, 3, 33, 70, 77, false, true, false, RANDOM, 1},
    {F, 2, 12, 64, 77, 77, true, false, true, RANDOM, 0},
    {F, 2, 1, 512, 150, 150, false, false, true, LARGE, 0},
    {F, 2, 2, 160, 65, 1, false, false, false, RANDOM, 0},
    {F, 2, 2, 40, 300, 300, false, false, true, RISING, 0},
};

const test timings[] = {
    {H, 2, 8, 40, 4096, 4096, false, false, true, RANDOM, 0},
    {H, 2, 8, 80, 1024, 1024, false, false, true, RANDOM, 0},
    {H, 2, 8, 160, 256, 256, false, false, true, RANDOM, 0},
    {H, 2, 8, 160, 64, 64, false, false, true, RANDOM, 0},
    {H, 2, 8, 40, 4096, 77, false, true, false, RANDOM, 0},
    {H, 2, 8, 80, 1024, 77, false, true, false, RANDOM, 0},
    {H, 2, 8, 160, 256, 77, false, true, false, RANDOM, 0},
    {H, 2, 8, 160, 64, 77, false, true, false, RANDOM, 0},
    {H, 1, 1, 512, 4096, 4096, false, false, true, RANDOM, 0},
    {H, 16, 8, 40, 4096, 4096, false, false, true, RANDOM, 0},
    {H, 16, 8, 80, 1024, 1024, false, false, true, RANDOM, 0},
    {H, 16, 8, 160, 256, 256, false, false, true, RANDOM, 0},
    {H, 16, 8, 40, 4096, 77, false, true, false, RANDOM, 0},
    {H, 16, 8, 80, 1024, 77, false, true, false, RANDOM, 0},
    {H, 2, 5, 64, 4096, 4096, false, false, true, RANDOM, 0},
    {B, 2, 8, 40, 4096, 4096, false, false, true, RANDOM, 0},
};

} // namespace

int main(int argc, char **argv) {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0)
        return 77; /* skipped: there is no GPU */
    const char *what = argc > 1 ? argv[1] : "all";
    int bad = 0, count = 0;
    if (strcmp(what, "time")) {
        for (const test &t : checks) {
            bad += !check(t);
            count++;
        }
        printf("%d of %d tests failed\n", bad, count);
    }
    if (strcmp(what, "check"))
        for (const test &t : timings)
            time_one(t);
    return bad != 0;
}
