/* Nearest upsampling by 2 followed by a 3x3 convolution is four 2x2 convolutions of the small map, one per parity of
 * the output's place: neighbouring taps that fall on one pixel are summed. */
#ifndef ASDM_FOLD_H
#define ASDM_FOLD_H

#include <string.h>

/* [3][3] -> [2][2] for outputs of row parity `phase_y` and column parity `phase_x`: for even ones the taps are {0},
 * {1, 2}, for odd ones {0, 1}, {2}. Summed in float32. */
static inline void asdm_fold_taps(const float *kernel, int phase_y, int phase_x, float folded[4]) {
    memset(folded, 0, 4 * sizeof *folded);
    for (int y = 0; y < 3; y++)
        for (int x = 0; x < 3; x++) {
            int to_y = phase_y ? y == 2 : y > 0, to_x = phase_x ? x == 2 : x > 0;
            folded[to_y * 2 + to_x] += kernel[y * 3 + x];
        }
}

#endif
