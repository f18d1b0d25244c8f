// Weights of 8 bits in groups, for fp32 arithmetic: int8 values with a scale, and perhaps an offset, for each group of a
// row. An expanded value is scale * q + offset, as it would be loaded. A 32-bit word holds four values of one column, the
// first one in its low byte.
#pragma once

template <bool has_offsets>
INLINE void expand_bytes(const uint32_t* from, const float* scales, const float* offsets, int count, float* to) {
    for (int v = 0; v < kTileVectors; v++) {
        const Vf scale = loadf(scales + v * W), offset = has_offsets ? loadf(offsets + v * W) : splat(0.0f);
        for (int k = 0; k < count; k++) {
            const Vu word = load<Vu>(from + k * NR + v * W);
            float* out = to + (int64_t)k * kQ8Values * NR + v * W;
#pragma GCC unroll 4
            for (int i = 0; i < kQ8Values; i++) {
                const Vf q = to_float((Vi)(word << (24 - 8 * i)) >> 24);
                store(out + i * NR, has_offsets ? scale * q + offset : scale * q);
            }
        }
    }
}

template <bool has_offsets>
INLINE void expand_byte_block(const Weight& w, const uint32_t* from, int64_t first, int elems, float* to) {
    for (int at = 0, g = 0; at < elems; at += w.group, g++) {
        const int64_t place = (first + g) * NR;
        expand_bytes<has_offsets>(from + (int64_t)at / kQ8Values * NR, (const float*)w.group_scales + place,
                                  (const float*)w.group_offsets + place, min_int(w.group, elems - at) / kQ8Values,
                                  to + (int64_t)at * NR);
        prefetch_next_panel<float>(w, w.group_scales, place);
        if (has_offsets) prefetch_next_panel<float>(w, w.group_offsets, place);
    }
}

// `words` of the block, as the matrix product in fp32 reads them.
static void expand_bytes_in_groups(const Weight& w, const uint32_t* from, int panel, int block, int words, float* to) {
    const int64_t first = (int64_t)panel * w.groups + (int64_t)block * kBlockWords[(int)Kind::f32] / w.group;
    if (w.group_offsets)
        expand_byte_block<true>(w, from, first, words, to);
    else
        expand_byte_block<false>(w, from, first, words, to);
}

// Rows [first, first + rows) of one panel; code c stands for c - 128.
static void pack_bytes_in_groups(const Weight& w, int panel, int first, int rows, const GroupRows& from) {
    for (int r = 0; r < rows; r++) {
        const uint8_t* codes = from.codes + r * from.codes_stride;
        uint32_t* words = (uint32_t*)(w.data + panel * w.panel_bytes) + first + r;
        for (int i = 0; i < w.in; i += kQ8Values) {
            uint32_t word = 0;
            for (int j = 0; j < kQ8Values; j++) word |= (uint32_t)(uint8_t)(codes[i + j] ^ 0x80) << (8 * j);
            words[(int64_t)i / kQ8Values * NR] = word;
        }
        for (int g = 0; g < w.groups; g++) {
            const int64_t to = ((int64_t)panel * w.groups + g) * NR + first + r;
            const int64_t source = r * from.scales_stride + (int64_t)g * w.group / from.group;
            ((float*)w.group_scales)[to] = from.scales[source];
            if (w.group_offsets) ((float*)w.group_offsets)[to] = from.offsets ? from.offsets[source] : 0.0f;
        }
    }
}
