/* An analysis as it is kept: its JSON file, and whether two are of the same thing. */
#ifndef ASDM_LIGHT_ANALYSIS_H
#define ASDM_LIGHT_ANALYSIS_H

#include <asdm/analyze.h>

enum { ASDM_ANALYSIS_BYTES_MAX = 64 << 20, ASDM_ANALYSIS_VERSION = 1 };

/* An analysis of `model` with these options, whose size is set, without trials. */
enum asdm_status asdm_analysis_create(const struct asdm_model *model, const struct asdm_analyze_options *options,
                                      struct asdm_analysis **ret, struct asdm_error *err);

/* Appends a trial; ERR_MEMORY. */
enum asdm_status asdm_analysis_add(struct asdm_analysis *analysis, const struct asdm_trial *trial,
                                   struct asdm_error *err);

/* Copies the names; false: no memory, what was copied is destroyed with the analysis. */
bool asdm_analysis_set_texts(struct asdm_analysis *analysis, const char *model, const char *device, const char *dtype,
                             const char *sampler);
enum asdm_status asdm_analysis_no_memory(struct asdm_error *err);

/* Whether trials of `there` are trials of `here`, which is of `model`; ERR_ARGUMENT says what differs. */
enum asdm_status asdm_analysis_same(const struct asdm_analysis *here, const struct asdm_analysis *there,
                                    const struct asdm_model *model, struct asdm_error *err);

/* Written beside, synced, renamed. `complete`: all that was asked for is there. */
enum asdm_status asdm_analysis_write(const struct asdm_analysis *analysis, const char *path, bool complete,
                                     struct asdm_error *err);

#endif
