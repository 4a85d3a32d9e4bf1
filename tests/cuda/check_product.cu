/* Checks cuda_product_sm90 against a naive product in float64, its independence of the batch, and times it.
 *
 *   check_product [check] [time] [tune]
 *
 * Results are poisoned first (NaN) and fenced; every choice of tiles must give the same bits. */
#include "cuda/product_sm90.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <algorithm>
#include <vector>

#define CHECK(call)                                                                                                    \
    do {                                                                                                               \
        const cudaError_t status_ = (call);                                                                            \
        if (status_ != cudaSuccess) {                                                                                  \
            printf("%s:%d: %s\n", __FILE__, __LINE__, cudaGetErrorString(status_));                                    \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

enum { FENCE = 4096 };

static __device__ float load(const void *x, size_t i, bool bf16) {
    return bf16 ? __bfloat162float(((const __nv_bfloat16 *)x)[i]) : __half2float(((const __half *)x)[i]);
}

static __device__ void save(void *x, size_t i, bool bf16, float v) {
    if (bf16)
        ((__nv_bfloat16 *)x)[i] = __float2bfloat16(v);
    else
        ((__half *)x)[i] = __float2half(v);
}

static __device__ uint32_t hash(uint64_t x) {
    x = (x ^ (x >> 31)) * 0x7fb5d329728ea185ull;
    x = (x ^ (x >> 27)) * 0x81dadef4bc2dd44dull;
    return (uint32_t)(x >> 32);
}

/* About normal, of deviation `scale` around `mean`; with levels, multiples of scale / 4. */
static __global__ void fill(void *x, size_t count, bool bf16, uint64_t seed, float scale, float mean, bool levels) {
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < count; i += (size_t)gridDim.x * blockDim.x) {
        const uint32_t a = hash(2 * (i + (seed << 40)) + 1), b = hash(2 * (i + (seed << 40)));
        float v = ((a & 0xffff) + (a >> 16) + (b & 0xffff) + (b >> 16)) / 65536.0f - 2.0f;
        v = levels ? (float)((int)(a % 9) - 4) * 0.25f : v * 1.732f;
        save(x, i, bf16, v * scale + mean);
    }
}

static __global__ void fill_f32(float *x, size_t count, uint64_t seed) {
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < count; i += (size_t)gridDim.x * blockDim.x)
        x[i] = (float)(hash(i + (seed << 40)) % 2001) / 1000.0f - 1.0f;
}

/* [n][3][3][c] -> [phase][n][2][2][c] behind it. */
static __global__ void fold(void *w, int n, int c, bool bf16) {
    const size_t count = (size_t)16 * n * c, from = (size_t)9 * n * c;
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < count; i += (size_t)gridDim.x * blockDim.x) {
        const int channel = i % c, tap = i / c % 4, phase = i / ((size_t)4 * c * n);
        const size_t out = i / (4 * c) % n;
        float sum = 0;
        for (int r = 0; r < 3; r++)
            for (int s = 0; s < 3; s++) /* row r of the kernel reads low row (r + py - 1) >> 1, from -1 or 0 on */
                if (((r + (phase >> 1) + 1) >> 1) - (phase >> 1) == tap >> 1 &&
                    ((s + (phase & 1) + 1) >> 1) - (phase & 1) == (tap & 1))
                    sum += load(w, (out * 9 + r * 3 + s) * c + channel, bf16);
        save(w, from + i, bf16, sum);
    }
}

