// Shows a program a processor without AVX-512, AVX-VNNI and AMX: preloaded, it makes the CPUID instruction fault (Linux,
// x86-64, `cpuid_fault` in /proc/cpuinfo), answers it itself and clears those bits. Libraries then choose their AVX2 code.
//
//   cc -O2 -shared -fPIC -o only_avx2.so only_avx2.c && LD_PRELOAD=$PWD/only_avx2.so PROGRAM
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_CPUID_SET 0x1012

static void allow(long yes) {
    if (syscall(SYS_arch_prctl, ARCH_CPUID_SET, yes) != 0) {
        static const char words[] = "only_avx2: this processor or kernel has no CPUID faulting\n";
        (void)!write(2, words, sizeof words - 1);
        _exit(70);
    }
}

static void answer(int signal_number, siginfo_t* info, void* context) {
    (void)info;
    greg_t* registers = ((ucontext_t*)context)->uc_mcontext.gregs;
    const uint8_t* at = (const uint8_t*)registers[REG_RIP];
    if (at[0] != 0x0f || at[1] != 0xa2) {  // a fault of the program's own
        signal(signal_number, SIG_DFL);
        return;
    }
    unsigned a, b, c, d;
    const unsigned leaf = (unsigned)registers[REG_RAX], subleaf = (unsigned)registers[REG_RCX];
    allow(1);
    __cpuid_count(leaf, subleaf, a, b, c, d);
    allow(0);
    if (leaf == 7 && subleaf == 0) {
        b &= ~(1u << 16 | 1u << 17 | 1u << 21 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 30 | 1u << 31);
        c &= ~(1u << 1 | 1u << 6 | 1u << 11 | 1u << 12 | 1u << 14);
        d &= ~(1u << 2 | 1u << 3 | 1u << 8 | 1u << 22 | 1u << 23 | 1u << 24 | 1u << 25);
    } else if (leaf == 7 && subleaf == 1) {
        a &= ~(1u << 4 | 1u << 5 | 1u << 21 | 1u << 23);  // AVX-VNNI, AVX512-BF16, AMX-FP16, AVX-IFMA
        d &= ~(1u << 4 | 1u << 5 | 1u << 10 | 1u << 19);  // AVX-VNNI-INT8, AVX-NE-CONVERT, AVX-VNNI-INT16, AVX10
    }
    registers[REG_RAX] = a, registers[REG_RBX] = b, registers[REG_RCX] = c, registers[REG_RDX] = d;
    registers[REG_RIP] += 2;
}

__attribute__((constructor)) static void begin(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = answer;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGSEGV, &action, NULL);
    allow(0);  // threads inherit it
}
