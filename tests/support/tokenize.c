/* tokenize DIRECTORY COUNT: encodes the texts on standard input with a checkpoint's tokenizer, for comparison with
 * another program. Each text is four bytes of length (little endian) and so many bytes. Per text one line: the number
 * of tokens without bos and eos, then COUNT ids (with COUNT 0 as many as the text needs); or "error" and the message.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer.h"

/* The call that may stop early must give the same ids. */
static int check_early_stop(const struct asdm_tokenizer *tokenizer, const char *text, size_t length, const int32_t *ids,
                            size_t count) {
    struct asdm_error err;
    int32_t *again = malloc(count * sizeof *again);
    int failed = !again || asdm_tokenizer_encode(tokenizer, text, length, again, count, NULL, &err) != ASDM_OK ||
                 memcmp(ids, again, count * sizeof *ids) != 0;
    free(again);
    if (failed)
        fprintf(stderr, "encoding without a token count gives other ids\n");
    return failed;
}

static int encode(const struct asdm_tokenizer *tokenizer, const char *text, size_t length, size_t count) {
    struct asdm_error err;
    size_t tokens = 0;
    int32_t two[2];
    if (asdm_tokenizer_encode(tokenizer, text, length, two, 2, &tokens, &err) != ASDM_OK) {
        printf("error %s\n", err.message);
        return 0;
    }
    if (count == 0)
        count = tokens + 2;
    int32_t *ids = malloc(count * sizeof *ids);
    int failed = !ids || asdm_tokenizer_encode(tokenizer, text, length, ids, count, &tokens, &err) != ASDM_OK ||
                 check_early_stop(tokenizer, text, length, ids, count);
    if (!failed) {
        printf("%zu", tokens);
        for (size_t i = 0; i < count; i++)
            printf(" %" PRId32, ids[i]);
        printf("\n");
    }
    free(ids);
    return failed;
}

int main(int argc, char **argv) {
    struct asdm_tokenizer *tokenizer = NULL;
    struct asdm_error err;
    if (argc != 3) {
        fprintf(stderr, "usage: tokenize DIRECTORY COUNT\n");
        return 2;
    }
    size_t count = strtoul(argv[2], NULL, 10);
    if (asdm_tokenizer_open(argv[1], &tokenizer, &err) != ASDM_OK) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    unsigned char head[4];
    int status = 0;
    while (status == 0 && fread(head, 1, 4, stdin) == 4) {
        size_t length = head[0] | (size_t)head[1] << 8 | (size_t)head[2] << 16 | (size_t)head[3] << 24;
        char *text = malloc(length + 1);
        status = !text || fread(text, 1, length, stdin) != length || encode(tokenizer, text, length, count);
        free(text);
    }
    asdm_tokenizer_close(&tokenizer);
    return status;
}
