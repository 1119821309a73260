"""A device beside the CPU for machines without one: what is not on it cannot be mixed with what is, as on a GPU.

Inside `OtherDevice()` tensors can be made on `DEVICE` and moved to it, and say that they are there. Their values are
real, and the CPU computes with them; but an operation on some of its tensors and some of the CPU's raises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_iter, tree_map_only

DEVICE = torch.device("cuda", 0)
CROSSES = torch.ops.aten.copy_.default
"""The operation that takes values from one device to the other."""


class There(torch.Tensor):
    """A tensor on the other device. `here`: its values, on the CPU."""

    here: torch.Tensor

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> There:
        made: There = torch.Tensor._make_wrapper_subclass(
            cls,
            here.size(),
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            requires_grad=here.requires_grad,
        )
        made.here = here
        return made

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = (args, dict(kwargs or {}))
        strangers = [x for x in _tensors(given) if not isinstance(x, There)]
        if func is not CROSSES and any(x.dim() for x in strangers):  # a number on the CPU fits everywhere
            raise RuntimeError(f"Expected all tensors to be on the same device, {func} got some on {DEVICE} and on cpu")
        own_args, own_given = tree_map_only(There, lambda tensor: tensor.here, given)
        return tree_map_only(torch.Tensor, There, func(*own_args, **own_given))


class OtherDevice(TorchFunctionMode):
    """Where the other device exists."""

    def __enter__(self) -> OtherDevice:
        # A module that is moved gets new parameters: a tensor of the CPU cannot become one of another device.
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch.__future__.set_overwrite_module_params_on_conversion(False)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = (args, dict(kwargs or {}))
        if func == torch.Tensor.device.__get__:  # type: ignore[attr-defined]
            return DEVICE if isinstance(args[0], There) else func(*args)
        if func is torch.Tensor.cpu:
            return args[0].here if isinstance(args[0], There) else args[0]
        if func is torch._C._nn._parse_to:  # reads what a module is to be moved to
            return func(*args, **given[1])
        asked = [x for x in tree_iter(given) if isinstance(x, torch.device)]
        own_args, own_given = tree_map_only(torch.device, lambda x: torch.device("cpu") if x == DEVICE else x, given)
        found = func(*own_args, **own_given)
        if DEVICE in asked and not any(isinstance(x, There) for x in _tensors(given)):
            return tree_map_only(torch.Tensor, There, found)
        return found


def _tensors(given: Any) -> list[torch.Tensor]:
    return [x for x in tree_iter(given) if isinstance(x, torch.Tensor)]
