#include "thread_pool.h"

#include <pthread.h>
#include <sched.h>

namespace engine_cpu {
namespace {

constexpr uint64_t kTurn = uint64_t{1} << 32;
constexpr int kSpins = 3000;  // about 100 us: longer than the Python between two operations, shorter than a pause

void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

bool is_open(uint64_t state) { return (state >> 32) % 2 == 1; }

#if defined(__linux__)
void pin_to(pthread_t thread, int index) {
    cpu_set_t allowed;
    CPU_ZERO(&allowed);
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &allowed) && index-- == 0) {
            cpu_set_t one;
            CPU_ZERO(&one);
            CPU_SET(cpu, &one);
            pthread_setaffinity_np(thread, sizeof one, &one);
            return;
        }
}
#else
void pin_to(pthread_t, int) {}  // macOS places threads itself
#endif

}  // namespace

// The calling thread is left alone: threads that it starts later would inherit its single core.
ThreadPool::ThreadPool(int num_threads, bool pin) {
    for (int i = 1; i < num_threads; i++) {
        workers_.emplace_back([this, i] { work(i); });
        if (pin) pin_to(workers_.back().native_handle(), i);
    }
}

ThreadPool::~ThreadPool() {
    stop_ = true;
    wake_.fetch_add(1);
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
}

void ThreadPool::take_tasks(int thread) {
    for (int64_t task; (task = next_.fetch_add(1, std::memory_order_relaxed)) < num_tasks_;) call_(fn_, task, thread);
}

void ThreadPool::run_erased(int64_t num_tasks, Erased call, const void* fn) {
    std::lock_guard<std::mutex> lock(one_job_);
    call_ = call;
    fn_ = fn;
    num_tasks_ = num_tasks;
    next_.store(0, std::memory_order_relaxed);
    if (num_tasks > 1 && !workers_.empty()) {
        state_.fetch_add(kTurn);
        wake_.fetch_add(1);
        if (sleepers_.load() > 0) wake_.notify_all();
        take_tasks(0);
        state_.fetch_add(kTurn);
        for (int spin = 0; (state_.load(std::memory_order_acquire) & (kTurn - 1)) != 0; spin++)
            spin < kSpins ? pause() : static_cast<void>(sched_yield());
    } else {
        take_tasks(0);
    }
}

void ThreadPool::work(int thread) {
    uint32_t seen = 0;
    while (!stop_.load(std::memory_order_relaxed)) {
        uint32_t now = wake_.load();
        for (int spin = 0; now == seen && spin < kSpins; spin++) {
            pause();
            now = wake_.load(std::memory_order_acquire);
        }
        if (now == seen) {
            sleepers_.fetch_add(1);
            wake_.wait(seen);
            sleepers_.fetch_sub(1);
            continue;
        }
        seen = now;
        uint64_t state = state_.load();
        while (is_open(state) && !state_.compare_exchange_weak(state, state + 1)) {
        }
        if (!is_open(state)) continue;
        take_tasks(thread);
        state_.fetch_sub(1, std::memory_order_release);
    }
}

}  // namespace engine_cpu
