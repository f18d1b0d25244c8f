// Attention of some tiles of query rows over all their keys, in place: keys and values are read where they lie, a block
// at a time for all tiles, so that long contexts come into the cache once for all of them.
//
// The lanes of a vector are query rows (tokens times the query heads that share a key/value head), so maxima, sums and
// masks need no work across lanes, and a row's result does not depend on which rows share its tile: keys that a row
// may not see enter as exact zeros. Softmax runs online over blocks of kKeyBlock keys (Milakov and Gimelshein 2018,
// arXiv 1805.02867).
//
//   scores[key][row] = sum_h  K[key][h] * Q^T[h][row]      tiles of kTileKeys keys
//   out^T[h][row]    = sum_key V[key][h] * P[key][row]     tiles of kTileKeys columns of V
#pragma once

template <int M, int V>
static void score_tile(const float* __restrict k, int64_t stride, const float* __restrict q, int head_dim,
                       float* __restrict scores) {
    Vf acc[M][V];
#pragma GCC unroll 16
    for (int m = 0; m < M; m++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) acc[m][v] = splat(0.0f);
    // Four base pointers reach twelve rows by the addressing modes of x86 (base + 0, 1, 2 strides).
    const float *k0 = k, *k3 = k + 3 * stride, *k6 = k + 6 * stride, *k9 = k + 9 * stride;
#pragma GCC unroll 2
    for (int h = 0; h < head_dim; h++, k0++, k3++, k6++, k9++) {
        Vf x[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) x[v] = loadf(q + (h * NV + v) * W);
#pragma GCC unroll 16
        for (int m = 0; m < M; m++) {
            const float* base = m < 3 ? k0 : m < 6 ? k3 : m < 9 ? k6 : k9;
            const Vf y = splat(base[(m % 3) * stride]);
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) acc[m][v] += y * x[v];
        }
    }
#pragma GCC unroll 16
    for (int m = 0; m < M; m++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) store(scores + (m * NV + v) * W, acc[m][v]);
}

template <int M, int V>
static void value_tile(const float* __restrict values, int64_t stride, const float* __restrict p, int keys,
                       float* __restrict out) {
    Vf acc[M][V];
#pragma GCC unroll 16
    for (int m = 0; m < M; m++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) acc[m][v] = loadf(out + (m * NV + v) * W);
#pragma GCC unroll 2
    for (int j = 0; j < keys; j++, values += stride) {
        Vf x[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) x[v] = loadf(p + (j * NV + v) * W);
#pragma GCC unroll 16
        for (int m = 0; m < M; m++) {
            const Vf y = splat(values[m]);
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) acc[m][v] += y * x[v];
        }
    }
#pragma GCC unroll 16
    for (int m = 0; m < M; m++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) store(out + (m * NV + v) * W, acc[m][v]);
}

typedef void (*AttentionTileFn)(const float*, int64_t, const float*, int, float*);
template <int V, size_t... I>
constexpr Table<AttentionTileFn, sizeof...(I)> score_functions(std::index_sequence<I...>) {
    return {{score_tile<I + 1, V>...}};
}
template <int V, size_t... I>
constexpr Table<AttentionTileFn, sizeof...(I)> value_functions(std::index_sequence<I...>) {
    return {{value_tile<I + 1, V>...}};
}
template <int V>
static constexpr auto kScoreTiles = score_functions<V>(std::make_index_sequence<kTileKeys>());
template <int V>
static constexpr auto kValueTiles = value_functions<V>(std::make_index_sequence<kTileKeys>());

template <bool Whole>
INLINE void transpose_block(const float* const* rows, int num, int h, int head_dim, Vf scale, float* t) {
    Vf r[W];
#pragma GCC unroll 16
    for (int i = 0; i < W; i++) {
        if (Whole)
            r[i] = loadf(rows[i] + h) * scale;
        else
            r[i] = i < num ? load_n(rows[i] + h, head_dim - h) * scale : splat(0.0f);
    }
    transpose(r);
#pragma GCC unroll 16
    for (int i = 0; i < W; i++) store(t + (h + i) * kLanes, r[i]);
}

// rows[i][h] -> t[h][i], for i < kLanes; rows past the end are zero, t has room for whole vectors of h.
static void transpose_rows(const float* const* rows, int num, int head_dim, float scale, float* t) {
    for (int v = 0; v < NV; v++, rows += W, num -= W, t += W)
        for (int h = 0; h < head_dim; h += W) {
            if (num >= W && h + W <= head_dim)
                transpose_block<true>(rows, num, h, head_dim, splat(scale), t);
            else
                transpose_block<false>(rows, num, h, head_dim, splat(scale), t);
        }
}

struct TileState {  // what a tile keeps between blocks of keys; in scratch memory
    Vf top[NV];     // largest score so far
    Vf total[NV];   // sum of exponentials
    Vi limits[NV];  // own keys that each lane sees
    int lowest;     // the least of them
    Vi starts[NV];  // first key that each lane sees, of context and own keys together
    int first_start, last_start;
};

