/* See special_tokens.h. */
#include "text/special_tokens.h"

#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>
#include "text/unicode.h"

struct definition {
    const char *file, *content;
    double listed_id; /* -1: none given */
    int32_t id;
    bool is_string, single_word, lstrip, rstrip, special;
    bool normalized, says_normalized; /* what it is, and whether the file says so */
};

struct definitions {
    struct definition *items;
    size_t count, capacity;
    size_t listed; /* the first so many came with ids */
};

/* Everything the steps below need. */
struct loader {
    const struct asdm_tokenizer_documents *documents;
    const struct asdm_tokenizer_files *files;
    const struct asdm_vocabulary *vocabulary;
    const char *vocabulary_file;
    struct definitions definitions;
    struct asdm_error *err;
};

static const char *const names[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                    "pad_token", "cls_token", "mask_token"};
static const char *const defaults[] = {
    "<|startoftext|>", "<|endoftext|>", "<|endoftext|>", NULL, "<|endoftext|>", NULL, NULL};
enum { BOS, EOS, UNK, SEP, PAD, NAMES = sizeof names / sizeof names[0] };

static enum asdm_status append(struct loader *loader, const struct definition *definition) {
    struct definitions *list = &loader->definitions;
    if (list->count == ASDM_ADDED_TOKENS_MAX)
        return asdm_fail(loader->err, ASDM_ERR_FORMAT, "%s: more than %d added tokens", definition->file,
                         ASDM_ADDED_TOKENS_MAX);
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : 16;
        struct definition *items = realloc(list->items, capacity * sizeof *items);
        if (!items)
            return asdm_fail(loader->err, ASDM_ERR_MEMORY, "out of memory for %zu added tokens", capacity);
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->count++] = *definition;
    return ASDM_OK;
}

/* Reads a token written as a string or as an object. `special` is what an object that does not say so is. */
static enum asdm_status read_definition(struct loader *loader, const struct asdm_json *node, const char *file,
                                        const char *key, bool special, struct definition *ret) {
    struct definition token = {.file = file, .listed_id = -1, .special = true};
    struct asdm_error *err = loader->err;
    if (asdm_json_type(node) == ASDM_JSON_STRING) {
        token.is_string = true;
        token.content = asdm_json_string(node);
        *ret = token;
        return ASDM_OK;
    }
    if (asdm_json_type(node) != ASDM_JSON_OBJECT)
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: %s: must be a string or an object with \"content\", is %s", file,
                         key, asdm_json_type_name(asdm_json_type(node)));
    token.special = special;
    ASDM_TRY(asdm_json_get_string(node, file, "content", &token.content, err));
    if (!token.content)
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: %s: the object has no \"content\"", file, key);
    ASDM_TRY(asdm_json_get_bool(node, file, "single_word", &token.single_word, err));
    ASDM_TRY(asdm_json_get_bool(node, file, "lstrip", &token.lstrip, err));
    ASDM_TRY(asdm_json_get_bool(node, file, "rstrip", &token.rstrip, err));
    ASDM_TRY(asdm_json_get_bool(node, file, "special", &token.special, err));
    token.normalized = !token.special;
    const struct asdm_json *normalized = asdm_json_get(node, "normalized");
    token.says_normalized = normalized && asdm_json_type(normalized) != ASDM_JSON_NULL;
    ASDM_TRY(asdm_json_get_bool(node, file, "normalized", &token.normalized, err));
    *ret = token;
    return ASDM_OK;
}

static const struct asdm_json *get(const struct asdm_json *object, const char *key) {
    return object ? asdm_json_get(object, key) : NULL;
}

/* Where a key is read from; NULL when neither file has it. */
static const struct asdm_json *look_up(const struct loader *loader, const char *key, const char **ret_file) {
    const struct asdm_json *node = NULL;
    if (!get(loader->documents->config, "added_tokens_decoder")) {
        node = get(loader->documents->special_tokens_map, key);
        *ret_file = loader->files->special_tokens_map.name;
    }
    if (!node) {
        node = get(loader->documents->config, key);
        *ret_file = loader->files->config.name;
    }
    return node;
}

/* A list of further special tokens (an object's values count as one too) and the file that it is in. */
struct extras {
    const struct asdm_json *list;
    const char *file;
};

static bool is_container(const struct asdm_json *node) {
    return node && (asdm_json_type(node) == ASDM_JSON_ARRAY || asdm_json_type(node) == ASDM_JSON_OBJECT);
}

