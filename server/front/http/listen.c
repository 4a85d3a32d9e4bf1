#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <asdm/error.h>

#include "front/http/internal.h"

enum { BACKLOG = 4096 /* the kernel cuts it to net.core.somaxconn */ };

static int open_one(const struct addrinfo *address) {
    int on = 1;
    int fd = socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, address->ai_addr, address->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    int saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

enum asdm_status listen_open(const char *host, int port, int *ret_fd, struct asdm_error *err) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *list = NULL;
    char service[16];
    snprintf(service, sizeof service, "%d", port);
    int failure = getaddrinfo(host, service, &hints, &list);
    if (failure)
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "listen: address %s: %s", host, gai_strerror(failure));
    int fd = -1;
    for (const struct addrinfo *address = list; address && fd < 0; address = address->ai_next)
        fd = open_one(address);
    int saved = errno;
    freeaddrinfo(list);
    if (fd < 0)
        return asdm_fail(err, ASDM_ERR_IO, "listen: %s port %d: %s", host, port, strerror(saved));
    *ret_fd = fd;
    return ASDM_OK;
}

enum asdm_status listen_port(int fd, int *ret_port, struct asdm_error *err) {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } address;
    socklen_t length = sizeof address;
    if (getsockname(fd, &address.any, &length) != 0)
        return asdm_fail(err, ASDM_ERR_IO, "listen: %s", strerror(errno));
    if (address.any.sa_family != AF_INET && address.any.sa_family != AF_INET6)
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "listen: the socket handed over is not TCP");
    *ret_port = ntohs(address.any.sa_family == AF_INET ? address.v4.sin_port : address.v6.sin6_port);
    return ASDM_OK;
}

void listen_name(const struct sockaddr *address, char *to, size_t room) {
    socklen_t length = address->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
    if (getnameinfo(address, length, to, (socklen_t)room, NULL, 0, NI_NUMERICHOST) != 0)
        snprintf(to, room, "unknown");
}
