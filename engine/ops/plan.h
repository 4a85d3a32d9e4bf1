/* A plan: one rate of a program, for a number of rows and a picture size, on a back end. Kernels chosen, memory
 * assigned by lifetime, weights laid out; running it only executes. */
#ifndef ASDM_PLAN_H
#define ASDM_PLAN_H

#include "ops/backend.h"

struct asdm_plan;

/* `height` and `width` are the latents'. Reads and results of other rates, and the caller's inputs and outputs, are
 * bound before a run; the rest lives in the plan. ERR_MEMORY before anything large is allocated. */
enum asdm_status asdm_plan_create(const struct asdm_program *program, struct asdm_backend *backend,
                                  struct asdm_weight_store *weights, enum asdm_rate rate, int rows, int height,
                                  int width, struct asdm_plan **ret, struct asdm_error *err);
void asdm_plan_destroy(struct asdm_plan **plan);

/* Whether such a plan could fit at all: ERR_MEMORY without allocating, laying out or building anything. *ret_bytes (may
 * be NULL): the memory that its values need at once at least. */
enum asdm_status asdm_plan_check(const struct asdm_program *program, struct asdm_backend *backend, enum asdm_rate rate,
                                 int rows, int height, int width, size_t *ret_bytes, struct asdm_error *err);

/* Bytes of one row of a value: float32 or int32 for the caller's inputs and outputs, the back end's type otherwise. */
size_t asdm_plan_row_bytes(const struct asdm_plan *plan, int value);
/* Where a bound value's row 0 is; rows are dense: in the caller's own memory for its inputs and outputs, in the back
 * end's (asdm_backend_map) for all others. Valid for all runs until bound again. */
void asdm_plan_bind(struct asdm_plan *plan, int value, void *memory);
/* Which row of the values of `rate` each row of the plan reads: `rows` numbers. */
void asdm_plan_map_rows(struct asdm_plan *plan, enum asdm_rate rate, const int32_t *map);
/* Whether a value must be bound. */
bool asdm_plan_is_bound_value(const struct asdm_plan *plan, int value);

/* Returns when the results are there. Fails (ERR_DEVICE) on devices alone, and then for good. */
enum asdm_status asdm_plan_run(struct asdm_plan *plan, struct asdm_error *err);
/* Runs on from operation *position (0: the first) until all are done (*ret_done) or the monotonic clock shows
 * `deadline` seconds: at least one operation is run, on a device all. Another plan may run in between; bindings must
 * stay. */
enum asdm_status asdm_plan_run_until(struct asdm_plan *plan, int *position, double deadline, bool *ret_done,
                                     struct asdm_error *err);

/* Bytes of the plan's own memory. */
size_t asdm_plan_bytes(const struct asdm_plan *plan);

/* Runs once, and calls `report` for each operation with its time in seconds (on a device, that of the device alone). */
typedef void asdm_plan_report(void *user, const struct asdm_site *site, const struct asdm_kernel *kernel,
                              double seconds);
/* Seconds that a device takes for the whole plan, run after run without waiting for the caller. 0 without a device. */
double asdm_plan_device_seconds(const struct asdm_plan *plan);
void asdm_plan_profile(const struct asdm_plan *plan, asdm_plan_report *report, void *user);

#endif
