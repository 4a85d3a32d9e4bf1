/* What systemd wants to know of a service, and the socket that it may hand over (sd_notify(3), sd_listen_fds(3)). All
 * of it does nothing where the daemon was not started by systemd. */
#ifndef ASDM_FRONT_NOTIFY_H
#define ASDM_FRONT_NOTIFY_H

#include <asdm/status.h>

/* The one listening TCP socket handed over; -1: none was. ERR_ARGUMENT for anything else. */
enum asdm_status notify_listen_fd(int *ret_fd, struct asdm_error *err);

void notify_ready(void);
void notify_stopping(void);
/* One line for `systemctl status`. */
void notify_status(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Must be called more often than every notify_watchdog_ms, where that is above 0. */
void notify_alive(void);
int notify_watchdog_ms(void);

#endif
