#include <asdm/sampling.h>

#include <stdio.h>
#include <stdlib.h>

#include <asdm/error.h>
#include "base/file.h"
#include "sampler/sampler.h"

const char *asdm_sampling_sampler_name(int i) {
    return i >= 0 && i < ASDM_SAMPLER_COUNT ? asdm_sampler_name((enum asdm_sampler)i) : NULL;
}

const char *asdm_sampling_sampler_label(int i) {
    return i >= 0 && i < ASDM_SAMPLER_COUNT ? asdm_sampler_label((enum asdm_sampler)i) : NULL;
}

const char *asdm_sampling_schedule_name(int i) {
    return i >= 0 && i < ASDM_SCHEDULE_COUNT ? asdm_schedule_name((enum asdm_schedule)i) : NULL;
}

const char *asdm_sampling_schedule_label(int i) {
    return i >= 0 && i < ASDM_SCHEDULE_COUNT ? asdm_schedule_label((enum asdm_schedule)i) : NULL;
}

struct asdm_sampling {
    struct asdm_scheduler_config config;
};

enum asdm_status asdm_sampling_open(const char *model, struct asdm_sampling **ret, struct asdm_error *err) {
    struct asdm_sampling *sampling = calloc(1, sizeof *sampling);
    if (!sampling)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for a scheduler configuration");
    enum asdm_status status = ASDM_OK;
    if (asdm_file_is_directory(model)) {
        char path[4096];
        snprintf(path, sizeof path, "%s/scheduler/scheduler_config.json", model);
        status = asdm_scheduler_config_read(path, &sampling->config, err);
        if (status == ASDM_OK)
            asdm_scheduler_config_follow_pipeline(&sampling->config, false);
    } else if (asdm_file_exists(model)) {
        asdm_scheduler_config_init(&sampling->config); /* one file carries no scheduler */
    } else {
        status = asdm_fail(err, ASDM_ERR_NOT_FOUND, "%s: no such model directory or file", model);
    }
    if (status != ASDM_OK) {
        free(sampling);
        return status;
    }
    *ret = sampling;
    return ASDM_OK;
}

void asdm_sampling_close(struct asdm_sampling **sampling) {
    if (!*sampling)
        return;
    asdm_scheduler_config_done(&(*sampling)->config);
    free(*sampling);
    *sampling = NULL;
}

enum asdm_status asdm_sampling_resolve(const struct asdm_sampling *sampling, const char *sampler, const char *schedule,
                                       int steps, double strength, struct asdm_sampling_choice *ret,
                                       struct asdm_error *err) {
    enum asdm_sampler which = asdm_sampler_default(&sampling->config);
    enum asdm_schedule spacing = ASDM_SCHEDULE_DEFAULT;
    struct asdm_sampler_table *table;
    if (sampler)
        ASDM_TRY(asdm_sampler_find(sampler, &which, &spacing, err));
    if (schedule)
        ASDM_TRY(asdm_schedule_find(schedule, &spacing, err));
    ASDM_TRY(asdm_sampler_table_build(&sampling->config, which, spacing, steps, strength, &table, err));
    *ret = (struct asdm_sampling_choice){asdm_sampler_name(which), asdm_schedule_name(spacing), table->row_count,
                                         table->step_count};
    free(table);
    return ASDM_OK;
}
