/* The text chunks of a PNG, which asdm/png.h ignores. Nothing is unpacked. */
#ifndef ASDM_FRONT_PNG_TEXT_H
#define ASDM_FRONT_PNG_TEXT_H

#include <stddef.h>

#include "front/problem.h"

enum { PNG_TEXTS_MAX = 64, PNG_TEXT_BYTES_MAX = 1 << 20 /* of all together, as they are in the file */ };

struct png_texts {
    struct {
        char *key, *value; /* UTF-8 */
    } items[PNG_TEXTS_MAX];
    int count;
};

/* Reads tEXt and uncompressed iTXt; of several with one key the last counts. 422 naming `field`: not a PNG, damaged,
 * too much text, or compressed text (zTXt, iTXt). Checksums are not looked at. */
bool png_texts_read(const unsigned char *data, size_t size, const char *field, struct png_texts *ret,
                    struct problem *ret_problem);
void png_texts_done(struct png_texts *texts);
/* NULL: there is none of that key. */
const char *png_texts_find(const struct png_texts *texts, const char *key);

#endif
