// What an x86-64 processor and its operating system can do, asked of the processor itself.
//
// Not by __builtin_cpu_supports: it reads tables of the compiler's runtime library, and that of zig, which builds the
// wheels, has none, so that every answer was no. Intel's manual, volume 2, CPUID, names the bits.
#pragma once

namespace engine_cpu {

struct Cpuid {
    unsigned eax, ebx, ecx, edx;
    Cpuid(unsigned leaf, unsigned subleaf) : eax(leaf), ebx(0), ecx(subleaf), edx(0) {
        __asm__("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
    }
};

struct X86Features {
    bool avx2 = false;      // with FMA and F16C, and the system saves 256 bits
    bool avx_vnni = false;  // VNNI with VEX encoding
    bool avx512 = false;    // F, BW, DQ and VL, and the system saves 512 bits
    bool avx512_vnni = false;
    bool avx512_bf16 = false;
    bool amx = false;  // tiles, bf16 and int8, and the system saves them
};

inline X86Features x86_features() {
    X86Features found;
    const auto bit = [](unsigned word, int number) { return (word >> number & 1) != 0; };
    const Cpuid basic(1, 0);
    if (Cpuid(0, 0).eax < 7 || !bit(basic.ecx, 27)) return found;  // OSXSAVE: XGETBV says what is saved
    unsigned saved, high;
    __asm__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
    const Cpuid seven(7, 0);
    // A leaf that is not there reads as that of another.
    const unsigned one = seven.eax >= 1 ? Cpuid(7, 1).eax : 0;
    const bool ymm = (saved & 0x6) == 0x6, zmm = (saved & 0xe6) == 0xe6, tiles = (saved >> 17 & 3) == 3;
    found.avx2 = ymm && bit(basic.ecx, 28) && bit(basic.ecx, 12) && bit(basic.ecx, 29) && bit(seven.ebx, 5);
    found.avx_vnni = found.avx2 && bit(one, 4);
    found.avx512 =
        found.avx2 && zmm && bit(seven.ebx, 16) && bit(seven.ebx, 30) && bit(seven.ebx, 17) && bit(seven.ebx, 31);
    found.avx512_vnni = found.avx512 && bit(seven.ecx, 11);
    found.avx512_bf16 = found.avx512_vnni && bit(one, 5);
    found.amx = found.avx512_bf16 && tiles && bit(seven.edx, 22) && bit(seven.edx, 24) && bit(seven.edx, 25);
    return found;
}

}  // namespace engine_cpu
