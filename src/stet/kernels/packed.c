/* Weights of 4, 5, 6 or 8 bits times activations of 8 bits, summed in integers; and bfloat16 times
 * bfloat16, summed in float32.
 *
 * Below 16 bits w[o, i] = scale * (u - zero) - min, with u an unsigned code, a scale for each 32 (or 16) inputs
 * of a row and a min for each 32. Activations are rounded to int8 with a scale of their own for
 * each token and each 32 inputs, so that a group of 32 products is an exact integer sum:
 *
 *     y[t, o] = sum over groups g of  a[t, g] * s[o, g] * dot[t, o, g] - min[o, g] * total[t, g]
 *
 * in this order, with the same roundings whatever else the call computes. Products of bfloat16 are
 * added one after the other, of each two inputs the second first, with one rounding each. So an
 * output does not depend on the number of tokens, on threads, or on which of the paths below
 * computed it: the portable one is the definition, and a fast one must give the same bits (but for
 * subnormal numbers, which count as zeros where the processor multiplies bfloat16).
 *
 * Layout. Rows come in tiles of 32, whose codes lie group after group (see planes.py): 64 bytes
 * hold 4 neighbouring inputs of 16 rows, which is what one vpdpbusd takes, or 2 for a vdpbf16ps.
 */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define ROWS 32    /* of a tile */
#define WORD 128   /* bytes of a tile's rows in a word of their codes */
#define GROUP 32   /* inputs that share a scale of the activations */
#define QUADS 8    /* pieces of 4 inputs in a group */
#define BLOCK 8    /* groups that share a super-scale */
#define TOKENS 32  /* the most that meet a tile at once */
#define AHEAD 8192 /* bytes of codes that are fetched into the second cache before they are needed */

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

/* A packed weight. Arrays have a last dimension of the 32 rows of a tile. */
typedef struct {
    const uint8_t *codes;         /* [tiles, groups, bits * 128] */
    const void *scales;           /* [tiles, groups * parts, 32] halves, or int8 below super-scales;
                                     NULL for 16 bits, as all that follow but the bias */
    const void *mins;             /* [tiles, groups, 32], as scales; or NULL */
    const uint16_t *super_scales; /* [tiles, blocks, 32] halves, or NULL */
    const uint16_t *super_mins;   /* [tiles, blocks, 32] halves, or NULL */
    const float *bias;            /* [rows] or NULL */
    int64_t rows, inputs;
    int32_t bits;
    int32_t parts;   /* scales in a group: 1, or 2 of 16 inputs each */
    int32_t zero;    /* the code that stands for 0 */
    int32_t brain;   /* halves are bfloat16, not float16 */
} Weight;

/* A group of 32 inputs of one token. */
typedef union {
    struct {
        int8_t q[GROUP];
        float scale;
        float total;      /* scale * the sum of q */
        int32_t start[2]; /* -zero * the sum of q, of all of it or of each half */
    };
    uint16_t brain[GROUP]; /* for weights of 16 bits */
} Input;

INLINE int64_t up(int64_t value, int64_t unit) { return (value + unit - 1) / unit; }

INLINE float as_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE uint32_t as_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* Numbers of 16 bits */

INLINE float widened(uint16_t half, int brain) {
    if (brain)
        return as_float((uint32_t)half << 16);
    float size = as_float((uint32_t)(half & 0x7fff) << 13) * 0x1p112f;
    if ((half & 0x7c00) == 0x7c00) /* infinities and NaN */
        size = as_float((uint32_t)(half & 0x3ff) << 13 | 0x7f800000);
    return as_float(as_bits(size) | (uint32_t)(half & 0x8000) << 16);
}

INLINE uint16_t brain_of(float value) {
    uint32_t bits = as_bits(value);
    uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16; /* ties to even */
    uint32_t quiet = bits >> 16 | 0x40;                          /* NaN must not become infinite */
    return (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? quiet : rounded);
}

/* Activations */

