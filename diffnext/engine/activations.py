# SPDX-License-Identifier: Apache-2.0
"""What a forward and a backward hold at their peak, measured on tensors without memory (device meta)."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from diffnext.data.schema import Batch
from diffnext.pipelines.train_base import Expected, TrainPipeline
from diffnext.utils.seeding import Draws

# as torch.autocast of CUDA rules for the functions of transformers
_LOW = ("linear", "matmul", "bmm", "conv2d", "conv3d", "scaled_dot_product_attention")
_FULL = ("layer_norm", "group_norm", "rms_norm", "softmax", "mse_loss")


def measure(
    pipe: TrainPipeline,
    net: nn.Module,
    *,
    expected: Expected,
    batch_size: int,
    precision: torch.dtype,
    copies: bool = True,
    shape: Sequence[int] = (),
) -> int:
    """Bytes that one micro-batch needs beyond weights and their gradients, at its peak.

    Kernels' workspace and what the allocator leaves unused between tensors come on top.

    Args:
        pipe: of networks on the device meta.
        net: the network that learns, with its checkpointing, on the device meta.
        expected: what data it takes.
        precision: what products are computed in.
        copies: count the weights cast to `precision`; no where they are held in it anyway.
        shape: of the moments, (2C, T, H, W) or (2C, H, W), where the network takes any.
    """
    batch = _example(batch_size, expected, shape)
    for param in net.parameters():
        param.grad = torch.zeros_like(param) if param.requires_grad else None
    grads = [param.grad for param in net.parameters() if param.requires_grad]
    live = Live(ignore=[*net.parameters(), *net.buffers(), *grads])
    low = LowPrecision(precision, seen=None if copies else live.hide)
    with in_modules(low), live:
        inputs = pipe.prepare(batch, draws=Blank(0, 0, batch.keys(), device="meta"))
        loss = pipe.loss(net, inputs).loss
        low.forget()
        loss.backward()
        low.forget()
    net.zero_grad(set_to_none=True)
    return live.peak_bytes


class Live(TorchDispatchMode):
    """Counts the bytes of all tensors that are made within and alive; the gradients of weights too.

    Args:
        ignore: tensors that do not count.
    """

    def __init__(self, ignore: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.now_bytes = 0
        self.peak_bytes = 0
        self._seen: dict[int, weakref.ref] = {}
        self._ignored = {
            id(tensor.untyped_storage()): tensor.untyped_storage() for tensor in ignore
        }

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return out

    def hide(self, tensor: Tensor) -> None:
        """Do not count a tensor that was made within."""
        storage = tensor.untyped_storage()
        if self._seen.pop(id(storage), None) is not None:
            self.now_bytes -= storage.nbytes()
            self._ignored[id(storage)] = storage

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._seen or key in self._ignored:
            return

        def gone(_: weakref.ref) -> None:
            del self._seen[key]
            self.now_bytes -= size

        self._seen[key] = weakref.ref(storage, gone)
        self.now_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.now_bytes)


class LowPrecision(TorchFunctionMode):
    """Stands for autocast of CUDA, which does not know the device meta; weights are cast once.

    Attention is the fused kernel's, which keeps no matrix of all pairs of tokens.

    Args:
        dtype: of products.
        seen: is told each copy of a weight.
    """

    def __init__(self, dtype: torch.dtype, *, seen: Callable[[Tensor], None] | None = None) -> None:
        super().__init__()
        self.dtype = dtype
        self.seen = seen
        self._weights: dict[Tensor, Tensor] = {}

    def forget(self) -> None:
        """Drop the copies of weights, as autocast does at its end."""
        self._weights.clear()

    def __torch_function__(self, func, types, args=(), kwargs=None) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        if name in _LOW:
            args, kwargs = tree_map(self._low, (args, kwargs))
        elif name in _FULL:
            args, kwargs = tree_map(_full, (args, kwargs))
        if name == "scaled_dot_product_attention":
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*args[:3])[0]
        return func(*args, **kwargs)

    def _low(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            return value
        if not isinstance(value, nn.Parameter):
            return value.to(self.dtype)
        if value not in self._weights:
            self._weights[value] = value.to(self.dtype)
            if self.seen is not None:
                self.seen(self._weights[value])
        return self._weights[value]


@contextmanager
def in_modules(mode: TorchFunctionMode) -> Iterator[None]:
    """A mode that is on in the forward of every module, also where backward computes one again."""
    depth = 0

    def enter(*_: Any) -> None:
        nonlocal depth
        depth += 1
        if depth == 1:
            mode.__enter__()

    def leave(*_: Any) -> None:
        nonlocal depth
        depth -= 1
        if depth == 0:
            mode.__exit__(None, None, None)

    handles = [
        register_module_forward_pre_hook(enter),
        register_module_forward_hook(leave, always_call=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Blank(Draws):
    """Random numbers that nobody looks at: shapes alone."""

    def stream(self, name: str) -> Blank:
        return Blank(self.seed, self.step, self.keys, device=self.device, name=name)

    def randn(self, *shape: int) -> Tensor:
        return torch.empty(len(self), *shape, device=self.device)

    rand = randn

    def randint(self, high: int, *shape: int) -> Tensor:
        return torch.empty(len(self), *shape, dtype=torch.int64, device=self.device)

    def permutation(self, count: int) -> Tensor:
        return self.randint(count, count)


def _full(value: Any) -> Any:
    half = isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if half else value


def _example(count: int, expected: Expected, shape: Sequence[int]) -> Batch:
    """A batch with prompts of full length, or labels where there are no prompts."""
    if expected.channels and expected.size:
        shape = (2 * expected.channels, expected.frames or 1, *expected.size)
    shape = tuple(shape) if len(shape) == 4 else (shape[0], 1, *shape[1:])
    number = torch.zeros(count, dtype=torch.int64)
    prompts = labels = None
    if expected.text_width:
        states = torch.empty(expected.text_length or 256, expected.text_width, device="meta")
        prompts = [states] * count
    else:
        labels = torch.zeros(count, dtype=torch.int64, device="meta")
    moments = torch.empty(count, *shape, dtype=torch.float16, device="meta")
    return Batch(moments=moments, index=number, epoch=number, prompts=prompts, labels=labels)
