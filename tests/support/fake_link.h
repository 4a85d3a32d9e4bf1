/* front/link/link.h without a process: a worker that draws by rule, on the dispatcher's thread. A prompt says what
 * becomes of its picture: "crash" kills the worker at its first step, "crash once" the first time only, "choke" kills
 * it before the first step, "wrong" fails alone; all others are drawn, each byte being the seed's last. */
#ifndef ASDM_TESTS_FAKE_LINK_H
#define ASDM_TESTS_FAKE_LINK_H

#include <stdint.h>

enum { FAKE_LOG_MAX = 4096 };

/* What the worker can hold, and how fast it is. Before jobs_create. */
struct fake_options {
    int rows_max, pictures_max, step_ms;
    uint64_t row_pixels_max;
    int load_ms; /* 0: ready at once */
};
void fake_reset(const struct fake_options *options);

/* From any thread. */
void fake_hold(int held); /* no step is done while it is held */
void fake_kill(void);     /* the worker dies at the next turn */

/* What was seen since the reset. */
struct fake_seen {
    int submitted, cancelled, previews, deaths;
    int rows_most, waiting_most; /* at once: in a step; not begun though in the worker */
    int crowded;                 /* a picture ran beside one of whose runs a death had ended before */
    uint64_t row_pixels_most;
    uint64_t seeds[FAKE_LOG_MAX]; /* in the order of submission */
    double last_submit;           /* monotonic seconds */
    int init_sum;                 /* of the last init image's bytes; -1: none */
};
void fake_look(struct fake_seen *ret);

#endif
