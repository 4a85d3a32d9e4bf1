/* Messages between front and worker: what travels, what is refused, what a close leaves behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "wire/wire.h"

static int ends[2];

static int open_pair(void **state) {
    (void)state;
    return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends);
}

static int close_pair(void **state) {
    (void)state;
    close(ends[0]);
    close(ends[1]);
    return 0;
}

static struct wire_message submit_of(size_t prompt, size_t negative) {
    struct wire_message m = {.type = WIRE_SUBMIT, .id = 7, .submit = {.seed = UINT64_MAX, .guidance_scale = 7.5}};
    memset(m.submit.texts, 'p', prompt);
    memset(m.submit.texts + prompt + 1, 'n', negative);
    m.submit.prompt_bytes = (uint32_t)prompt;
    m.submit.negative_bytes = (uint32_t)negative;
    strcpy(m.submit.sampler, "euler");
    return m;
}

static void test_every_type(void **state) {
    (void)state;
    struct wire_message m, got;
    for (uint32_t type = WIRE_LOAD; type <= WIRE_FAILED; type++) {
        m = type == WIRE_SUBMIT ? submit_of(3, 2) : (struct wire_message){.type = type, .id = 12};
        assert_true(wire_send(ends[0], &m, 0));
        assert_int_equal(wire_receive(ends[1], &got), WIRE_RECEIVED);
        assert_int_equal(got.type, type);
        assert_int_equal(got.id, m.id);
    }
    assert_int_equal(wire_receive(ends[1], &got), WIRE_NOTHING);
}

static void test_submit_sends_what_it_needs(void **state) {
    (void)state;
    struct wire_message m = submit_of(5, 0), got;
    m.submit.texts[100] = 'x'; /* past the texts */
    assert_true(wire_send(ends[0], &m, 0));
    assert_int_equal(recv(ends[1], &got, 1, MSG_PEEK | MSG_TRUNC),
                     offsetof(struct wire_message, submit.texts) + 5 + 1 + 1);
    assert_int_equal(wire_receive(ends[1], &got), WIRE_RECEIVED);
    assert_string_equal(got.submit.texts, "ppppp");
    assert_string_equal(got.submit.texts + 6, "");
    assert_int_equal(got.submit.texts[100], 0);
    assert_true(got.submit.seed == UINT64_MAX);
    assert_string_equal(got.submit.sampler, "euler");
}

static void test_longest_submit(void **state) {
    (void)state;
    struct wire_message m = submit_of(WIRE_PROMPT_MAX, WIRE_PROMPT_MAX), got;
    assert_true(wire_send(ends[0], &m, 0));
    assert_int_equal(wire_receive(ends[1], &got), WIRE_RECEIVED);
    assert_int_equal(strlen(got.submit.texts), WIRE_PROMPT_MAX);
    assert_int_equal(strlen(got.submit.texts + WIRE_PROMPT_MAX + 1), WIRE_PROMPT_MAX);
    m.submit.prompt_bytes++;
    assert_false(wire_send(ends[0], &m, 0));
}

/* Bytes that no end of ours sends. */
static void expect_refused(const void *data, size_t size) {
    struct wire_message got;
    assert_int_equal(send(ends[0], data, size, 0), size);
    assert_int_equal(wire_receive(ends[1], &got), WIRE_GONE);
}

static void test_refused(void **state) {
    (void)state;
    static char large[2 * sizeof(struct wire_message)];
    struct wire_message m = {.type = WIRE_ALIVE, .version = WIRE_VERSION};
    size_t header = offsetof(struct wire_message, load);
    expect_refused(&m, header - 1);
    expect_refused(&m, header + 1);
    m.version++;
    expect_refused(&m, header);
    m.version--;
    m.type = WIRE_FAILED + 1;
    expect_refused(&m, header);
    m.type = WIRE_STEP;
    expect_refused(&m, header + sizeof m.step - 1);
    m = submit_of(3, 2);
    m.version = WIRE_VERSION;
    expect_refused(&m, offsetof(struct wire_message, submit.texts));     /* lengths say more */
    expect_refused(&m, offsetof(struct wire_message, submit.texts) - 1); /* they have not come */
    m.submit.negative_bytes = UINT32_MAX;
    expect_refused(&m, sizeof m);
    memcpy(large, &m, sizeof m);
    expect_refused(large, sizeof large);
    expect_refused("", 0);
}

static void test_texts_are_terminated(void **state) {
    (void)state;
    struct wire_message m = submit_of(3, 2), got;
    m.version = WIRE_VERSION;
    m.submit.texts[3] = m.submit.texts[6] = 'x';
    memset(m.submit.sampler, 'x', sizeof m.submit.sampler);
    size_t size = offsetof(struct wire_message, submit.texts) + 3 + 2 + 2;
    assert_int_equal(send(ends[0], &m, size, 0), size);
    assert_int_equal(wire_receive(ends[1], &got), WIRE_RECEIVED);
    assert_string_equal(got.submit.texts, "ppp");
    assert_string_equal(got.submit.texts + 4, "nn");
    assert_int_equal(strlen(got.submit.sampler), sizeof got.submit.sampler - 1);
}

/* What was sent before a death counts, also when the dead had not read everything. */
static void test_last_words(void **state) {
    (void)state;
    struct wire_message got;
    assert_true(wire_send(ends[0], &(struct wire_message){.type = WIRE_START}, 0));
    assert_true(wire_send(ends[1], &(struct wire_message){.type = WIRE_ALIVE}, 0));
    close(ends[1]);
    assert_int_equal(wire_receive(ends[0], &got), WIRE_RECEIVED);
    assert_int_equal(got.type, WIRE_ALIVE);
    assert_int_equal(wire_receive(ends[0], &got), WIRE_GONE);
    assert_false(wire_send(ends[0], &(struct wire_message){.type = WIRE_START}, 1000));
}

static void test_full(void **state) {
    (void)state;
    struct timespec before, after;
    struct wire_message m = submit_of(WIRE_PROMPT_MAX, WIRE_PROMPT_MAX);
    int sent = 0;
    while (wire_send(ends[0], &m, 0))
        sent++;
    assert_true(sent >= 2);
    clock_gettime(CLOCK_MONOTONIC, &before);
    assert_false(wire_send(ends[0], &m, 50));
    clock_gettime(CLOCK_MONOTONIC, &after);
    double seconds = (double)(after.tv_sec - before.tv_sec) + 1e-9 * (double)(after.tv_nsec - before.tv_nsec);
    assert_true(seconds >= 0.045 && seconds < 5);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_pair, close_pair)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_every_type), TEST(test_submit_sends_what_it_needs), TEST(test_longest_submit),
        TEST(test_refused),    TEST(test_texts_are_terminated),       TEST(test_last_words),
        TEST(test_full)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
