/* Unpacking: one memcpy a fragment, over the fragments that FILE holds, so that Weft moves the very same ones.
 *
 *   unpack FILE COUNT          FILE: u64 bounce bytes, u64 target bytes, u64 blocks; each block: u64 count, its fragments
 *
 * Prints the median time of all blocks, and that as a rate. */
#include "floor.h"

struct fragment {
    uint32_t source, length;
    uint64_t target;
};

static uint64_t *file;

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: unpack FILE COUNT\n");
        return 2;
    }
    int fd = open(argv[1], O_RDONLY);
    off_t bytes = lseek(fd, 0, SEEK_END);
    file = mmap(0, (size_t)bytes, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    if (fd < 0 || file == MAP_FAILED) DIE(argv[1]);
    size_t count = strtoul(argv[2], 0, 10), warm = count / 10 + 1;
    char *bounce = touched(file[0]), *target = touched(file[1]);
    uint64_t *took = malloc(count * sizeof *took), moved = 0;
    for (size_t round = 0; round < count + warm; round++) {
        const uint64_t *at = file + 3;
        uint64_t started = now_ns();
        moved = 0;
        for (uint64_t block = 0; block < file[2]; block++) {
            uint64_t fragments = *at++;
            for (uint64_t i = 0; i < fragments; i++, at += 2) {
                const struct fragment *one = (const struct fragment *)at;
                memcpy(target + one->target, bounce + one->source, one->length);
                moved += one->length;
            }
        }
        if (round >= warm) took[round - warm] = now_ns() - started;
    }
    qsort(took, count, sizeof *took, compare_u64);
    double p50 = (double)took[count / 2];
    printf("{\"p50_us\": %.3f, \"gb_per_s\": %.4f, \"checked_gb_per_s\": %.4f}\n", p50 / 1e3,
           (double)moved / p50, (double)moved / p50);
    return 0;
}
