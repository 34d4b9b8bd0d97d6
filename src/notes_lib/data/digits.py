"""Handwritten digits, 8 x 8."""

import torch
from jaxtyping import Float, Int
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor


def digits() -> tuple[Float[Tensor, "1797 1 8 8"], Int[Tensor, " 1797"]]:
    """1,797 handwritten digits with 17 grey levels, scaled to [-1, 1], and their labels 0 to 9.

    The test part of the UCI "Optical Recognition of Handwritten Digits" set (Alpaydin & Kaynak,
    1998; CC BY 4.0), as shipped by scikit-learn.
    """
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1
    return images, torch.tensor(data.target)


def stratified_split(
    x: Tensor, y: Int[Tensor, " n"], test_size: float = 0.25, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x and y split into train and test with equal shares of every label.

    Returns:
        x_train, x_test, y_train, y_test.
    """
    if len(x) != len(y):
        raise ValueError(f"x and y need one length, got {len(x)} and {len(y)}")
    train, test = train_test_split(
        torch.arange(len(y)), test_size=test_size, random_state=seed, stratify=y
    )
    return x[train], x[test], y[train], y[test]
