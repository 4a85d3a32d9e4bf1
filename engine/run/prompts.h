/* Encoded prompts: what the UNet needs of a prompt, shared by the pictures that have the same one. */
#ifndef ASDM_PROMPTS_H
#define ASDM_PROMPTS_H

#include "run/internal.h"
#include "text/prompt.h"

struct asdm_prompt_entry;

/* The known prompts of a batch. */
struct asdm_prompts {
    struct asdm_model *model;
    struct asdm_prompt_entry *entries; /* the last used first */
};

void asdm_prompts_init(struct asdm_prompts *prompts, struct asdm_model *model);
void asdm_prompts_done(struct asdm_prompts *prompts);

/* The entry of a prompt, encoded in the precisions that are asked for: known, or computed now. */
enum asdm_status asdm_prompts_take(struct asdm_prompts *prompts, const struct asdm_prompt *prompt,
                                   const bool *precisions, struct asdm_prompt_entry **ret, struct asdm_error *err);
/* Some entries that nobody holds are kept for the next picture. */
void asdm_prompts_give(struct asdm_prompts *prompts, struct asdm_prompt_entry *entry);
/* Its slot in the denoiser of its number of chunks. */
int asdm_prompt_entry_slot(const struct asdm_prompt_entry *entry, enum asdm_precision precision);

#endif
