/* Samplers and noise schedules by name, and what a checkpoint's scheduler configuration lets them do. Needs no weights,
 * so a front end can check requests and price them without opening the model. */
#ifndef ASDM_SAMPLING_H
#define ASDM_SAMPLING_H

#include <asdm/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Sampler number i, from 0: its canonical name ("euler_a") and the one A1111 shows ("Euler a"); NULL past the end. */
const char *asdm_sampling_sampler_name(int i);
const char *asdm_sampling_sampler_label(int i);
/* The same for schedules: "karras", "Karras"; the first is "default", "Automatic". */
const char *asdm_sampling_schedule_name(int i);
const char *asdm_sampling_schedule_label(int i);

struct asdm_sampling; /* one checkpoint's scheduler configuration */

/* `model` as for asdm_model_open; only its configuration files are read. */
enum asdm_status asdm_sampling_open(const char *model, struct asdm_sampling **ret, struct asdm_error *err);
void asdm_sampling_close(struct asdm_sampling **sampling);

struct asdm_sampling_choice {
    const char *sampler, *schedule; /* canonical names, static */
    int evaluations;                /* calls of the UNet that one picture takes */
    int steps;                      /* steps really done: fewer than asked for where strength < 1 */
};

/* `sampler`, `schedule`: any known name, NULL for the checkpoint's. `strength` < 0: text-to-image. ERR_ARGUMENT or
 * ERR_UNSUPPORTED starts with the field ("sampler ...", "schedule ...", "steps ...") and says what it may be. */
enum asdm_status asdm_sampling_resolve(const struct asdm_sampling *sampling, const char *sampler, const char *schedule,
                                       int steps, double strength, struct asdm_sampling_choice *ret,
                                       struct asdm_error *err);

#ifdef __cplusplus
}
#endif
#endif
