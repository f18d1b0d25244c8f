// Vectors of W lanes by the compiler's vector extension, the same source for every instruction set; intrinsics only
// where one instruction has no other spelling. Included inside the namespace of one instruction set.
#pragma once

#if defined(__AVX512F__)
constexpr int W = 16;
// 6 x 4 accumulators, 4 weight vectors, 1 broadcast: 29 of 32 registers, and 10 loads for 24 multiply-adds. 12 x 2 needs
// 14, which costs time wherever a hyperthread shares the core's loads and its front end.
constexpr int kTileRows = 6, kTileVectors = 4;
constexpr int kTileKeys = 12;
#elif defined(__AVX2__)
constexpr int W = 8;
constexpr int kTileRows = 6, kTileVectors = 2;  // 6 x 2 accumulators, 2 weight vectors, 1 broadcast: 15 of 16 registers
constexpr int kTileKeys = 6;
#elif defined(ENGINE_NEON)
constexpr int W = 4;
constexpr int kTileRows = 8, kTileVectors = 2;  // 8 x 2 accumulators, 8 quads of words, 2 weight vectors: 26 of 32
constexpr int kTileKeys = 8;
#else
constexpr int W = 4;
constexpr int kTileRows = 4, kTileVectors = 2;
constexpr int kTileKeys = 4;
#endif
constexpr int NR = kTileVectors * W;  // columns of a weight panel
constexpr int NV = 2;                 // vectors of query rows in a tile of attention
constexpr int kLanes = NV * W;

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
constexpr int kI8Offset = 128;
#elif defined(__AVX2__)
// vpmaddubsw adds two u8 x s8 products in int16: 2 * 127 * 127 = 32258 < 2^15 keeps it from saturating.
constexpr int kI8Offset = 64;
#else
constexpr int kI8Offset = 128;
#endif
// In groups (Kind::i8r) activations have 8 bits everywhere: 0 where they are multiplied with their sign (dot_signed_i8).
#if defined(__AVX2__) && !defined(__AVX512VNNI__) && !defined(__AVXVNNI__)
constexpr int kRotatedOffset = 0;
#else
constexpr int kRotatedOffset = 128;
#endif
#if defined(ENGINE_NEON)
constexpr bool kI8Signed = true;  // products of signed activations: see neon_products.h
#else
constexpr bool kI8Signed = false;
#endif

typedef float Vf __attribute__((vector_size(W * 4)));
typedef int32_t Vi __attribute__((vector_size(W * 4)));
typedef uint32_t Vu __attribute__((vector_size(W * 4)));
typedef int16_t Vh __attribute__((vector_size(W * 2)));
typedef uint16_t Vuh __attribute__((vector_size(W * 2)));
typedef uint8_t Vb __attribute__((vector_size(W)));

#define INLINE static inline __attribute__((always_inline))

