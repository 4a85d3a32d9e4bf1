/* The daemon from its configuration on: puts the parts together, waits for signals, and takes them apart in order. */
#ifndef ASDM_FRONT_DAEMON_H
#define ASDM_FRONT_DAEMON_H

#include "front/config.h"

/* Serves until SIGTERM or SIGINT, then drains. Returns the exit code: 0, or 1 when it could not start. SIGHUP re-reads
 * the keys. */
int daemon_run(const struct config *config);

#endif
