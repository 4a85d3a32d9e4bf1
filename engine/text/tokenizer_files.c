/* See tokenizer_files.h. Formats: vocab.json {"token": id}, merges.txt ("#version" line, then "left right" a line, in
 * rank order), tokenizer.json of the `tokenizers` crate (model.vocab, model.merges, added_tokens). */
#include "text/tokenizer_files.h"

#include <stdio.h>
#include <string.h>

#include <asdm/error.h>
#include <asdm/json.h>
#include "text/special_tokens.h"

enum { WHERE_MAX = 600 };

/* One line of merges.txt, without its end. */
static enum asdm_status add_line(struct asdm_bpe *bpe, const struct asdm_vocabulary *vocabulary, const char *line,
                                 size_t length, const char *where, size_t number, struct asdm_error *err) {
    const char *space = memchr(line, ' ', length);
    if (!space || memchr(space + 1, ' ', length - (size_t)(space + 1 - line)))
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s %zu: must be two tokens with one blank between", where, number);
    struct asdm_vocabulary_token left = {line, (size_t)(space - line)};
    struct asdm_vocabulary_token right = {space + 1, length - left.length - 1};
    return asdm_bpe_add(bpe, vocabulary, &left, &right, where, number, err);
}

static enum asdm_status read_merges_text(struct asdm_bpe *bpe, const struct asdm_vocabulary *vocabulary,
                                         const struct asdm_tokenizer_file *file, struct asdm_error *err) {
    static const char version[] = "#version";
    char where[WHERE_MAX];
    snprintf(where, sizeof where, "%s: line", file->name);
    size_t number = 0;
    for (size_t i = 0, end, length; i < file->length; i = end + 1) {
        const char *line = file->text + i, *newline = memchr(line, '\n', file->length - i);
        end = newline ? (size_t)(newline - file->text) : file->length;
        length = end - i;
        number++;
        if (length > 0 && line[length - 1] == '\r')
            length--;
        if (length == 0 || (length >= sizeof version - 1 && memcmp(line, version, sizeof version - 1) == 0))
            continue;
        ASDM_TRY(add_line(bpe, vocabulary, line, length, where, number, err));
    }
    return ASDM_OK;
}

/* An entry of model.merges: "left right" or ["left", "right"]. */
static enum asdm_status add_entry(struct asdm_bpe *bpe, const struct asdm_vocabulary *vocabulary,
                                  const struct asdm_json *entry, const char *where, size_t number,
                                  struct asdm_error *err) {
    if (asdm_json_type(entry) == ASDM_JSON_STRING) {
        const char *text = asdm_json_string(entry);
        return add_line(bpe, vocabulary, text, strlen(text), where, number, err);
    }
    struct asdm_vocabulary_token parts[2];
    size_t count = 0;
    if (asdm_json_type(entry) == ASDM_JSON_ARRAY)
        for (const struct asdm_json *part = asdm_json_first(entry); part; part = asdm_json_next(part)) {
            if (count == 2 || asdm_json_type(part) != ASDM_JSON_STRING) {
                count = 0;
                break;
            }
            const char *text = asdm_json_string(part);
            parts[count++] = (struct asdm_vocabulary_token){text, strlen(text)};
        }
    if (count != 2)
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s %zu: must be \"left right\" or [\"left\", \"right\"]", where,
                         number);
    return asdm_bpe_add(bpe, vocabulary, &parts[0], &parts[1], where, number, err);
}

static enum asdm_status read_merges_json(struct asdm_bpe *bpe, const struct asdm_vocabulary *vocabulary,
                                         const struct asdm_json *model, const char *name, struct asdm_error *err) {
    const struct asdm_json *merges = asdm_json_get(model, "merges");
    if (!merges || asdm_json_type(merges) != ASDM_JSON_ARRAY)
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: model.merges: must be an array, is %s", name,
                         merges ? asdm_json_type_name(asdm_json_type(merges)) : "missing");
    char where[WHERE_MAX];
    snprintf(where, sizeof where, "%s: model.merges: entry", name);
    size_t number = 0;
    for (const struct asdm_json *entry = asdm_json_first(merges); entry; entry = asdm_json_next(entry))
        ASDM_TRY(add_entry(bpe, vocabulary, entry, where, number++, err));
    return ASDM_OK;
}

