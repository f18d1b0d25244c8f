#include "memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace engine_cpu {
namespace {

[[maybe_unused]] constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kLine = 64;

size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

}  // namespace

void* allocate(size_t bytes) {
    const size_t size = round_up(bytes ? bytes : 1, kLine);
    void* p = std::aligned_alloc(kLine, size);
    if (!p) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
    // The huge pages that lie wholly inside: nothing is rounded up. Advice: a refusal costs speed only.
    const auto address = reinterpret_cast<uintptr_t>(p);
    const uintptr_t first = round_up(address, kHugePage), end = (address + size) / kHugePage * kHugePage;
    if (first < end) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#endif
    return p;
}

void release(void* p) { std::free(p); }

BufferCache::~BufferCache() { trim(); }

std::shared_ptr<void> BufferCache::take(size_t bytes) {
    Buffer buffer{nullptr, round_up(bytes ? bytes : 1, 4096)};
    {
        std::lock_guard<std::mutex> lock(mutex_);
        // The smallest that fits, unless it would waste more than it gives.
        auto best = free_.end();
        for (auto it = free_.begin(); it != free_.end(); ++it)
            if (it->size >= buffer.size && it->size <= 2 * buffer.size &&
                (best == free_.end() || it->size < best->size))
                best = it;
        if (best != free_.end()) {
            buffer = *best;
            cached_ -= buffer.size;
            free_.erase(best);
        }
        in_use_ += buffer.size;
        peak_ = std::max(peak_, in_use_);
    }
    if (!buffer.p) buffer.p = allocate(buffer.size);
    return std::shared_ptr<void>(buffer.p, [cache = shared_from_this(), buffer](void*) { cache->give_back(buffer); });
}

void BufferCache::give_back(Buffer buffer) {
    std::lock_guard<std::mutex> lock(mutex_);
    in_use_ -= buffer.size;
    free_.push_back(buffer);
    cached_ += buffer.size;
    drop_oldest_until(peak_);
}

void BufferCache::drop_oldest_until(size_t cached) {
    size_t count = 0;
    for (; cached_ > cached; count++) {
        cached_ -= free_[count].size;
        release(free_[count].p);
    }
    free_.erase(free_.begin(), free_.begin() + static_cast<std::ptrdiff_t>(count));
}

size_t BufferCache::cached_bytes() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return cached_;
}

void BufferCache::trim() {
    std::lock_guard<std::mutex> lock(mutex_);
    drop_oldest_until(0);
}

}  // namespace engine_cpu
