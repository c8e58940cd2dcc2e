/* Gathers fragments from a bounce buffer into their places: the GPU's counterpart of the CPU's unpack.
 *
 * One warp moves one tile of one fragment: up to 256 units of 16 bytes. Stores are always whole units: a tile starts where
 * the *target* is aligned, and where the source then is not, each unit is put together from the two aligned units that
 * cover it. So no alignment falls back to single bytes but the few before the first and after the last unit.
 *
 * An aligned unit that holds a byte of a fragment lies inside the bounce buffer, because its base and length are multiples
 * of 16; so reading a fragment's neighbours is safe. The list was checked before it came here; each fragment's bounds are
 * checked again, and what lies outside is counted in `refused` and left alone.
 *
 * Threads share nothing and wait for nobody (no shuffle, no barrier), so that the same text runs on a CPU, one thread after
 * the other, under a sanitizer. Keep it so.
 */

#ifdef __cplusplus
extern "C" {
#endif

typedef unsigned char weft_byte;
typedef unsigned int weft_u32;
typedef unsigned long long weft_u64;

/* As it travels: little-endian, 16 bytes. */
struct weft_fragment {
    weft_u32 source;
    weft_u32 length;
    weft_u64 target;
};

#define WEFT_UNIT 16u
#define WEFT_TILE_UNITS 256u
#define WEFT_WARP 32u

/* The unit that begins `bytes` (1 to 15) after `low`, of two neighbours. */
static __device__ __forceinline__ uint4 weft_between(uint4 low, uint4 high, weft_u32 bytes) {
    weft_u32 bits = (bytes & 3u) * 8u;
    weft_u32 a, b, c, d, e;
    uint4 unit;
    switch (bytes >> 2) {
    case 0: a = low.x, b = low.y, c = low.z, d = low.w, e = high.x; break;
    case 1: a = low.y, b = low.z, c = low.w, d = high.x, e = high.y; break;
    case 2: a = low.z, b = low.w, c = high.x, d = high.y, e = high.z; break;
    default: a = low.w, b = high.x, c = high.y, d = high.z, e = high.w; break;
    }
    unit.x = __funnelshift_r(a, b, bits);
    unit.y = __funnelshift_r(b, c, bits);
    unit.z = __funnelshift_r(c, d, bits);
    unit.w = __funnelshift_r(d, e, bits);
    return unit;
}

/* `tiles` is what the longest fragment needs: ceil(longest / 4096), at least 1. */
__global__ void weft_unpack(const struct weft_fragment *fragments, weft_u32 count, weft_u32 tiles,
                            const weft_byte *bounce, weft_u64 bounce_bytes, weft_byte *target,
                            weft_u64 target_bytes, weft_u32 *refused) {
    weft_u32 lane = threadIdx.x % WEFT_WARP;
    weft_u64 warp = ((weft_u64)blockIdx.x * blockDim.x + threadIdx.x) / WEFT_WARP;
    weft_u64 warps = (weft_u64)gridDim.x * blockDim.x / WEFT_WARP;
    weft_u64 work = (weft_u64)count * tiles;

    for (; warp < work; warp += warps) {
        weft_u32 tile = (weft_u32)(warp % tiles);
        struct weft_fragment fragment = fragments[warp / tiles];
        weft_u32 length = fragment.length;
        if ((weft_u64)fragment.source + length > bounce_bytes || length > target_bytes ||
            fragment.target > target_bytes - length) {
            if (tile == 0 && lane == 0) atomicAdd(refused, 1u);
            continue;
        }
        const weft_byte *from = bounce + fragment.source;
        weft_byte *to = target + fragment.target;
        weft_u32 head = (weft_u32)((WEFT_UNIT - (weft_u64)to % WEFT_UNIT) % WEFT_UNIT);
        if (head > length) head = length;
        weft_u32 units = (length - head) / WEFT_UNIT;
        weft_u32 tail = head + units * WEFT_UNIT;
        if (tile == 0) {
            if (lane < head) to[lane] = from[lane];
            if (lane < length - tail) to[tail + lane] = from[tail + lane];
        }
        weft_u32 first = tile * WEFT_TILE_UNITS;
        if (first >= units) continue;
        weft_u32 end = units - first < WEFT_TILE_UNITS ? units : first + WEFT_TILE_UNITS;
        weft_u32 shift = (weft_u32)((weft_u64)(from + head) % WEFT_UNIT);
        const uint4 *aligned = (const uint4 *)(from + head - shift);
        uint4 *into = (uint4 *)(to + head);
        if (shift == 0) {
#pragma unroll 4
            for (weft_u32 unit = first + lane; unit < end; unit += WEFT_WARP) into[unit] = aligned[unit];
        } else {
#pragma unroll 4
            for (weft_u32 unit = first + lane; unit < end; unit += WEFT_WARP)
                into[unit] = weft_between(aligned[unit], aligned[unit + 1], shift);
        }
    }
}

#ifdef __cplusplus
}
#endif