// Scores of one block -> exponentials in place; what was accumulated before is brought to the new maximum.
template <int V>
static void softmax_block(float* scores, int keys, TileState& state, float* out, int head_dim, bool first) {
    for (int v = 0; v < V; v++) {
        Vf top = state.top[v];
        for (int j = 0; j < keys; j++) top = max(loadf(scores + (j * NV + v) * W), top);
        const Vf shrink = exp(state.top[v] - top);
        Vf total = state.total[v] * shrink;
        for (int j = 0; j < keys; j++) {
            float* s = scores + (j * NV + v) * W;
            const Vf p = exp(loadf(s) - top);
            total += p;
            store(s, p);
        }
        for (int h = 0; h < head_dim && !first; h++) {
            float* o = out + (h * NV + v) * W;
            store(o, loadf(o) * shrink);
        }
        state.top[v] = top;
        state.total[v] = total;
    }
}

// Keys [first, first + n) of the own run: rows that may not see a key get -infinity.
static void mask_future(float* scores, int first, int n, const Vi* limits, int lowest) {
    const Vf hidden = splat(-__builtin_inff());
    for (int j = lowest > first ? lowest - first : 0; j < n; j++)
        for (int v = 0; v < NV; v++) {
            float* s = scores + (j * NV + v) * W;
            store(s, limits[v] > splati(first + j) ? loadf(s) : hidden);
        }
}

// Keys [first, first + n) of context and own keys together: rows whose window begins later get -infinity.
static void mask_past(float* scores, int first, int n, const Vi* starts, int last_start) {
    const Vf hidden = splat(-__builtin_inff());
    for (int j = 0; j < min_int(n, last_start - first); j++)
        for (int v = 0; v < NV; v++) {
            float* s = scores + (j * NV + v) * W;
            store(s, starts[v] > splati(first + j) ? hidden : loadf(s));
        }
}

// s -> cap * tanh(s / cap); near zero by its series, where the quotient of exponentials would lose digits.
static void cap_scores(float* scores, int n, float cap) {
    for (int i = 0; i < n * NV; i++, scores += W) {
        const Vf u = loadf(scores) * splat(1.0f / cap), square = u * u;
        const Vf near = u * (splat(1.0f) - square * (splat(1.0f / 3.0f) - square * splat(2.0f / 15.0f)));
        const Vf far = splat(1.0f) - splat(2.0f) / (splat(1.0f) + exp(u + u > splat(80.0f) ? splat(80.0f) : u + u));
        store(scores, splat(cap) * (square < splat(0.01f) ? near : far));
    }
}

// out^T / total -> rows of the result. A row that cannot be written in whole vectors goes through `spare`.
template <int V>
static void write_rows(const AttentionTask& t, const AttentionTile& tile, const float* out, const Vf* total,
                       float* spare) {
    const int padded = (t.head_dim + W - 1) / W * W;
    float* to[kLanes];
    bool direct[kLanes];
    for (int i = 0; i < V * W; i++) {
        const int col = i < tile.rows ? tile.out_cols[i] : 0, inside = col % t.out_piece;
        direct[i] = i < tile.rows && padded == t.head_dim && inside + t.head_dim <= t.out_piece;
        to[i] = spare + i * padded;
        if (direct[i])
            to[i] = t.out + tile.out_rows[i] * t.out_row_stride + col / t.out_piece * t.out_piece_stride + inside;
    }
    for (int v = 0; v < V; v++) {
        const Vf inverse = splat(1.0f) / total[v];
        for (int h = 0; h < t.head_dim; h += W) {
            Vf r[W];
#pragma GCC unroll 16
            for (int i = 0; i < W; i++) r[i] = loadf(out + ((h + i) * NV + v) * W) * inverse;
            transpose(r);
#pragma GCC unroll 16
            for (int i = 0; i < W; i++) store(to[v * W + i] + h, r[i]);
        }
    }
    for (int i = 0; i < tile.rows; i++) {
        float* row = t.out + tile.out_rows[i] * t.out_row_stride;
        const float* from = to[i];
        for (int col = tile.out_cols[i], n = direct[i] ? 0 : t.head_dim; n > 0;) {
            const int inside = col % t.out_piece, part = min_int(n, t.out_piece - inside);
            __builtin_memcpy(row + col / t.out_piece * t.out_piece_stride + inside, from, part * sizeof(float));
            col += part, from += part, n -= part;
        }
    }
}

struct Piece {  // of a run, inside one block of keys
    const KeyRun* run;
    bool own;
    int first, n;
    int place;  // of its first key, counted over all runs
};

// Scratch of a tile: its state, Q^T and out^T, each with room for whole vectors of h.
struct TileScratch {
    TileState* state;
    float *q, *out;
};

static int64_t tile_floats(int head_dim) {
    const int padded = (head_dim + W - 1) / W * W;
    return (int64_t)(sizeof(TileState) + W * 4 - 1) / (W * 4) * W + 2 * padded * kLanes;
}
static int64_t attention_floats(int head_dim, int num_tiles) {
    return num_tiles * tile_floats(head_dim) + kKeyBlock * kLanes;
}

