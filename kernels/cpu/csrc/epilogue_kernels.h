// What happens to a finished block of products while it is still in the cache. Vectors cover the columns in the same
// way for every row, so a row's result does not depend on its neighbours.
#pragma once

static void store_block(const StoreTask& t) {
    for (int r = 0; r < t.rows; r++) {
        const float* c = t.c + (int64_t)r * t.c_stride;
        float* out = t.out + r * t.out_stride;
        for (int j = 0; j < t.cols; j += W) {
            Vf y = loadf(c + j) + loadf(t.bias + j);  // c and bias are padded to whole panels
            if (t.add) y = load_n(out + j, t.cols - j) + y;
            store_n(out + j, y, t.cols - j);
        }
    }
}

template <Gate G>
INLINE Vf gate_function(Vf x) {
    if (G == Gate::silu) return silu(x);
    return G == Gate::gelu ? gelu(x) : gelu_tanh(x);
}

template <Gate G>
static void gate_row(const GateTask& t, int r, float* y) {
    const float* gate = t.c_gate + (int64_t)r * t.c_stride;
    const float* up = t.c_up ? t.c_up + (int64_t)r * t.c_stride : nullptr;
    for (int j = 0; j < t.cols; j += W) {
        Vf v = gate_function<G>(loadf(gate + j) + loadf(t.bias_gate + j));
        if (up) v = v * (loadf(up + j) + loadf(t.bias_up + j));
        store(y + j, v);
    }
}

static void gate_block(const GateTask& t) {
    for (int r = 0; r < t.rows; r++) {
        float* y = const_cast<float*>(t.c_gate) + (int64_t)r * t.c_stride;  // the result replaces the gate's products
        if (t.gate == Gate::silu)
            gate_row<Gate::silu>(t, r, y);
        else if (t.gate == Gate::gelu)
            gate_row<Gate::gelu>(t, r, y);
        else
            gate_row<Gate::gelu_tanh>(t, r, y);
        write_activation(t.out, t.row0 + r, t.col0, y, t.cols);
    }
}
