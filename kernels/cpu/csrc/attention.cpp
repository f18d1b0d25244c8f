// Attention over contexts and own tokens: tiles of query rows, ordered so that a thread keeps one key/value head of one
// context in its cache while the segments that share it go by.
#include <algorithm>
#include <stdexcept>

#include "runtime.h"

namespace engine_cpu {
namespace {

constexpr int kMostTiles = 8;  // of a task: their queries and results stay in the second-level cache beside the keys
constexpr int kTasksPerThread = 8;

// First tile of each task: neighbours of one segment, fewer where there are many threads to feed.
std::vector<size_t> cut(const std::vector<AttentionPlan::Tile>& tiles, int kv_heads, int threads) {
    const size_t fair = tiles.size() * static_cast<size_t>(kv_heads) / static_cast<size_t>(threads * kTasksPerThread);
    const size_t most = std::clamp<size_t>(fair, 1, kMostTiles);
    std::vector<size_t> starts;
    for (size_t i = 0; i < tiles.size(); i++)
        if (i == 0 || tiles[i].segment != tiles[i - 1].segment || i - starts.back() == most) starts.push_back(i);
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

    // Neighbouring tiles of one segment.
    void run(const AttentionPlan::Tile* first, int count, int kv_head, float* scratch) const {
        const auto& s = plan.segments[static_cast<size_t>(first->segment)];
        AttentionTile tiles[kMostTiles];
        for (int i = 0; i < count; i++) fill(tiles[i], first[i], s, kv_head);
        thread_local std::vector<KeyRun> runs;
        runs.clear();
        int context = 0;
        if (s.context >= 0)
            for (const auto& range : plan.contexts[static_cast<size_t>(s.context)]) {
                runs.push_back(context_run(range, kv_head));
                context += runs.back().n;
            }
        runs.push_back(step_run(s.own_start, first[count - 1].own_keys, kv_head));
        table.attention({tiles, count, runs.data(), static_cast<int>(runs.size()), in.shape.head_dim, in.scale, context,
                         in.window, in.cap, scratch, sink.data, sink.row_stride, sink.piece_stride, sink.piece});
    }

    void fill(AttentionTile& to, const AttentionPlan::Tile& tile, const AttentionPlan::Segment& s, int kv_head) const {
        to.rows = tile.rows;
        to.own_keys = static_cast<int>(tile.own_keys);
        for (int i = 0; i < tile.rows; i++) {
            const int64_t row = tile.first_row + i, token = row / group;
            const int head = kv_head * group + static_cast<int>(row % group);
            to.q_rows[i] = in.q + (s.q_start + token) * in.q_strides.row + head * in.q_strides.head;
            to.limits[i] = static_cast<int>(plan.causal ? s.own_len - s.q_len + token + 1 : s.own_len);
            to.out_rows[i] = s.q_start + token;
            to.out_cols[i] = head * in.shape.head_dim;
        }
    }

    KeyRun step_run(int64_t start, int64_t n, int head) const {
        return {in.k + start * in.k_strides.row + head * in.k_strides.head,
                in.v + start * in.v_strides.row + head * in.v_strides.head, in.k_strides.row, in.v_strides.row,
                static_cast<int>(n)};
    }
    KeyRun context_run(const AttentionPlan::Range& range, int head) const {
        if (range.start >= plan.kv_capacity) return step_run(range.start - plan.kv_capacity, range.length, head);
        return {in.k_cache + range.start * in.k_cache_strides.row + head * in.k_cache_strides.head,
                in.v_cache + range.start * in.v_cache_strides.row + head * in.v_cache_strides.head,
                in.k_cache_strides.row, in.v_cache_strides.row, static_cast<int>(range.length)};
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
        for (int64_t row = 0; row < rows; row += lanes) {
            const int count = static_cast<int>(std::min<int64_t>(lanes, rows - row));
            const int64_t last_token = (row + count - 1) / group;
            const int64_t own = causal ? s.own_len - s.q_len + last_token + 1 : s.own_len;
            list.push_back({static_cast<int>(i), row, count, own});
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
    Sink sink{reinterpret_cast<float*>(out.view.data), kBlockWords[0], plan.num_queries * kBlockWords[0],
              kBlockWords[0]};
    if (kind != Kind::f32) {
        plain = new_tensor(plan.num_queries * cols);
        sink = {plain.data(), cols, 0, cols};
    }
    reserve_scratch(static_cast<size_t>(table_.attention_floats(shape.head_dim, kMostTiles)));
    const TileRunner runner{table_, in, plan, sink, group};
    pool_.run(parts * shape.num_kv_heads, [&](int64_t task, int thread) {
        const size_t part = static_cast<size_t>(task % parts);
        const int count = static_cast<int>(starts[part + 1] - starts[part]);
        runner.run(&tiles[starts[part]], count, static_cast<int>(task / parts), scratch(thread));
    });
    if (kind == Kind::f32) return out;
    for_rows(plan.num_queries, cols, [&](int64_t row0, int rows, int thread) {
        table_.pack_activation(plain.data() + row0 * cols, cols, out.view, row0, rows, scratch(thread));
    });
    return out;
}

}  // namespace engine_cpu
