/* Which operations Hopper's product takes, and how it cuts them into tiles: by an estimate of the time. */
#include "cuda/launch.cuh"
#include "cuda/product_sm90.h"
#include "cuda/sm90.cuh"

namespace {

enum {
    SPREAD_STEPS = 5, /* fewest steps of a chunk */
    CANDIDATES = 12,
    OTHER_WIDTH = 128,   /* of tiles with an activation or cut channels, at most */
    GEGLU_WIDTH = 64,    /* and with geglu, at least */
    EXPERTS_PIXELS = 256 /* largest map of a row whose experts are multiplied one by one */
};

typedef struct cuda_product_choice choice;
typedef struct cuda_product_extent extent;

int ceil_div(int a, int b) {
    return (a + b - 1) / b;
}

/* Clusters of `size` CTAs that fill the machine: CTAs of a cluster share a GPC, of which some SMs are left over. */
int clusters_of(int size) {
    const int sms = cuda_processors();
    return size == 1 ? sms : size == 2 ? sms / 2 : sms * 10 / (size == 4 ? 51 : 132);
}

/* An estimate in nanoseconds: waves of steps, each bound by the tensor cores or by a latency, and the ends of a tile.
 * The numbers are a fit to the times of all candidates for the layers of Stable Diffusion 1.5 on an H100. */
long long cost_of(const extent &e, int rows, const choice &c) {
    const long long tiles =
        (long long)ceil_div(rows * e.pixels, CUDA_TILE_PIXELS) * ceil_div(e.weight_rows, c.width) * e.phases;
    const int clusters = clusters_of(c.spread), steps = ceil_div(e.steps * (e.experts ? e.experts : 1), c.spread);
    const int step = 67 + c.width * 23 / 10 > 278 ? 67 + c.width * 23 / 10 : 278, sums = steps * step;
    const long long waves = (tiles + clusters - 1) / clusters;
    if (c.alternate) { /* the ends of a tile pass while the next is multiplied, or the other way round */
        const int ends = 782 + c.width * (e.residual ? 67 : e.geglu ? 46 : 42); /* half of a residual is fetched late */
        return waves * (sums > ends ? sums : (sums + ends) / 2) + ends + 690;
    }
    return waves * (sums + 403 + c.width * 20 + (c.spread > 1 ? 2474 : (c.chunks - 1) * c.width * 13 / 5)) + 552;
}

/* Whether there is a kernel for it: registers for the sums, and what a tile may end in. */
bool possible(const extent &e, const choice &c) {
    const bool walks = c.chunks > 1 && c.spread == 1;
    if (e.experts && (c.alternate || c.width > CUDA_EXPERTS_WIDTH))
        return false;
    if (e.other_ends && (c.alternate || c.width > OTHER_WIDTH))
        return false;
    if (c.alternate && c.width < CUDA_ALTERNATE_WIDTH)
        return false;
    if (e.geglu && c.width < GEGLU_WIDTH)
        return false;
    if (e.granule && (c.width % e.granule || CUDA_TILE_PIXELS / c.spread < e.slab))
        return false;
    return !(c.width == 256 && (walks || c.alternate)) && c.chunks <= e.steps;
}

int candidates(const extent &e, int chunks, choice *ret, int capacity) {
    static const int widths[] = {160, 256, 128, 80, 64, 32};
    int count = 0;
    for (int width : widths) {
        for (int i = 0; i < 2; i++) {
            const choice c = {width, chunks, i && chunks > 1 ? chunks : 1, i && chunks == 1};
            if (!possible(e, c))
                continue;
            if (count < capacity)
                ret[count] = c;
            count++;
        }
    }
    return count;
}

choice cheapest(const extent &e, int rows, int chunks) {
    choice all[CANDIDATES];
    const int count = candidates(e, chunks, all, CANDIDATES);
    int best = 0;
    for (int i = 1; i < count; i++)
        if (cost_of(e, rows, all[i]) < cost_of(e, rows, all[best]))
            best = i;
    return all[best];
}

/* Chunks of K: what is best for two rows (a picture under guidance), whatever the rows, as bits depend on it; a percent
 * more for each chunk, as many rows have no use for them. Where bits may depend on the rows, what is best for these. */
int chunks_of(const struct cuda_product *p, extent e) {
    int best = 1;
    e.experts = 0; /* an expert alone is summed as a plain kernel is */
    long long least = 0;
    const int rows = p->batch_dependent ? p->rows : 2;
    for (int chunks = 1; chunks <= CUDA_CHUNKS_MAX && e.steps >= chunks * SPREAD_STEPS; chunks *= 2) {
        const long long cost = cost_of(e, rows, cheapest(e, rows, chunks)) * (p->batch_dependent ? 100 : 100 + chunks);
        if (chunks == 1 || cost < least) {
            least = cost;
            best = chunks;
        }
    }
    return best;
}

/* An activation, or channels that do not make whole vectors. */
bool has_other_ends(const struct cuda_product *p) {
    return p->out_channels % 8 || (!p->geglu && p->activation != ASDM_ACT_NONE);
}

choice choose(const struct cuda_product *p) {
    const extent e = cuda_product_extent_of(p);
    return cheapest(e, p->rows, chunks_of(p, e));
}

} // namespace

