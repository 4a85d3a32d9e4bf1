#include "front/link/link.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include <asdm/error.h>

#include "clock.h"
#include "front/link/process.h"
#include "front/link/region.h"

enum {
    PAUSE_FIRST_MS = 100, /* before the start after one that died while loading; doubles */
    PAUSE_MAX_MS = 10000,
    PAUSE_KILLED_MAX_MS = 500, /* after a kill from outside, which says nothing about the model */
    REAP_MS = 5,               /* between looks at a process that is ending */
    RESEND_MS = 10,            /* between tries to send what the socket had no room for */
    TURN_MESSAGES_MAX = 1024,  /* read in one turn */
};

enum phase { NONE /* no process */, LOADING, SERVING, ENDING /* killed or gone, not reaped yet */ };

/* A picture in the worker. */
struct held {
    uint64_t wire_id; /* 0: free. Never used twice, so that a late message cannot meet another picture */
    uint64_t id;      /* the caller's; 0: the caller has nothing to do with it any more */
    int model;        /* index in the configuration */
    int width, height;
    struct region region;         /* holds all of its pixels */
    uint64_t result, preview;     /* offsets */
    bool cancel_due, preview_due; /* to be sent when the socket has room */
};

struct link {
    const struct config *config;
    int models[WIRE_MODELS_MAX]; /* the worker's numbers to the configuration's */
    int model_count;
    link_handler *handler;
    void *user;
    char *program;
    uint64_t memory_bytes;

    enum phase phase;
    struct process process;
    bool was_loading; /* ENDING: when it ended */
    bool died_told;   /* ENDING: LINK_DIED has been */
    bool greeted;     /* HELLO has come */
    int told;         /* LOADING: LOADs sent; one more: START, too */
    bool stopping, stop_due;
    bool ended_by_front; /* for what it did, or did not do */
    int pause_ms;        /* before the next start after a death in loading; 0: none lately */
    int64_t start_at;    /* NONE: ms */
    int64_t quiet_since; /* the watchdog's: the last message, or the first picture; ms */
    bool failure_told;
    struct wire_failed failure; /* the worker's last words */

    uint64_t last_wire_id;
    int held_count;
    struct held held[REGIONS_MAX];
    struct regions regions;
};

/* ---- life */

static enum asdm_status check_models(const struct link *l, struct asdm_error *err) {
    struct wire_load load;
    for (int i = 0; i < l->model_count; i++) {
        const struct config_model *m = &l->config->models[l->models[i]];
        const char *device = m->device ? m->device : l->config->device;
        const char *dtype = m->dtype ? m->dtype : l->config->dtype;
        if (strlen(m->name) >= sizeof load.name || strlen(m->path) >= sizeof load.path ||
            (m->tokenizer && strlen(m->tokenizer) >= sizeof load.tokenizer) ||
            (device && strlen(device) >= sizeof load.device) || (dtype && strlen(dtype) >= sizeof load.dtype))
            return asdm_fail(err, ASDM_ERR_ARGUMENT, "models: %.60s: a name or path is too long", m->name);
    }
    if (l->config->plan && strlen(l->config->plan) >= sizeof load.plan)
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "worker.plan: the path is too long");
    return ASDM_OK;
}

enum asdm_status link_create(const struct config *config, const int *models, int model_count, link_handler *handler,
                             void *user, struct link **ret, struct asdm_error *err) {
    ASDM_ASSERT(model_count > 0 && model_count <= WIRE_MODELS_MAX);
    struct link *l = calloc(1, sizeof *l);
    if (!l)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for a worker's link");
    l->config = config;
    memcpy(l->models, models, (size_t)model_count * sizeof *models);
    l->model_count = model_count;
    l->handler = handler;
    l->user = user;
    l->process.socket = -1;
    l->memory_bytes = (uint64_t)config->shared_memory_mb << 20;
    l->start_at = clock_ms();
    enum asdm_status status = check_models(l, err);
    if (status == ASDM_OK)
        status = process_find(config->worker, &l->program, err);
    if (status != ASDM_OK) {
        link_destroy(&l);
        return status;
    }
    *ret = l;
    return ASDM_OK;
}

void link_destroy(struct link **link) {
    struct link *l = *link;
    int status;
    if (!l)
        return;
    if (l->phase != NONE) {
        process_kill(&l->process);
        process_reap(&l->process, true, &status);
    }
    free(l->program);
    free(l);
    *link = NULL;
}

/* ---- pictures in the worker */

