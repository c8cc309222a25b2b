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
for tool in memcheck racecheck initcheck synccheck; do
    for program in test_cuda "test_hopper quick"; do
        # shellcheck disable=SC2086
        step "$tool-${program%% *}" timeout 400 compute-sanitizer --tool "$tool" \
            --error-exitcode 9 "$build"/$program
    done
done

printf '%d failed: %s\n' "${#failed[@]}" "${failed[*]:-none}"
exit "${#failed[@]}"
