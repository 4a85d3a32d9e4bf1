/* Checks simple.cu, norm.cu and product.cu against double-precision references, and times the norms.
 *
 *   nvcc -std=c++17 -O2 -arch=sm_90 -I engine -I include tests/cuda/check_simple.cu
 * engine/cuda/{simple,norm,product}.cu check_simple [check | small | time]     (default: check and time)
 *
 * Results and scratch are poisoned before each launch (NaN in every type), and guard bytes behind each result must
 * survive. A row's bytes must not depend on the number of rows. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <functional>
#include <thread>
#include <numeric>
#include <vector>

#include "cuda/launch.cuh"

#define CHECK(call)                                                                                                    \
    do {                                                                                                               \
        cudaError_t status_ = (call);                                                                                  \
        if (status_ != cudaSuccess) {                                                                                  \
            printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(status_));                         \
            exit(2);                                                                                                   \
        }                                                                                                              \
    } while (0)

namespace {

enum { GUARD = 256, POISON = 0xff };
const char *const DTYPE_NAMES[] = {"fp16", "bf16", "fp32"};
int failures, checks;
cudaStream_t main_stream;
bool small_only; /* few and small cases, for compute-sanitizer */

/* ---- numbers */

uint64_t seed = 88172645463325252ull;
double uniform() {
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    return (double)(seed >> 11) / 9007199254740992.0;
}
/* Sum of four uniforms: near enough to normal, of variance 1. */
float normal() {
    return (float)((uniform() + uniform() + uniform() + uniform() - 2.0) * 1.7320508);
}

/* Calls body(0 .. count - 1) from several threads. */
void parallel(size_t count, const std::function<void(size_t)> &body) {
    std::vector<std::thread> threads;
    const size_t parts = std::thread::hardware_concurrency();
    for (size_t part = 0; part < parts; part++)
        threads.emplace_back([&, part] {
            for (size_t i = part * count / parts; i < (part + 1) * count / parts; i++)
                body(i);
        });
    for (std::thread &thread : threads)
        thread.join();
}

size_t size_of(enum cuda_dtype dtype) {
    return dtype == CUDA_F32 ? 4 : 2;
}
float round_to(enum cuda_dtype dtype, float x) {
    if (dtype == CUDA_F16)
        return __half2float(__float2half(x));
    return dtype == CUDA_BF16 ? __bfloat162float(__float2bfloat16(x)) : x;
}

/* A device array in some type with its values on the host (rounded to it). */
struct array {
    enum cuda_dtype dtype;
    std::vector<float> values;
    void *device;

    array(enum cuda_dtype type, size_t count) : dtype(type), values(count), device(NULL) {
        CHECK(cudaMalloc(&device, count * size_of(type) + GUARD));
        poison();
    }
    array(const array &) = delete;
    ~array() {
        cudaFree(device);
    }
    void poison() {
        CHECK(cudaMemset(device, POISON, bytes() + GUARD));
        CHECK(cudaDeviceSynchronize());
    }
    size_t bytes() const {
        return values.size() * size_of(dtype);
    }
    void upload() {
        std::vector<unsigned char> raw(bytes());
        parallel(values.size(), [&](size_t i) {
            values[i] = round_to(dtype, values[i]);
            if (dtype == CUDA_F16)
                ((__half *)raw.data())[i] = __float2half(values[i]);
            else if (dtype == CUDA_BF16)
                ((__nv_bfloat16 *)raw.data())[i] = __float2bfloat16(values[i]);
            else
                ((float *)raw.data())[i] = values[i];
        });
        CHECK(cudaMemcpy(device, raw.data(), raw.size(), cudaMemcpyHostToDevice));
    }
    std::vector<unsigned char> raw() const {
        std::vector<unsigned char> bytes_(bytes() + GUARD);
        CHECK(cudaMemcpy(bytes_.data(), device, bytes_.size(), cudaMemcpyDeviceToHost));
        return bytes_;
    }
    void fill(float scale, float mean) {
        for (float &v : values)
            v = normal() * scale + mean;
        upload();
    }
};

float value_at(enum cuda_dtype dtype, const unsigned char *raw, size_t i) {
    if (dtype == CUDA_F16)
        return __half2float(((const __half *)raw)[i]);
    return dtype == CUDA_BF16 ? __bfloat162float(((const __nv_bfloat16 *)raw)[i]) : ((const float *)raw)[i];
}

/* Compares a result to its reference: |y - ref| <= relative(type) * |ref| + absolute; where half has no more exponents,
 * to half of its smallest number. Prints failures only. */
void compare(const char *name, const array &y, const std::vector<double> &ref, double absolute) {
    absolute += y.dtype == CUDA_F16 ? 0x1p-25 : 0;
    const double relative = y.dtype == CUDA_F16 ? 1.05 / 2048 : y.dtype == CUDA_BF16 ? 1.05 / 256 : 2e-6;
    const std::vector<unsigned char> raw = y.raw();
    size_t bad = 0, first = 0;
    double error = 0, norm = 0, worst = 0;
    for (size_t i = 0; i < ref.size(); i++) {
        const double v = value_at(y.dtype, raw.data(), i), d = fabs(v - ref[i]);
        error += d * d, norm += ref[i] * ref[i];
        worst = fmax(worst, d);
        if (!(d <= relative * fabs(ref[i]) + absolute)) {
            if (!bad++)
                first = i;
        }
    }
    bool guard = true;
    for (size_t i = 0; i < GUARD; i++)
        guard = guard && raw[y.bytes() + i] == POISON;
    checks++;
    if (bad || !guard || ref.size() != y.values.size()) {
        failures++;
        printf("FAIL %s %s: %zu of %zu, first [%zu] %g for %g; worst %.3g; relative L2 %.3g%s\n", name,
               DTYPE_NAMES[y.dtype], bad, ref.size(), first, value_at(y.dtype, raw.data(), first), ref[first], worst,
               sqrt(error / (norm + 1e-300)), guard ? "" : "; wrote past the end");
    }
}

