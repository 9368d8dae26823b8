# SPDX-License-Identifier: Apache-2.0
"""A GPU without a GPU: tensors of the device cuda that have shape, type and place, but no memory.

They are PyTorch's fake tensors, which refuse operands on two devices as a GPU does. Tensors of the host
stay real. What crosses between the two is noted where one side would have to wait for the other.
"""

from __future__ import annotations

import ctypes
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("cuda", 0)
PACKAGE = Path(__file__).parents[2] / "diffnext"
_aten = torch.ops.aten
_GUARDS = "_ZN3c104impl26device_guard_impl_registryE"  # of each type of device, by its number
_CUDA, _META = 1, 14
_SUBSCRIPTS = (Tensor.__getitem__, Tensor.__setitem__)
_JOINING = (_aten.cat.default, _aten.stack.default)
_INDEXING = (_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default)


class Gpu(TorchDispatchMode):
    """Computes what has to do with `DEVICE` on fake tensors, all else as it is.

    `waits` has a line for each time that the host would have waited, with the place in diffnext.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.pinned: dict[int, torch.UntypedStorage] = {}
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)

    def pin(self, tensor: Tensor) -> Tensor:
        """Take a tensor of the host for one in page-locked memory, from which a GPU copies by itself."""
        storage = tensor.untyped_storage()
        self.pinned[storage._cdata] = storage
        return tensor

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        if func is torch.ops.prim.device.default:  # half of all calls
            return args[0].fake_device
        kwargs = kwargs or {}
        there = torch.device(kwargs.get("device") or "cpu").type == DEVICE.type
        if not there and not any(isinstance(x, FakeTensor) for x in tree_leaves((args, kwargs))):
            return func(*args, **kwargs)
        if func is _aten._local_scalar_dense.default:
            self._wait("a value is read")
            return 0.0 if args[0].is_floating_point() else 0
        if func is _aten._to_copy.default:
            return self._copied(func, args, kwargs)
        if func is _aten.copy_.default:
            return self._fill(func, args[0], args[1], *args[2:])
        if func is _aten._foreach_copy_.default:
            for target, source in zip(*args[:2], strict=True):
                self._fill(_aten.copy_.default, target, source, *args[2:])
            return None
        if func in _JOINING and len({tensor.device for tensor in args[0]}) > 1:
            raise RuntimeError("tensors of cpu and cuda are joined")  # fake scalars may be
        if func in _INDEXING:
            self._check_indices(args)
        with self._fake:
            made = func(*args, **kwargs)
        return tree_map(_on_its_side, made)

    def _copied(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> Tensor:
        source, target = args[0], torch.device(kwargs.get("device") or args[0].device)
        self._cross(source, target, free=kwargs.get("non_blocking", False), pinned=source)
        with self._fake:
            made = func(*args, **kwargs)
        return _on_its_side(made)

    def _fill(self, func: Any, target: Tensor, source: Tensor, free: bool = False) -> Tensor:
        self._cross(source, target.device, free=free, pinned=target if source.is_cuda else source)
        if target.is_cuda:
            with self._fake:
                func(target, source)
        return target

    def _cross(self, source: Tensor, target: torch.device, *, free: bool, pinned: Tensor) -> None:
        if source.device.type == target.type:
            return
        if not free or pinned.untyped_storage()._cdata not in self.pinned:
            shape = tuple(source.shape)
            memory = "page-locked" if pinned.untyped_storage()._cdata in self.pinned else "plain"
            self._wait(f"{shape} from {source.device} to {target}, {memory} memory, free {free}")

    def _check_indices(self, args: tuple) -> None:
        for index in args[1]:
            if index is not None and index.is_cuda != args[0].is_cuda:
                self._wait(f"{args[0].device} is indexed from {index.device}")

    def _wait(self, what: str) -> None:
        frames = [f for f in traceback.extract_stack() if Path(f.filename).is_relative_to(PACKAGE)]
        places = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in frames[-2:]]
        self.waits.append(" > ".join([*places, what]))


def _on_its_side(made: Any) -> Any:
    """A result; one of the host gets memory."""
    if isinstance(made, FakeTensor) and made.device.type == "cpu":
        return torch.zeros(made.shape, dtype=made.dtype)
    return made


class Calls(TorchFunctionMode):
    """Takes out of calls what needs a GPU: its random generators, page-locked memory."""

    def __init__(self, gpu: Gpu) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, func, types, args=(), kwargs=None) -> Any:
        kwargs = dict(kwargs or {})
        pinned = kwargs.pop("pin_memory", False)
        generator, place = kwargs.get("generator"), torch.device(kwargs.get("device") or "cpu")
        if generator is not None and generator.device.type != place.type:
            raise RuntimeError(f"a {place} tensor is drawn by a generator of {generator.device}")
        if place.type == "cuda" and generator is not None:
            kwargs["generator"] = None
        if func in _SUBSCRIPTS and isinstance(args[0], FakeTensor):
            made = _subscripted(*args[:2])
            return made if func is Tensor.__getitem__ else made.copy_(torch.as_tensor(args[2]))
        if func is Tensor.backward:
            return _leave_gradients(args[0])
        if func is torch.tensor and place.type == "cuda":
            return func(*args, **kwargs | {"device": "cpu"}).to(place)
        made = func(*args, **kwargs)
        return self.gpu.pin(made) if pinned else made


def _leave_gradients(loss: Tensor) -> None:
    """What `loss.backward()` leaves behind; its engine does not run without a GPU's streams."""
    assert loss.requires_grad and loss.dim() == 0
    seen, left = set(), [loss.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        left += [following for following, _ in node.next_functions]
        if hasattr(node, "variable"):
            gradient = torch.zeros_like(node.variable, requires_grad=False)
            node.variable.grad = gradient + (
                0 if node.variable.grad is None else node.variable.grad
            )


def _subscripted(tensor: Tensor, index: Any) -> Tensor:
    """tensor[index]; PyTorch without CUDA has no such for a tensor of a GPU."""
    if isinstance(index, Tensor):
        return _aten.index(tensor, [index])
    shape = torch.empty_strided(tensor.shape, tensor.stride(), device="meta")[index]
    start = tensor.storage_offset() + shape.storage_offset()
    return tensor.as_strided(shape.shape, shape.stride(), start)


class Generator(torch.Generator):
    """One that may be of a GPU."""

    def __new__(cls, device: torch.device | str = "cpu") -> Generator:
        made = super().__new__(cls)
        made.place = torch.device(device)
        return made

    @property
    def device(self) -> torch.device:
        return self.place


class Event:
    """A mark in the order of a GPU's work, which is done already."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.timed = enable_timing
        self.recorded = False

    def record(self) -> None:
        self.recorded = True

    def synchronize(self) -> None:
        assert self.recorded

    def elapsed_time(self, other: Event) -> float:
        assert self.timed and other.timed and self.recorded and other.recorded
        return 1.0


@contextmanager
def _guarded() -> Iterator[None]:
    """Within, autograd takes tensors of a GPU though PyTorch was built without CUDA.

    It asks each device's guard for its stream. That of the device meta, which does nothing, answers.
    """
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    guards = (ctypes.c_void_p * (_META + 1)).in_dll(library, _GUARDS)
    guards[_CUDA] = guards[_META]
    try:
        yield
    finally:
        guards[_CUDA] = None


@contextmanager
def gpu() -> Iterator[Gpu]:
    """Within, `DEVICE` can be computed on; forward, optimizer and all around them, but no backward."""
    if torch.backends.cuda.is_built() or sys.platform != "linux":
        pytest.skip("written for PyTorch without CUDA on Linux")
    watch = Gpu()
    stream = SimpleNamespace(synchronize=lambda: watch._wait("for the stream"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        patch.setattr(torch, "Generator", Generator)
        # by one copy, not number by number
        patch.setattr(FakeTensor, "tolist", lambda tensor: tensor.cpu().tolist())
        patch.setattr(torch.cuda, "Event", Event)
        patch.setattr(torch.cuda, "current_stream", lambda device=None: stream)
        patch.setattr(torch.cuda, "synchronize", lambda device=None: watch._wait("for all"))
        patch.setattr(torch.cuda, "max_memory_allocated", lambda device=None: 2**20)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
        patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        with _guarded(), watch, Calls(watch):
            yield watch
