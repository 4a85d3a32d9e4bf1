/* The configuration of a light model: the original's unet/config.json with what differs. */
#ifndef ASDM_LIGHT_STUDENT_CONFIG_H
#define ASDM_LIGHT_STUDENT_CONFIG_H

#include <asdm/light.h>

#include "model/config.h"

struct asdm_student {
    const struct asdm_unet_config *config;
    const struct asdm_unit *units; /* the original's */
    int unit_count;
    unsigned removed; /* bits among the units */
    const struct asdm_light_options *options;
    const char *weights; /* the original's file, for its hash */
};

/* Reads the original's configuration `from`, writes the student's to `to`. */
enum asdm_status asdm_student_config_write(const struct asdm_student *student, const char *from, const char *to,
                                           struct asdm_error *err);

#endif
