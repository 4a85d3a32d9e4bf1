#include "fake_link.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <asdm/error.h>

#include "front/link/link.h"

enum { HELD_MAX = 256, DIED_MAX = 4096 };

struct held {
    uint64_t id; /* 0: free */
    char prompt[64];
    int model, width, height, rows, steps, done;
    uint64_t seed;
    bool preview, told_running;
};

struct link {
    link_handler *handler;
    void *user;
    int models[WIRE_MODELS_MAX], model_count, fd;
    bool loaded, stopping;
    double ready_at, step_at;
    struct held held[HELD_MAX]; /* in the order of submission */
    int count;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of what tests see and set */
static struct fake_options options;
static struct fake_seen seen;
static int held_back, kill_due;
static uint64_t died[DIED_MAX]; /* seeds that ran when a worker died */
static int died_count;

void fake_reset(const struct fake_options *to) {
    pthread_mutex_lock(&lock);
    options = *to;
    memset(&seen, 0, sizeof seen);
    seen.init_sum = -1;
    held_back = kill_due = died_count = 0;
    pthread_mutex_unlock(&lock);
}

void fake_hold(int held) {
    pthread_mutex_lock(&lock);
    held_back = held;
    pthread_mutex_unlock(&lock);
}

void fake_kill(void) {
    pthread_mutex_lock(&lock);
    kill_due = 1;
    pthread_mutex_unlock(&lock);
}

void fake_look(struct fake_seen *ret) {
    pthread_mutex_lock(&lock);
    *ret = seen;
    pthread_mutex_unlock(&lock);
}

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static bool has_died(uint64_t seed) { /* locked */
    for (int i = 0; i < died_count; i++)
        if (died[i] == seed)
            return true;
    return false;
}

enum asdm_status link_create(const struct config *config, const int *models, int model_count, link_handler *handler,
                             void *user, struct link **ret, struct asdm_error *err) {
    (void)config;
    (void)err;
    struct link *l = calloc(1, sizeof *l);
    l->handler = handler;
    l->user = user;
    memcpy(l->models, models, (size_t)model_count * sizeof *models);
    l->model_count = model_count;
    l->fd = eventfd(0, EFD_CLOEXEC);
    *ret = l;
    return ASDM_OK;
}

void link_destroy(struct link **link) {
    if (*link) {
        close((*link)->fd);
        free(*link);
    }
    *link = NULL;
}

int link_fd(const struct link *l) {
    return l->fd;
}

int link_timeout_ms(const struct link *l) {
    pthread_mutex_lock(&lock);
    int ms = kill_due || held_back || l->count > 0 || !l->loaded ? 1 : -1;
    pthread_mutex_unlock(&lock);
    return l->stopping ? -1 : ms;
}

bool link_is_ready(const struct link *l) {
    return l->loaded && !l->stopping;
}

int link_pid(const struct link *l) {
    return l->stopping ? 0 : 1;
}

static void load(struct link *l) {
    struct wire_model capacity = {.default_width = 64,
                                  .default_height = 64,
                                  .rows_max = options.rows_max,
                                  .pictures_max = options.pictures_max,
                                  .device_bytes = 8000,
                                  .device_free = 5000,
                                  .device_weights = 2000,
                                  .device_plans = 700,
                                  .row_pixels_max = options.row_pixels_max};
    for (int i = 0; i < l->model_count; i++) {
        capacity.model = i;
        l->handler(l->user, &(struct link_event){.type = LINK_MODEL, .model = l->models[i], .capacity = &capacity});
    }
    l->loaded = true;
    l->handler(l->user, &(struct link_event){.type = LINK_READY});
}

static void die(struct link *l) {
    pthread_mutex_lock(&lock);
    seen.deaths++;
    for (int i = 0; i < l->count && died_count < DIED_MAX; i++)
        if (l->held[i].told_running)
            died[died_count++] = l->held[i].seed;
    pthread_mutex_unlock(&lock);
    l->count = 0;
    l->loaded = false;
    l->ready_at = now_s() + options.load_ms * 1e-3;
    l->handler(l->user, &(struct link_event){.type = LINK_DIED, .reason = "crashed"});
}

static void leave(struct link *l, int i) {
    memmove(&l->held[i], &l->held[i + 1], (size_t)(--l->count - i) * sizeof *l->held);
}

static struct link_event about(const struct held *h, enum link_event_type type) {
    return (struct link_event){.type = type, .id = h->id, .model = h->model, .width = h->width, .height = h->height};
}

/* `i` is in l->held, and may not be any more afterwards. */
static void tell_pixels(struct link *l, int i, bool preview) {
    struct held h = l->held[i];
    struct link_event event = about(&h, preview ? LINK_PREVIEW : LINK_PICTURE);
    struct wire_picture picture = {.preview = preview, .step = h.done, .seconds = {0.0001, 0, 0.002, 0.0001}};
    uint8_t *rgb = malloc((size_t)h.width * (size_t)h.height * 3);
    memset(rgb, (int)(h.seed & 255), (size_t)h.width * (size_t)h.height * 3);
    event.picture = &picture;
    event.rgb = rgb;
    if (!preview)
        leave(l, i);
    l->handler(l->user, &event);
    free(rgb);
}

static void tell_progress(struct link *l, const struct held *h, enum asdm_picture_state state) {
    struct wire_progress progress = {.state = (int32_t)state, .done = h->done, .total = h->steps};
    struct link_event event = about(h, LINK_PROGRESS);
    event.progress = &progress;
    l->handler(l->user, &event);
}

static void note(const struct link *l, const bool *taken, int rows, uint64_t row_pixels) {
    int waiting = 0, again = 0;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < l->count; i++) {
        waiting += !taken[i];
        again += has_died(l->held[i].seed);
    }
    seen.crowded += again > 0 && l->count > 1;
    seen.rows_most = rows > seen.rows_most ? rows : seen.rows_most;
    seen.waiting_most = waiting > seen.waiting_most ? waiting : seen.waiting_most;
    seen.row_pixels_most = row_pixels > seen.row_pixels_most ? row_pixels : seen.row_pixels_most;
    pthread_mutex_unlock(&lock);
}

