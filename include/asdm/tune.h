/* Choosing kernels by measurement: which implementation of each product, with which tiles, is fastest on this device.
 * The choices are kept in a plan file (asdm_model_options.plan). */
#ifndef ASDM_TUNE_H
#define ASDM_TUNE_H

#include <asdm/model.h>

#ifdef __cplusplus
extern "C" {
#endif

struct asdm_tune_options {
    const int *rows; /* of the UNet: each is taken to the next lower number that plans are made for */
    int row_count;
    int width, height; /* pixels */
    const char *plan;  /* the file; plans that it has for other devices, versions and types stay */
};

/* One choice, in microseconds of the device. */
struct asdm_tune_line {
    const char *operation, *implementation, *built_in; /* valid during the call only */
    int rows, candidates;
    double us, built_in_us;
};

struct asdm_tune_watch {
    void *user;
    void (*part)(void *user, const char *what, int rows); /* "unet", "text", ...: is measured next */
    void (*line)(void *user, const struct asdm_tune_line *line);
    bool (*stop)(void *user); /* asked before each part; true: nothing is written */
};

/* Measures every product of the UNet at the given numbers of rows, of the text encoder and of the autoencoder, and
 * writes the file. The model must have been opened without a plan and not used yet. With batch invariance (that is,
 * unless the model is batch_dependent) an operation gets kernels of one order of summation for all numbers of rows, and
 * only those whose bits were seen not to depend on it. ERR_UNSUPPORTED on devices without such choices, ERR_CANCELLED
 * when stopped. */
enum asdm_status asdm_tune_run(struct asdm_model *model, const struct asdm_tune_options *options,
                               const struct asdm_tune_watch *watch, struct asdm_error *err);

#ifdef __cplusplus
}
#endif
#endif