/* tokenizer_config.json's "extra_special_tokens", when that is empty its "additional_special_tokens"; then
 * special_tokens_map.json's "extra_special_tokens" and, where none of these is there at all, its
 * "additional_special_tokens" (`late`: transformers looks at that one last). Lists that are absent are NULL. */
static void look_up_extras(const struct loader *loader, bool late, struct extras ret[2]) {
    const struct asdm_json *config = loader->documents->config, *map = loader->documents->special_tokens_map;
    const struct asdm_json *first = get(config, "extra_special_tokens"), *second = NULL;
    if ((!is_container(first) || !asdm_json_first(first)) && get(config, "additional_special_tokens"))
        first = get(config, "additional_special_tokens");
    if (!get(config, "added_tokens_decoder")) {
        second = get(map, "extra_special_tokens");
        if (!first && !second && late)
            second = get(map, "additional_special_tokens");
    }
    ret[0] = (struct extras){is_container(first) ? first : NULL, loader->files->config.name};
    ret[1] = (struct extras){is_container(second) ? second : NULL, loader->files->special_tokens_map.name};
}

static const char *content_of(const struct asdm_json *node) {
    if (node && asdm_json_type(node) == ASDM_JSON_OBJECT)
        node = asdm_json_get(node, "content");
    return node && asdm_json_type(node) == ASDM_JSON_STRING ? asdm_json_string(node) : NULL;
}

static bool is_named_special(const struct loader *loader, const char *content) {
    const char *file, *other;
    for (size_t i = 0; i < NAMES; i++)
        if ((other = content_of(look_up(loader, names[i], &file))) && strcmp(other, content) == 0)
            return true;
    struct extras extras[2];
    look_up_extras(loader, false, extras);
    for (size_t i = 0; i < 2; i++)
        for (const struct asdm_json *node = extras[i].list ? asdm_json_first(extras[i].list) : NULL; node;
             node = asdm_json_next(node))
            if ((other = content_of(node)) && strcmp(other, content) == 0)
                return true;
    return false;
}

/* Takes a token that has an id of its own; a later one with that id replaces it. */
static enum asdm_status append_listed(struct loader *loader, struct definition *token, double id) {
    if (!(id >= 0 && id < ASDM_VOCABULARY_IDS_MAX) || id != (double)(int32_t)id)
        return asdm_fail(loader->err, ASDM_ERR_FORMAT, "%s: token \"%.100s\": bad id %g", token->file, token->content,
                         id);
    token->listed_id = id;
    for (size_t i = 0; i < loader->definitions.count; i++)
        if (loader->definitions.items[i].listed_id == id) {
            loader->definitions.items[i] = *token;
            return ASDM_OK;
        }
    return append(loader, token);
}

static enum asdm_status read_decoder(struct loader *loader, const struct asdm_json *decoder) {
    const char *file = loader->files->config.name;
    if (asdm_json_type(decoder) != ASDM_JSON_OBJECT)
        return asdm_fail(loader->err, ASDM_ERR_FORMAT, "%s: added_tokens_decoder: must be an object, is %s", file,
                         asdm_json_type_name(asdm_json_type(decoder)));
    for (const struct asdm_json *node = asdm_json_first(decoder); node; node = asdm_json_next(node)) {
        struct definition token;
        char *end;
        double id = (double)strtol(asdm_json_key(node), &end, 10);
        if (end == asdm_json_key(node) || *end)
            return asdm_fail(loader->err, ASDM_ERR_FORMAT, "%s: added_tokens_decoder: \"%.100s\" is not an id", file,
                             asdm_json_key(node));
        ASDM_TRY(read_definition(loader, node, file, "added_tokens_decoder", false, &token));
        ASDM_TRY(append_listed(loader, &token, id));
    }
    return ASDM_OK;
}

static enum asdm_status read_added_tokens(struct loader *loader) {
    const struct asdm_json *root = loader->documents->added_tokens;
    for (const struct asdm_json *node = root ? asdm_json_first(root) : NULL; node; node = asdm_json_next(node)) {
        struct definition token = {
            .file = loader->files->added_tokens.name, .content = asdm_json_key(node), .says_normalized = true};
        token.special = is_named_special(loader, token.content);
        token.normalized = !token.special;
        ASDM_TRY(append_listed(loader, &token, asdm_json_type(node) == ASDM_JSON_NUMBER ? asdm_json_number(node) : -1));
    }
    const char *file = loader->files->tokenizer.name;
    const struct asdm_json *list = get(loader->documents->tokenizer, "added_tokens");
    if (list && asdm_json_type(list) != ASDM_JSON_ARRAY)
        return asdm_fail(loader->err, ASDM_ERR_FORMAT, "%s: added_tokens: must be an array, is %s", file,
                         asdm_json_type_name(asdm_json_type(list)));
    for (const struct asdm_json *node = list ? asdm_json_first(list) : NULL; node; node = asdm_json_next(node)) {
        struct definition token;
        double id = -1;
        ASDM_TRY(read_definition(loader, node, file, "added_tokens", false, &token));
        if (!token.is_string)
            ASDM_TRY(asdm_json_get_double(node, file, "id", 0, ASDM_VOCABULARY_IDS_MAX, &id, loader->err));
        ASDM_TRY(append_listed(loader, &token, id));
    }
    return ASDM_OK;
}

