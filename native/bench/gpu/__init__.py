#
# Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
#
"""The parts of cuda_linear.py. plan, report and pictures need no GPU and no PyTorch."""