INLINE void brain_group(const float *x, Input *to) {
    for (int i = 0; i < GROUP; i++)
        to->brain[i] = brain_of(x[i]);
}

/* A group with a value that is no number gets a scale of NaN, which reaches all of the token's
 * outputs; one too small to be divided by counts as zeros. */
INLINE void quantise_group(const float *x, const Weight *w, Input *to) {
    int32_t largest = 0;
    for (int i = 0; i < GROUP; i++) {
        int32_t size = (int32_t)(as_bits(x[i]) & 0x7fffffff);
        largest = size > largest ? size : largest;
    }
    float size = as_float((uint32_t)largest);
    int usable = largest < 0x7f800000 && size > 1e-30f;
    float inverse = usable ? 127.0f / size : 0.0f;
    int32_t whole[GROUP], sums[2] = {0, 0};
    for (int i = 0; i < GROUP; i++) {
        /* Adding 1.5 * 2^23 leaves the rounded integer in the low bits. */
        float moved = (usable ? x[i] : 0.0f) * inverse + 12582912.0f;
        whole[i] = (int32_t)as_bits(moved) - 0x4b400000;
    }
    for (int i = 0; i < GROUP; i++)
        to->q[i] = (int8_t)whole[i];
    for (int i = 0; i < GROUP / 2; i++)
        sums[0] += whole[i];
    for (int i = GROUP / 2; i < GROUP; i++)
        sums[1] += whole[i];
    to->scale = usable ? size / 127.0f : largest < 0x7f800000 ? 0.0f : as_float(0x7fc00000);
    to->total = to->scale * (float)(sums[0] + sums[1]);
    to->start[0] = -w->zero * (w->parts == 2 ? sums[0] : sums[0] + sums[1]);
    to->start[1] = -w->zero * sums[1];
}

INLINE void read_values(const void *x, int brain, int64_t first, int64_t count, float *values) {
    if (!brain)
        memcpy(values, (const float *)x + first, (size_t)count * sizeof(float));
    for (int64_t i = 0; brain && i < count; i++)
        values[i] = as_float((uint32_t)((const uint16_t *)x)[first + i] << 16);
}

/* Write one token's groups, `step` places apart; the last is filled up with zeros. */
static void prepare(const Weight *w, const void *x, int brain, Input *to, int64_t step) {
    float values[GROUP];
    int64_t first = 0;
    for (; first + GROUP <= w->inputs; first += GROUP, to += step) {
        read_values(x, brain, first, GROUP, values);
        w->bits == 16 ? brain_group(values, to) : quantise_group(values, w, to);
    }
    if (first < w->inputs) {
        memset(values, 0, sizeof values);
        read_values(x, brain, first, w->inputs - first, values);
        w->bits == 16 ? brain_group(values, to) : quantise_group(values, w, to);
    }
}

/* The portable path, which defines the result */

INLINE int32_t code(const uint8_t *codes, int bits, int quad, int byte) {
    if (bits == 8)
        return codes[quad * WORD + byte];
    int32_t low = codes[quad % 4 * WORD + byte] >> quad / 4 * 4 & 15;
    if (bits == 5)
        return low | (codes[4 * WORD + byte] >> quad & 1) << 4;
    if (bits == 6)
        return low | (codes[(4 + quad / 4) * WORD + byte] >> quad % 4 * 2 & 3) << 4;
    return low;
}

INLINE float header(const void *values, const uint16_t *supers, int brain, int64_t at,
                    int64_t block) {
    if (supers)
        return widened(supers[block], brain) * (float)((const int8_t *)values)[at];
    return widened(((const uint16_t *)values)[at], brain);
}

