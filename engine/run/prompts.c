#include "run/prompts.h"

#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>

struct asdm_prompt_entry {
    struct asdm_prompt_entry *next;
    int holders, chunks;
    int32_t *ids;                    /* [chunks][77] */
    float *weights;                  /* the same */
    int slots[ASDM_PRECISION_COUNT]; /* ASDM_NONE: not encoded in that precision */
};

void asdm_prompts_init(struct asdm_prompts *prompts, struct asdm_model *model) {
    *prompts = (struct asdm_prompts){.model = model};
}

static void destroy_entry(struct asdm_prompts *prompts, struct asdm_prompt_entry *entry) {
    for (int p = 0; p < ASDM_PRECISION_COUNT; p++)
        if (entry->slots[p] != ASDM_NONE)
            asdm_denoiser_drop_prompt(prompts->model->denoisers[p][entry->chunks - 1], entry->slots[p]);
    free(entry->ids);
    free(entry->weights);
    free(entry);
}

void asdm_prompts_done(struct asdm_prompts *prompts) {
    for (struct asdm_prompt_entry *entry = prompts->entries, *next; entry; entry = next) {
        next = entry->next;
        destroy_entry(prompts, entry);
    }
    prompts->entries = NULL;
}

int asdm_prompt_entry_slot(const struct asdm_prompt_entry *entry, enum asdm_precision precision) {
    return entry->slots[precision];
}

static size_t token_count(const struct asdm_prompt *prompt) {
    return (size_t)prompt->chunk_count * ASDM_PROMPT_TOKENS;
}

/* A known entry, moved to the front; NULL: there is none. */
static struct asdm_prompt_entry *find_entry(struct asdm_prompts *prompts, const struct asdm_prompt *prompt) {
    size_t count = token_count(prompt);
    for (struct asdm_prompt_entry **link = &prompts->entries; *link; link = &(*link)->next) {
        struct asdm_prompt_entry *entry = *link;
        if (entry->chunks != prompt->chunk_count || memcmp(entry->ids, prompt->ids, count * sizeof *entry->ids) != 0 ||
            memcmp(entry->weights, prompt->weights, count * sizeof *entry->weights) != 0)
            continue;
        *link = entry->next;
        entry->next = prompts->entries;
        return prompts->entries = entry;
    }
    return NULL;
}

static struct asdm_prompt_entry *add_entry(struct asdm_prompts *prompts, const struct asdm_prompt *prompt) {
    size_t count = token_count(prompt);
    struct asdm_prompt_entry *entry = calloc(1, sizeof *entry);
    if (!entry)
        return NULL;
    *entry = (struct asdm_prompt_entry){.chunks = prompt->chunk_count, .slots = {ASDM_NONE, ASDM_NONE}};
    entry->ids = malloc(count * sizeof *entry->ids);
    entry->weights = malloc(count * sizeof *entry->weights);
    if (!entry->ids || !entry->weights) {
        free(entry->ids);
        free(entry->weights);
        free(entry);
        return NULL;
    }
    memcpy(entry->ids, prompt->ids, count * sizeof *entry->ids);
    memcpy(entry->weights, prompt->weights, count * sizeof *entry->weights);
    entry->next = prompts->entries;
    return prompts->entries = entry;
}

/* A1111's emphasis: each token's embedding times its weight, then the chunk's mean brought back to what it was. */
static void apply_weights(float *embeds, const float *weights, size_t width) {
    double before = 0, after = 0;
    for (size_t t = 0; t < ASDM_PROMPT_TOKENS; t++)
        for (size_t i = 0; i < width; i++) {
            before += embeds[t * width + i];
            embeds[t * width + i] *= weights[t];
            after += embeds[t * width + i];
        }
    if (after == 0)
        return;
    for (size_t i = 0; i < ASDM_PROMPT_TOKENS * width; i++)
        embeds[i] = (float)(embeds[i] * (before / after));
}

/* embeds [chunks][77][width] */
static enum asdm_status encode(struct asdm_prompts *prompts, const struct asdm_prompt *prompt, float *embeds,
                               struct asdm_error *err) {
    size_t width = (size_t)prompts->model->text.width;
    for (int c = 0; c < prompt->chunk_count; c++) {
        float *chunk = embeds + (size_t)c * ASDM_PROMPT_TOKENS * width;
        ASDM_TRY(asdm_text_encode(&prompts->model->text, prompt->ids + c * ASDM_PROMPT_TOKENS, chunk, err));
        if (prompt->weighted)
            apply_weights(chunk, prompt->weights + c * ASDM_PROMPT_TOKENS, width);
    }
    return ASDM_OK;
}

/* Fills in the precisions that are missing. */
static enum asdm_status complete(struct asdm_prompts *prompts, const struct asdm_prompt *prompt, const bool *precisions,
                                 struct asdm_prompt_entry *entry, struct asdm_error *err) {
    bool missing = false;
    for (int p = 0; p < ASDM_PRECISION_COUNT; p++)
        missing |= precisions[p] && entry->slots[p] == ASDM_NONE;
    if (!missing)
        return ASDM_OK;
    float *embeds = malloc(token_count(prompt) * (size_t)prompts->model->text.width * sizeof *embeds);
    if (!embeds)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for the prompt");
    enum asdm_status status = encode(prompts, prompt, embeds, err);
    for (int p = 0; p < ASDM_PRECISION_COUNT && status == ASDM_OK; p++) {
        struct asdm_denoiser *denoiser;
        if (!precisions[p] || entry->slots[p] != ASDM_NONE)
            continue;
        status = asdm_model_denoiser(prompts->model, (enum asdm_precision)p, entry->chunks, &denoiser, err);
        if (status == ASDM_OK)
            status = asdm_denoiser_add_prompt(denoiser, embeds, &entry->slots[p], err);
    }
    free(embeds);
    return status;
}

/* Forgets what was used longest ago, of the entries that nobody holds. */
static void trim(struct asdm_prompts *prompts) {
    int kept = 0;
    for (struct asdm_prompt_entry **link = &prompts->entries; *link;) {
        struct asdm_prompt_entry *entry = *link;
        if (entry->holders || ++kept <= ASDM_LIMIT_PROMPTS_KEPT) {
            link = &entry->next;
        } else {
            *link = entry->next;
            destroy_entry(prompts, entry);
        }
    }
}

enum asdm_status asdm_prompts_take(struct asdm_prompts *prompts, const struct asdm_prompt *prompt,
                                   const bool *precisions, struct asdm_prompt_entry **ret, struct asdm_error *err) {
    struct asdm_prompt_entry *entry = find_entry(prompts, prompt);
    if (!entry)
        entry = add_entry(prompts, prompt);
    if (!entry)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for the prompt");
    ASDM_TRY(complete(prompts, prompt, precisions, entry, err));
    entry->holders++;
    *ret = entry;
    return ASDM_OK;
}

void asdm_prompts_give(struct asdm_prompts *prompts, struct asdm_prompt_entry *entry) {
    entry->holders--;
    trim(prompts);
}