static __device__ double dot(const struct cuda_product &p, size_t pixel, int row, bool bf16) {
    const int pixels = p.out_height * p.out_width, n = pixel / pixels, h = pixel % pixels / p.out_width,
              w = pixel % p.out_width, channels = p.channels[0] + p.channels[1], lane = threadIdx.x % 32;
    double sum = 0;
    for (int r = 0; r < p.kernel; r++) {
        for (int s = 0; s < p.kernel; s++) {
            int y = h * p.stride + r - p.pad_before, x = w * p.stride + s - p.pad_before;
            if (p.upsample) {
                if (y < 0 || x < 0 || y >= p.out_height || x >= p.out_width)
                    continue;
                y >>= 1;
                x >>= 1;
            }
            if (y < 0 || x < 0 || y >= p.in_height || x >= p.in_width)
                continue;
            const size_t from = ((size_t)n * p.in_height + y) * p.in_width + x;
            const size_t weight = ((size_t)row * p.kernel * p.kernel + r * p.kernel + s) * channels;
            for (int c = lane; c < channels; c += 32) {
                const float v = c < p.channels[0] ? load(p.x[0], from * p.channels[0] + c, bf16)
                                                  : load(p.x[1], from * p.channels[1] + c - p.channels[0], bf16);
                sum += (double)v * load(p.weight, weight + c, bf16);
            }
        }
    }
    for (int i = 16; i; i /= 2)
        sum += __shfl_xor_sync(0xffffffff, sum, i);
    return sum + (p.bias ? p.bias[row] : 0.0f);
}

static __device__ double act(int kind, double x) {
    switch (kind) {
    case ASDM_ACT_SILU:
        return x / (1 + exp(-x));
    case ASDM_ACT_GELU:
        return x * 0.5 * erfc(-x * 0.70710678118654752);
    case ASDM_ACT_GELU_TANH:
        return 0.5 * x * (1 + tanh(0.79788456080286536 * (x + 0.044715 * x * x * x)));
    case ASDM_ACT_QUICK_GELU:
        return x / (1 + exp(-1.702 * x));
    case ASDM_ACT_RELU:
        return x > 0 ? x : 0;
    default:
        return x;
    }
}

/* sums: squared error, squared reference, values that are not finite. A warp per sampled output; `old`: the residual.
 */
static __global__ void compare(struct cuda_product p, const void *old, size_t total, size_t samples, double *sums) {
    const bool bf16 = p.dtype == CUDA_BF16;
    for (size_t i = (blockIdx.x * (size_t)blockDim.x + threadIdx.x) / 32; i < samples;
         i += (size_t)gridDim.x * blockDim.x / 32) {
        const size_t at = samples == total ? i : (hash(i) * (uint64_t)1048576 + hash(i + samples)) % total;
        const size_t pixel = at / p.out_channels;
        const int c = at % p.out_channels;
        double v;
        if (p.geglu) {
            const int row = c / 8 * 16 + c % 8;
            v = dot(p, pixel, row, bf16);
            v *= act(ASDM_ACT_GELU, dot(p, pixel, row + 8, bf16));
        } else {
            v = act(p.activation, dot(p, pixel, c, bf16));
        }
        if (p.residual)
            v += load(old, at, bf16);
        const double got = load(p.y, at, bf16);
        if (threadIdx.x % 32 == 0) {
            atomicAdd(&sums[0], isfinite(got) ? (got - v) * (got - v) : 0.0);
            atomicAdd(&sums[1], v * v);
            atomicAdd(&sums[2], isfinite(got) ? 0.0 : 1.0);
        }
    }
}

static __global__ void count_nan(const void *x, size_t count, bool bf16, double *sum) {
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < count; i += (size_t)gridDim.x * blockDim.x)
        if (!isfinite(load(x, i, bf16)))
            atomicAdd(sum, 1.0);
}

/* ---- a case */

struct op {
    const char *name;
    int height, width, c0, c1, n, kernel, stride, pad0, pad1; /* height and width of y */
    bool up, geglu;
    int act;
    bool residual, bias;
    bool bf16;
};

struct data {
    struct cuda_product p;
    std::vector<void *> owned;
    size_t y_bytes, x_bytes[2], weight_bytes;
    void *old;
};

static void *device_alloc(data &d, size_t bytes) {
    void *p;
    CHECK(cudaMalloc(&p, bytes));
    d.owned.push_back(p);
    return p;
}

