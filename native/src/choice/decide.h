/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include "djlbsr.h"

namespace djlbsr::choice {

/* Dense costs memory for a second weight, and a prediction errs: it has to be this much faster. */
constexpr double kDenseAdvantage = 1.05;

inline djlbsr_prediction decide(double bsr_seconds, double dense_seconds) {
  return {bsr_seconds, dense_seconds, dense_seconds * kDenseAdvantage < bsr_seconds ? 1 : 0, 0};
}

}  // namespace djlbsr::choice
