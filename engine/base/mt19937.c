/* Matsumoto and Nishimura, "Mersenne Twister" (1998), in the form of their mt19937ar.c: 32-bit outputs, seeded by the
 * multiplier 1812433253. */
#include "base/rng.h"

enum { STATE_WORDS = 624, SHIFT_WORDS = 397 };

void asdm_mt19937_seed(struct asdm_mt19937 *mt, uint32_t seed) {
    mt->state[0] = seed;
    for (uint32_t i = 1; i < STATE_WORDS; i++) {
        uint32_t previous = mt->state[i - 1];
        mt->state[i] = 1812433253u * (previous ^ (previous >> 30)) + i;
    }
    mt->next = STATE_WORDS;
}

static uint32_t twist(uint32_t high, uint32_t low) {
    uint32_t mixed = (high & 0x80000000u) | (low & 0x7fffffffu);
    return (mixed >> 1) ^ ((low & 1u) ? 0x9908b0dfu : 0u);
}

static void refill(struct asdm_mt19937 *mt) {
    uint32_t *state = mt->state;
    for (int i = 0; i < STATE_WORDS; i++) {
        int one = i + 1 < STATE_WORDS ? i + 1 : 0;
        int far = i + SHIFT_WORDS < STATE_WORDS ? i + SHIFT_WORDS : i + SHIFT_WORDS - STATE_WORDS;
        state[i] = state[far] ^ twist(state[i], state[one]);
    }
    mt->next = 0;
}

uint32_t asdm_mt19937_next(struct asdm_mt19937 *mt) {
    if (mt->next >= STATE_WORDS)
        refill(mt);
    uint32_t y = mt->state[mt->next++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ (y >> 18);
}
