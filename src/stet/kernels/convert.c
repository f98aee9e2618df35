/* Weights brought into the layout of packed.c, arranged or rounded to 4 or 8 bits; quantise.py says
 * what the rounding does and, in the same operations in the same order, computes it without this.
 */

#include <stdint.h>
#include <string.h>

#define ROWS 32   /* of a tile */
#define GROUP 32  /* inputs that share a scale */
#define BLOCK 8   /* groups that share a super-scale */
#define PAIRS 16  /* words of two inputs in a group of bfloat16 */
#define SHRINKS 4 /* shares of a group's range that 4 bits are tried over */

#define INLINE static inline __attribute__((always_inline))

/* What a call works on; tensors as in packed.c. */
typedef struct {
    const void *from; /* [rows, inputs] */
    int64_t rows, inputs;
    int32_t brain; /* `from` is bfloat16, not float32 */
    int32_t bits;
    int32_t *codes;
    void *scales;
    int8_t *mins;
    uint16_t *super_scales, *super_mins;
    int64_t next_tile;
    int32_t faulty; /* a weight was no finite number */
} Job;

INLINE int64_t up(int64_t value, int64_t unit) { return (value + unit - 1) / unit; }

INLINE float as_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE uint16_t brain_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16); /* ties to even */
}

INLINE float widened(uint16_t half) { return as_float((uint32_t)half << 16); }

/* bfloat16 as it is: words of two inputs, of 32 rows side by side */

static void arrange_tile(const Job *job, int64_t tile) {
    int64_t groups = up(job->inputs, GROUP);
    int64_t first = tile * ROWS, count = job->rows - first < ROWS ? job->rows - first : ROWS;
    const uint16_t *from = (const uint16_t *)job->from + first * job->inputs;
    int32_t *to = job->codes + tile * groups * PAIRS * ROWS;
    for (int64_t g = 0; g < groups; g++, to += PAIRS * ROWS) {
        int64_t left = job->inputs - g * GROUP;
        size_t size = (size_t)(left < GROUP ? left : GROUP) * sizeof *from;
        int32_t words[ROWS][PAIRS];
        if (count < ROWS || left < GROUP)
            memset(words, 0, sizeof words);
        for (int row = 0; row < count; row++)
            memcpy(words[row], from + row * job->inputs + g * GROUP, size);
        for (int pair = 0; pair < PAIRS; pair++)
            for (int row = 0; row < ROWS; row++)
                to[pair * ROWS + row] = words[row][pair];
    }
}

/* Rounding: whatever is computed of a group of 32 inputs is computed of a tile's rows side by side */

typedef float Rows[ROWS];
typedef Rows Group[GROUP];

#define EACH_ROW for (int r = 0; r < ROWS; r++)
#define EACH_INPUT for (int i = 0; i < GROUP; i++)

/* A group's weights, filled up with zeros; 0 where one is no finite number. */
static int read_group(const Job *job, int64_t tile, int64_t group, Group values) {
    int64_t first = tile * ROWS, left = job->inputs - group * GROUP;
    int64_t count = job->rows - first < ROWS ? job->rows - first : ROWS;
    int size = left < GROUP ? (int)left : GROUP, fine = 1;
    if (count < ROWS || size < GROUP)
        memset(values, 0, sizeof(Group));
    for (int r = 0; r < count; r++) {
        int64_t at = (first + r) * job->inputs + group * GROUP;
        if (job->brain)
            for (int i = 0; i < size; i++)
                values[i][r] = widened(((const uint16_t *)job->from)[at + i]);
        else
            for (int i = 0; i < size; i++)
                values[i][r] = ((const float *)job->from)[at + i];
    }
    EACH_INPUT EACH_ROW fine &= __builtin_fabsf(values[i][r]) <= 0x1.fffffep127f;
    return fine;
}

