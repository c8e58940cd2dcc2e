/* Two processes, by weft.h alone: the child owns memory, the parent reads and writes it. Says "all is well" at the end. */
#include "weft.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define SIZE 1000000
#define CHECK(what)                                                                                                    \
    do {                                                                                                               \
        if (!(what)) {                                                                                                 \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #what, weft_last_error());                          \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

static void settled(uccl_conn_t *conn, uint64_t transfer, int expected) {
    CHECK(weft_xfer_state(conn, transfer, 10000) == expected);
    CHECK(uccl_engine_xfer_status(conn, transfer));
    CHECK(weft_xfer_state(conn, transfer, 0) == expected);
    weft_xfer_release(conn, transfer);
    CHECK(weft_xfer_state(conn, transfer, 0) == -1);
}

static int own(int out, int in) {
    static char memory[SIZE];
    char item[WEFT_ITEM_BYTES], *metadata, ip[64], word;
    uccl_mr_t mr;
    int gpu;
    for (int i = 0; i < SIZE; i++) memory[i] = (char)(i * 7);
    uccl_engine_t *engine = uccl_engine_create(2, false);
    CHECK(engine);
    CHECK(uccl_engine_reg(engine, (uintptr_t)memory, SIZE, &mr) == 0);
    CHECK(uccl_engine_prepare_fifo(engine, mr, memory, SIZE + 1, item) == -1);
    CHECK(uccl_engine_prepare_fifo(engine, mr, memory + 1000, SIZE - 1000, item) == 0);
    CHECK(uccl_engine_get_metadata(engine, &metadata) == 0);
    CHECK(write(out, item, sizeof item) == sizeof item);
    CHECK(write(out, metadata, strlen(metadata) + 1) > 0);
    free(metadata);
    uccl_conn_t *conn = uccl_engine_accept(engine, ip, sizeof ip, &gpu);
    CHECK(conn && strcmp(ip, "127.0.0.1") == 0);
    CHECK(uccl_engine_start_listener(conn) == 0);
    CHECK(uccl_engine_send_notif_v(conn, "ready", 5, memory, 100000) == 0);
    CHECK(read(in, &word, 1) == 1);
    CHECK(memory[1000] == 'w' && memory[1999] == 'w' && memory[2000] == (char)(2000 * 7));
    CHECK(memory[501000] == 'v' && memory[501999] == 'v' && memory[999] == (char)(999 * 7));
    char *name, *message;
    size_t name_size, message_size;
    CHECK(uccl_engine_get_notif_v(engine, &name, &name_size, &message, &message_size) == 1);
    CHECK(name_size == 4 && memcmp(name, "done", 4) == 0 && message_size == 0);
    free(name), free(message);
    /* What is sent arrives in the order of sending, and not beyond its room. */
    CHECK(uccl_engine_recv(conn, mr, memory, 100) == 0);
    CHECK(memory[0] == 's' && memory[49] == 's' && memory[50] == (char)(50 * 7));
    CHECK(uccl_engine_recv(conn, mr, memory + 100, 10) == 0);
    CHECK(memory[100] == 't' && memory[109] == 't' && memory[110] == (char)(110 * 7));
    CHECK(uccl_engine_recv(conn, mr, memory + SIZE - 1, 2) == -1);
    CHECK(uccl_engine_mr_destroy(engine, mr) == 0);
    CHECK(uccl_engine_mr_destroy(engine, mr) == -1);
    CHECK(write(out, "x", 1) == 1);
    CHECK(read(in, &word, 1) == 1);
    CHECK(uccl_engine_stop_accept(engine) == 0);
    CHECK(uccl_engine_accept(engine, ip, sizeof ip, &gpu) == NULL);
    uccl_engine_conn_destroy(conn);
    uccl_engine_destroy(engine);
    return 0;
}

static int use(int in, int out) {
    static char memory[SIZE];
    char item[WEFT_ITEM_BYTES], items[2][WEFT_ITEM_BYTES], text[128], word;
    uccl_mr_t mr;
    uint64_t transfer, base;
    CHECK(read(in, item, sizeof item) == sizeof item);
    CHECK(read(in, text, sizeof text) > 0);
    char *colon = strrchr(text, ':');
    CHECK(colon);
    *colon = 0;
    uccl_engine_t *engine = uccl_engine_create(2, false);
    CHECK(engine);
    CHECK(uccl_engine_connect(engine, "no address", "", 1, false) == NULL);
    uccl_conn_t *conn = uccl_engine_connect(engine, text, "", atoi(colon + 1), false);
    CHECK(conn);
    CHECK(uccl_engine_conn_is_local(conn) == (getenv("WEFT_TRANSPORT") == NULL));
    CHECK(uccl_engine_reg(engine, (uintptr_t)memory, SIZE, &mr) == 0);
    CHECK(uccl_engine_read(conn, mr, memory, SIZE - 1000, item, &transfer) == 0);
    settled(conn, transfer, 1);
    for (int i = 0; i < SIZE - 1000; i++) CHECK(memory[i] == (char)((i + 1000) * 7));
    CHECK(uccl_engine_read(conn, mr, memory, SIZE - 999, item, &transfer) == -1);
    memset(memory, 'w', 1000);
    CHECK(uccl_engine_write(conn, mr, memory, 1000, item, &transfer) == 0);
    settled(conn, transfer, 1);
    memcpy(&base, item, sizeof base);
    memcpy(items[0], item, sizeof item), memcpy(items[1], item, sizeof item);
    CHECK(uccl_engine_update_fifo(items[0], base + 500000, 1000) == 0);
    CHECK(uccl_engine_update_fifo(items[1], base + SIZE - 1000, 1) == 0);
    memset(memory + 5000, 'v', 2000);
    uccl_mr_t mrs[] = {mr, mr};
    const void *data[] = {memory + 5000, memory + 6000};
    size_t sizes[] = {1000, 1};
    /* One part lies outside: its owner refuses it. Then the good part alone. */
    CHECK(uccl_engine_write_vector(conn, mrs, data, sizes, &items[0][0], 2, &transfer) == 0);
    settled(conn, transfer, -1);
    /* One was altered: neither is written. The owner looks at byte 501000. */
    items[1][63] ^= 1;
    CHECK(uccl_engine_update_fifo(items[1], base, 1) == 0);
    CHECK(uccl_engine_write_vector(conn, mrs, data, sizes, &items[0][0], 2, &transfer) == -1);
    CHECK(uccl_engine_write_vector(conn, mrs, data, sizes, &items[0][0], 1, &transfer) == 0);
    settled(conn, transfer, 1);
    char *name, *message;
    size_t name_size, message_size;
    int found = 0;
    for (int i = 0; i < 1000 && !found; i++) {
        found = uccl_engine_get_notif_v(engine, &name, &name_size, &message, &message_size);
        usleep(1000);
    }
    CHECK(found == 1 && name_size == 5 && message_size == 100000 && message[99999] == (char)(99999 * 7));
    free(name), free(message);
    CHECK(uccl_engine_send_notif_v(conn, "done", 4, NULL, 0) == 0);
    CHECK(write(out, "x", 1) == 1);
    memset(memory, 's', 50), memset(memory + 50, 't', 10);
    CHECK(uccl_engine_send(conn, mr, memory, 50, &transfer) == 0);
    CHECK(uccl_engine_send(conn, mr, memory + 50, 10, &base) == 0);
    settled(conn, transfer, 1), settled(conn, base, 1);
    CHECK(uccl_engine_send(conn, mr, memory + SIZE - 1, 2, &transfer) == -1);
    CHECK(read(in, &word, 1) == 1);
    CHECK(uccl_engine_read(conn, mr, memory, 10, item, &transfer) == 0);
    settled(conn, transfer, -1);
    CHECK(write(out, "x", 1) == 1);
    uccl_engine_conn_destroy(conn);
    uccl_engine_destroy(engine);
    return 0;
}

int main(void) {
    int there[2], back[2], status;
    if (pipe(there) || pipe(back)) return 2;
    alarm(60);
    pid_t child = fork();
    if (child == 0) return own(there[1], back[0]);
    int failed = use(there[0], back[1]);
    if (waitpid(child, &status, 0) != child || status != 0) return 3;
    if (!failed) puts("all is well");
    return failed;
}
