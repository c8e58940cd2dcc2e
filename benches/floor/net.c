/* One-sided reads and writes over loopback TCP: two processes, both spinning, one CPU each.
 *
 *   net read|write BYTES COUNT CONGESTION BUFFER_KIB     (0: the kernel's own buffer sizes)
 *
 * A read is a request of 32 bytes and an answer of BYTES; a write is a request with BYTES and an answer of 32. Both walk
 * over 64 MiB on both sides. */
#include "floor.h"

enum { READ = 1, WRITE = 2 };
#define WALK (64ul << 20)

static void serve(int listener) {
    pin(1);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    char *memory = touched(WALK);
    int fd = accept(listener, 0, 0);
    socket_options(fd);
    struct request q;
    for (;;) {
        receive_all(fd, &q, sizeof q, 1);
        if (q.operation == READ) {
            send_all(fd, memory + q.offset, q.length, 1);
        } else {
            receive_all(fd, memory + q.offset, q.length, 1);
            send_all(fd, &q, sizeof q, 1);
        }
    }
}

int main(int argc, char **argv) {
    if (argc != 6) {
        fprintf(stderr, "usage: net read|write BYTES COUNT CONGESTION BUFFER_KIB\n");
        return 2;
    }
    int operation = strcmp(argv[1], "read") ? WRITE : READ;
    size_t bytes = strtoul(argv[2], 0, 10), count = strtoul(argv[3], 0, 10);
    congestion = argv[4];
    buffer_bytes = atoi(argv[5]) * 1024;
    struct sockaddr_in address;
    int listener = listening(&address);
    pid_t server = fork();
    if (!server) serve(listener);
    pin(0);
    int fd = connected(&address);
    char *memory = touched(WALK);
    uint64_t *took = malloc(count * sizeof *took);
    size_t warm = count / 10 + 1;
    for (size_t i = 0; i < count + warm; i++) {
        struct request q = {(uint64_t)operation, (i * bytes) % WALK, bytes, 0};
        uint64_t started = now_ns();
        if (operation == READ) {
            send_all(fd, &q, sizeof q, 1);
            receive_all(fd, memory + q.offset, bytes, 1);
        } else {
            struct iovec parts[2] = {{&q, sizeof q}, {memory + q.offset, bytes}};
            struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
            ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL);
            if (sent < 0) DIE("sendmsg");
            size_t rest = sizeof q + bytes - (size_t)sent;
            send_all(fd, memory + q.offset + bytes - rest, rest, 1);
            receive_all(fd, &q, sizeof q, 1);
        }
        if (i >= warm) took[i - warm] = now_ns() - started;
    }
    kill(server, SIGKILL);
    waitpid(server, 0, 0);
    qsort(took, count, sizeof *took, compare_u64);
    double p50 = (double)took[count / 2];
    printf("{\"p50_us\": %.3f, \"p99_us\": %.3f, \"gb_per_s\": %.4f}\n", p50 / 1e3, (double)took[count * 99 / 100] / 1e3,
           (double)bytes / p50);
    return 0;
}