static void create(data &d, const op &o, int rows, size_t weight_room) {
    struct cuda_product &p = d.p;
    memset(&p, 0, sizeof p);
    p.dtype = o.bf16 ? CUDA_BF16 : CUDA_F16;
    p.rows = rows;
    p.out_height = o.height;
    p.out_width = o.width;
    p.in_height = o.up ? o.height / 2 : (o.height - 1) * o.stride + o.kernel - o.pad1 + (o.stride - 2) * o.pad0;
    p.in_width = o.up ? o.width / 2 : (o.width - 1) * o.stride + o.kernel - o.pad1 + (o.stride - 2) * o.pad0;
    p.channels[0] = o.c0;
    p.channels[1] = o.c1;
    p.out_channels = o.n;
    p.kernel = o.kernel;
    p.stride = o.stride;
    p.pad_before = o.pad0;
    p.pad_after = o.pad1;
    p.upsample = o.up;
    p.geglu = o.geglu;
    p.activation = (enum asdm_activation)o.act;
    const size_t in = (size_t)rows * p.in_height * p.in_width, out = (size_t)rows * o.height * o.width;
    const size_t weights = cuda_product_rows(&p) * cuda_product_depth(&p);
    for (int i = 0; i < 2 && p.channels[i]; i++) {
        d.x_bytes[i] = in * p.channels[i] * 2;
        p.x[i] = device_alloc(d, d.x_bytes[i]);
        fill<<<1024, 256>>>((void *)p.x[i], in * p.channels[i], o.bf16, 1 + i, 1.0f, 0.25f, false);
    }
    d.weight_bytes = (weights * 2 * (o.up ? 25 : 9) / 9 + 1023) / 1024 * 1024;
    void *w = device_alloc(d, std::max(d.weight_bytes, weight_room));
    for (size_t at = 0; at == 0 || at + d.weight_bytes <= weight_room; at += d.weight_bytes) {
        fill<<<1024, 256>>>((char *)w + at, weights, o.bf16, 3 + at,
                            o.up ? 0.0625f : 1.0f / sqrtf((float)cuda_product_depth(&p)), 0.0f, o.up);
        if (o.up)
            fold<<<1024, 256>>>((char *)w + at, o.n, o.c0, o.bf16);
    }
    p.weight = w;
    if (o.bias) {
        float *bias = (float *)device_alloc(d, cuda_product_rows(&p) * 4);
        fill_f32<<<64, 256>>>(bias, cuda_product_rows(&p), 5);
        p.bias = bias;
    }
    d.y_bytes = out * o.n * 2;
    p.y = (char *)device_alloc(d, d.y_bytes + 2 * FENCE) + FENCE;
    d.old = o.residual ? device_alloc(d, d.y_bytes) : nullptr;
    if (o.residual)
        fill<<<1024, 256>>>(d.old, out * o.n, o.bf16, 7, 1.0f, 0.0f, false);
    CHECK(cudaDeviceSynchronize());
}

static void destroy(data &d) {
    for (void *p : d.owned)
        CHECK(cudaFree(p));
}

/* Poisons, runs (`choice` or the built-in one), and looks at the fences. In place: the residual is y. */
static bool run_once(data &d, const struct cuda_product_choice *choice, bool in_place) {
    struct cuda_product &p = d.p;
    char *y = (char *)p.y;
    CHECK(cudaMemset(y - FENCE, 0xff, d.y_bytes + 2 * FENCE));
    p.residual = d.old;
    if (d.old && in_place) {
        CHECK(cudaMemcpy(y, d.old, d.y_bytes, cudaMemcpyDeviceToDevice));
        p.residual = y;
    }
    p.choice = choice;
    CHECK(cuda_product_sm90(&p, 0));
    p.choice = nullptr;
    CHECK(cudaDeviceSynchronize());
    std::vector<unsigned char> fence(2 * FENCE);
    CHECK(cudaMemcpy(fence.data(), y - FENCE, FENCE, cudaMemcpyDeviceToHost));
    CHECK(cudaMemcpy(fence.data() + FENCE, y + d.y_bytes, FENCE, cudaMemcpyDeviceToHost));
    return std::all_of(fence.begin(), fence.end(), [](unsigned char c) { return c == 0xff; });
}

static int failures;

static void fail(const op &o, const char *what, const struct cuda_product_choice &c) {
    if (failures++ < 40)
        printf("FAIL %-28s %s: width %d chunks %d spread %d\n", o.name, what, c.width, c.chunks, c.spread);
}

