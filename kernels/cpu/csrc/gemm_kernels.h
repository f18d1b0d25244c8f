// The matrix product: register tiles of kTileRows x NR outputs, one K block at a time.
//
// Order of additions. Every output is: per K block one chain of multiply-adds over k = 0, 1, 2, ... in one
// accumulator, then the block's sum is added to the total, blocks in order. Neither the number of rows nor the split
// over threads enters, so a row's result has the same bits alone and in any company. Blocks also keep fp32 rounding
// errors small: the sum of a block does not see the size of the total.
//
// int16 cannot overflow. Within a block the integers of an activation row and of a weight row have Euclidean norms of at
// most kI16Norm each (quantize_row_block and quantize_i16 choose their scales so, the latter checks it), so each partial
// sum of products, in any order and grouping, is by Cauchy and Schwarz at most kI16Norm^2 < 2^31 in magnitude. A product
// pair (vpmaddwd) is such a partial sum.
// int8 cannot either: 512 * 255 * 127 < 2^24, plus the offset of the same size.
// bf16: of each word the second values are multiplied and added first, then the first ones (vdpbf16ps). A product of two
// bf16 is exact in fp32, so fused or not, each addition rounds once: equal bits everywhere, but for AMX (amx_products.h)
// and subnormal numbers.
#pragma once

struct TileOut {
    const char* next[2];  // what is needed soon (weights, activations), brought near while this tile computes
    int next_lines[2];    // cache lines for every 8 words
    float* c;
    int c_stride;
    bool first;             // first K block: store instead of add
    const float* a_scales;  // one a row
    const float* w_scales;  // one a column
    const int32_t* offsets;
    int64_t a_scales_stride, w_scales_stride;  // to the block's next scales
};

struct F32 {
    using Acc = Vf;
    static constexpr Kind kind = Kind::f32;
    INLINE Acc word(const uint32_t* p) {
        float f;
        __builtin_memcpy(&f, p, 4);
        return splat(f);
    }
    INLINE Acc start(const TileOut&, int) { return splat(0.0f); }
    INLINE Acc dot(Acc c, Acc a, Acc b) { return c + a * b; }
    INLINE Vf finish(Acc acc, const TileOut&, int, int) { return acc; }
};
struct I16 {
    using Acc = Vi;
    static constexpr Kind kind = Kind::i16;
    INLINE Acc word(const uint32_t* p) { return splati((int32_t)*p); }
    INLINE Acc start(const TileOut&, int) { return splati(0); }
    INLINE Acc dot(Acc c, Acc a, Acc b) { return dot_i16(c, a, b); }
    INLINE Vf finish(Acc acc, const TileOut& o, int m, int v) {
        return to_float(acc) * loadf(o.w_scales + v * W) * splat(o.a_scales[m]);
    }
};
struct I8 : I16 {
    static constexpr Kind kind = Kind::i8;
    INLINE Acc start(const TileOut& o, int v) { return kI8Signed ? splati(0) : load<Vi>(o.offsets + v * W); }
    INLINE Acc dot(Acc c, Acc a, Acc b) { return dot_i8(c, a, b); }
};
// Before it is added to the groups before it, with fused multiply-adds or without: equal bits everywhere.
INLINE Vf rounded(Vf y) {
    hide(y);
    return y;
}
struct I8R : I8 {
    static constexpr Kind kind = Kind::i8r;
    INLINE Acc start(const TileOut& o, int v) {
        return kI8Signed || !kRotatedOffset ? splati(0) : load<Vi>(o.offsets + v * W);
    }
    INLINE Acc dot(Acc c, Acc a, Acc b) { return kRotatedOffset ? dot_i8(c, a, b) : dot_signed_i8(c, a, b); }
    INLINE Vf finish(Acc acc, const TileOut& o, int m, int v) { return rounded(I8::finish(acc, o, m, v)); }
};
struct I16R : I16 {  // |sum| <= 128 * 127 * 32767 < 2^30
    static constexpr Kind kind = Kind::i16r;
    INLINE Vf finish(Acc acc, const TileOut& o, int m, int v) { return rounded(I16::finish(acc, o, m, v)); }
};
struct BF16 : F32 {
    static constexpr Kind kind = Kind::bf16;
    INLINE Acc dot(Acc c, Acc a, Acc b) { return dot_bf16(c, a, b); }
};