void compare_bytes(const char *name, const void *a, const void *b, size_t bytes) {
    std::vector<unsigned char> x(bytes), y(bytes);
    CHECK(cudaMemcpy(x.data(), a, bytes, cudaMemcpyDeviceToHost));
    CHECK(cudaMemcpy(y.data(), b, bytes, cudaMemcpyDeviceToHost));
    checks++;
    if (memcmp(x.data(), y.data(), bytes)) {
        failures++;
        printf("FAIL %s: a row's bytes depend on the number of rows\n", name);
    }
}

double activation_of(enum asdm_activation activation, double x) {
    switch (activation) {
    case ASDM_ACT_SILU:
        return x / (1 + exp(-x));
    case ASDM_ACT_GELU:
        return 0.5 * x * erfc(-x * 0.70710678118654752440);
    case ASDM_ACT_GELU_TANH:
        return 0.5 * x * (1 + tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x)));
    case ASDM_ACT_QUICK_GELU:
        return x / (1 + exp(-1.702 * x));
    case ASDM_ACT_RELU:
        return x > 0 ? x : 0;
    case ASDM_ACT_NONE:
        break;
    }
    return x;
}

/* ---- simple.cu */

void check_import_export(enum cuda_dtype dtype, int rows, int tokens, int channels, bool nchw) {
    const size_t count = (size_t)rows * tokens * channels;
    array x(CUDA_F32, count), y(dtype, count), z(CUDA_F32, count);
    x.fill(1, 0);
    CHECK(cuda_import(dtype, (const float *)x.device, y.device, rows, tokens, channels, nchw, main_stream));
    CHECK(cuda_export(dtype, y.device, (float *)z.device, rows, tokens, channels, nchw, main_stream));
    std::vector<double> ref(count), back(count);
    for (size_t i = 0; i < count; i++) {
        const size_t row = i / ((size_t)tokens * channels), token = i / channels % tokens, c = i % channels;
        ref[i] = x.values[nchw ? (row * channels + c) * tokens + token : i];
        back[i] = round_to(dtype, x.values[i]);
    }
    compare("import", y, ref, 0);
    compare("export", z, back, 0);
}

void check_embedding(enum cuda_dtype dtype, int rows, int tokens, int channels) {
    array table(dtype, (size_t)50 * channels), positions(dtype, (size_t)tokens * channels);
    array y(dtype, (size_t)rows * tokens * channels);
    table.fill(1, 0), positions.fill(1, 0);
    std::vector<int32_t> ids((size_t)rows * tokens);
    for (int32_t &id : ids)
        id = (int32_t)(uniform() * 50);
    array device_ids(CUDA_F32, ids.size()); /* four bytes each */
    CHECK(cudaMemcpy(device_ids.device, ids.data(), ids.size() * 4, cudaMemcpyHostToDevice));
    CHECK(cuda_embedding(dtype, (const int32_t *)device_ids.device, table.device, positions.device, y.device, rows,
                         tokens, channels, main_stream));
    std::vector<double> ref(y.values.size());
    for (size_t i = 0; i < ref.size(); i++)
        ref[i] = table.values[(size_t)ids[i / channels] * channels + i % channels] +
                 (double)positions.values[i / channels % tokens * channels + i % channels];
    compare("embedding", y, ref, 1e-7);
}

void check_timestep(enum cuda_dtype dtype, int channels, bool flip, float shift) {
    const float times[] = {0, 1, 999, 1000, 481.37f};
    const int half = channels / 2;
    array t(CUDA_F32, 5), y(dtype, (size_t)5 * channels);
    t.values.assign(times, times + 5);
    t.upload();
    CHECK(cuda_timestep_embedding(dtype, (const float *)t.device, y.device, 5, channels, flip, shift, main_stream));
    std::vector<double> ref(y.values.size());
    for (int row = 0; row < 5; row++)
        for (int i = 0; i < half; i++) {
            const double angle = times[row] * exp(-log(10000.0) * i / (half - (double)shift));
            ref[(size_t)row * channels + (flip ? half + i : i)] = sin(angle);
            ref[(size_t)row * channels + (flip ? i : half + i)] = cos(angle);
        }
    compare("timestep embedding", y, ref, 1e-7);
}