static double error_of(data &d, size_t *nan) {
    static double *sums;
    if (!sums)
        CHECK(cudaMalloc(&sums, 4 * sizeof(double)));
    CHECK(cudaMemset(sums, 0, 4 * sizeof(double)));
    const size_t total = d.y_bytes / 2;
    compare<<<2048, 128>>>(d.p, d.old, total, std::min(total, (size_t)30000), sums);
    count_nan<<<1024, 256>>>(d.p.y, total, d.p.dtype == CUDA_BF16, sums + 3);
    double host[4];
    CHECK(cudaMemcpy(host, sums, sizeof host, cudaMemcpyDeviceToHost));
    *nan = (size_t)host[3];
    return sqrt(host[0] / fmax(host[1], 1e-30));
}

/* Every choice against the reference and, bit for bit, against the first; then fewer rows against more. */
static void check(const op &o, const std::vector<int> &row_counts) {
    std::vector<char> first, bytes;
    double worst = 0;
    int tried = 0;
    const double bound = o.bf16 ? 6e-3 : 8e-4;
    for (size_t i = 0; i < row_counts.size(); i++) {
        data d = {};
        create(d, o, row_counts[i], 0);
        if (!cuda_product_sm90_fits(&d.p)) {
            printf("     %-28s does not fit\n", o.name);
            destroy(d);
            return;
        }
        struct cuda_product_choice all[32];
        const int count = cuda_product_sm90_candidates(&d.p, 0, all, 32);
        for (int k = -1; k < count; k++) {
            const struct cuda_product_choice c = k < 0 ? cuda_product_sm90_choice(&d.p) : all[k];
            if (!run_once(d, k < 0 ? nullptr : &c, k % 2 != 0))
                fail(o, "fence", c);
            bytes.resize(d.y_bytes);
            CHECK(cudaMemcpy(bytes.data(), d.p.y, d.y_bytes, cudaMemcpyDeviceToHost));
            if (k < 0) {
                size_t nan = 0;
                const double error = error_of(d, &nan);
                worst = fmax(worst, error);
                if (!(error < bound) || nan) {
                    printf("error %.2e, %zu nan\n", error, nan);
                    fail(o, "error", c);
                }
            }
            if (first.empty())
                first = bytes;
            if (memcmp(first.data(), bytes.data(), std::min(first.size(), bytes.size())))
                fail(o, "bits", c);
            tried++;
        }
        /* Tiles for these rows, whatever the order of the sum. */
        size_t nan = 0;
        d.p.batch_dependent = true;
        const struct cuda_product_choice c = cuda_product_sm90_choice(&d.p);
        if (!run_once(d, nullptr, false))
            fail(o, "fence, batch-dependent", c);
        const double error = error_of(d, &nan);
        if (!(error < bound) || nan)
            fail(o, "error, batch-dependent", c);
        destroy(d);
    }
    printf("ok?  %-28s error %.2e, %d runs\n", o.name, worst, tried);
}

/* ---- time */

/* Microseconds of one launch in a graph of many; the weights are other ones each time, too many for the L2 cache. */
static double time_of(data &d, const struct cuda_product_choice *choice, size_t weight_room, int launches) {
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaEvent_t events[6];
    CHECK(cudaStreamCreate(&stream));
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    struct cuda_product p = d.p;
    p.residual = d.old;
    p.choice = choice;
    size_t at = 0;
    cudaError_t status = cudaSuccess;
    for (int i = 0; i < launches && status == cudaSuccess; i++) {
        p.weight = (const char *)d.p.weight + at;
        at = at + 2 * d.weight_bytes <= weight_room ? at + d.weight_bytes : 0;
        status = cuda_product_sm90(&p, stream);
    }
    CHECK(cudaStreamEndCapture(stream, &graph));
    if (status != cudaSuccess)
        return 1e9;
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    for (cudaEvent_t &event : events)
        CHECK(cudaEventCreate(&event));
    CHECK(cudaGraphLaunch(exec, stream));
    for (int i = 0; i < 6; i++) {
        CHECK(cudaEventRecord(events[i], stream));
        if (i < 5)
            CHECK(cudaGraphLaunch(exec, stream));
    }
    CHECK(cudaStreamSynchronize(stream));
    std::vector<float> times(5);
    for (int i = 0; i < 5; i++)
        CHECK(cudaEventElapsedTime(&times[i], events[i], events[i + 1]));
    std::sort(times.begin(), times.end());
    for (cudaEvent_t &event : events)
        CHECK(cudaEventDestroy(event));
    CHECK(cudaGraphExecDestroy(exec));
    CHECK(cudaGraphDestroy(graph));
    CHECK(cudaStreamDestroy(stream));
    return times[2] * 1000.0 / launches;
}