static int compare_listed(const void *a, const void *b) {
    double left = ((const struct definition *)a)->listed_id, right = ((const struct definition *)b)->listed_id;
    return (left > right) - (left < right);
}

static enum asdm_status read_listed(struct loader *loader) {
    const struct asdm_json *decoder = get(loader->documents->config, "added_tokens_decoder");
    ASDM_TRY(decoder ? read_decoder(loader, decoder) : read_added_tokens(loader));
    struct definitions *list = &loader->definitions;
    if (list->count > 0)
        qsort(list->items, list->count, sizeof *list->items, compare_listed);
    list->listed = list->count;
    return ASDM_OK;
}

/* Appends unless a listed token has this text or an equal entry is there. */
static enum asdm_status append_named(struct loader *loader, const struct definition *token) {
    for (size_t i = 0; i < loader->definitions.count; i++) {
        const struct definition *other = &loader->definitions.items[i];
        if (strcmp(other->content, token->content) != 0)
            continue;
        if (i < loader->definitions.listed)
            return ASDM_OK;
        if (other->is_string == token->is_string && other->single_word == token->single_word &&
            other->lstrip == token->lstrip && other->rstrip == token->rstrip &&
            other->normalized == token->normalized && other->special == token->special)
            return ASDM_OK;
    }
    return append(loader, token);
}

/* Reads the named tokens; contents[i] is what names[i] stands for, NULL for none, and source[i] the file that says so.
 */
static enum asdm_status read_named(struct loader *loader, const char *contents[NAMES], const char *source[NAMES]) {
    for (size_t i = 0; i < NAMES; i++) {
        struct definition token = {.file = loader->vocabulary_file,
                                   .content = defaults[i],
                                   .listed_id = -1,
                                   .is_string = true,
                                   .special = true};
        const struct asdm_json *node = look_up(loader, names[i], &source[i]);
        contents[i] = NULL;
        if (!node)
            source[i] = loader->vocabulary_file;
        if (node && asdm_json_type(node) == ASDM_JSON_NULL)
            continue;
        if (node) {
            bool special = source[i] == loader->files->special_tokens_map.name;
            ASDM_TRY(read_definition(loader, node, source[i], names[i], special, &token));
        } else if (!token.content ||
                   (i != BOS && i != EOS &&
                    asdm_vocabulary_find(loader->vocabulary, token.content, strlen(token.content)) < 0)) {
            continue; /* the class's own unk and pad, which this vocabulary does without */
        }
        contents[i] = token.content;
        ASDM_TRY(append_named(loader, &token));
    }
    return ASDM_OK;
}

static enum asdm_status read_extras(struct loader *loader) {
    struct extras extras[2];
    look_up_extras(loader, true, extras);
    for (size_t i = 0; i < 2; i++)
        for (const struct asdm_json *node = extras[i].list ? asdm_json_first(extras[i].list) : NULL; node;
             node = asdm_json_next(node)) {
            struct definition token;
            ASDM_TRY(read_definition(loader, node, extras[i].file, "extra_special_tokens", true, &token));
            ASDM_TRY(append_named(loader, &token));
        }
    return ASDM_OK;
}

/* A token that has a name is special whatever the files say, and special tokens are not normalized by default. */
static void settle_named(struct loader *loader, const char *const contents[NAMES]) {
    for (size_t i = 0; i < loader->definitions.count; i++) {
        struct definition *token = &loader->definitions.items[i];
        for (size_t k = 0; k < NAMES && !token->says_normalized; k++)
            if (contents[k] && strcmp(contents[k], token->content) == 0)
                token->normalized = false;
    }
}

static int32_t find_id(const struct loader *loader, const char *content, size_t count) {
    int32_t id = asdm_vocabulary_find(loader->vocabulary, content, strlen(content));
    for (size_t i = 0; id < 0 && i < count; i++)
        if (strcmp(loader->definitions.items[i].content, content) == 0)
            id = loader->definitions.items[i].id;
    return id;
}

