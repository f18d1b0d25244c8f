// Products of a register tile on Arm. A quad of words of a row is loaded at once and multiplied lane by lane, which needs
// no broadcasts: 8 rows x 2 vectors of accumulators, 8 quads and the weights of a word fit the 32 registers.
//
// Each step adds the words of one row to its accumulators. Integers are signed on both sides: the offset of the stored
// activations (128) is taken off by flipping their highest bit, so the sums need no correction. They are exact in any
// order, and fp32 goes through k = 0, 1, 2, ... like everywhere, so the results have the bits of the portable kernels.
#pragma once

static_assert(kTileVectors == 2 && W == 4);

template <class K>
struct NeonSteps;

template <>
struct NeonSteps<F32> {
    using Quad = float32x4_t;
    struct Weights {
        float32x4_t v[2];
    };
    INLINE Quad quad(const uint32_t* p) { return vld1q_f32((const float*)p); }
    INLINE Quad word(const uint32_t* p) { return vld1q_dup_f32((const float*)p); }
    INLINE Weights weights(const uint32_t* p) {
        return {{vld1q_f32((const float*)p), vld1q_f32((const float*)(p + W))}};
    }
    template <int L>
    INLINE void step(Vf (&acc)[2], Quad x, const Weights& w) {
        acc[0] = (Vf)vfmaq_laneq_f32((float32x4_t)acc[0], w.v[0], x, L);
        acc[1] = (Vf)vfmaq_laneq_f32((float32x4_t)acc[1], w.v[1], x, L);
    }
};

template <>
struct NeonSteps<BF16> {
#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
    using Quad = bfloat16x8_t;
    struct Weights {
        bfloat16x8_t v[2];
    };
    INLINE Quad quad(const uint32_t* p) { return vreinterpretq_bf16_u32(vld1q_u32(p)); }
    INLINE Quad word(const uint32_t* p) { return vreinterpretq_bf16_u32(vld1q_dup_u32(p)); }
    INLINE Weights weights(const uint32_t* p) {
        return {{ quad(p), quad(p + W) }};
    }
    // Widening multiply-adds, each rounded once; the dot products of the same extension round otherwise. Not by lane: gcc 12
    // takes registers for it that the instruction cannot name.
    template <int L>
    INLINE void step(Vf (&acc)[2], Quad x, const Weights& w) {
        const bfloat16x8_t word = vreinterpretq_bf16_u32(vdupq_laneq_u32(vreinterpretq_u32_bf16(x), L));
        for (int v = 0; v < 2; v++) {
            const float32x4_t upper = vbfmlaltq_f32((float32x4_t)acc[v], w.v[v], word);
            acc[v] = (Vf)vbfmlalbq_f32(upper, w.v[v], word);
        }
    }
#else
    struct Quad {
        float32x4_t upper, lower;
    };
    struct Weights {
        Quad v[2];
    };
    INLINE Quad widened(uint32x4_t x) {
        return {vreinterpretq_f32_u32(vandq_u32(x, vdupq_n_u32(0xffff0000))),
                vreinterpretq_f32_u32(vshlq_n_u32(x, 16))};
    }
    INLINE Quad quad(const uint32_t* p) { return widened(vld1q_u32(p)); }
    INLINE Quad word(const uint32_t* p) { return widened(vld1q_dup_u32(p)); }
    INLINE Weights weights(const uint32_t* p) { return {{quad(p), quad(p + W)}}; }
    template <int L>
    INLINE void step(Vf (&acc)[2], Quad x, const Weights& w) {
        for (int v = 0; v < 2; v++) {
            const float32x4_t upper = vfmaq_laneq_f32((float32x4_t)acc[v], w.v[v].upper, x.upper, L);
            acc[v] = (Vf)vfmaq_laneq_f32(upper, w.v[v].lower, x.lower, L);
        }
    }
#endif
};