extern "C" {

bool cuda_product_sm90_adds_rows(const struct cuda_product *p) {
    return cuda_product_sm90_fits(p) && !p->upsample && !p->geglu && !has_other_ends(p) &&
           p->out_height * p->out_width % (CUDA_TILE_PIXELS / 2) == 0; /* what a warpgroup finishes is one row's */
}

bool cuda_product_sm90_measures(const struct cuda_product *p) {
    const int width = p->experts.shares.experts ? CUDA_EXPERTS_WIDTH : 2 * CUDA_EXPERTS_WIDTH; /* of some tile */
    const int pixels = p->out_height * p->out_width / (p->upsample ? 4 : 1);
    return p->parts.granule && cuda_product_sm90_fits(p) && !p->geglu && width % p->parts.granule == 0 &&
           !has_other_ends(p) && pixels % p->parts.slab == 0 && (!p->row_bias || cuda_product_sm90_adds_rows(p));
}

struct cuda_product_extent cuda_product_extent_of(const struct cuda_product *p) {
    extent e;
    e.rows_apart = p->row_bias && cuda_product_sm90_adds_rows(p);
    e.granule = cuda_product_sm90_measures(p) ? p->parts.granule : 0;
    e.slab = e.granule ? p->parts.slab : 0;
    e.other_ends = has_other_ends(p);
    e.phases = p->upsample ? 4 : 1;
    e.pixels = p->out_height * p->out_width / e.phases;
    e.weight_rows = (int)cuda_product_rows(p);
    e.residual = p->residual != nullptr;
    e.geglu = p->geglu;
    e.experts = p->experts.shares.experts;
    const int taps = p->upsample ? 4 : p->kernel * p->kernel;
    e.steps = taps * ((p->channels[0] + CUDA_TILE_DEPTH - 1) / CUDA_TILE_DEPTH) +
              (p->channels[1] + CUDA_TILE_DEPTH - 1) / CUDA_TILE_DEPTH;
    return e;
}

bool cuda_product_sm90_folds(const struct cuda_product *p) {
    return p->upsample && p->kernel == 3 && p->stride == 1 && p->pad_before == 1 && p->pad_after == 1 &&
           p->out_height == 2 * p->in_height && p->out_width == 2 * p->in_width;
}

bool cuda_product_sm90_fits(const struct cuda_product *p) {
    if (p->dtype == CUDA_F32 || cuda_capability() != 90 || p->rows < 1 || p->channels[0] < 8 || p->channels[0] % 8)
        return false;
    if (p->channels[1] && (p->kernel != 1 || p->channels[0] % CUDA_TILE_DEPTH || p->channels[1] % CUDA_TILE_DEPTH))
        return false;
    if (p->geglu && p->out_channels % 8)
        return false;
    if ((p->slots || p->experts.shares.experts) && (p->stride != 1 || p->upsample || p->geglu))
        return false;
    if (p->upsample && !cuda_product_sm90_folds(p))
        return false;
    if (p->kernel == 1 && (p->stride != 1 || p->pad_before || p->pad_after))
        return false;
    /* What a tensor map can say: corners within a byte, strides to 8, pixels counted in an int. */
    const long long pixels = (long long)p->rows * p->out_height * p->out_width;
    return p->kernel <= 16 && p->stride >= 1 && p->stride <= 8 && p->pad_before <= 64 && p->pad_after <= 64 &&
           pixels < (1ll << 31) - 2 * CUDA_TILE_PIXELS;
}

bool cuda_product_sm90_mixes(const struct cuda_product *p) {
    const int pixels = p->out_height * p->out_width;
    return cuda_product_sm90_fits(p) && !has_other_ends(p) && pixels <= EXPERTS_PIXELS &&
           pixels % 16 == 0; /* a warp's pixels are one row's */
}

struct cuda_product_choice cuda_product_sm90_choice(const struct cuda_product *p) {
    return choose(p);
}

struct cuda_product_choice cuda_product_sm90_choice_of(const struct cuda_product *p, int chunks) {
    return cheapest(cuda_product_extent_of(p), p->rows, chunks);
}

bool cuda_product_sm90_possible(const struct cuda_product *p, const struct cuda_product_choice *c) {
    choice all[CANDIDATES];
    if (c->chunks < 1 || c->chunks > CUDA_CHUNKS_MAX || c->chunks & (c->chunks - 1))
        return false;
    const int count = candidates(cuda_product_extent_of(p), c->chunks, all, CANDIDATES);
    for (int i = 0; i < count; i++)
        if (all[i].width == c->width && all[i].spread == c->spread && all[i].alternate == c->alternate)
            return true;
    return false;
}

int cuda_product_sm90_candidates(const struct cuda_product *p, int chunks, struct cuda_product_choice *ret,
                                 int capacity) {
    const extent e = cuda_product_extent_of(p);
    return candidates(e, chunks ? chunks : chunks_of(p, e), ret, capacity);
}

} // extern "C"
