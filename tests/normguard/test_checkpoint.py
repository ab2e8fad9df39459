"""The folder of a training: checkpoints whole or not at all, a log that forgives a torn line, and what may change."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from train_fakes import snapshot, train_config

from nbench.errors import CardMismatchError, CheckpointError, RunLockedError, StoreError, UsageError
from nbench.normguard.checkpoint import State, TrainingFolder, differences
from nbench.normguard.config import TrainConfig


def state(epoch: int) -> State:
    return State(epoch, 2 * epoch, {"base": "b", "guards": {"norm_hinge": 0.5}}, {"policy/a": torch.full((2,), epoch)})


def export(building: Path) -> None:
    (building / "policy").mkdir()
    (building / "policy" / "weights").write_text(building.name)


def config(**changes: Any) -> TrainConfig:
    return train_config(Path("somewhere"), **changes)


def test_a_checkpoint_is_read_back_equal(tmp_path: Path) -> None:
    folder = TrainingFolder(tmp_path)
    assert folder.latest() is None
    saved = folder.save(state(1), export)
    assert saved == tmp_path / "checkpoints" / "epoch-0001"
    found = folder.latest()
    assert found is not None
    assert (found.epoch, found.step, found.facts) == (1, 2, state(1).facts)
    assert torch.equal(found.tensors["policy/a"], torch.full((2,), 1))
    assert (saved / "policy" / "weights").is_file()


def test_the_two_newest_keep_their_state_and_all_keep_their_weights(tmp_path: Path) -> None:
    folder = TrainingFolder(tmp_path)
    for epoch in (1, 2, 10, 11):
        folder.save(state(epoch), export)
    assert [path.name for path in folder.steps()] == ["epoch-0010", "epoch-0011"]
    for epoch in (1, 2, 10, 11):
        kept = folder.checkpoints / f"epoch-{epoch:04d}"
        assert (kept / "policy" / "weights").is_file()
        assert (kept / "state.safetensors").exists() == (kept / "state.json").exists() == (epoch >= 10)


def test_more_than_9999_epochs_stay_in_order(tmp_path: Path) -> None:
    folder = TrainingFolder(tmp_path)
    for epoch in (9999, 10000):
        folder.save(state(epoch), export)
    found = folder.latest()
    assert found is not None and found.epoch == 10000


def test_a_save_that_fails_leaves_the_last_checkpoint_and_the_next_save_clears_up(tmp_path: Path) -> None:
    folder = TrainingFolder(tmp_path)
    folder.save(state(1), export)

    def failing(building: Path) -> None:
        export(building)
        raise OSError(28, "No space left on device")

    before = snapshot(folder.checkpoints / "epoch-0001")
    with pytest.raises(StoreError, match="disk is full"):
        folder.save(state(2), failing)
    assert snapshot(folder.checkpoints / "epoch-0001") == before
    found = folder.latest()
    assert found is not None and found.epoch == 1
    assert len(list(folder.checkpoints.iterdir())) == 2, "what failed is still there, under another name"
    folder.save(state(2), export)
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == ["epoch-0001", "epoch-0002"]


def test_a_save_takes_the_place_of_a_checkpoint_that_lost_its_marker(tmp_path: Path) -> None:
    folder = TrainingFolder(tmp_path)
    folder.save(state(1), export)
    folder.save(state(2), export)
    (folder.checkpoints / "epoch-0002" / "state.json").unlink()
    found = folder.latest()
    assert found is not None and found.epoch == 1
    folder.save(state(2), export)
    found = folder.latest()
    assert found is not None and found.epoch == 2


def test_a_pruning_that_was_cut_short_leaves_no_checkpoint_that_only_looks_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = TrainingFolder(tmp_path)
    folder.save(state(1), export)
    folder.save(state(2), export)
    calls: list[Path] = []

    def unlink(path: Path, missing_ok: bool = False) -> None:
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        Path(path).rename(path.with_suffix(".gone"))

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", unlink)
        folder.save(state(3), export)
    assert len(calls) == 2
    for path in folder.steps():
        assert (path / "state.safetensors").is_file()


def test_tensors_are_read_when_they_are_asked_for_even_after_newer_checkpoints(tmp_path: Path) -> None:
    folder = TrainingFolder(tmp_path)
    folder.save(state(1), export)
    found = folder.latest()
    assert found is not None
    for epoch in (2, 3, 4):
        folder.save(state(epoch), export)
    assert not (folder.checkpoints / "epoch-0001" / "state.safetensors").exists()
    assert found.tensors.keys() == state(1).tensors.keys()
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in state(1).tensors.items())
    with pytest.raises(KeyError):
        found.tensors["another"]


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    folder = TrainingFolder(tmp_path)
    folder.save(state(1), export)
    folder.save(state(2), export)
    weights = folder.checkpoints / "epoch-0002" / "state.safetensors"
    weights.write_bytes(weights.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match=r"epoch-0002 is damaged .*delete it"):
        folder.latest()
    (folder.checkpoints / "epoch-0002" / "state.json").write_text("{")
    with pytest.raises(CheckpointError, match="epoch-0002 is damaged"):
        folder.latest()


def test_checkpoints_without_any_state_are_not_trained_over(tmp_path: Path) -> None:
    folder = TrainingFolder(tmp_path)
    folder.save(state(1), export)
    (folder.checkpoints / "epoch-0001" / "state.json").unlink()
    with pytest.raises(CheckpointError, match="no state to go on from"):
        folder.latest()


def test_the_log_is_rewound_and_a_torn_last_line_is_dropped(tmp_path: Path) -> None:
    folder = TrainingFolder(tmp_path)
    assert folder.records() == []
    for epoch in range(4):
        folder.append({"epoch": epoch, "value": 0.1 + epoch})
    whole = folder.log.read_bytes()
    with folder.log.open("a") as handle:
        handle.write('{"epoch": 4, "val')
    assert [record["epoch"] for record in folder.records()] == [0, 1, 2, 3]
    assert [record["epoch"] for record in folder.rewind(4)] == [0, 1, 2, 3]
    assert folder.log.read_bytes() == whole
    assert [record["epoch"] for record in folder.rewind(2)] == [0, 1]
    assert [json.loads(line)["epoch"] for line in folder.log.read_text().splitlines()] == [0, 1]
    folder.append({"epoch": 2})
    assert [record["epoch"] for record in folder.records()] == [0, 1, 2]


def test_a_folder_with_other_files_is_refused_untouched(tmp_path: Path) -> None:
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter.txt").write_text("years of work")
    before = snapshot(out)
    with pytest.raises(UsageError, match=r"thesis holds files, but no training: choose another --out"):
        TrainingFolder(out).check(config())
    assert snapshot(out) == before
    assert [path.name for path in out.iterdir()] == ["chapter.txt"]


def test_a_training_that_was_killed_while_it_wrote_its_config_can_begin_again(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / ".nbench-tmp-12-abcd").write_text("name: hal")
    TrainingFolder(tmp_path).check(config())


def test_an_absent_an_empty_and_an_own_folder_are_accepted(tmp_path: Path) -> None:
    folder = TrainingFolder(tmp_path / "out")
    folder.check(config())
    folder.path.mkdir()
    folder.check(config())
    with folder.locked():
        folder.check(config())
        folder.begin(config())
        folder.check(config())


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(StoreError, match="cannot write"), TrainingFolder(tmp_path / "out").locked():
        pass


def test_only_one_holds_the_lock(tmp_path: Path) -> None:
    one, other = TrainingFolder(tmp_path), TrainingFolder(tmp_path)
    with one.locked(), pytest.raises(RunLockedError, match="another process is training in"), other.locked():
        pass
    with other.locked():
        pass


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"optim__learning_rate": 0.5}, "optim.learning_rate: 0.01 -> 0.5"),
        ({"model__lora": {"rank": 8}}, "model.lora.rank: 4 -> 8"),
        ({"method": "awm"}, "method.name: 'nft' -> 'awm'"),
        ({"seed": 4}, "seed: 3 -> 4"),
        ({"guards": [{"name": "norm_hinge", "weight": 0.5}]}, "guards.0.weight: 'absent' -> 0.5"),
        ({"evaluate__limit": 1}, "evaluate.limit: None -> 1"),
        ({"evaluate__prompts": "drawbench"}, "evaluate.prompts: None -> 'drawbench'"),
    ],
)
def test_a_changed_setting_is_named(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    folder = TrainingFolder(tmp_path)
    folder.begin(config())
    folder.append({"epoch": 0})  # before its first epoch ended there would be nothing to lose
    before = snapshot(tmp_path)
    assert named in differences(config(), config(**changes))
    with pytest.raises(CardMismatchError, match="holds a training with other settings") as caught:
        folder.check(config(**changes))
    assert caught.value.exit_code == 3
    assert named.partition(":")[0].split(".")[0] in str(caught.value)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"optim__epochs": 7},
        {"checkpoint_every": 5},
        {"tensorboard": True},
        {"name": "other"},
        {"model__device": "auto"},
        {"evaluate__every": 2},
        {"evaluate__steps": [2, 4]},
        {"evaluate__scorers": ["image-stats"]},
    ],
)
def test_what_does_not_touch_the_weights_may_change(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = TrainingFolder(tmp_path)
    folder.begin(config())
    assert differences(config(), config(**changes)) == []
    folder.check(config(**changes))
