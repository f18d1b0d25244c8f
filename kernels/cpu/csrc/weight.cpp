#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "runtime.h"

namespace engine_cpu {
namespace {

int ceil_div(int a, int b) { return (a + b - 1) / b; }

Storage storage_of(Kind kind, Dtype dtype) {
    if (kind == Kind::i16) return Storage::i16;
    if (kind == Kind::i8 || is_rotated(kind)) return Storage::i8;
    if (kind == Kind::bf16) return Storage::bf16;
    if (dtype == Dtype::bf16) return Storage::bf16;  // fp32 arithmetic on 16-bit weights: exact, at half the memory
    return dtype == Dtype::f16 ? Storage::f16 : Storage::f32;
}

bool is_grouped(Storage s) { return s == Storage::q4 || s == Storage::q8; }
bool is_half(Storage s) { return s == Storage::bf16 || s == Storage::f16; }

}  // namespace

LinearWeight::LinearWeight(std::shared_ptr<Runtime> runtime, int out, int in, Kind kind)
    : runtime_(std::move(runtime)) {
    if (out <= 0 || in <= 0) throw std::invalid_argument("a linear weight needs at least one row and one column");
    const int elems = kBlockWords[static_cast<int>(kind)] * kWordElems[static_cast<int>(kind)];
    view_.kind = kind;
    view_.out = out;
    view_.in = in;
    view_.blocks = ceil_div(in, elems);
    view_.panels = ceil_div(out, runtime_->table().panel_width);
    bias_ = owned<float>(static_cast<size_t>(view_.panels) * runtime_->table().panel_width);
    view_.bias = bias_.get();
    std::memset(view_.bias, 0, sizeof(float) * view_.panels * runtime_->table().panel_width);
}

int64_t LinearWeight::words_in_panel() const {
    return static_cast<int64_t>(words_of(view_.kind, view_.in)) * runtime_->table().panel_width;
}

void LinearWeight::reserve(Storage storage) {
    view_.storage = storage;
    const int per_word = kWordElems[static_cast<int>(view_.kind)];
    view_.panel_bytes = words_in_panel() * per_word * kStorageBits[static_cast<int>(storage)] / 8;
    data_ = owned<unsigned char>(view_.panel_bytes * view_.panels);
    view_.data = data_.get();
    runtime_->pool().run(view_.panels, [&](int64_t panel, int) {
        std::memset(view_.data + panel * view_.panel_bytes, 0, view_.panel_bytes);
    });
    if (!is_scaled(view_.kind)) return;
    const size_t blocks = static_cast<size_t>(view_.blocks) * scales_in_block(view_.kind);
    const size_t count = blocks * view_.panels * runtime_->table().panel_width;
    scales_ = owned<float>(count);
    std::memset(scales_.get(), 0, count * sizeof(float));
    view_.scales = scales_.get();
    if (!is_i8(view_.kind)) return;
    offsets_ = owned<int32_t>(count);
    std::memset(offsets_.get(), 0, count * sizeof(int32_t));
    view_.offsets = offsets_.get();
}

// Rows of another type arrived (an adapter merged in fp32, say): 16 bits no longer hold them exactly.
void LinearWeight::widen_storage() {
    const Storage old_storage = view_.storage;
    Owned<unsigned char> old = std::move(data_);
    reserve(Storage::f32);
    const int64_t words = words_in_panel();
    runtime_->pool().run(view_.panels, [&](int64_t panel, int) {
        const auto* from = reinterpret_cast<const uint16_t*>(old.get()) + panel * words;
        auto* to = reinterpret_cast<float*>(view_.data + panel * view_.panel_bytes);
        runtime_->table().widen(from, old_storage == Storage::bf16 ? Dtype::bf16 : Dtype::f16, words, to);
    });
}

void LinearWeight::load_rows(int64_t start, int64_t rows, const void* src, int64_t src_stride, Dtype dtype) {
    if (start < 0 || rows < 0 || start + rows > view_.out)
        throw std::out_of_range("rows " + std::to_string(start) + " to " + std::to_string(start + rows) +
                                " do not fit a weight of " + std::to_string(view_.out) + " rows");
    if (data_ && is_grouped(view_.storage)) throw std::logic_error("a weight in groups takes groups, not rows");
    const Storage wanted = storage_of(view_.kind, dtype);
    if (!data_)
        reserve(wanted);
    else if (wanted != view_.storage && is_half(view_.storage))
        widen_storage();
    const int width = runtime_->table().panel_width;
    const int64_t first_panel = start / width, last_panel = (start + rows + width - 1) / width;
    runtime_->reserve_scratch(view_.in + width);
    runtime_->pool().run(rows ? last_panel - first_panel : 0, [&](int64_t task, int thread) {
        const int64_t panel = first_panel + task;
        const int64_t from = std::max(start, panel * width), to = std::min(start + rows, (panel + 1) * width);
        const int bytes = dtype == Dtype::f32 ? 4 : 2;
        runtime_->table().pack_weight(view_, static_cast<int>(panel), static_cast<int>(from - panel * width),
                                      static_cast<int>(to - from),
                                      static_cast<const char*>(src) + (from - start) * src_stride * bytes, src_stride,
                                      dtype, runtime_->scratch(thread));
    });
}

// With 16 levels 4 bits in groups; with 256, which are -128 to 127, 8 bits, in fp32 arithmetic only.
void LinearWeight::keep_groups(int group, const std::vector<float>& levels, bool has_offsets) {
    const int elems = kBlockWords[static_cast<int>(view_.kind)] * kWordElems[static_cast<int>(view_.kind)];
    view_.group = group >= view_.in ? elems : std::min(group, elems);
    const bool bytes = levels.size() == 256;
    const int values = bytes ? kQ8Values : kQ4Values;
    const bool has_room = bytes ? view_.kind == Kind::f32 : view_.kind != Kind::bf16 && !is_rotated(view_.kind);
    const bool fits = has_room && (bytes || levels.size() == 16) && group > 0 &&
                      (group % elems == 0 || elems % group == 0 || group >= view_.in);
    if (!fits || view_.group % values || view_.in % values || elems % view_.group)
        throw std::invalid_argument("groups of " + std::to_string(group) + " do not fit rows of " +
                                    std::to_string(view_.in));
    view_.groups = ceil_div(view_.in, view_.group);
    if (!bytes) set_levels(levels, has_offsets);
    reserve(bytes ? Storage::q8 : Storage::q4);
    const size_t size = view_.kind == Kind::f32 ? sizeof(float) : sizeof(int16_t);
    const size_t total = static_cast<size_t>(view_.panels) * view_.groups * runtime_->table().panel_width * size;
    group_scales_ = owned<unsigned char>(total);
    std::memset(group_scales_.get(), 0, total);
    view_.group_scales = group_scales_.get();
    if (has_offsets) {
        group_offsets_ = owned<unsigned char>(total);
        std::memset(group_offsets_.get(), 0, total);
        view_.group_offsets = group_offsets_.get();
    }
    group_bytes_ = total * (has_offsets ? 2 : 1);
}

// Integer levels are made as large as the fixed-point product allows: multipliers get the rest of the bits
// (group_kernels.h).
void LinearWeight::set_levels(const std::vector<float>& levels, bool has_offsets) {
    const auto [low, high] = std::minmax_element(levels.begin(), levels.end());
    view_.center = has_offsets ? (*low + *high) / 2 : 0;
    const float most = std::max(std::abs(*low - view_.center), std::abs(*high - view_.center));
    // Whole and half levels stay exact where the unit is even.
    view_.unit =
        view_.kind == Kind::i8 ? std::exp2(std::floor(std::log2(2048 / most))) : 2 * std::floor(32767 / most / 2);
    if (view_.unit < 2) view_.unit = 32767 / most;
    for (int i = 0; i < 16; i++) {
        view_.levels[i] = levels[i];
        view_.levels16[i] = static_cast<int16_t>(std::nearbyint((levels[i] - view_.center) * view_.unit));
    }
}

void LinearWeight::load_groups(int64_t start, int64_t rows, const GroupRows& from) {
    if (start < 0 || rows < 0 || start + rows > view_.out)
        throw std::out_of_range("rows " + std::to_string(start) + " to " + std::to_string(start + rows) +
                                " do not fit a weight of " + std::to_string(view_.out) + " rows");
    if (!is_grouped(view_.storage) || (from.offsets && !view_.group_offsets))
        throw std::logic_error("this weight does not keep such groups");
    const int width = runtime_->table().panel_width;
    const int64_t first_panel = start / width, last_panel = (start + rows + width - 1) / width;
    runtime_->reserve_scratch(view_.in + width);
    runtime_->pool().run(rows ? last_panel - first_panel : 0, [&](int64_t task, int thread) {
        const int64_t panel = first_panel + task;
        const int64_t begin = std::max(start, panel * width), end = std::min(start + rows, (panel + 1) * width);
        GroupRows part = from;
        part.codes += (begin - start) * from.codes_stride;
        part.scales += (begin - start) * from.scales_stride;
        if (from.offsets) part.offsets += (begin - start) * from.scales_stride;
        runtime_->table().pack_groups(view_, static_cast<int>(panel), static_cast<int>(begin - panel * width),
                                      static_cast<int>(end - begin), part, runtime_->scratch(thread));
    });
}

void LinearWeight::load_bias(int64_t start, int64_t count, const float* src) {
    if (start < 0 || count < 0 || start + count > view_.out)
        throw std::out_of_range("the bias does not fit a weight of " + std::to_string(view_.out) + " rows");
    std::memcpy(view_.bias + start, src, static_cast<size_t>(count) * sizeof(float));
}

size_t LinearWeight::num_bytes() const {
    const size_t padded = static_cast<size_t>(view_.panels) * runtime_->table().panel_width;
    const size_t scale_bytes = !is_scaled(view_.kind) ? 0 : is_i8(view_.kind) ? 8 : 4;
    const size_t scales = padded * view_.blocks * scales_in_block(view_.kind);
    return (data_ ? view_.panel_bytes * view_.panels + scales * scale_bytes : 0) + padded * sizeof(float) +
           group_bytes_;
}

const Weight& LinearWeight::view() const {
    if (!data_) throw std::logic_error("a linear weight was used before its rows were loaded");
    return view_;
}

}  // namespace engine_cpu
