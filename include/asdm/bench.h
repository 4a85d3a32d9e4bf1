/* Measuring the parts of a model by themselves. */
#ifndef ASDM_BENCH_H
#define ASDM_BENCH_H

#include <asdm/model.h>

#ifdef __cplusplus
extern "C" {
#endif

enum asdm_bench_what { ASDM_BENCH_UNET, ASDM_BENCH_TEXT, ASDM_BENCH_VAE_ENCODE, ASDM_BENCH_VAE_DECODE };

/* Times `runs` calls of one part, after two that are not counted, into ret_seconds. `rows` pictures (text: prompts) of
 * width x height. */
enum asdm_status asdm_bench_run(struct asdm_model *model, enum asdm_bench_what what, int rows, int width, int height,
                                int runs, double *ret_seconds, struct asdm_error *err);

/* One such call by operation, implementation and shape, slowest first: what a roofline is made of. */
struct asdm_bench_line {
    char op[32], kernel[48];
    char shape[48]; /* "64x64 320->640 k3", "4096 320->2560 geglu", "4096x77 d40 h8", "64x64 d40 h8 window 16/4" */
    int count;
    double seconds;
    double gmac;  /* that the operations need; convolutions of upsampled maps on four folded taps instead of nine */
    double bytes; /* that must be moved: each input and weight read once, each result written once */
};
/* *ret_whole_seconds: what a device takes for the call as one piece, over and over; 0 on a CPU. */
enum asdm_status asdm_bench_profile(struct asdm_model *model, enum asdm_bench_what what, int rows, int width,
                                    int height, struct asdm_bench_line *lines, int room, int *ret_count,
                                    double *ret_whole_seconds, struct asdm_error *err);

#ifdef __cplusplus
}
#endif
#endif
