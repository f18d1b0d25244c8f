// Matrix products: how they are cut into tasks, and what is done with each finished block.
#include <unistd.h>

#include <algorithm>
#include <stdexcept>

#include "runtime.h"

namespace engine_cpu {
namespace {

constexpr int64_t kExpandedFloats = 128 * 64;  // one block of the widest panel
// Cores are not equally fast for long, so the last tasks must be short; with few threads four each are still too long.
constexpr int kTasksPerThread = 4, kFewestTasks = 16;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t unit) { return ceil_div(a, unit) * unit; }

struct Split {
    int64_t rows, row_parts;
    int cols;
    int64_t col_parts;
};

// Tasks as large as the cache likes, then smaller ones until every thread has a few. Columns are cut first: a task
// reads its weights once however many rows it has. `unit`: columns that must stay together.
Split split(int64_t rows, int cols, int unit, int copies, int tile_rows, int threads, const TaskLimits& limits) {
    Split s{};
    s.cols =
        static_cast<int>(std::min<int64_t>(round_up(std::max(limits.cols / copies, unit), unit), round_up(cols, unit)));
    const int64_t floats = limits.bytes / static_cast<int64_t>(sizeof(float));
    const int64_t most_rows = std::max<int64_t>(floats / (s.cols * copies) / tile_rows, 1) * tile_rows;
    s.row_parts = ceil_div(rows, most_rows);
    auto tasks = [&] { return s.row_parts * ceil_div(cols, s.cols); };
    const int wanted = threads > 1 ? std::max(threads * kTasksPerThread, kFewestTasks) : 1;
    while (tasks() < wanted && s.cols > unit) s.cols = static_cast<int>(round_up(s.cols / 2, unit));
    if (tasks() < wanted) s.row_parts = std::min(ceil_div(rows, tile_rows), s.row_parts * ceil_div(wanted, tasks()));
    s.rows = round_up(ceil_div(rows, s.row_parts), tile_rows);
    s.row_parts = ceil_div(rows, s.rows);
    s.col_parts = ceil_div(cols, s.cols);
    return s;
}

struct Block {  // of finished products
    int thread;
    int64_t row0;
    int rows;
    int col0, cols;
    float* c;   // first column of the gate (or of the plain product)
    float* up;  // first column of the up part
    int stride;
};

int scale_elems(Kind kind) { return kScaleWords[static_cast<int>(kind)] * kWordElems[static_cast<int>(kind)]; }

}  // namespace

TaskLimits limits_by_cache() {
    int64_t bytes = 0;
#if defined(_SC_LEVEL2_CACHE_SIZE)
    bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    const int64_t cache = bytes > 0 ? std::clamp<int64_t>(bytes, 256 << 10, 4 << 20) : 1 << 20;
    return {cache / 4, 256};
}

template <class Fn>
void Runtime::gemm(const Activation& a, const Weight& w, int cols, int unit, bool has_up, const Fn& epilogue) {
    if (a.cols != w.in || a.kind != w.kind)
        throw std::invalid_argument("a linear layer of " + std::to_string(w.in) + " inputs got an activation of " +
                                    std::to_string(a.cols) + ", or one of another quantization");
    if (a.rows == 0) return;
    const int width = table_.panel_width, copies = has_up ? 2 : 1;
    const Split s = split(a.rows, cols, unit, copies, table_.tile_rows, num_threads(), task_limits);
    const int64_t stride = round_up(s.cols, width) * copies + (has_up ? width : 0);
    reserve_scratch(static_cast<size_t>(s.rows * stride + kExpandedFloats));
    pool_.run(s.row_parts * s.col_parts, [&](int64_t task, int thread) {
        const int64_t row0 = task % s.row_parts * s.rows;
        const int col0 = static_cast<int>(task / s.row_parts) * s.cols, part = std::min(s.cols, cols - col0);
        Block b{thread,
                row0,
                static_cast<int>(std::min(s.rows, a.rows - row0)),
                col0,
                part,
                nullptr,
                nullptr,
                static_cast<int>(stride)};
        float* expanded = scratch(thread);
        b.c = expanded + kExpandedFloats;
        GemmTask t{&a, &w, row0, b.rows, copies, {col0 / width, 0}, {0, 0}, b.c, b.stride, expanded};
        t.num_panels[0] = static_cast<int>(ceil_div(part, width));
        if (has_up) {  // the up rows begin anywhere in a panel when their number is odd
            const int first = cols + col0;
            t.panel0[1] = first / width;
            t.num_panels[1] = static_cast<int>(ceil_div(first + part, width)) - t.panel0[1];
            b.up = b.c + t.num_panels[0] * width + first % width;
        }
        table_.products.gemm[static_cast<int>(a.kind)](t);
        epilogue(b);
    });
}

Tensor Runtime::linear(const Activation& a, const LinearWeight& weight) {
    const Weight& w = weight.view();
    Tensor out = new_tensor(a.rows * w.out);
    gemm(a, w, w.out, table_.panel_width, false, [&](const Block& b) {
        table_.store(
            {b.c, w.bias + b.col0, b.stride, b.rows, b.cols, out.data() + b.row0 * w.out + b.col0, w.out, false});
    });
    return out;
}

void Runtime::linear_add(const Activation& a, const LinearWeight& weight, float* residual, int64_t stride) {
    const Weight& w = weight.view();
    gemm(a, w, w.out, table_.panel_width, false, [&](const Block& b) {
        table_.store(
            {b.c, w.bias + b.col0, b.stride, b.rows, b.cols, residual + b.row0 * stride + b.col0, stride, true});
    });
}

ActivationBuffer Runtime::linear_gate(const Activation& a, const LinearWeight& weight, Gate gate, bool has_up,
                                      Kind kind) {
    const Weight& w = weight.view();
    if (has_up && w.out % 2) throw std::invalid_argument("a gated layer needs as many up rows as gate rows");
    const int cols = has_up ? w.out / 2 : w.out;
    ActivationBuffer out = new_activation(kind, a.rows, cols);
    // What shares a scale in the result stays together.
    const int unit = is_scaled(kind) ? scale_elems(kind) : table_.panel_width;
    gemm(a, w, cols, unit, has_up, [&](const Block& b) {
        table_.gate({gate, b.c, b.up, w.bias + b.col0, w.bias + cols + b.col0, b.stride, b.rows, b.cols, out.view,
                     b.row0, b.col0});
    });
    return out;
}

}  // namespace engine_cpu
