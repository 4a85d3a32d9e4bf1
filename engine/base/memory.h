/* Large memory: page-aligned blocks from the system, and how much there is. */
#ifndef ASDM_BASE_MEMORY_H
#define ASDM_BASE_MEMORY_H

#include <stddef.h>

#include <asdm/status.h>

/* Bytes this process can still take without swapping or being killed: the least of MemAvailable, the control group's
 * limit and the address space limit. SIZE_MAX when unknown. */
size_t asdm_memory_available(void);

/* ERR_MEMORY with "WHAT needs X GB of memory, Y GB are available" when `bytes` is more than there is. */
enum asdm_status asdm_memory_check(size_t bytes, const char *what, struct asdm_error *err);

/* Zeroed pages, huge ones where the system has them; checked first, so that asking for too much is an error and not a
 * later kill. */
enum asdm_status asdm_memory_map(size_t bytes, const char *what, void **ret, struct asdm_error *err);
void asdm_memory_unmap(void *memory, size_t bytes);

/* Mapped memory of at least `bytes`, *have being what there is; contents are lost when it grows. On failure what was is
 * still there. */
enum asdm_status asdm_memory_ensure(float **memory, size_t *have, size_t bytes, const char *what,
                                    struct asdm_error *err);

#endif
