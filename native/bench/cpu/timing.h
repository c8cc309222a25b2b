/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
#pragma once

#include <time.h>

#include <algorithm>
#include <vector>

/* How the benchmark takes times. */
namespace bench {

/*
 * Seconds. With one thread the clock counts the time that this thread ran, so that other processes
 * on a busy machine do not count; with more it is the time that passed.
 */
inline double now(int threads) {
  timespec t;
  clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

struct Times {
  double median;
  double best;
  double p90;
  int repeats;
};

/* Repeats work for about `seconds`, at least thrice, after one run that warms up. */
template <typename Work>
Times measure(double seconds, int threads, Work work) {
  work();
  std::vector<double> times;
  const double end = now(threads) + seconds;
  while (times.size() < 3 || (now(threads) < end && times.size() < 1000)) {
    const double start = now(threads);
    work();
    times.push_back(now(threads) - start);
  }
  std::sort(times.begin(), times.end());
  const size_t last = times.size() - 1;
  return {times[last / 2], times[0], times[last * 9 / 10], static_cast<int>(times.size())};
}

}  // namespace bench
