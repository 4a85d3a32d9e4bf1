/* See unicode.h. Categories, decompositions, compositions and lower case come from utf8proc (2.8: Unicode 15); the
 * tables below are what the crate has otherwise, found by comparing the two over every code point
 * (tests/golden/test_tokenizer.py repeats that comparison). */
#include "text/unicode.h"

#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include <asdm/error.h>
#include "base/size.h"

struct range {
    uint32_t first, last;
};

/* Letters of Unicode 15.1 and 16 that utf8proc 2.8 does not know. */
static const struct range newer_letters[] = {
    {0x1C89, 0x1C8A},   {0xA7CB, 0xA7CD},   {0xA7DA, 0xA7DC},   {0x105C0, 0x105F3}, {0x10D4A, 0x10D65},
    {0x10D6F, 0x10D85}, {0x10EC2, 0x10EC4}, {0x11380, 0x11389}, {0x1138B, 0x1138B}, {0x1138E, 0x1138E},
    {0x11390, 0x113B5}, {0x113B7, 0x113B7}, {0x113D1, 0x113D1}, {0x113D3, 0x113D3}, {0x11BC0, 0x11BE0},
    {0x13460, 0x143FA}, {0x16100, 0x1611D}, {0x16D40, 0x16D6C}, {0x18CFF, 0x18CFF}, {0x1E5D0, 0x1E5ED},
    {0x1E5F0, 0x1E5F0}, {0x2EBF0, 0x2EE5D},
};

static const struct range newer_numbers[] = {
    {0x10D40, 0x10D49}, {0x116D0, 0x116E3}, {0x11BF0, 0x11BF9}, {0x16130, 0x16139},
    {0x16D70, 0x16D79}, {0x1CCF0, 0x1CCF9}, {0x1E5F1, 0x1E5FA},
};

/* Code points that nothing composes with and that nothing moves across, whatever utf8proc thinks. Most are marks and
 * composites that Unicode got after version 9, which the crate takes for unassigned (up to Unicode 15 one by one; for
 * an utf8proc newer than 2.8, what later versions added, some as whole blocks). U+11A7 is one before the first Hangul
 * final consonant: utf8proc 2.8 swallows it after a syllable. */
static const struct range inert[] = {
    {0x7FD, 0x7FD},     {0x897, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},     {0xC3C, 0xC3C},
    {0xD3B, 0xD3C},     {0xEBA, 0xEBA},     {0x11A7, 0x11A7},   {0x1715, 0x1715},   {0x1ABF, 0x1AEB},
    {0x1DF6, 0x1DFA},   {0xA82C, 0xA82C},   {0x105C0, 0x105F3}, {0x10D24, 0x10D27}, {0x10D40, 0x10D8F},
    {0x10EAB, 0x10EAC}, {0x10EFA, 0x10EFF}, {0x10F46, 0x10F50}, {0x10F82, 0x10F85}, {0x11070, 0x11070},
    {0x1133B, 0x1133B}, {0x11380, 0x113FF}, {0x1145E, 0x1145E}, {0x11839, 0x1183A}, {0x11930, 0x11930},
    {0x11938, 0x11938}, {0x1193D, 0x1193E}, {0x11943, 0x11943}, {0x119E0, 0x119E0}, {0x11A34, 0x11A34},
    {0x11A47, 0x11A47}, {0x11A99, 0x11A99}, {0x11D42, 0x11D42}, {0x11D44, 0x11D45}, {0x11D97, 0x11D97},
    {0x11F41, 0x11F42}, {0x16100, 0x1613F}, {0x16D40, 0x16D7F}, {0x16FF0, 0x16FF1}, {0x1E08F, 0x1E08F},
    {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF}, {0x1E5D0, 0x1E5FF},
    {0x1E6C0, 0x1E6FF},
};

/* Lower case of Unicode 16 and 17. */
static const struct {
    uint32_t first, last, lower; /* `lower` of `first`; those after it follow in step */
} newer_lower[] = {
    {0x1C89, 0x1C89, 0x1C8A},    {0xA7CB, 0xA7CB, 0x264},     {0xA7CC, 0xA7CC, 0xA7CD}, {0xA7CE, 0xA7CE, 0xA7CF},
    {0xA7D2, 0xA7D2, 0xA7D3},    {0xA7D4, 0xA7D4, 0xA7D5},    {0xA7DA, 0xA7DA, 0xA7DB}, {0xA7DC, 0xA7DC, 0x19B},
    {0x10D50, 0x10D65, 0x10D70}, {0x16EA0, 0x16EB8, 0x16EBB},
};

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static bool in_ranges(uint32_t point, const struct range *ranges, size_t count) {
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (ranges[middle].last < point)
            low = middle + 1;
        else
            high = middle;
    }
    return low < count && ranges[low].first <= point;
}