/* Gives every definition its id; those that the vocabulary lacks follow it. */
static enum asdm_status assign_ids(struct loader *loader, size_t *ret_size) {
    size_t next = loader->vocabulary->count;
    for (size_t i = 0; i < loader->definitions.count; i++) {
        struct definition *token = &loader->definitions.items[i];
        if (!*token->content)
            continue;
        token->id = find_id(loader, token->content, i);
        if (token->id < 0)
            token->id = (int32_t)next++;
        if (token->listed_id >= 0 && token->listed_id != token->id)
            return asdm_fail(loader->err, ASDM_ERR_FORMAT, "%s: token \"%.100s\": has the id %g, should have %d",
                             token->file, token->content, token->listed_id, (int)token->id);
    }
    *ret_size = next;
    return ASDM_OK;
}

static enum asdm_status fill_set(struct asdm_tokenizer *tokenizer, const struct definition *token,
                                 struct asdm_unicode_folder *folder, struct asdm_error *err) {
    const unsigned char *text = (const unsigned char *)token->content;
    size_t length = strlen(token->content);
    if (token->single_word)
        return asdm_fail(err, ASDM_ERR_UNSUPPORTED, "%s: token \"%.100s\": \"single_word\" is not supported",
                         token->file, token->content);
    if (!token->normalized)
        return asdm_added_set_add(&tokenizer->raw, text, length, token->id, token->file, err);
    ASDM_TRY(asdm_unicode_fold(folder, text, length, err));
    return asdm_added_set_add(&tokenizer->folded, folder->text, folder->length, token->id, token->file, err);
}

/* "lstrip" and "rstrip" only move white space from a neighbouring piece to the token, and that gives no ids. */
static enum asdm_status fill_sets(struct loader *loader, struct asdm_tokenizer *tokenizer) {
    const struct definitions *list = &loader->definitions;
    struct asdm_unicode_folder folder = {0};
    enum asdm_status status = ASDM_OK;
    for (size_t i = 0; i < list->count && status == ASDM_OK; i++) {
        bool last = *list->items[i].content != '\0';
        for (size_t j = i + 1; j < list->count && last; j++)
            last = strcmp(list->items[i].content, list->items[j].content) != 0;
        if (last)
            status = fill_set(tokenizer, &list->items[i], &folder, loader->err);
    }
    asdm_unicode_folder_done(&folder);
    asdm_added_set_finish(&tokenizer->raw);
    asdm_added_set_finish(&tokenizer->folded);
    return status;
}

static enum asdm_status find_named(struct loader *loader, const char *content, const char *name, const char *file,
                                   int32_t *ret) {
    if (!content)
        return asdm_fail(loader->err, ASDM_ERR_FORMAT, "%s: no %s", file, name);
    int32_t id = find_id(loader, content, loader->definitions.listed);
    if (id < 0)
        return asdm_fail(loader->err, ASDM_ERR_FORMAT, "%s: the %s \"%.100s\" is not in the vocabulary", file, name,
                         content);
    *ret = id;
    return ASDM_OK;
}

static enum asdm_status load(struct loader *loader, struct asdm_tokenizer *tokenizer) {
    const char *contents[NAMES], *source[NAMES];
    ASDM_TRY(read_listed(loader));
    ASDM_TRY(read_named(loader, contents, source));
    ASDM_TRY(read_extras(loader));
    settle_named(loader, contents);
    ASDM_TRY(assign_ids(loader, &tokenizer->size));
    ASDM_TRY(find_named(loader, contents[BOS], names[BOS], source[BOS], &tokenizer->bos));
    ASDM_TRY(find_named(loader, contents[EOS], names[EOS], source[EOS], &tokenizer->eos));
    tokenizer->pad = tokenizer->eos;
    if (contents[PAD])
        ASDM_TRY(find_named(loader, contents[PAD], names[PAD], source[PAD], &tokenizer->pad));
    return fill_sets(loader, tokenizer);
}

enum asdm_status asdm_special_tokens_load(struct asdm_tokenizer *tokenizer, const struct asdm_vocabulary *vocabulary,
                                          const struct asdm_tokenizer_documents *documents,
                                          const struct asdm_tokenizer_files *files, struct asdm_error *err) {
    struct loader loader = {.documents = documents, .files = files, .vocabulary = vocabulary, .err = err};
    loader.vocabulary_file = documents->tokenizer ? files->tokenizer.name : files->vocab.name;
    enum asdm_status status = load(&loader, tokenizer);
    free(loader.definitions.items);
    return status;
}
