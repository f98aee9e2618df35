/* Weights of 4, 5, 6 or 8 bits times activations of 8 bits, summed in integers; and bfloat16 times
 * bfloat16, summed in float32.
 *
 * Below 16 bits w[o, i] = scale * (u - zero) - min, with u an unsigned code, a scale for each 32
 * (or 16) inputs of a row and a min for each 32. Activations are rounded to int8 with a scale of their
 * own for each token and each 32 inputs, so that a group of 32 products is an exact integer sum:
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
 * hold 4 neighbouring inputs of 16 rows, which is what one vpdpbusd takes, or 2 for one vdpbf16ps.
 */

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ROWS 32    /* of a tile */
#define WORD 128   /* bytes of a tile's rows in a word of their codes */
#define GROUP 32   /* inputs that share a scale of the activations */
#define QUADS 8    /* pieces of 4 inputs in a group */
#define BLOCK 8    /* groups that share a super-scale */
#define TOKENS 32  /* the most that meet a tile at once */
#define AHEAD 8192 /* bytes of codes that are in the second cache before they are needed */

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
                    int width = GROUP / w->parts;
                    for (int i = part * width; i < (part + 1) * width; i++)
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

/* The fast path: the rows of a tile lie side by side in PIECES registers of LANES numbers */

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VNNI__)
#include <immintrin.h>
#define FAST 1
#define LANES 16
#define V(name) _mm512_##name

typedef __m512i Ints;
typedef __m512 Floats;

INLINE Ints load(const uint8_t *from) { return _mm512_loadu_si512(from); }

INLINE Ints masked(Ints bits, int mask) {
    return _mm512_and_si512(bits, _mm512_set1_epi8((char)mask));
}

/* `low`, with the bits of `high` that `mask` has. */
INLINE Ints with_bits(Ints low, Ints high, int mask) {
    return _mm512_ternarylogic_epi32(low, high, _mm512_set1_epi8((char)mask), 0xf8);
}

INLINE Floats halves(const uint16_t *from, int brain) {
    __m256i bits = _mm256_loadu_si256((const __m256i *)from);
    return brain ? _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))
                 : _mm512_cvtph_ps(bits);
}

INLINE Floats small(const int8_t *from) {
    __m128i bytes = _mm_loadu_si128((const __m128i *)from);
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
}

/* Four products of bytes added to each number. */
INLINE Ints dot4(Ints sum, Ints u, Ints q, int bits) {
    (void)bits;
    return _mm512_dpbusd_epi32(sum, u, q);
}

#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>
#define FAST 1
#define LANES 8
#define V(name) _mm256_##name

typedef __m256i Ints;
typedef __m256 Floats;

INLINE Ints load(const uint8_t *from) { return _mm256_loadu_si256((const __m256i *)from); }

INLINE Ints masked(Ints bits, int mask) {
    return _mm256_and_si256(bits, _mm256_set1_epi8((char)mask));
}

INLINE Ints with_bits(Ints low, Ints high, int mask) {
    return _mm256_or_si256(low, masked(high, mask));
}

INLINE Floats halves(const uint16_t *from, int brain) {
    __m128i bits = _mm_loadu_si128((const __m128i *)from);
    return brain ? _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16))
                 : _mm256_cvtph_ps(bits);
}

INLINE Floats small(const int8_t *from) {
    __m128i bytes = _mm_loadl_epi64((const __m128i *)from);
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
}

#ifdef __AVXVNNI__
INLINE Ints dot4(Ints sum, Ints u, Ints q, int bits) {
    (void)bits;
    return _mm256_dpbusd_avx_epi32(sum, u, q);
}
#else
/* Pairs of products are added in 16 bits, which those of 8-bit codes are too large for: they are
 * multiplied as u - 128, as size and sign, and sums start without what would take 128 off. */
#define SIGNED_BYTES 1

