/* Philox4x32-10: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011). */
#include "base/rng.h"

#include <string.h>

enum { ROUNDS = 10 };

static void round_once(uint32_t counter[4], const uint32_t key[2]) {
    uint64_t product0 = (uint64_t)0xd2511f53u * counter[0];
    uint64_t product1 = (uint64_t)0xcd9e8d57u * counter[2];
    uint32_t mixed[4] = {
        (uint32_t)(product1 >> 32) ^ counter[1] ^ key[0],
        (uint32_t)product1,
        (uint32_t)(product0 >> 32) ^ counter[3] ^ key[1],
        (uint32_t)product0,
    };
    memcpy(counter, mixed, sizeof mixed);
}

void asdm_philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t ret[4]) {
    uint32_t words[4], round_key[2] = {key[0], key[1]};
    memcpy(words, counter, sizeof words);
    for (int i = 0; i < ROUNDS; i++) {
        round_once(words, round_key);
        round_key[0] += 0x9e3779b9u; /* the golden ratio and the square root of 3, as the paper's Weyl sequence */
        round_key[1] += 0xbb67ae85u;
    }
    memcpy(ret, words, sizeof words);
}
