/* What the floor programs share. A floor is the least code that does a thing on this machine: no checks, no recovery,
 * nothing anybody could use. It says what the hardware and the kernel allow; Weft is measured beside it. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ul
#define DIE(what) do { fprintf(stderr, "%s: %s\n", what, strerror(errno)); exit(1); } while (0)

static inline uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

/* Negative: wherever the scheduler likes. */
static inline void pin(int cpu) {
    if (cpu < 0) return;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof set, &set);
}

static inline int compare_u64(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static inline char *touched(size_t bytes) {
    char *p = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (p == MAP_FAILED) DIE("mmap");
    memset(p, 1, bytes);
    return p;
}

static const char *congestion = "cubic";
static int buffer_bytes = 0;

static inline void socket_options(int fd) {
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, congestion, strlen(congestion))) DIE(congestion);
    if (buffer_bytes) {
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer_bytes, sizeof buffer_bytes);
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer_bytes, sizeof buffer_bytes);
    }
}

static inline int listening(struct sockaddr_in *address) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socket_options(fd);
    memset(address, 0, sizeof *address);
    address->sin_family = AF_INET;
    address->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof *address;
    if (bind(fd, (void *)address, sizeof *address) || listen(fd, 8)) DIE("bind");
    getsockname(fd, (void *)address, &length);
    return fd;
}

static inline int connected(const struct sockaddr_in *address) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socket_options(fd);
    if (connect(fd, (const void *)address, sizeof *address)) DIE("connect");
    return fd;
}

static inline void receive_all(int fd, void *into, size_t bytes, int spin) {
    char *p = into;
    while (bytes) {
        ssize_t got = recv(fd, p, bytes, spin ? MSG_DONTWAIT : 0);
        if (got <= 0) {
            if (got < 0 && (errno == EAGAIN || errno == EINTR)) continue;
            _exit(0);
        }
        p += got;
        bytes -= (size_t)got;
    }
}

static inline void send_all(int fd, const void *from, size_t bytes, int spin) {
    const char *p = from;
    while (bytes) {
        ssize_t sent = send(fd, p, bytes, (spin ? MSG_DONTWAIT : 0) | MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno == EAGAIN || errno == EINTR) continue;
            _exit(0);
        }
        p += sent;
        bytes -= (size_t)sent;
    }
}

struct request {
    uint64_t operation, offset, length, unused;
};
