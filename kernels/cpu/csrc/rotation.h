// The Hadamard rotation of int8 products in groups (QuaRot, arXiv:2404.00456, without its folding): H x for each group
// of a row of either side, H the matrix of +-1 with H H^T = n I. Products stay as they are but for the factor n, a power of
// two that the weights' scales take back, and every value becomes a sum of all of its group: an outlier no longer sets
// the steps of its neighbours alone.
#pragma once

template <int S, size_t... I>
INLINE Vf butterfly(Vf x, std::index_sequence<I...>) {  // (a, b) -> (a + b, a - b) of lanes that are S apart
    const Vf other = __builtin_shufflevector(x, x, (int)(I ^ S)...), signs = {((I & S) ? -1.0f : 1.0f)...};
    return other + signs * x;
}
template <int S>
INLINE void butterflies(Vf (&r)[kRotated / W]) {
    constexpr int count = kRotated / W;
#pragma GCC unroll 32
    for (int i = 0; i < count; i++) {
        if constexpr (S < W) {
            r[i] = butterfly<S>(r[i], std::make_index_sequence<W>());
        } else if (!(i & (S / W))) {
            const Vf a = r[i], b = r[i + S / W];
            r[i] = a + b;
            r[i + S / W] = a - b;
        }
    }
}

// n values, and zeros up to the group's end. The order of additions is the same for every width of vectors.
static void rotate_group(const float* x, int n, float* out) {
    Vf r[kRotated / W];
    if (n < kRotated) {
        for (int i = 0; i < kRotated; i++) out[i] = i < n ? x[i] : 0.0f;
        x = out;
    }
#pragma GCC unroll 32
    for (int i = 0; i < kRotated / W; i++) r[i] = loadf(x + i * W);
    static_assert(kRotated == 128);
    butterflies<1>(r);
    butterflies<2>(r);
    butterflies<4>(r);
    butterflies<8>(r);
    butterflies<16>(r);
    butterflies<32>(r);
    butterflies<64>(r);
#pragma GCC unroll 32
    for (int i = 0; i < kRotated / W; i++) store(out + i * W, r[i]);
}
