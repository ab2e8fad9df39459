import dataclasses
import errno
import os
import re
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from run_fakes import PROMPTS, Fakes, contents, fake_suite

import nbench.runs.files
from nbench.errors import (
    CardMismatchError,
    CheckpointError,
    InfrastructureError,
    RunInterruptedError,
    RunLockedError,
    ScorerError,
    StoreError,
    UsageError,
)
from nbench.flow.load import CheckpointSpec
from nbench.report.summary import summarise
from nbench.runs.execute import RunResult, execute
from nbench.runs.journal import read_journal
from nbench.runs.store import Store
from nbench.runs.tables import load_run
from nbench.scoring.scorer import Score, ScorerCard
from nbench.testing import FakeFlowModel, FakeScorer

CELLS = 2 * 2 * 4 * 2  # checkpoints x steps x prompts x seeds of `fake_suite`


class Listener:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.stages: list[tuple[str, int, int]] = []
        self.advanced = 0

    def stage(self, name: str, total: int, done: int) -> None:
        self.stages.append((name, total, done))

    def advance(self, count: int) -> None:
        self.advanced += count

    def note(self, message: str) -> None:
        self.notes.append(message)


def go(root: Path, fakes: Fakes | None = None, listener: Listener | None = None, **fields: object) -> RunResult:
    backend = (fakes or Fakes()).backend()
    return execute(fake_suite(**fields), Store(root), backend=backend, observer=listener)


def test_a_run_makes_every_picture_and_every_score(tmp_path: Path) -> None:
    fakes, listener = Fakes(), Listener()
    result = go(tmp_path, fakes, listener)
    assert (result.cells, result.generated, result.scored, result.failed) == (CELLS, CELLS, 2 * CELLS, 0)
    assert listener.stages == [("generate", CELLS, 0), ("score", 2 * CELLS, 0)]
    assert listener.advanced == 3 * CELLS
    run = load_run(result.folder)
    assert run.samples["reason"].null_count == CELLS
    assert run.scores["value"].null_count == 0
    assert run.scores.num_rows == 2 * CELLS
    assert run.norms.num_rows == 2 * 4 * 2 * (2 + 4)


def test_the_same_run_again_loads_generates_and_scores_nothing(tmp_path: Path) -> None:
    go(tmp_path)
    before = contents(tmp_path)
    done = (tmp_path / "runs/demo/done.json").stat().st_mtime_ns
    fakes = Fakes()
    result = go(tmp_path, fakes)
    assert (result.generated, result.scored, result.changed) == (0, 0, False)
    assert (fakes.loads, fakes.velocity_calls, fakes.scored) == ([], 0, 0)
    assert contents(tmp_path) == before
    assert (tmp_path / "runs/demo/done.json").stat().st_mtime_ns == done


def test_loras_of_one_base_walk_under_one_loaded_model(tmp_path: Path) -> None:
    fakes = Fakes()
    go(tmp_path, fakes, checkpoints=["base=b", "one=b+l1", "two=b+l2"])
    assert fakes.loads == ["base"]
    assert fakes.models[0].swaps[-2:] == ["l1", "l2"]


def test_a_prompt_is_encoded_once_for_all_checkpoints_of_a_base(tmp_path: Path) -> None:
    fakes = Fakes()
    go(tmp_path, fakes, batch_size=8)
    assert len(fakes.models[0].encoded) == 4


def test_prompts_of_a_large_set_are_embedded_some_rows_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nbench.runs.generate._ROWS_HELD", 4)
    fakes = Fakes()
    go(tmp_path, fakes, checkpoints=["base=b", "one=b+l1"], batch_size=2)
    assert fakes.models[0].swaps[-4:] == [None, "l1", None, "l1"]  # four chunks, two at a time
    assert len(fakes.models[0].encoded) == 4


def test_changed_tags_enter_the_tables_and_cost_nothing_else(tmp_path: Path) -> None:
    before = go(tmp_path, limit=8)
    fakes = Fakes(prompts=tuple(dataclasses.replace(prompt, tags=("new",)) for prompt in PROMPTS))
    after = go(tmp_path, fakes, limit=8)
    assert (after.generated, after.scored, after.changed) == (0, 0, True)
    assert load_run(before.folder).samples["tags"].to_pylist() == [["new"]] * after.cells
    assert not go(tmp_path, fakes, limit=8).changed


def test_the_first_velocity_is_shared_by_the_sweep(tmp_path: Path) -> None:
    fakes = Fakes()
    go(tmp_path, fakes, batch_size=8)
    assert fakes.velocity_calls == 2 * (2 + 4 - 1)


