"""A real plug-in package, installed by pip into a folder, is found without nbench knowing of it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "plugin_package"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source") / "package"
    shutil.copytree(PACKAGE, source, ignore=shutil.ignore_patterns("__pycache__"))
    target = tmp_path_factory.mktemp("site")
    options = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, "--target", target, source], check=True)
    return target


def run(code: str, *folders: Path) -> str:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, *folders)))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_an_installed_package_adds_a_scorer(installed: Path) -> None:
    code = """
from PIL import Image
from nbench.scoring.registry import get_scorer, scorer_entries
print([entry.package for entry in scorer_entries() if entry.name == "brightness"])
print(get_scorer("brightness").score([Image.new("RGB", (4, 4), (30, 60, 90))], ["a prompt"])[0].values)
"""
    assert run(code, installed).splitlines() == ["['nbench-brightness']", "{'': 60.0}"]


def test_without_the_package_the_scorer_is_unknown() -> None:
    code = "from nbench.scoring.registry import list_scorers; print('brightness' in list_scorers())"
    assert run(code) == "False"


def test_the_plug_in_is_not_imported_until_it_is_asked_for(installed: Path) -> None:
    code = """
import sys
from nbench.scoring.registry import get_scorer, list_scorers
assert "brightness" in list_scorers()
print("nbench_brightness" in sys.modules)
"""
    assert run(code, installed) == "False"


def test_the_plug_in_passes_conformance(installed: Path) -> None:
    code = """
from nbench.scoring.conformance import check_scorer
from nbench.scoring.registry import get_scorer
report = check_scorer(get_scorer("brightness"))
print(report.passed, len(report.checks))
"""
    passed, checks = run(code, installed).split()
    assert passed == "True" and int(checks) >= 6
