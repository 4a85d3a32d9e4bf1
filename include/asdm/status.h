/* Status codes and error messages, the same in the library and in every program built on it. */
#ifndef ASDM_STATUS_H
#define ASDM_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

/* One list: symbol, name in messages, what it means. */
#define ASDM_STATUS_LIST(X)                                                                                            \
    X(ASDM_OK, "ok", "done")                                                                                           \
    X(ASDM_ERR_ARGUMENT, "invalid argument", "the caller asked for something that does not exist or is out of range")  \
    X(ASDM_ERR_NOT_FOUND, "not found", "a file, key or tensor is missing")                                             \
    X(ASDM_ERR_FORMAT, "bad format", "a file is damaged or is not what its name says")                                 \
    X(ASDM_ERR_UNSUPPORTED, "unsupported", "valid, but this build or this program cannot do it")                       \
    X(ASDM_ERR_IO, "input/output error", "the operating system refused to read or write")                              \
    X(ASDM_ERR_MEMORY, "out of memory", "more memory is needed than there is")                                         \
    X(ASDM_ERR_CANCELLED, "cancelled", "the caller cancelled the work")                                                \
    X(ASDM_ERR_DEVICE, "device error", "an accelerator or its library failed")                                         \
    X(ASDM_ERR_INTERNAL, "internal error", "a defect in asdm")

enum asdm_status {
#define ASDM_STATUS_ENUM(symbol, name, meaning) symbol,
    ASDM_STATUS_LIST(ASDM_STATUS_ENUM)
#undef ASDM_STATUS_ENUM
};

/* Where a fallible call says what went wrong. `message` names the file, key or tensor; it is valid until the next
 * failing call that is given the same object. Untouched on success. A NULL error pointer is allowed everywhere. */
struct asdm_error {
    enum asdm_status status;
    char message[1024];
};

/* "ok", "invalid argument", ...; never NULL. */
const char *asdm_status_name(enum asdm_status status);

#ifdef __cplusplus
}
#endif
#endif
