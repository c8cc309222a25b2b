#!/usr/bin/env python3
# Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
"""Measures the CPU profiles of this machine and prints src/choice/builtin_profile.cc with them.

    python3 native/bench/cpu_profile.py --library BUILD/libdjlbsr.so >native/src/choice/builtin_profile.cc

Needs PyTorch 2.7 or later, or with --libtorch FILE its libtorch_cpu.so alone.
"""
import argparse
import ctypes

POINTS = 168
LINE = 6
DTYPES = ("float32", "float16", "bfloat16")

HEAD = """/*
 * Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
 */
/* Printed by bench/cpu_profile.py on: {processor}. */
#include "choice/cost_model.h"

namespace djlbsr::choice {{
namespace {{

constexpr CpuProfile kProfiles[] = {{
"""

TAIL = """};

}  // namespace

const CpuProfile& builtin_profile(int32_t dtype) { return kProfiles[dtype]; }

}  // namespace djlbsr::choice
"""


def processor():
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        return next(line.split(":", 1)[1].strip() for line in info if line.startswith("model name"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", required=True, help="libdjlbsr.so")
    parser.add_argument("--libtorch", help="libtorch_cpu.so, instead of importing torch")
    args = parser.parse_args()
    if args.libtorch:
        ctypes.CDLL(args.libtorch)
    else:
        import torch  # noqa: F401  (loads libtorch)
    library = ctypes.CDLL(args.library)
    library.djlbsr_last_error.restype = ctypes.c_char_p
    library.djlbsr_active_isa.restype = ctypes.c_char_p
    isa = library.djlbsr_active_isa().decode()
    print(HEAD.format(processor=f"{processor()}, {isa}"), end="")
    for dtype, name in enumerate(DTYPES):
        seconds = (ctypes.c_double * POINTS)()
        if library.djlbsr_torch_measure_profile(dtype, seconds) != 0:
            raise SystemExit(library.djlbsr_last_error().decode())
        print(f"    /* {name} */\n    {{{{")
        for i in range(0, POINTS, LINE):
            print("        " + " ".join(f"{s:.3g}," for s in seconds[i : i + LINE]))
        print("    }},")
    print(TAIL, end="")


if __name__ == "__main__":
    main()