template <class V>
INLINE V load(const void* p) {
    V v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
template <class V>
INLINE void store(void* p, V v) {
    __builtin_memcpy(p, &v, sizeof v);
}
INLINE Vf loadf(const float* p) { return load<Vf>(p); }

template <class V, class T, size_t... I>
INLINE V splat_lanes(T x, std::index_sequence<I...>) {
    return V{((void)I, x)...};
}
INLINE Vf splat(float x) {
#if defined(__AVX512F__)
    return (Vf)_mm512_set1_ps(x);
#elif defined(__AVX2__)
    return (Vf)_mm256_set1_ps(x);
#else
    return splat_lanes<Vf>(x, std::make_index_sequence<W>());
#endif
}
INLINE Vi splati(int32_t x) {
#if defined(__AVX512F__)
    return (Vi)_mm512_set1_epi32(x);
#elif defined(__AVX2__)
    return (Vi)_mm256_set1_epi32(x);
#else
    return splat_lanes<Vi>(x, std::make_index_sequence<W>());
#endif
}

INLINE Vf max(Vf a, Vf b) { return a > b ? a : b; }
INLINE Vi maxi(Vi a, Vi b) { return a > b ? a : b; }

INLINE float sum(Vf v) {
    float s = 0;
    for (int step = W / 2; step > 0; step /= 2)
        for (int i = 0; i < step; i++) v[i] += v[i + step];
    return s + v[0];
}
INLINE int32_t maximum(Vi v) {
    int32_t m = v[0];
    for (int i = 1; i < W; i++) m = v[i] > m ? v[i] : m;
    return m;
}

// First n lanes; the rest is zero (loads) or left alone (stores).
INLINE Vf load_part(const float* p, int n) {
    float lanes[W] = {};
    __builtin_memcpy(lanes, p, n * sizeof(float));
    return loadf(lanes);
}
INLINE void store_part(float* p, Vf v, int n) {
    float lanes[W];
    store(lanes, v);
    __builtin_memcpy(p, lanes, n * sizeof(float));
}
INLINE Vf load_n(const float* p, int n) { return n >= W ? loadf(p) : load_part(p, n); }
INLINE void store_n(float* p, Vf v, int n) {
    if (n >= W)
        store(p, v);
    else
        store_part(p, v, n);
}

INLINE Vf to_float(Vi v) { return __builtin_convertvector(v, Vf); }

// Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the mantissa, for |x| < 2^22.
constexpr float kRound = 12582912.0f;
constexpr int32_t kRoundBits = 0x4B400000;
INLINE Vi to_int(Vf x) { return (Vi)(x + splat(kRound)) - splati(kRoundBits); }

// e^x, relative error below 2e-7; 0 below -87.3.
INLINE Vf exp(Vf x) {
    const Vf low = splat(-87.3f), high = splat(88.3f);
    Vf clamped = x > high ? high : x;
    clamped = clamped > low ? clamped : low;
    const Vi n = to_int(clamped * splat(1.44269504088896341f));
    const Vf nf = to_float(n);
    const Vf r = clamped - nf * splat(0.693359375f) - nf * splat(-2.12194440e-4f);
    Vf p = splat(1.9875691500e-4f);
    p = p * r + splat(1.3981999507e-3f);
    p = p * r + splat(8.3334519073e-3f);
    p = p * r + splat(4.1665795894e-2f);
    p = p * r + splat(1.6666665459e-1f);
    p = p * r + splat(5.0000001201e-1f);
    p = p * r * r + r + splat(1.0f);
    const Vf y = (Vf)((Vi)p + (n << 23));
    const Vf zero = splat(0.0f);
    const Vf z = x < low ? zero : y;
    return x == x ? z : x;  // NaN stays
}

INLINE Vf silu(Vf x) { return x / (splat(1.0f) + exp(-x)); }
INLINE Vf gelu_tanh(Vf x) {  // x/2 (1 + tanh(u)) = x / (1 + e^(-2u))
    const Vf u = splat(0.7978845608028654f) * (x + splat(0.044715f) * x * x * x);
    return x / (splat(1.0f) + exp(u * splat(-2.0f)));
}
// x/2 (1 + erf(x / sqrt 2)), erf by Abramowitz and Stegun 7.1.26 (absolute error below 1.5e-7).
INLINE Vf gelu(Vf x) {
    const Vf z = x * splat(0.7071067811865476f);
    const Vf a = (Vf)((Vi)z & splati(0x7fffffff));
    const Vf t = splat(1.0f) / (splat(1.0f) + splat(0.3275911f) * a);
    Vf p = splat(1.061405429f);
    p = p * t + splat(-1.453152027f);
    p = p * t + splat(1.421413741f);
    p = p * t + splat(-0.284496736f);
    p = p * t + splat(0.254829592f);
    const Vf tail = p * t * exp(-a * a);  // 1 - erf(|z|)
    const Vf one_plus_erf = z > splat(0.0f) ? splat(2.0f) - tail : tail;
    return splat(0.5f) * x * one_plus_erf;
}

template <size_t... I>
INLINE Vf zip_low(Vf a, Vf b, std::index_sequence<I...>) {
    return __builtin_shufflevector(a, b, ((I % 2) * W + I / 2)...);
}
template <size_t... I>
INLINE Vf zip_high(Vf a, Vf b, std::index_sequence<I...>) {
    return __builtin_shufflevector(a, b, ((I % 2) * W + I / 2 + W / 2)...);
}
// W x W transpose in log2(W) perfect shuffles of the rows.
INLINE void transpose(Vf (&r)[W]) {
    constexpr auto lanes = std::make_index_sequence<W>();
#pragma GCC unroll 4
    for (int step = 1; step < W; step *= 2) {
        Vf t[W];
#pragma GCC unroll 16
        for (int i = 0; i < W / 2; i++) {
            t[2 * i] = zip_low(r[i], r[i + W / 2], lanes);
            t[2 * i + 1] = zip_high(r[i], r[i + W / 2], lanes);
        }
#pragma GCC unroll 16
        for (int i = 0; i < W; i++) r[i] = t[i];
    }
}

// Makes a value unknown to the compiler and keeps it in a register.
template <class V>
INLINE void hide(V& value) {
#if defined(__AVX512F__)
    __asm__ volatile("" : "+v"(value));
#elif defined(__SSE2__)
    __asm__ volatile("" : "+x"(value));
#elif defined(ENGINE_NEON)
    __asm__ volatile("" : "+w"(value));
#else
    __asm__ volatile("" : "+m"(value));
#endif
}

// Without it gcc computes the products of several steps first and adds later, and spills what no register file holds.
INLINE Vi add_now(Vi c, Vi product) {
    c += product;
    hide(c);
    return c;
}

// c += dot products of the elements inside each 32-bit word.
INLINE Vi dot_i16(Vi c, Vi a, Vi b) {
#if defined(__AVX512VNNI__)
    return (Vi)_mm512_dpwssd_epi32((__m512i)c, (__m512i)a, (__m512i)b);
#elif defined(__AVX512BW__)
    return add_now(c, (Vi)_mm512_madd_epi16((__m512i)a, (__m512i)b));
#elif defined(__AVXVNNI__)
    return (Vi)_mm256_dpwssd_avx_epi32((__m256i)c, (__m256i)a, (__m256i)b);
#elif defined(__AVX2__)
    return add_now(c, (Vi)_mm256_madd_epi16((__m256i)a, (__m256i)b));
#else
    return c + (a >> 16) * (b >> 16) + ((a << 16) >> 16) * ((b << 16) >> 16);
#endif
}
INLINE Vi dot_i8(Vi c, Vi a, Vi b) {  // unsigned a, signed b
#if defined(__AVX512VNNI__)
    return (Vi)_mm512_dpbusd_epi32((__m512i)c, (__m512i)a, (__m512i)b);
#elif defined(__AVX512BW__)
    const __m512i pairs = _mm512_maddubs_epi16((__m512i)a, (__m512i)b);
    return c + (Vi)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
#elif defined(__AVXVNNI__)
    return (Vi)_mm256_dpbusd_avx_epi32((__m256i)c, (__m256i)a, (__m256i)b);
#elif defined(__AVX2__)
    const __m256i pairs = _mm256_maddubs_epi16((__m256i)a, (__m256i)b);
    return add_now(c, (Vi)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#else
    const Vu u = (Vu)a;
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) c += (Vi)((u >> (8 * i)) & 0xff) * ((b << (24 - 8 * i)) >> 24);
    return c;
#endif
}

// Both signed, in [-127, 127]: |a| times b with a's sign, so that a pair's sum stays below 2 * 127 * 127 < 2^15.
INLINE Vi dot_signed_i8(Vi c, Vi a, Vi b) {
#if defined(__AVX512BW__)
    const __m512i x = (__m512i)a, w = (__m512i)b;
    const __m512i turned = _mm512_mask_sub_epi8(w, _mm512_movepi8_mask(x), _mm512_setzero_si512(), w);
    const __m512i pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(x), turned);
    return add_now(c, (Vi)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
#elif defined(__AVX2__)
    const __m256i turned = _mm256_sign_epi8((__m256i)b, (__m256i)a);
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8((__m256i)a), turned);
    return add_now(c, (Vi)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#else
    for (int i = 0; i < 4; i++) c += ((a << (24 - 8 * i)) >> 24) * ((b << (24 - 8 * i)) >> 24);
    return c;
#endif
}

// c += products of the bf16 inside each 32-bit word: the upper ones, then the lower ones.
INLINE Vf dot_bf16(Vf c, Vf a, Vf b) {
#if defined(__AVX512BF16__)
    return (Vf)_mm512_dpbf16_ps((__m512)c, (__m512bh)a, (__m512bh)b);
#else
    const Vi upper = splati((int32_t)0xffff0000);
    c += (Vf)((Vi)a & upper) * (Vf)((Vi)b & upper);
    return c + (Vf)((Vi)a << 16) * (Vf)((Vi)b << 16);
#endif
}

// fp32 to bf16, to the nearest, ties to even; NaN stays.
INLINE uint16_t to_bf16(float x) {
    uint32_t bits;
    __builtin_memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
INLINE void narrow_bf16(const float* from, int n, uint16_t* to) {
    int i = 0;
    for (; i + W <= n; i += W) {
        const Vu bits = (Vu)loadf(from + i), nearest = bits + 0x7fff + (bits >> 16 & 1);
        const Vu x = (bits & 0x7fffffff) > 0x7f800000 ? bits | 0x400000 : nearest;
        store(to + i, __builtin_convertvector(x >> 16, Vuh));
    }
    for (; i < n; i++) to[i] = to_bf16(from[i]);
}

// 16-bit floats to fp32.
INLINE Vf widen_bf16(const uint16_t* p) { return (Vf)(__builtin_convertvector(load<Vuh>(p), Vu) << 16); }
INLINE float bf16_to_float(uint16_t h) {
    const uint32_t bits = (uint32_t)h << 16;
    float f;
    __builtin_memcpy(&f, &bits, 4);
    return f;
}
INLINE float f16_to_float(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, magnitude = h & 0x7fff;
    uint32_t bits = (magnitude << 13) + (112u << 23);  // exponent bias 15 -> 127
    float f;
    if (magnitude >= 0x7c00) bits += 112u << 23;  // infinity, NaN
    __builtin_memcpy(&f, &bits, 4);
    if (magnitude < 0x400) f = (float)magnitude * 5.9604644775390625e-8f;  // subnormal: units of 2^-24
    __builtin_memcpy(&bits, &f, 4);
    bits |= sign;
    __builtin_memcpy(&f, &bits, 4);
    return f;
}
INLINE Vf widen_f16(const uint16_t* p) {
#if defined(__AVX512F__)
    return (Vf)_mm512_cvtph_ps(load<__m256i>(p));
#elif defined(__F16C__)
    return (Vf)_mm256_cvtph_ps(load<__m128i>(p));
#elif defined(ENGINE_NEON)
    return (Vf)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
#else
    Vf v;
    for (int i = 0; i < W; i++) v[i] = f16_to_float(p[i]);
    return v;
#endif
}
