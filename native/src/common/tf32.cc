/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include "common/tf32.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

namespace djlbsr {
namespace {

std::atomic<bool>& allowed() {
  static std::atomic<bool> value = [] {
    const char* text = std::getenv(kTf32Variable);
    return text != nullptr && std::strcmp(text, "1") == 0;
  }();
  return value;
}

}  // namespace

bool tf32_allowed() { return allowed().load(std::memory_order_relaxed); }

void allow_tf32(bool allow) { allowed().store(allow, std::memory_order_relaxed); }

}  // namespace djlbsr