static struct held *find_held(struct link *l, uint64_t id) {
    for (int i = 0; id && i < REGIONS_MAX; i++)
        if (l->held[i].wire_id && l->held[i].id == id)
            return &l->held[i];
    return NULL;
}

/* 0 finds a free one. */
static struct held *find_wire(struct link *l, uint64_t wire_id) {
    for (int i = 0; i < REGIONS_MAX; i++)
        if (l->held[i].wire_id == wire_id)
            return &l->held[i];
    return NULL;
}

static void drop_held(struct link *l, struct held *h) {
    region_drop(&l->regions, &h->region);
    *h = (struct held){0};
    l->held_count--;
}

/* ---- start and end */

static struct wire_message load_message(const struct link *l, int index) {
    const struct config *c = l->config;
    const struct config_model *m = &c->models[l->models[index]];
    const char *device = m->device ? m->device : c->device, *dtype = m->dtype ? m->dtype : c->dtype;
    struct wire_message message = {.type = WIRE_LOAD};
    struct wire_load *load = &message.load;
    snprintf(load->name, sizeof load->name, "%s", m->name);
    snprintf(load->path, sizeof load->path, "%s", m->path);
    snprintf(load->tokenizer, sizeof load->tokenizer, "%s", m->tokenizer ? m->tokenizer : "");
    snprintf(load->plan, sizeof load->plan, "%s", c->plan ? c->plan : "");
    snprintf(load->device, sizeof load->device, "%s", device ? device : "");
    snprintf(load->dtype, sizeof load->dtype, "%s", dtype ? dtype : "");
    load->threads = c->threads;
    load->batch_dependent = !c->batch_invariant;
    load->rows_max = c->rows_max;
    load->memory_bytes = (uint64_t)c->memory_mb << 20;
    return message;
}

static bool send_now(struct link *l, enum wire_type type, uint64_t wire_id) {
    return wire_send(l->process.socket, &(struct wire_message){.type = type, .id = wire_id}, 0);
}

/* Sends what waits; never blocks. False: the socket is full, or the worker gone (which reading tells). */
static bool send_due(struct link *l) {
    if (l->phase != LOADING && l->phase != SERVING)
        return true;
    for (; l->phase == LOADING && l->told < l->model_count; l->told++) {
        struct wire_message message = load_message(l, l->told);
        if (!wire_send(l->process.socket, &message, 0))
            return false;
    }
    if (l->told == l->model_count) {
        if (!send_now(l, WIRE_START, 0))
            return false;
        l->told++;
    }
    for (int i = 0; i < REGIONS_MAX; i++) {
        struct held *h = &l->held[i];
        if (h->preview_due && !send_now(l, WIRE_PREVIEW, h->wire_id))
            return false;
        h->preview_due = false;
        if (h->cancel_due && !send_now(l, WIRE_CANCEL, h->wire_id))
            return false;
        h->cancel_due = false;
    }
    if (l->stop_due && !send_now(l, WIRE_STOP, 0))
        return false;
    l->stop_due = false;
    return true;
}

static bool is_due(const struct link *l) {
    bool due = l->stop_due || l->told <= l->model_count;
    for (int i = 0; i < REGIONS_MAX && !due; i++)
        due = l->held[i].cancel_due || l->held[i].preview_due;
    return due;
}

static void tell_died(struct link *l, const char *reason) {
    struct link_event event = {.type = LINK_DIED, .reason = reason, .failed = l->failure_told ? &l->failure : NULL};
    memset(l->held, 0, sizeof l->held);
    l->held_count = 0;
    l->regions.count = 0;
    l->died_told = true;
    if (!l->stopping)
        l->handler(l->user, &event);
}

/* Before the next start. */
static void take_pause(struct link *l, bool was_loading, int most_ms) {
    if (!was_loading)
        l->pause_ms = 0;
    else
        l->pause_ms = l->pause_ms == 0 ? PAUSE_FIRST_MS : l->pause_ms * 2 < most_ms ? l->pause_ms * 2 : most_ms;
    l->phase = NONE;
    l->start_at = clock_ms() + l->pause_ms;
}

static void start(struct link *l) {
    struct asdm_error err = {0};
    l->greeted = l->died_told = l->failure_told = false;
    l->regions.bytes = l->memory_bytes;
    l->told = 0;
    if (process_start(l->program, l->memory_bytes, &l->process, &err) == ASDM_OK) {
        l->phase = LOADING;
        l->quiet_since = clock_ms();
        return;
    }
    l->failure.status = (int32_t)err.status;
    snprintf(l->failure.message, sizeof l->failure.message, "%.255s", err.message);
    l->failure_told = true;
    take_pause(l, true, PAUSE_MAX_MS);
    tell_died(l, "load");
}