#if defined(ENGINE_NEON)
#include "neon_products.h"
#endif

// Words that share their scales.
template <class K, int M>
INLINE void tile_part(const uint32_t* __restrict a, const uint32_t* __restrict b, int words, const TileOut& o) {
    [[maybe_unused]] constexpr int a_stride = kBlockWords[(int)K::kind];
    typename K::Acc acc[M][kTileVectors];
#pragma GCC unroll 16
    for (int m = 0; m < M; m++)
#pragma GCC unroll 4
        for (int v = 0; v < kTileVectors; v++) acc[m][v] = K::start(o, v);
#if defined(ENGINE_NEON)
    neon_products<K, M>(a, b, words, o, acc);
#else
    const char *next_w = o.next[0], *next_a = o.next[1];
    auto step = [&](int k) __attribute__((always_inline)) {
        typename K::Acc weight[kTileVectors];
#pragma GCC unroll 4
        for (int v = 0; v < kTileVectors; v++) weight[v] = load<typename K::Acc>(b + (k * kTileVectors + v) * W);
#pragma GCC unroll 16
        for (int m = 0; m < M; m++) {
            const typename K::Acc x = K::word(a + m * a_stride + k);
#pragma GCC unroll 4
            for (int v = 0; v < kTileVectors; v++) acc[m][v] = K::dot(acc[m][v], x, weight[v]);
        }
    };
    int k = 0;
    for (; k + 8 <= words; k += 8) {
        for (int i = 0; i < o.next_lines[0]; i++, next_w += 64) __builtin_prefetch(next_w, 0, 2);
        for (int i = 0; i < o.next_lines[1]; i++, next_a += 64) __builtin_prefetch(next_a, 0, 2);
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) step(k + i);
    }
    if constexpr (kScaleWords[(int)K::kind] == kBlockWords[(int)K::kind])  // else whole eights
        for (; k < words; k++) step(k);
#endif
#pragma GCC unroll 16
    for (int m = 0; m < M; m++)
#pragma GCC unroll 4
        for (int v = 0; v < kTileVectors; v++) {
            float* c = o.c + m * o.c_stride + v * W;
            const Vf y = K::finish(acc[m][v], o, m, v);
            store(c, o.first ? y : loadf(c) + y);
        }
}

template <class K, int M>
static void tile(const uint32_t* __restrict a, const uint32_t* __restrict b, int words, const TileOut& o) {
    constexpr int part = kScaleWords[(int)K::kind];
    if constexpr (part == kBlockWords[(int)K::kind]) return tile_part<K, M>(a, b, words, o);
    TileOut p = o;
    for (int k = 0; k < words; k += part, a += part, b += (int64_t)part * NR) {
        tile_part<K, M>(a, b, part, p);
        p.first = false;
        p.a_scales += p.a_scales_stride;
        p.w_scales += p.w_scales_stride;
        p.offsets += p.w_scales_stride;
        for (int i = 0; i < 2; i++) p.next[i] += (int64_t)(part / 8) * p.next_lines[i] * 64;
    }
}

// One function for each number of rows, full tiles last.
template <class F, size_t N>
struct Table {
    F with_rows[N];
};

typedef void (*TileFn)(const uint32_t*, const uint32_t*, int, const TileOut&);

template <class K, size_t... I>
constexpr Table<TileFn, sizeof...(I)> tile_functions(std::index_sequence<I...>) {
    return {{tile<K, I + 1>...}};
}
template <class K>
static constexpr auto kTiles = tile_functions<K>(std::make_index_sequence<kTileRows>());

