// Norms that write what the next matrix product reads, and the head norm with rotation.
#pragma once

INLINE float sum_of_squares(const float* x, int n) {
    Vf a = splat(0.0f), b = splat(0.0f);
    int i = 0;
    for (; i + 2 * W <= n; i += 2 * W) {
        a += loadf(x + i) * loadf(x + i);
        b += loadf(x + i + W) * loadf(x + i + W);
    }
    for (; i < n; i += W) {
        const Vf v = load_n(x + i, n - i);
        a += v * v;
    }
    return sum(a + b);
}

static void rms_norm(const NormTask& t) {
    for (int r = 0; r < t.rows; r++) {
        const float* x = t.x + r * t.x_stride;
        const float inverse = 1.0f / __builtin_sqrtf(sum_of_squares(x, t.cols) / (float)t.cols + t.eps);
        for (int i = 0; i < t.cols; i += W) {
            const int left = t.cols - i;
            store_n(t.row_buffer + i, load_n(x + i, left) * splat(inverse) * load_n(t.weight + i, left), left);
        }
        write_activation(t.out, t.row0 + r, 0, t.row_buffer, t.cols);
    }
}

static void layer_norm(const NormTask& t) {
    for (int r = 0; r < t.rows; r++) {
        const float* x = t.x + r * t.x_stride;
        Vf total = splat(0.0f);
        for (int i = 0; i < t.cols; i += W) total += load_n(x + i, t.cols - i);
        const float mean = sum(total) / (float)t.cols;
        for (int i = 0; i < t.cols; i += W)
            store_n(t.row_buffer + i, load_n(x + i, t.cols - i) - splat(mean), t.cols - i);
        const float variance = sum_of_squares(t.row_buffer, t.cols) / (float)t.cols;
        const float inverse = 1.0f / __builtin_sqrtf(variance + t.eps);
        float* out = t.plain + (t.row0 + r) * t.cols;
        for (int i = 0; i < t.cols; i += W) {
            const int left = t.cols - i;
            Vf y = load_n(t.row_buffer + i, left) * splat(inverse) * load_n(t.weight + i, left);
            if (t.bias) y += load_n(t.bias + i, left);
            store_n(out + i, y, left);
        }
    }
}

// (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin) on the halves of one head, after its norm.
static void rope_head(const float* x, const float* weight, float eps, const float* cos, const float* sin, int head_dim,
                      float* out) {
    const int half = head_dim / 2;
    float scale = 1;
    if (weight) scale = 1.0f / __builtin_sqrtf(sum_of_squares(x, head_dim) / (float)head_dim + eps);
    for (int i = 0; i < half; i += W) {
        const int left = half - i;
        Vf a = load_n(x + i, left), b = load_n(x + half + i, left);
        if (weight) {
            a = a * splat(scale) * load_n(weight + i, left);
            b = b * splat(scale) * load_n(weight + half + i, left);
        }
        const Vf c = load_n(cos + i, left), s = load_n(sin + i, left);
        store_n(out + i, a * c - b * s, left);
        store_n(out + half + i, b * c + a * s, left);
    }
}

static void qk_norm_rope(const RopeTask& t) {
    const int half = t.head_dim / 2;
    for (int64_t r = t.row0; r < t.row0 + t.rows; r++) {
        const float* x = t.qkv + r * t.qkv_stride;
        const float* cos = t.cos + t.positions[r] * half;
        const float* sin = t.sin + t.positions[r] * half;
        for (int n = 0; n < t.num_heads; n++, x += t.head_dim)
            rope_head(x, t.q_weight, t.eps, cos, sin, t.head_dim, t.q + r * t.row_stride + n * t.head_stride);
        for (int m = 0; m < t.num_kv_heads; m++, x += t.head_dim)
            rope_head(x, t.k_weight, t.eps, cos, sin, t.head_dim, t.k + r * t.row_stride + m * t.head_stride);
        for (int m = 0; m < t.num_kv_heads; m++, x += t.head_dim)
            __builtin_memcpy(t.v + r * t.row_stride + m * t.head_stride, x, t.head_dim * sizeof(float));
    }
}
