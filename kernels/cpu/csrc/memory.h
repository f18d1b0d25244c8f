// Memory for weights and for the results of operations. Results are recycled: a model asks for the same few sizes in
// every layer of every step, and fresh memory from the system costs a page fault per 4 KiB.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

namespace engine_cpu {

// Aligned to a cache line, on huge pages where the system has them. Throws std::bad_alloc.
void* allocate(size_t bytes);
void release(void* p);

struct Released {
    void operator()(void* p) const { release(p); }
};
template <class T>
using Owned = std::unique_ptr<T[], Released>;
template <class T>
Owned<T> owned(size_t count) {
    return Owned<T>(static_cast<T*>(allocate(count * sizeof(T))));
}

class BufferCache : public std::enable_shared_from_this<BufferCache> {
  public:
    ~BufferCache();
    // The buffer goes back to the cache when its last owner lets go, wherever that is.
    std::shared_ptr<void> take(size_t bytes);
    // Bytes kept for later: never more than were once in use at the same time.
    size_t cached_bytes() const;
    void trim();

  private:
    struct Buffer {
        void* p;
        size_t size;
    };
    void give_back(Buffer buffer);
    void drop_oldest_until(size_t cached);

    mutable std::mutex mutex_;
    std::vector<Buffer> free_;  // oldest first; a few dozen at most
    size_t cached_ = 0;
    size_t in_use_ = 0;
    size_t peak_ = 0;
};

}  // namespace engine_cpu
