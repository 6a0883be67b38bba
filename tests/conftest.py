"""One thread for every test and for the processes they start: the same sums in the same order, and no crowding."""

import os

# Read by torch, NumPy and their children when they are imported, which is after this file.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