static void portable_brain(const Weight *w, int64_t tile, const Input *input, int tokens,
                           float sums[][ROWS]) {
    int64_t groups = up(w->inputs, GROUP);
    for (int t = 0; t < tokens; t++)
        for (int row = 0; row < ROWS; row++) {
            float sum = 0;
            for (int64_t i = 0; i < groups * GROUP; i++) {
                int64_t pair = i / 2, odd = 1 - i % 2; /* the second first */
                uint16_t code;
                memcpy(&code, w->codes + (tile * groups * 16 + pair) * WORD + row * 4 + odd * 2, 2);
                const Input *in = input + i / GROUP * tokens + t;
                float value = widened(in->brain[pair * 2 % GROUP + odd], 1);
                sum = __builtin_fmaf(widened(code, 1), value, sum);
            }
            sums[t][row] = sum;
        }
}

/* Sums of a tile of rows for `tokens` tokens, whose groups lie [groups, tokens]. */
static void portable(const Weight *w, int64_t tile, const Input *input, int tokens,
                     float sums[][ROWS]) {
    if (w->bits == 16)
        return portable_brain(w, tile, input, tokens, sums);
    int64_t groups = up(w->inputs, GROUP), blocks = up(groups, BLOCK);
    for (int t = 0; t < tokens; t++)
        for (int row = 0; row < ROWS; row++) {
            float sum = 0;
            for (int64_t g = 0; g < groups; g++) {
                const Input *in = input + g * tokens + t;
                const uint8_t *codes = w->codes + (tile * groups + g) * w->bits * WORD;
                int64_t block = (tile * blocks + g / BLOCK) * ROWS + row;
                float scaled = 0;
                for (int part = 0; part < w->parts; part++) {
                    int32_t dot = in->start[part];
                    for (int i = part * GROUP / 2; i < GROUP - (w->parts - 1 - part) * GROUP / 2; i++)
                        dot += code(codes, w->bits, i / 4, row * 4 + i % 4) * in->q[i];
                    int64_t at = ((tile * groups + g) * w->parts + part) * ROWS + row;
                    float scale = header(w->scales, w->super_scales, w->brain, at, block);
                    scaled = part ? __builtin_fmaf((float)dot, scale, scaled) : (float)dot * scale;
                }
                sum = __builtin_fmaf(scaled, in->scale, sum);
                if (w->mins) {
                    int64_t at = (tile * groups + g) * ROWS + row;
                    float min = header(w->mins, w->super_mins, w->brain, at, block);
                    sum = __builtin_fmaf(-min, in->total, sum);
                }
            }
            sums[t][row] = sum;
        }
}

/* The fast path: sixteen rows in a register */

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VNNI__)
#define FAST 1
#include <immintrin.h>

INLINE __m512 halves(const uint16_t *from, int brain) {
    __m256i bits = _mm256_loadu_si256((const __m256i *)from);
    if (brain)
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
    return _mm512_cvtph_ps(bits);
}

INLINE __m512 headers(const void *values, int64_t at, __m512 super, int two_level, int brain) {
    if (!two_level)
        return halves((const uint16_t *)values + at, brain);
    __m128i bytes = _mm_loadu_si128((const __m128i *)((const int8_t *)values + at));
    return _mm512_mul_ps(super, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)));
}

INLINE __m512i moved(__m512i bits, int left) {
    return left >= 0 ? _mm512_slli_epi16(bits, left) : _mm512_srli_epi16(bits, -left);
}

/* `low`, with the bits of `high` that `mask` has. */
INLINE __m512i with_bits(__m512i low, __m512i high, int mask) {
    return _mm512_ternarylogic_epi32(low, high, _mm512_set1_epi8((char)mask), 0xf8);
}

INLINE __m512i unpacked(const uint8_t *codes, int bits, int quad) {
    const uint8_t *high = codes + 4 * WORD;
    if (bits == 8)
        return _mm512_loadu_si512(codes + quad * WORD);
    __m512i low = moved(_mm512_loadu_si512(codes + quad % 4 * WORD), quad / 4 * -4);
    low = _mm512_and_si512(low, _mm512_set1_epi8(15));
    if (bits == 5)
        return with_bits(low, moved(_mm512_loadu_si512(high), 4 - quad), 0x10);
    if (bits == 6)
        return with_bits(low, moved(_mm512_loadu_si512(high + quad / 4 * WORD), 4 - quad % 4 * 2), 0x30);
    return low;
}

