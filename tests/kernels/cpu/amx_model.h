// AMX tiles in plain C, after the pseudo code of Intel's instruction set reference: what the intrinsics of immintrin.h do.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

struct AmxModel {
    bool configured = false;
    int rows[8] = {}, row_bytes[8] = {};
    uint8_t tiles[8][16][64];
};
inline AmxModel amx;

inline void _tile_loadconfig(const void* memory) {
    const auto* bytes = static_cast<const uint8_t*>(memory);
    if (bytes[0] != 1 || bytes[1] != 0) __builtin_trap();
    for (int t = 0; t < 8; t++) {
        uint16_t width;
        std::memcpy(&width, bytes + 16 + 2 * t, 2);
        amx.row_bytes[t] = width, amx.rows[t] = bytes[48 + t];
        if (width > 64 || amx.rows[t] > 16) __builtin_trap();
    }
    for (int i = 2; i < 16; i++)
        if (bytes[i]) __builtin_trap();
    for (int i = 56; i < 64; i++)
        if (bytes[i]) __builtin_trap();
    std::memset(amx.tiles, 0, sizeof amx.tiles);
    amx.configured = true;
}
inline void _tile_release() { amx.configured = false; }
inline void _tile_zero(int t) {
    if (!amx.configured) __builtin_trap();
    std::memset(amx.tiles[t], 0, sizeof amx.tiles[t]);
}
inline void _tile_loadd(int t, const void* from, int64_t stride) {
    _tile_zero(t);
    for (int r = 0; r < amx.rows[t]; r++)
        std::memcpy(amx.tiles[t][r], static_cast<const char*>(from) + r * stride, amx.row_bytes[t]);
}
inline void _tile_stored(int t, void* to, int64_t stride) {
    if (!amx.configured) __builtin_trap();
    for (int r = 0; r < amx.rows[t]; r++)
        std::memcpy(static_cast<char*>(to) + r * stride, amx.tiles[t][r], amx.row_bytes[t]);
}

inline void _tile_dpbusd(int c, int a, int b) {  // unsigned a, signed b
    for (int m = 0; m < amx.rows[c]; m++)
        for (int k = 0; k < amx.row_bytes[a] / 4; k++)
            for (int n = 0; n < amx.row_bytes[c] / 4; n++) {
                int32_t sum;
                std::memcpy(&sum, amx.tiles[c][m] + 4 * n, 4);
                for (int i = 0; i < 4; i++)
                    sum += amx.tiles[a][m][4 * k + i] * static_cast<int8_t>(amx.tiles[b][k][4 * n + i]);
                std::memcpy(amx.tiles[c][m] + 4 * n, &sum, 4);
            }
}

inline float amx_flushed(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x; }
inline float amx_bf16(const uint8_t* p) {
    const uint32_t bits = static_cast<uint32_t>(p[0]) << 16 | static_cast<uint32_t>(p[1]) << 24;
    float x;
    std::memcpy(&x, &bits, 4);
    return amx_flushed(x);
}
inline void _tile_dpbf16ps(int c, int a, int b) {
    for (int m = 0; m < amx.rows[c]; m++) {
        float temp[32] = {};
        for (int k = 0; k < amx.row_bytes[a] / 4; k++)
            for (int n = 0; n < amx.row_bytes[c] / 4; n++)
                for (int i = 0; i < 2; i++)
                    temp[2 * n + i] = amx_flushed(std::fma(amx_bf16(amx.tiles[a][m] + 4 * k + 2 * i),
                                                           amx_bf16(amx.tiles[b][k] + 4 * n + 2 * i), temp[2 * n + i]));
        for (int n = 0; n < amx.row_bytes[c] / 4; n++) {
            float sum;
            std::memcpy(&sum, amx.tiles[c][m] + 4 * n, 4);
            sum = amx_flushed(amx_flushed(sum) + amx_flushed(temp[2 * n] + temp[2 * n + 1]));
            std::memcpy(amx.tiles[c][m] + 4 * n, &sum, 4);
        }
    }
}