// Narrow weights: one panel block is widened into the cache and then used for all rows.
template <class K>
static const uint32_t* widened(const Weight& w, const unsigned char* data, int panel, int block, int words, float* to) {
    if (K::kind != Kind::bf16 && w.storage == Storage::q4) {
        expand_groups<K::kind>(w, (const uint32_t*)data, panel, block, words, (uint32_t*)to);
        return (const uint32_t*)to;
    }
    if (K::kind == Kind::i16r) {
        widen_i8((const int8_t*)data, words * NR * kWordElems[(int)K::kind], (int16_t*)to);
        return (const uint32_t*)to;
    }
    if (K::kind != Kind::f32 || w.storage == Storage::f32) return (const uint32_t*)data;
    if (w.storage == Storage::q8) {
        expand_bytes_in_groups(w, (const uint32_t*)data, panel, block, words, to);
        return (const uint32_t*)to;
    }
    widen((const uint16_t*)data, w.storage == Storage::bf16 ? Dtype::bf16 : Dtype::f16, (int64_t)words * NR, to);
    return (const uint32_t*)to;
}

template <class K>
struct Blocks {  // where the K blocks of a task's panels are
    static constexpr int words = kBlockWords[(int)K::kind], elems = words * kWordElems[(int)K::kind];
    const GemmTask& t;

    int panel(int i) const { return i < t.num_panels[0] ? t.panel0[0] + i : t.panel0[1] + i - t.num_panels[0]; }
    int num_panels() const { return t.num_panels[0] + (t.num_runs > 1 ? t.num_panels[1] : 0); }
    int words_in(int block) const {
        const int left = t.w->in - block * elems;
        return left < elems ? words_of(K::kind, left) : words;
    }
    int64_t word_bytes() const { return (int64_t)kWordElems[(int)K::kind] * kStorageBits[(int)t.w->storage] * NR / 8; }
    const unsigned char* data(int block, int i) const {
        return t.w->data + panel(i) * t.w->panel_bytes + (int64_t)block * words * word_bytes();
    }
};

// The next panel's weights, and this panel's share of the next block's activations, spread evenly over the tiles. The
// caches' own prefetchers see too many short streams here to be of use.
template <class K>
static void plan_prefetch(const GemmTask& t, const Blocks<K>& blocks, int block, int index, TileOut& o) {
    const bool last = index + 1 == blocks.num_panels(), last_block = block + 1 == t.w->blocks;
    const int tiles = (t.rows + kTileRows - 1) / kTileRows, steps = tiles * (blocks.words_in(block) / 8 + 1);
    if (tiles == 1 || (last && last_block)) return;
    const int next = last ? block + 1 : block;
    o.next[0] = (const char*)blocks.data(next, last ? 0 : index + 1);
    o.next_lines[0] = ((int)(blocks.words_in(next) * blocks.word_bytes() / 64) + steps - 1) / steps;
    if (last_block) return;
    const int64_t lines = (int64_t)t.rows * Blocks<K>::words / 16, share = lines / blocks.num_panels() + 1;
    const uint32_t* a = t.a->data + ((int64_t)(block + 1) * t.a->rows + t.row0) * Blocks<K>::words;
    o.next[1] = (const char*)a + index * share * 64;
    o.next_lines[1] = (int)((share + steps - 1) / steps);
}

#if defined(ENGINE_AMX)
#include "amx_products.h"

template <class K>
static void amx_panel(const uint32_t* a, const uint32_t* b, int words, int rows, TileOut o) {
    constexpr int a_stride = kBlockWords[(int)K::kind];
    alignas(64) float sums[kAmxRows * NR];
    for (; rows > 0; rows -= kAmxRows, a += kAmxRows * a_stride, o.c += (int64_t)kAmxRows * o.c_stride) {
        const int count = min_int(rows, kAmxRows);
        amx_products<K::kind == Kind::bf16>(a, a_stride, count, b, NR, words, sums);
        for (int m = 0; m < count; m++)
            for (int v = 0; v < kTileVectors; v++) {
                const typename K::Acc acc = load<typename K::Acc>(sums + m * NR + v * W) + K::start(o, v);
                float* c = o.c + (int64_t)m * o.c_stride + v * W;
                const Vf y = K::finish(acc, o, m, v);
                store(c, o.first ? y : loadf(c) + y);
            }
        if (is_scaled(K::kind)) o.a_scales += kAmxRows;
    }
}
#endif

