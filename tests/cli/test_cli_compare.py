"""`nbench compare` on runs on disk: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from evidence_fakes import curve_values, made_run, scorer_part
from gate_fakes import store_run
from PIL import Image

from nbench.cli import cli


def nbench(*args: object) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("compare") / "store"
    base = {"proxy": curve_values(), "held": curve_values(seed=1)}
    hacked = {"proxy": curve_values(seed=5, shift=0.5), "held": curve_values(seed=6, shift=-0.8)}
    store_run(made_run({"base": base, "nft": hacked}, name="cmp"), root)
    store_run(made_run({"nft": hacked}, name="other"), root)
    store_run(made_run({"nft": hacked}, name="half", dtype="bfloat16"), root)
    changed = {"proxy": scorer_part("proxy", version="2"), "held": scorer_part("held")}
    store_run(made_run({"nft": hacked}, name="rescored", scorers=changed), root)
    return root


def compare(store: Path, *more: object, run: str = "cmp", candidate: str = "nft") -> Result:
    return nbench("compare", run, *more, "--base", "base", "--candidate", candidate, "--store", store)


def test_it_prints_differences_curves_and_prompts(store: Path) -> None:
    done = compare(store)
    assert done.exit_code == 0, done.output
    assert "nft minus base: mean paired difference" in done.output
    assert "steps to match base" in done.output and "prompts that moved most" in done.output


def test_the_verdict_on_a_trained_proxy_is_said(store: Path) -> None:
    done = compare(store, "--trained-on", "proxy")
    assert done.exit_code == 0 and "Trained on proxy. UNSUPPORTED" in done.output
    wide = compare(store, "--trained-on", "proxy", "--margin", "9")
    assert "Trained on proxy. supported" in wide.output


def test_the_candidate_may_be_in_another_run(store: Path) -> None:
    one, two = (json.loads(compare(store, *more, "--json").stdout) for more in ((), ("other",)))
    assert two["runs"] == ["cmp", "other"] and one["rows"] == two["rows"]


def test_files_hold_what_was_printed(store: Path, tmp_path: Path) -> None:
    done = compare(store, "--out", tmp_path / "out", "--json")
    found = json.loads(done.stdout)
    assert json.loads((tmp_path / "out/comparison.json").read_text()) == found
    assert (tmp_path / "out/curves.svg").read_text().startswith("<svg")
    with Image.open(tmp_path / "out/worst-pairs.png") as sheet:
        assert sheet.height > 300
    told = compare(store, "--out", tmp_path / "out")
    assert f"Curves, worst pairs and JSON: {tmp_path / 'out'}" in told.output


@pytest.mark.parametrize(
    ("run", "said"),
    [("half", "dtype: float32 -> bfloat16  (--allow dtype)"), ("rescored", "scorers.proxy: proxy-1 -> proxy-2")],
)
def test_unlike_cards_are_refused_with_what_differs(store: Path, run: str, said: str) -> None:
    done = compare(store, run)
    assert (done.exit_code, said in done.output) == (3, True), done.output


def test_what_is_allowed_is_marked_and_the_rest_stays_refused(store: Path) -> None:
    done = compare(store, "half", "--allow", "dtype")
    assert done.exit_code == 0 and "NOT LIKE WITH LIKE" in done.output
    assert compare(store, "rescored", "--allow", "dtype").exit_code == 3


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--trained-on", "proxi"], "Did you mean 'proxy'?"),
        (["--allow", "scorers"], "unknown allowance"),
        (["--margin", "-1"], "-1"),
        (["nowhere"], "there is no run 'nowhere'"),
    ],
)
def test_wrong_input_ends_with_3(store: Path, more: list[str], said: str) -> None:
    done = compare(store, *more)
    assert (done.exit_code, said in done.output) == (3, True), done.output
    assert "Traceback" not in done.output


def test_an_unknown_checkpoint_ends_with_3(store: Path) -> None:
    done = compare(store, candidate="nfd")
    assert done.exit_code == 3 and "Did you mean 'nft'?" in done.output
