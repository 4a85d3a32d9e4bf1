/* Which tokens of a checkpoint are special or added, and how they are looked for. Private to engine/text. */
#ifndef ASDM_SPECIAL_TOKENS_H
#define ASDM_SPECIAL_TOKENS_H

#include <asdm/json.h>
#include "text/tokenizer_files.h"

/* The parsed files; NULL where absent. All but the vocabulary are objects. */
struct asdm_tokenizer_documents {
    struct asdm_json *vocab, *tokenizer, *config, *special_tokens_map, *added_tokens;
};

/* Fills in the added tokens, bos, eos, pad and size of a tokenizer. The rules are those that transformers applies when
 * it loads a CLIPTokenizer:
 *   - tokens listed with their ids come first, by id: tokenizer_config.json's "added_tokens_decoder" or, without one,
 *     added_tokens.json and tokenizer.json's "added_tokens";
 *   - then "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token", from
 *     special_tokens_map.json (unless there is an "added_tokens_decoder"), then tokenizer_config.json, then the class's
 *     own; a string is looked for in the raw text, an object says so itself ("normalized");
 *   - then "extra_special_tokens" or "additional_special_tokens" of both files;
 *   - of different entries for one text the last counts;
 *   - a token that the vocabulary does not have gets the next id after it. */
enum asdm_status asdm_special_tokens_load(struct asdm_tokenizer *tokenizer, const struct asdm_vocabulary *vocabulary,
                                          const struct asdm_tokenizer_documents *documents,
                                          const struct asdm_tokenizer_files *files, struct asdm_error *err);

#endif