/* As `portable`, expanded for each format. A group's codes are unpacked once, into registers, and
 * meet one token after the other. Two halves of a tile go side by side, since the processor
 * multiplies twice as fast as it can load activations. */
INLINE void multiply(const Weight *w, int64_t tile, const Input *in, int tokens,
                     float sums[][ROWS], int bits, int parts, int two_level, int has_min) {
    int64_t groups = up(w->inputs, GROUP), blocks = up(groups, BLOCK);
    const uint8_t *codes = w->codes + tile * groups * bits * WORD;
    int64_t row = tile * groups * ROWS, block = tile * blocks * ROWS;
    __m512 super[2] = {0}, super_min[2] = {0};
    memset(sums, 0, (size_t)tokens * sizeof *sums);
    for (int64_t g = 0; g < groups; g++, codes += bits * WORD, row += ROWS) {
        UNROLL for (int i = 0; i < bits * WORD; i += 64)
            _mm_prefetch((const char *)codes + AHEAD + i, _MM_HINT_T1);
        __m512i u[QUADS][2];
        __m512 scale[2][2], min[2];
        UNROLL for (int h = 0; h < 2; h++) {
            if (two_level && g % BLOCK == 0) {
                super[h] = halves(w->super_scales + block + h * 16, w->brain);
                if (has_min)
                    super_min[h] = halves(w->super_mins + block + h * 16, w->brain);
            }
            UNROLL for (int q = 0; q < QUADS; q++) u[q][h] = unpacked(codes + h * 64, bits, q);
            UNROLL for (int part = 0; part < parts; part++)
                scale[part][h] = headers(w->scales, (row * parts + part * ROWS) + h * 16, super[h],
                                         two_level, w->brain);
            if (has_min)
                min[h] = headers(w->mins, row + h * 16, super_min[h], two_level, w->brain);
        }
        if (two_level && g % BLOCK == 0)
            block += ROWS;
        for (int t = 0; t < tokens; t++, in++) {
            __m512 scaled[2];
            UNROLL for (int part = 0; part < parts; part++) {
                __m512i dot[2];
                UNROLL for (int h = 0; h < 2; h++) dot[h] = has_min ? _mm512_setzero_si512() : _mm512_set1_epi32(in->start[part]);
                UNROLL for (int q = part * QUADS / parts; q < (part + 1) * QUADS / parts; q++) {
                    int32_t four;
                    memcpy(&four, in->q + q * 4, sizeof four);
                    UNROLL for (int h = 0; h < 2; h++)
                        dot[h] = _mm512_dpbusd_epi32(dot[h], u[q][h], _mm512_set1_epi32(four));
                }
                UNROLL for (int h = 0; h < 2; h++) {
                    __m512 product = _mm512_cvtepi32_ps(dot[h]);
                    scaled[h] = part ? _mm512_fmadd_ps(product, scale[part][h], scaled[h])
                                     : _mm512_mul_ps(product, scale[part][h]);
                }
            }
            UNROLL for (int h = 0; h < 2; h++) {
                __m512 sum = _mm512_loadu_ps(sums[t] + h * 16);
                sum = _mm512_fmadd_ps(scaled[h], _mm512_set1_ps(in->scale), sum);
                if (has_min)
                    sum = _mm512_fnmadd_ps(min[h], _mm512_set1_ps(in->total), sum);
                _mm512_storeu_ps(sums[t] + h * 16, sum);
            }
        }
    }
}

#define KERNEL(name, bits, parts, two_level, has_min)                                             \
    static void name(const Weight *w, int64_t tile, const Input *in, int tokens,                  \
                     float sums[][ROWS]) {                                                        \
        multiply(w, tile, in, tokens, sums, bits, parts, two_level, has_min);                     \
    }

