// Every instruction set of this processor against the portable kernels, bit by bit, through the operations that Python
// calls. Without Python, so that it runs under an emulator of another processor: test_arm.py builds and runs it.
//
//   agreement list         what this processor has
//   agreement try NAME     the sentence for one that is asked for
//   agreement              compares; prints a line for each difference and a count at the end
#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>

#include "dispatch.h"
#include "runtime.h"

using namespace engine_cpu;

namespace {

struct Random {  // xorshift, and normal enough by four terms
    uint64_t state = 88172645463325252ull;
    float uniform() {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        return static_cast<float>(state >> 40) / 8388608.0f - 1.0f;
    }
    float normal() { return uniform() + uniform() + uniform() + uniform(); }
    std::vector<float> numbers(size_t count) {
        std::vector<float> list(count);
        for (float& x : list) x = normal();
        return list;
    }
};

struct Results {  // of one instruction set, in the order in which they are computed
    std::vector<std::string> names;
    std::vector<std::vector<float>> values;
    void add(const std::string& name, const float* data, size_t count) {
        names.push_back(name);
        values.emplace_back(data, data + count);
    }
};

const char* kind_name(Kind kind) {
    static const char* const names[] = {"fp32", "int16", "int8 of 512", "bf16", "int8", "int16 by int8"};
    return names[static_cast<int>(kind)];
}

struct Shape {
    int rows, in, out;
};
// Around tiles, panels, pairs of words and blocks: odd on purpose.
constexpr Shape kShapes[] = {{1, 1, 1}, {5, 123, 123}, {8, 257, 64}, {13, 257, 64}, {16, 1030, 40}, {23, 520, 41}};
constexpr Dtype kDtypes[] = {Dtype::f32, Dtype::bf16, Dtype::f16};

std::vector<uint16_t> halves(Random& random, size_t count, Dtype dtype) {
    std::vector<uint16_t> list(count);
    for (uint16_t& h : list) {  // any mantissa, exponents around one
        const auto bits = static_cast<uint16_t>(random.state);
        random.uniform();
        h = static_cast<uint16_t>(dtype == Dtype::bf16 ? (bits & 0x81ff) | 0x3e00 : (bits & 0x8fff) | 0x3000);
    }
    return list;
}

void products(const std::shared_ptr<Runtime>& runtime, Kind kind, Dtype dtype, const Shape& s, Results& to) {
    Random random;
    const auto x = random.numbers(static_cast<size_t>(s.rows) * s.in), bias = random.numbers(s.out);
    const auto wide = random.numbers(static_cast<size_t>(s.out) * s.in);
    const auto narrow = halves(random, wide.size(), dtype);
    LinearWeight weight(runtime, s.out, s.in, kind);
    weight.load_rows(0, s.out, dtype == Dtype::f32 ? static_cast<const void*>(wide.data()) : narrow.data(), s.in,
                     dtype);
    weight.load_bias(0, s.out, bias.data());
    const ActivationBuffer a = runtime->pack(kind, {x.data(), s.in, s.rows, s.in});
    const std::string name = std::string(kind_name(kind)) + " weights " + std::to_string(static_cast<int>(dtype)) +
                             " " + std::to_string(s.rows) + "x" + std::to_string(s.in) + "x" + std::to_string(s.out);
    const Tensor packed = runtime->unpack(a.view);
    to.add("pack " + name, packed.data(), x.size());
    const Tensor product = runtime->linear(a.view, weight);
    to.add("linear " + name, product.data(), static_cast<size_t>(s.rows) * s.out);
    auto residual = random.numbers(static_cast<size_t>(s.rows) * s.out);
    runtime->linear_add(a.view, weight, residual.data(), s.out);
    to.add("residual " + name, residual.data(), residual.size());
    for (Gate gate : {Gate::silu, Gate::gelu, Gate::gelu_tanh}) {
        const bool has_up = s.out % 2 == 0;
        const ActivationBuffer gated = runtime->linear_gate(a.view, weight, gate, has_up, kind);
        const Tensor plain = runtime->unpack(gated.view);
        to.add("gate " + std::to_string(static_cast<int>(gate)) + " " + name, plain.data(),
               static_cast<size_t>(gated.view.rows) * gated.view.cols);
    }
}

void grouped(const std::shared_ptr<Runtime>& runtime, Kind kind, Results& to) {
    constexpr int rows = 9, in = 520, out = 70, group = 64, groups = (in + group - 1) / group;
    Random random;
    const auto x = random.numbers(rows * in);
    auto scales = random.numbers(out * groups), offsets = random.numbers(out * groups);
    std::vector<uint8_t> codes(out * in);
    for (uint8_t& code : codes) code = static_cast<uint8_t>((random.uniform() + 1) * 7.99f);
    std::vector<float> levels(16);
    for (int i = 0; i < 16; i++) levels[static_cast<size_t>(i)] = static_cast<float>(i);
    LinearWeight weight(runtime, out, in, kind);
    weight.keep_groups(group, levels, true);
    weight.load_groups(0, out, {codes.data(), in, scales.data(), offsets.data(), groups, group});
    const ActivationBuffer a = runtime->pack(kind, {x.data(), in, rows, in});
    to.add(std::string("4 bits ") + kind_name(kind), runtime->linear(a.view, weight).data(), rows * out);
}

void norms(const std::shared_ptr<Runtime>& runtime, Kind kind, int cols, Results& to) {
    constexpr int rows = 7;
    Random random;
    const auto x = random.numbers(static_cast<size_t>(rows) * cols), weight = random.numbers(cols),
               bias = random.numbers(cols);
    const std::string name = std::string(kind_name(kind)) + " " + std::to_string(cols);
    const ActivationBuffer a = runtime->rms_norm(kind, {x.data(), cols, rows, cols}, weight.data(), 1e-6f);
    to.add("rms_norm " + name, runtime->unpack(a.view).data(), x.size());
    const Tensor plain = runtime->layer_norm({x.data(), cols, rows, cols}, weight.data(), bias.data(), 1e-5f);
    to.add("layer_norm " + name, plain.data(), x.size());
}

void attention(const std::shared_ptr<Runtime>& runtime, Kind kind, int head_dim, int window, float cap, Results& to) {
    constexpr int heads = 4, kv_heads = 2, tokens = 57, cached = 300, positions = 400;
    Random random;
    const int half = head_dim / 2, width = (heads + 2 * kv_heads) * head_dim;
    const auto qkv = random.numbers(static_cast<size_t>(tokens) * width), norm = random.numbers(head_dim),
               cos = random.numbers(static_cast<size_t>(positions) * half),
               sin = random.numbers(static_cast<size_t>(positions) * half);
    auto keys = random.numbers(static_cast<size_t>(cached) * kv_heads * head_dim), values = keys;
    std::vector<int64_t> where(tokens);
    for (int i = 0; i < tokens; i++) where[static_cast<size_t>(i)] = i * 3;
    const RopeShape shape{heads, kv_heads, head_dim};
    const RopeResult r = runtime->qk_norm_rope(
        {{qkv.data(), width, tokens, width}, norm.data(), norm.data(), 1e-6f, cos.data(), sin.data(), where.data()},
        shape);
    const std::string name = std::string(kind_name(kind)) + " heads of " + std::to_string(head_dim) + ", window " +
                             std::to_string(window) + ", cap " + std::to_string(static_cast<int>(cap));
    to.add("rotation " + name, r.q.data(), static_cast<size_t>(tokens) * heads * head_dim);
    AttentionPlan plan;
    plan.kv_capacity = cached;
    plan.causal = true;
    plan.num_queries = tokens;
    plan.segments = {{0, 19, 0, 19, -1}, {19, 38, 19, 38, 0}};
    plan.contexts = {{{cached, 19}, {3, 270}}};
    const HeadStrides own{head_dim, static_cast<int64_t>(tokens) * head_dim};
    const HeadStrides old{static_cast<int64_t>(kv_heads) * head_dim, head_dim};
    const AttentionInput in{r.q.data(), r.k.data(), r.v.data(), keys.data(), values.data(), own,    own,
                            own,        old,        old,        shape,       0.3f,          window, cap};
    const ActivationBuffer a = runtime->attention(kind, in, plan);
    to.add("attention " + name, runtime->unpack(a.view).data(), static_cast<size_t>(tokens) * heads * head_dim);
}

Results everything(const std::string& isa) {
    const auto runtime = std::make_shared<Runtime>(2, isa, false);
    Results results;
    for (Kind kind : {Kind::f32, Kind::i16, Kind::i8, Kind::bf16, Kind::i8r, Kind::i16r}) {
        for (Dtype dtype : kDtypes)
            for (const Shape& s : kShapes) products(runtime, kind, dtype, s, results);
        if (kind != Kind::bf16 && !is_rotated(kind)) grouped(runtime, kind, results);
        for (int cols : {5, 123, 1030}) norms(runtime, kind, cols, results);
        attention(runtime, kind, 64, 0, 0.0f, results);
        attention(runtime, kind, 18, 40, 5.0f, results);
        if (!(runtime->ceiling(kind, 100) > 0)) throw std::runtime_error("a ceiling is no rate");
    }
    return results;
}

}  // namespace

