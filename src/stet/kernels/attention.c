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

#include <stdlib.h>

#include "lanes.h"

#define BLOCK 256
#define PAGE 16 /* slots that are neighbours in the cache */
#define MOST 4 /* queries that are multiplied together */

/* A pass: the rows of the cache it concerns, and the tokens that are new in each. */
typedef struct {
    const int64_t *pages;  /* [batch, reach] pages of the cache: slot s of a row is in its s / PAGE-th */
    const int64_t *starts; /* [batch] positions of the first new tokens */
    const int64_t *counts; /* [batch] new tokens; the others up to `width` are pads */
    int64_t batch, width, reach;
} Pass;

/* One layer of it. Strides count numbers, which are floats, or bfloat16 if `brain`. */
typedef struct {
    const void *query;  /* [batch, width, heads, size] by its strides */
    const void *keys;   /* [pages, PAGE, key heads, size], contiguous */
    const void *values; /* likewise */
    void *out;          /* [batch, width, heads, size], contiguous */
    int64_t query_row, query_token, query_head;
    int64_t heads, key_heads, size, window; /* window: 0 for none */
    float scale, softcap;                   /* softcap: 0 for none */
    int32_t brain;
} Layer;

/* One key head of a row of the cache: its numbers of slot 0 of page 0, and its pages. */
typedef struct {
    const void *keys, *values;
    const int64_t *pages;
    int64_t stride; /* numbers from slot to slot */
} Row;

/* Where a slot's numbers begin. */
INLINE int64_t place(const Row *row, int64_t slot) {
    return (row->pages[slot / PAGE] * PAGE + slot % PAGE) * row->stride;
}

/* What is kept of neighbouring queries from block to block. */
typedef struct {
    const int64_t *own; /* their positions */
    const float *query; /* [count, size], scaled */
    float *sums;        /* [count, size], of values */
    float *most;        /* the largest scores */
    float *total;       /* sums of weights */
} State;

/* The scores of `count` queries (1, 2 or 4) for the slots of a block from `first` up to `stop`; up
 * to the next sixteenth slot the others are -inf. Sixteen scores are computed together. */
INLINE void score(const Layer *layer, const float *queries, int count, const Row *row,
                  int64_t first, int64_t stop, float scores[MOST][BLOCK], int brain) {
    int64_t size = layer->size;
    int slots = LANES / count;
    for (int64_t s = first; s < stop; s += slots) {
        Floats sums[LANES] = {{0}};
        int64_t at[LANES]; /* beyond the end the last slot is read again; all are in one page */
        int64_t begin = place(row, s);
        for (int k = 0; k < slots; k++)
            at[k] = begin + (s + k < stop ? k : stop - 1 - s) * row->stride;
        for (int64_t i = 0; i < size; i += LANES) {
            Floats query[MOST];
            for (int q = 0; q < count; q++)
                query[q] = load(queries, q * size + i, 0);
            for (int k = 0; k < slots; k++) {
                Floats key = load(row->keys, at[k] + i, brain);
                for (int q = 0; q < count; q++)
                    sums[q * slots + k] += query[q] * key;
            }
        }
        float found[LANES];
        store(found, 0, sums_of(sums), 0);
        for (int q = 0; q < count; q++)
            memcpy(scores[q] + (s - first), found + q * slots, sizeof(float) * (size_t)slots);
    }
    for (int64_t s = stop - first; s % LANES; s++)
        for (int q = 0; q < count; q++)
            scores[q][s] = -INFINITY;
}

/* Add `pieces` times 16 numbers of the values from the `i`th on, weighted, to what queries have. */
INLINE void add_pieces(const Layer *layer, const Row *row, int count, int pieces, int64_t i,
                       int64_t first, int64_t stop, float weights[MOST][BLOCK], float *sums,
                       int brain) {
    int64_t size = layer->size;
    Floats held[MOST][8];
    for (int q = 0; q < count; q++)
        for (int piece = 0; piece < pieces; piece++)
            held[q][piece] = load(sums, q * size + i + piece * LANES, 0);
    for (int64_t s = first; s < stop; s++) {
        int64_t at = place(row, s) + i;
        for (int piece = 0; piece < pieces; piece++) {
            Floats value = load(row->values, at + piece * LANES, brain);
            for (int q = 0; q < count; q++)
                held[q][piece] += weights[q][s - first] * value;
        }
    }
    for (int q = 0; q < count; q++)
        for (int piece = 0; piece < pieces; piece++)
            store(sums, q * size + i + piece * LANES, held[q][piece], 0);
}

INLINE void add_values(const Layer *layer, const Row *row, int count, int64_t first,
                       int64_t stop, float weights[MOST][BLOCK], float *sums, int brain) {
    int64_t i = 0;
#define PIECES(many)                                                                              \
    for (; i + many * LANES <= layer->size; i += many * LANES)                                    \
        add_pieces(layer, row, count, many, i, first, stop, weights, sums, brain);
    if (count == 1)
        PIECES(8)
    PIECES(4)
    PIECES(2)
    PIECES(1)
}