INLINE Ints dot4(Ints sum, Ints u, Ints q, int bits) {
    if (bits == 8) {
        u = _mm256_xor_si256(u, _mm256_set1_epi8((char)128));
        q = _mm256_sign_epi8(q, u);
        u = _mm256_abs_epi8(u);
    }
    Ints pairs = _mm256_madd_epi16(_mm256_maddubs_epi16(u, q), _mm256_set1_epi16(1));
    return _mm256_add_epi32(sum, pairs);
}
#endif
#else
#define FAST 0
#endif

#ifndef SIGNED_BYTES
#define SIGNED_BYTES 0
#endif

#if FAST
#define PIECES (ROWS / LANES)
#define EACH_PIECE UNROLL for (int p = 0; p < PIECES; p++)

INLINE Floats headers(const void *values, int64_t at, Floats super, int two_level, int brain) {
    if (!two_level)
        return halves((const uint16_t *)values + at, brain);
    return V(mul_ps)(super, small((const int8_t *)values + at));
}

INLINE Ints moved(Ints bits, int left) {
    return left >= 0 ? V(slli_epi16)(bits, left) : V(srli_epi16)(bits, -left);
}

INLINE Ints unpacked(const uint8_t *codes, int bits, int quad) {
    const uint8_t *high = codes + 4 * WORD;
    if (bits == 8)
        return load(codes + quad * WORD);
    Ints low = masked(moved(load(codes + quad % 4 * WORD), quad / 4 * -4), 15);
    if (bits == 5)
        return with_bits(low, moved(load(high), 4 - quad), 0x10);
    if (bits == 6)
        return with_bits(low, moved(load(high + quad / 4 * WORD), 4 - quad % 4 * 2), 0x30);
    return low;
}

INLINE void fetch_ahead(const uint8_t *codes, int bytes) {
    UNROLL for (int i = 0; i < bytes; i += 64)
        _mm_prefetch((const char *)codes + AHEAD + i, _MM_HINT_T1);
}

/* As `portable`, expanded for each format. A group's codes are unpacked once and meet one token
 * after the other. All pieces of a tile go side by side, since processors multiply twice as fast
 * as they can load activations. */