template <class K>
static void gemm_panel(const GemmTask& t, const Blocks<K>& blocks, int block, int index) {
    constexpr int a_stride = Blocks<K>::words;
    const Activation& a = *t.a;
    const Weight& w = *t.w;
    const int words = blocks.words_in(block);
    const uint32_t* b = widened<K>(w, blocks.data(block, index), blocks.panel(index), block, words, t.expanded);
    const uint32_t* x = a.data + ((int64_t)block * a.rows + t.row0) * a_stride;
    TileOut o{{}, {}, t.c + index * NR, t.c_stride, block == 0, nullptr, nullptr, nullptr, a.rows, 0};
    if (is_scaled(K::kind)) {
        const int64_t first = (int64_t)block * scales_in_block(K::kind);
        const int64_t column = (first * w.panels + blocks.panel(index)) * NR;
        o.a_scales = a.scales + first * a.rows + t.row0;
        o.w_scales = w.scales + column;
        o.w_scales_stride = (int64_t)w.panels * NR;
        if (is_i8(K::kind)) o.offsets = w.offsets + column;
    }
    plan_prefetch(t, blocks, block, index, o);
#if defined(ENGINE_AMX)
    constexpr int part = kScaleWords[(int)K::kind];
    for (int k = 0; k < words; k += part) {
        amx_panel<K>(x + k, b + (int64_t)k * NR, min_int(part, words - k), t.rows, o);
        o.first = false;
        o.a_scales += o.a_scales_stride;
        o.w_scales += o.w_scales_stride;
        o.offsets += o.w_scales_stride;
    }
    return;
#endif
    for (int row = 0; row < t.rows; row += kTileRows) {
        const int rows = t.rows - row < kTileRows ? t.rows - row : kTileRows;
        kTiles<K>.with_rows[rows - 1](x, b, words, o);
        x += (int64_t)kTileRows * a_stride;
        o.c += (int64_t)kTileRows * t.c_stride;
        for (int i = 0; i < 2; i++) o.next[i] += (int64_t)(words / 8) * o.next_lines[i] * 64;
        if (is_scaled(K::kind)) o.a_scales += kTileRows;
    }
}

template <class K>
static void gemm_kind(const GemmTask& t) {
    const Blocks<K> blocks{t};
#if defined(ENGINE_AMX)
    amx_begin();
#endif
    for (int block = 0; block < t.w->blocks; block++)
        for (int i = 0; i < blocks.num_panels(); i++) gemm_panel<K>(t, blocks, block, i);
#if defined(ENGINE_AMX)
    amx_end();
#endif
}

// Multiply-adds whose operands never leave the registers; equal accumulators would be computed once, were they not hidden.
template <class K>
static double ceiling_kind(int64_t iterations) {
    TileOut o{};
    int32_t zeros[NR] = {};
    o.offsets = zeros;
    typename K::Acc acc[kTileRows][kTileVectors], w[kTileVectors];
    const uint32_t word = 0;
    typename K::Acc x = K::word(&word);
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; v++) {
        w[v] = K::word(&word);
        hide(w[v]);
    }
#pragma GCC unroll 16
    for (int m = 0; m < kTileRows; m++)
#pragma GCC unroll 4
        for (int v = 0; v < kTileVectors; v++) {
            acc[m][v] = K::start(o, v);
            hide(acc[m][v]);
        }
    for (int64_t i = 0; i < iterations; i++)
#pragma GCC unroll 16
        for (int m = 0; m < kTileRows; m++) {
            hide(x);
#if defined(ENGINE_NEON)
            neon_ceiling_step<K>(acc[m], x, w, m);
#else
#pragma GCC unroll 4
            for (int v = 0; v < kTileVectors; v++) acc[m][v] = K::dot(acc[m][v], x, w[v]);
#endif
        }
    double total = 0;
    for (int m = 0; m < kTileRows; m++)
        for (int v = 0; v < kTileVectors; v++) total += (double)acc[m][v][0];
    return total;
}
