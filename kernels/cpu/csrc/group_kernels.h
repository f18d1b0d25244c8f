// Weights of 4 bits in groups: packing at load, and expanding one block of a panel into the cache while it is multiplied.
//
// For fp32 arithmetic an expanded value is scale * level + offset, as it would be loaded. For integers it is one fixed-point
// product; packing evaluates the same formula, so the scale of the block, the norms and the offsets of the kernels are
// those of the very integers that are multiplied later.
#pragma once

#define MEMBER __attribute__((always_inline))

INLINE int q4_shift(int i) { return 8 * (i % 4) + 4 * (i / 4); }

// The upper half of a product of int16, rounded: what pmulhrsw gives.
INLINE int q4_product(int level, int multiplier) { return (level * multiplier + (1 << (kQ4Shift - 1))) >> kQ4Shift; }

// ---------------------------------------------------------------------------------------------------------- expanding

#if defined(__AVX512BW__)
typedef __m512i Q4;
INLINE Q4 q4_set32(int32_t x) { return _mm512_set1_epi32(x); }
INLINE Q4 q4_and(Q4 a, Q4 b) { return _mm512_and_si512(a, b); }
INLINE Q4 q4_high(Q4 a) { return _mm512_srli_epi32(a, 4); }
INLINE Q4 q4_table(const uint8_t* t) { return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)t)); }
INLINE Q4 q4_lookup(Q4 table, Q4 codes) { return _mm512_shuffle_epi8(table, codes); }
INLINE Q4 q4_zip8_low(Q4 a, Q4 b) { return _mm512_unpacklo_epi8(a, b); }
INLINE Q4 q4_zip8_high(Q4 a, Q4 b) { return _mm512_unpackhi_epi8(a, b); }
INLINE Q4 q4_zip32_low(Q4 a, Q4 b) { return _mm512_unpacklo_epi32(a, b); }
INLINE Q4 q4_zip32_high(Q4 a, Q4 b) { return _mm512_unpackhi_epi32(a, b); }
INLINE Q4 q4_multiply(Q4 a, Q4 b) { return _mm512_mulhrs_epi16(a, b); }
INLINE Q4 q4_add(Q4 a, Q4 b) { return _mm512_add_epi16(a, b); }
INLINE Q4 q4_pack(Q4 a, Q4 b) { return _mm512_packs_epi16(a, b); }
INLINE Q4 q4_even32(Q4 a, Q4 b) { return (Q4)_mm512_shuffle_ps((__m512)a, (__m512)b, 0x88); }
INLINE Q4 q4_odd32(Q4 a, Q4 b) { return (Q4)_mm512_shuffle_ps((__m512)a, (__m512)b, 0xdd); }
INLINE Q4 q4_twice(const int16_t* p) {  // each of W int16 in both halves of its 32-bit lane
    const Q4 x = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
    return _mm512_or_si512(x, _mm512_slli_epi32(x, 16));
}
struct Levels {
    __m512 table;
    MEMBER explicit Levels(const float* t) : table(_mm512_loadu_ps(t)) {}
    MEMBER Vf at(Vi index) const { return (Vf)_mm512_permutexvar_ps((__m512i)index, table); }  // the low four bits
};
#elif defined(__AVX2__)
typedef __m256i Q4;
INLINE Q4 q4_set32(int32_t x) { return _mm256_set1_epi32(x); }
INLINE Q4 q4_and(Q4 a, Q4 b) { return _mm256_and_si256(a, b); }
INLINE Q4 q4_high(Q4 a) { return _mm256_srli_epi32(a, 4); }
INLINE Q4 q4_table(const uint8_t* t) { return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)t)); }
INLINE Q4 q4_lookup(Q4 table, Q4 codes) { return _mm256_shuffle_epi8(table, codes); }
INLINE Q4 q4_zip8_low(Q4 a, Q4 b) { return _mm256_unpacklo_epi8(a, b); }
INLINE Q4 q4_zip8_high(Q4 a, Q4 b) { return _mm256_unpackhi_epi8(a, b); }
INLINE Q4 q4_zip32_low(Q4 a, Q4 b) { return _mm256_unpacklo_epi32(a, b); }
INLINE Q4 q4_zip32_high(Q4 a, Q4 b) { return _mm256_unpackhi_epi32(a, b); }
INLINE Q4 q4_multiply(Q4 a, Q4 b) { return _mm256_mulhrs_epi16(a, b); }
INLINE Q4 q4_add(Q4 a, Q4 b) { return _mm256_add_epi16(a, b); }
INLINE Q4 q4_pack(Q4 a, Q4 b) { return _mm256_packs_epi16(a, b); }
INLINE Q4 q4_even32(Q4 a, Q4 b) { return (Q4)_mm256_shuffle_ps((__m256)a, (__m256)b, 0x88); }
INLINE Q4 q4_odd32(Q4 a, Q4 b) { return (Q4)_mm256_shuffle_ps((__m256)a, (__m256)b, 0xdd); }
INLINE Q4 q4_twice(const int16_t* p) {
    const Q4 x = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
    return _mm256_or_si256(x, _mm256_slli_epi32(x, 16));
}
struct Levels {
    __m256 low, high;
    MEMBER explicit Levels(const float* t) : low(_mm256_loadu_ps(t)), high(_mm256_loadu_ps(t + 8)) {}
    MEMBER Vf at(Vi index) const {
        const __m256i i = (__m256i)index;
        const __m256 a = _mm256_permutevar8x32_ps(low, i), b = _mm256_permutevar8x32_ps(high, i);
        return (Vf)_mm256_blendv_ps(a, b, (__m256)_mm256_slli_epi32(i, 28));  // bit 3 as the sign
    }
};
#else
struct Levels {
    const float* table;
    MEMBER explicit Levels(const float* t) : table(t) {}
    MEMBER Vf at(Vi index) const {
        Vf v;
        for (int i = 0; i < W; i++) v[i] = table[index[i] & 15];
        return v;
    }
};
#endif

