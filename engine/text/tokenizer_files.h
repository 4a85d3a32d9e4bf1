/* What a tokenizer is made of, and reading it from a checkpoint's files. Private to engine/text. */
#ifndef ASDM_TOKENIZER_FILES_H
#define ASDM_TOKENIZER_FILES_H

#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/tokenizer.h"

struct asdm_tokenizer {
    struct asdm_bpe bpe;
    struct asdm_added_set raw;    /* looked for in the text as given */
    struct asdm_added_set folded; /* looked for after asdm_unicode_fold, their own text folded too */
    size_t size;                  /* ids are below this */
    int32_t bos, eos, pad;
};

/* Fills a zeroed tokenizer. On failure it holds what was read so far, for the caller to free. */
enum asdm_status asdm_tokenizer_load(struct asdm_tokenizer *tokenizer, const struct asdm_tokenizer_files *files,
                                     struct asdm_error *err);

#endif