/* False: the worker has died. */
static bool is_survived(struct link *l) {
    for (int i = 0; i < l->count; i++) {
        struct held *h = &l->held[i];
        pthread_mutex_lock(&lock);
        bool before = has_died(h->seed);
        pthread_mutex_unlock(&lock);
        bool crash = strcmp(h->prompt, "crash") == 0 || (strcmp(h->prompt, "crash once") == 0 && !before);
        if ((crash && h->done > 0) || strcmp(h->prompt, "choke") == 0) {
            die(l);
            return false;
        }
    }
    return true;
}

static void step(struct link *l) {
    bool taken[HELD_MAX] = {0};
    int rows = 0, pictures = 0;
    uint64_t row_pixels = 0;
    if (l->count == 0 || !is_survived(l))
        return;
    for (int i = 0; i < l->count; i++)
        if (rows + l->held[i].rows <= options.rows_max) {
            taken[i] = true;
            rows += l->held[i].rows;
            pictures++;
            row_pixels += (uint64_t)l->held[i].rows * (uint64_t)l->held[i].width * (uint64_t)l->held[i].height;
        }
    note(l, taken, rows, row_pixels);
    struct wire_step report = {.rows = rows, .pictures = pictures, .seconds = options.step_ms * 1e-3};
    l->handler(l->user, &(struct link_event){.type = LINK_STEP, .model = l->held[0].model, .step = &report});
    uint64_t ids[HELD_MAX];
    int count = 0;
    for (int i = 0; i < l->count; i++)
        if (taken[i])
            ids[count++] = l->held[i].id;
    for (int k = 0; k < count; k++) {
        int i = 0;
        while (i < l->count && l->held[i].id != ids[k])
            i++;
        if (i == l->count)
            continue; /* a handler has cancelled it */
        struct held *h = &l->held[i];
        h->told_running = true;
        h->done++;
        tell_progress(l, h, h->done == h->steps ? ASDM_PICTURE_DECODING : ASDM_PICTURE_RUNNING);
        if (h->preview)
            tell_pixels(l, i, true);
        h->preview = false;
        if (h->done == h->steps)
            tell_pixels(l, i, false);
    }
}

void link_turn(struct link *l) {
    pthread_mutex_lock(&lock);
    bool killed = kill_due && l->loaded, held = held_back;
    kill_due = kill_due && !killed;
    pthread_mutex_unlock(&lock);
    if (l->stopping)
        return;
    if (killed)
        die(l);
    if (!l->loaded && now_s() >= l->ready_at)
        load(l);
    for (int i = 0; i < l->count; i++)
        if (strcmp(l->held[i].prompt, "wrong") == 0) {
            struct link_event event = about(&l->held[i], LINK_FAILED);
            struct wire_failed failed = {.status = ASDM_ERR_ARGUMENT, .message = "prompt must be right"};
            event.failed = &failed;
            leave(l, i--);
            l->handler(l->user, &event);
        }
    if (!held && l->loaded && now_s() >= l->step_at) {
        l->step_at = now_s() + options.step_ms * 1e-3;
        step(l);
    }
}

bool link_can_hold(const struct link *l, const struct link_picture *picture) {
    (void)l;
    return picture->width <= 4096;
}

bool link_submit(struct link *l, uint64_t id, const struct link_picture *p) {
    ASDM_ASSERT(id > 0);
    if (!link_is_ready(l) || l->count == HELD_MAX)
        return false;
    struct held *h = &l->held[l->count++];
    *h = (struct held){.id = id,
                       .model = p->model,
                       .width = p->width,
                       .height = p->height,
                       .steps = p->steps,
                       .rows = p->guidance_scale > 1 ? 2 : 1,
                       .seed = p->seed};
    strncpy(h->prompt, p->prompt, sizeof h->prompt - 1);
    int sum = p->init ? 0 : -1;
    for (size_t i = 0; p->init && i < (size_t)p->init->width * p->init->height * 3; i++)
        sum += p->init->rgb[i];
    pthread_mutex_lock(&lock);
    ASDM_ASSERT(seen.submitted < FAKE_LOG_MAX && l->count <= options.pictures_max);
    seen.seeds[seen.submitted++] = p->seed;
    seen.last_submit = now_s();
    seen.init_sum = sum;
    pthread_mutex_unlock(&lock);
    return true;
}

void link_cancel(struct link *l, uint64_t id) {
    for (int i = 0; i < l->count; i++)
        if (l->held[i].id == id) {
            leave(l, i);
            pthread_mutex_lock(&lock);
            seen.cancelled++;
            pthread_mutex_unlock(&lock);
            return;
        }
}

void link_preview(struct link *l, uint64_t id) {
    for (int i = 0; i < l->count; i++)
        if (l->held[i].id == id)
            l->held[i].preview = true;
    pthread_mutex_lock(&lock);
    seen.previews++;
    pthread_mutex_unlock(&lock);
}

void link_stop(struct link *l) {
    l->stopping = true;
}