KERNEL(flat4, 4, 1, 0, 0)
KERNEL(flat4_min, 4, 1, 0, 1)
KERNEL(flat5, 5, 1, 0, 0)
KERNEL(flat5_min, 5, 1, 0, 1)
KERNEL(flat8, 8, 1, 0, 0)
KERNEL(block4_min, 4, 1, 1, 1)
KERNEL(block5_min, 5, 1, 1, 1)
KERNEL(block6, 6, 2, 1, 0)
#else
#define FAST 0
#endif

#if FAST && defined(__AVX512BF16__)
#define FAST_BRAIN 1

/* As `portable_brain`; half a group's codes are in registers at a time. */
static void brain16(const Weight *w, int64_t tile, const Input *input, int tokens,
                    float sums[][ROWS]) {
    int64_t groups = up(w->inputs, GROUP);
    const uint8_t *codes = w->codes + tile * groups * 16 * WORD;
    memset(sums, 0, (size_t)tokens * sizeof *sums);
    for (int64_t piece = 0; piece < groups * 2; piece++, codes += 8 * WORD) {
        const Input *in = input + piece / 2 * tokens;
        __m512bh pair[8][2];
        UNROLL for (int i = 0; i < 8 * WORD; i += 64)
            _mm_prefetch((const char *)codes + AHEAD + i, _MM_HINT_T1);
        UNROLL for (int i = 0; i < 8; i++)
            UNROLL for (int h = 0; h < 2; h++)
                pair[i][h] = (__m512bh)_mm512_loadu_si512(codes + i * WORD + h * 64);
        for (int t = 0; t < tokens; t++, in++) {
            __m512 sum[2];
            UNROLL for (int h = 0; h < 2; h++) sum[h] = _mm512_loadu_ps(sums[t] + h * 16);
            UNROLL for (int i = 0; i < 8; i++) {
                int32_t two;
                memcpy(&two, in->brain + piece % 2 * 16 + i * 2, sizeof two);
                UNROLL for (int h = 0; h < 2; h++)
                    sum[h] = _mm512_dpbf16_ps(sum[h], pair[i][h], (__m512bh)_mm512_set1_epi32(two));
            }
            UNROLL for (int h = 0; h < 2; h++) _mm512_storeu_ps(sums[t] + h * 16, sum[h]);
        }
    }
}
#else
#define FAST_BRAIN 0
#endif

typedef void Kernel(const Weight *, int64_t, const Input *, int, float[][ROWS]);

static Kernel *kernel_for(const Weight *w) {
#if FAST
    int blocks = w->super_scales != NULL, min = w->mins != NULL;
    if (w->bits == 4 && w->parts == 1 && blocks == min) return blocks ? block4_min : flat4;
    if (w->bits == 4 && w->parts == 1 && min) return flat4_min;
    if (w->bits == 5 && w->parts == 1 && blocks == min) return blocks ? block5_min : flat5;
    if (w->bits == 5 && w->parts == 1 && min) return flat5_min;
    if (w->bits == 6 && w->parts == 2 && blocks && !min) return block6;
    if (w->bits == 8 && w->parts == 1 && !blocks && !min) return flat8;
#endif
#if FAST_BRAIN
    if (w->bits == 16) return brain16;
#endif
    (void)w;
    return portable;
}

/* A call: threads take runs of tokens to prepare, then tiles to multiply, until none are left. */

typedef struct {
    const Weight *weight;
    const void *x;
    void *y;
    Input *input;
    Kernel *kernel;
    int64_t tokens;
    int64_t runs;  /* of up to TOKENS tokens, of nearly equal lengths */
    int64_t chunk; /* tiles taken at once */
    int brain;     /* x and y are bfloat16, not float32 */
    int64_t next_run, prepared, next_tile;
} Call;

/* The first token of a run. */
INLINE int64_t run_start(const Call *call, int64_t run) {
    int64_t longer = call->tokens % call->runs;
    return run * (call->tokens / call->runs) + (run < longer ? run : longer);
}

