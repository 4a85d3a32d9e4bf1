#include <pthread.h>
#include <stdlib.h>

#include "front/dialect/a1111.h"

struct tracked {
    struct tracked *next;
    int key;
    struct job *job;
    bool interrupted, skipped;
};

struct choice {
    struct choice *next;
    int key, model;
};

static struct {
    pthread_mutex_t lock;
    struct tracked *jobs;   /* oldest first */
    struct choice *choices; /* at most one per key */
} state = {.lock = PTHREAD_MUTEX_INITIALIZER};

static bool is_finished(struct job *job) {
    struct job_view view;
    job_view(job, &view);
    return view.state != JOB_QUEUED && view.state != JOB_RUNNING;
}

/* Takes `job`, and finished ones that nobody forgot, off the list; returns what was taken off. Locked. */
static struct tracked *take_off(const struct job *job) {
    struct tracked *taken = NULL;
    for (struct tracked **at = &state.jobs; *at;) {
        struct tracked *entry = *at;
        if (entry->job != job && (job || !is_finished(entry->job))) {
            at = &entry->next;
            continue;
        }
        *at = entry->next;
        entry->next = taken;
        taken = entry;
    }
    return taken;
}

static void free_all(struct tracked *entry) {
    while (entry) {
        struct tracked *next = entry->next;
        job_unref(&entry->job);
        free(entry);
        entry = next;
    }
}

void a1111_track(const struct key *caller, struct job *job) {
    struct tracked *entry = calloc(1, sizeof *entry);
    if (!entry)
        return;
    *entry = (struct tracked){.key = caller->index, .job = job_ref(job)};
    pthread_mutex_lock(&state.lock);
    struct tracked *old = take_off(NULL);
    struct tracked **end = &state.jobs;
    while (*end)
        end = &(*end)->next;
    *end = entry;
    pthread_mutex_unlock(&state.lock);
    free_all(old);
}

void a1111_forget(struct job *job) {
    pthread_mutex_lock(&state.lock);
    struct tracked *old = take_off(job);
    pthread_mutex_unlock(&state.lock);
    free_all(old);
}

int a1111_list_active(const struct key *caller, struct a1111_active *ret, int room) {
    int count = 0;
    pthread_mutex_lock(&state.lock);
    for (struct tracked *entry = state.jobs; entry && count < room; entry = entry->next)
        if (entry->key == caller->index && !is_finished(entry->job))
            ret[count++] = (struct a1111_active){job_ref(entry->job), entry->interrupted, entry->skipped};
    pthread_mutex_unlock(&state.lock);
    return count;
}

void a1111_interrupt(const struct key *caller, bool skip) {
    pthread_mutex_lock(&state.lock);
    for (struct tracked *entry = state.jobs; entry; entry = entry->next) {
        if (entry->key != caller->index)
            continue;
        entry->interrupted = entry->interrupted || !skip;
        entry->skipped = entry->skipped || skip;
        job_cancel(entry->job, "client");
    }
    pthread_mutex_unlock(&state.lock);
}

static struct choice *find_choice(int key) {
    struct choice *choice = state.choices;
    while (choice && choice->key != key)
        choice = choice->next;
    return choice;
}

bool a1111_choose_model(const struct key *caller, int model) {
    pthread_mutex_lock(&state.lock);
    struct choice *choice = find_choice(caller->index);
    if (!choice && (choice = malloc(sizeof *choice))) {
        *choice = (struct choice){.next = state.choices, .key = caller->index};
        state.choices = choice;
    }
    if (choice)
        choice->model = model;
    pthread_mutex_unlock(&state.lock);
    return choice;
}

int a1111_chosen_model(const struct key *caller) {
    pthread_mutex_lock(&state.lock);
    const struct choice *choice = find_choice(caller->index);
    int model = choice ? choice->model : 0;
    pthread_mutex_unlock(&state.lock);
    return model;
}
