/* Which kernel computes a product, with which tiles: the back end's own choice, or the one that measuring found. The
 * candidates are the tile shapes of product_sm90.cu where it fits, product.cu elsewhere, and what the vendor's
 * libraries propose. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>
#include "base/rng.h"
#include "cuda/cuda_ops.h"

enum { TILES_MAX = 16, NUMBERS = 65521 /* a prime: what repeats falls onto other places */ };
enum { WEIGHT_COPIES_MAX = 10 };
static const size_t COLD_BYTES = (size_t)96 << 20; /* of weights, too many for the L2 cache */

/* ---- names */

static void name_operation(const struct cuda_product *p, char ret[ASDM_CHOICE_BYTES]) {
    char second[16] = "", activation[24] = "", parts[24] = "";
    if (p->channels[1])
        snprintf(second, sizeof second, "+%d", p->channels[1]);
    if (p->activation != ASDM_ACT_NONE)
        snprintf(activation, sizeof activation, " activation %d", (int)p->activation);
    if (p->parts.granule)
        snprintf(parts, sizeof parts, " parts %d", p->parts.granule);
    snprintf(ret, ASDM_CHOICE_BYTES, "%s %dx%dx%d%s -> %dx%dx%d k%d s%d p%d,%d%s%s%s%s%s%s%s",
             p->kernel == 1 ? "linear" : "conv", p->in_height, p->in_width, p->channels[0], second, p->out_height,
             p->out_width, p->out_channels, p->kernel, p->stride, p->pad_before, p->pad_after, p->upsample ? " up" : "",
             p->geglu ? " geglu" : "", p->bias ? " bias" : "", activation, p->residual ? " residual" : "",
             p->row_bias ? " row bias" : "", parts);
}

static void name_tiles(const struct cuda_product_choice *c, char ret[ASDM_CHOICE_BYTES]) {
    snprintf(ret, ASDM_CHOICE_BYTES, "wgmma %d/%d/%d/%d", c->width, c->chunks, c->spread, c->alternate);
}

static bool parse_tiles(const char *text, struct cuda_product_choice *ret) {
    char again[ASDM_CHOICE_BYTES];
    if (sscanf(text, "wgmma %d/%d/%d/%d", &ret->width, &ret->chunks, &ret->spread, &ret->alternate) != 4)
        return false;
    name_tiles(ret, again);
    return strcmp(text, again) == 0;
}

/* ---- the vendor's libraries */

static const struct cuda_vendor *const vendors[] = {
#ifdef ASDM_HAVE_CUBLASLT
    &cuda_cublaslt,
#endif
#ifdef ASDM_HAVE_CUDNN
    &cuda_cudnn,
#endif
    NULL,
};

void cuda_vendors_describe(char *ret, size_t room) {
    size_t used = 0;
    *ret = '\0';
    for (int i = 0; vendors[i]; i++) {
        char one[48];
        vendors[i]->describe(one, sizeof one);
        if (*one && used + sizeof one + 2 < room)
            used += (size_t)snprintf(ret + used, room - used, "%s%s", used ? ", " : "", one);
    }
}

void cuda_vendors_close(struct cuda_backend *backend) {
    for (int i = 0; vendors[i]; i++)
        if (backend->libraries[i])
            vendors[i]->close(backend->libraries[i]);
}

/* The open library of a vendor, opened now if need be; NULL: there is none. */
static void *library_of(struct cuda_backend *backend, int vendor) {
    if (!backend->asked[vendor])
        backend->libraries[vendor] = vendors[vendor]->open(backend->stream);
    backend->asked[vendor] = true;
    return backend->libraries[vendor];
}

struct own_bias {
    const struct cuda_product *p;
    struct asdm_backend *backend;
};

static enum asdm_status fill_bias(void *user, void *memory, struct asdm_error *err) {
    const struct own_bias *own = user;
    const struct asdm_device_class *device = own->backend->class->device;
    size_t count = (size_t)own->p->out_channels;
    float *numbers = malloc(count * sizeof *numbers);
    if (!numbers)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory to lay out a bias");
    device->copy(own->backend, numbers, own->p->bias, count * sizeof *numbers);
    enum asdm_status status = device->finish(own->backend, err);
    if (status == ASDM_OK)
        cuda_convert(own->p->dtype, numbers, memory, count);
    free(numbers);
    return status;
}

