/* Blocks of a GGUF file brought into the layout of packed.c, value for value; ggml.py says what a
 * block of each type holds and, in torch, does the same without this. Numbers are little-endian, as
 * is every processor that the kernels run on.
 */

#include <stdint.h>
#include <string.h>

#define ROWS 32  /* of a tile */
#define GROUP 32 /* inputs of a group, whose codes lie together */
#define MOST 8   /* groups of a block */

#define INLINE static inline __attribute__((always_inline))

/* Types by ggml's numbers. */
enum { Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8, Q4_K = 12, Q5_K = 13, Q6_K = 14 };

/* What a call works on; tensors as in packed.c. Of a block, and of each of its groups, there are
 * as many scales and mins as the type has; those of a block of 32 weights are halves. */
typedef struct {
    const uint8_t *from; /* [rows, blocks, size] */
    int64_t rows, blocks, size;
    int32_t type, bits;
    int32_t *codes;
    void *scales, *mins;
    uint16_t *super_scales, *super_mins;
    int64_t next_tile;
} Job;

typedef struct {
    uint8_t codes[MOST][GROUP];
    uint8_t scales[2 * MOST], mins[MOST];
    uint16_t scale, min; /* halves */
} Block;

INLINE uint16_t half(const uint8_t *from) {
    uint16_t value;
    memcpy(&value, from, sizeof value);
    return value;
}

INLINE uint16_t negative(uint16_t value) { return value ^ 0x8000; }

/* `count` bytes: all low nibbles, then all high ones. */
INLINE void nibbles(const uint8_t *from, int count, uint8_t *to) {
    for (int i = 0; i < count; i++) {
        to[i] = from[i] & 15;
        to[count + i] = from[i] >> 4;
    }
}

/* Four bytes with a bit for each of a group's weights. */
INLINE void fifth_bits(const uint8_t *from, uint8_t *codes) {
    for (int i = 0; i < GROUP; i++)
        codes[i] |= (from[i / 8] >> i % 8 & 1) << 4;
}

/* Twelve bytes of eight scales and eight mins of 6 bits. */
INLINE void scales_and_mins(const uint8_t *from, Block *to) {
    for (int i = 0; i < 4; i++) {
        to->scales[i] = from[i] & 63;
        to->mins[i] = from[4 + i] & 63;
        to->scales[4 + i] = (from[8 + i] & 15) | from[i] >> 6 << 4;
        to->mins[4 + i] = from[8 + i] >> 4 | from[4 + i] >> 6 << 4;
    }
}

INLINE void many_nibbles(const uint8_t *from, Block *to) {
    for (int pair = 0; pair < MOST / 2; pair++)
        nibbles(from + pair * GROUP, GROUP, to->codes[2 * pair]);
}

INLINE void six_bits(const uint8_t *from, Block *to) {
    for (int part = 0; part < 2; part++) {
        const uint8_t *upper = from + 128 + part * GROUP;
        nibbles(from + part * 2 * GROUP, 2 * GROUP, to->codes[4 * part]);
        for (int g = 0; g < 4; g++)
            for (int i = 0; i < GROUP; i++)
                to->codes[4 * part + g][i] |= (upper[i] >> 2 * g & 3) << 4;
    }
    memcpy(to->scales, from + 192, sizeof to->scales);
    to->scale = half(from + 208);
}

INLINE void read_block(const uint8_t *from, int type, Block *to) {
    if (type == Q6_K) {
        six_bits(from, to);
        return;
    }
    to->scale = half(from);
    switch (type) {
    case Q4_0:
        nibbles(from + 2, 16, to->codes[0]);
        break;
    case Q4_1:
        to->min = negative(half(from + 2));
        nibbles(from + 4, 16, to->codes[0]);
        break;
    case Q5_0:
        nibbles(from + 6, 16, to->codes[0]);
        fifth_bits(from + 2, to->codes[0]);
        break;
    case Q5_1:
        to->min = negative(half(from + 2));
        nibbles(from + 8, 16, to->codes[0]);
        fifth_bits(from + 4, to->codes[0]);
        break;
    case Q8_0:
        for (int i = 0; i < GROUP; i++)
            to->codes[0][i] = from[2 + i] ^ 128;
        break;
    case Q4_K:
    case Q5_K:
        to->min = half(from + 2);
        scales_and_mins(from + 4, to);
        many_nibbles(from + (type == Q4_K ? 16 : 48), to);
        if (type == Q5_K)
            for (int g = 0; g < MOST; g++)
                for (int i = 0; i < GROUP; i++)
                    to->codes[g][i] |= (from[16 + i] >> g & 1) << 4;
    }
}

