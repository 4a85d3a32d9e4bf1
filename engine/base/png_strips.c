#include "base/png_strips.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <zlib.h>

#include "base/size.h"

enum {
    CHANNELS = 3,
    FILTERS = 5,
    STRIP_BYTES = 1 << 16, /* filtered, of a strip, about */
    THREADS_MAX = 8,
    WINDOW_BYTES = 1 << 15, /* how far back deflate refers */
    HEADER_BYTES = 2,       /* of the zlib stream */
    CHECK_BYTES = 4,
    FLUSH_BYTES = 64 /* more than ending a strip at a whole byte takes */
};

/* ---- filters */

/* What byte `type` of the filters predicts from the pixel on the left, the one above and the one above that on the
 * left. */
static inline int predict(int type, int left, int above, int corner) {
    int by_left = abs(above - corner), by_above = abs(left - corner), by_corner = abs(left + above - 2 * corner);
    switch (type) {
    case 1:
        return left;
    case 2:
        return above;
    case 3:
        return (left + above) / 2;
    case 4: /* the one nearest to left + above - corner */
        return by_left <= by_above && by_left <= by_corner ? left : by_above <= by_corner ? above : corner;
    default:
        return 0;
    }
}

/* A row of `bytes`, filtered, and how large its bytes are as signed numbers, in sum. */
static inline __attribute__((always_inline)) size_t
filter(int type, const uint8_t *restrict row, const uint8_t *restrict above, size_t bytes, uint8_t *restrict to) {
    size_t sum = 0;
    for (size_t i = 0; i < CHANNELS; i++) {
        to[i] = (uint8_t)(row[i] - predict(type, 0, above[i], 0));
        sum += (size_t)abs((int8_t)to[i]);
    }
    for (size_t i = CHANNELS; i < bytes; i++)
        to[i] = (uint8_t)(row[i] - predict(type, row[i - CHANNELS], above[i], above[i - CHANNELS]));
    for (size_t i = CHANNELS; i < bytes; i++)
        sum += (size_t)abs((int8_t)to[i]);
    return sum;
}

static size_t filter_by(int type, const uint8_t *row, const uint8_t *above, size_t bytes, uint8_t *to) {
    switch (type) { /* loops of their own */
    case 1:
        return filter(1, row, above, bytes, to);
    case 2:
        return filter(2, row, above, bytes, to);
    case 3:
        return filter(3, row, above, bytes, to);
    case 4:
        return filter(4, row, above, bytes, to);
    default:
        return filter(0, row, above, bytes, to);
    }
}

/* The filter's number and the row by it, to `to`; `other` is room for as much. */
static void filter_best(const uint8_t *row, const uint8_t *above, size_t bytes, uint8_t *to, uint8_t *other) {
    size_t least = 0;
    for (int type = 0; type < FILTERS; type++) {
        other[0] = (uint8_t)type;
        size_t sum = filter_by(type, row, above, bytes, other + 1);
        if (type == 0 || sum < least) {
            least = sum;
            memcpy(to, other, 1 + bytes);
        }
    }
}

/* ---- strips */

struct work {
    const uint8_t *rgb, *nothing;          /* nothing: a row of zeros, above the first */
    size_t row_bytes, height, rows, count; /* of a row, its filter included; rows of a strip; strips */
    int level;
    struct asdm_png_strip *strips;
    unsigned long *checks;
    atomic_size_t next;
    atomic_bool failed;
};

/* Rows `begin` to `end` - 1, filtered; NULL: no memory. */
static uint8_t *filter_rows(const struct work *w, size_t begin, size_t end) {
    size_t bytes = w->row_bytes - 1;
    uint8_t *filtered = malloc((end - begin + 1) * w->row_bytes); /* and room for another try */
    for (size_t y = begin; filtered && y < end; y++)
        filter_best(w->rgb + y * bytes, y ? w->rgb + (y - 1) * bytes : w->nothing, bytes,
                    filtered + (y - begin) * w->row_bytes, filtered + (end - begin) * w->row_bytes);
    return filtered;
}

