/* The least HTTP server: one thread, one connection after another, a fixed answer.
 *
 *   http PATH          prints its port; a POST's body is appended to PATH and synced before the answer, a GET is answered
 *                      at once. Ends with its parent. */
#include "floor.h"

static const char ANSWER[] = "{\"status\": \"registered\", \"node_id\": 0, \"transport_type\": \"tcp\"}";

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: http PATH\n");
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int log = open(argv[1], O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
    if (log < 0) DIE(argv[1]);
    struct sockaddr_in address;
    int listener = listening(&address);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    static char input[1 << 16], output[512];
    int length = snprintf(output, sizeof output,
                          "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n%s",
                          sizeof ANSWER - 1, ANSWER);
    for (;;) {
        int fd = accept(listener, 0, 0);
        socket_options(fd);
        size_t have = 0;
        for (;;) {
            ssize_t got = recv(fd, input + have, sizeof input - 1 - have, 0);
            if (got <= 0) break;
            have += (size_t)got;
            input[have] = 0;
            char *body = strstr(input, "\r\n\r\n");
            if (!body) continue;
            body += 4;
            char *declared = strcasestr(input, "content-length:");
            size_t bytes = declared && declared < body ? strtoul(declared + 15, 0, 10) : 0;
            if (have - (size_t)(body - input) < bytes) continue;
            if (bytes && (write(log, body, bytes) < 0 || fdatasync(log))) DIE("write");
            send_all(fd, output, (size_t)length, 0);
            have = 0;
        }
        close(fd);
    }
}
