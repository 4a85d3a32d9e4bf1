#include "front/daemon.h"

#include <errno.h>
#include <netinet/in.h>
#include <arpa/inet.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include <version.h>

#include <asdm/error.h>

#include "front/dialect/dialect.h"
#include "front/log.h"
#include "front/notify.h"
#include "front/operations.h"
#include "front/page/page.h"

enum {
    ROUTES_MAX = 128,
    STARTING_TURN_MS = 50, /* how often it is looked whether the models are ready */
    TURN_MS = 1000,
    FAREWELL_MS = 2000,     /* for the last answers to leave after the drain */
    DESCRIPTORS_BESIDE = 64 /* beside one per connection */
};

struct daemon {
    const struct config *config;
    struct keys *keys;
    struct metrics *metrics;
    struct jobs *jobs;
    struct http *http;
    struct dialect dialect;
    struct operations operations;
    int signals; /* signalfd */
};

/* ---- the process */

/* Before any thread is made: all of them leave the signals to the main thread's signalfd. */
static enum asdm_status take_signals(int *ret_fd, struct asdm_error *err) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    signal(SIGPIPE, SIG_IGN);
    if (sigprocmask(SIG_BLOCK, &set, NULL) != 0)
        return asdm_fail(err, ASDM_ERR_IO, "signals: %s", strerror(errno));
    int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0)
        return asdm_fail(err, ASDM_ERR_IO, "signals: %s", strerror(errno));
    *ret_fd = fd;
    return ASDM_OK;
}

/* From now on SIGTERM and SIGINT end the process as they do by default; one that waits does so at once. */
static void give_signals_back(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

static void raise_descriptors(const struct config *config) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < (rlim_t)config->connections_max + DESCRIPTORS_BESIDE)
        log_message(LOG_LEVEL_WARNING,
                    "only %llu files may be open (ulimit -n), which is less than http.connections_max (%d) needs",
                    (unsigned long long)limit.rlim_cur, config->connections_max);
}

/* ---- doors */

/* The address of a socket that systemd bound. */
static enum asdm_status read_address(int fd, char ret[INET6_ADDRSTRLEN], struct asdm_error *err) {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } address;
    socklen_t length = sizeof address;
    if (getsockname(fd, &address.any, &length) != 0)
        return asdm_fail(err, ASDM_ERR_IO, "the socket's address: %s", strerror(errno));
    const void *bytes = address.any.sa_family == AF_INET6 ? (void *)&address.v6.sin6_addr : &address.v4.sin_addr;
    inet_ntop(address.any.sa_family, bytes, ret, INET6_ADDRSTRLEN);
    return ASDM_OK;
}

/* config_load has checked the configured address; systemd's may be another. */
static enum asdm_status check_doors(const struct daemon *daemon, const char *host, struct asdm_error *err) {
    if (config_is_loopback(host))
        return ASDM_OK;
    if (!keys_required(daemon->keys))
        return asdm_fail(err, ASDM_ERR_ARGUMENT,
                         "the socket from systemd listens on %s, which other machines reach: that needs api_keys",
                         host);
    if (!daemon->config->tls_certificate)
        log_message(
            LOG_LEVEL_WARNING,
            "keys travel over plain HTTP on %s: set tls.certificate and tls.key, or put a proxy with TLS in front",
            host);
    return ASDM_OK;
}

static size_t collect_routes(struct daemon *daemon, struct http_route *routes) {
    size_t count = operations_routes(&daemon->operations, routes, ROUTES_MAX);
    count += page_routes(routes + count, ROUTES_MAX - count);
    count += native_routes(&daemon->dialect, routes + count, ROUTES_MAX - count);
    count += openai_routes(&daemon->dialect, routes + count, ROUTES_MAX - count);
    count += a1111_routes(&daemon->dialect, routes + count, ROUTES_MAX - count);
    ASDM_ASSERT(count <= ROUTES_MAX);
    return count;
}

static enum asdm_status open_doors(struct daemon *daemon, struct asdm_error *err) {
    int fd = -1;
    char host[INET6_ADDRSTRLEN];
    ASDM_TRY(notify_listen_fd(&fd, err));
    if (fd >= 0)
        ASDM_TRY(read_address(fd, host, err));
    else
        snprintf(host, sizeof host, "%s", daemon->config->listen_host);
    ASDM_TRY(check_doors(daemon, host, err));

    struct http_route routes[ROUTES_MAX];
    size_t count = collect_routes(daemon, routes);
    ASDM_TRY(http_create(daemon->config, daemon->keys, daemon->metrics, routes, count, &daemon->http, err));
    daemon->operations.http = daemon->http;
    ASDM_TRY(http_start(daemon->http, fd, err));

    char address[INET6_ADDRSTRLEN + 24];
    snprintf(address, sizeof address, strchr(host, ':') ? "%s://[%s]:%d" : "%s://%s:%d",
             daemon->config->tls_certificate ? "https" : "http", host, http_port(daemon->http));
    struct log_line line;
    log_begin(&line, LOG_LEVEL_INFO, "listening");
    log_text(&line, "address", address);
    log_text(&line, "version", ASDM_VERSION);
    log_integer(&line, "pid", getpid());
    log_end(&line);
    return ASDM_OK;
}