/* The bias in the back end's type. */
static enum asdm_status get_bias(struct asdm_backend *backend, const struct asdm_site *site,
                                 const struct cuda_product *p, const void **ret, struct asdm_error *err) {
    struct own_bias own = {p, backend};
    char key[512];
    *ret = p->bias;
    if (!p->bias || p->dtype == CUDA_F32)
        return ASDM_OK;
    snprintf(key, sizeof key, "%s|%d parts|own %d", site->program->weights[site->op->bias[0]].name, site->op->parts,
             (int)p->dtype);
    return asdm_weight_store_get(site->weights, key, (size_t)p->out_channels * backend->element_bytes, fill_bias, &own,
                                 ret, err);
}

/* Prepares a product of the vendor whose name it is. method->product stays NULL where there is none. */
static enum asdm_status prepare_vendor(struct cuda_backend *backend, const struct asdm_site *site,
                                       const struct cuda_product *p, const char *name, struct cuda_method *method,
                                       struct asdm_error *err) {
    const void *bias;
    for (int i = 0; vendors[i]; i++) {
        if (strncmp(name, vendors[i]->prefix, strlen(vendors[i]->prefix)) != 0 || !vendors[i]->fits(p) ||
            !library_of(backend, i))
            continue;
        ASDM_TRY(get_bias(&backend->base, site, p, &bias, err));
        method->kind = CUDA_METHOD_VENDOR;
        method->vendor = vendors[i];
        method->product = vendors[i]->prepare(backend->libraries[i], p, bias, name, &method->scratch_bytes);
    }
    return ASDM_OK;
}

/* ---- methods */

static struct cuda_method built_in(const struct cuda_product *p) {
    struct cuda_method method = {.kind = CUDA_METHOD_PLAIN, .scratch_bytes = cuda_product_scratch(p)};
    if (cuda_product_sm90_fits(p))
        method = (struct cuda_method){.kind = CUDA_METHOD_SM90, .tiles = cuda_product_sm90_choice(p)};
    return method;
}

static void name_method(const struct cuda_method *method, char ret[ASDM_CHOICE_BYTES]) {
    if (method->kind == CUDA_METHOD_SM90)
        name_tiles(&method->tiles, ret);
    else
        snprintf(ret, ASDM_CHOICE_BYTES, "mma");
}

/* The method of a name. `exact`: it was chosen for this number of rows; otherwise, of own kernels, the order of the sum
 * is kept and the tiles follow the rows. *ret_known false: not a method of this product, here. */
static enum asdm_status find_method(struct cuda_backend *backend, const struct asdm_site *site,
                                    const struct cuda_product *p, const char *name, bool exact, struct cuda_method *ret,
                                    bool *ret_known, struct asdm_error *err) {
    struct cuda_method method = {0};
    *ret_known = false;
    if (strcmp(name, "mma") == 0 && !cuda_product_sm90_fits(p)) {
        method = built_in(p);
    } else if (parse_tiles(name, &method.tiles)) {
        if (!cuda_product_sm90_fits(p) || !cuda_product_sm90_possible(p, &method.tiles))
            return ASDM_OK;
        method.kind = CUDA_METHOD_SM90;
        if (!exact)
            method.tiles = cuda_product_sm90_choice_of(p, method.tiles.chunks);
    } else {
        ASDM_TRY(prepare_vendor(backend, site, p, name, &method, err));
        if (!method.product)
            return ASDM_OK;
    }
    *ret = method;
    *ret_known = true;
    return ASDM_OK;
}

void cuda_method_done(struct cuda_method *method) {
    if (method->product)
        method->vendor->done(method->product);
}

static cudaError_t run_product(const struct cuda_method *method, const struct cuda_product *p, cudaStream_t stream) {
    struct cuda_product tiled = *p;
    switch (method->kind) {
    case CUDA_METHOD_VENDOR:
        return method->vendor->run(method->product, p, stream);
    case CUDA_METHOD_SM90:
        tiled.choice = &method->tiles;
        if (!cuda_product_sm90_adds_rows(p))
            tiled.row_bias = NULL;
        if (!cuda_product_sm90_measures(p))
            tiled.parts.granule = 0;
        return cuda_product_sm90(&tiled, stream);
    default:
        return cuda_product(p, stream);
    }
}

