#include "front/notify.h"

#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include <systemd/sd-daemon.h>

#include <asdm/error.h>

enum { STATUS_BYTES_MAX = 200 };

enum asdm_status notify_listen_fd(int *ret_fd, struct asdm_error *err) {
    int count = sd_listen_fds(1); /* 1: what is started from here does not inherit the variables */
    if (count < 0)
        return asdm_fail(err, ASDM_ERR_IO, "sockets from systemd: %s", strerror(-count));
    if (count > 1)
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "systemd handed over %d sockets; one is used", count);
    int fd = count == 1 ? SD_LISTEN_FDS_START : -1;
    if (fd >= 0 && sd_is_socket_inet(fd, AF_UNSPEC, SOCK_STREAM, 1, 0) <= 0)
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "systemd's socket must be a listening TCP socket (ListenStream=)");
    *ret_fd = fd;
    return ASDM_OK;
}

void notify_ready(void) {
    sd_notify(0, "READY=1");
}

void notify_stopping(void) {
    sd_notify(0, "STOPPING=1");
}

void notify_status(const char *format, ...) {
    char text[STATUS_BYTES_MAX];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    sd_notifyf(0, "STATUS=%s", text);
}

void notify_alive(void) {
    sd_notify(0, "WATCHDOG=1");
}

int notify_watchdog_ms(void) {
    uint64_t limit_us;
    if (sd_watchdog_enabled(0, &limit_us) <= 0)
        return 0;
    return limit_us / 1000 > INT_MAX ? INT_MAX : (int)(limit_us / 1000);
}