/* No more is heard of this process. `reason` NULL: how it ended says. */
static void end(struct link *l, const char *reason) {
    l->was_loading = l->phase == LOADING;
    l->ended_by_front = reason != NULL;
    l->phase = ENDING;
    process_kill(&l->process);
    if (l->was_loading)
        reason = "load";
    if (reason)
        tell_died(l, reason);
}

static void reap(struct link *l) {
    int status;
    if (!process_reap(&l->process, false, &status))
        return;
    bool killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
    take_pause(l, l->was_loading, killed && !l->ended_by_front ? PAUSE_KILLED_MAX_MS : PAUSE_MAX_MS);
    if (!l->died_told)
        tell_died(l, killed ? "killed" : "crashed");
}

/* ---- what the worker says */

static bool read_model(struct link *l, const struct wire_model *m) {
    if (m->model < 0 || m->model >= l->model_count || m->default_width <= 0 || m->default_height <= 0 ||
        m->rows_max <= 0 || m->pictures_max <= 0)
        return false;
    l->handler(l->user, &(struct link_event){.type = LINK_MODEL, .model = l->models[m->model], .capacity = m});
    return true;
}

static bool read_step(struct link *l, const struct wire_step *step) {
    if (step->model < 0 || step->model >= l->model_count || step->rows <= 0 || step->pictures <= 0)
        return false;
    l->handler(l->user, &(struct link_event){.type = LINK_STEP, .model = l->models[step->model], .step = step});
    return true;
}

static struct link_event picture_event(const struct held *h, enum link_event_type type) {
    return (struct link_event){.type = type, .id = h->id, .model = h->model, .width = h->width, .height = h->height};
}

/* The picture has left the worker. Nothing is told when the caller has cancelled it; and when the worker knows that or
 * will, its answer to the cancel is still to come. */
static void leave(struct link *l, struct held *h, struct link_event *event, bool is_answer) {
    if (h->id) {
        h->id = 0; /* so that a cancel from within the handler finds nothing */
        l->handler(l->user, event);
        drop_held(l, h);
    } else if (is_answer || h->cancel_due) {
        drop_held(l, h);
    }
}

static bool read_picture(struct link *l, struct held *h, const struct wire_picture *picture) {
    struct link_event event = picture_event(h, picture->preview ? LINK_PREVIEW : LINK_PICTURE);
    event.picture = picture;
    event.rgb = l->process.memory + h->result;
    if (!picture->preview) {
        leave(l, h, &event, false);
        return true;
    }
    if (picture->slot < 0 || picture->slot >= WIRE_PREVIEW_SLOTS)
        return false;
    struct wire_previews *previews = (struct wire_previews *)(void *)(l->process.memory + h->preview);
    event.rgb = (const uint8_t *)(previews + 1) + (uint64_t)picture->slot * wire_picture_bytes(h->width, h->height);
    if (h->id)
        l->handler(l->user, &event);
    atomic_store(&previews->full[picture->slot], 0);
    return true;
}

static void read_progress(struct link *l, const struct held *h, const struct wire_progress *progress) {
    struct link_event event = picture_event(h, LINK_PROGRESS);
    event.progress = progress;
    if (h->id)
        l->handler(l->user, &event);
}

static void read_failed(struct link *l, struct held *h, const struct wire_failed *failed) {
    struct link_event event = picture_event(h, LINK_FAILED);
    event.failed = failed;
    leave(l, h, &event, failed->status == ASDM_ERR_CANCELLED);
}

/* About one picture; those we do not know of are nobody's. */
static bool read_about_picture(struct link *l, const struct wire_message *m) {
    struct held *h = m->id ? find_wire(l, m->id) : NULL;
    if (!h)
        return true;
    if (m->type == WIRE_PICTURE)
        return read_picture(l, h, &m->picture);
    if (m->type == WIRE_PROGRESS)
        read_progress(l, h, &m->progress);
    else
        read_failed(l, h, &m->failed);
    return true;
}