void check_flat(enum cuda_dtype dtype, size_t count) {
    array x(dtype, count), r(dtype, count), y(dtype, count);
    std::vector<double> ref(count);
    x.fill(4, 0), r.fill(1, 0);
    x.values[0] = -30, x.values[count - 1] = 40, x.values[count / 2] = -11;
    x.upload();
    for (int a = ASDM_ACT_NONE; a <= ASDM_ACT_RELU; a++) {
        y.poison();
        CHECK(cuda_activation(dtype, (enum asdm_activation)a, x.device, y.device, count, main_stream));
        for (size_t i = 0; i < count; i++)
            ref[i] = activation_of((enum asdm_activation)a, x.values[i]);
        compare("activation", y, ref, dtype == CUDA_F32 ? 2e-6 : 4e-6);
    }
    y.poison();
    CHECK(cuda_add(dtype, x.device, r.device, y.device, count, main_stream));
    for (size_t i = 0; i < count; i++)
        ref[i] = (double)x.values[i] + r.values[i];
    compare("add", y, ref, 0);
}

void check_tokens(enum cuda_dtype dtype, int rows, int tokens, int channels, int channels2) {
    const size_t all = (size_t)rows * tokens;
    array x(dtype, all * channels * 2), x2(dtype, all * channels2), bias(dtype, (size_t)2 * channels);
    array y(dtype, all * channels), both(dtype, all * (channels + channels2));
    array map(CUDA_F32, rows);
    std::vector<int32_t> rows_of(rows);
    x.fill(1, 0), x2.fill(1, 0), bias.fill(1, 0);
    for (int i = 0; i < rows; i++)
        rows_of[i] = (i + 1) % 2;
    CHECK(cudaMemcpy(map.device, rows_of.data(), (size_t)rows * 4, cudaMemcpyHostToDevice));
    std::vector<double> ref(all * channels), joined(both.values.size());
    CHECK(cuda_geglu(dtype, x.device, y.device, all, channels, main_stream));
    for (size_t i = 0; i < ref.size(); i++) {
        const size_t token = i / channels, c = i % channels;
        ref[i] =
            x.values[token * 2 * channels + c] * activation_of(ASDM_ACT_GELU, x.values[(token * 2 + 1) * channels + c]);
    }
    compare("geglu", y, ref, 4e-6);
    for (int mapped = 0; mapped < 2; mapped++) {
        if (!mapped && rows > 2)
            continue;
        y.poison();
        CHECK(cuda_add_row_bias(dtype, x.device, bias.device, mapped ? (const int32_t *)map.device : NULL, y.device,
                                rows, tokens, channels, main_stream));
        for (size_t i = 0; i < ref.size(); i++) {
            const size_t row = i / ((size_t)tokens * channels);
            ref[i] = (double)x.values[i] + bias.values[(mapped ? rows_of[row] : row) * channels + i % channels];
        }
        compare("add row bias", y, ref, 0);
    }
    CHECK(cuda_concat(dtype, x.device, x2.device, both.device, all, channels, channels2, main_stream));
    for (size_t i = 0; i < joined.size(); i++) {
        const size_t token = i / (channels + channels2), c = i % (channels + channels2);
        joined[i] = c < (size_t)channels ? x.values[token * channels + c] : x2.values[token * channels2 + c - channels];
    }
    compare("concat", both, joined, 0);
}

void check_upsample(enum cuda_dtype dtype, int rows, int height, int width, int out_height, int out_width,
                    int channels) {
    array x(dtype, (size_t)rows * height * width * channels),
        y(dtype, (size_t)rows * out_height * out_width * channels);
    x.fill(1, 0);
    CHECK(cuda_upsample(dtype, x.device, y.device, rows, height, width, out_height, out_width, channels, main_stream));
    std::vector<double> ref(y.values.size());
    for (size_t e = 0; e < ref.size(); e++) {
        const size_t c = e % channels, j = e / channels % out_width, i = e / channels / out_width % out_height;
        const size_t row = e / channels / out_width / out_height;
        ref[e] = x.values[((row * height + i / 2) * width + j / 2) * channels + c];
    }
    compare("upsample", y, ref, 0);
}

void check_simple() {
    for (int d = CUDA_F16; d <= CUDA_F32; d++) {
        const enum cuda_dtype dtype = (enum cuda_dtype)d;
        for (int nchw = 0; nchw < 2; nchw++) {
            check_import_export(dtype, 2, 4096, 4, nchw);
            check_import_export(dtype, 1, 777, 3, nchw);
            check_import_export(dtype, 3, 65, 8, nchw);
        }
        check_embedding(dtype, 2, 77, 768);
        check_embedding(dtype, 3, 5, 13);
        check_timestep(dtype, 320, true, 0);
        check_timestep(dtype, 33, false, 1);
        check_flat(dtype, 1);
        check_flat(dtype, 1003);
        check_flat(dtype, 65536);
        check_tokens(dtype, 2, 64, 320, 640);
        check_tokens(dtype, 3, 7, 40, 12);
        check_tokens(dtype, 5, 1, 3, 5);
        check_upsample(dtype, 2, 8, 8, 16, 16, 64);
        check_upsample(dtype, 1, 5, 4, 9, 7, 3);
    }
}

/* ---- norm.cu */

struct norm_case {
    int rows, tokens, c0, c1, groups;
    enum asdm_activation activation;
    bool given; /* the moments of the sources' parts, as far as they have any */
    float mean, scale;
};

/* What a launch needs, filled with numbers. */
struct norm_data {
    struct cuda_norm n;
    array x, x2, gain, bias, moments[2], y, scratch;

