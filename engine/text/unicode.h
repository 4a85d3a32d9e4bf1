/* The text rules of CLIP's tokenizer below the words: UTF-8, normal form C, white space, lower case, and which code
 * points are letters and numbers, as the Rust `tokenizers` crate (0.23) has them. That crate mixes three versions of
 * Unicode (9 for normal form C, 16 for letters and numbers, 17 for lower case), and so does this file. */
#ifndef ASDM_UNICODE_H
#define ASDM_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <asdm/status.h>

enum asdm_unicode_class {
    ASDM_UNICODE_OTHER,
    ASDM_UNICODE_LETTER, /* general category L* */
    ASDM_UNICODE_NUMBER, /* general category N* */
    ASDM_UNICODE_SPACE,  /* property White_Space */
};

/* Reads one code point of well-formed UTF-8 (no surrogates, no overlong forms, nothing past U+10FFFF). Returns its
 * bytes, 1 to 4, or 0 where `text` does not start with one. */
size_t asdm_unicode_decode(const unsigned char *text, size_t length, uint32_t *ret_point);

/* Writes a code point's UTF-8 and returns its bytes. */
size_t asdm_unicode_encode(uint32_t point, unsigned char ret_text[4]);

/* Is the whole text well-formed UTF-8? If not, *ret_offset is the first bad byte. */
bool asdm_unicode_check(const unsigned char *text, size_t length, size_t *ret_offset);

enum asdm_unicode_class asdm_unicode_class(uint32_t point);

/* Growing buffers of asdm_unicode_fold, kept over many calls. Starts zeroed. */
struct asdm_unicode_folder {
    unsigned char *text; /* the last result */
    size_t length;       /* bytes */
    int32_t *points, *order;
    size_t text_capacity, points_capacity, order_capacity;
};

/* Normal form C, then each run of white space as one blank, then each code point in lower case (by itself: no final
 * sigma, no locale). `text` must be well-formed UTF-8. The result is in folder->text until the next call. Time is
 * linear in `length`. ERR_MEMORY. */
enum asdm_status asdm_unicode_fold(struct asdm_unicode_folder *folder, const unsigned char *text, size_t length,
                                   struct asdm_error *err);
void asdm_unicode_folder_done(struct asdm_unicode_folder *folder);

#endif
