/* Which implementation computes an operation, where measuring found a better one than the back end's own choice: what
 * `asdm tune` finds, and the file that remembers it.
 *
 * An operation is named by a text of its back end's ("conv 64x64x320 -> 64x64x320 k3 s1 p1,1"), its implementations
 * ("wgmma 160/1/1/1") too; both are printable ASCII without quotes and backslashes. The file is JSON:
 *
 *   {"asdm_plan_file": 1, "plans": [{"gpu": ..., "driver": ..., "libraries": ..., "asdm": ..., "dtype": ...,
 *     "batch_invariant": true, "choices": {OPERATION: {ROWS: IMPLEMENTATION, ...}, ...}}, ...]}
 *
 * with one plan for each machine, version, type and kind of choice; a plan of another one is not used. */
#ifndef ASDM_CHOICES_H
#define ASDM_CHOICES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <asdm/status.h>

enum { ASDM_CHOICE_BYTES = 192 /* of a text, with its NUL */ };

/* Whose choices they are. */
struct asdm_choices_key {
    const char *gpu, *driver, *libraries, *version, *dtype;
    bool batch_invariant;
};

struct asdm_choices;

enum asdm_status asdm_choices_create(struct asdm_choices **ret, struct asdm_error *err);
void asdm_choices_destroy(struct asdm_choices **choices);

/* Reads the plan of `key` from a file. NOT_FOUND: there is no such file. ERR_FORMAT: damaged, anywhere in it; the
 * message names file and line or key. A file without such a plan gives none (*ret_found false): what it has instead is
 * in `ret_words`, for a message. */
enum asdm_status asdm_choices_read(const char *path, const struct asdm_choices_key *key, struct asdm_choices **ret,
                                   bool *ret_found, char ret_words[256], struct asdm_error *err);
/* Writes the plan of `key`: in place of the one that the file has, beside its plans of other keys. A damaged file is
 * ERR_FORMAT and stays as it is. */
enum asdm_status asdm_choices_write(const char *path, const struct asdm_choices_key *key,
                                    const struct asdm_choices *choices, struct asdm_error *err);

enum asdm_status asdm_choices_set(struct asdm_choices *choices, const char *operation, int rows,
                                  const char *implementation, struct asdm_error *err);
/* The implementation for so many rows (*ret_exact), or else one for another number of rows, whose order of summation
 * holds for all numbers where a row's bits must not depend on them; NULL: the operation has none. */
const char *asdm_choices_find(const struct asdm_choices *choices, const char *operation, int rows, bool *ret_exact);
int asdm_choices_count(const struct asdm_choices *choices);        /* of pairs of operation and rows */
const char *asdm_choices_path(const struct asdm_choices *choices); /* the file that they are from; "" if from none */

/* ---- measurements: what choices are made from */

struct asdm_candidate {
    const char *implementation;
    const char *order; /* implementations of one order are said to have the same bits, whatever the rows */
    double seconds;
    uint64_t bits;    /* a hash of one row's result, the same input for all rows; 0: rows differed from each other */
    bool built_in;    /* what the back end takes without choices */
    bool needs_proof; /* that a row's bits do not depend on the rows is not known from the code: it holds only where it
                       * was seen at all numbers of rows that plans are made for */
};

struct asdm_measurements;

/* `ladder`: the numbers of rows that plans are made for. */
enum asdm_status asdm_measurements_create(const int *ladder, int ladder_count, struct asdm_measurements **ret,
                                          struct asdm_error *err);
void asdm_measurements_destroy(struct asdm_measurements **measurements);

bool asdm_measurements_has(const struct asdm_measurements *measurements, const char *operation, int rows);
enum asdm_status asdm_measurements_add(struct asdm_measurements *measurements, const char *operation, int rows,
                                       const struct asdm_candidate *candidate, struct asdm_error *err);

/* One choice, for a report. */
struct asdm_choice {
    const char *operation, *implementation, *built_in; /* in the measurements' memory */
    int rows, candidates;
    double seconds, built_in_seconds;
};

/* Chooses for each operation and number of rows measured. With `batch_invariant` all numbers of rows of an operation
 * get implementations of one order, whose bits were the same in all of them: the order with the least sum over rows of
 * times relative to the built-in choice's. What is not a percent faster than the built-in choice is not taken.
 * `report` may be NULL. */
enum asdm_status asdm_measurements_choose(const struct asdm_measurements *measurements, bool batch_invariant,
                                          struct asdm_choices *into,
                                          void (*report)(void *user, const struct asdm_choice *choice), void *user,
                                          struct asdm_error *err);

#endif