    static struct cuda_norm sizes(enum cuda_dtype dtype, const norm_case &c) {
        struct cuda_norm n = {};
        n.dtype = dtype, n.rows = c.rows, n.tokens = c.tokens, n.channels[0] = c.c0, n.channels[1] = c.c1;
        n.groups = c.groups, n.eps = 1e-5f, n.activation = c.activation;
        const int group = c.groups ? (c.c0 + c.c1) / c.groups : 0;
        for (int i = 0; i < 2 && c.given && n.channels[i]; i++)
            n.parts[i] = asdm_moments_layout(std::gcd(group, c.c0), n.tokens, n.channels[i]);
        return n;
    }
    static size_t moments_of(const struct cuda_norm &n, int source) {
        return (size_t)n.parts[source].slabs * n.parts[source].granules; /* of a row */
    }
    static size_t scratch_of(const struct cuda_norm &n) {
        return n.groups ? cuda_group_norm_scratch(&n) : 0;
    }
    static cudaError_t launch(const struct cuda_norm &n, cudaStream_t stream) {
        return n.groups ? cuda_group_norm(&n, stream) : cuda_layer_norm(&n, stream);
    }
    norm_data(enum cuda_dtype dtype, const norm_case &c)
        : n(sizes(dtype, c)), x(dtype, (size_t)c.rows * c.tokens * c.c0), x2(dtype, (size_t)c.rows * c.tokens * c.c1),
          gain(CUDA_F32, c.c0 + c.c1), bias(CUDA_F32, c.c0 + c.c1), moments{{CUDA_F32, 2 * c.rows * moments_of(n, 0)},
                                                                            {CUDA_F32, 2 * c.rows * moments_of(n, 1)}},
          y(dtype, (size_t)c.rows * c.tokens * (c.c0 + c.c1)), scratch(CUDA_F32, scratch_of(n) / 4) {
        x.fill(c.scale, c.mean), x2.fill(c.scale, c.mean), gain.fill(0.3f, 1);
        bias.fill(0.3f, 0);
        n.x[0] = x.device, n.x[1] = x2.device, n.y = y.device, n.scratch = scratch.device;
        n.gain = (const float *)gain.device, n.bias = (const float *)bias.device;
    }
    /* When x is as it shall be. */
    void take_moments() {
        for (int i = 0; i < 2; i++) {
            n.moments[i] = (const struct asdm_moments *)moments[i].device;
            if (n.parts[i].granule)
                CHECK(cuda_moments(n.dtype, n.x[i], n.rows, n.channels[i], n.parts[i],
                                   (struct asdm_moments *)moments[i].device, main_stream));
        }
    }
    double value(size_t row, size_t token, size_t c) const {
        const size_t c0 = n.channels[0], at = row * n.tokens + token;
        return c < c0 ? x.values[at * c0 + c] : x2.values[at * n.channels[1] + c - c0];
    }
    /* Normalises tokens [token, token + tokens) x channels [first, first + width) as one set. */
    void reference(std::vector<double> &ref, size_t row, size_t token, size_t tokens, size_t first,
                   size_t width) const {
        const size_t channels = n.channels[0] + n.channels[1];
        double mean = 0, square = 0;
        for (size_t t = token; t < token + tokens; t++)
            for (size_t c = first; c < first + width; c++)
                mean += value(row, t, c);
        mean /= (double)(tokens * width);
        for (size_t t = token; t < token + tokens; t++)
            for (size_t c = first; c < first + width; c++)
                square += (value(row, t, c) - mean) * (value(row, t, c) - mean);
        const double scale = 1 / sqrt(square / (double)(tokens * width) + n.eps);
        for (size_t t = token; t < token + tokens; t++)
            for (size_t c = first; c < first + width; c++)
                ref[(row * n.tokens + t) * channels + c] =
                    activation_of(n.activation, (value(row, t, c) - mean) * scale * gain.values[c] + bias.values[c]);
    }
    std::vector<double> all() const {
        const size_t channels = n.channels[0] + n.channels[1];
        std::vector<double> ref(y.values.size());
        const size_t sets = n.groups ? n.groups : n.tokens, width = channels / (n.groups ? n.groups : 1);
        parallel(sets * n.rows, [&](size_t i) {
            const size_t row = i / sets, set = i % sets;
            if (n.groups)
                reference(ref, row, 0, n.tokens, set * width, width);
            else
                reference(ref, row, set, 1, 0, width);
        });
        return ref;
    }
    /* Each row by itself gives the same bytes. */
    void check_rows(const char *name) {
        const size_t size = size_of(n.dtype), row_y = y.bytes() / n.rows;
        array one(n.dtype, y.values.size() / n.rows);
        for (int row = 0; row<n.rows; row += n.rows> 4 ? 5 : 1) {
            struct cuda_norm single = n;
            single.rows = 1;
            single.x[0] = (const char *)n.x[0] + (size_t)row * n.tokens * n.channels[0] * size;
            single.x[1] = (const char *)n.x[1] + (size_t)row * n.tokens * n.channels[1] * size;
            for (int i = 0; i < 2; i++)
                single.moments[i] = n.moments[i] + row * moments_of(n, i);
            single.y = one.device;
            one.poison(), scratch.poison();
            CHECK(launch(single, main_stream));
            compare_bytes(name, one.device, (const char *)y.device + row * row_y, row_y);
        }
    }
};