/* What a kernel has no place for is done behind it. */
cudaError_t cuda_method_run(const struct cuda_method *method, const struct cuda_product *p, cudaStream_t stream) {
    const bool own = method->kind == CUDA_METHOD_SM90;
    cudaError_t error = run_product(method, p, stream);
    if (error == cudaSuccess && p->row_bias && !(own && cuda_product_sm90_adds_rows(p)))
        error = cuda_add_row_bias(p->dtype, p->y, p->row_bias, p->row_bias_map, p->y, p->rows,
                                  p->out_height * p->out_width, p->out_channels, stream);
    if (error == cudaSuccess && p->parts.granule && !(own && cuda_product_sm90_measures(p)))
        error = cuda_moments(p->dtype, p->y, p->rows, p->out_channels, p->parts, p->moments, stream);
    return error;
}

const char *cuda_method_name(const struct cuda_method *method, const struct cuda_product *p) {
    if (method->kind == CUDA_METHOD_VENDOR)
        return p->kernel == 1 ? "cublaslt" : "cudnn";
    if (method->kind == CUDA_METHOD_SM90)
        return p->kernel == 1   ? p->geglu ? "wgmma geglu" : "wgmma linear"
               : p->upsample    ? "wgmma conv, folded"
               : p->stride == 1 ? "wgmma conv"
                                : "wgmma conv, stride 2";
    return p->kernel == 1 ? "linear" : "conv";
}

/* ---- measuring */

/* The operands that candidates are measured with: the same numbers in each row, and many copies of the weight, as in a
 * model no product finds its weight in the cache. */
struct bench {
    struct cuda_backend *backend;
    const struct asdm_site *site;
    struct cuda_product p;
    const struct cuda_method *method; /* under measurement */
    size_t weight_bytes, row_bytes;   /* of y */
    int copies, next;
    unsigned char *weights, *x[2], *residual, *row_bias, *moments, *y, *scratch;
    unsigned char *result; /* the processor's: all rows of y */
};

static enum asdm_status map(struct bench *b, size_t bytes, unsigned char **ret, struct asdm_error *err) {
    void *memory;
    ASDM_TRY(asdm_backend_map(&b->backend->base, bytes, "measuring", &memory, err));
    *ret = memory;
    return ASDM_OK;
}

static void bench_done(struct bench *b) {
    unsigned char *memories[] = {b->weights, b->x[0], b->x[1], b->residual, b->row_bias, b->moments, b->y, b->scratch};
    for (size_t i = 0; i < sizeof memories / sizeof *memories; i++)
        asdm_backend_unmap(&b->backend->base, memories[i], 0);
    free(b->result);
}

/* `rows` times the same `count` numbers. */
static enum asdm_status fill_rows(struct bench *b, size_t count, int rows, unsigned char **ret,
                                  struct asdm_error *err) {
    size_t element = b->backend->base.element_bytes, bytes = count * element, period = NUMBERS * element;
    float *numbers = malloc(NUMBERS * sizeof *numbers);
    unsigned char *row = malloc(bytes + period);
    enum asdm_status status = map(b, bytes * (size_t)rows, ret, err);
    if (status == ASDM_OK && (!numbers || !row))
        status = asdm_fail(err, ASDM_ERR_MEMORY, "no memory for measuring");
    if (status == ASDM_OK) {
        struct asdm_rng rng;
        asdm_rng_init(&rng, ASDM_RNG_PHILOX, count);
        asdm_rng_normal(&rng, numbers, NUMBERS);
        cuda_convert(b->backend->dtype, numbers, row, NUMBERS);
        for (size_t at = period; at < bytes; at += period)
            memcpy(row + at, row, period);
        for (int i = 0; i < rows; i++)
            b->backend->base.class->device->copy(&b->backend->base, *ret + (size_t)i * bytes, row, bytes);
        status = b->backend->base.class->device->finish(&b->backend->base, err);
    }
    free(numbers);
    free(row);
    return status;
}

