#!/bin/sh
#
# Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
#
# The CPU tests under ThreadSanitizer. It does not know GCC's OpenMP runtime, so LLVM's takes its
# place, which tells it of forks, barriers and joins through Archer (apt-get install libomp-14-dev).
#
#     native/test/tsan.sh BUILD_FOLDER [LLVM_LIB_FOLDER]
set -eu
build=$1
llvm=${2:-/usr/lib/llvm-14/lib}
for library in libomp.so.5 libarcher.so; do
  [ -e "$llvm/$library" ] || { echo "no $llvm/$library; apt-get install libomp-14-dev" >&2; exit 1; }
done
cmake -S "$(dirname "$0")/.." -B "$build" -G Ninja -DDJLBSR_CUDA=OFF -DDJLBSR_SANITIZE=thread \
  -DCMAKE_BUILD_TYPE=None -DCMAKE_CXX_FLAGS=-O1
cmake --build "$build" --target test_linear test_int8 test_boundary
mkdir -p "$build/openmp"
ln -sf "$llvm/libomp.so.5" "$build/openmp/libgomp.so.1"
export LD_LIBRARY_PATH="$build/openmp" OMP_TOOL_LIBRARIES="$llvm/libarcher.so"
export TSAN_OPTIONS=ignore_noninstrumented_modules=1
for isa in portable avx2 avx512 avx512_vnni avx512_bf16 amx; do
  for name in test_linear test_int8 test_boundary; do
    DJLBSR_MAX_ISA=$isa "$build/$name" || [ $? -eq 77 ]
  done
done