def test_one_more_checkpoint_costs_only_its_cells(tmp_path: Path) -> None:
    go(tmp_path)
    fakes = Fakes()
    result = go(tmp_path, fakes, checkpoints=["base=fake-base", "nft=fake-base+fake-lora", "awm=fake-base+other"])
    assert (result.cells, result.generated, result.scored) == (CELLS * 3 // 2, CELLS // 2, CELLS)
    assert load_run(result.folder).samples.num_rows == CELLS * 3 // 2


def test_one_more_step_count_costs_only_its_cells(tmp_path: Path) -> None:
    go(tmp_path)
    assert go(tmp_path, steps="2,4,8").generated == CELLS // 2


def test_one_more_scorer_generates_nothing(tmp_path: Path) -> None:
    go(tmp_path)
    fakes = Fakes()
    result = go(tmp_path, fakes, scorers="fake-a,fake-b,fake-c")
    assert (result.generated, result.scored, fakes.loads) == (0, CELLS, [])
    assert fakes.scorers["fake-a"].scored == 0


def test_grown_equals_whole_from_the_start(tmp_path: Path) -> None:
    go(tmp_path / "a", steps="2", scorers="fake-a", checkpoints=["base=fake-base"])
    go(tmp_path / "a")
    go(tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_another_run_takes_over_pictures_scores_and_ratios(tmp_path: Path) -> None:
    go(tmp_path, norm_ratio=True)
    fakes = Fakes()
    result = go(tmp_path, fakes, name="again", norm_ratio=True)
    assert (result.generated, result.scored, fakes.velocity_calls) == (0, 0, 0)
    first, second = (load_run(Store(tmp_path).run(name)) for name in ("demo", "again"))
    assert first.norms == second.norms and first.scores == second.scores
    assert first.speed and not second.speed


def test_a_changed_setting_under_the_same_name_is_refused_with_a_diff(tmp_path: Path) -> None:
    go(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(CardMismatchError, match=r"sampler\.grid: diffusers -> linspace"):
        go(tmp_path, grid="linspace")
    assert contents(tmp_path) == before
    assert (tmp_path / "runs/demo/done.json").exists()


def test_a_run_that_took_everything_over_is_held_to_its_settings_too(tmp_path: Path) -> None:
    go(tmp_path)
    assert go(tmp_path, name="again").generated == 0
    with pytest.raises(CardMismatchError, match=r"sampler\.grid: diffusers -> linspace"):
        go(tmp_path, name="again", grid="linspace")


def test_a_run_that_made_nothing_yet_may_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = Fakes()

    def no_memory(*args: object, **options: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("nbench.testing.FakeFlowModel.velocity", no_memory)
        with pytest.raises(Exception, match="batches of 8: try a smaller --batch-size"):
            go(tmp_path, fakes, batch_size=8)
    assert go(tmp_path, batch_size=4).generated == CELLS


def test_norm_ratios_are_one_for_the_reference_and_measured_for_others(tmp_path: Path) -> None:
    table = load_run(go(tmp_path, norm_ratio=True).folder).norms.to_pylist()
    assert {row["ratio"] for row in table if row["checkpoint"] == "base"} == {1.0}
    others = [row["ratio"] for row in table if row["checkpoint"] == "nft"]
    assert min(others) > 1.05  # the fake LoRA lengthens every velocity by a quarter
    plain = load_run(go(tmp_path / "plain").folder).norms.to_pylist()
    assert [row["norm"] for row in plain] == [row["norm"] for row in table]
    assert {row["ratio"] for row in plain} == {None}


def test_ratios_added_later_make_no_picture_again(tmp_path: Path) -> None:
    go(tmp_path)
    result = go(tmp_path, norm_ratio=True)
    assert result.generated == 0
    assert load_run(result.folder).norms["ratio"].null_count == 0
    go(tmp_path / "b", norm_ratio=True)
    assert contents(tmp_path / "b").items() <= contents(tmp_path).items()


def test_ratios_added_later_show_their_progress(tmp_path: Path) -> None:
    go(tmp_path)
    listener = Listener()
    go(tmp_path, listener=listener, norm_ratio=True)
    assert listener.stages[0] == ("generate", CELLS, CELLS // 2)
    assert listener.advanced == CELLS // 2


def test_a_base_is_gone_from_memory_before_the_next_is_loaded(tmp_path: Path) -> None:
    seen: list[weakref.ref[FakeFlowModel]] = []
    alive: list[int] = []

    def load(spec: CheckpointSpec) -> FakeFlowModel:
        alive.append(sum(model() is not None for model in seen))
        model = FakeFlowModel(spec.base)
        seen.append(weakref.ref(model))
        return model

    backend = dataclasses.replace(Fakes().backend(), load=load)
    execute(fake_suite(checkpoints=["a=a", "b=b", "c=c"]), Store(tmp_path), backend=backend)
    assert len(alive) >= 5  # each for its facts, the first of them to stay, then the others for their pictures
    assert set(alive) == {0}


def test_a_second_reference_model_keeps_no_text_encoder_on_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[FakeFlowModel] = []
    monkeypatch.setattr(FakeFlowModel, "offload_text_encoders", lambda self: moved.append(self))
    fakes = Fakes()
    go(tmp_path, fakes, checkpoints=["base=a", "tuned=b"], norm_ratio=True)
    assert [model.name for model in fakes.models[-2:]] == ["b", "a"]  # the tuned one, then its reference beside it
    assert fakes.models[-1] in moved and fakes.models[-1].encoded == []


def test_a_rescaled_run_changes_all_but_the_reference(tmp_path: Path) -> None:
    plain = load_run(go(tmp_path).folder).samples.to_pylist()
    rescaled = load_run(go(tmp_path, name="r", rescale={"phi": 1.0}).folder).samples.to_pylist()
    same = {a["checkpoint"] for a, b in zip(plain, rescaled, strict=True) if a["key"] == b["key"]}
    assert same == {"base"}


def test_nan_velocities_fail_their_cells_and_the_run_goes_on(tmp_path: Path) -> None:
    fakes = Fakes(nan_prompts={"prompt number 3"})
    result = go(tmp_path, fakes)
    run = load_run(result.folder)
    bad = [row for row in run.samples.to_pylist() if row["reason"] is not None]
    assert len(bad) == result.failed == 2 * 2 * 2
    assert {row["prompt"] for row in bad} == {"prompt number 3"}
    assert {row["reason"] for row in bad} == {
        "the velocity is not finite at step 1 of 2",
        "the velocity is not finite at step 1 of 4",
    }
    assert {row["reason"] for row in run.scores.to_pylist() if row["value"] is None} == {"no picture"}


def test_a_failed_row_moves_no_other_picture(tmp_path: Path) -> None:
    go(tmp_path / "a", Fakes(nan_prompts={"prompt number 3"}))
    go(tmp_path / "b")
    bad, good = contents(tmp_path / "a"), contents(tmp_path / "b")
    pictures = {path for path in bad if path.endswith(".png")}
    assert len(pictures) == CELLS - 8
    assert all(bad[path] == good[path] for path in pictures)


def test_failures_stay_until_they_are_to_be_tried_again(tmp_path: Path) -> None:
    go(tmp_path, Fakes(nan_prompts={"prompt number 3"}, raise_prompts={"prompt number 0"}))
    fakes = Fakes()
    again = go(tmp_path, fakes)
    assert (again.generated, again.failed, fakes.velocity_calls) == (0, 8, 0)
    assert again.score_failures == 2 * 8
    backend = Fakes().backend()
    retried = execute(fake_suite(), Store(tmp_path), backend=backend, retry_failed=True)
    assert (retried.generated, retried.failed, retried.score_failures) == (8, 0, 0)
    go(tmp_path / "b")
    assert contents(tmp_path / "b") == contents(tmp_path)


def test_a_picture_that_came_with_a_retry_is_made_again_when_it_is_lost(tmp_path: Path) -> None:
    fakes = Fakes(nan_prompts={"prompt number 3"})
    failed = go(tmp_path, fakes)
    lost = next(row["key"] for row in load_run(failed.folder).samples.to_pylist() if row["reason"] is not None)
    execute(fake_suite(), Store(tmp_path), backend=Fakes().backend(), retry_failed=True)
    Store(tmp_path).images.path(lost).unlink()
    again = go(tmp_path)
    assert (again.generated, again.failed) == (1, 0)
    assert load_run(go(tmp_path, norm_ratio=True).folder).norms["ratio"].null_count == 0


def test_a_score_that_another_run_gave_since_enters_the_tables(tmp_path: Path) -> None:
    go(tmp_path, Fakes(fail_prompts={"prompt number 0"}))
    go(tmp_path, name="other")
    again = go(tmp_path)
    assert (again.scored, again.score_failures) == (0, 0)
    assert load_run(again.folder).scores["value"].null_count == 0


def test_a_scorer_that_raises_on_a_batch_loses_only_the_bad_picture(tmp_path: Path) -> None:
    result = go(tmp_path, Fakes(raise_prompts={"prompt number 0"}))
    rows = load_run(result.folder).scores.to_pylist()
    bad = [row for row in rows if row["value"] is None]
    assert {row["prompt_id"] for row in bad} == {"p0"}
    assert len(bad) == 2 * 2 * 2 * 2
    assert bad[0]["reason"] == "fake-a raised RuntimeError: fake-a cannot score 'prompt number 0'"


def test_a_failure_of_one_run_does_not_keep_another_from_trying(tmp_path: Path) -> None:
    go(tmp_path, Fakes(fail_prompts={"prompt number 0"}))
    result = go(tmp_path, name="other")
    assert (result.score_failures, result.scored) == (0, 16)


class _Wrong(FakeScorer):
    """A scorer that breaks its contract."""

    def __init__(self, name: str, how: str) -> None:
        super().__init__(name)
        self.how = how

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Score]:
        scores = super().score(images, prompts)
        if self.how == "too few":
            return scores[:-1]
        if self.how == "no weights":
            raise ScorerError("its weights are missing: download them.")
        return [Score(values={"other": 1.0}) for _ in scores]


@pytest.mark.parametrize(
    ("how", "reason"), [("too few", "0 scores for 1 pictures"), ("other", r"metrics \['other'\] instead of \[''\]")]
)
def test_a_scorer_that_breaks_its_contract_gives_failures_not_numbers(tmp_path: Path, how: str, reason: str) -> None:
    backend = dataclasses.replace(Fakes().backend(), scorer=lambda name, device: _Wrong(name, how))
    result = execute(fake_suite(scorers="fake-a"), Store(tmp_path), backend=backend)
    reasons = load_run(result.folder).scores["reason"].to_pylist()
    assert all(re.search(reason, found) for found in reasons)


def test_a_scorer_may_give_numbers_of_numpy(tmp_path: Path) -> None:
    class Numpy(FakeScorer):
        def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Score]:
            return [Score(values={"": np.float32(0.5)}) for _ in images]

    backend = dataclasses.replace(Fakes().backend(), scorer=lambda name, device: Numpy(name))
    result = execute(fake_suite(scorers="fake-a"), Store(tmp_path), backend=backend)
    assert set(load_run(result.folder).scores["value"].to_pylist()) == {0.5}


def test_a_scorer_that_cannot_work_at_all_stops_the_run_with_its_own_words(tmp_path: Path) -> None:
    backend = dataclasses.replace(Fakes().backend(), scorer=lambda name, device: _Wrong(name, "no weights"))
    with pytest.raises(ScorerError, match="its weights are missing: download them"):
        execute(fake_suite(scorers="fake-a"), Store(tmp_path), backend=backend)
    assert go(tmp_path, scorers="fake-a").generated == 0


# Damage to the store


def stored(root: Path) -> list[Path]:
    return sorted(root.glob("images/*/*.png"))


@pytest.mark.parametrize("damage", ["truncate", "delete", "foreign", "empty", "swap"])
def test_damaged_pictures_are_reported_kept_aside_and_made_again(tmp_path: Path, damage: str) -> None:
    go(tmp_path)
    before = contents(tmp_path)
    path, other = stored(tmp_path)[3:5]
    match damage:
        case "truncate":
            path.write_bytes(path.read_bytes()[:-40])
        case "delete":
            path.unlink()
        case "foreign":
            Image.fromarray(np.zeros((32, 32, 3), dtype=np.uint8)).save(path)
        case "empty":
            path.write_bytes(b"")
        case "swap":
            path.write_bytes(other.read_bytes())
    listener = Listener()
    result = go(tmp_path, listener=listener)
    assert (result.generated, result.scored) == (1, 0)
    assert contents(tmp_path) == before
    if damage != "delete":
        (note,) = listener.notes
        assert path.stem[:12] in note and "is made again" in note
        assert len(list(path.parent.glob(f"{path.name}.corrupt"))) == 1


def test_a_picture_that_is_damaged_just_before_it_is_scored_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nbench.runs.images import ImageStore

    go(tmp_path / "b")
    whole, real = contents(tmp_path / "b"), ImageStore.read
    damaged: list[str] = []

    def read(self: ImageStore, key: str) -> Image.Image | None:
        if not damaged:
            damaged.append(key)
            self.path(key).write_bytes(self.path(key).read_bytes()[:100])
        return real(self, key)

    monkeypatch.setattr(ImageStore, "read", read)
    result = go(tmp_path / "a")
    assert result.generated == CELLS + 1
    assert contents(tmp_path / "a") == whole


def test_a_torn_last_journal_line_is_told_and_costs_nothing_else(tmp_path: Path) -> None:
    go(tmp_path)
    before = contents(tmp_path)
    journal = tmp_path / "runs/demo/journal/local.jsonl"
    journal.write_bytes(journal.read_bytes()[:-10])
    stored(tmp_path)[0].unlink()
    listener = Listener()
    assert go(tmp_path, listener=listener).generated == 1
    assert any("was cut short" in note for note in listener.notes)
    assert contents(tmp_path) == before
    assert not read_journal(journal).torn


def test_a_torn_score_is_given_again(tmp_path: Path) -> None:
    go(tmp_path)
    before = contents(tmp_path)
    for ledger in tmp_path.glob("scores/*/*.jsonl"):
        ledger.write_bytes(ledger.read_bytes()[:-10])
    result = go(tmp_path)
    assert (result.generated, result.scored) == (0, 2)
    assert contents(tmp_path) == before


def test_a_damaged_line_in_the_middle_stops_the_run_and_says_where(tmp_path: Path) -> None:
    go(tmp_path)
    ledger = next(iter(sorted(tmp_path.glob("scores/*/*.jsonl"))))
    lines = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join([*lines[:2], lines[2][:9] + b"\n", *lines[3:]]))
    with pytest.raises(StoreError, match=r"local\.jsonl, line 3: the line is damaged; delete it"):
        go(tmp_path)


def test_lost_tables_are_written_again(tmp_path: Path) -> None:
    go(tmp_path)
    before = contents(tmp_path)
    (tmp_path / "runs/demo/scores.parquet").unlink()
    assert go(tmp_path).generated == 0
    assert contents(tmp_path) == before


# Trouble with the machine


@pytest.mark.parametrize("code", ["ENOSPC", "EROFS", "EDQUOT"])
def test_a_disk_that_refuses_at_any_moment_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    go(tmp_path / "b")
    real = nbench.runs.files.write_all
    room = refused = 0

    def limited(descriptor: int, data: bytes) -> None:
        nonlocal room
        room -= 1
        if room < 0:
            os.write(descriptor, data[: len(data) // 2])  # a full disk takes some of it
            raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))
        real(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr("nbench.runs.files.write_all", limited)
        patch.setattr("nbench.runs.journal.write_all", limited)
        for attempt in range(100):
            room = attempt
            try:
                go(tmp_path / "a")
                break
            except StoreError as error:
                refused += 1
                assert re.search(r"cannot write .*(free some space|--store), and run the same command", str(error))
                assert contents(tmp_path / "a").items() <= contents(tmp_path / "b").items()
    assert refused > 8
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert not list(tmp_path.glob("a/**/.nbench-tmp-*"))
    assert not list(tmp_path.glob("a/**/*.corrupt"))


def test_two_processes_on_one_run(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.run("demo").locked(), pytest.raises(RunLockedError, match=r"is working on run 'demo'.*another --name"):
        go(tmp_path)
    assert go(tmp_path).generated == CELLS


def test_another_run_of_the_store_is_not_locked(tmp_path: Path) -> None:
    with Store(tmp_path).run("other").locked():
        assert go(tmp_path).generated == CELLS


@pytest.mark.parametrize("stage", ["generate", "score"])
def test_ctrl_c_leaves_a_run_that_goes_on(tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    go(tmp_path / "b")

    class Impatient(Listener):
        def advance(self, count: int) -> None:
            super().advance(count)
            if self.stages[-1][0] == stage and self.advanced > (5 if stage == "generate" else CELLS + 5):
                raise KeyboardInterrupt

    with pytest.raises(RunInterruptedError, match=r"Go on with the same command, or with `nbench run .*suite\.yaml`"):
        go(tmp_path / "a", listener=Impatient())
    assert Store(tmp_path / "a").run("demo").state() == "stopped"
    resumed = Listener()
    go(tmp_path / "a", listener=resumed)
    assert resumed.stages[0][2] > 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


# Bad input


def test_an_unknown_scorer_stops_before_anything_is_loaded(tmp_path: Path) -> None:
    fakes = Fakes()
    with pytest.raises(ScorerError):
        go(tmp_path, fakes, scorers="nope")
    assert fakes.loads == []
    assert not (tmp_path / "runs").exists()


def test_a_size_that_does_not_fit_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"multiples of 8; try --size 72x64"):
        go(tmp_path, height=70, width=64)


def test_checkpoints_of_different_sizes_need_one(tmp_path: Path) -> None:
    backend = Fakes().backend()
    other = dataclasses.replace(
        backend, load=lambda spec: FakeFlowModel(spec.base, resolution=(32, 32) if spec.base == "a" else (64, 64))
    )
    with pytest.raises(UsageError, match="made for different sizes"):
        execute(fake_suite(checkpoints=["a=a", "b=b"]), Store(tmp_path), backend=other)


def test_weights_that_change_under_a_run_are_noticed(tmp_path: Path) -> None:
    backend = dataclasses.replace(Fakes().backend(), load=lambda spec: FakeFlowModel("other"))
    with pytest.raises(CheckpointError, match="changed while the run was going on"):
        execute(fake_suite(), Store(tmp_path), backend=backend)


def test_a_finished_run_can_be_moved_with_its_store(tmp_path: Path) -> None:
    go(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "elsewhere")
    fakes = Fakes()
    assert (go(tmp_path / "elsewhere", fakes).generated, fakes.loads) == (0, [])


def test_a_heavy_scorer_has_a_pass_of_its_own_after_the_light_ones_have_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    class Sized(FakeScorer):
        @property
        def card(self) -> ScorerCard:
            return dataclasses.replace(super().card, heavy=self._card.name == "fake-heavy")

        def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Score]:
            said.append(f"{self._card.name} scores")
            return super().score(images, prompts)

        def close(self) -> None:
            said.append(f"{self._card.name} goes")

    fakes = Fakes()
    backend = dataclasses.replace(fakes.backend(), scorer=lambda name, device: Sized(name))
    suite = fake_suite(scorers="fake-heavy,fake-a,fake-b")
    result = execute(suite, Store(tmp_path), backend=backend)
    assert result.scored == 3 * 2 * 2 * 4 * 2
    light, heavy = said[: said.index("fake-heavy scores")], said[said.index("fake-heavy scores") :]
    assert set(light) == {"fake-a scores", "fake-b scores", "fake-a goes", "fake-b goes"}
    assert [line.split()[1] for line in light[-2:]] == ["goes", "goes"]
    assert set(heavy) == {"fake-heavy scores"}


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError])
def test_a_batch_that_does_not_fit_into_memory_is_halved(tmp_path: Path, error: type[BaseException]) -> None:
    sizes: list[int] = []

    class Small(FakeScorer):
        room = 3

        def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Score]:
            if len(images) > self.room:
                raise error
            sizes.append(len(images))
            return super().score(images, prompts)

    backend = dataclasses.replace(Fakes().backend(), scorer=lambda name, device: Small(name))
    suite = fake_suite(scorers="fake-a")
    result = execute(suite, Store(tmp_path / "small"), backend=backend)
    assert result.score_failures == 0 and max(sizes) <= 3
    execute(suite, Store(tmp_path / "large"), backend=Fakes().backend())
    assert contents(tmp_path / "small") == contents(tmp_path / "large")
    Small.room = 0
    with pytest.raises(InfrastructureError, match="scorer 'fake-a' has not enough memory for one picture"):
        execute(fake_suite(scorers="fake-a"), Store(tmp_path / "none"), backend=backend)


def test_prompts_that_were_cut_are_marked_and_counted(tmp_path: Path) -> None:
    class Short(FakeScorer):
        def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Score]:
            scores = super().score(images, prompts)
            return [
                dataclasses.replace(score, truncated=prompt.endswith("0"))
                for score, prompt in zip(scores, prompts, strict=True)
            ]

    store = Store(tmp_path)
    backend = dataclasses.replace(
        Fakes().backend(), scorer=lambda name, device: Short(name) if name == "fake-a" else FakeScorer(name)
    )
    execute(fake_suite(), store, backend=backend)
    tables = load_run(store.run("demo"))
    rows = tables.scores.to_pylist()
    assert {row["truncated"] for row in rows if row["scorer"] == "fake-b"} == {None}
    assert {(row["prompt_id"] == "p0", row["truncated"]) for row in rows if row["scorer"] == "fake-a"} == {
        (True, True),
        (False, False),
    }
    assert summarise(tables).truncated == (("fake-a", 1, 4),)
