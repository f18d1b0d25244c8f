#include "dispatch.h"

#include <stdexcept>

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
#endif

namespace {

struct Candidate {
    const KernelTable* table;
    bool supported;
};

#if defined(ENGINE_X86)
// CPUID leaf 7, subleaf 1, EAX bit 4: VNNI with VEX encoding. gcc 12 has no name for it in __builtin_cpu_supports.
bool has_avx_vnni() {
    unsigned eax = 7, ebx, ecx = 1, edx;
    __asm__("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
    return (eax >> 4) & 1;
}
#endif

// __builtin_cpu_supports also asks the operating system whether it saves the wide registers.
std::vector<Candidate> candidates() {
    std::vector<Candidate> list;
#if defined(ENGINE_X86)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    list.push_back({&avx512_vnni::table, avx512 && __builtin_cpu_supports("avx512vnni")});
    list.push_back({&avx512::table, avx512});
    list.push_back({&avx2_vnni::table, avx2 && has_avx_vnni()});
    list.push_back({&avx2::table, avx2});
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
    std::string known;
    for (const auto& c : candidates()) {
        if (c.supported && (isa.empty() || isa == c.table->name)) return *c.table;
        if (isa == c.table->name)
            throw std::invalid_argument("this processor does not support the instruction set '" + isa + "'");
        known += std::string(known.empty() ? "" : ", ") + c.table->name;
    }
    throw std::invalid_argument("unknown instruction set '" + isa + "'; this build has: " + known);
}

}  // namespace engine_cpu