template <>
struct NeonSteps<I16> {
    using Quad = int16x8_t;
    struct Weights {
        int16x8_t first, second;  // of the two values of each column's word
    };
    INLINE Quad quad(const uint32_t* p) { return vld1q_s16((const int16_t*)p); }
    INLINE Quad word(const uint32_t* p) { return vreinterpretq_s16_u32(vld1q_dup_u32(p)); }
    INLINE Weights weights(const uint32_t* p) {
        const int16x8_t a = vld1q_s16((const int16_t*)p), b = vld1q_s16((const int16_t*)(p + W));
        return {vuzp1q_s16(a, b), vuzp2q_s16(a, b)};
    }
    template <int L>
    INLINE void step(Vi (&acc)[2], Quad x, const Weights& w) {
        int32x4_t a = (int32x4_t)acc[0], b = (int32x4_t)acc[1];
        a = vmlal_laneq_s16(a, vget_low_s16(w.first), x, 2 * L);
        b = vmlal_high_laneq_s16(b, w.first, x, 2 * L);
        acc[0] = (Vi)vmlal_laneq_s16(a, vget_low_s16(w.second), x, 2 * L + 1);
        acc[1] = (Vi)vmlal_high_laneq_s16(b, w.second, x, 2 * L + 1);
    }
};

template <>
struct NeonSteps<I8> {
    using Quad = int8x16_t;
    struct Weights {
        int8x16_t v[2];
    };
    INLINE Quad signed_form(uint32x4_t x) { return vreinterpretq_s8_u32(veorq_u32(x, vdupq_n_u32(0x80808080))); }
    INLINE Quad quad(const uint32_t* p) { return signed_form(vld1q_u32(p)); }
    INLINE Quad word(const uint32_t* p) { return signed_form(vld1q_dup_u32(p)); }
    INLINE Weights weights(const uint32_t* p) {
        return {{vld1q_s8((const int8_t*)p), vld1q_s8((const int8_t*)(p + W))}};
    }
    template <int L>
    INLINE int32x4_t dot(int32x4_t acc, Quad x, int8x16_t w) {
#if defined(__ARM_FEATURE_DOTPROD)
        return vdotq_laneq_s32(acc, w, x, L);
#else
        // |x|, |w| <= 127, so two products fit 16 bits.
        const int8x16_t b = vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(x), L));
        const int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(b)), high = vmull_high_s8(w, b);
        return vpadalq_s16(acc, vpaddq_s16(low, high));
#endif
    }
    template <int L>
    INLINE void step(Vi (&acc)[2], Quad x, const Weights& w) {
        acc[0] = (Vi)dot<L>((int32x4_t)acc[0], x, w.v[0]);
        acc[1] = (Vi)dot<L>((int32x4_t)acc[1], x, w.v[1]);
    }
};

template <>
struct NeonSteps<I8R> : NeonSteps<I8> {};
template <>
struct NeonSteps<I16R> : NeonSteps<I16> {};

