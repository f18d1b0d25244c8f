// The matrix products that an instruction set adds to another one, whose other kernels stay as they are: compiled and
// chosen like kernels_isa.cpp.
#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "kernel_table.h"

namespace engine_cpu {
namespace ENGINE_ISA {
namespace {
#include "simd.h"

#include "pack_kernels.h"

#include "group_kernels.h"

#include "group8_kernels.h"

#include "gemm_kernels.h"
}  // namespace

extern const Products products;
const Products products = {
#if defined(ENGINE_AMX)
    .gemm = {nullptr, nullptr, gemm_kind<I8>, gemm_kind<BF16>, gemm_kind<I8R>, nullptr},
    .ceiling = {nullptr, nullptr, ceiling_kind<I8>, ceiling_kind<BF16>, ceiling_kind<I8R>, nullptr},
#else
    .gemm = {nullptr, nullptr, nullptr, gemm_kind<BF16>, nullptr, nullptr},
    .ceiling = {nullptr, nullptr, nullptr, ceiling_kind<BF16>, nullptr, nullptr},
#endif
};
}  // namespace ENGINE_ISA
}  // namespace engine_cpu