template <bool has_offsets>
INLINE void expand_f32(const Weight& w, const uint32_t* from, const float* scales, const float* offsets, int count,
                       float* to) {
    const Levels levels(w.levels);
    for (int v = 0; v < kTileVectors; v++) {
        const Vf scale = loadf(scales + v * W), offset = has_offsets ? loadf(offsets + v * W) : splat(0.0f);
        for (int k = 0; k < count; k++) {
            const Vi word = load<Vi>(from + k * NR + v * W);
            float* out = to + (int64_t)k * kQ4Values * NR + v * W;
#pragma GCC unroll 8
            for (int i = 0; i < kQ4Values; i++)
                store(out + i * NR, scale * levels.at((Vi)((Vu)word >> q4_shift(i))) + offset);
        }
    }
}

#if defined(__AVX2__)
struct Levels16 {  // the lower and the upper bytes of the levels, in each 128-bit lane
    Q4 low, high;
    MEMBER explicit Levels16(const int16_t* levels) {
        uint8_t lower[16], upper[16];
        for (int i = 0; i < 16; i++) lower[i] = (uint8_t)levels[i], upper[i] = (uint8_t)((uint16_t)levels[i] >> 8);
        low = q4_table(lower), high = q4_table(upper);
    }
};

// In `a` and `b`: int16 values of the first and the last two of four columns in each 128-bit lane.
template <Kind kind, bool has_offsets>
INLINE void expand_integers(const Levels16& levels, const uint32_t* from, const int16_t* scales, const int16_t* offsets,
                            int count, uint32_t* to) {
    constexpr int words = kQ4Values / kWordElems[(int)kind];
    const Q4 mask = q4_set32(0x0f0f0f0f);
    for (int v = 0; v < kTileVectors; v++) {
        const Q4 scale = q4_twice(scales + v * W), offset = has_offsets ? q4_twice(offsets + v * W) : scale;
        const Q4 scale0 = q4_zip32_low(scale, scale), scale1 = q4_zip32_high(scale, scale);
        const Q4 offset0 = q4_zip32_low(offset, offset), offset1 = q4_zip32_high(offset, offset);
        for (int k = 0; k < count; k++) {
            const Q4 word = load<Q4>(from + k * NR + v * W);
            uint32_t* out = to + (int64_t)k * words * NR + v * W;
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                const Q4 codes = q4_and(half ? q4_high(word) : word, mask);
                const Q4 lower = q4_lookup(levels.low, codes), upper = q4_lookup(levels.high, codes);
                Q4 a = q4_multiply(q4_zip8_low(lower, upper), scale0);
                Q4 b = q4_multiply(q4_zip8_high(lower, upper), scale1);
                if (has_offsets) a = q4_add(a, offset0), b = q4_add(b, offset1);
                if (kind == Kind::i8) {
                    store(out + half * NR, q4_pack(a, b));
                } else {
                    store(out + 2 * half * NR, q4_even32(a, b));
                    store(out + (2 * half + 1) * NR, q4_odd32(a, b));
                }
            }
        }
    }
}
#else
struct Levels16 {
    const int16_t* levels;
    MEMBER explicit Levels16(const int16_t* l) : levels(l) {}
};