/* What `count` queries (1, 2 or 4) see of a block. */
INLINE void attend_block(const Layer *layer, State state, int count, const Row *row,
                         int64_t first, int brain) {
    int64_t size = layer->size;
    int64_t last = state.own[count - 1] + 1, stop = last < first + BLOCK ? last : first + BLOCK;
    if (stop <= first)
        return;
    int used = (int)(stop - first + LANES - 1) / LANES * LANES;
    float scores[MOST][BLOCK];
    score(layer, state.query, count, row, first, stop, scores, brain);
    for (int q = 0; q < count; q++) {
        int64_t own = state.own[q];
        if (layer->softcap != 0)
            for (int s = 0; s < used; s++)
                scores[q][s] = layer->softcap * tanhf(scores[q][s] / layer->softcap);
        for (int64_t s = own + 1 > first ? own + 1 - first : 0; s < used; s++)
            scores[q][s] = -INFINITY;
        if (layer->window)
            for (int64_t s = 0; s < used && first + s <= own - layer->window; s++)
                scores[q][s] = -INFINITY;
        Floats largest = load(scores[q], 0, 0);
        for (int s = LANES; s < used; s += LANES) {
            Floats more = load(scores[q], s, 0);
            largest = choose(largest > more, largest, more);
        }
        float top = most_of(largest), before = state.most[q];
        top = top > before ? top : before;
        Floats added = {0};
        for (int s = 0; s < used; s += LANES) {
            Floats weight = exponential(load(scores[q], s, 0) - top);
            added += weight;
            store(scores[q], s, weight, 0);
        }
        state.most[q] = top;
        if (top != before) {
            float kept = exponential((Floats){0} + (before - top))[0];
            state.total[q] *= kept;
            for (int64_t i = 0; i < size; i += LANES)
                store(state.sums, q * size + i, load(state.sums, q * size + i, 0) * kept, 0);
        }
        state.total[q] += sum_of(added);
    }
    add_values(layer, row, count, first, stop, scores, state.sums, brain);
}

/* One row of the pass and one key head, with all of its queries. */
INLINE void attend(const Pass *pass, const Layer *layer, int64_t b, int64_t head, float *memory,
                   int brain) {
    int64_t size = layer->size, groups = layer->heads / layer->key_heads;
    int64_t count = pass->counts[b], start = pass->starts[b], width = brain ? 2 : 4;
    int64_t queries = groups * count;
    Row row = {(const char *)layer->keys + head * size * width,
               (const char *)layer->values + head * size * width, pass->pages + b * pass->reach,
               layer->key_heads * size};
    float *query = memory, *sums = query + queries * size;
    float *most = sums + queries * size, *total = most + queries;
    int64_t *own = (int64_t *)(total + queries);
    memset(memory, 0, sizeof(float) * (size_t)(2 * queries * (size + 1)));
    /* Query n is of token n / groups: neighbours see nearly the same slots. */
    for (int64_t n = 0; n < queries; n++) {
        int64_t from = b * layer->query_row + n / groups * layer->query_token +
                       (head * groups + n % groups) * layer->query_head;
        for (int64_t i = 0; i < size; i += LANES)
            store(query, n * size + i, load(layer->query, from + i, brain) * layer->scale, 0);
        most[n] = -1e30f;
        own[n] = start + n / groups;
    }

    int64_t low = layer->window && start >= layer->window ? start - layer->window + 1 : 0;
    for (int64_t first = low / BLOCK * BLOCK; first < start + count; first += BLOCK) {
        int64_t n = 0;
#define STEP(many)                                                                                \
    for (; n + many <= queries; n += many)                                                        \
        attend_block(layer, (State){own + n, query + n * size, sums + n * size, most + n, total + n}, \
                     many, &row, first, brain);
        STEP(4)
        STEP(2)
        STEP(1)
    }

    /* What pads get must at least be numbers: whether all are finite is looked at later. */
    for (int64_t t = count; t < pass->width; t++) {
        int64_t to = ((b * pass->width + t) * layer->heads + head * groups) * size;
        memset((char *)layer->out + to * width, 0, (size_t)(groups * size * width));
    }
    for (int64_t n = 0; n < queries; n++) {
        int64_t to = ((b * pass->width + n / groups) * layer->heads + head * groups + n % groups) * size;
        for (int64_t i = 0; i < size; i += LANES)
            store(layer->out, to + i, load(sums, n * size + i, 0) / total[n], brain);
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
    int64_t queries = layer->heads / layer->key_heads * pass->width;
    size_t floats = sizeof(float) * (size_t)(2 * queries * (layer->size + 1));
    float *memory = malloc(floats + sizeof(int64_t) * (size_t)queries);
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