void check_norm(enum cuda_dtype dtype, const norm_case &c, bool constant = false) {
    char name[128];
    snprintf(name, sizeof(name), "norm %d x %d x (%d + %d), %d groups, act %d%s%s, mean %g", c.rows, c.tokens, c.c0,
             c.c1, c.groups, c.activation, c.given ? ", given" : "", constant ? ", constant" : "", c.mean);
    norm_data data(dtype, c);
    if (constant) {
        for (float &v : data.x.values)
            v = c.mean;
        data.x.upload();
    }
    data.take_moments();
    CHECK(norm_data::launch(data.n, main_stream));
    CHECK(cudaDeviceSynchronize());
    /* In float32 a value of 1e4 has a grain of 1e-3; of a constant only that grain is left, times 1 / sqrt(eps). */
    const double grain = fabs(c.mean) * 1.2e-7 / (constant ? sqrt(1e-5) : c.scale);
    compare(name, data.y, data.all(), 8e-6 + 4 * grain); /* gains are up to about two */
    data.check_rows(name);
}

void check_norms() {
    const enum asdm_activation none = ASDM_ACT_NONE, silu = ASDM_ACT_SILU;
    const norm_case cases[] = {
        /* resident, alone and in clusters */
        {2, 64, 1280, 0, 32, silu, false, 0, 1},
        {2, 256, 1280, 640, 32, silu, false, 0.5f, 2},
        {2, 64, 1280, 1280, 32, silu, true, 0, 1},
        {2, 1024, 640, 0, 32, silu, true, 3, 1},
        {2, 1024, 640, 320, 32, silu, false, 0, 1},
        {2, 4096, 320, 0, 32, silu, true, 0, 1},
        {3, 4096, 320, 0, 32, none, false, 0, 1},
        {16, 1024, 320, 320, 32, silu, true, 0, 1},
        {2, 4096, 640, 320, 32, silu, false, 0, 1},
        {1, 4096, 512, 0, 32, silu, false, 0, 1},
        {1, 16384, 512, 0, 32, silu, false, 0, 1},
        /* the moments of parts given: two sources, and so many parts that a kernel merges them */
        {2, 256, 1280, 1280, 32, silu, true, 0, 1},
        {2, 1024, 640, 320, 32, silu, true, 3, 1},
        {1, 4096, 512, 0, 8, silu, true, 0, 1},
        {2, 16384, 64, 64, 32, none, true, 1, 1},
        {2, 256, 30, 18, 4, silu, true, 0, 1},
        /* odd numbers of tokens, one token, more blocks than tokens need */
        {2, 1, 320, 0, 32, silu, false, 0, 1},
        {2, 1001, 320, 0, 32, silu, true, 0, 1},
        {2, 4097, 320, 64, 32, silu, true, 0, 1},
        {2, 3, 1280, 0, 32, ASDM_ACT_RELU, false, 0, 1},
        /* two groups in a vector, groups as wide as all channels */
        {2, 100, 128, 0, 32, silu, false, 0, 1},
        {2, 100, 640, 0, 1, none, false, 0, 1},
        {1, 33, 2560, 0, 1, silu, true, 0, 1},
        /* streamed */
        {1, 20000, 256, 0, 32, silu, false, 0, 1},
        {2, 17001, 128, 128, 32, silu, true, 1, 1},
        /* plain */
        {2, 50, 96, 0, 32, silu, false, 0, 1},
        {2, 50, 7, 0, 7, none, true, 0, 1},
        {2, 37, 30, 15, 5, silu, true, 0, 1},
        {2, 300, 64, 0, 64, ASDM_ACT_GELU, false, 0, 1},
        /* layer norm */
        {2, 4096, 320, 0, 0, none, false, 0, 1},
        {2, 1024, 640, 0, 0, none, false, 0, 1},
        {2, 257, 1280, 0, 0, none, false, 2, 1},
        {2, 77, 768, 0, 0, none, false, 0, 1},
        {1, 77, 1024, 0, 0, silu, false, 0, 1},
        {3, 5, 8, 0, 0, none, false, 0, 1},
        {3, 5, 1536, 0, 0, none, false, 0, 1},
        {2, 9, 4096, 0, 0, none, false, 0, 1},
        {3, 11, 13, 0, 0, none, false, 0, 1},
        {2, 7, 24, 40, 0, ASDM_ACT_GELU, true, 0, 1},
    };
    for (int d = CUDA_F16; d <= CUDA_F32; d++)
        for (const norm_case &c : cases)
            if (!small_only || (size_t)c.rows * c.tokens * (c.c0 + c.c1) < 200000)
                check_norm((enum cuda_dtype)d, c);
    for (const int groups : {32, 0, 40}) { /* large means, no variance */
        check_norm(CUDA_F32, {2, 1000, 320, 0, groups, none, false, 1e4f, 1});
        check_norm(CUDA_F32, {2, 1024, 320, 0, groups, none, true, 1e4f, 1});
        check_norm(CUDA_F32, {2, 64, 320, 0, groups, silu, true, -1e4f, 1});
        check_norm(CUDA_F16, {2, 64, 320, 0, groups, silu, false, 1000, 1});
        check_norm(CUDA_F16, {2, 64, 320, 0, groups, silu, false, 3, 1}, true);
        check_norm(CUDA_F32, {2, 64, 320, 0, groups, none, false, 3, 1}, true);
        check_norm(CUDA_BF16, {2, 640, 320, 0, groups, silu, false, 0, 1}, true);
        check_norm(CUDA_BF16, {2, 64, 320, 0, groups, silu, false, 0, 1e4f});
    }
    if (!small_only) {
        check_norm(CUDA_F32, {1, 20000, 256, 0, 32, none, false, 1e4f, 1});
        check_norm(CUDA_F16, {1, 131072, 128, 0, 32, silu, false, 0, 1});
        check_norm(CUDA_F16, {1, 131072, 128, 0, 32, silu, true, 0, 1});
    }
}