static void time_case(const op &o, int rows, bool tune) {
    const size_t room = (size_t)96 << 20;
    data d = {};
    create(d, o, rows, room);
    const double flop =
        2.0 * rows * o.height * o.width * cuda_product_rows(&d.p) * cuda_product_depth(&d.p) * (o.up ? 4.0 / 9 : 1);
    const int launches = flop > 1e11 ? 6 : 24;
    struct cuda_product_choice c = cuda_product_sm90_choice(&d.p);
    const double us = time_of(d, nullptr, room, launches);
    printf("%-24s x%-2d %8.2f us %5.0f TF/s  %3d/%d/%d/%d", o.name, rows, us, flop / us * 1e-6, c.width, c.chunks,
           c.spread, c.alternate);
    d.p.batch_dependent = true;
    c = cuda_product_sm90_choice(&d.p);
    printf("  batch-dependent %8.2f us %3d/%d/%d", time_of(d, nullptr, room, launches), c.width, c.chunks, c.spread);
    d.p.batch_dependent = false;
    for (int chunks = 1; tune && chunks <= 8; chunks *= 2) {
        struct cuda_product_choice all[32], best = {};
        double best_us = 1e8;
        const int count = cuda_product_sm90_candidates(&d.p, chunks, all, 32);
        for (int i = 0; i < count; i++) {
            const double t = time_of(d, &all[i], room, launches);
            if (t < best_us) {
                best_us = t;
                best = all[i];
            }
        }
        if (best_us < 1e8)
            printf(" | %d/%d/%d %.2f", best.width, best.chunks, best.spread, best_us);
    }
    printf("\n");
    fflush(stdout);
    destroy(d);
}

