"""What a test sees of the operations of a step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Watch(TorchDispatchMode):
    """Every operation: none may read a value back, have a size that values decide, or give more than ``largest``."""

    FORBIDDEN = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "bincount", "item", "is_nonzero")

    def __init__(self, largest: float = math.inf) -> None:
        super().__init__()
        self.largest, self.seen = largest, set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func.overloadpacket).removeprefix("aten.")
        assert not name.startswith(self.FORBIDDEN), name
        if name in ("index", "index_put", "index_put_"):
            assert all(i.dtype != torch.bool for i in args[1] if isinstance(i, Tensor)), f"boolean mask in {name}"
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            assert result.numel() <= self.largest, f"{name} made {tuple(result.shape)}"
        self.seen.add(name)
        return result
