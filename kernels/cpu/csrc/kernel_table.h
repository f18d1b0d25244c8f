// What one instruction set offers: plain structs and one table of functions, filled once per instruction set by
// kernels_isa.cpp. Nothing here may emit code: this header is compiled with many different -m flags, and a function
// that the linker merges between them would run AVX-512 on a processor that has none.
//
// The 32-bit word is the unit of all matrix layouts: one float, two int16 or bf16, or four int8 along K. A matrix product is
// the same loop over words whatever they hold; only the multiply-add instruction differs.
//
//   Activation  [block][row][words of a block]   a row's words of one K block are contiguous; stride is a constant
//   Weight      [panel][block][word][panel_width] panel_width output rows side by side, ready for vector loads
#pragma once

#include <cstddef>
#include <cstdint>

namespace engine_cpu {

enum class Kind : int { f32 = 0, i16 = 1, i8 = 2, bf16 = 3, i8r = 4, i16r = 5 };  // arithmetic of a linear layer
enum class Storage : int { f32 = 0, bf16 = 1, f16 = 2, i16 = 3, i8 = 4, q4 = 5, q8 = 6 };  // its weights in memory
enum class Dtype : int { f32 = 0, bf16 = 1, f16 = 2 };                                     // of rows that are loaded
enum class Gate : int { silu = 0, gelu = 1, gelu_tanh = 2 };

// Words of one K block: what stays in the first-level cache. Integers share a scale in each block; those in rotated
// groups (rotation.h) in each group. There i8r has 8 bits on either side; i16r has 16 in the activations and 8 in the
// weights, which are widened in the cache. Floats have no scales.
constexpr int kKinds = 6;
constexpr int kBlockWords[kKinds] = {128, 128, 128, 128, 128, 128};
constexpr int kScaleWords[kKinds] = {128, 128, 128, 128, 32, 64};
constexpr int kWordElems[kKinds] = {1, 2, 4, 2, 4, 2};
static constexpr bool is_i8(Kind kind) { return kind == Kind::i8 || kind == Kind::i8r; }
static constexpr bool is_rotated(Kind kind) { return kind == Kind::i8r || kind == Kind::i16r; }
static constexpr bool is_scaled(Kind kind) { return kind == Kind::i16 || kind == Kind::i8 || is_rotated(kind); }
static constexpr int scales_in_block(Kind kind) { return kBlockWords[(int)kind] / kScaleWords[(int)kind]; }
constexpr int kRotated = 128;
static_assert(kScaleWords[(int)Kind::i8r] * kWordElems[(int)Kind::i8r] == kRotated);
static_assert(kScaleWords[(int)Kind::i16r] * kWordElems[(int)Kind::i16r] == kRotated);
// Words that `elems` values of a row take, from the start of a block on.
static constexpr int words_of(Kind kind, int elems) {
    const int unit = is_rotated(kind) ? kRotated : kWordElems[(int)kind];
    return (elems + unit - 1) / unit * unit / kWordElems[(int)kind];
}
constexpr int kStorageBits[7] = {32, 16, 16, 16, 8, 4, 8};

// 4 bits in groups: w = scale * level[code] + offset, a scale (and perhaps an offset) for every `group` values of a row.
// A 32-bit word holds eight values of one column: value i at the bits 8 (i mod 4) + 4 (i div 4), so that the low nibbles
// are the bytes of one int8 word and the high ones those of the next.
constexpr int kQ4Values = 8;
constexpr int kQ8Values = 4;  // 8 bits in groups: values of one column in a 32-bit word
// Integers: level16 * multiplier, the upper half of the product, rounded (pmulhrsw), plus the offset.
constexpr int kQ4Shift = 15;

// int16: the integers of one row's block, on either side, have at most this Euclidean norm. By Cauchy and Schwarz
// |sum a_k w_k| <= |a| |w| <= 46340^2 = 2147395600 < 2^31, for every partial sum in every order.
constexpr int kI16Norm = 46340;
constexpr int kI16Largest = 32767;
constexpr int kI16BlockElems = kBlockWords[(int)Kind::i16] * kWordElems[(int)Kind::i16];
// Rounding moves each of n numbers by at most 1/2, so the norm by at most sqrt(n)/2. One more for the arithmetic of the
// norm itself, whose relative error in fp32 is below 1e-5.
constexpr float kI16NormBefore = kI16Norm - 8 - 1;
static_assert(kI16BlockElems == 256, "sqrt(256) / 2 = 8");

struct Activation {
    Kind kind;
    int64_t rows;
    int cols;
    int blocks;
    uint32_t* data;
    float* scales;  // [blocks x scales of a block][rows], null for floats
};

struct Weight {
    Kind kind;
    Storage storage;
    int out;
    int in;
    int blocks;
    int panels;
    int64_t panel_bytes;
    unsigned char* data;
    float* scales;     // [blocks x scales of a block][panels * panel_width], null for floats
    int32_t* offsets;  // same shape, int8 only: what the unsigned form of the activations adds, negated
    float* bias;       // [panels * panel_width]
    // q4 and q8 only:
    int group;            // values that share a scale here; divides a block
    int groups;           // of a row
    void* group_scales;   // [panel][group][panel_width]: float for f32, else int16 multipliers of levels16
    void* group_offsets;  // the same, or null
    // q4 only:
    float levels[16];
    int16_t levels16[16];  // unit * (level - center)
    float unit, center;
};

struct GroupRows {         // rows of a q4 or q8 weight as they are loaded
    const uint8_t* codes;  // one a byte
    int64_t codes_stride;
    const float* scales;
    const float* offsets;  // null: none
    int64_t scales_stride;
    int group;  // values of a row that share a scale there
};

struct GemmTask {  // c[rows][run of panels ...] = a[row0 : row0 + rows] x weight panels
    const Activation* a;
    const Weight* w;
    int64_t row0;
    int rows;
    int num_runs;
    int panel0[2];
    int num_panels[2];
    float* c;  // runs side by side
    int c_stride;
    float* expanded;  // room for one block of one panel in words
};

struct StoreTask {  // out = c + bias, or out += c + bias
    const float* c;
    const float* bias;
    int c_stride;
    int rows;
    int cols;
    float* out;
    int64_t out_stride;
    bool add;
};

struct GateTask {  // out[row0 + r][col0 + j] = gate(c_gate + bias_gate) * (c_up + bias_up); without c_up: no product
    Gate gate;
    const float* c_gate;
    const float* c_up;
    const float* bias_gate;
    const float* bias_up;
    int c_stride;
    int rows;
    int cols;
    Activation out;
    int64_t row0;
    int col0;
};

struct NormTask {
    const float* x;
    int64_t x_stride;
    const float* weight;
    const float* bias;  // layer_norm only, may be null
    float eps;
    Activation out;     // rms_norm
    float* plain;       // layer_norm: contiguous rows
    float* row_buffer;  // room for one row
    int64_t row0;
    int rows;
    int cols;
};

struct RopeTask {
    const float* qkv;
    int64_t qkv_stride;
    const float* q_weight;  // null: no norm
    const float* k_weight;
    float eps;
    const float* cos;  // [position][head_dim / 2]
    const float* sin;
    const int64_t* positions;
    int num_heads;
    int num_kv_heads;
    int head_dim;
    float* q;  // element (t, n, h) at t * row_stride + n * head_stride + h
    float* k;
    float* v;
    int64_t row_stride, head_stride;
    int64_t row0;
    int rows;
};

constexpr int kKeyBlock = 256;  // keys whose scores are in the cache at once
constexpr int kMaxLanes = 32;

struct KeyRun {  // keys and values that lie together: n rows of one head
    const float* k;
    const float* v;
    int64_t k_stride;
    int64_t v_stride;
    int n;
};

struct AttentionTile {  // up to `lanes` query rows of one key/value head of one segment
    const float* q_rows[kMaxLanes];
    int limits[kMaxLanes];        // own keys each row sees
    int64_t out_rows[kMaxLanes];  // where the results go: row and first column
    int out_cols[kMaxLanes];
    int rows;
    int own_keys;  // that some row sees
};

struct AttentionTask {  // tiles of one segment that read the same keys, a block of them at a time
    const AttentionTile* tiles;
    int num_tiles;
    const KeyRun* runs;  // context first; the last one holds the own keys
    int num_runs;
    int head_dim;
    float scale;
    int context;             // keys before the own ones
    int window;              // keys that a row sees at most, the last of all that it would see; 0: no such limit
    float cap;               // scores s become cap * tanh(s / cap); 0: they stay
    float* scratch;          // attention_floats(head_dim, num_tiles), aligned to a vector
    float* out;              // columns come in pieces (the blocks of an activation) of out_piece columns,
    int64_t out_row_stride;  // out_piece_stride apart
    int64_t out_piece_stride;
    int out_piece;
};

struct Products {  // by Kind
    void (*gemm[kKinds])(const GemmTask&);
    // Loops of multiply-adds on registers alone: the ceiling that the other kernels are measured against.
    double (*ceiling[kKinds])(int64_t iterations);
};

struct KernelTable {
    const char* name;
    int lanes;        // query rows of an attention tile
    int panel_width;  // output rows of a weight panel
    int tile_rows;    // activation rows of a full register tile
    int i8_offset;    // int8 activations are stored as value + offset; they are rounded to +-(offset - 1)
    Products products;
    void (*store)(const StoreTask&);
    void (*gate)(const GateTask&);
    void (*pack_activation)(const float* x, int64_t x_stride, const Activation& out, int64_t row0, int rows,
                            float* row_buffer);
    void (*pack_weight)(const Weight& w, int panel, int first, int rows, const void* src, int64_t src_stride,
                        Dtype dtype, float* row_buffer);
    void (*pack_groups)(const Weight& w, int panel, int first, int rows, const GroupRows& from, float* row_buffer);
    void (*widen)(const uint16_t* from, Dtype dtype, int64_t count, float* to);  // count: whole vectors
    void (*unpack)(const Activation& a, int64_t row0, int rows, float* out);     // as fp32, contiguous rows
    void (*rms_norm)(const NormTask&);
    void (*layer_norm)(const NormTask&);
    void (*qk_norm_rope)(const RopeTask&);
    void (*attention)(const AttentionTask&);
    int64_t (*attention_floats)(int head_dim, int num_tiles);
};

}  // namespace engine_cpu
