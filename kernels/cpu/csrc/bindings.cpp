// The border to Python: addresses and numbers in, buffers that torch takes over (DLPack) out. Shapes and types were
// checked by ops.py; the interpreter lock is released while an operation runs.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <tuple>

#include "dispatch.h"
#include "runtime.h"

namespace nb = nanobind;
using namespace engine_cpu;

namespace {

using Address = uintptr_t;
using TorchTensor = nb::ndarray<nb::pytorch, float>;
using IntArray = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Rows = std::tuple<Address, int64_t, int64_t, int64_t>;  // address, row stride, rows, columns
using Heads = std::tuple<Address, int64_t, int64_t>;          // address, row stride, head stride

const float* floats(Address a) { return reinterpret_cast<const float*>(a); }

RowsView rows_view(const Rows& r) {
    return {floats(std::get<0>(r)), std::get<1>(r), std::get<2>(r), static_cast<int>(std::get<3>(r))};
}

TorchTensor to_torch(const Tensor& t, std::initializer_list<size_t> shape,
                     std::initializer_list<int64_t> strides = {}) {
    auto* owner = new std::shared_ptr<void>(t.memory);
    nb::capsule capsule(owner, [](void* p) noexcept { delete static_cast<std::shared_ptr<void>*>(p); });
    return TorchTensor(t.data(), shape, capsule, strides);
}

// Runs an operation without the interpreter lock, one at a time.
template <class Fn>
auto without_gil(Runtime& runtime, const Fn& fn) {
    nb::gil_scoped_release release;
    std::lock_guard<std::mutex> lock(runtime.mutex());
    return fn();
}

TorchTensor linear(Runtime& rt, const ActivationBuffer& a, const LinearWeight& w) {
    const Tensor out = without_gil(rt, [&] { return rt.linear(a.view, w); });
    return to_torch(out, {static_cast<size_t>(a.view.rows), static_cast<size_t>(w.out())});
}

TorchTensor layer_norm(Runtime& rt, const Rows& x, Address weight, Address bias, float eps) {
    const RowsView view = rows_view(x);
    const Tensor out = without_gil(rt, [&] { return rt.layer_norm(view, floats(weight), floats(bias), eps); });
    return to_torch(out, {static_cast<size_t>(view.rows), static_cast<size_t>(view.cols)});
}

nb::tuple qk_norm_rope(Runtime& rt, const Rows& qkv, Address q_weight, Address k_weight, float eps, Address cos,
                       Address sin, Address positions, int num_heads, int num_kv_heads, int head_dim) {
    const RopeShape shape{num_heads, num_kv_heads, head_dim};
    const RowsView view = rows_view(qkv);
    const RopeInput in{view,
                       floats(q_weight),
                       floats(k_weight),
                       eps,
                       floats(cos),
                       floats(sin),
                       reinterpret_cast<const int64_t*>(positions)};
    const RopeResult out = without_gil(rt, [&] { return rt.qk_norm_rope(in, shape); });
    const auto t = static_cast<size_t>(view.rows), n = static_cast<size_t>(num_heads),
               m = static_cast<size_t>(num_kv_heads), h = static_cast<size_t>(head_dim);
    const int64_t head_stride = view.rows * head_dim;
    return nb::make_tuple(to_torch(out.q, {t, n, h}, {head_dim, head_stride, 1}),
                          to_torch(out.k, {t, m, h}, {head_dim, head_stride, 1}),
                          to_torch(out.v, {t, m, h}, {head_dim, head_stride, 1}));
}

ActivationBuffer attention(Runtime& rt, Kind kind, const Heads& q, const Heads& k, const Heads& v, const Heads& k_cache,
                           const Heads& v_cache, int num_heads, int num_kv_heads, int head_dim, float scale,
                           const AttentionPlan& plan, int window, float cap) {
    auto strides = [](const Heads& h) { return HeadStrides{std::get<1>(h), std::get<2>(h)}; };
    const AttentionInput in{floats(std::get<0>(q)),
                            floats(std::get<0>(k)),
                            floats(std::get<0>(v)),
                            floats(std::get<0>(k_cache)),
                            floats(std::get<0>(v_cache)),
                            strides(q),
                            strides(k),
                            strides(v),
                            strides(k_cache),
                            strides(v_cache),
                            {num_heads, num_kv_heads, head_dim},
                            scale,
                            window,
                            cap};
    return without_gil(rt, [&] { return rt.attention(kind, in, plan); });
}

AttentionPlan make_plan(const IntArray& q_starts, const IntArray& q_lens, const IntArray& own_starts,
                        const IntArray& own_lens, const IntArray& context_ids, const IntArray& context_indptr,
                        const IntArray& context_ranges, int64_t kv_capacity, int64_t num_queries, bool causal) {
    AttentionPlan plan;
    plan.kv_capacity = kv_capacity;
    plan.causal = causal;
    plan.num_queries = num_queries;
    for (size_t i = 0; i < q_starts.shape(0); i++)
        plan.segments.push_back({q_starts(i), q_lens(i), own_starts(i), own_lens(i), static_cast<int>(context_ids(i))});
    for (size_t c = 0; c + 1 < context_indptr.shape(0); c++) {
        auto& ranges = plan.contexts.emplace_back();
        for (int64_t g = context_indptr(c); g < context_indptr(c + 1); g++) {
            const auto at = static_cast<size_t>(2 * g);
            ranges.push_back({context_ranges(at), context_ranges(at + 1)});
        }
    }
    return plan;
}

}  // namespace