#if defined(__ARM_FEATURE_MATMUL_INT8)
// Two rows x two columns x eight values an instruction. Returns the words that it took: all whole pairs of words.
template <int M>
INLINE int matrix_products(const uint32_t* a, const uint32_t* b, int words, Vi (&acc)[M][2]) {
    constexpr int a_stride = kBlockWords[(int)Kind::i8];
    int32x4_t sums[M / 2][4] = {};  // [pair of rows][pair of columns] = (0,0) (0,1) (1,0) (1,1)
    int k = 0;
    for (; k + 2 <= words; k += 2, b += 2 * NR) {
        const uint32x4_t w0 = vld1q_u32(b), w1 = vld1q_u32(b + W), w2 = vld1q_u32(b + NR), w3 = vld1q_u32(b + NR + W);
        const int8x16_t columns[4] = {
            vreinterpretq_s8_u32(vzip1q_u32(w0, w2)), vreinterpretq_s8_u32(vzip2q_u32(w0, w2)),
            vreinterpretq_s8_u32(vzip1q_u32(w1, w3)), vreinterpretq_s8_u32(vzip2q_u32(w1, w3))};
#pragma GCC unroll 4
        for (int m = 0; m < M; m += 2) {
            const uint32_t* row = a + m * a_stride + k;
            const int8x16_t x = NeonSteps<I8>::signed_form(vcombine_u32(vld1_u32(row), vld1_u32(row + a_stride)));
#pragma GCC unroll 4
            for (int c = 0; c < 4; c++) sums[m / 2][c] = vmmlaq_s32(sums[m / 2][c], x, columns[c]);
        }
    }
#pragma GCC unroll 4
    for (int m = 0; m < M; m += 2)
#pragma GCC unroll 2
        for (int v = 0; v < 2; v++) {
            const int64x2_t left = vreinterpretq_s64_s32(sums[m / 2][2 * v]);
            const int64x2_t right = vreinterpretq_s64_s32(sums[m / 2][2 * v + 1]);
            acc[m][v] += (Vi)vreinterpretq_s32_s64(vzip1q_s64(left, right));
            acc[m + 1][v] += (Vi)vreinterpretq_s32_s64(vzip2q_s64(left, right));
        }
    return k;
}
#endif

template <class K, int M>
INLINE void neon_products(const uint32_t* a, const uint32_t* b, int words, const TileOut& o,
                          typename K::Acc (&acc)[M][2]) {
    using Steps = NeonSteps<K>;
    constexpr int a_stride = kBlockWords[(int)K::kind];
    int k = 0;
#if defined(__ARM_FEATURE_MATMUL_INT8)
    if constexpr (is_i8(K::kind) && M % 2 == 0) k = matrix_products<M>(a, b, words, acc);
#endif
    const char *next_w = o.next[0], *next_a = o.next[1];
    for (; k + 4 <= words; k += 4) {
        for (int i = 0; i < o.next_lines[0] && k % 8 == 0; i++, next_w += 64) __builtin_prefetch(next_w, 0, 2);
        for (int i = 0; i < o.next_lines[1] && k % 8 == 0; i++, next_a += 64) __builtin_prefetch(next_a, 0, 2);
        typename Steps::Quad x[M];
#pragma GCC unroll 8
        for (int m = 0; m < M; m++) x[m] = Steps::quad(a + m * a_stride + k);
        auto step = [&]<int L>(std::integral_constant<int, L>) __attribute__((always_inline)) {
            const auto w = Steps::weights(b + (k + L) * NR);
#pragma GCC unroll 8
            for (int m = 0; m < M; m++) Steps::template step<L>(acc[m], x[m], w);
        };
        step(std::integral_constant<int, 0>());
        step(std::integral_constant<int, 1>());
        step(std::integral_constant<int, 2>());
        step(std::integral_constant<int, 3>());
    }
    for (; k < words; k++) {
        const auto w = Steps::weights(b + k * NR);
#pragma GCC unroll 8
        for (int m = 0; m < M; m++) Steps::template step<0>(acc[m], Steps::word(a + m * a_stride + k), w);
    }
}

// The instructions of one word of row m, as often as a full tile needs them: matrix instructions do two rows at once.
template <class K>
INLINE void neon_ceiling_step(typename K::Acc (&acc)[2], typename K::Acc x, typename K::Acc (&w)[2], int m) {
    using Steps = NeonSteps<K>;
#if defined(__ARM_FEATURE_MATMUL_INT8)
    if constexpr (is_i8(K::kind)) {
        if (m % 2 == 0)
            for (int v = 0; v < 2; v++) acc[v] = (Vi)vmmlaq_s32((int32x4_t)acc[v], (int8x16_t)x, (int8x16_t)w[v]);
        return;
    }
#endif
    (void)m;
    alignas(16) uint32_t words[W], weights[2 * W];  // the compiler keeps them in registers
    store(words, x);
    store(weights, w[0]);
    store(weights + W, w[1]);
    Steps::template step<0>(acc, Steps::quad(words), Steps::weights(weights));
}
