/* Attention of a few new tokens to a cache of keys and values.
 *
 * For each query q at position p, over the slots s of its row with p - window < s <= p:
 *
 *     y = sum of softmax(scale * q . key[s]) * value[s]
 *
 * Slots are taken in blocks of 256 from slot 0 on, with the running maximum and sum of the softmax
 * kept from block to block, and in the same order for every query. So the result of a query does
 * not depend on how many others are in the call, on the rows beside its own, or on threads: what is
 * beyond its position adds exact zeros.
 */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 256
#define LANES 16
#define QUERIES 4 /* that are multiplied together */
#define SLOTS 4   /* likewise */
#define INLINE static inline __attribute__((always_inline))

typedef float Floats __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES), aligned(2)));

/* A pass: the rows of the cache it concerns, and the tokens that are new in each. */
typedef struct {
    const int64_t *rows;   /* [batch] rows of the cache */
    const int64_t *starts; /* [batch] positions of the first new tokens */
    const int64_t *counts; /* [batch] new tokens; the others up to `width` are pads */
    int64_t batch, width;
} Pass;

/* One layer of it. Strides count numbers, which are floats, or bfloat16 if `brain`. */
typedef struct {
    const void *query;  /* [batch, width, heads, size] by its strides */
    const void *keys;   /* [rows, key heads, slots, size] by theirs */
    const void *values; /* [rows, key heads, slots, size] by those of the keys */
    void *out;          /* [batch, width, heads, size], contiguous */
    int64_t query_row, query_token, query_head;
    int64_t cache_row, cache_head;
    int64_t heads, key_heads, size, window; /* window: 0 for none */
    float scale, softcap;                   /* softcap: 0 for none */
    int32_t brain;
} Layer;

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

INLINE uint16_t brain_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40); /* still no number */
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
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

/* The scores of 4 queries for one block of slots, from `first` up to `stop`; the others are -inf. */
INLINE void score(const Layer *layer, const float *queries, const void *keys, int64_t first,
                  int64_t stop, float scores[QUERIES][BLOCK], int brain) {
    int64_t size = layer->size;
    for (int64_t s = 0; s < BLOCK; s += SLOTS) {
        if (first + s >= stop) {
            for (int q = 0; q < QUERIES; q++)
                for (int64_t rest = s; rest < BLOCK; rest++)
                    scores[q][rest] = -INFINITY;
            return;
        }
        Floats sums[QUERIES][SLOTS] = {{{0}}};
        int64_t at[SLOTS]; /* beyond the end the last slot is read again */
        for (int k = 0; k < SLOTS; k++)
            at[k] = (first + s + k < stop ? first + s + k : stop - 1) * size;
        for (int64_t i = 0; i < size; i += LANES) {
            Floats key[SLOTS];
            for (int k = 0; k < SLOTS; k++)
                key[k] = load(keys, at[k] + i, brain);
            for (int q = 0; q < QUERIES; q++) {
                Floats query = load(queries, q * size + i, 0);
                for (int k = 0; k < SLOTS; k++)
                    sums[q][k] += query * key[k];
            }
        }
        for (int q = 0; q < QUERIES; q++)
            for (int k = 0; k < SLOTS; k++)
                scores[q][s + k] = first + s + k < stop ? sum_of(sums[q][k]) : -INFINITY;
    }
}

/* Add the values of a block, weighted, to what 4 queries have so far. */
INLINE void add_values(const Layer *layer, const void *values, int64_t first, int64_t stop,
                       float weights[QUERIES][BLOCK], float *sums, int brain) {
    int64_t size = layer->size, count = stop - first < BLOCK ? stop - first : BLOCK;
    for (int64_t i = 0; i < size; i += 2 * LANES) {
        int two = i + LANES < size;
        Floats held[QUERIES][2];
        for (int q = 0; q < QUERIES; q++)
            for (int half = 0; half <= two; half++)
                held[q][half] = load(sums, q * size + i + half * LANES, 0);
        for (int64_t s = 0; s < count; s++)
            for (int half = 0; half <= two; half++) {
                Floats value = load(values, (first + s) * size + i + half * LANES, brain);
                for (int q = 0; q < QUERIES; q++)
                    held[q][half] += weights[q][s] * value;
            }
        for (int q = 0; q < QUERIES; q++)
            for (int half = 0; half <= two; half++)
                memcpy(sums + q * size + i + half * LANES, &held[q][half], sizeof(Floats));
    }
}

