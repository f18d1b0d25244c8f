// Getting numbers into the layouts of kernel_table.h: weights once at load, activations where an op writes its result.
#pragma once

#include "rotation.h"

INLINE int min_int(int a, int b) { return a < b ? a : b; }

// The largest integer that y's largest value may become, so that all of them stay within kI16Norm. y is divided by its
// largest first: its squares could overflow.
static float i16_limit(const float* y, int n, float largest) {
    Vf squares = splat(0.0f);
    const Vf inverse = splat(1.0f / largest);
    for (int i = 0; i < n; i += W) {
        const Vf x = loadf(y + i) * inverse;
        squares = squares + x * x;
    }
    const float limit = kI16NormBefore / __builtin_sqrtf(sum(squares));
    return limit < kI16Largest ? limit : kI16Largest;
}

// One row's values of one K block, rounded to integers. `y` has room for whole vectors beyond n, which are zeroed.
// The largest magnitude is found on the bit patterns, where NaN and infinity are the largest: such a row gets the
// scale NaN, so that the damage stays visible in everything computed from it.
template <class Narrow, bool kLimitNorm = false>
static float quantize_row_block(float* y, int n, Narrow* out, float limit, int offset) {
    for (int i = n; i < (n + W - 1) / W * W; i++) y[i] = 0;
    Vi best = splati(0);
    for (int i = 0; i < n; i += W) best = maxi(best, (Vi)loadf(y + i) & splati(0x7fffffff));
    const int32_t bits = maximum(best);
    float largest;
    __builtin_memcpy(&largest, &bits, 4);
    const bool finite = bits < 0x7f800000, any = finite && largest > 7.9e-31f;
    if (kLimitNorm && any) limit = i16_limit(y, n, largest);
    // Below 2^-100 the inverse would overflow; such a block counts as zero.
    const float inverse = any ? limit / largest : 0.0f;
    for (int i = 0; i < n; i += W) {
        const Vi q = inverse > 0 ? to_int(loadf(y + i) * splat(inverse)) : splati(0);
        typedef Narrow Out __attribute__((vector_size(W * sizeof(Narrow))));
        store(out + i, __builtin_convertvector(q + splati(offset), Out));
    }
    return finite ? largest / limit : __builtin_nanf("");
}

// Values from `inside` of a block on, where a group begins.
static void quantize_rotated(Kind kind, const float* y, int inside, int n, void* out, float* scales, int64_t stride) {
    alignas(64) float rotated[kRotated];
    for (int i = 0; i < n; i += kRotated) {
        const int at = inside + i;
        rotate_group(y + i, min_int(kRotated, n - i), rotated);
        scales[at / kRotated * stride] =
            kind == Kind::i16r
                ? quantize_row_block<int16_t>(rotated, kRotated, (int16_t*)out + at, kI16Largest, 0)
                : quantize_row_block<uint8_t>(rotated, kRotated, (uint8_t*)out + at, 127, kRotatedOffset);
    }
}

// Columns [col0, col0 + n) of one row; y is read (and its tail overwritten). For integers,
// col0 begins what shares a scale.
static void write_activation(const Activation& a, int64_t row, int col0, float* y, int n) {
    const int kind = (int)a.kind, words = kBlockWords[kind], elems = words * kWordElems[kind];
    while (n > 0) {
        const int block = col0 / elems, inside = col0 % elems, part = min_int(n, elems - inside);
        uint32_t* out = a.data + ((int64_t)block * a.rows + row) * words;
        float* scale = a.scales + (int64_t)block * scales_in_block(a.kind) * a.rows + row;
        if (is_rotated(a.kind))
            quantize_rotated(a.kind, y, inside, part, out, scale, a.rows);
        else if (a.kind == Kind::f32)
            __builtin_memcpy(out + inside, y, part * sizeof(float));
        else if (a.kind == Kind::bf16) {
            narrow_bf16(y, part, (uint16_t*)out + inside);
            if (col0 + part == a.cols && a.cols % 2) ((uint16_t*)out)[inside + part] = 0;  // the rest of the last word
        } else if (a.kind == Kind::i16)
            *scale = quantize_row_block<int16_t, true>(y, part, (int16_t*)out, kI16Largest, 0);
        else
            *scale = quantize_row_block<uint8_t>(y, part, (uint8_t*)out, kI8Offset - 1, kI8Offset);
        col0 += part, y += part, n -= part;
    }
}

static void pack_activation(const float* x, int64_t x_stride, const Activation& a, int64_t row0, int rows, float* row) {
    for (int r = 0; r < rows; r++) {
        __builtin_memcpy(row, x + r * x_stride, a.cols * sizeof(float));
        write_activation(a, row0 + r, 0, row, a.cols);
    }
}