/* Halves are added until one number is left of each row; `values` are lost. */
INLINE void total(Group values, Rows sum) {
    for (int half = GROUP / 2; half; half /= 2)
        for (int i = 0; i < half; i++)
            EACH_ROW values[i][r] += values[i + half][r];
    memcpy(sum, values[0], sizeof(Rows));
}

INLINE float clamped(float value, float low, float high) {
    value = value > low ? value : low; /* NaN is low */
    return value < high ? value : high;
}

INLINE void codes_of(Group values, const Rows scale, const Rows shift, float low, float high,
                     Group codes) {
    EACH_INPUT EACH_ROW {
        float code = clamped(__builtin_rintf(values[i][r] / scale[r] - shift[r]), low, high);
        codes[i][r] = scale[r] == 0 ? 0 : code;
    }
}

/* The scale and the least weight of 16 evenly spaced ones, with the least squared error. */
static void fit_four(Group values, Rows best_scale, Rows best_low) {
    static const float shrinks[SHRINKS] = {1.0f, 0.92f, 0.84f, 0.76f};
    Group codes, terms;
    Rows low, high, best, mean, mean_code, square, product, error, start, shift, scale, least;
    memcpy(low, values[0], sizeof low);
    memcpy(high, values[0], sizeof high);
    EACH_INPUT EACH_ROW low[r] = values[i][r] < low[r] ? values[i][r] : low[r];
    EACH_INPUT EACH_ROW high[r] = values[i][r] > high[r] ? values[i][r] : high[r];
    memcpy(terms, values, sizeof terms);
    total(terms, mean);
    EACH_ROW mean[r] /= GROUP;
    EACH_ROW best[r] = __builtin_inff();
    EACH_ROW best_scale[r] = best_low[r] = 0;
    for (int s = 0; s < SHRINKS; s++) {
        EACH_ROW {
            float cut = (high[r] - low[r]) * (1.0f - shrinks[s]) / 2;
            start[r] = (high[r] - low[r]) * shrinks[s] / 15;
            shift[r] = (low[r] + cut) / start[r];
        }
        codes_of(values, start, shift, 0, 15, codes);
        memcpy(terms, codes, sizeof terms);
        total(terms, mean_code);
        EACH_INPUT EACH_ROW terms[i][r] = codes[i][r] * codes[i][r];
        total(terms, square);
        EACH_INPUT EACH_ROW terms[i][r] = codes[i][r] * values[i][r];
        total(terms, product);
        EACH_ROW {
            mean_code[r] /= GROUP;
            float spread = square[r] / GROUP - mean_code[r] * mean_code[r];
            float together = product[r] / GROUP - mean_code[r] * mean[r];
            scale[r] = spread > 0 ? together / spread : 0;
            least[r] = mean[r] - scale[r] * mean_code[r];
        }
        EACH_INPUT EACH_ROW {
            float off = codes[i][r] * scale[r] + least[r] - values[i][r];
            terms[i][r] = off * off;
        }
        total(terms, error);
        EACH_ROW {
            int better = error[r] < best[r];
            best[r] = better ? error[r] : best[r];
            best_scale[r] = better ? scale[r] : best_scale[r];
            best_low[r] = better ? least[r] : best_low[r];
        }
    }
}

/* Values of `count` groups as int8 multiples of a bfloat16; they become what these say. */
static void two_levels(Rows values[BLOCK], int count, int8_t *multiples, uint16_t *units) {
    Rows largest = {0}, unit;
    for (int g = 0; g < count; g++)
        EACH_ROW {
            float size = __builtin_fabsf(values[g][r]);
            largest[r] = size > largest[r] ? size : largest[r];
        }
    EACH_ROW {
        units[r] = brain_of(largest[r] / 127);
        unit[r] = widened(units[r]);
    }
    for (int g = 0; g < count; g++)
        EACH_ROW {
            float multiple = clamped(__builtin_rintf(values[g][r] / unit[r]), -127, 127);
            multiple = unit[r] == 0 ? 0 : multiple;
            multiples[g * ROWS + r] = (int8_t)multiple;
            values[g][r] = multiple * unit[r];
        }
}

