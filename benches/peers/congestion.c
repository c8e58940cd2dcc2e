/* Preloaded into peers that have no setting for it: every TCP socket gets the congestion control that PEERS_CONGESTION
 * names, as the floor's and Weft's do. Connections that a listener accepts inherit the listener's. A socket that does not
 * get it is no socket: a figure under another congestion control would be worth nothing. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int socket(int domain, int type, int protocol) {
    static int (*real)(int, int, int);
    if (!real) real = (int (*)(int, int, int))dlsym(RTLD_NEXT, "socket");
    int fd = real(domain, type, protocol);
    const char *name = getenv("PEERS_CONGESTION");
    int stream = (domain == AF_INET || domain == AF_INET6) && (type & 0xf) == SOCK_STREAM;
    if (fd >= 0 && name && stream && setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, strlen(name))) {
        int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}