template <Kind kind, bool has_offsets>
INLINE void expand_integers(const Levels16& table, const uint32_t* from, const int16_t* scales, const int16_t* offsets,
                            int count, uint32_t* to) {
    constexpr int elems = kWordElems[(int)kind], bits = 32 / elems, words = kQ4Values / elems;
    for (int k = 0; k < count; k++)
        for (int column = 0; column < NR; column++) {
            const uint32_t word = from[k * NR + column];
            for (int i = 0; i < words; i++) {
                uint32_t out = 0;
                for (int j = 0; j < elems; j++) {
                    const int code = (word >> q4_shift(i * elems + j)) & 15;
                    const int q = q4_product(table.levels[code], scales[column]) + (has_offsets ? offsets[column] : 0);
                    out |= ((uint32_t)q & (uint32_t)((1ull << bits) - 1)) << (bits * j);
                }
                to[(k * words + i) * NR + column] = out;
            }
        }
}
#endif

// Brings near what the same group has in the next panel. The caches' own prefetchers do not see it coming.
template <class T>
INLINE void prefetch_next_panel(const Weight& w, const void* groups, int64_t place) {
    const char* next = (const char*)((const T*)groups + place + (int64_t)w.groups * NR);
    for (int at = 0; at < NR * (int)sizeof(T); at += 64) __builtin_prefetch(next + at, 0, 2);
}

// A block's elements of one panel; `first`: its first group.
template <Kind kind, bool has_offsets>
INLINE void expand_block(const Weight& w, const uint32_t* from, int64_t first, int elems, uint32_t* to) {
    using Number = std::conditional_t<kind == Kind::f32, float, int16_t>;
    const Levels16 levels(w.levels16);
    for (int at = 0, g = 0; at < elems; at += w.group, g++) {
        const int count = min_int(w.group, elems - at) / kQ4Values;
        const int64_t place = (first + g) * NR;
        const uint32_t* source = from + (int64_t)at / kQ4Values * NR;
        if (kind == Kind::f32)
            expand_f32<has_offsets>(w, source, (const float*)w.group_scales + place,
                                    (const float*)w.group_offsets + place, count, (float*)to + (int64_t)at * NR);
        else
            expand_integers<kind == Kind::i8 ? Kind::i8 : Kind::i16, has_offsets>(
                levels, source, (const int16_t*)w.group_scales + place, (const int16_t*)w.group_offsets + place, count,
                to + (int64_t)at / kWordElems[(int)kind] * NR);
        prefetch_next_panel<Number>(w, w.group_scales, place);
        if (has_offsets) prefetch_next_panel<Number>(w, w.group_offsets, place);
    }
}

// `words` of the block, as the matrix product of this kind reads them.
template <Kind kind>
static void expand_groups(const Weight& w, const uint32_t* from, int panel, int block, int words, uint32_t* to) {
    constexpr int block_elems = kBlockWords[(int)kind] * kWordElems[(int)kind];
    const int elems = words * kWordElems[(int)kind];
    const int64_t first = (int64_t)panel * w.groups + (int64_t)block * block_elems / w.group;
    if (w.group_offsets)
        expand_block<kind, true>(w, from, first, elems, to);
    else
        expand_block<kind, false>(w, from, first, elems, to);
}

// ------------------------------------------------------------------------------------------------------------ packing

INLINE int clamp_int(int x, int limit) { return x < -limit ? -limit : x > limit ? limit : x; }

struct Q4Block {  // one block of one row
    const uint8_t* codes;
    int n;
    const float* scales;   // of each segment of w.group values
    const float* offsets;  // likewise; zero where there are none
};

struct Q4Integers {
    int16_t* multipliers;  // of each segment
    int16_t* shifts;
    int32_t* q;
};

// The integers of a block whose scale is `step`, by the formula of expand_integers.
static void q4_integers(const Weight& w, const Q4Block& b, double step, const Q4Integers& out) {
    const double inverse = step > 0 ? 1 / step : 0;
    for (int at = 0, g = 0; at < b.n; at += w.group, g++) {
        out.multipliers[g] = (int16_t)__builtin_nearbyint((1 << kQ4Shift) / (double)w.unit * b.scales[g] * inverse);
        out.shifts[g] = (int16_t)__builtin_nearbyint((b.offsets[g] + (double)b.scales[g] * w.center) * inverse);
        for (int i = at; i < min_int(at + w.group, b.n); i++)
            out.q[i] = q4_product(w.levels16[b.codes[i] & 15], out.multipliers[g]) + out.shifts[g];
    }
}