/* False: no worker of ours would say that. */
static bool read_message(struct link *l, const struct wire_message *m) {
    bool serving = l->phase == SERVING;
    if (m->type == WIRE_HELLO) {
        bool first = !l->greeted;
        l->greeted = true;
        return first && m->message_bytes == sizeof *m;
    }
    if (!l->greeted)
        return false;
    if (m->type == WIRE_ALIVE)
        return true;
    if (m->type == WIRE_FAILED && m->id == 0) {
        l->failure = m->failed;
        l->failure_told = true;
        return false;
    }
    if (m->type == WIRE_MODEL && !serving)
        return read_model(l, &m->model);
    if (m->type == WIRE_READY && !serving) {
        l->phase = SERVING;
        l->handler(l->user, &(struct link_event){.type = LINK_READY});
        return true;
    }
    if (m->type == WIRE_STEP && serving)
        return read_step(l, &m->step);
    return serving && (m->type == WIRE_PROGRESS || m->type == WIRE_PICTURE || m->type == WIRE_FAILED) &&
           read_about_picture(l, m);
}

static void read_worker(struct link *l) {
    struct wire_message m;
    for (int i = 0; i < TURN_MESSAGES_MAX; i++) {
        enum wire_received received = wire_receive(l->process.socket, &m);
        if (received == WIRE_NOTHING)
            return;
        l->quiet_since = clock_ms();
        if (received == WIRE_GONE || !read_message(l, &m)) {
            end(l, received == WIRE_GONE ? NULL : "crashed");
            return;
        }
    }
}

/* ---- the caller's side */

/* When the watchdog bites, in ms; -1: it sleeps. */
static int64_t watchdog_at(const struct link *l) {
    if (l->phase == LOADING)
        return l->quiet_since + l->config->load_timeout_ms;
    return l->phase == SERVING && l->held_count > 0 ? l->quiet_since + l->config->step_timeout_ms : -1;
}

void link_turn(struct link *l) {
    if (l->phase == ENDING)
        reap(l);
    if (l->phase == NONE && !l->stopping && clock_ms() >= l->start_at)
        start(l);
    if (l->phase == LOADING || l->phase == SERVING)
        read_worker(l); /* before the watchdog: it may be we who slept */
    int64_t bites = watchdog_at(l);
    if (bites >= 0 && clock_ms() >= bites)
        end(l, "hung");
    send_due(l);
}

int link_fd(const struct link *l) {
    return l->process.socket;
}

int link_timeout_ms(const struct link *l) {
    int64_t now = clock_ms(), at = -1;
    if (l->phase == NONE)
        at = l->stopping ? -1 : l->start_at;
    else if (l->phase == ENDING)
        at = now + REAP_MS;
    else {
        at = watchdog_at(l);
        if (is_due(l) && (at < 0 || at > now + RESEND_MS))
            at = now + RESEND_MS;
    }
    return at < 0 ? -1 : at <= now ? 0 : (int)(at - now);
}

bool link_is_ready(const struct link *l) {
    return l->phase == SERVING && !l->stopping;
}

int link_pid(const struct link *l) {
    return l->process.pid;
}

/* A picture's places, one after the other in one region. */
struct layout {
    uint64_t result, preview, init, mask, bytes; /* offsets, and the sum */
};

static uint64_t place(uint64_t *end_of_last, uint64_t bytes) {
    uint64_t at = *end_of_last;
    *end_of_last += (bytes + 63) / 64 * 64;
    return at;
}

static struct layout lay_out(const struct link_picture *p) {
    uint64_t pixels = wire_picture_bytes(p->width, p->height);
    struct layout to = {0};
    to.result = place(&to.bytes, pixels);
    to.preview = place(&to.bytes, sizeof(struct wire_previews) + WIRE_PREVIEW_SLOTS * pixels);
    if (p->init)
        to.init = place(&to.bytes, wire_picture_bytes((int)p->init->width, (int)p->init->height));
    if (p->init && p->mask)
        to.mask = place(&to.bytes, (uint64_t)p->init->width * p->init->height);
    return to;
}

static bool text_fits(const char *text, size_t room) {
    return !text || strlen(text) < room;
}

bool link_can_hold(const struct link *l, const struct link_picture *p) {
    struct wire_submit submit;
    bool sides = p->width > 0 && p->height > 0 && p->width <= ASDM_SIDE_MAX && p->height <= ASDM_SIDE_MAX;
    bool init = !p->init || (p->init->width > 0 && p->init->height > 0 && p->init->width <= ASDM_SIDE_MAX &&
                             p->init->height <= ASDM_SIDE_MAX);
    return sides && init && lay_out(p).bytes <= l->memory_bytes && text_fits(p->prompt, WIRE_PROMPT_MAX + 1) &&
           text_fits(p->negative_prompt, WIRE_PROMPT_MAX + 1) && text_fits(p->sampler, sizeof submit.sampler) &&
           text_fits(p->schedule, sizeof submit.schedule);
}