INLINE void multiply(const Weight *w, int64_t tile, const Input *in, int tokens,
                     float sums[][ROWS], int bits, int parts, int two_level, int has_min) {
    int64_t groups = up(w->inputs, GROUP), blocks = up(groups, BLOCK);
    const uint8_t *codes = w->codes + tile * groups * bits * WORD;
    int64_t row = tile * groups * ROWS, block = tile * blocks * ROWS;
    Floats super[PIECES], super_min[PIECES];
    EACH_PIECE super[p] = super_min[p] = V(setzero_ps)();
    memset(sums, 0, (size_t)tokens * sizeof *sums);
    for (int64_t g = 0; g < groups; g++, codes += bits * WORD, row += ROWS) {
        fetch_ahead(codes, bits * WORD);
        if (two_level && g % BLOCK == 0) {
            EACH_PIECE super[p] = halves(w->super_scales + block + p * LANES, w->brain);
            if (has_min)
                EACH_PIECE super_min[p] = halves(w->super_mins + block + p * LANES, w->brain);
            block += ROWS;
        }
        Ints u[QUADS][PIECES];
        Floats scale[2][PIECES], min[PIECES];
        /* Piece by piece: in the order of addresses, 8 bits were slower by up to a half. */
        EACH_PIECE UNROLL for (int quad = 0; quad < QUADS; quad++)
            u[quad][p] = unpacked(codes + p * LANES * 4, bits, quad);
        UNROLL for (int part = 0; part < parts; part++)
            EACH_PIECE scale[part][p] =
                headers(w->scales, row * parts + part * ROWS + p * LANES, super[p], two_level,
                        w->brain);
        if (has_min)
            EACH_PIECE min[p] =
                headers(w->mins, row + p * LANES, super_min[p], two_level, w->brain);
        for (int t = 0; t < tokens; t++, in++) {
            Floats scaled[PIECES];
            UNROLL for (int part = 0; part < parts; part++) {
                Ints dot[PIECES];
                int from_zero = has_min || (SIGNED_BYTES && bits == 8);
                EACH_PIECE dot[p] = V(set1_epi32)(from_zero ? 0 : in->start[part]);
                UNROLL for (int i = 0; i < QUADS / parts; i++) {
                    int quad = part * QUADS / parts + i;
                    int32_t four;
                    memcpy(&four, in->q + quad * 4, sizeof four);
                    EACH_PIECE dot[p] = dot4(dot[p], u[quad][p], V(set1_epi32)(four), bits);
                }
                EACH_PIECE {
                    Floats product = V(cvtepi32_ps)(dot[p]);
                    scaled[p] = part ? V(fmadd_ps)(product, scale[part][p], scaled[p])
                                     : V(mul_ps)(product, scale[part][p]);
                }
            }
            EACH_PIECE {
                Floats sum = V(loadu_ps)(sums[t] + p * LANES);
                sum = V(fmadd_ps)(scaled[p], V(set1_ps)(in->scale), sum);
                if (has_min)
                    sum = V(fnmadd_ps)(min[p], V(set1_ps)(in->total), sum);
                V(storeu_ps)(sums[t] + p * LANES, sum);
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

/* Two products of bfloat16 added to each number, the second of a pair first. */
#if LANES == 16 && defined(__AVX512BF16__)
INLINE Floats dot2(Floats sum, Ints pair, Ints two) {
    return _mm512_dpbf16_ps(sum, (__m512bh)pair, (__m512bh)two);
}
#else
#define CAST(bits) ((Floats)(bits))

INLINE Floats upper(Ints pair) {
    return CAST(V(slli_epi32)(V(srli_epi32)(pair, 16), 16));
}

INLINE Floats lower(Ints pair) { return CAST(V(slli_epi32)(pair, 16)); }

INLINE Floats dot2(Floats sum, Ints pair, Ints two) {
    sum = V(fmadd_ps)(upper(pair), upper(two), sum);
    return V(fmadd_ps)(lower(pair), lower(two), sum);
}
#endif

/* As `portable_brain`; half a group's codes are in registers at a time. */
static void brain16(const Weight *w, int64_t tile, const Input *input, int tokens,
                    float sums[][ROWS]) {
    int64_t groups = up(w->inputs, GROUP);
    const uint8_t *codes = w->codes + tile * groups * 16 * WORD;
    memset(sums, 0, (size_t)tokens * sizeof *sums);
    for (int64_t half = 0; half < groups * 2; half++, codes += 8 * WORD) {
        const Input *in = input + half / 2 * tokens;
        fetch_ahead(codes, 8 * WORD);
        Ints pair[8][PIECES];
        EACH_PIECE UNROLL for (int i = 0; i < 8; i++)
            pair[i][p] = load(codes + i * WORD + p * LANES * 4);
        for (int t = 0; t < tokens; t++, in++) {
            Floats sum[PIECES];
            EACH_PIECE sum[p] = V(loadu_ps)(sums[t] + p * LANES);
            UNROLL for (int i = 0; i < 8; i++) {
                int32_t two;
                memcpy(&two, in->brain + half % 2 * 16 + i * 2, sizeof two);
                EACH_PIECE sum[p] = dot2(sum[p], pair[i][p], V(set1_epi32)(two));
            }
            EACH_PIECE V(storeu_ps)(sums[t] + p * LANES, sum[p]);
        }
    }
}
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
    if (w->bits == 8 && w->parts == 1 && w->zero == 128 && !blocks && !min) return flat8;
    if (w->bits == 16) return brain16;
#endif
    (void)w;
    return portable;
}

/* A call: threads take tokens to prepare, then tiles to multiply, until none are left. */

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
    int64_t next_token, prepared, next_tile;
} Call;

/* The first token of a run. */
INLINE int64_t run_start(const Call *call, int64_t run) {
    int64_t longer = call->tokens % call->runs;
    return run * (call->tokens / call->runs) + (run < longer ? run : longer);
}

INLINE int64_t run_of(const Call *call, int64_t token) {
    int64_t length = call->tokens / call->runs, longer = call->tokens % call->runs;
    int64_t rest = token - longer * (length + 1);
    return rest < 0 ? token / (length + 1) : longer + rest / length;
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
    int64_t token;
    while ((token = __atomic_fetch_add(&call->next_token, 1, __ATOMIC_RELAXED)) < call->tokens) {
        int64_t run = run_of(call, token), start = run_start(call, run);
        prepare(w, (const char *)call->x + (size_t)token * row_size, call->brain,
                call->input + start * groups + token - start, run_start(call, run + 1) - start);
        __atomic_fetch_add(&call->prepared, 1, __ATOMIC_RELEASE);
    }
    while (__atomic_load_n(&call->prepared, __ATOMIC_ACQUIRE) < call->tokens) {
    }
    int64_t first;
    while ((first = __atomic_fetch_add(&call->next_tile, call->chunk, __ATOMIC_RELAXED)) < tiles) {
        int64_t last = first + call->chunk < tiles ? first + call->chunk : tiles;
        for (int64_t tile = first; tile < last; tile++)
            for (int64_t run = 0; run < call->runs; run++) {
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

int stet_packed_is_fast(void) { return FAST; }

/* The values of one row of the weight, as an embedding gives them. */
static void row_values(const Weight *w, int64_t row, float *values) {
    int64_t groups = up(w->inputs, GROUP), blocks = up(groups, BLOCK);
    int64_t tile = row / ROWS, place = row % ROWS;
    for (int64_t i = 0; i < w->inputs; i++) {
        int64_t group = tile * groups + i / GROUP, in = i % GROUP;
        const uint8_t *codes = w->codes + group * w->bits * WORD;
        if (w->bits == 16) {
            uint16_t brain;
            memcpy(&brain, codes + in / 2 * WORD + place * 4 + in % 2 * 2, sizeof brain);
            values[i] = widened(brain, 1);
            continue;
        }
        int64_t part = in / (GROUP / w->parts), block = (tile * blocks + i / GROUP / BLOCK) * ROWS + place;
        int32_t whole = code(codes, w->bits, (int)in / 4, (int)place * 4 + (int)in % 4) - w->zero;
        float scale = header(w->scales, w->super_scales, w->brain,
                             (group * w->parts + part) * ROWS + place, block);
        values[i] = (float)whole * scale;
        if (w->mins)
            values[i] -= header(w->mins, w->super_mins, w->brain, group * ROWS + place, block);
    }
}

/* y[count, inputs] = the rows of the weight that `ids` names, in bfloat16 or float32; returns 0, or
 * 1 where there is no such row. `memory` has room for a row of floats. */
int stet_packed_rows(const Weight *w, const int64_t *ids, int64_t count, void *y, float *memory,
                     int brain) {
    for (int64_t n = 0; n < count; n++) {
        if (ids[n] < 0 || ids[n] >= w->rows)
            return 1;
        float *values = brain ? memory : (float *)y + n * w->inputs;
        row_values(w, ids[n], values);
        for (int64_t i = 0; brain && i < w->inputs; i++)
            ((uint16_t *)y)[n * w->inputs + i] = brain_of(values[i]);
    }
    return 0;
}

/* y[tokens, rows] = x[tokens, inputs] times the weight, plus its bias; returns 0, or 1 where there
 * is no memory. */
int stet_packed_matmul(const Weight *w, const void *x, void *y, int64_t tokens, int brain,
                       int threads, int fast) {
    int64_t tiles = up(w->rows, ROWS);
    if (tokens == 0)
        return 0;
    Input *memory = malloc(sizeof(Input) * (size_t)(tokens * up(w->inputs, GROUP)));
    if (!memory)
        return 1;
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
    if (parallel && threads > 1)
        parallel(work, &call, (unsigned)threads, 0);
    else
        work(&call);
    free(memory);
    return 0;
}