static void unpack_rotated(const Activation& a, int64_t row0, int rows, float* out) {
    const int words = kBlockWords[(int)a.kind], groups = scales_in_block(a.kind), bytes = 4 / kWordElems[(int)a.kind];
    alignas(64) float group[kRotated];
    for (int64_t r = row0; r < row0 + rows; r++)
        for (int i = 0; i < a.cols; i += kRotated) {
            const int g = i / kRotated;
            const char* q = (const char*)(a.data + (g / groups * a.rows + r) * words) + g % groups * kRotated * bytes;
            const float scale = a.scales[(int64_t)g * a.rows + r] / kRotated;
            for (int k = 0; k < kRotated; k++)
                group[k] = (float)(bytes == 2       ? ((const int16_t*)q)[k]
                                   : kRotatedOffset ? ((const uint8_t*)q)[k] - kRotatedOffset
                                                    : ((const int8_t*)q)[k]) *
                           scale;
            rotate_group(group, kRotated, group);
            const int n = min_int(kRotated, a.cols - i);
            __builtin_memcpy(out, group, n * sizeof(float));
            out += n;
        }
}

static void unpack(const Activation& a, int64_t row0, int rows, float* out) {
    const int kind = (int)a.kind, words = kBlockWords[kind], elems = words * kWordElems[kind];
    if (is_rotated(a.kind)) return unpack_rotated(a, row0, rows, out);
    for (int64_t r = row0; r < row0 + rows; r++)
        for (int i = 0; i < a.cols; i++, out++) {
            const uint32_t* row = a.data + (i / elems * a.rows + r) * words;
            const float scale = !is_scaled(a.kind) ? 1.0f : a.scales[i / elems * a.rows + r];
            if (a.kind == Kind::f32)
                *out = ((const float*)row)[i % elems];
            else if (a.kind == Kind::bf16)
                *out = bf16_to_float(((const uint16_t*)row)[i % elems]);
            else if (a.kind == Kind::i16)
                *out = (float)((const int16_t*)row)[i % elems] * scale;
            else
                *out = (float)(((const uint8_t*)row)[i % elems] - kI8Offset) * scale;
        }
}

// ------------------------------------------------------------------------------------------------------------ weights

static void widen(const uint16_t* from, Dtype dtype, int64_t count, float* to) {
    if (dtype == Dtype::bf16)
        for (int64_t i = 0; i < count; i += W) store(to + i, widen_bf16(from + i));
    else
        for (int64_t i = 0; i < count; i += W) store(to + i, widen_f16(from + i));
}

static void widen_i8(const int8_t* from, int count, int16_t* to) {  // count: whole vectors
    constexpr int n = 2 * W;
    typedef int8_t Bytes __attribute__((vector_size(n)));
    typedef int16_t Words __attribute__((vector_size(2 * n)));
    for (int i = 0; i < count; i += n) store(to + i, __builtin_convertvector(load<Bytes>(from + i), Words));
}

static void widen_row(const void* src, Dtype dtype, int n, float* out) {
    if (dtype == Dtype::f32)
        __builtin_memcpy(out, src, n * sizeof(float));
    else
        for (int i = 0; i < n; i++)
            out[i] = dtype == Dtype::bf16 ? bf16_to_float(((const uint16_t*)src)[i])
                                          : f16_to_float(((const uint16_t*)src)[i]);
}

// The scale is the smallest that keeps both |q| <= kI16Largest and the norm of q within kI16Norm; the last line is the
// proof's premise, checked on the integers themselves.
static float quantize_i16(const float* w, int n, int16_t* q) {
    double squares = 0, largest = 0;
    for (int i = 0; i < n; i++) {
        const double magnitude = __builtin_fabs((double)w[i]);
        squares += magnitude * magnitude;
        largest = magnitude > largest ? magnitude : largest;
    }
    if (!__builtin_isfinite(squares)) return __builtin_nanf("");  // q stays zero, the result becomes NaN
    double scale = __builtin_sqrt(squares) / kI16NormBefore;
    scale = largest / kI16Largest > scale ? largest / kI16Largest : scale;
    const double inverse = scale > 0 ? 1 / scale : 0;
    int64_t sum = 0;
    for (int i = 0; i < n; i++) {
        q[i] = (int16_t)__builtin_nearbyint(w[i] * inverse);
        sum += (int64_t)q[i] * q[i];
    }
    if (sum > (int64_t)kI16Norm * kI16Norm) __builtin_trap();
    return (float)scale;
}

