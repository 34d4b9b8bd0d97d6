"""How much memory a computation holds at its worst moment."""

import functools
import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakBytes(TorchDispatchMode):
    """The most bytes that tensors made inside a ``with`` block held at one time, as ``.peak``.

    Counts what operators return, on any device: tensors that exist already and views cost nothing,
    and what an operator allocates for itself alone is not seen.

    >>> with PeakBytes() as memory:
    ...     x = torch.zeros(1000, dtype=torch.float32)
    ...     del x
    ...     x = torch.ones(500, dtype=torch.float32) + 1
    >>> memory.peak
    4000
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if _makes_tensors(func):
            for x in tree_leaves(result):
                self._hold(x.untyped_storage())
        return result

    def _hold(self, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, size)

    def _drop(self, size: int) -> None:
        self.now -= size


@functools.cache
def _makes_tensors(func: torch._ops.OpOverload) -> bool:
    """Whether an operator returns tensors of its own, not views of its arguments."""
    returns = func._schema.returns
    return bool(returns) and all(str(r.type) == "Tensor" and not r.alias_info for r in returns)
