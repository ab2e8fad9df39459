"""Let torchvision import beside a CPU build of torch.

The registry's torchvision wheel is a CUDA build, whose compiled ops cannot load without CUDA torch.
torchvision tolerates that (`torchvision.ops.nms` then raises its own clear error), except that its
import registers fake kernels for two operators that nobody declared. So, just before torchvision is
imported, declare those two schemas, and only if the compiled ops really cannot load. Nothing is faked
and nothing is imported until torchvision is.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_libraries: list[Any] = []  # a torch.library.Library undoes its definitions when collected


def _declare_missing_ops(package: Path) -> None:
    import torch

    for compiled in package.glob("_C*.so"):
        try:
            torch.ops.load_library(str(compiled))
            return
        except OSError:
            continue
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)
    _libraries.append(library)


class _Loader(importlib.abc.Loader):
    """torchvision's own loader, with the declaration put before execution."""

    def __init__(self, wrapped: importlib.abc.Loader, package: Path) -> None:
        self._wrapped = wrapped
        self._package = package

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._wrapped.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        _declare_missing_ops(self._package)
        self._wrapped.exec_module(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "torchvision":
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None and spec.submodule_search_locations:
            package = Path(next(iter(spec.submodule_search_locations)))
            spec.loader = _Loader(spec.loader, package)
        return spec


def install() -> None:
    """Put the finder in place; does nothing when torchvision is imported already, or on a second call."""
    if "torchvision" in sys.modules or any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _Finder())
