/* Page faults served over loopback TCP: a userfaultfd handler thread that asks a page server, blocking.
 *
 *   paging unpinned|one_cpu random|in_order BATCH PIPELINED PAGES CONGESTION
 *
 * BATCH pages are asked for at a fault; the faulted one is installed first. PIPELINED 1 keeps the next batch in flight.
 * This is the shape of Firecracker's, QEMU's and CRIU's handlers, without their bookkeeping. */
#include "floor.h"
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

static int faults, sock, cpu = -1, pipelined;
static size_t batch, window_bytes;
static char *window, *landing;
static volatile int stopping;
static size_t flying_offset = ~0ul, flying_bytes;

static void serve(int listener) {
    pin(cpu);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    char *memory = touched(window_bytes);
    for (size_t i = 0; i < window_bytes; i += PAGE) *(uint64_t *)(memory + i) = i;
    int fd = accept(listener, 0, 0);
    socket_options(fd);
    struct request q;
    for (;;) {
        receive_all(fd, &q, sizeof q, 0);
        send_all(fd, memory + q.offset, q.length, 0);
    }
}

static void ask(size_t offset, size_t bytes) {
    struct request q = {1, offset, bytes, 0};
    send_all(sock, &q, sizeof q, 0);
}

static void install(size_t offset, size_t bytes) {
    struct uffdio_copy copy = {.dst = (uintptr_t)window + offset, .src = (uintptr_t)landing, .len = bytes};
    if (ioctl(faults, UFFDIO_COPY, &copy)) {
        if (errno != EEXIST) DIE("UFFDIO_COPY");
        struct uffdio_range range = {(uintptr_t)window + offset, bytes};
        ioctl(faults, UFFDIO_WAKE, &range);
    }
}

static size_t batch_at(size_t offset) {
    size_t bytes = batch * PAGE;
    return offset + bytes > window_bytes ? window_bytes - offset : bytes;
}

static void resolve(size_t offset) {
    size_t bytes = batch_at(offset);
    if (!pipelined) {
        ask(offset, bytes);
    } else {
        if (flying_offset != offset) {
            if (flying_offset != ~0ul) {
                receive_all(sock, landing, flying_bytes, 0);
                install(flying_offset, flying_bytes);
            }
            ask(offset, bytes);
        } else {
            bytes = flying_bytes;
        }
        flying_offset = ~0ul;
        if (offset + bytes < window_bytes) {
            flying_offset = offset + bytes;
            flying_bytes = batch_at(flying_offset);
            ask(flying_offset, flying_bytes);
        }
    }
    for (size_t done = 0; done < bytes;) {
        size_t piece = done == 0 ? PAGE : 16 * PAGE;
        if (piece > bytes - done) piece = bytes - done;
        receive_all(sock, landing, piece, 0);
        install(offset + done, piece);
        done += piece;
    }
}

static void *handle(void *unused) {
    (void)unused;
    pin(cpu);
    struct uffd_msg message;
    while (!stopping) {
        struct pollfd waiting = {faults, POLLIN, 0};
        if (poll(&waiting, 1, 100) <= 0) continue;
        if (read(faults, &message, sizeof message) < 0 || message.event != UFFD_EVENT_PAGEFAULT) continue;
        resolve((message.arg.pagefault.address & ~(PAGE - 1)) - (uintptr_t)window);
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 7) {
        fprintf(stderr, "usage: paging unpinned|one_cpu random|in_order BATCH PIPELINED PAGES CONGESTION\n");
        return 2;
    }
    cpu = strcmp(argv[1], "one_cpu") ? -1 : 0;
    int random = !strcmp(argv[2], "random");
    batch = strtoul(argv[3], 0, 10);
    pipelined = atoi(argv[4]);
    size_t pages = strtoul(argv[5], 0, 10);
    congestion = argv[6];
    window_bytes = pages * PAGE;
    landing = touched(batch * PAGE);
    struct sockaddr_in address;
    int listener = listening(&address);
    pid_t server = fork();
    if (!server) serve(listener);
    sock = connected(&address);
    window = mmap(0, window_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    madvise(window, window_bytes, MADV_NOHUGEPAGE);
    faults = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    struct uffdio_api api = {.api = UFFD_API};
    if (faults < 0 || ioctl(faults, UFFDIO_API, &api)) DIE("userfaultfd");
    struct uffdio_register range = {.range = {(uintptr_t)window, window_bytes}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    if (ioctl(faults, UFFDIO_REGISTER, &range)) DIE("UFFDIO_REGISTER");
    size_t *order = malloc(pages * sizeof *order);
    for (size_t i = 0; i < pages; i++) order[i] = i;
    for (size_t i = pages - 1; random && i > 0; i--) {
        size_t j = (size_t)rand() % (i + 1), swap = order[i];
        order[i] = order[j];
        order[j] = swap;
    }
    pthread_t handler;
    pthread_create(&handler, 0, handle, 0);
    pin(cpu);
    ask(0, 64); /* The server has touched its memory when it answers. */
    receive_all(sock, landing, 64, 0);
    uint64_t *took = malloc(pages * sizeof *took), first = now_ns();
    for (size_t i = 0; i < pages; i++) {
        uint64_t started = now_ns();
        uint64_t value = *(volatile uint64_t *)(window + order[i] * PAGE);
        took[i] = now_ns() - started;
        if (value != order[i] * PAGE) DIE("wrong content");
    }
    double seconds = (double)(now_ns() - first) / 1e9;
    stopping = 1;
    pthread_join(handler, 0);
    kill(server, SIGKILL);
    waitpid(server, 0, 0);
    qsort(took, pages, sizeof *took, compare_u64);
    printf("{\"p50_us\": %.3f, \"p99_us\": %.3f, \"pages_per_s\": %.0f}\n", (double)took[pages / 2] / 1e3,
           (double)took[pages * 99 / 100] / 1e3, (double)pages / seconds);
    return 0;
}
