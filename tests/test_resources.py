"""Bundled data is found in a source tree and in an installed wheel."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

from nbench import resources


def _copied(package: Path) -> ModuleType:
    package.mkdir(parents=True)
    shutil.copy(resources.__file__, package / "resources.py")
    spec = importlib.util.spec_from_file_location("copied_resources", package / "resources.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_source_tree_keeps_them_at_its_root() -> None:
    assert (resources.bundled("prompts") / "core.yaml").is_file()


def test_wheel_keeps_them_inside_the_package_and_ignores_a_stranger_beside_it(tmp_path: Path) -> None:
    module = _copied(tmp_path / "site-packages" / "nbench")
    (tmp_path / "site-packages" / "prompts").mkdir()
    inside = tmp_path / "site-packages" / "nbench" / "_bundled" / "prompts"
    inside.mkdir(parents=True)
    assert module.bundled("prompts") == inside