/* ---- from start to end */

static enum asdm_status start(struct daemon *daemon, struct asdm_error *err) {
    const struct config *config = daemon->config;
    ASDM_TRY(take_signals(&daemon->signals, err));
    raise_descriptors(config);
    ASDM_TRY(keys_open(config->api_keys, &daemon->keys, err));
    daemon->metrics = metrics_create();
    if (!daemon->metrics)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for metrics");
    ASDM_TRY(jobs_create(config, daemon->metrics, &daemon->jobs, err));
    daemon->dialect = (struct dialect){config, daemon->jobs, daemon->metrics, daemon->keys};
    daemon->operations.config = config;
    daemon->operations.jobs = daemon->jobs;
    daemon->operations.metrics = daemon->metrics;
    /* The address before the workers: when it is taken, that is known before models are loaded. */
    ASDM_TRY(open_doors(daemon, err));
    return jobs_start(daemon->jobs, err);
}

static void reload_keys(struct daemon *daemon) {
    struct asdm_error err;
    if (!keys_required(daemon->keys))
        log_message(LOG_LEVEL_WARNING, "SIGHUP: there is no file of keys to read");
    else if (keys_reload(daemon->keys, &err) == ASDM_OK)
        log_message(LOG_LEVEL_INFO, "keys read anew");
    else
        log_message(LOG_LEVEL_ERROR, "keys stay as they were: %s", err.message);
}

/* What is to be said now and then; returns how long the next turn may wait, in ms. */
static int look_around(struct daemon *daemon, bool *was_ready) {
    int watchdog_ms = notify_watchdog_ms();
    int wait_ms = watchdog_ms > 0 && watchdog_ms / 2 < TURN_MS ? watchdog_ms / 2 : TURN_MS;
    struct jobs_overview overview;
    jobs_overview(daemon->jobs, &overview); /* takes the lock of all jobs: who gets it is alive */
    notify_alive();
    if (overview.ready && !*was_ready) {
        log_message(LOG_LEVEL_INFO, "ready");
        notify_ready();
        *was_ready = true;
    }
    if (overview.ready)
        notify_status("%d pictures in the batch, %d waiting", overview.active_pictures, overview.queued);
    else
        notify_status("not ready: %s", overview.unready_reason ? overview.unready_reason : "starting");
    return *was_ready || wait_ms < STARTING_TURN_MS ? wait_ms : STARTING_TURN_MS;
}

/* Returns the signal that ends the daemon. */
static int serve(struct daemon *daemon) {
    bool was_ready = false;
    for (;;) {
        struct pollfd waited = {.fd = daemon->signals, .events = POLLIN};
        struct signalfd_siginfo got;
        poll(&waited, 1, look_around(daemon, &was_ready));
        while (read(daemon->signals, &got, sizeof got) == (ssize_t)sizeof got) {
            if (got.ssi_signo != SIGHUP)
                return (int)got.ssi_signo;
            reload_keys(daemon);
        }
    }
}

/* Waits for the answers of the last jobs to be sent; a client that keeps its connection open is not waited for long. */
static void say_farewell(const struct daemon *daemon) {
    const struct timespec pause = {.tv_nsec = 10 * 1000000};
    for (int waited_ms = 0; waited_ms < FAREWELL_MS && http_connections(daemon->http) > 0; waited_ms += 10)
        nanosleep(&pause, NULL);
}

/* The address stays open while jobs are finished, so that new requests hear 503 with Retry-After, /readyz tells, and
 * clients that poll get their pictures. */
static void drain(struct daemon *daemon, int signal_number) {
    struct log_line line;
    atomic_store(&daemon->operations.stopping, true);
    notify_stopping();
    log_begin(&line, LOG_LEVEL_INFO, "draining");
    log_text(&line, "signal", sigabbrev_np(signal_number));
    log_end(&line);
    give_signals_back(); /* a second one ends at once */
    jobs_drain(daemon->jobs);
    http_quiesce(daemon->http);
    say_farewell(daemon);
}

static void take_apart(struct daemon *daemon) {
    http_destroy(&daemon->http);
    jobs_destroy(&daemon->jobs);
    metrics_destroy(&daemon->metrics);
    keys_close(&daemon->keys);
    if (daemon->signals >= 0)
        close(daemon->signals);
}

int daemon_run(const struct config *config) {
    struct daemon daemon = {.config = config, .signals = -1};
    struct asdm_error err;
    enum asdm_status status = start(&daemon, &err);
    if (status == ASDM_OK) {
        drain(&daemon, serve(&daemon));
    } else {
        log_message(LOG_LEVEL_ERROR, "%s", err.message);
        notify_status("%s", err.message);
    }
    take_apart(&daemon);
    if (status == ASDM_OK)
        log_message(LOG_LEVEL_INFO, "stopped");
    return status == ASDM_OK ? 0 : 1;
}
