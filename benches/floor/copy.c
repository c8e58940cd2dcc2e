/* One copy of BYTES from memory to memory of one process: what a mapping of a neighbour's memory can be read in at best.
 *
 *   copy walk|hot BYTES COUNT
 *
 * Walking goes through 64 MiB on both sides, hot copies the first bytes again and again. Prints the median time of one
 * copy, and that as a rate. */
#include "floor.h"

#define WALK_BYTES (64ull << 20)

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: copy walk|hot BYTES COUNT\n");
        return 2;
    }
    int hot = !strcmp(argv[1], "hot");
    size_t size = strtoul(argv[2], 0, 10), count = strtoul(argv[3], 0, 10), warm = count / 10 + 1;
    char *source = touched(WALK_BYTES), *target = touched(WALK_BYTES);
    uint64_t *took = malloc(count * sizeof *took);
    for (size_t round = 0; round < count + warm; round++) {
        size_t at = hot ? 0 : round * size % WALK_BYTES;
        uint64_t started = now_ns();
        memcpy(target + at, source + at, size);
        if (round >= warm) took[round - warm] = now_ns() - started;
    }
    qsort(took, count, sizeof *took, compare_u64);
    double p50 = (double)took[count / 2];
    printf("{\"p50_us\": %.3f, \"gb_per_s\": %.4f}\n", p50 / 1e3, (double)size / p50);
    return 0;
}