/* name, height, width, c0, c1, n, kernel, stride, pads, up, geglu, act, residual, bias, bf16 */
static const op check_ops[] = {
    {"linear 77x768->768", 1, 77, 768, 0, 768, 1, 1, 0, 0, false, false, 0, true, true, false},
    {"linear 77x768->3072 quick", 1, 77, 768, 0, 3072, 1, 1, 0, 0, false, false, ASDM_ACT_QUICK_GELU, false, true,
     false},
    {"linear 1x320->1280 silu", 1, 1, 320, 0, 1280, 1, 1, 0, 0, false, false, ASDM_ACT_SILU, false, true, false},
    {"linear 256x1280->1280", 16, 16, 1280, 0, 1280, 1, 1, 0, 0, false, false, 0, true, true, false},
    {"linear 64x1280->1280", 8, 8, 1280, 0, 1280, 1, 1, 0, 0, false, false, 0, true, true, false},
    {"linear 64x5120->1280", 8, 8, 5120, 0, 1280, 1, 1, 0, 0, false, false, 0, true, true, false},
    {"geglu 256x1280->5120", 16, 16, 1280, 0, 5120, 1, 1, 0, 0, false, true, 0, false, true, false},
    {"geglu 1000x320->1280 res", 1, 1000, 320, 0, 1280, 1, 1, 0, 0, false, true, 0, true, true, false},
    {"geglu 63x64->40", 9, 7, 64, 0, 40, 1, 1, 0, 0, false, true, 0, false, true, false},
    {"two sources 1280+640->640", 32, 32, 1280, 640, 640, 1, 1, 0, 0, false, false, 0, false, true, false},
    {"two sources 64+128->72", 5, 13, 64, 128, 72, 1, 1, 0, 0, false, false, ASDM_ACT_GELU, true, true, false},
    {"linear 40->24 tanh", 3, 41, 40, 0, 24, 1, 1, 0, 0, false, false, ASDM_ACT_GELU_TANH, false, false, false},
    {"conv 320->320@64", 64, 64, 320, 0, 320, 3, 1, 1, 1, false, false, 0, true, true, false},
    {"conv 640->640@32", 32, 32, 640, 0, 640, 3, 1, 1, 1, false, false, 0, true, true, false},
    {"conv 1280->1280@16", 16, 16, 1280, 0, 1280, 3, 1, 1, 1, false, false, 0, true, true, false},
    {"conv 2560->1280@8", 8, 8, 2560, 0, 1280, 3, 1, 1, 1, false, false, 0, false, true, false},
    {"conv 320->4@64", 64, 64, 320, 0, 4, 3, 1, 1, 1, false, false, 0, false, true, false},
    {"conv 128->3@40x56 res", 40, 56, 128, 0, 3, 3, 1, 1, 1, false, false, 0, true, true, false},
    {"conv 8->320@64", 64, 64, 8, 0, 320, 3, 1, 1, 1, false, false, 0, false, true, false},
    {"conv 72->88@9x13", 9, 13, 72, 0, 88, 3, 1, 1, 1, false, false, ASDM_ACT_SILU, true, true, false},
    {"conv 64->64@1x1", 1, 1, 64, 0, 64, 3, 1, 1, 1, false, false, 0, false, true, false},
    {"conv 192->192@5x1", 5, 1, 192, 0, 192, 3, 1, 1, 1, false, false, ASDM_ACT_RELU, false, true, false},
    {"conv /2 320->320@32", 32, 32, 320, 0, 320, 3, 2, 1, 1, false, false, 0, false, true, false},
    {"conv /2 0,1 128->128@50x34", 50, 34, 128, 0, 128, 3, 2, 0, 1, false, false, 0, false, true, false},
    {"up 1280->1280@32", 32, 32, 1280, 0, 1280, 3, 1, 1, 1, true, false, 0, false, true, false},
    {"up 64->72@10x14 res", 10, 14, 64, 0, 72, 3, 1, 1, 1, true, false, 0, true, true, false},
    {"up 96->64@2x2", 2, 2, 96, 0, 64, 3, 1, 1, 1, true, false, 0, false, false, false},
    {"bf16 conv 640->640@32", 32, 32, 640, 0, 640, 3, 1, 1, 1, false, false, 0, true, true, true},
    {"bf16 geglu 256x1280->5120", 16, 16, 1280, 0, 5120, 1, 1, 0, 0, false, true, 0, false, true, true},
};