/* ---- product.cu */

template <class T> __device__ double element_of(const void *x, size_t i) {
    return (double)cuda_to_float(static_cast<const T *>(x)[i]);
}

/* Sum for pixel m and packed output row n, in double. */
template <class T> __device__ double reference_sum(const struct cuda_product &p, size_t m, size_t n) {
    const size_t j0 = m % p.out_width, i0 = m / p.out_width % p.out_height, row = m / p.out_width / p.out_height;
    const int channels = p.channels[0] + p.channels[1];
    const int height = p.upsample ? p.out_height : p.in_height, width = p.upsample ? p.out_width : p.in_width;
    double sum = p.bias ? p.bias[n] : 0.0;
    for (int di = 0; di < p.kernel; di++)
        for (int dj = 0; dj < p.kernel; dj++) {
            const int i = (int)i0 * p.stride + di - p.pad_before, j = (int)j0 * p.stride + dj - p.pad_before;
            if (i < 0 || j < 0 || i >= height || j >= width)
                continue;
            const size_t at = (row * p.in_height + (p.upsample ? i / 2 : i)) * p.in_width + (p.upsample ? j / 2 : j);
            const size_t w = (n * p.kernel * p.kernel + (size_t)(di * p.kernel + dj)) * channels;
            for (int c = 0; c < channels; c++)
                sum += element_of<T>(p.weight, w + c) *
                       (c < p.channels[0] ? element_of<T>(p.x[0], at * p.channels[0] + c)
                                          : element_of<T>(p.x[1], at * p.channels[1] + c - p.channels[0]));
        }
    return sum;
}

template <class T>
__global__ void reference_kernel(const struct cuda_product p, double *sums, size_t count, int columns) {
    const size_t e = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (e < count)
        sums[e] = reference_sum<T>(p, e / columns, e % columns);
}

struct product_case {
    int rows, height, width, c0, c1, out, kernel, stride, before, after;
    bool upsample, geglu, bias, residual, in_place;
    enum asdm_activation activation;
};

int out_size(const product_case &c, int in, bool odd) {
    if (c.upsample)
        return 2 * in - (odd ? 1 : 0);
    return (in + c.before + c.after - c.kernel) / c.stride + 1;
}

void check_product(enum cuda_dtype dtype, const product_case &c) {
    struct cuda_product p = {};
    p.dtype = dtype, p.rows = c.rows, p.in_height = c.height, p.in_width = c.width;
    p.out_height = out_size(c, c.height, c.height % 2), p.out_width = out_size(c, c.width, false);
    p.channels[0] = c.c0, p.channels[1] = c.c1, p.out_channels = c.out, p.kernel = c.kernel, p.stride = c.stride;
    p.pad_before = c.before, p.pad_after = c.after, p.upsample = c.upsample, p.geglu = c.geglu;
    p.activation = c.activation;
    const size_t in = (size_t)c.rows * c.height * c.width, out = (size_t)c.rows * p.out_height * p.out_width;
    const size_t columns = cuda_product_rows(&p), depth = cuda_product_depth(&p);
    array x(dtype, in * c.c0), x2(dtype, in * c.c1), w(dtype, columns * depth), bias(CUDA_F32, columns);
    array y(dtype, out * c.out), residual(dtype, out * c.out), scratch(CUDA_F32, cuda_product_scratch(&p) / 4);
    x.fill(1, 0), x2.fill(1, 0), w.fill((float)(1 / sqrt((double)depth)), 0), bias.fill(1, 0), residual.fill(1, 0);
    p.x[0] = x.device, p.x[1] = x2.device, p.weight = w.device, p.y = y.device, p.scratch = scratch.device;
    if (c.bias)
        p.bias = (const float *)bias.device;
    if (c.residual)
        p.residual = c.in_place ? y.device : residual.device;
    char name[160];
    snprintf(name, sizeof(name), "product %dx%dx%d (%d+%d)->%d k%d s%d%s%s%s act %d", c.rows, c.height, c.width, c.c0,
             c.c1, c.out, c.kernel, c.stride, c.upsample ? " up" : "", c.geglu ? " geglu" : "",
             c.residual ? " residual" : "", c.activation);

    double *sums;
    std::vector<double> all(out * columns), ref(out * c.out);
    CHECK(cudaMalloc(&sums, all.size() * 8));
    CHECK(CUDA_BY_DTYPE(dtype, (reference_kernel<T>
                                <<<(unsigned)((all.size() + 127) / 128), 128>>>(p, sums, all.size(), (int)columns),
                                cudaGetLastError())));
    CHECK(cudaMemcpy(all.data(), sums, all.size() * 8, cudaMemcpyDeviceToHost));
    CHECK(cudaFree(sums));
    for (size_t e = 0; e < ref.size(); e++) {
        const size_t m = e / c.out, n = e % c.out, packed = c.geglu ? n / 8 * 16 + n % 8 : n;
        const double v = all[m * columns + packed];
        ref[e] =
            c.geglu ? v * activation_of(ASDM_ACT_GELU, all[m * columns + packed + 8]) : activation_of(c.activation, v);
        if (c.residual)
            ref[e] += residual.values[e];
    }
    auto start = [&](void *to, size_t first, size_t bytes) {
        if (c.in_place)
            CHECK(cudaMemcpy(to, (char *)residual.device + first, bytes, cudaMemcpyDeviceToDevice));
    };
    start(y.device, 0, y.bytes());
    CHECK(cuda_product(&p, main_stream));
    CHECK(cudaDeviceSynchronize());
    compare(name, y, ref, (dtype == CUDA_F32 ? 4e-7 : 1e-6) * sqrt((double)depth) + 4e-6);
    const size_t row_y = y.bytes() / c.rows;
    array one(dtype, y.values.size() / c.rows);
    for (int row = 0; row < c.rows; row++) {
        struct cuda_product single = p;
        single.rows = 1;
        single.x[0] = (char *)x.device + row * (x.bytes() / c.rows);
        single.x[1] = (char *)x2.device + row * (x2.bytes() / c.rows);
        single.y = one.device;
        if (c.residual)
            single.residual = c.in_place ? one.device : (char *)residual.device + row * row_y;
        start(one.device, row * row_y, row_y);
        CHECK(cuda_product(&single, main_stream));
        compare_bytes(name, one.device, (char *)y.device + row * row_y, row_y);
    }
}

