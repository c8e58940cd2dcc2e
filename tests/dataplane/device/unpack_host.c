/* The GPU's text on a CPU, one thread after the other, under address and undefined-behaviour sanitizers.
 *
 *   unpack_host < CASES > RESULTS       each case: six u64 (count, bounce bytes, target bytes, tiles, blocks, threads),
 *                                       the fragments, the bounce buffer; each result: a u64 (refused), the target
 *   unpack_host alignments              every (source % 16, target % 16, length 0 to 80), buffers of the exact size
 *
 * Buffers are allocated for each case and as long as the case says, so that one byte read or written beyond them is found.
 */
#define _POSIX_C_SOURCE 200112L
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { uint32_t x, y, z, w; } __attribute__((aligned(16))) uint4;
typedef struct { unsigned x, y, z; } dim3;
static dim3 threadIdx, blockIdx, blockDim, gridDim;

#define __global__
#define __device__
#define __forceinline__ inline

static inline uint32_t __funnelshift_r(uint32_t low, uint32_t high, uint32_t bits) {
    return (uint32_t)((((uint64_t)high << 32) | low) >> (bits & 31));
}

static inline uint32_t atomicAdd(uint32_t *at, uint32_t value) {
    uint32_t before = *at;
    *at += value;
    return before;
}

#include UNPACK_TEXT

static uint32_t launch(const struct weft_fragment *fragments, uint32_t count, uint32_t tiles, const weft_byte *bounce,
                       uint64_t bounce_bytes, weft_byte *target, uint64_t target_bytes, unsigned blocks, unsigned threads) {
    uint32_t refused = 0;
    gridDim.x = blocks;
    blockDim.x = threads;
    for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++)
        for (threadIdx.x = 0; threadIdx.x < threads; threadIdx.x++)
            weft_unpack(fragments, count, tiles, bounce, bounce_bytes, target, target_bytes, &refused);
    return refused;
}

/* Both buffers aligned as a device's are; never of zero bytes. */
static void *buffer(uint64_t bytes) {
    void *memory = 0;
    if (posix_memalign(&memory, 16, bytes ? bytes : 1)) exit(3);
    return memory;
}

static void expect(int holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static int alignments(void) {
    uint64_t checked = 0;
    for (uint32_t source = 0; source < 16; source++)
        for (uint32_t to = 0; to < 16; to++)
            for (uint32_t length = 0; length <= 80; length++) {
                uint64_t bounce_bytes = (source + length + 15u) & ~15ull, target_bytes = to + length;
                weft_byte *bounce = buffer(bounce_bytes), *target = buffer(target_bytes);
                for (uint64_t i = 0; i < bounce_bytes; i++) bounce[i] = (weft_byte)(i * 7 + 1);
                memset(target, 0xEE, target_bytes);
                struct weft_fragment fragment = {source, length, to};
                expect(launch(&fragment, 1, 1, bounce, bounce_bytes, target, target_bytes, 1, 32) == 0, "refused");
                for (uint64_t i = 0; i < to; i++) expect(target[i] == 0xEE, "wrote before its place");
                expect(length == 0 || !memcmp(target + to, bounce + source, length), "wrote other bytes");
                free(bounce);
                free(target);
                checked++;
            }
    printf("%llu\n", (unsigned long long)checked);
    return 0;
}

static void need(void *into, size_t bytes) {
    expect(bytes == 0 || fread(into, bytes, 1, stdin) == 1, "a case was cut short");
}

int main(int argc, char **argv) {
    (void)argv;
    if (argc > 1) return alignments();
    uint64_t head[6];
    while (fread(head, sizeof head, 1, stdin) == 1) {
        struct weft_fragment *fragments = buffer(head[0] * sizeof *fragments);
        weft_byte *bounce = buffer(head[1]), *target = buffer(head[2]);
        need(fragments, head[0] * sizeof *fragments);
        need(bounce, head[1]);
        memset(target, 0xEE, head[2]);
        uint64_t refused = launch(fragments, (uint32_t)head[0], (uint32_t)head[3], bounce, head[1], target, head[2],
                                  (unsigned)head[4], (unsigned)head[5]);
        fwrite(&refused, sizeof refused, 1, stdout);
        fwrite(target, 1, head[2], stdout);
        free(fragments);
        free(bounce);
        free(target);
    }
    return 0;
}
