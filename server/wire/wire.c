#include "wire/wire.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "clock.h"

enum { HEADER_BYTES = offsetof(struct wire_message, load) };

/* Bytes of a message that travel; 0: not a message. Texts of SUBMIT must be within their limits. */
static size_t message_bytes(const struct wire_message *m) {
    switch ((enum wire_type)m->type) {
    case WIRE_LOAD:
        return HEADER_BYTES + sizeof m->load;
    case WIRE_SUBMIT:
        if (m->submit.prompt_bytes > WIRE_PROMPT_MAX || m->submit.negative_bytes > WIRE_PROMPT_MAX)
            return 0;
        return HEADER_BYTES + offsetof(struct wire_submit, texts) + m->submit.prompt_bytes + m->submit.negative_bytes +
               2;
    case WIRE_MODEL:
        return HEADER_BYTES + sizeof m->model;
    case WIRE_STEP:
        return HEADER_BYTES + sizeof m->step;
    case WIRE_PROGRESS:
        return HEADER_BYTES + sizeof m->progress;
    case WIRE_PICTURE:
        return HEADER_BYTES + sizeof m->picture;
    case WIRE_FAILED:
        return HEADER_BYTES + sizeof m->failed;
    case WIRE_START:
    case WIRE_CANCEL:
    case WIRE_PREVIEW:
    case WIRE_STOP:
    case WIRE_HELLO:
    case WIRE_READY:
    case WIRE_ALIVE:
        return HEADER_BYTES;
    }
    return 0;
}

/* Waits until the socket takes more, or `deadline` (of clock_ms). */
static bool wait_writable(int fd, int64_t deadline) {
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    for (;;) {
        int64_t left = deadline - clock_ms();
        if (left <= 0)
            return false;
        int n = poll(&p, 1, (int)left);
        if (n > 0)
            return true;
        if (n == 0 || errno != EINTR)
            return false;
    }
}

bool wire_send(int fd, const struct wire_message *message, int timeout_ms) {
    uint32_t head[2] = {message->type, WIRE_VERSION};
    size_t size = message_bytes(message);
    if (size == 0)
        return false;
    struct iovec parts[] = {{head, sizeof head}, {(char *)(uintptr_t)message + sizeof head, size - sizeof head}};
    struct msghdr packet = {.msg_iov = parts, .msg_iovlen = 2};
    int64_t deadline = clock_ms() + timeout_ms;
    for (;;) {
        if (sendmsg(fd, &packet, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
            return true;
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN || !wait_writable(fd, deadline))
            return false;
    }
}

/* One packet of at most `room` bytes, what a close left behind included. <= 0: errno, 0 for the end. */
static ssize_t receive_packet(int fd, void *to, size_t room) {
    ssize_t size;
    do {
        /* ECONNRESET says once that the other end closed before it had read everything; what it sent is still there. */
        size = recv(fd, to, room, MSG_DONTWAIT | MSG_TRUNC);
    } while (size < 0 && (errno == EINTR || errno == ECONNRESET));
    return size;
}

#define TERMINATE(text) ((text)[sizeof(text) - 1] = '\0')

static void terminate_texts(struct wire_message *m) {
    switch ((enum wire_type)m->type) {
    case WIRE_LOAD:
        TERMINATE(m->load.name);
        TERMINATE(m->load.path);
        TERMINATE(m->load.tokenizer);
        TERMINATE(m->load.plan);
        TERMINATE(m->load.device);
        TERMINATE(m->load.dtype);
        break;
    case WIRE_SUBMIT:
        TERMINATE(m->submit.sampler);
        TERMINATE(m->submit.schedule);
        m->submit.texts[m->submit.prompt_bytes] = '\0';
        m->submit.texts[m->submit.prompt_bytes + 1 + m->submit.negative_bytes] = '\0';
        break;
    case WIRE_MODEL:
        TERMINATE(m->model.device);
        TERMINATE(m->model.dtype);
        TERMINATE(m->model.sampler);
        break;
    case WIRE_FAILED:
        TERMINATE(m->failed.message);
        break;
    default:
        break;
    }
}

enum wire_received wire_receive(int fd, struct wire_message *ret) {
    struct wire_message m = {0};
    ssize_t size = receive_packet(fd, &m, sizeof m);
    if (size < 0)
        return errno == EAGAIN ? WIRE_NOTHING : WIRE_GONE;
    if ((size_t)size < HEADER_BYTES || m.version != WIRE_VERSION || (size_t)size != message_bytes(&m))
        return WIRE_GONE;
    terminate_texts(&m);
    *ret = m;
    return WIRE_RECEIVED;
}
