/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "djlbsr.h"

namespace djlbsr {

/* Carries a djlbsr_status and its text up to the C boundary, which `guarded` is. */
class Error : public std::runtime_error {
 public:
  Error(int32_t status, const std::string& message)
      : std::runtime_error(message), status_(status) {}
  int32_t status() const { return status_; }

 private:
  int32_t status_;
};

/* printf-style; the message names the argument, its value and the remedy. */
[[noreturn]] void fail(int32_t status, const char* format, ...)
    __attribute__((format(printf, 2, 3)));

#define DJLBSR_CHECK(condition, ...)                        \
  do {                                                      \
    if (__builtin_expect(!(condition), 0)) {                \
      ::djlbsr::fail(DJLBSR_INVALID_ARGUMENT, __VA_ARGS__); \
    }                                                       \
  } while (0)

/* Records the exception in flight as the thread's last error and returns its status. */
int32_t record_current_exception() noexcept;

const char* last_error() noexcept;

/* Runs body and turns whatever it throws into a status: nothing may cross the C boundary. */
template <typename Body>
int32_t guarded(Body&& body) noexcept {
  try {
    body();
    return DJLBSR_OK;
  } catch (...) {
    return record_current_exception();
  }
}

}  // namespace djlbsr
