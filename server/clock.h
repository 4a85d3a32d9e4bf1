/* Time that only goes forward, for the programs: the engine's own is engine/base/clock.h, which they do not include. */
#ifndef CLOCK_H
#define CLOCK_H

#include <stdint.h>
#include <time.h>

static inline int64_t clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static inline int64_t clock_ms(void) {
    return clock_ns() / 1000000;
}

static inline double clock_seconds(void) {
    return (double)clock_ns() * 1e-9;
}

#endif
