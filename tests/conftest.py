"""Fixtures for all tests: the four mixes of sessions and hooks."""

import pytest
from helpers import MIXES, assert_same


@pytest.fixture(params=MIXES.values(), ids=MIXES.keys())
def mix(request):
    """Each of the four mixes: TensorFlow's or our sessions with TensorFlow's or our hooks, as an `Api`."""
    return request.param


@pytest.fixture
def same_as_stock(mix, tmp_path):
    """A function of a program that runs it on TensorFlow alone and in the mix, compares, and returns the record."""
    return lambda program: assert_same(program, mix, tmp_path)
