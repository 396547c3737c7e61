"""A GPU that is not there: computes on the CPU and refuses what a real one would refuse.

Code that forgets a ``.to(x.device)`` works on the CPU and fails on the first real GPU. Inside :func:`pretended` tensors
that are asked for on ``cuda`` are CPU tensors with a mark. Results of marked tensors are marked; to mix marked
and unmarked ones, or to hand a marked one to numpy, is the error that CUDA would give. Speed, memory and rounding
of a GPU are not pretended.
"""

from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_flatten, tree_map

GPU = torch.device("cuda", 0)
PLAIN_RESULT = {"cpu", "item", "tolist", "__float__", "__int__", "__bool__", "__len__", "__index__", "__format__"}
NUMPY = {"numpy", "__array__"}
CROSSING = {"copy_", "to", "type_as", "__getitem__", "set_", "index"}  # may take tensors of both kinds


class Marked(torch.Tensor):
    """A tensor that counts as being on the GPU."""

    def __deepcopy__(self, memo):
        copied = self.detach().clone().requires_grad_(self.requires_grad)
        if getattr(self, "_is_param", False):
            copied._is_param = True
        memo[id(self)] = copied
        return copied


def _marked(value):
    return value.as_subclass(Marked) if type(value) is torch.Tensor else value


def _plain(value):
    return value.as_subclass(torch.Tensor) if isinstance(value, Marked) else value


def _is_gpu(device):
    return device is not None and torch.device(device).type == "cuda"


class _Pretending(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(function, "__name__", str(function))
        tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
        here = [value for value in tensors if isinstance(value, Marked)]
        if name == "__get__":  # an attribute
            return self._attribute(function, args, kwargs, here)
        if name in NUMPY and here:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
        mixed = [args[0], args[2]] if name == "__setitem__" else tensors  # an index may be of either kind
        there = [value for value in mixed if torch.is_tensor(value) and not isinstance(value, Marked) and value.dim()]
        if here and there and name not in CROSSING:
            raise RuntimeError(f"{name}: expected all tensors on one device, but found cuda:0 and cpu")
        target = self._target(name, args, kwargs, here)
        asked = [value for value in (*args, *kwargs.values()) if isinstance(value, str | torch.device)]
        if name == "_parse_to":  # how a module reads the arguments of ``to``
            place, *rest = function(*args, **kwargs)
            return GPU if any(map(_names_gpu, asked)) else place, *rest
        if _is_gpu(kwargs.get("device")):
            kwargs["device"] = "cpu"
        args = tuple("cpu" if isinstance(value, str | torch.device) and _names_gpu(value) else value for value in args)
        with torch._C.DisableTorchFunctionSubclass():
            result = function(*args, **kwargs)
        if name in PLAIN_RESULT:
            return tree_map(_plain, result)
        return tree_map(_marked if target else _plain, result)

    @staticmethod
    def _attribute(function, args, kwargs, here):
        with torch._C.DisableTorchFunctionSubclass():
            value = function(*args, **kwargs)
        if here and isinstance(value, torch.device):
            return GPU
        if here and (resolve_name(function) or "").endswith("is_cuda.__get__"):
            return True
        return tree_map(_marked if here else _plain, value)

    @staticmethod
    def _target(name, args, kwargs, here):
        """Whether the result is on the GPU."""
        if name == "to":
            others = [*args[1:], *kwargs.values()]
            for other in others:
                if isinstance(other, torch.Tensor):
                    return isinstance(other, Marked)
                if isinstance(other, str | torch.device):
                    return _is_gpu(other)
            return bool(here)
        if name == "cuda":
            return True
        device = kwargs.get("device")
        return bool(here) if device is None else _is_gpu(device)


def _names_gpu(value):
    return (value.type if isinstance(value, torch.device) else value).startswith("cuda")


@contextmanager
def pretended():
    """Within the block, ``device="cuda"`` means marked tensors."""
    vmap, apply = torch.func.vmap, torch.nn.Module._apply
    torch.func.vmap = lambda function, *args, **kwargs: _outside(vmap(function, *args, **kwargs))
    torch.nn.Module._apply = _applied
    try:
        with _Pretending():
            yield
    finally:
        torch.func.vmap, torch.nn.Module._apply = vmap, apply


def _applied(module, function, recurse=True):
    """What ``to`` and its kin do to a module: new tensors, since exchanging what is in one does not move its mark."""
    for child in module.children() if recurse else ():
        child._apply(function)
    for own in (module._parameters, module._buffers):
        for name, value in own.items():
            if value is not None:
                moved = function(value.detach())
                trained = own is module._parameters
                own[name] = torch.nn.Parameter(moved, value.requires_grad) if trained else moved
    return module


def _outside(transformed):
    """A batched function whose inside is not watched: its tensors carry no mark."""

    def call(*args):
        here = any(isinstance(value, Marked) for value in tree_flatten(args)[0])
        with torch._C.DisableTorchFunction():
            result = transformed(*tree_map(_plain, args))
        return tree_map(_marked, result) if here else result

    return call
