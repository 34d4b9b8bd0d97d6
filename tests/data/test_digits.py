import pytest
import torch

from notes_lib.data import digits, stratified_split


def test_digits_are_what_the_docstring_says():
    images, labels = digits()
    assert images.shape == (1797, 1, 8, 8) and images.dtype == torch.float32
    assert images.min() == -1 and images.max() == 1
    assert len(images.unique()) == 17
    assert labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_split_is_stratified_disjoint_and_repeatable():
    images, labels = digits()
    x_train, x_test, y_train, y_test = stratified_split(torch.arange(1797), labels)
    assert (len(x_train), len(x_test)) == (1347, 450)
    assert sorted(torch.cat([x_train, x_test]).tolist()) == list(range(1797))
    shares = y_test.bincount() / labels.bincount()
    assert (shares - 0.25).abs().max() < 0.01
    assert torch.equal(stratified_split(torch.arange(1797), labels)[0], x_train)


def test_split_refuses_unequal_lengths():
    with pytest.raises(ValueError, match="one length"):
        stratified_split(torch.zeros(3), torch.zeros(4, dtype=torch.long))