int main(int argc, char** argv) {
    const std::string word = argc > 1 ? argv[1] : "";
    const auto isas = available_isas();
    if (word == "list") {
        for (const auto& isa : isas) std::printf("%s\n", isa.c_str());
        return 0;
    }
    try {
        if (word == "try") {
            std::printf("%s\n", Runtime(1, argc > 2 ? argv[2] : "", false).table().name);
            return 0;
        }
        const Results expected = everything("portable");
        int compared = 0, different = 0;
        for (const auto& isa : isas) {
            if (isa == "portable") continue;
            const Results actual = everything(isa);
            for (size_t i = 0; i < expected.names.size(); i++, compared++) {
                const auto &a = actual.values[i], &e = expected.values[i];
                if (a.size() == e.size() && std::memcmp(a.data(), e.data(), a.size() * sizeof(float)) == 0) continue;
                size_t at = 0;
                while (at < e.size() && a[at] == e[at]) at++;
                different++;
                std::printf("%s: %s: %g is not %g at %zu\n", isa.c_str(), expected.names[i].c_str(), a[at], e[at], at);
            }
        }
        std::printf("%d compared, %d different\n", compared, different);
        return different != 0;
    } catch (const std::exception& error) {
        std::printf("%s\n", error.what());
        return 2;
    }
}
