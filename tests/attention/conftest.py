"""Fixtures that run a test over the whole family of shapes and options."""

import pytest

from .cases import OPTIONS, SHAPES


@pytest.fixture(params=SHAPES.values(), ids=SHAPES.keys())
def shape(request):
    return request.param


@pytest.fixture(params=OPTIONS.values(), ids=OPTIONS.keys())
def options(request):
    return request.param