static const op time_ops[] = {
    {"conv 320->320@64", 64, 64, 320, 0, 320, 3, 1, 1, 1, false, false, 0, true, true, false},
    {"conv 960->320@64", 64, 64, 960, 0, 320, 3, 1, 1, 1, false, false, 0, false, true, false},
    {"conv 640->640@32", 32, 32, 640, 0, 640, 3, 1, 1, 1, false, false, 0, true, true, false},
    {"conv 1920->640@32", 32, 32, 1920, 0, 640, 3, 1, 1, 1, false, false, 0, false, true, false},
    {"conv 1280->1280@16", 16, 16, 1280, 0, 1280, 3, 1, 1, 1, false, false, 0, true, true, false},
    {"conv 2560->1280@16", 16, 16, 2560, 0, 1280, 3, 1, 1, 1, false, false, 0, false, true, false},
    {"conv 1280->1280@8", 8, 8, 1280, 0, 1280, 3, 1, 1, 1, false, false, 0, true, true, false},
    {"conv 2560->1280@8", 8, 8, 2560, 0, 1280, 3, 1, 1, 1, false, false, 0, false, true, false},
    {"conv /2 320->320@32", 32, 32, 320, 0, 320, 3, 2, 1, 1, false, false, 0, false, true, false},
    {"conv 320->4@64", 64, 64, 320, 0, 4, 3, 1, 1, 1, false, false, 0, false, true, false},
    {"up 1280->1280@16", 16, 16, 1280, 0, 1280, 3, 1, 1, 1, true, false, 0, false, true, false},
    {"up 1280->1280@32", 32, 32, 1280, 0, 1280, 3, 1, 1, 1, true, false, 0, false, true, false},
    {"up 640->640@64", 64, 64, 640, 0, 640, 3, 1, 1, 1, true, false, 0, false, true, false},
    {"qkv 320->960@64", 64, 64, 320, 0, 960, 1, 1, 0, 0, false, false, 0, false, false, false},
    {"linear 320->320@64", 64, 64, 320, 0, 320, 1, 1, 0, 0, false, false, 0, true, true, false},
    {"geglu 320->1280@64", 64, 64, 320, 0, 1280, 1, 1, 0, 0, false, true, 0, false, true, false},
    {"linear 1280->320@64", 64, 64, 1280, 0, 320, 1, 1, 0, 0, false, false, 0, true, true, false},
    {"shortcut 640+320->320@64", 64, 64, 640, 320, 320, 1, 1, 0, 0, false, false, 0, false, true, false},
    {"qkv 640->1920@32", 32, 32, 640, 0, 1920, 1, 1, 0, 0, false, false, 0, false, false, false},
    {"linear 640->640@32", 32, 32, 640, 0, 640, 1, 1, 0, 0, false, false, 0, true, true, false},
    {"geglu 640->2560@32", 32, 32, 640, 0, 2560, 1, 1, 0, 0, false, true, 0, false, true, false},
    {"linear 2560->640@32", 32, 32, 2560, 0, 640, 1, 1, 0, 0, false, false, 0, true, true, false},
    {"qkv 1280->3840@16", 16, 16, 1280, 0, 3840, 1, 1, 0, 0, false, false, 0, false, false, false},
    {"linear 1280->1280@16", 16, 16, 1280, 0, 1280, 1, 1, 0, 0, false, false, 0, true, true, false},
    {"geglu 1280->5120@16", 16, 16, 1280, 0, 5120, 1, 1, 0, 0, false, true, 0, false, true, false},
    {"linear 5120->1280@16", 16, 16, 5120, 0, 1280, 1, 1, 0, 0, false, false, 0, true, true, false},
};

static const op vae_ops[] = {
    {"conv 512->512@64", 64, 64, 512, 0, 512, 3, 1, 1, 1, false, false, 0, true, true, false},
    {"conv 512->512@128", 128, 128, 512, 0, 512, 3, 1, 1, 1, false, false, 0, true, true, false},
    {"conv 256->256@256", 256, 256, 256, 0, 256, 3, 1, 1, 1, false, false, 0, true, true, false},
    {"conv 128->128@512", 512, 512, 128, 0, 128, 3, 1, 1, 1, false, false, 0, true, true, false},
    {"conv 128->3@512", 512, 512, 128, 0, 3, 3, 1, 1, 1, false, false, 0, false, true, false},
    {"up 512->512@256", 256, 256, 512, 0, 512, 3, 1, 1, 1, true, false, 0, false, true, false},
};

int main(int argc, char **argv) {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0)
        return 77; /* skipped: there is no GPU */
    bool checks = false, times = false, tune = false;
    for (int i = 1; i < argc; i++) {
        checks |= !strcmp(argv[i], "check");
        times |= !strcmp(argv[i], "time");
        tune |= !strcmp(argv[i], "tune");
    }
    if (checks) {
        for (const op &o : check_ops)
            check(o, o.height * o.width <= 256 ? std::vector<int>{16, 8, 4, 2, 1} : std::vector<int>{4, 1, 2});
        printf("%d failures\n", failures);
        fflush(stdout);
    }
    if (times || tune) {
        for (const op &o : time_ops)
            time_case(o, 2, tune);
        for (const op &o : time_ops)
            time_case(o, 16, tune);
        for (const op &o : vae_ops)
            time_case(o, 1, tune);
    }
    return failures != 0;
}
