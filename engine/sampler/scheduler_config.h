/* scheduler/scheduler_config.json: the noise schedule a checkpoint was trained with, and what it says about
 * samplers. */
#ifndef ASDM_SCHEDULER_CONFIG_H
#define ASDM_SCHEDULER_CONFIG_H

#include <stdbool.h>

#include <asdm/status.h>
#include <asdm/json.h>

enum asdm_prediction { ASDM_PREDICT_EPSILON, ASDM_PREDICT_V };
enum asdm_timestep_spacing { ASDM_SPACING_LEADING, ASDM_SPACING_LINSPACE, ASDM_SPACING_TRAILING };
enum asdm_beta_schedule { ASDM_BETA_LINEAR, ASDM_BETA_SCALED_LINEAR, ASDM_BETA_SQUAREDCOS_CAP_V2 };
enum asdm_final_sigma { ASDM_FINAL_SIGMA_ZERO, ASDM_FINAL_SIGMA_MIN };
enum asdm_variance { ASDM_VARIANCE_FIXED_SMALL, ASDM_VARIANCE_FIXED_SMALL_LOG, ASDM_VARIANCE_FIXED_LARGE };
enum asdm_solver_type { ASDM_SOLVER_MIDPOINT, ASDM_SOLVER_HEUN, ASDM_SOLVER_BH1, ASDM_SOLVER_BH2, ASDM_SOLVER_LOGRHO };
enum asdm_algorithm {
    ASDM_ALGORITHM_DPMSOLVERPP,
    ASDM_ALGORITHM_SDE_DPMSOLVERPP,
    ASDM_ALGORITHM_DPMSOLVER,
    ASDM_ALGORITHM_SDE_DPMSOLVER,
    ASDM_ALGORITHM_DEIS
};

enum {
    ASDM_TRAIN_STEPS_MAX = 10000,
    ASDM_SOLVER_ORDER_MAX = 4,
    ASDM_CORRECTOR_OFF_MAX = 64, /* entries of disable_corrector */
    ASDM_SCHEDULER_CONFIG_BYTES_MAX = 1 << 20
};

/* An absent key means what diffusers' class of the sampler IN USE would assume, and classes differ, so absence is
 * kept: -1 in the int fields marked so, NAN in the double fields marked so. Every other field holds diffusers'
 * default when its key is absent, the same in all classes. A key that a sampler's class does not have is ignored by
 * that sampler. */
struct asdm_scheduler_config {
    char class_name[64]; /* "_class_name"; "" when absent */

    int train_steps;       /* num_train_timesteps */
    double beta_start;     /* NAN: absent */
    double beta_end;       /* NAN: absent */
    int beta_schedule;     /* -1: absent, else enum asdm_beta_schedule */
    double *trained_betas; /* [train_steps], or NULL */
    bool rescale_betas_zero_snr;
    enum asdm_prediction prediction;

    int spacing;                                       /* -1: absent, else enum asdm_timestep_spacing */
    int steps_offset;                                  /* -1: absent, which is 0 in all classes */
    int set_alpha_to_one, clip_sample, skip_prk_steps; /* -1: absent, 0, 1 */
    double clip_sample_range;
    bool thresholding; /* refused by the samplers that would heed it */

    bool use_karras_sigmas, use_exponential_sigmas, use_lu_lambdas, use_beta_sigmas;
    double sigma_min, sigma_max; /* NAN: absent; ends of the Karras and exponential schedules */
    enum asdm_final_sigma final_sigma;
    bool interpolates_log; /* interpolation_type log_linear (euler) */
    bool continuous_time;  /* timestep_type continuous (euler with v_prediction) */

    enum asdm_algorithm algorithm;
    int solver_order;
    int solver_type; /* -1: absent, else enum asdm_solver_type */
    bool lower_order_final, euler_at_final;
    double lambda_min_clipped; /* -INFINITY: not clipped */
    bool predict_x0;
    int corrector_off_count;
    int corrector_off[ASDM_CORRECTOR_OFF_MAX]; /* disable_corrector */

    enum asdm_variance variance;
    int original_inference_steps;
    double timestep_scaling;
};

/* Reads the object `json`; messages start with `name`, the file's path. Each key that diffusers' scheduler classes
 * write is honoured, or refused by name (ERR_UNSUPPORTED) where its value would change the result and is not
 * supported. Keys that only matter together with a refused one are ignored, and so are keys starting with '_'. An
 * unknown key is refused too: it stands for behaviour that this program would silently leave out. Free with
 * asdm_scheduler_config_done. */
enum asdm_status asdm_scheduler_config_parse(const struct asdm_json *json, const char *name,
                                             struct asdm_scheduler_config *ret, struct asdm_error *err);

/* Reads scheduler_config.json at `path`. diffusers writes the value of lambda_min_clipped as -Infinity, which is no
 * JSON; in this place, and only here, it is accepted. */
enum asdm_status asdm_scheduler_config_read(const char *path, struct asdm_scheduler_config *ret,
                                            struct asdm_error *err);

/* What an empty object means, with the betas of Stable Diffusion 1.x: scaled_linear from 0.00085 to 0.012, no
 * clipping, steps_offset 1, no Runge-Kutta start. For checkpoints in one file, which carry no scheduler. */
void asdm_scheduler_config_init(struct asdm_scheduler_config *ret);

/* What diffusers' StableDiffusionPipeline does to the configuration it loads, whatever the sampler: a steps_offset
 * that is given becomes 1, a clip_sample that is true becomes false. Its i2i pipeline (`from_image`) does so too
 * where the keys are absent. Parsing leaves the file's values as they are; a caller that follows the pipelines
 * calls this after. */
void asdm_scheduler_config_follow_pipeline(struct asdm_scheduler_config *config, bool from_image);

void asdm_scheduler_config_done(struct asdm_scheduler_config *config);

#endif
