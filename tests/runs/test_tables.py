import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from run_fakes import Fakes, fake_suite

from nbench.errors import StoreError, UsageError
from nbench.report.sheet import draw_sheet, write_sheet
from nbench.report.summary import summarise
from nbench.runs.estimate import estimate
from nbench.runs.execute import execute
from nbench.runs.export import export_run, wide_rows
from nbench.runs.store import Store
from nbench.runs.tables import RunTables, load_run

FAKES = Fakes(nan_prompts={"prompt number 3"}, fail_prompts={"prompt number 0"})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("store"))
    execute(fake_suite(), store, backend=FAKES.backend())
    return store


@pytest.fixture
def run(store: Store) -> RunTables:
    return load_run(store.run("demo"))


def test_a_failure_is_null_with_a_reason_and_never_a_number(run: RunTables) -> None:
    for row in run.scores.to_pylist():
        assert (row["value"] is None) == (row["reason"] is not None)
    for row in run.samples.to_pylist():
        assert (row["path"] is None) == (row["reason"] is not None)
    reasons = {row["reason"] for row in run.scores.to_pylist()}
    assert reasons == {
        None,
        "no picture",
        "fake-a was told to fail on this prompt",
        "fake-b was told to fail on this prompt",
    }


def test_samples_lead_to_the_pictures(run: RunTables, store: Store) -> None:
    for row in run.samples.to_pylist():
        if row["path"] is not None:
            with Image.open(store.root / row["path"]) as image:
                assert image.size == (row["width"], row["height"])


def test_norms_follow_the_grid(run: RunTables) -> None:
    rows = [row for row in run.norms.to_pylist() if row["steps"] == 4 and row["prompt_id"] == "p7"]
    assert [row["step"] for row in rows[:4]] == [0, 1, 2, 3]
    assert rows[0]["sigma"] == 1.0
    assert all(rows[i]["sigma"] > rows[i + 1]["sigma"] for i in range(3))


def test_the_summary_counts_coverage_and_clusters_by_prompt(run: RunTables) -> None:
    summary = summarise(run)
    assert [(line.checkpoint, line.steps) for line in summary.lines] == [
        ("base", 2), ("base", 4), ("nft", 2), ("nft", 4),
    ]  # fmt: skip
    for line in summary.lines:
        value = line.values["fake-a", "fake-a"]
        assert value.coverage == 0.5
        assert value.interval is not None and (value.interval.clusters, value.interval.values) == (2, 4)
        assert (line.pictures, line.cells) == (6, 8)
        assert line.speed is not None and line.speed > 0
    assert (
        dict((reason, count) for count, reason in summary.failures)[
            "no fake-a score: fake-a was told to fail on this prompt"
        ]
        == 2 * 2 * 2
    )


def test_a_mean_is_over_what_has_a_value(run: RunTables) -> None:
    rows = run.scores.to_pylist()
    wanted = [
        row["value"]
        for row in rows
        if (row["checkpoint"], row["steps"], row["scorer"]) == ("nft", 4, "fake-b") and row["value"] is not None
    ]
    value = summarise(run).lines[3].values["fake-b", "fake-b"]
    assert value.interval is not None
    assert value.interval.mean == pytest.approx(np.mean(wanted), abs=1e-12)


def test_a_run_without_tables_says_how_to_finish_it(tmp_path: Path) -> None:
    folder = Store(tmp_path).run("new")
    with pytest.raises(StoreError, match=r"has no tables yet \(it is stopped\): finish it with `nbench run "):
        load_run(folder)


