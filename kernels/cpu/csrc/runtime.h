// The operations of a model on whole tensors: they cut the work into tasks that fit the second-level cache, hand them
// to the threads, and call the kernels of the chosen instruction set. Raw pointers in, recycled buffers out.
#pragma once

#include <algorithm>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "kernel_table.h"
#include "memory.h"
#include "thread_pool.h"

namespace engine_cpu {

struct Tensor {  // fp32, contiguous unless strides say otherwise
    std::shared_ptr<void> memory;
    float* data() const { return static_cast<float*>(memory.get()); }
};

struct ActivationBuffer {
    std::shared_ptr<void> memory;
    Activation view;
};

struct RowsView {  // (rows, cols) fp32 with contiguous columns
    const float* data;
    int64_t stride;
    int64_t rows;
    int cols;
};

class Runtime;

class LinearWeight {
  public:
    LinearWeight(std::shared_ptr<Runtime> runtime, int out, int in, Kind kind);
    void load_rows(int64_t start, int64_t rows, const void* src, int64_t src_stride, Dtype dtype);
    void load_bias(int64_t start, int64_t count, const float* src);
    // Before anything is loaded: 4 or 8 bits a value, `levels` of the 16 or 256 codes, a scale for each `group` values.
    void keep_groups(int group, const std::vector<float>& levels, bool has_offsets);
    void load_groups(int64_t start, int64_t rows, const GroupRows& from);
    size_t num_bytes() const;
    int out() const { return view_.out; }
    int in() const { return view_.in; }
    const Weight& view() const;  // throws before the first rows are loaded

  private:
    void reserve(Storage storage);
    void set_levels(const std::vector<float>& levels, bool has_offsets);
    void widen_storage();
    int64_t words_in_panel() const;

    std::shared_ptr<Runtime> runtime_;
    Weight view_{};
    Owned<unsigned char> data_, group_scales_, group_offsets_;
    size_t group_bytes_ = 0;
    Owned<float> scales_, bias_;
    Owned<int32_t> offsets_;
};

struct HeadStrides {
    int64_t row, head;
};

struct RopeShape {
    int num_heads, num_kv_heads, head_dim;
};

struct RopeInput {
    RowsView qkv;
    const float *q_weight, *k_weight;
    float eps;
    const float *cos, *sin;
    const int64_t* positions;
};

struct RopeResult {
    Tensor q, k, v;  // (heads, T, H): what attention reads in one go lies together
};

// Who attends to what, and how the query rows are cut into tiles. Built once a step, used by all layers.
class AttentionPlan {
  public:
    struct Segment {
        int64_t q_start, q_len, own_start, own_len;
        int context;
    };
    struct Range {
        int64_t start, length;
    };
    struct Tile {
        int segment;
        int64_t first_row;  // of the segment's q_len * group rows
        int rows;
        int64_t own_keys;  // that some row sees
    };
    std::vector<Segment> segments;
    std::vector<std::vector<Range>> contexts;
    int64_t kv_capacity;
    bool causal;
    int64_t num_queries = 0;

    std::vector<Tile> tiles(int group, int lanes) const;
};

struct AttentionInput {
    const float *q, *k, *v, *k_cache, *v_cache;
    HeadStrides q_strides, k_strides, v_strides, k_cache_strides, v_cache_strides;
    RopeShape shape;
    float scale;
    int window;  // 0: none
    float cap;   // 0: none
};

// The largest task of a matrix product: the bytes of its results in fp32 and its columns. The results stay in the
// second-level cache until the epilogue has read them, beside one block of the activations and two of a panel. More rows
// a task mean that weights stored in 16 bits are widened less often. No choice changes a result.
struct TaskLimits {
    int64_t bytes;
    int cols;
};
TaskLimits limits_by_cache();  // a quarter of the second-level cache

class Runtime : public std::enable_shared_from_this<Runtime> {
  public:
    Runtime(int num_threads, const std::string& isa, bool pin);

    const KernelTable& table() const { return table_; }
    int num_threads() const { return pool_.size(); }
    ThreadPool& pool() { return pool_; }
    BufferCache& buffers() { return *buffers_; }
    TaskLimits task_limits = limits_by_cache();

    ActivationBuffer new_activation(Kind kind, int64_t rows, int cols);
    Tensor new_tensor(int64_t count);

    ActivationBuffer pack(Kind kind, const RowsView& x);
    Tensor unpack(const Activation& a);
    Tensor linear(const Activation& a, const LinearWeight& w);
    void linear_add(const Activation& a, const LinearWeight& w, float* residual, int64_t stride);
    // The weight's rows are [gate; up], or just gate.
    ActivationBuffer linear_gate(const Activation& a, const LinearWeight& w, Gate gate, bool has_up, Kind out);
    ActivationBuffer rms_norm(Kind kind, const RowsView& x, const float* weight, float eps);
    Tensor layer_norm(const RowsView& x, const float* weight, const float* bias, float eps);
    RopeResult qk_norm_rope(const RopeInput& in, const RopeShape& shape);
    ActivationBuffer attention(Kind kind, const AttentionInput& in, const AttentionPlan& plan);

    // Multiply-adds a second on all threads, operands in registers.
    double ceiling(Kind kind, int64_t iterations);

    // One buffer a thread, at least this large; only between jobs.
    void reserve_scratch(size_t floats);
    float* scratch(int thread) { return scratch_[static_cast<size_t>(thread)].get(); }

    // Held during an operation: two Python threads may share a runtime.
    std::mutex& mutex() { return mutex_; }

  private:
    // fn(row0, rows, thread) over pieces that are worth a task.
    template <class Fn>
    void for_rows(int64_t rows, int64_t row_floats, const Fn& fn) {
        if (rows == 0) return;
        reserve_scratch(static_cast<size_t>(row_floats + kRowPadding));
        const int64_t fair = (rows + num_threads() - 1) / num_threads();
        const int64_t piece = std::min(fair, std::max<int64_t>(1, kRowTaskFloats / row_floats));
        pool_.run((rows + piece - 1) / piece, [&](int64_t task, int thread) {
            fn(task * piece, static_cast<int>(std::min(piece, rows - task * piece)), thread);
        });
    }
    template <class Fn>
    void gemm(const Activation& a, const Weight& w, int cols, int unit, bool has_up, const Fn& epilogue);

    static constexpr int64_t kRowTaskFloats = 16 * 1024;  // of element-wise work: about 10 us
    static constexpr int64_t kRowPadding = 64;            // kernels write whole vectors

    const KernelTable& table_;
    std::mutex mutex_;
    ThreadPool pool_;
    std::shared_ptr<BufferCache> buffers_ = std::make_shared<BufferCache>();
    std::vector<Owned<float>> scratch_;
    size_t scratch_floats_ = 0;
};

}  // namespace engine_cpu
