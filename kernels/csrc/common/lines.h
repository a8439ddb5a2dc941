// Vectors that begin with a cache line: rows of tiles that lie across two of them take twice the time.
#pragma once

#include <cstddef>
#include <new>
#include <vector>

namespace quire {

inline constexpr long kLine = 64;  // bytes

template <class T>
struct LineAllocator {
  using value_type = T;
  static constexpr std::align_val_t kAlignment{kLine};

  LineAllocator() = default;
  template <class U>
  LineAllocator(const LineAllocator<U>&) {}
  T* allocate(std::size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), kAlignment)); }
  void deallocate(T* memory, std::size_t) { ::operator delete(memory, kAlignment); }
  bool operator==(const LineAllocator&) const = default;
};

template <class T>
using Lines = std::vector<T, LineAllocator<T>>;

}  // namespace quire
