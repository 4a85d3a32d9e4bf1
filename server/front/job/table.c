/* Where jobs are found: by id, by idempotency key, by age; and when they are forgotten. */
#include <string.h>

#include "front/job/internal.h"

static unsigned hash_text(unsigned hash, const char *text) {
    for (; *text; text++)
        hash = (hash ^ (unsigned char)*text) * 16777619u; /* FNV-1a */
    return hash;
}

static unsigned id_bucket(const char *id) {
    return hash_text(2166136261u, id) % JOB_BUCKETS;
}

static unsigned idempotent_bucket(const char *idempotency_key, int key) {
    return hash_text(2166136261u ^ (unsigned)key, idempotency_key) % JOB_BUCKETS;
}

static void list_append(struct job_list *list, struct job *job) {
    job->next = NULL;
    job->previous = list->last;
    *(list->last ? &list->last->next : &list->first) = job;
    list->last = job;
}

static void list_take(struct job_list *list, struct job *job) {
    *(job->previous ? &job->previous->next : &list->first) = job->next;
    *(job->next ? &job->next->previous : &list->last) = job->previous;
}

void table_add(struct jobs *jobs, struct job *job) {
    unsigned bucket = id_bucket(job->id);
    job->id_next = jobs->ids[bucket];
    jobs->ids[bucket] = job;
    if (job->request.idempotency_key) {
        bucket = idempotent_bucket(job->request.idempotency_key, job->key);
        job->key_next = jobs->idempotent[bucket];
        jobs->idempotent[bucket] = job;
    }
    job->older = jobs->newest;
    if (jobs->newest)
        jobs->newest->newer = job;
    jobs->newest = job;
    list_append(&jobs->unfinished, job);
    jobs->unfinished_count++;
    job->in_table = true;
    job_hold(job);
}

void table_finish(struct jobs *jobs, struct job *job) {
    list_take(&jobs->unfinished, job);
    list_append(&jobs->finished, job);
    jobs->unfinished_count--;
    jobs->image_bytes += job->image_bytes;
}

/* Of a finished job. Its id is answered with 410 from now on. */
void table_forget(struct jobs *jobs, struct job *job) {
    struct job **at = &jobs->ids[id_bucket(job->id)];
    while (*at != job)
        at = &(*at)->id_next;
    *at = job->id_next;
    if (job->request.idempotency_key) {
        at = &jobs->idempotent[idempotent_bucket(job->request.idempotency_key, job->key)];
        while (*at != job)
            at = &(*at)->key_next;
        *at = job->key_next;
    }
    if (job->older)
        job->older->newer = job->newer;
    *(job->newer ? &job->newer->older : &jobs->newest) = job->older;
    list_take(&jobs->finished, job);
    jobs->image_bytes -= job->image_bytes;
    job->in_table = false;
    remembered_add(jobs->expired, job->id);
    job_release(job);
}

double table_expire(struct jobs *jobs, double now) {
    size_t bytes_max = (size_t)jobs->config->result_memory_mb << 20;
    while (jobs->finished.first && jobs->finished.first->finished + jobs->config->result_ttl_s <= now)
        table_forget(jobs, jobs->finished.first);
    for (struct job *job = jobs->finished.first, *next; job && jobs->image_bytes > bytes_max; job = next) {
        next = job->next;
        if (job->references == 1) /* the table's: nobody waits for it */
            table_forget(jobs, job);
    }
    return jobs->finished.first ? jobs->finished.first->finished + jobs->config->result_ttl_s : 0;
}

void table_clear(struct jobs *jobs) {
    while (jobs->finished.first)
        table_forget(jobs, jobs->finished.first);
}

struct job *table_find_idempotent(const struct jobs *jobs, const char *idempotency_key, int key) {
    struct job *job = jobs->idempotent[idempotent_bucket(idempotency_key, key)];
    while (job && (job->key != key || strcmp(job->request.idempotency_key, idempotency_key) != 0))
        job = job->key_next;
    return job;
}

/* In time that does not tell how much of it is right. */
static bool is_token(const struct job *job, const char *token) {
    size_t length = strlen(job->token);
    unsigned char difference = 0;
    if (!token || strlen(token) != length)
        return false;
    for (size_t i = 0; i < length; i++)
        difference |= (unsigned char)(job->token[i] ^ token[i]);
    return difference == 0;
}

bool jobs_find(struct jobs *jobs, const char *id, const struct key *caller, const char *token, struct job **ret,
               struct problem *ret_problem) {
    pthread_mutex_lock(&jobs->lock);
    struct job *job = jobs->ids[id_bucket(id)];
    while (job && strcmp(job->id, id) != 0)
        job = job->id_next;
    if (job && job->key != caller->index && !caller->admin && !is_token(job, token))
        job = NULL;
    if (job)
        job_hold(job);
    bool gone = !job && remembered_has(jobs->expired, id);
    pthread_mutex_unlock(&jobs->lock);
    if (gone)
        return problem_set(ret_problem, 410, "gone", "", "the job's result was kept for a while and is gone");
    if (!job)
        return problem_set(ret_problem, 404, "not_found", "", "there is no such job");
    *ret = job;
    return true;
}

int jobs_list(struct jobs *jobs, const struct key *caller, bool active_only, struct job **ret, int room) {
    int count = 0;
    pthread_mutex_lock(&jobs->lock);
    struct job *job = active_only ? jobs->unfinished.last : jobs->newest;
    for (; job && count < room; job = active_only ? job->previous : job->older)
        if (job->key == caller->index) {
            job_hold(job);
            ret[count++] = job;
        }
    pthread_mutex_unlock(&jobs->lock);
    return count;
}
