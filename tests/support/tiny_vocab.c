/* See tiny_vocab.h. */
#include "tiny_vocab.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void tiny_text_add(struct tiny_text *text, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (size < 0)
        abort();
    if (text->capacity - text->length <= (size_t)size) {
        text->capacity = 2 * (text->capacity + (size_t)size + 1);
        text->data = realloc(text->data, text->capacity);
        if (!text->data)
            abort();
    }
    va_start(arguments, format);
    vsnprintf(text->data + text->length, text->capacity - text->length, format, arguments);
    va_end(arguments);
    text->length += (size_t)size;
}

void tiny_text_done(struct tiny_text *text) {
    free(text->data);
    memset(text, 0, sizeof *text);
}

const char *tiny_byte(unsigned byte) {
    static char texts[4][3];
    static unsigned turn;
    char *text = texts[turn++ % 4];
    unsigned moved = 0; /* how many bytes before this one have no printable character of their own */
    for (unsigned b = 0; b <= byte; b++)
        moved += b <= 32 || (b >= 127 && b <= 160) || b == 173;
    unsigned printable = !(byte <= 32 || (byte >= 127 && byte <= 160) || byte == 173);
    unsigned point = printable ? byte : 256 + moved - 1;
    memset(text, 0, 3);
    if (point < 128) {
        text[0] = (char)point;
    } else {
        text[0] = (char)(0xC0 | point >> 6);
        text[1] = (char)(0x80 | (point & 63));
    }
    return text;
}

static void add_entry(struct tiny_text *vocab, const char *token, size_t length, const char *suffix, int id) {
    tiny_text_add(vocab, "%s\"", id ? ", " : "{");
    for (size_t i = 0; i < length; i++)
        tiny_text_add(vocab, token[i] == '"' || token[i] == '\\' ? "\\%c" : "%c", token[i]);
    tiny_text_add(vocab, "%s\": %d", suffix, id);
}

/* Did an earlier merge have the same result? */
static int is_repeated(const char *const *merges, size_t k) {
    struct tiny_text a = {0}, b = {0};
    int same = 0;
    const char *space = strchr(merges[k], ' ');
    tiny_text_add(&a, "%.*s%s", (int)(space - merges[k]), merges[k], space + 1);
    for (size_t i = 0; i < k && !same; i++) {
        b.length = 0;
        space = strchr(merges[i], ' ');
        tiny_text_add(&b, "%.*s%s", (int)(space - merges[i]), merges[i], space + 1);
        same = strcmp(a.data, b.data) == 0;
    }
    tiny_text_done(&a);
    tiny_text_done(&b);
    return same;
}

void tiny_vocab_make(struct tiny_vocab *tiny, const char *const *merges, size_t count) {
    memset(tiny, 0, sizeof *tiny);
    int id = 0;
    for (unsigned i = 0; i < 512; i++) {
        const char *text = tiny_byte(i % 256);
        add_entry(&tiny->vocab, text, strlen(text), i < 256 ? "" : "</w>", id++);
    }
    tiny_text_add(&tiny->merges, "#version: 0.2\n");
    for (size_t i = 0; i < count; i++) {
        const char *space = strchr(merges[i], ' ');
        struct tiny_text result = {0};
        tiny_text_add(&result, "%.*s%s", (int)(space - merges[i]), merges[i], space + 1);
        if (!is_repeated(merges, i))
            add_entry(&tiny->vocab, result.data, result.length, "", id++);
        tiny_text_done(&result);
        tiny_text_add(&tiny->merges, "%s\n", merges[i]);
    }
    tiny->bos = id++;
    tiny->eos = id;
    tiny_text_add(&tiny->vocab, ", \"<|startoftext|>\": %d, \"<|endoftext|>\": %d}", tiny->bos, tiny->eos);
}

void tiny_vocab_done(struct tiny_vocab *tiny) {
    tiny_text_done(&tiny->vocab);
    tiny_text_done(&tiny->merges);
}