/* Write a group's codes, four neighbouring inputs of a row in a word (planes.py). */
static void write_codes(Group codes, int bits, int32_t *to) {
    for (int word = 0; word < bits; word++)
        EACH_ROW {
            uint32_t four = 0;
            for (int i = 0; i < 4; i++) {
                uint32_t byte = (uint32_t)(int32_t)codes[word * 4 + i][r];
                if (bits == 4)
                    byte |= (uint32_t)(int32_t)codes[word * 4 + i + GROUP / 2][r] << 4;
                four |= byte << i * 8;
            }
            to[word * ROWS + r] = (int32_t)four;
        }
}

static int eight_tile(const Job *job, int64_t tile) {
    int64_t groups = up(job->inputs, GROUP);
    int fine = 1;
    for (int64_t g = 0; g < groups; g++) {
        int64_t at = tile * groups + g;
        uint16_t *halves = (uint16_t *)job->scales + at * ROWS;
        Group values, codes;
        Rows largest = {0}, scale, shift;
        fine &= read_group(job, tile, g, values);
        EACH_INPUT EACH_ROW {
            float size = __builtin_fabsf(values[i][r]);
            largest[r] = size > largest[r] ? size : largest[r];
        }
        EACH_ROW {
            halves[r] = brain_of(largest[r] / 127);
            scale[r] = widened(halves[r]);
            shift[r] = -128;
        }
        codes_of(values, scale, shift, 1, 255, codes);
        write_codes(codes, 8, job->codes + at * 8 * ROWS);
    }
    return fine;
}

static int four_tile(const Job *job, int64_t tile) {
    int64_t groups = up(job->inputs, GROUP), blocks = up(groups, BLOCK);
    int fine = 1;
    for (int64_t block = 0; block < blocks; block++) {
        int64_t first = block * BLOCK, at = tile * groups + first;
        int64_t super = (tile * blocks + block) * ROWS;
        int count = groups - first < BLOCK ? (int)(groups - first) : BLOCK;
        Group values[BLOCK], codes;
        Rows scales[BLOCK], mins[BLOCK], shift;
        for (int g = 0; g < count; g++) {
            fine &= read_group(job, tile, first + g, values[g]);
            fit_four(values[g], scales[g], mins[g]);
            EACH_ROW mins[g][r] = -mins[g][r];
        }
        two_levels(scales, count, (int8_t *)job->scales + at * ROWS, job->super_scales + super);
        two_levels(mins, count, job->mins + at * ROWS, job->super_mins + super);
        for (int g = 0; g < count; g++) {
            EACH_ROW shift[r] = -mins[g][r] / scales[g][r];
            codes_of(values[g], scales[g], shift, 0, 15, codes);
            write_codes(codes, 4, job->codes + (at + g) * 4 * ROWS);
        }
    }
    return fine;
}

static void work(void *shared) {
    Job *job = shared;
    int64_t tiles = up(job->rows, ROWS), tile;
    while ((tile = __atomic_fetch_add(&job->next_tile, 1, __ATOMIC_RELAXED)) < tiles) {
        int fine = 1;
        if (job->bits == 16)
            arrange_tile(job, tile);
        else
            fine = job->bits == 8 ? eight_tile(job, tile) : four_tile(job, tile);
        if (!fine)
            __atomic_store_n(&job->faulty, 1, __ATOMIC_RELAXED);
    }
}

/* OpenMP's entry for a parallel region, as in packed.c. */
typedef void Parallel(void (*)(void *), void *, unsigned, unsigned);

/* Fill the tensors of a weight; `faulty` says whether one of its numbers is not finite. */
void stet_convert(Job *job, Parallel *parallel, int threads) {
    if (parallel && threads > 1)
        parallel(work, job, (unsigned)threads, 0);
    else
        work(job);
}
