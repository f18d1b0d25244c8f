// Attention over contexts and own tokens: tiles of query rows, ordered so that a thread keeps one key/value head of one
// context in its cache while the segments that share it go by.
#include <algorithm>
#include <stdexcept>

#include "runtime.h"

namespace engine_cpu {
namespace {

constexpr int64_t kLeastTaskCost = 4096;  // tile columns; about a tenth of a millisecond

size_t scratch_floats(int head_dim, int lanes) {
    return static_cast<size_t>(2 * (head_dim + 16) + kKeyBlock) * static_cast<size_t>(lanes);
}

// First tile of each task: neighbours of about equal cost.
std::vector<size_t> cut(const std::vector<AttentionPlan::Tile>& tiles, int kv_heads, int threads) {
    int64_t total = 0;
    for (const auto& tile : tiles) total += tile.cost;
    const int64_t wanted = std::max(kLeastTaskCost, total * kv_heads / (16 * threads));
    std::vector<size_t> starts;
    int64_t cost = wanted;
    for (size_t i = 0; i < tiles.size(); i++) {
        if (cost >= wanted) {
            starts.push_back(i);
            cost = 0;
        }
        cost += tiles[i].cost;
    }
    starts.push_back(tiles.size());
    return starts;
}

struct Sink {  // where results go: pieces of `piece` columns
    float* data;
    int64_t row_stride, piece_stride;
    int piece;
};

struct TileRunner {
    const KernelTable& table;
    const AttentionInput& in;
    const AttentionPlan& plan;
    Sink sink;
    int group;

    void run(const AttentionPlan::Tile& tile, int kv_head, float* scratch) const {
        const auto& s = plan.segments[static_cast<size_t>(tile.segment)];
        const float* q_rows[64];
        int limits[64], out_cols[64];
        int64_t out_rows[64];
        for (int i = 0; i < tile.rows; i++) {
            const int64_t row = tile.first_row + i, token = row / group;
            const int head = kv_head * group + static_cast<int>(row % group);
            q_rows[i] = in.q + (s.q_start + token) * in.q_strides.row + head * in.q_strides.head;
            limits[i] = static_cast<int>(plan.causal ? s.own_len - s.q_len + token + 1 : s.own_len);
            out_rows[i] = s.q_start + token;
            out_cols[i] = head * in.shape.head_dim;
        }
        thread_local std::vector<KeyRun> runs;
        runs.clear();
        if (s.context >= 0)
            for (const auto& range : plan.contexts[static_cast<size_t>(s.context)]) runs.push_back(context_run(range, kv_head));
        runs.push_back(step_run(s.own_start, tile.own_keys, kv_head));
        table.attention({q_rows, limits, tile.rows, in.shape.head_dim, in.scale, runs.data(),
                         static_cast<int>(runs.size()), scratch, out_rows, out_cols, sink.data, sink.row_stride,
                         sink.piece_stride, sink.piece});
    }

    KeyRun step_run(int64_t start, int64_t n, int head) const {
        return {in.k + start * in.k_strides.row + head * in.k_strides.head,
                in.v + start * in.v_strides.row + head * in.v_strides.head, in.k_strides.row, in.v_strides.row,
                static_cast<int>(n)};
    }
    KeyRun context_run(const AttentionPlan::Range& range, int head) const {
        if (range.start >= plan.kv_capacity) return step_run(range.start - plan.kv_capacity, range.length, head);
        return {in.pool_k + range.start * in.pool_k_strides.row + head * in.pool_k_strides.head,
                in.pool_v + range.start * in.pool_v_strides.row + head * in.pool_v_strides.head, in.pool_k_strides.row,
                in.pool_v_strides.row, static_cast<int>(range.length)};
    }
};

}  // namespace

std::vector<AttentionPlan::Tile> AttentionPlan::tiles(int group, int lanes) const {
    std::vector<size_t> order(segments.size());
    for (size_t i = 0; i < order.size(); i++) order[i] = i;
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return segments[a].context < segments[b].context; });
    std::vector<Tile> list;
    for (size_t i : order) {
        const Segment& s = segments[i];
        const int64_t rows = s.q_len * group;
        const int64_t context = s.context < 0 ? 0 : context_lens[static_cast<size_t>(s.context)];
        for (int64_t row = 0; row < rows; row += lanes) {
            const int count = static_cast<int>(std::min<int64_t>(lanes, rows - row));
            const int64_t last_token = (row + count - 1) / group;
            const int64_t own = causal ? s.own_len - s.q_len + last_token + 1 : s.own_len;
            list.push_back({static_cast<int>(i), row, count, own, context + own + 8});
        }
    }
    return list;
}

ActivationBuffer Runtime::attention(Kind kind, const AttentionInput& in, const AttentionPlan& plan) {
    const RopeShape& shape = in.shape;
    const int group = shape.num_heads / shape.num_kv_heads, cols = shape.num_heads * shape.head_dim;
    const auto tiles = plan.tiles(group, table_.lanes);
    const auto starts = cut(tiles, shape.num_kv_heads, num_threads());
    const int64_t parts = static_cast<int64_t>(starts.size()) - 1;
    // fp32 results go straight into the activation; integers need whole rows first, for their scales.
    ActivationBuffer out = new_activation(kind, plan.num_queries, cols);
    Tensor plain;
    Sink sink{reinterpret_cast<float*>(out.view.data), kBlockWords[0], plan.num_queries * kBlockWords[0], kBlockWords[0]};
    if (kind != Kind::f32) {
        plain = new_tensor(plan.num_queries * cols);
        sink = {plain.data(), cols, 0, cols};
    }
    reserve_scratch(scratch_floats(shape.head_dim, table_.lanes));
    const TileRunner runner{table_, in, plan, sink, group};
    pool_.run(parts * shape.num_kv_heads, [&](int64_t task, int thread) {
        const size_t part = static_cast<size_t>(task % parts);
        for (size_t i = starts[part]; i < starts[part + 1]; i++)
            runner.run(tiles[i], static_cast<int>(task / parts), scratch(thread));
    });
    if (kind == Kind::f32) return out;
    for_rows(plan.num_queries, cols, [&](int64_t row0, int rows, int thread) {
        table_.pack_activation(plain.data() + row0 * cols, cols, out.view, row0, rows, scratch(thread));
    });
    return out;
}

}  // namespace engine_cpu
