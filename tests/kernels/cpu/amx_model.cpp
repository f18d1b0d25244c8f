// The AMX products against plain loops, the tile instructions being modelled: test_amx.py builds and runs it.
#include "amx_model.h"

#include <cstdio>
#include <vector>

#include "amx_products.h"

namespace {

uint32_t state = 12345;
uint32_t random_bits() { return state = state * 1664525u + 1013904223u, state >> 8 ^ state << 16; }

float value(uint32_t word, int i) {  // of the two bf16
    const uint32_t bits = i ? word & 0xffff0000u : word << 16;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

int32_t integers(const uint32_t* a, const uint32_t* b, int columns, int words) {
    int32_t sum = 0;
    for (int k = 0; k < words; k++)
        for (int i = 0; i < 4; i++)
            sum += static_cast<int32_t>(a[k] >> 8 * i & 0xff) * static_cast<int8_t>(b[k * columns] >> 8 * i & 0xff);
    return sum;
}

// Sixteen words at a time: the lower values, the upper ones, both together, and that to the total.
float floats(const uint32_t* a, const uint32_t* b, int columns, int words) {
    float total = 0;
    for (int k = 0; k < words; k += 16) {
        float part[2] = {0, 0};
        for (int j = k; j < k + 16 && j < words; j++)
            for (int i = 0; i < 2; i++) part[i] += value(a[j], i) * value(b[j * columns], i);
        total += part[0] + part[1];
    }
    return total;
}

uint32_t word(bool is_float) {  // bf16 of either sign between 1/4 and 8
    return is_float ? (random_bits() & 0x81ff81ffu) | 0x3e803e80u : random_bits();
}

}  // namespace

int main() {
    constexpr int stride = 128, columns = 64;
    int compared = 0, different = 0;
    for (int rows : {1, 15, 16, 17, 31, 32})
        for (int words : {1, 15, 16, 33, 128})
            for (bool is_float : {false, true}) {
                // No element more than there must be: a sanitizer would see what is read beyond.
                std::vector<uint32_t> a((rows - 1) * stride + words), b(words * columns), sums(rows * columns);
                for (auto& x : a) x = word(is_float);
                for (auto& x : b) x = word(is_float);
                amx_begin();
                if (is_float)
                    amx_products<true>(a.data(), stride, rows, b.data(), columns, words, sums.data());
                else
                    amx_products<false>(a.data(), stride, rows, b.data(), columns, words, sums.data());
                amx_end();
                for (int r = 0; r < rows; r++)
                    for (int c = 0; c < columns; c++, compared++) {
                        const float x = floats(&a[r * stride], &b[c], columns, words);
                        int32_t expected = integers(&a[r * stride], &b[c], columns, words);
                        if (is_float) std::memcpy(&expected, &x, 4);
                        different += static_cast<int32_t>(sums[r * columns + c]) != expected;
                    }
            }
    std::printf("%d compared, %d different\n", compared, different);
    return different != 0;
}