def test_a_damaged_table_says_what_to_do(tmp_path: Path) -> None:
    store = Store(tmp_path)
    execute(fake_suite(), store, backend=FAKES.backend())
    (store.run("demo").path / "norms.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(StoreError, match=r"norms\.parquet is damaged; delete"):
        load_run(store.run("demo"))


def test_an_unknown_run_names_the_nearest(store: Store) -> None:
    with pytest.raises(UsageError, match="Did you mean 'demo'"):
        store.find_run("demoo")
    assert store.find_run("demo").path == store.find_run(str(store.run("demo").path)).path


# Export


def test_parquet_and_csv_hold_the_same_rows(run: RunTables, store: Store, tmp_path: Path) -> None:
    export_run(run, store.images, "parquet", tmp_path / "p")
    export_run(run, store.images, "csv", tmp_path / "c")
    for name in ("samples", "scores", "norms"):
        rows = pq.ParquetFile(tmp_path / "p" / f"{name}.parquet").read().to_pylist()
        with (tmp_path / "c" / f"{name}.csv").open(newline="") as stream:
            texts = list(csv.DictReader(stream))
        assert len(rows) == len(texts) > 0
        assert [row["key"] for row in rows] == [text["key"] for text in texts]
    assert json.loads((tmp_path / "c" / "card.json").read_text()) == run.card


def test_hf_holds_pictures_and_a_column_per_metric(run: RunTables, store: Store, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    export_run(run, store.images, "hf", tmp_path / "hf")
    data = datasets.load_dataset(str(tmp_path / "hf"), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(data) == 32
    made = data.filter(lambda row: row["reason"] is None)
    assert len(made) == 24
    row = made[0]
    picture = store.images.read(row["key"])
    assert picture is not None
    assert np.array_equal(np.asarray(row["image"].convert("RGB")), np.asarray(picture))
    assert {"fake-a", "fake-b", "velocity_norm"} <= set(row)
    failed = data.filter(lambda row: row["reason"] is not None)
    assert failed[0]["image"] is None and failed[0]["fake-a"] is None


def test_hf_is_written_some_pictures_at_a_time(
    run: RunTables, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setattr("nbench.runs.export._PICTURES_HELD", 10)
    data = pq.ParquetFile(export_run(run, store.images, "hf", tmp_path / "hf")[0])
    assert [data.metadata.row_group(i).num_rows for i in range(data.num_row_groups)] == [10, 10, 10, 2]


def test_wide_rows_keep_failures_null(run: RunTables) -> None:
    rows = {(row["checkpoint"], row["steps"], row["prompt_id"], row["seed"]): row for row in wide_rows(run)}
    assert rows["base", 2, "p0", 0]["fake-a"] is None
    assert rows["base", 2, "p3", 0]["velocity_norm"] is None
    assert rows["base", 2, "p7", 0]["fake-a"] is not None


def test_export_overwrites_nothing(run: RunTables, store: Store, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(UsageError, match="give a new or empty folder"):
        export_run(run, store.images, "csv", tmp_path)


# Contact sheet


def test_the_sheet_shows_every_checkpoint_and_step_count(run: RunTables, store: Store, tmp_path: Path) -> None:
    path = write_sheet(run, store.images, tmp_path / "sheet.png")
    with Image.open(path) as sheet:
        assert sheet.width > 190 + 4 * 112 and sheet.height > 4 * 112
    assert draw_sheet(run, store.images).tobytes() == draw_sheet(run, store.images).tobytes()
    assert draw_sheet(run, store.images, rows=2).height < 3 * 120


def test_a_missing_picture_is_grey_on_the_sheet(run: RunTables, store: Store) -> None:
    sheet = np.asarray(draw_sheet(run, store.images))
    prompts = list(dict.fromkeys(run.samples["prompt_id"].to_pylist()))
    top = 44 + prompts.index("p3") * 116
    assert tuple(sheet[top + 5, 190 + 60]) == (232, 226, 226)
    other = 44 + prompts.index("p7") * 116
    assert tuple(sheet[other + 5, 190 + 60]) != (232, 226, 226)


# Estimates


def test_a_dry_run_of_something_new_loads_and_writes_nothing(tmp_path: Path) -> None:
    fakes = Fakes()
    found = estimate(fake_suite(), Store(tmp_path / "s"), backend=fakes.backend())
    assert found.state == "new"
    assert [(part.cells, part.cached, part.seconds) for part in found.checkpoints] == [(16, 0, None)] * 2
    assert found.scores == 64
    assert fakes.loads == [] and not (tmp_path / "s").exists()


def test_a_dry_run_knows_what_is_there_and_how_fast_it_was(store: Store) -> None:
    fakes = Fakes()
    found = estimate(fake_suite(steps="2,4,8", name="more"), store, backend=fakes.backend())
    assert fakes.loads == []
    for part in found.checkpoints:
        assert (part.cells, part.cached) == (24, 12)  # of 16 pictures at 2 and 4 steps, 4 failed
        assert part.seconds is not None and part.seconds > 0
        assert 12 * 100 < part.size < 12 * 10_000


def test_a_dry_run_of_a_finished_run_has_nothing_to_do(store: Store, tmp_path: Path) -> None:
    fresh = Store(tmp_path)
    execute(fake_suite(), fresh, backend=Fakes().backend())
    found = estimate(fake_suite(), fresh, backend=Fakes().backend())
    assert (found.state, found.scores) == ("complete", 0)
    assert all(part.cached == part.cells and part.seconds == 0 and part.size == 0 for part in found.checkpoints)


def test_a_dry_run_promises_no_second_try_of_what_failed(store: Store) -> None:
    backend = Fakes().backend()
    found = estimate(fake_suite(), store, backend=backend)
    assert [(part.cached, part.missing, part.seconds) for part in found.checkpoints] == [(12, 0, 0.0)] * 2
    assert found.scores == 0
    retried = estimate(fake_suite(), store, backend=backend, retry_failed=True)
    assert [(part.cached, part.missing) for part in retried.checkpoints] == [(12, 4)] * 2
    assert retried.scores == 2 * (8 + 8)  # of what was not made, and of what could not be scored


def test_a_dry_run_counts_whole_batches_and_pictures_sampled_for_ratios(tmp_path: Path) -> None:
    store = Store(tmp_path)
    execute(fake_suite(), store, backend=Fakes().backend())
    base, nft = estimate(fake_suite(norm_ratio=True), store, backend=Fakes().backend()).checkpoints
    assert (base.missing, base.ratios, base.seconds) == (0, 0, 0.0)
    assert (nft.missing, nft.ratios) == (0, 16)
    assert nft.seconds is not None and nft.seconds > 0
    step = nft.seconds / (8 * (2 + 4))
    lost = next(row for row in load_run(store.run("demo")).samples.to_pylist() if row["checkpoint"] == "nft")
    store.images.path(lost["key"]).unlink()
    _, nft = estimate(fake_suite(), store, backend=Fakes().backend()).checkpoints
    assert (nft.missing, lost["steps"]) == (1, 2)
    assert nft.seconds == pytest.approx(3 * 2 * step)  # its batch of three, at its step count
