// Attention of one tile of query rows over all their keys, in place: keys and values are read where they lie.
//
// The lanes of a vector are query rows (tokens times the query heads that share a key/value head), so maxima, sums and
// masks need no work across lanes, and a row's result does not depend on which rows share its tile: keys that a row
// may not see enter as exact zeros. Softmax runs online over blocks of kKeyBlock keys (Milakov and Gimelshein 2018,
// arXiv 1805.02867).
//
//   scores[key][row] = sum_h  K[key][h] * Q^T[h][row]      tiles of kTileRows keys
//   out^T[h][row]    = sum_key V[key][h] * P[key][row]     tiles of kTileRows columns of V
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
constexpr Table<AttentionTileFn> score_functions(std::index_sequence<I...>) {
    return {{score_tile<I + 1, V>...}};
}
template <int V, size_t... I>
constexpr Table<AttentionTileFn> value_functions(std::index_sequence<I...>) {
    return {{value_tile<I + 1, V>...}};
}
template <int V>
static constexpr auto kScoreTiles = score_functions<V>(std::make_index_sequence<kTileRows>());
template <int V>
static constexpr auto kValueTiles = value_functions<V>(std::make_index_sequence<kTileRows>());

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
    for (int i = 0; i < W; i++) store(t + (h + i) * NR, r[i]);
}

// rows[i][h] -> t[h][i], for i < NR; rows past the end are zero, t has room for whole vectors of h.
static void transpose_rows(const float* const* rows, int num, int head_dim, float scale, float* t) {
    for (int v = 0; v < NV; v++, rows += W, num -= W, t += W)
        for (int h = 0; h < head_dim; h += W) {
            if (num >= W && h + W <= head_dim)
                transpose_block<true>(rows, num, h, head_dim, splat(scale), t);
            else
                transpose_block<false>(rows, num, h, head_dim, splat(scale), t);
        }
}

struct SoftmaxState {
    Vf top[NV];    // largest score so far
    Vf total[NV];  // sum of exponentials
};

// Scores of one block -> exponentials in place; what was accumulated before is brought to the new maximum.
template <int V>
static void softmax_block(float* scores, int keys, SoftmaxState& state, float* out, int head_dim, bool first) {
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

// out^T / total -> rows of the result. A row that cannot be written in whole vectors goes through `spare`.
template <int V>
static void write_rows(const AttentionTile& t, const float* out, const Vf* total, float* spare) {
    const int padded = (t.head_dim + W - 1) / W * W;
    float* to[NR];
    bool direct[NR];
    for (int i = 0; i < V * W; i++) {
        const int col = i < t.rows ? t.out_cols[i] : 0, inside = col % t.out_piece;
        direct[i] = i < t.rows && padded == t.head_dim && inside + t.head_dim <= t.out_piece;
        to[i] = spare + i * padded;
        if (direct[i]) to[i] = t.out + t.out_rows[i] * t.out_row_stride + col / t.out_piece * t.out_piece_stride + inside;
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
    for (int i = 0; i < t.rows; i++) {
        float* row = t.out + t.out_rows[i] * t.out_row_stride;
        const float* from = to[i];
        for (int col = t.out_cols[i], n = direct[i] ? 0 : t.head_dim; n > 0;) {
            const int inside = col % t.out_piece, part = min_int(n, t.out_piece - inside);
            __builtin_memcpy(row + col / t.out_piece * t.out_piece_stride + inside, from, part * sizeof(float));
            col += part, from += part, n -= part;
        }
    }
}

template <int V>
static void attend(const AttentionTile& t) {
    const int padded = (t.head_dim + W - 1) / W * W;
    float* q = t.scratch;
    float* out = q + padded * NR;
    float* scores = out + padded * NR;
    transpose_rows(t.q_rows, t.rows, t.head_dim, t.scale, q);
    __builtin_memset(out, 0, t.head_dim * NR * sizeof(float));
    SoftmaxState state;
    alignas(64) int32_t limit_lanes[NR] = {};
    int lowest = t.limits[0];
    for (int i = 0; i < t.rows; i++) {
        limit_lanes[i] = t.limits[i];
        lowest = min_int(lowest, t.limits[i]);
    }
    Vi limits[NV];
    for (int v = 0; v < NV; v++) {
        limits[v] = load<Vi>(limit_lanes + v * W);
        state.top[v] = splat(-3.0e38f);
        state.total[v] = splat(0.0f);
    }
    struct Piece {
        const KeyRun* run;
        int first, n, at;
    } pieces[kKeyBlock];
    int num = 0, filled = 0, blocks = 0;
    auto flush = [&] {
        softmax_block<V>(scores, filled, state, out, t.head_dim, blocks++ == 0);
        for (int i = 0; i < num; i++) {
            const Piece& piece = pieces[i];
            for (int h = 0; h < t.head_dim; h += kTileRows)
                kValueTiles<V>.with_rows[min_int(kTileRows, t.head_dim - h) - 1](
                    piece.run->v + piece.first * piece.run->v_stride + h, piece.run->v_stride,
                    scores + piece.at * NR, piece.n, out + h * NR);
        }
        num = filled = 0;
    };
    for (int r = 0; r < t.num_runs; r++) {
        const KeyRun& run = t.runs[r];
        for (int first = 0; first < run.n;) {
            const int n = min_int(run.n - first, kKeyBlock - filled);
            float* s = scores + filled * NR;
            for (int j = 0; j < n; j += kTileRows)
                kScoreTiles<V>.with_rows[min_int(kTileRows, n - j) - 1](run.k + (first + j) * run.k_stride, run.k_stride, q,
                                                              t.head_dim, s + j * NR);
            if (r == t.num_runs - 1 && first + n > lowest) mask_future(s, first, n, limits, lowest);
            pieces[num++] = Piece{&run, first, n, filled};
            filled += n;
            first += n;
            if (filled == kKeyBlock) flush();
        }
    }
    if (filled) flush();
    write_rows<V>(t, out, state.total, q);
}

static void attention(const AttentionTile& t) {
    if (t.rows <= W)
        attend<1>(t);
    else
        attend<NV>(t);
}
