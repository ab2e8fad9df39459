"""`nbench report`: where the page lands."""

from pathlib import Path

from click.testing import CliRunner, Result
from page_fakes import board_values, written_run

from nbench.cli import cli


def nbench(*args: object) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args])


def test_a_report_lies_in_its_run_or_where_it_is_told(tmp_path: Path) -> None:
    run = written_run(tmp_path / "store", board_values(prompts=3))
    done = nbench("report", "made", "--store", tmp_path / "store")
    page = run.folder.report / "page" / "index.html"
    assert done.exit_code == 0 and done.output == f"Report: {page}\n"
    assert "Run made" in page.read_text()
    assert len(list(page.parent.glob("pictures/*/*.webp"))) == 3 * 3 * 3 * 2
    assert nbench("report", "made", "--store", tmp_path / "store", "--out", tmp_path / "out").exit_code == 0
    assert (tmp_path / "out" / "index.html").read_bytes() == page.read_bytes()


def test_a_run_that_is_not_finished_is_reported_and_named(tmp_path: Path) -> None:
    run = written_run(tmp_path / "store", board_values(prompts=3), pictures=False)
    run.folder.done.unlink()
    done = nbench("report", "made", "--store", tmp_path / "store")
    assert done.exit_code == 0 and "The tables are of an earlier state; finish the run" in done.output


def test_an_unknown_run_is_an_input_error(tmp_path: Path) -> None:
    written_run(tmp_path / "store", board_values(prompts=3), pictures=False)
    done = nbench("report", "maid", "--store", tmp_path / "store")
    assert done.exit_code == 3 and "Did you mean 'made'" in done.output
