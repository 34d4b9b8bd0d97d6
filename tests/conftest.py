"""Every test starts in float64 with the same seed, on one thread.

Two workers of two threads each on two cores wait for one another: most tests take three times as
long, and none is large enough to gain from a second thread.
"""

import os

import pytest
import torch

torch.set_num_threads(1)
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")  # libraries and processes to come


@pytest.fixture(autouse=True)
def _float64():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
