// All kernels for one instruction set. CMake compiles this file once per instruction set, with ENGINE_ISA naming it and
// the matching -m flags; dispatch.cpp picks one table when the module is loaded.
#if defined(__AVX2__)
#include <immintrin.h>
#endif
#if defined(ENGINE_NEON)
#include <arm_neon.h>
#endif

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "kernel_table.h"

#define ENGINE_STRING_(x) #x
#define ENGINE_STRING(x) ENGINE_STRING_(x)

namespace engine_cpu {
namespace ENGINE_ISA {
namespace {
#include "simd.h"

#include "pack_kernels.h"

#include "group_kernels.h"

#include "group8_kernels.h"

#include "epilogue_kernels.h"
#include "gemm_kernels.h"
#include "norm_rope_kernels.h"

#include "attention_kernel.h"
}  // namespace

extern const KernelTable table;
const KernelTable table = {
    .name = ENGINE_STRING(ENGINE_ISA),
    .lanes = kLanes,
    .panel_width = NR,
    .tile_rows = kTileRows,
    .i8_offset = kI8Offset,
    .products = {.gemm = {gemm_kind<F32>, gemm_kind<I16>, gemm_kind<I8>, gemm_kind<BF16>, gemm_kind<I8R>,
                          gemm_kind<I16R>},
                 .ceiling = {ceiling_kind<F32>, ceiling_kind<I16>, ceiling_kind<I8>, ceiling_kind<BF16>,
                             ceiling_kind<I8R>, ceiling_kind<I16R>}},
    .store = store_block,
    .gate = gate_block,
    .pack_activation = pack_activation,
    .pack_weight = pack_weight,
    .pack_groups = pack_groups,
    .widen = widen,
    .unpack = unpack,
    .rms_norm = rms_norm,
    .layer_norm = layer_norm,
    .qk_norm_rope = qk_norm_rope,
    .attention = attention,
    .attention_floats = attention_floats,
};
}  // namespace ENGINE_ISA
}  // namespace engine_cpu
