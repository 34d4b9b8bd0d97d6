"""These tests run on an NVIDIA GPU and are skipped elsewhere. `make gpu-check` runs them all."""

import os

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
CAPABILITY = torch.cuda.get_device_capability() if torch.cuda.is_available() else (0, 0)


def pytest_itemcollected(item):
    item.add_marker(pytest.mark.gpu)
    if INTERPRETED and item.path.name == "test_triton.py":
        return
    if CAPABILITY < (8, 0):
        reason = "needs an NVIDIA GPU of compute capability 8.0 or later"
        item.add_marker(pytest.mark.skip(reason=reason))
    elif "hopper" in item.name and CAPABILITY != (9, 0):
        item.add_marker(pytest.mark.skip(reason="needs a Hopper GPU"))


@pytest.fixture(autouse=True)
def _float32(_float64):
    """PyTorch's own default again, and float32 products that are float32 products."""
    torch.set_default_dtype(torch.float32)
    torch.backends.cuda.matmul.allow_tf32 = False