size_t asdm_unicode_decode(const unsigned char *text, size_t length, uint32_t *ret_point) {
    if (length == 0)
        return 0;
    uint32_t point = text[0];
    if (point < 0x80) {
        *ret_point = point;
        return 1;
    }
    size_t size = point >= 0xC2 && point < 0xE0   ? 2
                  : (point & 0xF0) == 0xE0        ? 3
                  : point >= 0xF0 && point < 0xF5 ? 4
                                                  : 0;
    if (size == 0 || size > length)
        return 0;
    point &= 0x7Fu >> size;
    for (size_t i = 1; i < size; i++) {
        if ((text[i] & 0xC0) != 0x80)
            return 0;
        point = point << 6 | (text[i] & 0x3Fu);
    }
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    if (point < least[size] || point > 0x10FFFF || (point >= 0xD800 && point < 0xE000))
        return 0;
    *ret_point = point;
    return size;
}

size_t asdm_unicode_encode(uint32_t point, unsigned char ret_text[4]) {
    if (point < 0x80) {
        ret_text[0] = (unsigned char)point;
        return 1;
    }
    size_t size = point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
    for (size_t i = size - 1; i > 0; i--, point >>= 6)
        ret_text[i] = (unsigned char)(0x80 | (point & 0x3F));
    ret_text[0] = (unsigned char)((0xF00u >> size) | point);
    return size;
}

bool asdm_unicode_check(const unsigned char *text, size_t length, size_t *ret_offset) {
    for (size_t i = 0, size; i < length; i += size) {
        uint32_t point;
        size = asdm_unicode_decode(text + i, length - i, &point);
        if (size == 0) {
            *ret_offset = i;
            return false;
        }
    }
    return true;
}

static bool is_space(uint32_t point) {
    return (point >= 9 && point <= 13) || point == ' ' || point == 0x85 || point == 0xA0 || point == 0x1680 ||
           (point >= 0x2000 && point <= 0x200A) || point == 0x2028 || point == 0x2029 || point == 0x202F ||
           point == 0x205F || point == 0x3000;
}

enum asdm_unicode_class asdm_unicode_class(uint32_t point) {
    if (is_space(point))
        return ASDM_UNICODE_SPACE;
    if (point < 0x80) {
        if ((point | 0x20) >= 'a' && (point | 0x20) <= 'z')
            return ASDM_UNICODE_LETTER;
        return point >= '0' && point <= '9' ? ASDM_UNICODE_NUMBER : ASDM_UNICODE_OTHER;
    }
    switch (utf8proc_category((utf8proc_int32_t)point)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
        return ASDM_UNICODE_LETTER;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
        return ASDM_UNICODE_NUMBER;
    case UTF8PROC_CATEGORY_CN:
        if (in_ranges(point, newer_letters, COUNT(newer_letters)))
            return ASDM_UNICODE_LETTER;
        return in_ranges(point, newer_numbers, COUNT(newer_numbers)) ? ASDM_UNICODE_NUMBER : ASDM_UNICODE_OTHER;
    default:
        return ASDM_UNICODE_OTHER;
    }
}

static uint32_t lower_case(uint32_t point) {
    if (point < 0x80)
        return point >= 'A' && point <= 'Z' ? point | 0x20 : point;
    uint32_t lower = (uint32_t)utf8proc_tolower((utf8proc_int32_t)point);
    for (size_t i = 0; lower == point && i < COUNT(newer_lower); i++)
        if (point >= newer_lower[i].first && point <= newer_lower[i].last)
            lower = newer_lower[i].lower + (point - newer_lower[i].first);
    return lower;
}

static enum asdm_status reserve(void **buffer, size_t *capacity, size_t count, size_t item, struct asdm_error *err) {
    size_t size;
    if (count <= *capacity)
        return ASDM_OK;
    if (count < 2 * *capacity)
        count = 2 * *capacity;
    if (!asdm_size_mul(count, item, &size))
        return asdm_fail(err, ASDM_ERR_MEMORY, "out of memory for a text of %zu items", count);
    void *grown = realloc(*buffer, size);
    if (!grown)
        return asdm_fail(err, ASDM_ERR_MEMORY, "out of memory for %zu bytes of text", size);
    *buffer = grown;
    *capacity = count;
    return ASDM_OK;
}

static unsigned combining_class(int32_t point) {
    return point < 0x300 ? 0 : utf8proc_get_property(point)->combining_class;
}

/* A stable sort of combining marks by class. Long runs are counted into place: exchanging neighbours, as utf8proc does,
 * is quadratic in a run that a caller may make as long as the prompt. */