static enum asdm_status bench_init(struct bench *b, struct asdm_error *err) {
    struct cuda_product *p = &b->p;
    const struct asdm_device_class *device = b->backend->base.class->device;
    size_t in = (size_t)p->in_height * (size_t)p->in_width, out = (size_t)p->out_height * (size_t)p->out_width;
    size_t copies = COLD_BYTES / (b->weight_bytes + 1) + 1;
    b->copies = copies < WEIGHT_COPIES_MAX ? (int)copies : WEIGHT_COPIES_MAX;
    b->row_bytes = out * (size_t)p->out_channels * b->backend->base.element_bytes;
    for (int i = 0; i < 2 && p->channels[i]; i++) {
        ASDM_TRY(fill_rows(b, in * (size_t)p->channels[i], p->rows, &b->x[i], err));
        p->x[i] = b->x[i];
    }
    if (p->residual) {
        ASDM_TRY(fill_rows(b, out * (size_t)p->out_channels, p->rows, &b->residual, err));
        p->residual = b->residual;
    }
    if (p->row_bias) {
        ASDM_TRY(fill_rows(b, (size_t)p->out_channels, p->rows, &b->row_bias, err));
        p->row_bias = b->row_bias;
    }
    if (p->parts.granule) {
        size_t parts = (size_t)p->rows * (size_t)p->parts.slabs * (size_t)p->parts.granules;
        ASDM_TRY(map(b, parts * sizeof *p->moments, &b->moments, err));
        p->moments = (struct asdm_moments *)b->moments;
    }
    ASDM_TRY(map(b, b->row_bytes * (size_t)p->rows, &b->y, err));
    p->y = b->y;
    ASDM_TRY(map(b, b->weight_bytes * (size_t)b->copies, &b->weights, err));
    for (int i = 0; i < b->copies; i++)
        device->copy(&b->backend->base, b->weights + (size_t)i * b->weight_bytes, p->weight, b->weight_bytes);
    b->result = malloc(b->row_bytes * (size_t)p->rows);
    return b->result ? device->finish(&b->backend->base, err)
                     : asdm_fail(err, ASDM_ERR_MEMORY, "no memory for measuring");
}

static cudaError_t launch(struct bench *b) {
    struct cuda_product p = b->p;
    p.weight = b->weights + (size_t)b->next * b->weight_bytes;
    p.scratch = b->scratch;
    b->next = (b->next + 1) % b->copies;
    return cuda_method_run(b->method, &p, b->backend->stream);
}

static void enqueue(void *user) {
    struct bench *b = user;
    cudaError_t error = launch(b);
    if (error != cudaSuccess && b->backend->failure == cudaSuccess)
        b->backend->failure = error;
}

/* A hash of one row of the result; 0: the rows, whose inputs are the same, differ. */
static uint64_t hash_rows(const struct bench *b) {
    uint64_t hash = 14695981039346656037u; /* as FNV-1a, by words */
    for (int i = 1; i < b->p.rows; i++)
        if (memcmp(b->result, b->result + (size_t)i * b->row_bytes, b->row_bytes) != 0)
            return 0;
    for (size_t i = 0; i < b->row_bytes; i += sizeof hash) {
        uint64_t word = 0;
        memcpy(&word, b->result + i, b->row_bytes - i < sizeof word ? b->row_bytes - i : sizeof word);
        hash = (hash ^ word) * 1099511628211u;
        hash ^= hash >> 32;
    }
    return hash ? hash : 1;
}

/* A candidate that does not take the product after all is passed over. */
static enum asdm_status measure(struct bench *b, const char *operation, const struct cuda_method *method,
                                struct asdm_candidate candidate, struct asdm_error *err) {
    struct asdm_backend *base = &b->backend->base;
    const struct asdm_device_class *device = base->class->device;
    b->method = method;
    b->next = 0;
    if (method->scratch_bytes)
        ASDM_TRY(map(b, method->scratch_bytes, &b->scratch, err));
    bool taken = launch(b) == cudaSuccess;
    if (!taken)
        cudaGetLastError();
    device->copy(base, b->result, b->y, b->row_bytes * (size_t)b->p.rows);
    enum asdm_status status = device->finish(base, err);
    if (status == ASDM_OK && taken) {
        candidate.bits = hash_rows(b);
        candidate.seconds = device->time(base, enqueue, b);
        status = asdm_measurements_add(base->measurements, operation, b->p.rows, &candidate, err);
    }
    asdm_backend_unmap(base, b->scratch, method->scratch_bytes);
    b->scratch = NULL;
    return status;
}