NB_MODULE(_C, m) {
    m.doc() = "Compiled kernels for CPUs; see kernels/cpu/ops.py.";
    nb::enum_<Kind>(m, "Kind")
        .value("F32", Kind::f32)
        .value("I16", Kind::i16)
        .value("I8", Kind::i8)
        .value("BF16", Kind::bf16)
        .value("I8R", Kind::i8r)
        .value("I16R", Kind::i16r);
    nb::enum_<Dtype>(m, "Dtype").value("F32", Dtype::f32).value("BF16", Dtype::bf16).value("F16", Dtype::f16);
    nb::enum_<Gate>(m, "Gate").value("SILU", Gate::silu).value("GELU", Gate::gelu).value("GELU_TANH", Gate::gelu_tanh);
    m.def("available_isas", &available_isas);

    nb::class_<ActivationBuffer>(m, "Activation")
        .def_prop_ro("rows", [](const ActivationBuffer& a) { return a.view.rows; })
        .def_prop_ro("cols", [](const ActivationBuffer& a) { return a.view.cols; })
        .def_prop_ro("kind", [](const ActivationBuffer& a) { return a.view.kind; });

    nb::class_<AttentionPlan>(m, "AttentionPlan");
    m.def("attention_plan", &make_plan);

    nb::class_<Runtime>(m, "Runtime")
        .def(nb::new_([](int num_threads, const std::string& isa, bool pin) {
                 return std::make_shared<Runtime>(num_threads, isa, pin);
             }),
             nb::arg("num_threads"), nb::arg("isa"), nb::arg("pin"))
        .def_prop_ro("isa", [](const Runtime& rt) { return rt.table().name; })
        .def_prop_ro("num_threads", &Runtime::num_threads)
        .def_prop_ro("lanes", [](const Runtime& rt) { return rt.table().lanes; })
        .def_prop_ro("tile_rows", [](const Runtime& rt) { return rt.table().tile_rows; })
        .def_prop_ro("i8_bits", [](const Runtime& rt) { return rt.table().i8_offset == 128 ? 8 : 7; })
        .def_prop_rw(
            "task_limits", [](const Runtime& rt) { return std::make_tuple(rt.task_limits.bytes, rt.task_limits.cols); },
            [](Runtime& rt, std::tuple<int64_t, int> limits) {
                const auto [bytes, cols] = limits;
                if (bytes < 1 || cols < 1) throw std::invalid_argument("a task has at least one byte and one column");
                without_gil(rt, [&] { return (rt.task_limits = {bytes, cols}).cols; });
            })
        .def_prop_ro("cached_bytes", [](Runtime& rt) { return rt.buffers().cached_bytes(); })
        .def("trim", [](Runtime& rt) { rt.buffers().trim(); })
        .def("pack", [](Runtime& rt, Kind kind,
                        const Rows& x) { return without_gil(rt, [&] { return rt.pack(kind, rows_view(x)); }); })
        .def("unpack",
             [](Runtime& rt, const ActivationBuffer& a) {
                 const Tensor out = without_gil(rt, [&] { return rt.unpack(a.view); });
                 return to_torch(out, {static_cast<size_t>(a.view.rows), static_cast<size_t>(a.view.cols)});
             })
        .def("rms_norm",
             [](Runtime& rt, Kind kind, const Rows& x, Address weight, float eps) {
                 return without_gil(rt, [&] { return rt.rms_norm(kind, rows_view(x), floats(weight), eps); });
             })
        .def("layer_norm", &layer_norm)
        .def("linear", &linear)
        .def("linear_add",
             [](Runtime& rt, const ActivationBuffer& a, const LinearWeight& w, Address residual, int64_t stride) {
                 without_gil(rt, [&] {
                     rt.linear_add(a.view, w, reinterpret_cast<float*>(residual), stride);
                     return 0;
                 });
             })
        .def("linear_gate",
             [](Runtime& rt, const ActivationBuffer& a, const LinearWeight& w, Gate gate, bool has_up, Kind out) {
                 return without_gil(rt, [&] { return rt.linear_gate(a.view, w, gate, has_up, out); });
             })
        .def("qk_norm_rope", &qk_norm_rope)
        .def("attention", &attention, nb::arg("kind"), nb::arg("q"), nb::arg("k"), nb::arg("v"), nb::arg("k_cache"),
             nb::arg("v_cache"), nb::arg("num_heads"), nb::arg("num_kv_heads"), nb::arg("head_dim"), nb::arg("scale"),
             nb::arg("plan"), nb::arg("window") = 0, nb::arg("cap") = 0.0F)
        .def("ceiling", [](Runtime& rt, Kind kind, int64_t iterations) {
            return without_gil(rt, [&] { return rt.ceiling(kind, iterations); });
        });

    nb::class_<LinearWeight>(m, "LinearWeight")
        .def(nb::init<std::shared_ptr<Runtime>, int, int, Kind>())
        .def_prop_ro("out_features", &LinearWeight::out)
        .def_prop_ro("in_features", &LinearWeight::in)
        .def_prop_ro("num_bytes", &LinearWeight::num_bytes)
        .def("load_rows",
             [](LinearWeight& w, int64_t start, int64_t rows, Address src, int64_t stride, Dtype dtype) {
                 nb::gil_scoped_release release;
                 w.load_rows(start, rows, reinterpret_cast<const void*>(src), stride, dtype);
             })
        .def("keep_groups", &LinearWeight::keep_groups)
        .def("load_groups",
             [](LinearWeight& w, int64_t start, int64_t rows, Address codes, int64_t codes_stride, Address scales,
                Address offsets, int64_t scales_stride, int group) {
                 nb::gil_scoped_release release;
                 w.load_groups(start, rows,
                               {reinterpret_cast<const uint8_t*>(codes), codes_stride, floats(scales), floats(offsets),
                                scales_stride, group});
             })
        .def("load_bias", [](LinearWeight& w, int64_t start, int64_t count, Address src) {
            w.load_bias(start, count, floats(src));
        });
}