void check_products() {
    const enum asdm_activation none = ASDM_ACT_NONE;
    const product_case cases[] = {
        {2, 64, 64, 4, 0, 320, 3, 1, 1, 1, false, false, true, false, false, none},
        {2, 16, 16, 320, 0, 4, 3, 1, 1, 1, false, false, true, false, false, none},
        {1, 33, 17, 3, 0, 128, 3, 1, 1, 1, false, false, true, false, false, none},
        {1, 16, 16, 128, 0, 3, 3, 1, 1, 1, false, false, true, false, false, none},
        {2, 15, 13, 64, 0, 72, 3, 2, 1, 1, false, false, true, true, false, none},
        {2, 16, 16, 64, 0, 64, 3, 2, 0, 1, false, false, true, false, false, none},
        {2, 8, 8, 96, 0, 64, 3, 1, 1, 1, true, false, true, false, false, none},
        {3, 5, 4, 24, 0, 33, 3, 1, 1, 1, true, false, true, true, false, none},
        {2, 16, 16, 64, 32, 80, 3, 1, 1, 1, false, false, true, true, true, none},
        {2, 1, 77, 320, 640, 320, 1, 1, 0, 0, false, false, false, true, true, none},
        {2, 1, 100, 320, 0, 1280, 1, 1, 0, 0, false, true, true, false, false, none},
        {3, 1, 7, 40, 0, 24, 1, 1, 0, 0, false, true, true, true, false, none},
        {2, 1, 1, 320, 0, 1280, 1, 1, 0, 0, false, false, true, false, false, ASDM_ACT_SILU},
        {5, 1, 77, 768, 0, 3072, 1, 1, 0, 0, false, false, true, false, false, ASDM_ACT_QUICK_GELU},
        {2, 1, 3, 13, 7, 11, 1, 1, 0, 0, false, false, true, true, false, ASDM_ACT_GELU},
        {2, 9, 9, 5, 6, 7, 5, 2, 2, 2, false, false, true, true, true, ASDM_ACT_RELU},
        {1, 6, 6, 1, 0, 1, 3, 1, 1, 1, false, false, false, false, false, ASDM_ACT_GELU_TANH},
        {2, 7, 5, 12, 4, 10, 3, 1, 1, 1, false, false, true, false, false, none},
        {1, 8, 8, 640, 640, 640, 3, 1, 1, 1, false, false, true, true, false, none},
    };
    for (int d = CUDA_F16; d <= CUDA_F32; d++)
        for (const product_case &c : cases)
            if (!small_only || (size_t)c.height * c.width * c.c0 < 4000)
                check_product((enum cuda_dtype)d, c);
}

/* ---- times */

enum { LAUNCHES = 20, REPLAYS = 12 };

/* Microseconds of a launch among LAUNCHES equal ones in a graph: median of the replays. */
double graph_time(const std::function<cudaError_t(cudaStream_t)> &launch) {
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaEvent_t begin, end;
    std::vector<float> times;
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CHECK(cudaEventCreate(&begin));
    CHECK(cudaEventCreate(&end));
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < LAUNCHES; i++)
        CHECK(launch(stream));
    CHECK(cudaStreamEndCapture(stream, &graph));
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    for (int i = 0; i < REPLAYS; i++) {
        float ms;
        CHECK(cudaEventRecord(begin, stream));
        CHECK(cudaGraphLaunch(exec, stream));
        CHECK(cudaEventRecord(end, stream));
        CHECK(cudaStreamSynchronize(stream));
        CHECK(cudaEventElapsedTime(&ms, begin, end));
        size_t at = times.size();
        times.push_back(ms);
        for (; at > 0 && times[at - 1] > ms; at--)
            times[at] = times[at - 1];
        times[at] = ms;
    }
    CHECK(cudaGraphExecDestroy(exec));
    CHECK(cudaGraphDestroy(graph));
    CHECK(cudaEventDestroy(begin));
    CHECK(cudaEventDestroy(end));
    CHECK(cudaStreamDestroy(stream));
    return times[times.size() / 2] * 1000.0 / LAUNCHES;
}

