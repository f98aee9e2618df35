/* Vectors scaled to a root mean square of one, then by a weight.
 *
 * A vector's result is the same bits whatever others are in the call.
 */

#include "lanes.h"

typedef struct {
    const void *x;       /* [vectors, size], floats, or bfloat16 if `brain` */
    const float *weight; /* [size] */
    void *y;             /* [vectors, size] of the same type */
    int64_t vectors, size;
    float epsilon;
    int32_t brain;
    int32_t rounds; /* numbers are rounded to bfloat16 before they are multiplied by the weight */
} Norm;

INLINE void scale(const Norm *norm, int64_t vector, int brain) {
    int64_t size = norm->size, from = vector * size, i = 0;
    Floats squares[4] = {{0}};
    for (; i + 4 * LANES <= size; i += 4 * LANES)
        for (int piece = 0; piece < 4; piece++) {
            Floats x = load(norm->x, from + i + piece * LANES, brain);
            squares[piece] += x * x;
        }
    for (; i < size; i += LANES) {
        Floats x = load(norm->x, from + i, brain);
        squares[0] += x * x;
    }
    float mean = sum_of((squares[0] + squares[1]) + (squares[2] + squares[3])) / (float)size;
    float length = sqrtf(mean + norm->epsilon);
    for (i = 0; i < size; i += LANES) {
        Floats scaled = load(norm->x, from + i, brain) / length;
        if (norm->rounds && brain)
            scaled = rounded(scaled);
        store(norm->y, from + i, scaled * load(norm->weight, i, 0), brain);
    }
}

void stet_norm(const Norm *norm) {
    for (int64_t vector = 0; vector < norm->vectors; vector++)
        norm->brain ? scale(norm, vector, 1) : scale(norm, vector, 0);
}