/* tokenizer.json's "model", when it is a byte pair encoding. */
static enum asdm_status find_model(const struct asdm_json *root, const char *name, const struct asdm_json **ret_model,
                                   struct asdm_error *err) {
    const struct asdm_json *model = asdm_json_get(root, "model");
    if (!model || asdm_json_type(model) != ASDM_JSON_OBJECT)
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: model: must be an object, is %s", name,
                         model ? asdm_json_type_name(asdm_json_type(model)) : "missing");
    const char *type = "BPE";
    ASDM_TRY(asdm_json_get_string(model, name, "type", &type, err));
    if (strcmp(type, "BPE") != 0)
        return asdm_fail(err, ASDM_ERR_UNSUPPORTED, "%s: model.type: must be \"BPE\" (CLIP's), is \"%.100s\"", name,
                         type);
    *ret_model = model;
    return ASDM_OK;
}

static enum asdm_status parse(const struct asdm_tokenizer_file *file, struct asdm_json **ret, struct asdm_error *err) {
    if (!file->text)
        return ASDM_OK;
    ASDM_TRY(asdm_json_parse(file->text, file->length, file->name, ret, err));
    if (asdm_json_type(*ret) != ASDM_JSON_OBJECT)
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: must be an object, is %s", file->name,
                         asdm_json_type_name(asdm_json_type(*ret)));
    return ASDM_OK;
}

static enum asdm_status parse_documents(const struct asdm_tokenizer_files *files,
                                        struct asdm_tokenizer_documents *documents, struct asdm_error *err) {
    if (files->tokenizer.text)
        ASDM_TRY(parse(&files->tokenizer, &documents->tokenizer, err));
    else if (files->vocab.text)
        ASDM_TRY(parse(&files->vocab, &documents->vocab, err));
    else
        return asdm_fail(err, ASDM_ERR_NOT_FOUND, "neither a vocabulary (vocab.json) nor a tokenizer.json");
    if (!files->tokenizer.text && !files->merges.text)
        return asdm_fail(err, ASDM_ERR_NOT_FOUND, "%s: there are no merges (merges.txt) beside it", files->vocab.name);
    ASDM_TRY(parse(&files->config, &documents->config, err));
    ASDM_TRY(parse(&files->special_tokens_map, &documents->special_tokens_map, err));
    return parse(&files->added_tokens, &documents->added_tokens, err);
}

static enum asdm_status build(struct asdm_tokenizer *tokenizer, struct asdm_vocabulary *vocabulary,
                              const struct asdm_tokenizer_documents *documents,
                              const struct asdm_tokenizer_files *files, struct asdm_error *err) {
    const struct asdm_json *model = NULL, *vocab = documents->vocab;
    const char *name = documents->tokenizer ? files->tokenizer.name : files->vocab.name;
    if (documents->tokenizer) {
        ASDM_TRY(find_model(documents->tokenizer, name, &model, err));
        vocab = asdm_json_get(model, "vocab");
        if (!vocab)
            return asdm_fail(err, ASDM_ERR_FORMAT, "%s: model.vocab is missing", name);
    }
    ASDM_TRY(asdm_vocabulary_init(vocabulary, vocab, name, err));
    ASDM_TRY(asdm_bpe_init(&tokenizer->bpe, vocabulary, name, err));
    ASDM_TRY(model ? read_merges_json(&tokenizer->bpe, vocabulary, model, name, err)
                   : read_merges_text(&tokenizer->bpe, vocabulary, &files->merges, err));
    ASDM_TRY(asdm_bpe_finish(&tokenizer->bpe, err));
    return asdm_special_tokens_load(tokenizer, vocabulary, documents, files, err);
}

enum asdm_status asdm_tokenizer_load(struct asdm_tokenizer *tokenizer, const struct asdm_tokenizer_files *files,
                                     struct asdm_error *err) {
    struct asdm_tokenizer_documents documents = {0};
    struct asdm_vocabulary vocabulary = {0};
    enum asdm_status status = parse_documents(files, &documents, err);
    if (status == ASDM_OK)
        status = build(tokenizer, &vocabulary, &documents, files, err);
    asdm_vocabulary_done(&vocabulary);
    asdm_json_destroy(&documents.vocab);
    asdm_json_destroy(&documents.tokenizer);
    asdm_json_destroy(&documents.config);
    asdm_json_destroy(&documents.special_tokens_map);
    asdm_json_destroy(&documents.added_tokens);
    return status;
}