/* One row of the pass and one key head, with all of its queries. */
INLINE void attend(const Pass *pass, const Layer *layer, int64_t b, int64_t head, float *memory,
                   int brain) {
    int64_t size = layer->size, groups = layer->heads / layer->key_heads;
    int64_t count = pass->counts[b], start = pass->starts[b], width = brain ? 2 : 4;
    int64_t queries = groups * count, padded = (queries + QUERIES - 1) / QUERIES * QUERIES;
    int64_t place = pass->rows[b] * layer->cache_row + head * layer->cache_head;
    const void *keys = (const char *)layer->keys + place * width;
    const void *values = (const char *)layer->values + place * width;
    float *query = memory, *sums = query + padded * size;
    float *most = sums + padded * size, *total = most + padded;
    memset(memory, 0, sizeof(float) * (size_t)(2 * padded * size + 2 * padded));
    /* Query n is of token n / groups: neighbours see nearly the same slots. */
    for (int64_t n = 0; n < queries; n++) {
        int64_t from = b * layer->query_row + n / groups * layer->query_token +
                       (head * groups + n % groups) * layer->query_head;
        for (int64_t i = 0; i < size; i += LANES) {
            Floats scaled = load(layer->query, from + i, brain) * layer->scale;
            memcpy(query + n * size + i, &scaled, sizeof scaled);
        }
    }
    for (int64_t n = 0; n < padded; n++)
        most[n] = -1e30f;

    int64_t low = layer->window && start >= layer->window ? start - layer->window + 1 : 0;
    for (int64_t first = low / BLOCK * BLOCK; first < start + count; first += BLOCK) {
        for (int64_t n = 0; n < queries; n += QUERIES) {
            int64_t last = n + QUERIES < queries ? n + QUERIES - 1 : queries - 1;
            int64_t stop = start + last / groups + 1;
            if (stop <= first)
                continue;
            float scores[QUERIES][BLOCK];
            score(layer, query + n * size, keys, first, stop, scores, brain);
            for (int q = 0; q < QUERIES; q++) {
                int64_t own = n + q < queries ? start + (n + q) / groups : first;
                if (layer->softcap != 0)
                    for (int s = 0; s < BLOCK; s++)
                        scores[q][s] = layer->softcap * tanhf(scores[q][s] / layer->softcap);
                for (int64_t s = own + 1 > first ? own + 1 - first : 0; s < BLOCK; s++)
                    scores[q][s] = -INFINITY;
                if (layer->window)
                    for (int64_t s = 0; s < BLOCK && first + s <= own - layer->window; s++)
                        scores[q][s] = -INFINITY;
                Floats largest = load(scores[q], 0, 0);
                for (int s = LANES; s < BLOCK; s += LANES) {
                    Floats more = load(scores[q], s, 0);
                    largest = choose(largest > more, largest, more);
                }
                float top = most_of(largest), before = most[n + q];
                top = top > before ? top : before;
                Floats added = {0};
                for (int s = 0; s < BLOCK; s += LANES) {
                    Floats weight = exponential(load(scores[q], s, 0) - top);
                    added += weight;
                    memcpy(scores[q] + s, &weight, sizeof weight);
                }
                float kept = exponential((Floats){0} + (before - top))[0];
                most[n + q] = top;
                total[n + q] = total[n + q] * kept + sum_of(added);
                for (int64_t i = 0; i < size; i += LANES) {
                    Floats held = load(sums, (n + q) * size + i, 0) * kept;
                    memcpy(sums + (n + q) * size + i, &held, sizeof held);
                }
            }
            add_values(layer, values, first, stop, scores, sums + n * size, brain);
        }
    }

    /* What pads get must at least be numbers: whether all are finite is looked at later. */
    for (int64_t t = count; t < pass->width; t++) {
        int64_t to = ((b * pass->width + t) * layer->heads + head * groups) * size;
        memset((char *)layer->out + to * width, 0, (size_t)(groups * size * width));
    }
    for (int64_t n = 0; n < queries; n++) {
        int64_t to = ((b * pass->width + n / groups) * layer->heads + head * groups + n % groups) * size;
        for (int64_t i = 0; i < size; i++) {
            float value = sums[n * size + i] / total[n];
            if (brain)
                ((uint16_t *)layer->out)[to + i] = brain_of(value);
            else
                ((float *)layer->out)[to + i] = value;
        }
    }
}

typedef struct {
    const Pass *pass;
    const Layer *layer;
    int64_t next;
    int32_t failed;
} Call;

static void work(void *given) {
    Call *call = given;
    const Pass *pass = call->pass;
    const Layer *layer = call->layer;
    int64_t queries = layer->heads / layer->key_heads * pass->width + QUERIES;
    float *memory = malloc(sizeof(float) * (size_t)(2 * queries * (layer->size + 1)));
    if (!memory) {
        call->failed = 1;
        return;
    }
    for (;;) {
        int64_t place = __atomic_fetch_add(&call->next, 1, __ATOMIC_RELAXED);
        if (place >= pass->batch * layer->key_heads)
            break;
        int64_t b = place / layer->key_heads, head = place % layer->key_heads;
        if (layer->brain)
            attend(pass, layer, b, head, memory, 1);
        else
            attend(pass, layer, b, head, memory, 0);
    }
    free(memory);
}

/* OpenMP's entry for a parallel region, of the library that torch has loaded. */
typedef void Parallel(void (*)(void *), void *, unsigned, unsigned);
static Parallel *parallel;

void stet_attention_threads(Parallel *entry) { parallel = entry; }

/* Attend in one layer; returns 0, or 1 where there was no memory. */
int stet_attend(const Pass *pass, const Layer *layer, int threads) {
    Call call = {.pass = pass, .layer = layer};
    int64_t tasks = pass->batch * layer->key_heads;
    if (threads > tasks)
        threads = (int)tasks;
    if (parallel && threads > 1)
        parallel(work, &call, (unsigned)threads, 0);
    else
        work(&call);
    return call.failed;
}
