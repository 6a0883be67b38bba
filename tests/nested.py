"""Comparing nested dictionaries and lists that hold tensors."""

from __future__ import annotations

from typing import Any

import torch


def assert_same(a: Any, b: Any, where: str = "", **tolerance: float) -> None:
    """Equal nested values; tensors bit for bit unless a tolerance is given."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}", **tolerance)
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for index, pair in enumerate(zip(a, b, strict=True)):
            assert_same(*pair, f"{where}[{index}]", **tolerance)
    elif isinstance(a, torch.Tensor):
        if tolerance:
            torch.testing.assert_close(a, b, **tolerance, msg=lambda text: f"{where}: {text}")
        else:
            assert torch.equal(a, b), where
    else:
        assert a == b, where
