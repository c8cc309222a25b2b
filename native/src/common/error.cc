/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#include "common/error.h"

#include <cstdarg>
#include <cstdio>
#include <new>

namespace djlbsr {
namespace {

thread_local std::string last_error_text;

int32_t record(int32_t status, const char* message) noexcept {
  try {
    last_error_text = message;
  } catch (...) {
    last_error_text.clear();
  }
  return status;
}

}  // namespace

void fail(int32_t status, const char* format, ...) {
  char text[1024];
  va_list args;
  va_start(args, format);
  std::vsnprintf(text, sizeof(text), format, args);
  va_end(args);
  throw Error(status, text);
}

int32_t record_current_exception() noexcept {
  try {
    throw;
  } catch (const Error& e) {
    return record(e.status(), e.what());
  } catch (const std::bad_alloc&) {
    return record(DJLBSR_OUT_OF_MEMORY,
                  "out of host memory; use smaller batches or give the process more memory");
  } catch (const std::exception& e) {
    return record(DJLBSR_INTERNAL_ERROR, e.what());
  } catch (...) {
    return record(DJLBSR_INTERNAL_ERROR, "an exception of unknown type");
  }
}

const char* last_error() noexcept { return last_error_text.c_str(); }

}  // namespace djlbsr