/* Deflates `bytes` of a strip, `before` of which are only what it may refer to. */
static bool deflate_rows(const struct work *w, size_t index, uint8_t *filtered, size_t before, size_t bytes) {
    struct asdm_png_strip *strip = &w->strips[index];
    bool last = index + 1 == w->count;
    size_t head = index ? 0 : HEADER_BYTES;
    z_stream z = {0};
    /* Filtered pixels hardly repeat but for runs: as small as level 6 in half the time or less. */
    if (deflateInit2(&z, w->level ? w->level : 1, Z_DEFLATED, -15, 8, w->level ? Z_FILTERED : Z_RLE) != Z_OK)
        return false;
    size_t room = head + deflateBound(&z, bytes - before) + FLUSH_BYTES + CHECK_BYTES;
    strip->data = malloc(room);
    bool good = strip->data;
    if (good && before) {
        size_t window = asdm_size_least(before, WINDOW_BYTES);
        good = deflateSetDictionary(&z, filtered + before - window, (unsigned)window) == Z_OK;
    }
    if (good) {
        z.next_in = filtered + before;
        z.avail_in = (unsigned)(bytes - before);
        z.next_out = strip->data + head;
        z.avail_out = (unsigned)(room - head - CHECK_BYTES);
        good = deflate(&z, last ? Z_FINISH : Z_SYNC_FLUSH) == (last ? Z_STREAM_END : Z_OK) && z.avail_in == 0;
        strip->size = head + z.total_out;
    }
    deflateEnd(&z);
    w->checks[index] = adler32(1, filtered + before, (unsigned)(bytes - before));
    return good;
}

static bool make_strip(const struct work *w, size_t index) {
    size_t begin = index * w->rows, end = asdm_size_least(begin + w->rows, w->height);
    size_t before = w->level ? asdm_size_least(begin, (WINDOW_BYTES + w->row_bytes - 1) / w->row_bytes) : 0;
    uint8_t *filtered = filter_rows(w, begin - before, end);
    bool good =
        filtered && deflate_rows(w, index, filtered, before * w->row_bytes, (end - begin + before) * w->row_bytes);
    free(filtered);
    return good;
}

static void *make_strips(void *user) {
    struct work *w = user;
    for (size_t index; (index = atomic_fetch_add(&w->next, 1)) < w->count && !atomic_load(&w->failed);)
        if (!make_strip(w, index))
            atomic_store(&w->failed, true);
    return NULL;
}

/* Threads beside this one: fewer where there are none to be had. */
static void make_all(struct work *w) {
    pthread_t helpers[THREADS_MAX - 1];
    cpu_set_t own;
    size_t started = 0, processors = sched_getaffinity(0, sizeof own, &own) == 0 ? (size_t)CPU_COUNT(&own) : 1;
    size_t wanted = asdm_size_least(asdm_size_least(processors, THREADS_MAX), w->count) - 1;
    while (started < wanted && pthread_create(&helpers[started], NULL, make_strips, w) == 0)
        started++;
    make_strips(w);
    while (started)
        pthread_join(helpers[--started], NULL);
}

/* Header and check of the zlib stream (RFC 1950, 2.2). */
static void frame(const struct work *w) {
    struct asdm_png_strip *last = &w->strips[w->count - 1];
    unsigned long check = w->checks[0];
    for (size_t i = 1; i < w->count; i++) {
        size_t rows = asdm_size_least(w->rows, w->height - i * w->rows);
        check = adler32_combine(check, w->checks[i], (z_off_t)(rows * w->row_bytes));
    }
    memcpy(w->strips[0].data, "\x78\x01", HEADER_BYTES); /* deflate, a window of 32 KiB, the fastest */
    for (int i = 0; i < CHECK_BYTES; i++)
        last->data[last->size++] = (unsigned char)(check >> (24 - 8 * i));
}

bool asdm_png_strips(const uint8_t *rgb, size_t width, size_t height, int level, struct asdm_png_strip **ret,
                     size_t *ret_count) {
    struct work w = {.rgb = rgb, .row_bytes = 1 + width * CHANNELS, .height = height, .level = level};
    w.rows = STRIP_BYTES / w.row_bytes;
    w.rows = asdm_size_least(w.rows ? w.rows : 1, height);
    w.count = (height + w.rows - 1) / w.rows;
    w.strips = calloc(w.count, sizeof *w.strips);
    w.checks = calloc(w.count, sizeof *w.checks);
    uint8_t *nothing = calloc(1, w.row_bytes);
    w.nothing = nothing;
    bool good = w.strips && w.checks && nothing;
    if (good) {
        make_all(&w);
        good = !atomic_load(&w.failed);
    }
    if (good) {
        frame(&w);
        *ret = w.strips;
        *ret_count = w.count;
    } else {
        asdm_png_strips_done(w.strips, w.strips ? w.count : 0);
    }
    free(w.checks);
    free(nothing);
    return good;
}

void asdm_png_strips_done(struct asdm_png_strip *strips, size_t count) {
    for (size_t i = 0; i < count; i++)
        free(strips[i].data);
    free(strips);
}