INLINE void write(const Call *call, int64_t token, int64_t tile, const float sums[ROWS]) {
    const Weight *w = call->weight;
    int64_t row = tile * ROWS, left = w->rows - row, at = token * w->rows + row;
    float values[ROWS];
    memcpy(values, sums, sizeof values);
    if (w->bias)
        for (int i = 0; i < (left < ROWS ? left : ROWS); i++)
            values[i] += w->bias[row + i];
    uint16_t brains[ROWS];
    for (int i = 0; call->brain && i < ROWS; i++)
        brains[i] = brain_of(values[i]);
    const void *from = call->brain ? (const void *)brains : values;
    size_t size = call->brain ? sizeof(uint16_t) : sizeof(float);
    if (left < ROWS)
        memcpy((char *)call->y + (size_t)at * size, from, (size_t)left * size);
    else
        memcpy((char *)call->y + (size_t)at * size, from, ROWS * size);
}

static void work(void *shared) {
    Call *call = shared;
    const Weight *w = call->weight;
    int64_t groups = up(w->inputs, GROUP), tiles = up(w->rows, ROWS);
    size_t row_size = (size_t)w->inputs * (call->brain ? sizeof(uint16_t) : sizeof(float));
    int64_t run;
    while ((run = __atomic_fetch_add(&call->next_run, 1, __ATOMIC_RELAXED)) < call->runs) {
        int64_t start = run_start(call, run), length = run_start(call, run + 1) - start;
        for (int64_t t = 0; t < length; t++)
            prepare(w, (const char *)call->x + (size_t)(start + t) * row_size, call->brain,
                    call->input + start * groups + t, length);
        __atomic_fetch_add(&call->prepared, 1, __ATOMIC_RELEASE);
    }
    while (__atomic_load_n(&call->prepared, __ATOMIC_ACQUIRE) < call->runs) {
    }
    int64_t first;
    while ((first = __atomic_fetch_add(&call->next_tile, call->chunk, __ATOMIC_RELAXED)) < tiles) {
        int64_t last = first + call->chunk < tiles ? first + call->chunk : tiles;
        for (int64_t tile = first; tile < last; tile++)
            for (run = 0; run < call->runs; run++) {
                float sums[TOKENS][ROWS];
                int64_t start = run_start(call, run), end = run_start(call, run + 1);
                call->kernel(w, tile, call->input + start * groups, (int)(end - start), sums);
                for (int64_t t = start; t < end; t++)
                    write(call, t, tile, sums[t - start]);
            }
    }
}

/* What the caller sees */

/* OpenMP's entry for a parallel region, of the library that torch has loaded: a second set of
 * threads would fight with torch's for the same cores. */
typedef void Parallel(void (*)(void *), void *, unsigned, unsigned);

static Parallel *parallel;

void stet_packed_threads(Parallel *entry) { parallel = entry; }

int stet_packed_is_fast(int bits) { return bits == 16 ? FAST_BRAIN : FAST; }

/* Bytes of working memory that a call needs for each token and group of inputs. */
int stet_packed_input_size(void) { return (int)sizeof(Input); }

/* y[tokens, rows] = x[tokens, inputs] times the weight, plus its bias. */
void stet_packed_matmul(const Weight *w, const void *x, void *y, void *memory, int64_t tokens,
                        int brain, int threads, int fast) {
    int64_t tiles = up(w->rows, ROWS);
    Call call = {
        .weight = w,
        .x = x,
        .y = y,
        .input = memory,
        .kernel = fast ? kernel_for(w) : portable,
        .tokens = tokens,
        .runs = up(tokens, TOKENS),
        .chunk = tiles / (threads * 8) + 1,
        .brain = brain,
    };
    if (tokens == 0)
        return;
    if (parallel && threads > 1)
        parallel(work, &call, (unsigned)threads, 0);
    else
        work(&call);
}
