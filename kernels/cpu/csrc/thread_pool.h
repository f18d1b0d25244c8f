// Persistent threads that take tasks from a counter. A thread spins for a moment after its last task, so that the next
// operation of a model finds it awake, and then sleeps. The calling thread works too; it waits at the end only for
// threads that took a task, so a thread the system has parked does not hold up a job that it did not join.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace engine_cpu {

class ThreadPool {
  public:
    ThreadPool(int num_threads, bool pin);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;

    int size() const { return static_cast<int>(workers_.size()) + 1; }

    // fn(task, thread) for task in [0, num_tasks), thread in [0, size()).
    template <class Fn>
    void run(int64_t num_tasks, const Fn& fn) {
        if (num_tasks <= 0) return;
        run_erased(
            num_tasks, [](const void* f, int64_t task, int thread) { (*static_cast<const Fn*>(f))(task, thread); },
            &fn);
    }

  private:
    using Erased = void (*)(const void*, int64_t, int);
    void run_erased(int64_t num_tasks, Erased call, const void* fn);
    void take_tasks(int thread);
    void work(int thread);

    std::vector<std::thread> workers_;
    std::mutex one_job_;
    Erased call_ = nullptr;
    const void* fn_ = nullptr;
    int64_t num_tasks_ = 0;
    alignas(64) std::atomic<int64_t> next_{0};
    // High half: number of openings and closings, odd while a job may be joined. Low half: threads inside.
    alignas(64) std::atomic<uint64_t> state_{0};
    alignas(64) std::atomic<uint32_t> wake_{0};
    std::atomic<int> sleepers_{0};
    std::atomic<bool> stop_{false};
};

}  // namespace engine_cpu