static float quantize_i8(const float* w, int n, int8_t* q, int32_t* offset, int activation_offset) {
    float largest = 0, total = 0;
    for (int i = 0; i < n; i++) {
        largest = __builtin_fabsf(w[i]) > largest ? __builtin_fabsf(w[i]) : largest;
        total += w[i];
    }
    *offset = 0;
    if (!__builtin_isfinite(total)) return __builtin_nanf("");
    const float inverse = largest > 0 ? 127 / largest : 0;
    int32_t sum = 0;
    for (int i = 0; i < n; i++) {
        q[i] = (int8_t)__builtin_nearbyintf(w[i] * inverse);
        sum += q[i];
    }
    *offset = -sum * activation_offset;
    return largest / 127;
}

// One block of one row, as words, to its place in the panel: a column of the (words x NR) matrix.
template <class Word>
static void scatter(const void* row, int words, Word* panel_block, int column) {
    for (int k = 0; k < words; k++) {
        Word word;
        __builtin_memcpy(&word, (const char*)row + k * sizeof(Word), sizeof(Word));
        panel_block[k * NR + column] = word;
    }
}

static void pack_block(const Weight& w, unsigned char* to, int64_t scale_at, int column, const float* row, int n) {
    alignas(64) int16_t q[512] = {};
    const int words = words_of(w.kind, n);
    if (w.kind == Kind::bf16) {
        narrow_bf16(row, n, (uint16_t*)q);
        scatter(q, words, (uint32_t*)to, column);
    } else if (w.storage == Storage::f32)
        scatter(row, words, (uint32_t*)to, column);
    else if (w.kind == Kind::i16) {
        w.scales[scale_at] = quantize_i16(row, n, q);
        scatter(q, words, (uint32_t*)to, column);
    } else if (w.kind == Kind::i8) {
        w.scales[scale_at] = quantize_i8(row, n, (int8_t*)q, w.offsets + scale_at, kI8Offset);
        scatter(q, words, (uint32_t*)to, column);
    } else {
        alignas(64) float rotated[kRotated];
        for (int i = 0; i < n; i += kRotated, scale_at += (int64_t)w.panels * NR) {
            rotate_group(row + i, min_int(kRotated, n - i), rotated);
            int32_t offset;
            const float scale = quantize_i8(rotated, kRotated, (int8_t*)q + i, &offset, kRotatedOffset);
            w.scales[scale_at] = scale / kRotated;
            if (w.offsets) w.offsets[scale_at] = offset;
        }
        if (w.kind == Kind::i16r)
            scatter(q, words, (uint16_t*)to, column);
        else
            scatter(q, words, (uint32_t*)to, column);
    }
}

constexpr int kPackWords = 64;

// Rows that are stored as they came. A few words of all rows at a time: the lines that are written stay in the L1 cache
// until they are full.
template <class Word>
static void copy_rows(const Weight& w, Word* panel, int first, int rows, const Word* src, int64_t src_stride) {
    for (int start = 0; start < w.in; start += kPackWords) {
        const int end = min_int(start + kPackWords, w.in);
        for (int r = 0; r < rows; r++) {
            const Word* from = src + r * src_stride;
            for (int k = start; k < end; k++) panel[k * NR + first + r] = from[k];
        }
    }
}

// Rows [first, first + rows) of one panel. When the weight is stored in 16 bits for fp32 arithmetic, `dtype` is that.
static void pack_weight(const Weight& w, int panel, int first, int rows, const void* src, int64_t src_stride,
                        Dtype dtype, float* row) {
    const int elems = kBlockWords[(int)w.kind] * kWordElems[(int)w.kind];
    const int bytes = kStorageBits[(int)w.storage] / 8, src_bytes = dtype == Dtype::f32 ? 4 : 2;
    unsigned char* to_panel = w.data + panel * w.panel_bytes;
    if (w.kind == Kind::f32 && bytes == src_bytes) {
        if (bytes == 4)
            copy_rows(w, (uint32_t*)to_panel, first, rows, (const uint32_t*)src, src_stride);
        else
            copy_rows(w, (uint16_t*)to_panel, first, rows, (const uint16_t*)src, src_stride);
        return;
    }
    for (int r = 0; r < rows; r++) {
        const char* from = (const char*)src + r * src_stride * src_bytes;
        widen_row(from, dtype, w.in, row);
        for (int block = 0; block < w.blocks; block++) {
            const int64_t at = ((int64_t)block * scales_in_block(w.kind) * w.panels + panel) * NR + first + r;
            unsigned char* to = to_panel + (int64_t)block * elems * NR * bytes;
            pack_block(w, to, at, first + r, row + block * elems, min_int(elems, w.in - block * elems));
        }
    }
}