// The scale of a block, as small as the limits of its integers allow (quantize_i16, quantize_i8), and these integers.
static float q4_quantize(const Weight& w, const Q4Block& b, const float* row, const Q4Integers& out) {
    const bool wide = w.kind == Kind::i16;
    const int limit = wide ? kI16Largest : 127;
    double squares = 0, largest = 0, most_scale = 0, most_offset = 0;
    for (int i = 0; i < b.n; i++) {
        squares += (double)row[i] * row[i];
        largest = __builtin_fmax(largest, __builtin_fabs((double)row[i]));
    }
    for (int at = 0, g = 0; at < b.n; at += w.group, g++) {
        most_scale = __builtin_fmax(most_scale, __builtin_fabs((double)b.scales[g]));
        most_offset = __builtin_fmax(most_offset, __builtin_fabs(b.offsets[g] + (double)b.scales[g] * w.center));
    }
    if (!__builtin_isfinite(squares)) {  // all integers zero, the result becomes NaN
        for (int at = 0, g = 0; at < b.n; at += w.group, g++) out.multipliers[g] = out.shifts[g] = 0;
        for (int i = 0; i < b.n; i++) out.q[i] = 0;
        return __builtin_nanf("");
    }
    double step = largest / limit;
    if (wide) step = __builtin_fmax(step, __builtin_sqrt(squares) / (kI16NormBefore - 16));  // rounded twice
    step = __builtin_fmax(step, most_scale * 1.0001 / w.unit);  // multipliers and shifts are int16, and so is their sum
    step = __builtin_fmax(step, most_offset / 30000);
    for (;; step *= 1.001) {
        q4_integers(w, b, step, out);
        int64_t sum = 0;
        int most = 0;
        for (int i = 0; i < b.n; i++) {
            sum += (int64_t)out.q[i] * out.q[i];
            const int magnitude = out.q[i] < 0 ? -out.q[i] : out.q[i];
            most = magnitude > most ? magnitude : most;
        }
        if (most <= limit && (!wide || sum <= (int64_t)kI16Norm * kI16Norm)) return (float)step;
    }
}

static void pack_bytes_in_groups(const Weight& w, int panel, int first, int rows, const GroupRows& from);

// Rows [first, first + rows) of one panel.
static void pack_groups(const Weight& w, int panel, int first, int rows, const GroupRows& from, float* row) {
    if (w.storage == Storage::q8) return pack_bytes_in_groups(w, panel, first, rows, from);
    constexpr int kMostSegments = 512 / kQ4Values;
    const int block_elems = kBlockWords[(int)w.kind] * kWordElems[(int)w.kind];
    float scales[kMostSegments], offsets[kMostSegments];
    int16_t multipliers[kMostSegments], shifts[kMostSegments];
    int32_t q[512];
    for (int r = 0; r < rows; r++) {
        const uint8_t* codes = from.codes + r * from.codes_stride;
        const int column = first + r;
        uint32_t* words = (uint32_t*)(w.data + panel * w.panel_bytes) + column;
        for (int i = 0; i < w.in; i += kQ4Values) {
            uint32_t word = 0;
            for (int j = 0; j < kQ4Values; j++) word |= (uint32_t)(codes[i + j] & 15) << q4_shift(j);
            words[(int64_t)i / kQ4Values * NR] = word;
        }
        for (int block = 0; block < w.blocks; block++) {
            const int start = block * block_elems, n = min_int(block_elems, w.in - start);
            const int64_t place = ((int64_t)panel * w.groups + start / w.group) * NR + column;
            for (int at = 0, g = 0; at < n; at += w.group, g++) {
                const int64_t source = r * from.scales_stride + (start + at) / from.group;
                scales[g] = from.scales[source];
                offsets[g] = from.offsets ? from.offsets[source] : 0.0f;
                if (w.kind == Kind::f32) {
                    ((float*)w.group_scales)[place + g * NR] = scales[g];
                    if (w.group_offsets) ((float*)w.group_offsets)[place + g * NR] = offsets[g];
                }
            }
            if (w.kind == Kind::f32) continue;
            for (int i = 0; i < n; i++)
                row[i] = scales[i / w.group] * w.levels[codes[start + i] & 15] + offsets[i / w.group];
            const int64_t at = ((int64_t)block * w.panels + panel) * NR + column;
            w.scales[at] = q4_quantize(w, {codes + start, n, scales, offsets}, row, {multipliers, shifts, q});
            for (int i = 0, g = 0; i < n; i += w.group, g++) {
                ((int16_t*)w.group_scales)[place + g * NR] = multipliers[g];
                if (w.group_offsets) ((int16_t*)w.group_offsets)[place + g * NR] = shifts[g];
            }
            if (w.kind != Kind::i8) continue;
            int32_t sum = 0;
            for (int i = 0; i < n; i++) sum += q[i];
            w.offsets[at] = -sum * kI8Offset;
        }
    }
}
