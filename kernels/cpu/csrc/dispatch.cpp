#include "dispatch.h"

#include <stdexcept>
#if defined(ENGINE_X86)
#include "x86_features.h"
#endif
#if defined(ENGINE_X86) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(ENGINE_ARM) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(ENGINE_ARM) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace engine_cpu {

namespace portable {
extern const KernelTable table;
}
#if defined(ENGINE_X86)
namespace avx2 {
extern const KernelTable table;
}
namespace avx2_vnni {
extern const KernelTable table;
}
namespace avx512 {
extern const KernelTable table;
}
namespace avx512_vnni {
extern const KernelTable table;
}
namespace avx512_bf16 {
extern const Products products;
}
namespace amx {
extern const Products products;
}
#endif

#if defined(ENGINE_ARM)
namespace neon {
extern const KernelTable table;
}
namespace neon_dotprod {
extern const KernelTable table;
}
namespace neon_i8mm {
extern const KernelTable table;
}
#endif

namespace {

struct Candidate {
    const KernelTable* table;
    bool supported;
};

#if defined(ENGINE_X86)
// `base` with the products that another instruction set has.
KernelTable with_products(KernelTable base, const char* name, const Products& products) {
    base.name = name;
    for (int kind = 0; kind < kKinds; kind++) {
        if (products.gemm[kind]) base.products.gemm[kind] = products.gemm[kind];
        if (products.ceiling[kind]) base.products.ceiling[kind] = products.ceiling[kind];
    }
    return base;
}

// Linux gives a process the tiles once, when it asks; threads that are started later have them too.
bool may_use_tiles() {
#if defined(__linux__)
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
    return false;
#endif
}
#endif

#if defined(ENGINE_ARM)
struct ArmFeatures {
    bool dotprod = false, i8mm = false;  // the latter with BF16: every processor since has both or neither
};
ArmFeatures arm_features() {
    ArmFeatures found;
#if defined(__linux__)
    // The bits of linux/arch/arm64/include/uapi/asm/hwcap.h: ASIMDDP; of the second word I8MM and BF16.
    found.dotprod = getauxval(AT_HWCAP) >> 20 & 1;
    const unsigned long second = getauxval(AT_HWCAP2);
    found.i8mm = (second >> 13 & 1) && (second >> 14 & 1);
#elif defined(__APPLE__)
    const auto has = [](const char* name) {
        int value = 0;
        size_t size = sizeof value;
        return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value;
    };
    found.dotprod = has("hw.optional.arm.FEAT_DotProd");
    found.i8mm = has("hw.optional.arm.FEAT_I8MM") && has("hw.optional.arm.FEAT_BF16");
#endif
    return found;
}
#endif

std::vector<Candidate> candidates() {
    std::vector<Candidate> list;
#if defined(ENGINE_X86)
    const X86Features cpu = x86_features();
    static const KernelTable bf16_table = with_products(avx512_vnni::table, "avx512_bf16", avx512_bf16::products);
    static const KernelTable amx_table = with_products(bf16_table, "amx", amx::products);
    static const bool amx = cpu.amx && may_use_tiles();
    list.push_back({&amx_table, amx});
    list.push_back({&bf16_table, cpu.avx512_bf16});
    list.push_back({&avx512_vnni::table, cpu.avx512_vnni});
    list.push_back({&avx512::table, cpu.avx512});
    list.push_back({&avx2_vnni::table, cpu.avx_vnni});
    list.push_back({&avx2::table, cpu.avx2});
#endif
#if defined(ENGINE_ARM)
    const ArmFeatures arm = arm_features();
    list.push_back({&neon_i8mm::table, arm.dotprod && arm.i8mm});
    list.push_back({&neon_dotprod::table, arm.dotprod});
    list.push_back({&neon::table, true});  // every 64-bit Arm processor has it
#endif
    list.push_back({&portable::table, true});
    return list;
}

}  // namespace

std::vector<std::string> available_isas() {
    std::vector<std::string> names;
    for (const auto& c : candidates())
        if (c.supported) names.emplace_back(c.table->name);
    return names;
}

const KernelTable& select_table(const std::string& isa) {
    std::string known, here;
    bool built = false;
    const auto add = [](std::string& list, const char* name) {
        list += (list.empty() ? "" : ", ") + std::string(name);
    };
    for (const auto& c : candidates()) {
        if (c.supported && (isa.empty() || isa == c.table->name)) return *c.table;
        built = built || isa == c.table->name;
        add(known, c.table->name);
        if (c.supported) add(here, c.table->name);
    }
    if (built)
        throw std::invalid_argument("this processor does not support the instruction set '" + isa +
                                    "'; it has: " + here);
    throw std::invalid_argument("unknown instruction set '" + isa + "'; this build has: " + known +
                                "; this processor: " + here);
}

}  // namespace engine_cpu
