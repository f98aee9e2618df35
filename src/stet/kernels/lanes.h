/* Sixteen numbers at a time, by the compiler's own vectors; for the kernels that are written with
 * them. What is computed is the same bits on every processor that rounds as IEEE 754 says.
 */

#include <math.h>
#include <stdint.h>
#include <string.h>

#define LANES 16
#define INLINE static inline __attribute__((always_inline))

typedef float Floats __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES), aligned(2)));

INLINE Floats load(const void *from, int64_t at, int brain) {
    Floats found;
    if (!brain) {
        memcpy(&found, (const float *)from + at, sizeof found);
        return found;
    }
    Halves halves;
    memcpy(&halves, (const uint16_t *)from + at, sizeof halves);
    Words words = __builtin_convertvector(halves, Words) << 16;
    memcpy(&found, &words, sizeof found);
    return found;
}

/* Where `mask` is set the numbers of `yes`, elsewhere those of `no`. */
INLINE Floats choose(Ints mask, Floats yes, Floats no) {
    Ints first, second, mixed;
    memcpy(&first, &yes, sizeof first);
    memcpy(&second, &no, sizeof second);
    mixed = (first & mask) | (second & ~mask);
    Floats found;
    memcpy(&found, &mixed, sizeof found);
    return found;
}

INLINE float sum_of(Floats values) {
    float parts[LANES];
    memcpy(parts, &values, sizeof parts);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++)
            parts[i] += parts[i + half];
    return parts[0];
}

INLINE float most_of(Floats values) {
    float parts[LANES];
    memcpy(parts, &values, sizeof parts);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++)
            parts[i] = parts[i] > parts[i + half] ? parts[i] : parts[i + half];
    return parts[0];
}

/* e^x for x <= 0, exactly 1 at 0 and 0 far below it. NaN stays NaN. */
INLINE Floats exponential(Floats x) {
    const float magic = 12582912.0f; /* adding it rounds to a whole number */
    Ints far = x < -87.0f;
    Floats bounded = choose(far, (Floats){0} - 87.0f, x);
    Floats whole = (bounded * 1.44269504f + magic) - magic;
    Floats rest = bounded - whole * 0.693359375f + whole * 2.12194440e-4f;
    Floats series = (Floats){0} + 1.9875691500e-4f;
    series = series * rest + 1.3981999507e-3f;
    series = series * rest + 8.3334519073e-3f;
    series = series * rest + 4.1665795894e-2f;
    series = series * rest + 1.6666665459e-1f;
    series = series * rest + 5.0000001201e-1f;
    series = series * (rest * rest) + rest + 1.0f;
    Ints power = (__builtin_convertvector(whole, Ints) + 127) << 23;
    Floats scale;
    memcpy(&scale, &power, sizeof scale);
    return choose(far, (Floats){0}, series * scale);
}

/* Sixteen numbers as floats, or rounded to bfloat16 if `brain`. */
INLINE void store(void *to, int64_t at, Floats values, int brain) {
    if (!brain) {
        memcpy((float *)to + at, &values, sizeof values);
        return;
    }
    Words bits;
    memcpy(&bits, &values, sizeof bits);
    Words rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    Words quiet = bits >> 16 | 0x40; /* still no number */
    Words is_none = (Words)((bits & 0x7fffffff) > 0x7f800000);
    Halves halves = __builtin_convertvector((quiet & is_none) | (rounded & ~is_none), Halves);
    memcpy((uint16_t *)to + at, &halves, sizeof halves);
}

/* Sixteen floats rounded to bfloat16. */
INLINE Floats rounded(Floats values) {
    uint16_t halves[LANES];
    store(halves, 0, values, 1);
    return load(halves, 0, 1);
}

#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (Ints){__VA_ARGS__})
#endif

/* The sums of sixteen vectors, each in the order of `sum_of`. */
INLINE Floats sums_of(const Floats from[LANES]) {
    Floats half[8], quarter[4], eighth[2];
    for (int i = 0; i < 8; i++)
        half[i] = SHUFFLE(from[2 * i], from[2 * i + 1], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20,
                          21, 22, 23) +
                  SHUFFLE(from[2 * i], from[2 * i + 1], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26,
                          27, 28, 29, 30, 31);
    for (int i = 0; i < 4; i++)
        quarter[i] = SHUFFLE(half[2 * i], half[2 * i + 1], 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19,
                             24, 25, 26, 27) +
                     SHUFFLE(half[2 * i], half[2 * i + 1], 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22,
                             23, 28, 29, 30, 31);
    for (int i = 0; i < 2; i++)
        eighth[i] = SHUFFLE(quarter[2 * i], quarter[2 * i + 1], 0, 1, 4, 5, 8, 9, 12, 13, 16, 17,
                            20, 21, 24, 25, 28, 29) +
                    SHUFFLE(quarter[2 * i], quarter[2 * i + 1], 2, 3, 6, 7, 10, 11, 14, 15, 18, 19,
                            22, 23, 26, 27, 30, 31);
    return SHUFFLE(eighth[0], eighth[1], 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28,
                   30) +
           SHUFFLE(eighth[0], eighth[1], 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29,
                   31);
}
