/* Filling in struct asdm_error, and assertions that stay in release builds. */
#ifndef ASDM_ERROR_H
#define ASDM_ERROR_H

#include <asdm/status.h>

/* Writes the message (truncated to what fits) and returns `status`, so that a failing function can end in
 * `return asdm_fail(err, ...)`. `err` may be NULL. */
enum asdm_status asdm_fail(struct asdm_error *err, enum asdm_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4), cold));

/* Puts "context: " before the message already in `err`; returns err->status. Used where a caller knows the file or
 * the tensor that a lower layer could not name. */
enum asdm_status asdm_fail_context(struct asdm_error *err, enum asdm_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4), cold));

/* Our own fault: prints the condition and aborts. Never for what a caller or a file can cause. */
#define ASDM_ASSERT(condition) ((condition) ? (void)0 : asdm_assert_failed(#condition, __FILE__, __LINE__))

void asdm_assert_failed(const char *condition, const char *file, int line) __attribute__((noreturn, cold));

/* Passes a failure up. For functions that own nothing at that point. */
#define ASDM_TRY(call)                                                                                                 \
    do {                                                                                                               \
        enum asdm_status asdm_try_status_ = (call);                                                                    \
        if (asdm_try_status_ != ASDM_OK)                                                                               \
            return asdm_try_status_;                                                                                   \
    } while (0)

#endif