static enum asdm_status sort_marks(struct asdm_unicode_folder *folder, int32_t *marks, size_t count,
                                   struct asdm_error *err) {
    if (count <= 16) {
        for (size_t i = 1; i < count; i++) {
            int32_t mark = marks[i];
            size_t j = i;
            for (; j > 0 && combining_class(marks[j - 1]) > combining_class(mark); j--)
                marks[j] = marks[j - 1];
            marks[j] = mark;
        }
        return ASDM_OK;
    }
    ASDM_TRY(reserve((void **)&folder->order, &folder->order_capacity, count, sizeof *folder->order, err));
    size_t start[257] = {0};
    for (size_t i = 0; i < count; i++)
        start[combining_class(marks[i]) + 1]++;
    for (size_t i = 1; i < 257; i++)
        start[i] += start[i - 1];
    for (size_t i = 0; i < count; i++)
        folder->order[start[combining_class(marks[i])]++] = marks[i];
    memcpy(marks, folder->order, count * sizeof *marks);
    return ASDM_OK;
}

/* Puts decomposed code points in canonical order and composes them; *count shrinks. */
static enum asdm_status compose(struct asdm_unicode_folder *folder, int32_t *points, size_t *count,
                                struct asdm_error *err) {
    for (size_t i = 0, end; i < *count; i = end) {
        end = i + 1;
        if (combining_class(points[i]) == 0)
            continue;
        while (end < *count && combining_class(points[end]) != 0)
            end++;
        ASDM_TRY(sort_marks(folder, points + i, end - i, err));
    }
    utf8proc_ssize_t size =
        utf8proc_normalize_utf32(points, (utf8proc_ssize_t)*count, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    ASDM_ASSERT(size >= 0 && (size_t)size <= *count);
    *count = (size_t)size;
    return ASDM_OK;
}

/* Normal form C into folder->points. The text is cut at inert code points, which stay as they are. */
static enum asdm_status normalize(struct asdm_unicode_folder *folder, const unsigned char *text, size_t length,
                                  size_t *ret_count, struct asdm_error *err) {
    /* No canonical decomposition has more than 3 code points per 2 bytes of UTF-8. */
    size_t room = 2 * length + 4, begin = 0, count = 0, tail;
    ASDM_TRY(reserve((void **)&folder->points, &folder->points_capacity, room, sizeof *folder->points, err));
    int32_t *points = folder->points;
    for (size_t i = 0; i < length;) {
        uint32_t point = 0;
        i += asdm_unicode_decode(text + i, length - i, &point);
        if (point >= inert[0].first && in_ranges(point, inert, COUNT(inert))) {
            tail = count - begin;
            ASDM_TRY(compose(folder, points + begin, &tail, err));
            count = begin + tail;
            points[count++] = (int32_t)point;
            begin = count;
        } else if (point < 0xC0) {
            points[count++] = (int32_t)point;
        } else {
            int boundary = 0;
            utf8proc_ssize_t size =
                utf8proc_decompose_char((utf8proc_int32_t)point, points + count, (utf8proc_ssize_t)(room - count),
                                        UTF8PROC_DECOMPOSE | UTF8PROC_STABLE, &boundary);
            ASDM_ASSERT(size > 0 && (size_t)size <= room - count);
            count += (size_t)size;
        }
    }
    tail = count - begin;
    ASDM_TRY(compose(folder, points + begin, &tail, err));
    *ret_count = begin + tail;
    return ASDM_OK;
}

/* Appends one code point's folded form; `blank` is whether the text so far ends in folded white space. */
static size_t append_folded(unsigned char *text, size_t length, uint32_t point, bool *blank) {
    bool space = is_space(point);
    if (space && *blank)
        return length;
    *blank = space;
    if (space) {
        text[length] = ' ';
        return length + 1;
    }
    if (point == 0x130) { /* the one code point whose lower case is two: i and a dot above */
        text[length] = 'i';
        return length + 1 + asdm_unicode_encode(0x307, text + length + 1);
    }
    return length + asdm_unicode_encode(lower_case(point), text + length);
}

static bool is_ascii(const unsigned char *text, size_t length) {
    unsigned char seen = 0;
    for (size_t i = 0; i < length; i++)
        seen |= text[i];
    return seen < 0x80;
}

enum asdm_status asdm_unicode_fold(struct asdm_unicode_folder *folder, const unsigned char *text, size_t length,
                                   struct asdm_error *err) {
    bool ascii = is_ascii(text, length), blank = false;
    size_t count = length, folded = 0;
    if (!ascii)
        ASDM_TRY(normalize(folder, text, length, &count, err));
    size_t room = ascii ? count : 4 * count;
    ASDM_TRY(reserve((void **)&folder->text, &folder->text_capacity, room + 4, 1, err));
    for (size_t i = 0; i < count; i++)
        folded = append_folded(folder->text, folded, ascii ? text[i] : (uint32_t)folder->points[i], &blank);
    folder->length = folded;
    return ASDM_OK;
}

void asdm_unicode_folder_done(struct asdm_unicode_folder *folder) {
    free(folder->text);
    free(folder->points);
    free(folder->order);
    memset(folder, 0, sizeof *folder);
}
