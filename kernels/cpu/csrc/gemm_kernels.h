// The matrix product: register tiles of kTileRows x NR outputs, one K block at a time.
//
// Order of additions. Every output is: per K block one chain of multiply-adds over k = 0, 1, 2, ... in one
// accumulator, then the block's sum is added to the total, blocks in order. Neither the number of rows nor the split
// over threads enters, so a row's result has the same bits alone and in any company. Blocks also keep fp32 rounding
// errors small: the sum of a block does not see the size of the total.
//
// int16 cannot overflow. Within a block |activation| <= kI16Activation and, per weight row, the sum of |weight| <=
// kI16WeightSum (pack_i16_row makes and checks this), so each partial sum of products, in any order and grouping, is at
// most kI16Activation * kI16WeightSum < 2^31 in magnitude. A product pair (vpmaddwd) is such a partial sum.
// int8 cannot either: 512 * 255 * 127 < 2^24, plus the offset of the same size.
#pragma once

struct TileOut {
    float* c;
    int c_stride;
    bool first;             // first K block: store instead of add
    const float* a_scales;  // one a row
    const float* w_scales;  // one a column
    const int32_t* offsets;
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
    INLINE Acc start(const TileOut& o, int v) { return load<Vi>(o.offsets + v * W); }
    INLINE Acc dot(Acc c, Acc a, Acc b) { return dot_i8(c, a, b); }
};

template <class K, int M>
static void tile(const uint32_t* __restrict a, const uint32_t* __restrict b, int words, const TileOut& o) {
    constexpr int a_stride = kBlockWords[(int)K::kind];
    typename K::Acc acc[M][NV];
#pragma GCC unroll 16
    for (int m = 0; m < M; m++)
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++) acc[m][v] = K::start(o, v);
#pragma GCC unroll 4
    for (int k = 0; k < words; k++) {
        typename K::Acc weight[NV];
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++) weight[v] = load<typename K::Acc>(b + (k * NV + v) * W);
#pragma GCC unroll 16
        for (int m = 0; m < M; m++) {
            const typename K::Acc x = K::word(a + m * a_stride + k);
#pragma GCC unroll 4
            for (int v = 0; v < NV; v++) acc[m][v] = K::dot(acc[m][v], x, weight[v]);
        }
    }
#pragma GCC unroll 16
    for (int m = 0; m < M; m++)
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++) {
            float* c = o.c + m * o.c_stride + v * W;
            const Vf y = K::finish(acc[m][v], o, m, v);
            store(c, o.first ? y : loadf(c) + y);
        }
}

// One function for each number of rows, full tiles last.
template <class F>
struct Table {
    F with_rows[kTileRows];
};

typedef void (*TileFn)(const uint32_t*, const uint32_t*, int, const TileOut&);

template <class K, size_t... I>
constexpr Table<TileFn> tile_functions(std::index_sequence<I...>) {
    return {{tile<K, I + 1>...}};
}
template <class K>
static constexpr auto kTiles = tile_functions<K>(std::make_index_sequence<kTileRows>());

// 16-bit weights of an fp32 product: one panel block is widened into the cache and then used for all rows.
static const uint32_t* widened(const Weight& w, const unsigned char* block, int words, float* expanded) {
    if (w.storage != Storage::bf16 && w.storage != Storage::f16) return (const uint32_t*)block;
    widen((const uint16_t*)block, w.storage == Storage::bf16 ? Dtype::bf16 : Dtype::f16, (int64_t)words * NR, expanded);
    return (const uint32_t*)expanded;
}

template <class K>
static void gemm_panel(const GemmTask& t, int block, int panel, float* c) {
    constexpr int kind = (int)K::kind, a_stride = kBlockWords[kind];
    const Activation& a = *t.a;
    const Weight& w = *t.w;
    const int left = w.in - block * a_stride * kWordElems[kind];
    const int words = left < a_stride * kWordElems[kind] ? (left + kWordElems[kind] - 1) / kWordElems[kind] : a_stride;
    const int64_t block_bytes = (int64_t)a_stride * kWordElems[kind] * NR * kStorageBytes[(int)w.storage];
    const uint32_t* b = widened(w, w.data + panel * w.panel_bytes + block * block_bytes, words, t.expanded);
    const uint32_t* x = a.data + ((int64_t)block * a.rows + t.row0) * a_stride;
    const int64_t column = ((int64_t)block * w.panels + panel) * NR;
    TileOut o{c, t.c_stride, block == 0, nullptr, nullptr, nullptr};
    if (K::kind != Kind::f32) {
        o.a_scales = a.scales + (int64_t)block * a.rows + t.row0;
        o.w_scales = w.scales + column;
        if (K::kind == Kind::i8) o.offsets = w.offsets + column;
    }
    for (int row = 0; row < t.rows; row += kTileRows) {
        const int rows = t.rows - row < kTileRows ? t.rows - row : kTileRows;
        kTiles<K>.with_rows[rows - 1](x, b, words, o);
        x += (int64_t)kTileRows * a_stride;
        o.c += (int64_t)kTileRows * t.c_stride;
        if (K::kind != Kind::f32) o.a_scales += kTileRows;
    }
}

template <class K>
static void gemm_kind(const GemmTask& t) {
    for (int block = 0; block < t.w->blocks; block++) {
        float* c = t.c;
        for (int run = 0; run < t.num_runs; run++)
            for (int panel = t.panel0[run]; panel < t.panel0[run] + t.num_panels[run]; panel++, c += NR)
                gemm_panel<K>(t, block, panel, c);
    }
}

static void gemm(const GemmTask& t) {
    if (t.a->kind == Kind::f32) return gemm_kind<F32>(t);
    if (t.a->kind == Kind::i16) return gemm_kind<I16>(t);
    gemm_kind<I8>(t);
}

// Multiply-adds whose operands never leave the registers. `hide` makes a value unknown to the compiler, which would
// otherwise compute equal accumulators once.
template <class V>
INLINE void hide(V& value) {
#if defined(__AVX512F__)
    __asm__ volatile("" : "+v"(value));
#elif defined(__SSE2__)
    __asm__ volatile("" : "+x"(value));
#else
    __asm__ volatile("" : "+m"(value));
#endif
}

template <class K>
static double ceiling_kind(int64_t iterations) {
    TileOut o{};
    int32_t zeros[NR] = {};
    o.offsets = zeros;
    typename K::Acc acc[kTileRows][NV], w[NV];
    const uint32_t word = 0;
    typename K::Acc x = K::word(&word);
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) {
        w[v] = K::word(&word);
        hide(w[v]);
    }
#pragma GCC unroll 16
    for (int m = 0; m < kTileRows; m++)
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++) {
            acc[m][v] = K::start(o, v);
            hide(acc[m][v]);
        }
    for (int64_t i = 0; i < iterations; i++) {
        hide(x);
#pragma GCC unroll 16
        for (int m = 0; m < kTileRows; m++)
#pragma GCC unroll 4
            for (int v = 0; v < NV; v++) acc[m][v] = K::dot(acc[m][v], x, w[v]);
    }
    double total = 0;
    for (int m = 0; m < kTileRows; m++)
        for (int v = 0; v < NV; v++) total += (double)acc[m][v][0];
    return total;
}
static double ceiling(Kind kind, int64_t iterations) {
    if (kind == Kind::f32) return ceiling_kind<F32>(iterations);
    return kind == Kind::i16 ? ceiling_kind<I16>(iterations) : ceiling_kind<I8>(iterations);
}