/* Device values without a copy on the host: any finite numbers do for a time. */
struct values {
    void *device;
    explicit values(size_t bytes) : device(NULL) {
        std::vector<uint16_t> some(1 << 16);
        for (uint16_t &v : some)
            v = (uint16_t)(0x3000 + ((int)(uniform() * 0x0c00) | (uniform() < 0.5 ? 0x8000 : 0)));
        CHECK(cudaMalloc(&device, bytes + 1));
        for (size_t at = 0; at < bytes; at += some.size() * 2)
            CHECK(cudaMemcpy((char *)device + at, some.data(),
                             bytes - at < some.size() * 2 ? bytes - at : some.size() * 2, cudaMemcpyHostToDevice));
    }
    ~values() {
        cudaFree(device);
    }
};

void time_norm(int rows, int tokens, int c0, int c1, int groups, bool given) {
    struct cuda_norm n =
        norm_data::sizes(CUDA_F16, {rows, tokens, c0, c1, groups, groups ? ASDM_ACT_SILU : ASDM_ACT_NONE, given, 0, 1});
    const size_t all = (size_t)rows * tokens;
    values x(all * c0 * 2), x2(all * c1 * 2), y(all * (c0 + c1) * 2);
    values gain((size_t)(c0 + c1) * 4), shift((size_t)(c0 + c1) * 4), scratch(norm_data::scratch_of(n));
    values moments(8 * rows * norm_data::moments_of(n, 0)), moments2(8 * rows * norm_data::moments_of(n, 1));
    n.x[0] = x.device, n.x[1] = x2.device, n.y = y.device;
    n.moments[0] = (const struct asdm_moments *)moments.device;
    n.moments[1] = (const struct asdm_moments *)moments2.device;
    n.gain = (const float *)gain.device, n.bias = (const float *)shift.device, n.scratch = scratch.device;
    const double us = graph_time([&](cudaStream_t stream) { return norm_data::launch(n, stream); });
    printf("%-5s %2d x %6d x %4d: %7.2f us, %5.0f GB/s%s\n", groups ? "group" : "layer", rows, tokens, c0 + c1, us,
           (double)(all * (c0 + c1) * 4) / us * 1e-3, given ? " (given)" : "");
}

void time_product(const char *name, int rows, int size, int in, int out, int kernel) {
    struct cuda_product p = {};
    p.dtype = CUDA_F16, p.rows = rows, p.in_height = p.in_width = p.out_height = p.out_width = size;
    p.channels[0] = in, p.out_channels = out, p.kernel = kernel, p.stride = 1;
    p.pad_before = p.pad_after = kernel / 2;
    const size_t pixels = (size_t)rows * size * size;
    values x(pixels * in * 2), w((size_t)out * kernel * kernel * in * 2), y(pixels * out * 2);
    p.x[0] = x.device, p.weight = w.device, p.y = y.device;
    const double us = graph_time([&](cudaStream_t stream) { return cuda_product(&p, stream); });
    printf("%s: %.2f us, %.0f TFLOP/s\n", name, us, 2e-6 * (double)(pixels * out * kernel * kernel * in) / us);
}

void time_all() {
    const int shapes[][3] = {{4096, 320, 0},   {4096, 320, 320},  {4096, 640, 320},  {1024, 320, 0},  {1024, 640, 0},
                             {1024, 640, 320}, {1024, 640, 640},  {1024, 1280, 640}, {256, 640, 0},   {256, 1280, 0},
                             {256, 1280, 640}, {256, 1280, 1280}, {64, 1280, 0},     {64, 1280, 1280}};
    for (const int rows : {2, 16})
        for (const auto &s : shapes)
            for (const bool given : {false, true})
                time_norm(rows, s[0], s[1], s[2], 32, given);
    const int decoder[][2] = {{4096, 512}, {16384, 512}, {65536, 512}, {65536, 256}, {262144, 256}, {262144, 128}};
    for (const auto &s : decoder)
        for (const bool given : {false, true})
            time_norm(1, s[0], s[1], 0, 32, given);
    const int layers[][2] = {{4096, 320}, {1024, 640}, {256, 1280}, {64, 1280}, {77, 768}};
    for (const int rows : {2, 16})
        for (const auto &s : layers)
            time_norm(rows, s[0], s[1], 0, 0, false);
    time_product("conv_in, 2 rows", 2, 64, 4, 320, 3);
    time_product("conv_out, 2 rows", 2, 64, 320, 4, 3);
    time_product("conv 320, 2 rows", 2, 64, 320, 320, 3);
    time_product("linear 1280, 2 x 256", 2, 16, 1280, 1280, 1);
}

} // namespace

int main(int argc, char **argv) {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0)
        return 77; /* skipped: there is no GPU */
    const char *what = argc > 1 ? argv[1] : "all";
    small_only = !strcmp(what, "small");
    CHECK(cudaStreamCreate(&main_stream));
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (strcmp(what, "time")) {
        check_simple();
        check_norms();
        check_products();
        printf("%d of %d checks failed\n", failures, checks);
    }
    if (!strcmp(what, "time") || !strcmp(what, "all"))
        time_all();
    return failures ? 1 : 0;
}