static void fill_texts(struct wire_submit *s, const struct link_picture *p) {
    const char *prompt = p->prompt ? p->prompt : "", *negative = p->negative_prompt ? p->negative_prompt : "";
    s->prompt_bytes = (uint32_t)strlen(prompt);
    s->negative_bytes = (uint32_t)strlen(negative);
    memcpy(s->texts, prompt, s->prompt_bytes + 1);
    memcpy(s->texts + s->prompt_bytes + 1, negative, s->negative_bytes + 1);
    snprintf(s->sampler, sizeof s->sampler, "%s", p->sampler ? p->sampler : "");
    snprintf(s->schedule, sizeof s->schedule, "%s", p->schedule ? p->schedule : "");
}

/* Fills in the places and copies the pixels that go to the worker. */
static void fill_places(struct link *l, struct wire_submit *s, const struct link_picture *p,
                        const struct region *region, const struct layout *to) {
    uint64_t pixels = wire_picture_bytes(p->width, p->height), preview = region->offset + to->preview;
    s->result = (struct wire_pixels){region->offset + to->result, pixels, p->width, p->height};
    s->preview =
        (struct wire_pixels){preview, sizeof(struct wire_previews) + WIRE_PREVIEW_SLOTS * pixels, p->width, p->height};
    memset(l->process.memory + preview, 0, sizeof(struct wire_previews));
    if (!p->init)
        return;
    int width = (int)p->init->width, height = (int)p->init->height;
    s->init = (struct wire_pixels){region->offset + to->init, wire_picture_bytes(width, height), width, height};
    memcpy(l->process.memory + s->init.offset, p->init->rgb, s->init.bytes);
    if (!p->mask)
        return;
    s->mask =
        (struct wire_pixels){region->offset + to->mask, (uint64_t)p->init->width * p->init->height, width, height};
    memcpy(l->process.memory + s->mask.offset, p->mask, s->mask.bytes);
}

static int worker_model(const struct link *l, int model) {
    for (int i = 0; i < l->model_count; i++)
        if (l->models[i] == model)
            return i;
    return -1;
}

bool link_submit(struct link *l, uint64_t id, const struct link_picture *p) {
    struct wire_message m = {.type = WIRE_SUBMIT,
                             .submit = {.model = worker_model(l, p->model),
                                        .width = p->width,
                                        .height = p->height,
                                        .steps = p->steps,
                                        .syntax = (int32_t)p->syntax,
                                        .rng = (int32_t)p->rng,
                                        .previews = p->previews,
                                        .guidance_scale = p->guidance_scale,
                                        .strength = p->strength,
                                        .seed = p->seed}};
    struct region region;
    ASDM_ASSERT(id > 0 && m.submit.model >= 0 && !find_held(l, id));
    if (!link_is_ready(l) || !link_can_hold(l, p))
        return false;
    struct layout to = lay_out(p);
    struct held *h = find_wire(l, 0);
    if (!h || !region_take(&l->regions, to.bytes, &region))
        return false;
    fill_texts(&m.submit, p);
    fill_places(l, &m.submit, p, &region, &to);
    m.id = l->last_wire_id + 1;
    if (!send_due(l) || !wire_send(l->process.socket, &m, 0)) {
        region_drop(&l->regions, &region);
        return false;
    }
    l->last_wire_id++;
    if (l->held_count++ == 0)
        l->quiet_since = clock_ms();
    *h = (struct held){.wire_id = m.id,
                       .id = id,
                       .model = p->model,
                       .width = p->width,
                       .height = p->height,
                       .region = region,
                       .result = m.submit.result.offset,
                       .preview = m.submit.preview.offset};
    return true;
}

void link_cancel(struct link *l, uint64_t id) {
    struct held *h = find_held(l, id);
    if (!h)
        return;
    /* Its places stay taken until the worker answers: it may be writing to them now. */
    h->id = 0;
    h->preview_due = false;
    h->cancel_due = true;
    send_due(l);
}

void link_preview(struct link *l, uint64_t id) {
    struct held *h = find_held(l, id);
    if (h)
        h->preview_due = true;
    send_due(l);
}

void link_stop(struct link *l) {
    if (l->stopping)
        return;
    l->stopping = true;
    l->stop_due = l->phase == LOADING || l->phase == SERVING;
    send_due(l);
}
