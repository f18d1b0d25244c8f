// Products of up to 32 rows and a panel in AMX tiles (Intel's instruction set reference, TDPBUSD and TDPBF16PS). A tile is
// 16 rows of 16 words, so the layouts of kernel_table.h are tiles already: 16 rows of a block with its stride, and 16
// words of 16 columns of a panel. Two tiles of rows and two of columns make four tiles of sums for four loads.
//
// int8: exact, so the bits are those of every other kernel. bf16: the instruction adds the first values of 16 words in
// one fp32 sum, the second ones in another, then both, and that to the tile; subnormal numbers count as zero. So a row's
// result has the same bits in any company, but not those of the kernels without tiles.
//
// Needs _tile_* from immintrin.h, or from a model of them (tests/kernels/cpu/amx_model.h).
#pragma once

constexpr int kAmxRows = 32, kAmxColumns = 32, kAmxSide = 16;

static void amx_begin() {
    struct {
        uint8_t palette = 1, start_row = 0, reserved[14] = {};
        uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
        uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } tiles;
    _tile_loadconfig(&tiles);
}
static void amx_end() { _tile_release(); }

// Part of a matrix of words with zeros around it: what is no whole tile.
static void amx_copy(const uint32_t* from, int64_t stride, int rows, int words, uint32_t* to, int to_rows,
                     int to_words) {
    for (int r = 0; r < to_rows; r++)
        for (int k = 0; k < to_words; k++) to[r * to_words + k] = r < rows && k < words ? from[r * stride + k] : 0;
}

// sums[rows][columns] = a x b for whole pairs of tiles of columns; 32-bit integers, or fp32 where kFloats.
template <bool kFloats>
static void amx_products(const uint32_t* a, int64_t a_stride, int rows, const uint32_t* b, int columns, int words,
                         void* sums) {
    alignas(64) uint32_t spare_a[kAmxRows * kAmxSide], spare_b[kAmxSide * kAmxColumns], spare_c[kAmxRows * kAmxColumns];
    for (int column = 0; column < columns; column += kAmxColumns) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (int k = 0; k < words; k += kAmxSide) {
            const int left = words - k < kAmxSide ? words - k : kAmxSide;
            const uint32_t *x = a + k, *w = b + (int64_t)k * columns + column;
            int64_t x_stride = a_stride, w_stride = columns;
            if (rows < kAmxRows || left < kAmxSide) {
                amx_copy(x, a_stride, rows, left, spare_a, kAmxRows, kAmxSide);
                x = spare_a, x_stride = kAmxSide;
            }
            if (left < kAmxSide) {
                amx_copy(w, columns, left, kAmxColumns, spare_b, kAmxSide, kAmxColumns);
                w = spare_b, w_stride = kAmxColumns;
            }
            _tile_loadd(4, x, x_stride * 4);
            _tile_loadd(5, x + kAmxSide * x_stride, x_stride * 4);
            _tile_loadd(6, w, w_stride * 4);
            _tile_loadd(7, w + kAmxSide, w_stride * 4);
            if constexpr (kFloats) {
                _tile_dpbf16ps(0, 4, 6);
                _tile_dpbf16ps(1, 4, 7);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            } else {
                _tile_dpbusd(0, 4, 6);
                _tile_dpbusd(1, 4, 7);
                _tile_dpbusd(2, 5, 6);
                _tile_dpbusd(3, 5, 7);
            }
        }
        _tile_stored(0, spare_c, kAmxColumns * 4);
        _tile_stored(1, spare_c + kAmxSide, kAmxColumns * 4);
        _tile_stored(2, spare_c + kAmxSide * kAmxColumns, kAmxColumns * 4);
        _tile_stored(3, spare_c + kAmxSide * kAmxColumns + kAmxSide, kAmxColumns * 4);
        for (int r = 0; r < rows; r++)
            __builtin_memcpy((uint32_t*)sums + (int64_t)r * columns + column, spare_c + r * kAmxColumns,
                             kAmxColumns * 4);
    }
}