/* A group's codes as words (planes.py), each in its row's column. */
INLINE void write_codes(const uint8_t *codes, int bits, int32_t *to) {
    uint32_t quads[8], words[8] = {0};
    memcpy(quads, codes, sizeof quads);
    if (bits == 8)
        memcpy(words, quads, sizeof words);
    else
        for (int i = 0; i < 4; i++)
            words[i] = (quads[i] & 0x0f0f0f0f) | (quads[4 + i] & 0x0f0f0f0f) << 4;
    if (bits == 5)
        for (int i = 0; i < 8; i++)
            words[4] |= (quads[i] >> 4 & 0x01010101) << i;
    if (bits == 6)
        for (int i = 0; i < 8; i++)
            words[4 + i / 4] |= (quads[i] >> 4 & 0x03030303) << 2 * (i % 4);
    for (int i = 0; i < bits; i++)
        to[i * ROWS] = (int32_t)words[i];
}

INLINE void tile_of(const Job *job, int64_t tile, int type, int bits) {
    int groups = type < Q4_K ? 1 : MOST;           /* of a block */
    int parts = type == Q6_K ? 2 * MOST : groups;  /* scales of a block */
    int has_mins = job->mins != 0;
    int64_t first = tile * ROWS, count = job->rows - first < ROWS ? job->rows - first : ROWS;
    for (int64_t at = 0; at < job->blocks; at++) {
        int64_t place = tile * job->blocks + at;
        for (int64_t row = 0; row < ROWS; row++) {
            Block block = {0};
            if (row < count)
                read_block(job->from + ((first + row) * job->blocks + at) * job->size, type, &block);
            for (int g = 0; g < groups; g++)
                write_codes(block.codes[g], bits,
                            job->codes + (place * groups + g) * bits * ROWS + row);
            if (groups == 1) {
                ((uint16_t *)job->scales)[place * ROWS + row] = block.scale;
                if (has_mins)
                    ((uint16_t *)job->mins)[place * ROWS + row] = block.min;
                continue;
            }
            for (int part = 0; part < parts; part++)
                ((uint8_t *)job->scales)[(place * parts + part) * ROWS + row] = block.scales[part];
            job->super_scales[place * ROWS + row] = block.scale;
            if (!has_mins)
                continue;
            for (int g = 0; g < groups; g++)
                ((uint8_t *)job->mins)[(place * groups + g) * ROWS + row] = block.mins[g];
            job->super_mins[place * ROWS + row] = block.min;
        }
    }
}

/* Each type by itself, so that a compiler knows all sizes. */
static void retile(const Job *job, int64_t tile) {
#define TYPE(type, bits) \
    case type: \
        tile_of(job, tile, type, bits); \
        break;
    switch (job->type) {
        TYPE(Q4_0, 4)
        TYPE(Q4_1, 4)
        TYPE(Q5_0, 5)
        TYPE(Q5_1, 5)
        TYPE(Q8_0, 8)
        TYPE(Q4_K, 4)
        TYPE(Q5_K, 5)
        TYPE(Q6_K, 6)
    }
#undef TYPE
}

static void work(void *shared) {
    Job *job = shared;
    int64_t tiles = (job->rows + ROWS - 1) / ROWS, tile;
    while ((tile = __atomic_fetch_add(&job->next_tile, 1, __ATOMIC_RELAXED)) < tiles)
        retile(job, tile);
}

/* OpenMP's entry for a parallel region, as in packed.c. */
typedef void Parallel(void (*)(void *), void *, unsigned, unsigned);

/* Fill the tensors of a weight. */
void stet_retile(Job *job, Parallel *parallel, int threads) {
    if (parallel && threads > 1)
        parallel(work, job, (unsigned)threads, 0);
    else
        work(job);
}
