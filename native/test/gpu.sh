#!/usr/bin/env bash
# Everything that needs a GPU, in one command: builds the library, runs CTest, the operators in Python's
# PyTorch, and the CUDA tests under compute-sanitizer.
#   native/test/gpu.sh [REPORT_DIR]      python3 with PyTorch, nvcc, CMake and Ninja on the PATH
set -uo pipefail
cd "$(dirname "$0")/../.."
report=${1:-target/gpu-report}
build=target/native-gpu
mkdir -p "$report"
failed=()

step() { # NAME COMMAND...
    local name=$1 start=$SECONDS
    shift
    if "$@" >"$report/$name.log" 2>&1; then
        printf '%-24s passed in %ss\n' "$name" $((SECONDS - start))
    else
        printf '%-24s FAILED after %ss, see %s\n' "$name" $((SECONDS - start)) "$report/$name.log"
        tail -n 40 "$report/$name.log"
        failed+=("$name")
    fi
}

step configure cmake -S native -B "$build" -G Ninja
step build cmake --build "$build"
step ctest ctest --test-dir "$build" --output-on-failure
step torch python3 native/test/python/test_torch.py --library "$build/libdjlbsr.so" \
    --write-modules "$report"
if (($(nvidia-smi --list-gpus | wc -l) >= 2)); then
    step two-gpus python3 native/test/python/test_two_gpus.py --library "$build/libdjlbsr.so"
fi
# Every kernel in turn.
sanitize() { # PROGRAM KERNEL
    for tool in memcheck racecheck initcheck synccheck; do
        step "$tool-$1-$2" env DJLBSR_CUDA_KERNEL="$2" timeout 100 \
            compute-sanitizer --tool "$tool" --error-exitcode 9 "$build/$1" quick
    done
}
for kernel in portable f32_stream sm80_f16_stream sm80_f16_mma; do
    sanitize test_cuda "$kernel"
done
for kernel in hopper_128x256 hopper_64x512 hopper_narrow hopper_narrow_split hopper_panels \
    hopper_panels_narrow hopper_panels_split2 hopper_panels_split4 hopper_panels_split8; do
    sanitize test_hopper "$kernel"
done
sanitize test_hopper_fp32 ""

printf '%d failed: %s\n' "${#failed[@]}" "${failed[*]:-none}"
exit "${#failed[@]}"
