/* Weft's transfers for C: the calls of uccl_engine over Weft's engine, under their names.
 *
 * Handles are opaque. Calls that return int answer 0 when they did what was asked and -1 when they did not;
 * weft_last_error() says why, for the calling thread. Every wait has an end. What uccl_engine could not say is said by
 * weft_xfer_state: a transfer is under way, done, or failed, and answers the same for ever.
 *
 * Both sides hold one secret, WEFT_SECRET, and speak TLS where WEFT_TLS_CA, WEFT_TLS_CERT and WEFT_TLS_KEY name files; the
 * other side may as well be a weft.Endpoint. WEFT_TRANSPORT=tcp keeps to TCP. Link with -lweft.
 */
#ifndef WEFT_H
#define WEFT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define WEFT_ITEM_BYTES 64

typedef struct uccl_engine uccl_engine_t;
typedef struct uccl_conn uccl_conn_t;
typedef uint64_t uccl_mr_t;

/* An endpoint. The arguments choose nothing here. NULL when it cannot listen, or there is no secret. */
uccl_engine_t *uccl_engine_create(int num_cpus, bool in_python);
/* Ends everything; connections of it must not be used after. */
void uccl_engine_destroy(uccl_engine_t *engine);

/* Where it listens, as "ip:port?device", to be freed with free(). */
int uccl_engine_get_metadata(uccl_engine_t *engine, char **metadata);

/* Connects. The device and the last argument choose nothing here. NULL when nobody answers in time. */
uccl_conn_t *uccl_engine_connect(uccl_engine_t *engine, const char *ip, const char *remote_gpu, int port,
                                 bool same_process);
/* The next that connected here; NULL when none did within five seconds, or accepting was stopped. */
uccl_conn_t *uccl_engine_accept(uccl_engine_t *engine, char *ip, size_t ip_size, int *remote_gpu);
int uccl_engine_start_listener(uccl_conn_t *conn);
int uccl_engine_stop_accept(uccl_engine_t *engine);
void uccl_engine_conn_destroy(uccl_conn_t *conn);
/* Whether bytes move without a network. */
bool uccl_engine_conn_is_local(uccl_conn_t *conn);

/* Registers memory, which stays in place until mr_destroy. Numbers are never given out twice. */
int uccl_engine_reg(uccl_engine_t *engine, uintptr_t data, size_t size, uccl_mr_t *mr);
/* Takes back what was handed out of it. -1, and it stays, while a peer is inside. */
int uccl_engine_mr_destroy(uccl_engine_t *engine, uccl_mr_t mr);

/* An item of 64 bytes for a part of a registration, good for an hour; and the same item for a part of its range. */
int uccl_engine_prepare_fifo(uccl_engine_t *engine, uccl_mr_t mr, const void *data, size_t size, char *item);
int uccl_engine_update_fifo(char *item, uint64_t address, uint32_t size);

/* Begins to move bytes; the transfer's number comes back at once. */
int uccl_engine_read(uccl_conn_t *conn, uccl_mr_t mr, void *data, size_t size, const char *item, uint64_t *transfer);
int uccl_engine_write(uccl_conn_t *conn, uccl_mr_t mr, const void *data, size_t size, const char *item,
                      uint64_t *transfer);
/* The same for many. Nothing is written unless every item is found good by its owner. Items lie one behind the other. */
int uccl_engine_read_vector(uccl_conn_t *conn, const uccl_mr_t *mrs, void *const *data, const size_t *sizes,
                            const char *items, int count, uint64_t *transfer);
int uccl_engine_write_vector(uccl_conn_t *conn, const uccl_mr_t *mrs, const void *const *data, const size_t *sizes,
                             const char *items, int count, uint64_t *transfer);
/* Begins to send to the next uccl_engine_recv of the peer; sends and receives meet in their order. */
int uccl_engine_send(uccl_conn_t *conn, uccl_mr_t mr, const void *data, size_t size, uint64_t *transfer);
/* Receives the peer's next send, of at most max_size bytes, and returns once it is here. -1 when none came in time. */
int uccl_engine_recv(uccl_conn_t *conn, uccl_mr_t mr, void *data, size_t max_size);
/* Whether it has ended; weft_xfer_state says how. */
bool uccl_engine_xfer_status(uccl_conn_t *conn, uint64_t transfer);

/* 0 under way, 1 done, -1 failed (weft_last_error says why) or unknown. Waits at most wait_ms for an end. */
int weft_xfer_state(uccl_conn_t *conn, uint64_t transfer, uint64_t wait_ms);
/* Forgets a transfer that has ended. One that has not is cancelled. */
void weft_xfer_release(uccl_conn_t *conn, uint64_t transfer);

/* Notifications of any size: the peer has it when this returns. */
int uccl_engine_send_notif_v(uccl_conn_t *conn, const char *name, size_t name_size, const void *message,
                             size_t message_size);
/* The oldest that arrived, both parts to be freed with free(). 1 when there was one, 0 when none. */
int uccl_engine_get_notif_v(uccl_engine_t *engine, char **name, size_t *name_size, char **message,
                            size_t *message_size);

/* Why the calling thread's last call failed; good until its next call. */
const char *weft_last_error(void);

#ifdef __cplusplus
}
#endif

#endif