static TileScratch tile_scratch(const AttentionTask& t, int index) {
    const int padded = (t.head_dim + W - 1) / W * W;
    float* base = t.scratch + kKeyBlock * kLanes + index * tile_floats(t.head_dim);
    float* q = base + tile_floats(t.head_dim) - 2 * padded * kLanes;
    return {(TileState*)base, q, q + padded * kLanes};
}

static void begin_tile(const AttentionTask& t, const AttentionTile& tile, const TileScratch& s) {
    transpose_rows(tile.q_rows, tile.rows, t.head_dim, t.scale, s.q);
    __builtin_memset(s.out, 0, t.head_dim * kLanes * sizeof(float));
    alignas(64) int32_t lanes[kLanes] = {}, starts[kLanes] = {};
    auto start = [&](int i) { return t.window > 0 ? t.context + tile.limits[i] - t.window : 0; };
    s.state->lowest = tile.limits[0];
    s.state->first_start = s.state->last_start = start(0);
    for (int i = 0; i < tile.rows; i++) {
        lanes[i] = tile.limits[i];
        starts[i] = start(i);
        s.state->lowest = min_int(s.state->lowest, tile.limits[i]);
        s.state->first_start = min_int(s.state->first_start, starts[i]);
        if (starts[i] > s.state->last_start) s.state->last_start = starts[i];
    }
    for (int v = 0; v < NV; v++) {
        s.state->limits[v] = load<Vi>(lanes + v * W);
        s.state->starts[v] = load<Vi>(starts + v * W);
        s.state->top[v] = splat(-3.0e38f);
        s.state->total[v] = splat(0.0f);
    }
}

// One block of keys for one tile, which may see less of the own ones than its neighbours.
template <int V>
static void attend_block(const AttentionTask& t, const AttentionTile& tile, const TileScratch& s, const Piece* pieces,
                         int num_pieces, bool first_block) {
    float* scores = t.scratch;
    int filled = 0;
    auto seen = [&](const Piece& p) {
        const int n = p.own ? min_int(p.n, tile.own_keys - p.first) : p.n;
        return p.place + n <= s.state->first_start ? 0 : n;  // before the window of every row
    };
    for (int i = 0; i < num_pieces; i++) {
        const Piece& p = pieces[i];
        const int n = seen(p);
        if (n <= 0) continue;
        float* to = scores + filled * kLanes;
        for (int j = 0; j < n; j += kTileKeys)
            kScoreTiles<V>.with_rows[min_int(kTileKeys, n - j) - 1](p.run->k + (p.first + j) * p.run->k_stride,
                                                                    p.run->k_stride, s.q, t.head_dim, to + j * kLanes);
        if (t.cap > 0.0f) cap_scores(to, n, t.cap);
        if (p.own && p.first + n > s.state->lowest) mask_future(to, p.first, n, s.state->limits, s.state->lowest);
        if (p.place < s.state->last_start) mask_past(to, p.place, n, s.state->starts, s.state->last_start);
        filled += n;
    }
    if (filled == 0) return;
    softmax_block<V>(scores, filled, *s.state, s.out, t.head_dim, first_block);
    const float* p_rows = scores;
    for (int i = 0; i < num_pieces; i++) {
        const Piece& p = pieces[i];
        const int n = seen(p);
        if (n <= 0) continue;
        for (int h = 0; h < t.head_dim; h += kTileKeys)
            kValueTiles<V>.with_rows[min_int(kTileKeys, t.head_dim - h) - 1](
                p.run->v + p.first * p.run->v_stride + h, p.run->v_stride, p_rows, n, s.out + h * kLanes);
        p_rows += n * kLanes;
    }
}

static void attention(const AttentionTask& t) {
    for (int i = 0; i < t.num_tiles; i++) begin_tile(t, t.tiles[i], tile_scratch(t, i));
    Piece pieces[kKeyBlock];
    int num = 0, filled = 0, blocks = 0, place = 0;
    auto flush = [&] {
        for (int i = 0; i < t.num_tiles; i++) {
            if (t.tiles[i].rows <= W)
                attend_block<1>(t, t.tiles[i], tile_scratch(t, i), pieces, num, blocks == 0);
            else
                attend_block<NV>(t, t.tiles[i], tile_scratch(t, i), pieces, num, blocks == 0);
        }
        num = filled = 0;
        blocks++;
    };
    for (int r = 0; r < t.num_runs; r++)
        for (int first = 0; first < t.runs[r].n;) {
            const int n = min_int(t.runs[r].n - first, kKeyBlock - filled);
            pieces[num++] = Piece{&t.runs[r], r == t.num_runs - 1, first, n, place};
            filled += n;
            place += n;
            first += n;
            if (filled == kKeyBlock) flush();
        }
    if (filled) flush();
    for (int i = 0; i < t.num_tiles; i++) {
        const TileScratch s = tile_scratch(t, i);
        if (t.tiles[i].rows <= W)
            write_rows<1>(t, t.tiles[i], s.out, s.state->total, s.q);
        else
            write_rows<NV>(t, t.tiles[i], s.out, s.state->total, s.q);
    }
}