static enum asdm_status measure_tiles(struct bench *b, const char *operation, const struct cuda_method *own,
                                      struct asdm_error *err) {
    struct cuda_product_choice tiles[TILES_MAX];
    char name[ASDM_CHOICE_BYTES], order[ASDM_CHOICE_BYTES], own_name[ASDM_CHOICE_BYTES];
    name_method(own, own_name);
    for (int chunks = 1; chunks <= CUDA_CHUNKS_MAX; chunks *= 2) {
        int count = cuda_product_sm90_candidates(&b->p, chunks, tiles, TILES_MAX);
        snprintf(order, sizeof order, "wgmma %d", chunks);
        for (int i = 0; i < count && i < TILES_MAX; i++) {
            struct cuda_method method = {.kind = CUDA_METHOD_SM90, .tiles = tiles[i]};
            name_method(&method, name);
            struct asdm_candidate candidate = {
                .implementation = name, .order = order, .built_in = strcmp(name, own_name) == 0};
            ASDM_TRY(measure(b, operation, &method, candidate, err));
        }
    }
    return ASDM_OK;
}

static enum asdm_status measure_vendor(struct bench *b, const char *operation, int vendor, struct asdm_error *err) {
    char names[CUDA_VENDOR_CANDIDATES][ASDM_CHOICE_BYTES];
    void *library = vendors[vendor]->fits(&b->p) ? library_of(b->backend, vendor) : NULL;
    int count = library ? vendors[vendor]->candidates(library, &b->p, names) : 0;
    for (int i = 0; i < count; i++) {
        struct cuda_method method;
        struct asdm_candidate candidate = {.implementation = names[i], .order = names[i], .needs_proof = true};
        bool known;
        ASDM_TRY(find_method(b->backend, b->site, &b->p, names[i], true, &method, &known, err));
        if (!known)
            continue;
        enum asdm_status status = measure(b, operation, &method, candidate, err);
        cuda_method_done(&method);
        if (status != ASDM_OK)
            return status;
    }
    return ASDM_OK;
}

static enum asdm_status measure_all(struct bench *b, const char *operation, struct asdm_error *err) {
    struct cuda_method own = built_in(&b->p);
    char name[ASDM_CHOICE_BYTES];
    name_method(&own, name);
    ASDM_TRY(bench_init(b, err));
    if (own.kind == CUDA_METHOD_SM90) {
        ASDM_TRY(measure_tiles(b, operation, &own, err));
    } else {
        struct asdm_candidate candidate = {.implementation = name, .order = name, .built_in = true};
        ASDM_TRY(measure(b, operation, &own, candidate, err));
    }
    for (int i = 0; vendors[i]; i++)
        ASDM_TRY(measure_vendor(b, operation, i, err));
    return ASDM_OK;
}

/* ---- the choice */

enum asdm_status cuda_method_choose(struct cuda_backend *backend, const struct asdm_site *site,
                                    const struct cuda_product *p, size_t weight_bytes, struct cuda_method *ret,
                                    struct asdm_error *err) {
    char operation[ASDM_CHOICE_BYTES];
    bool exact, known;
    *ret = built_in(p);
    if (p->slots || p->experts.shares.experts) /* mixed kernels are not there to be measured */
        return ASDM_OK;
    name_operation(p, operation);
    if (backend->base.measurements && !asdm_measurements_has(backend->base.measurements, operation, p->rows)) {
        struct bench bench = {.backend = backend, .site = site, .p = *p, .weight_bytes = weight_bytes};
        enum asdm_status status = measure_all(&bench, operation, err);
        bench_done(&bench);
        if (status != ASDM_OK)
            return asdm_fail_context(err, status, "measuring %s", operation);
    }
    const char *name = asdm_choices_find(backend->base.choices, operation, p->rows, &exact);
    if (!name || (!exact && p->batch_dependent))
        return ASDM_OK;
    struct cuda_method method;
    ASDM_TRY(find_method(backend, site, p, name, exact, &method, &known, err));
    if (!known)
        return asdm_fail(err, ASDM_ERR_FORMAT, "%.200s: choices.%s: \"%.60s\" is not a kernel for it here",
                         asdm_choices_path(backend->base.choices), operation, name);
    *ret = method;
    return ASDM_OK;
}
