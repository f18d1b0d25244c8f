#include "runtime.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>

#include "dispatch.h"

namespace engine_cpu {
namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

Runtime::Runtime(int num_threads, const std::string& isa, bool pin)
    : table_(select_table(isa)), pool_(num_threads, pin) {
    if (num_threads < 1) throw std::invalid_argument("at least one thread is needed");
    scratch_.resize(static_cast<size_t>(num_threads));
}

void Runtime::reserve_scratch(size_t floats) {
    if (floats <= scratch_floats_) return;
    for (auto& buffer : scratch_) buffer = owned<float>(floats);
    scratch_floats_ = floats;
}

Tensor Runtime::new_tensor(int64_t count) { return {buffers_->take(static_cast<size_t>(count) * sizeof(float))}; }

ActivationBuffer Runtime::new_activation(Kind kind, int64_t rows, int cols) {
    const int k = static_cast<int>(kind);
    const int blocks = static_cast<int>(ceil_div(cols, kBlockWords[k] * kWordElems[k]));
    const size_t words = static_cast<size_t>(rows) * blocks * kBlockWords[k];
    const size_t scales = is_scaled(kind) ? static_cast<size_t>(rows) * blocks * scales_in_block(kind) : 0;
    ActivationBuffer a{buffers_->take((words + scales) * 4), {kind, rows, cols, blocks, nullptr, nullptr}};
    a.view.data = static_cast<uint32_t*>(a.memory.get());
    if (scales) a.view.scales = reinterpret_cast<float*>(a.view.data + words);
    return a;
}

ActivationBuffer Runtime::pack(Kind kind, const RowsView& x) {
    ActivationBuffer out = new_activation(kind, x.rows, x.cols);
    for_rows(x.rows, x.cols, [&](int64_t row0, int rows, int thread) {
        table_.pack_activation(x.data + row0 * x.stride, x.stride, out.view, row0, rows, scratch(thread));
    });
    return out;
}

Tensor Runtime::unpack(const Activation& a) {
    Tensor out = new_tensor(a.rows * a.cols);
    for_rows(a.rows, a.cols,
             [&](int64_t row0, int rows, int) { table_.unpack(a, row0, rows, out.data() + row0 * a.cols); });
    return out;
}

ActivationBuffer Runtime::rms_norm(Kind kind, const RowsView& x, const float* weight, float eps) {
    ActivationBuffer out = new_activation(kind, x.rows, x.cols);
    for_rows(x.rows, x.cols, [&](int64_t row0, int rows, int thread) {
        table_.rms_norm({x.data + row0 * x.stride, x.stride, weight, nullptr, eps, out.view, nullptr, scratch(thread),
                         row0, rows, x.cols});
    });
    return out;
}

Tensor Runtime::layer_norm(const RowsView& x, const float* weight, const float* bias, float eps) {
    Tensor out = new_tensor(x.rows * x.cols);
    for_rows(x.rows, x.cols, [&](int64_t row0, int rows, int thread) {
        table_.layer_norm({x.data + row0 * x.stride,
                           x.stride,
                           weight,
                           bias,
                           eps,
                           {},
                           out.data(),
                           scratch(thread),
                           row0,
                           rows,
                           x.cols});
    });
    return out;
}

RopeResult Runtime::qk_norm_rope(const RopeInput& in, const RopeShape& shape) {
    const int64_t rows = in.qkv.rows, head = shape.head_dim;
    RopeResult out{new_tensor(rows * shape.num_heads * head), new_tensor(rows * shape.num_kv_heads * head),
                   new_tensor(rows * shape.num_kv_heads * head)};
    RopeTask task{};
    task.qkv = in.qkv.data;
    task.qkv_stride = in.qkv.stride;
    task.q_weight = in.q_weight;
    task.k_weight = in.k_weight;
    task.eps = in.eps;
    task.cos = in.cos;
    task.sin = in.sin;
    task.positions = in.positions;
    task.num_heads = shape.num_heads;
    task.num_kv_heads = shape.num_kv_heads;
    task.head_dim = shape.head_dim;
    task.q = out.q.data();
    task.k = out.k.data();
    task.v = out.v.data();
    task.row_stride = head;
    task.head_stride = rows * head;
    for_rows(rows, in.qkv.cols, [&](int64_t row0, int count, int) {
        RopeTask part = task;
        part.row0 = row0;
        part.rows = count;
        table_.qk_norm_rope(part);
    });
    return out;
}

double Runtime::ceiling(Kind kind, int64_t iterations) {
    std::vector<double> keep(static_cast<size_t>(num_threads()));
    const auto start = std::chrono::steady_clock::now();
    pool_.run(num_threads(), [&](int64_t task, int) {
        keep[static_cast<size_t>(task)] = table_.products.ceiling[static_cast<int>(kind)](iterations);
    });
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const double per_iteration =
        static_cast<double>(table_.tile_rows) * table_.panel_width * kWordElems[static_cast<int>(kind)];
    return per_iteration * static_cast<double>(iterations) * num_threads() / seconds;
}

}  // namespace engine_cpu
