/* Stands in for asdm-worker: speaks the wire, draws nothing. What it does wrong is asked for by a model's path while
 * loading ("die", "fail", "hang") and by the prompt of a picture afterwards:
 *     draw        two steps, then a picture whose bytes are the seed's lowest, plus the first byte of init and mask
 *     fail        fails alone
 *     wait        stays until it is cancelled; a preview on request
 *     late        as wait, but its picture is sent after the cancel, before the answer to it
 *     later       as late, and the answer comes 100 ms after the picture
 *     hang        says nothing more          crash, kill, exit   ends so
 *     lie         says things about pictures that are not there, then draws
 *     slot        a preview in a slot that is not there
 *     sleep       does not read for a second, then draws */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "wire/wire.h"

enum { PICTURES_MAX = 512 };

static uint8_t *memory;
static struct picture {
    uint64_t id;
    bool late, later;
    struct wire_pixels result, preview;
    uint8_t fill;
} pictures[PICTURES_MAX];

static void say(struct wire_message m) {
    if (!wire_send(WIRE_SOCKET_FD, &m, 10000))
        exit(0);
}

static struct wire_message hear(void) {
    struct wire_message m;
    for (;;) {
        enum wire_received received = wire_receive(WIRE_SOCKET_FD, &m);
        if (received == WIRE_GONE)
            exit(0);
        if (received == WIRE_RECEIVED)
            return m;
        poll(&(struct pollfd){.fd = WIRE_SOCKET_FD, .events = POLLIN}, 1, -1);
    }
}

static void hang(void) {
    for (;;)
        pause();
}

static void say_failed(uint64_t id, enum asdm_status status, const char *text) {
    struct wire_message m = {.type = WIRE_FAILED, .id = id, .failed.status = (int32_t)status};
    snprintf(m.failed.message, sizeof m.failed.message, "%s", text);
    say(m);
}

static void load(void) {
    struct wire_message m;
    int count = 0;
    char paths[WIRE_MODELS_MAX][sizeof m.load.path];
    say((struct wire_message){.type = WIRE_HELLO, .message_bytes = sizeof(struct wire_message)});
    while ((m = hear()).type == WIRE_LOAD)
        strcpy(paths[count++], m.load.path);
    for (int i = 0; i < count; i++) {
        if (strcmp(paths[i], "die") == 0)
            exit(1);
        if (strcmp(paths[i], "hang") == 0)
            hang();
        if (strcmp(paths[i], "fail") == 0) {
            say_failed(0, ASDM_ERR_NOT_FOUND, "no such model");
            exit(1);
        }
        struct wire_model model = {
            .model = i, .default_width = 64, .default_height = 64, .rows_max = 16, .pictures_max = 20};
        say((struct wire_message){.type = WIRE_MODEL, .model = model});
    }
    say((struct wire_message){.type = WIRE_READY});
}

static void say_picture(const struct picture *p) {
    memset(memory + p->result.offset, p->fill, wire_picture_bytes(p->result.width, p->result.height));
    say((struct wire_message){.type = WIRE_PICTURE, .id = p->id, .picture.prompt_tokens = 7});
}

static void draw(const struct picture *p) {
    for (int i = 1; i <= 2; i++) {
        say((struct wire_message){.type = WIRE_STEP, .step = {.rows = 2, .pictures = 1, .seconds = 0.25}});
        say((struct wire_message){
            .type = WIRE_PROGRESS, .id = p->id, .progress = {.state = ASDM_PICTURE_RUNNING, .done = i, .total = 2}});
    }
    say_picture(p);
}

static void take(uint64_t id, const struct wire_submit *s) {
    struct picture p = {.id = id, .result = s->result, .preview = s->preview, .fill = (uint8_t)s->seed};
    const char *what = s->texts;
    if (s->init.bytes)
        p.fill = (uint8_t)(p.fill + memory[s->init.offset]);
    if (s->mask.bytes)
        p.fill = (uint8_t)(p.fill + memory[s->mask.offset]);
    p.later = strcmp(what, "later") == 0;
    p.late = p.later || strcmp(what, "late") == 0;
    if (p.late || strcmp(what, "wait") == 0) {
        for (int i = 0; i < PICTURES_MAX; i++)
            if (pictures[i].id == 0) {
                pictures[i] = p;
                return;
            }
    } else if (strcmp(what, "fail") == 0) {
        say_failed(id, ASDM_ERR_ARGUMENT, "asked for");
    } else if (strcmp(what, "hang") == 0) {
        hang();
    } else if (strcmp(what, "crash") == 0) {
        raise(SIGABRT);
    } else if (strcmp(what, "kill") == 0) {
        raise(SIGKILL);
    } else if (strcmp(what, "exit") == 0) {
        say_failed(0, ASDM_ERR_DEVICE, "the device is lost");
        exit(1);
    } else if (strcmp(what, "slot") == 0) {
        say((struct wire_message){.type = WIRE_PICTURE, .id = id, .picture = {.preview = 1, .slot = 99}});
    } else {
        if (strcmp(what, "sleep") == 0)
            usleep(1000000);
        if (strcmp(what, "lie") == 0) {
            say((struct wire_message){.type = WIRE_PICTURE, .id = id + 1000});
            say((struct wire_message){.type = WIRE_PROGRESS, .id = id + 1000});
            say_failed(id + 1000, ASDM_ERR_INTERNAL, "");
        }
        draw(&p);
    }
}

static void cancel(uint64_t id) {
    for (int i = 0; i < PICTURES_MAX; i++)
        if (pictures[i].id == id) {
            if (pictures[i].late)
                say_picture(&pictures[i]);
            if (pictures[i].later)
                usleep(100000);
            pictures[i].id = 0;
        }
    say_failed(id, ASDM_ERR_CANCELLED, "cancelled");
}

/* In every slot that is empty, as the worker does. */
static void preview(uint64_t id) {
    for (int i = 0; i < PICTURES_MAX; i++) {
        struct picture *p = &pictures[i];
        if (p->id != id)
            continue;
        struct wire_previews *to = (struct wire_previews *)(void *)(memory + p->preview.offset);
        uint64_t bytes = wire_picture_bytes(p->preview.width, p->preview.height);
        for (int slot = 0; slot < WIRE_PREVIEW_SLOTS; slot++) {
            if (atomic_load(&to->full[slot]))
                continue;
            memset((uint8_t *)(to + 1) + (uint64_t)slot * bytes, 100 + slot, bytes);
            atomic_store(&to->full[slot], 1);
            say((struct wire_message){.type = WIRE_PICTURE, .id = id, .picture = {1, 5, slot, {0}, 0}});
        }
    }
}

/* Whether more was inherited than stderr and the two. */
static bool others_are_open(void) {
    for (int fd = WIRE_MEMORY_FD + 1; fd < 256; fd++)
        if (fcntl(fd, F_GETFD) >= 0)
            return true;
    return false;
}

int main(void) {
    struct stat info;
    if (fstat(WIRE_MEMORY_FD, &info) != 0)
        return 2;
    memory = mmap(NULL, (size_t)info.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, WIRE_MEMORY_FD, 0);
    if (memory == MAP_FAILED || others_are_open())
        return 2;
    load();
    for (;;) {
        struct wire_message m = hear();
        if (m.type == WIRE_STOP)
            return 0;
        if (m.type == WIRE_SUBMIT)
            take(m.id, &m.submit);
        else if (m.type == WIRE_CANCEL)
            cancel(m.id);
        else if (m.type == WIRE_PREVIEW)
            preview(m.id);
    }
}
