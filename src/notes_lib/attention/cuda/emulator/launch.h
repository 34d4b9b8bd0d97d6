// Included after a kernel's file, with ENTRY the kernel's name: what Python calls.
#pragma once
#include "block.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace emu {
// As the driver does: `arguments[i]` points to the i-th argument of the kernel.
template <class... A, size_t... I>
void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
  kernel(*(std::remove_cv_t<A>*)arguments[I]...);
}
template <class... A>
void call(void (*kernel)(A...), void** arguments) {
  call(kernel, arguments, std::index_sequence_for<A...>());
}
}  // namespace emu

// Names of the counters, in the order of `counts`.
EXPORT const char* counter_names() {
#define NAME(name) #name " "
  return EMULATOR_COUNTERS(NAME);
#undef NAME
}

// Run the kernel. Returns nullptr, or what is wrong with it.
EXPORT const char* emulate(void** arguments, const u32* grid, int threads, size_t shared,
                           int late, u64* counts) {
  static std::string error;
  error.clear();
  emu::late = late;
  emu::counted = {};
  try {
    emu::launch({grid[0], grid[1], grid[2]}, threads, shared,
                [=] { emu::call(ENTRY, arguments); });
  } catch (const emu::Error& caught) {
    error = caught.text;
  }
  memcpy(counts, &emu::counted, sizeof emu::counted);
  return error.empty() ? nullptr : error.c_str();
}
