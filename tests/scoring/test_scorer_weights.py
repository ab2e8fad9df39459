"""Where scorers' files are looked for, and what is said when they are not there."""

import hashlib
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

from nbench.errors import ScorerError
from nbench.scoring import weights
from nbench.scoring.weights import WEIGHTS_FOLDER, Source, load_tensors, only_local

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB = Source("lab/model", COMMIT, ("config.json", "model.safetensors|pytorch_model.bin"))
ELSEWHERE = Source("lab/head", None, ("head.pth",), url="https://example.org/head.pth")


def filled(root: Path, *names: str) -> Path:
    folder = root / "lab" / "model"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def test_a_folder_of_the_users_is_taken_and_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = filled(tmp_path, "config.json", "pytorch_model.bin")
    monkeypatch.setenv(WEIGHTS_FOLDER, str(tmp_path))
    assert HUB.folder() == folder
    assert HUB.path("model.safetensors|pytorch_model.bin") == folder / "pytorch_model.bin"
    assert HUB.digests() == {
        f"lab/model/{name}": hashlib.sha256(name.encode()).hexdigest() for name in ("config.json", "pytorch_model.bin")
    }


def test_the_first_alternative_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = filled(tmp_path, "config.json", "pytorch_model.bin", "model.safetensors")
    monkeypatch.setenv(WEIGHTS_FOLDER, str(tmp_path))
    assert HUB.path("model.safetensors|pytorch_model.bin") == folder / "model.safetensors"
    assert set(HUB.digests()) == {"lab/model/config.json", "lab/model/model.safetensors"}


def test_a_folder_that_lacks_a_file_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, "config.json")
    monkeypatch.setenv(WEIGHTS_FOLDER, str(tmp_path))
    with pytest.raises(ScorerError, match=r"lab/model lacks model.safetensors\|pytorch_model.bin: where there is a"):
        HUB.folder()


def test_missing_offline_says_which_id_and_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WEIGHTS_FOLDER, raising=False)
    monkeypatch.setattr(weights, "_failed", {})

    def refuse(*_: Any, **__: Any) -> str:
        raise OSError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(ScorerError) as caught:
        HUB.folder()
    said = str(caught.value)
    assert f"lab/model@{COMMIT[:12]}" in said and "offline" in said
    assert f"hf download lab/model --revision {COMMIT} --local-dir $NBENCH_WEIGHTS/lab/model/" in said


def test_what_is_not_on_the_hub_is_never_asked_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WEIGHTS_FOLDER, raising=False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    with pytest.raises(ScorerError, match=r"get head.pth from https://example.org/head.pth, put it into"):
        ELSEWHERE.folder()


def test_the_hub_is_asked_for_the_pinned_commit_and_only_for_what_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(WEIGHTS_FOLDER, raising=False)
    monkeypatch.setattr(weights, "_failed", {})
    folder, calls = filled(tmp_path, "config.json", "model.safetensors"), []

    def download(repo: str, **options: Any) -> str:
        calls.append((repo, options))
        if options["local_files_only"]:
            raise OSError("not cached")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert HUB.folder() == folder
    assert [options["local_files_only"] for _, options in calls] == [True, False]
    for repo, options in calls:
        assert (repo, options["revision"]) == ("lab/model", COMMIT)
        assert options["allow_patterns"] == ["config.json", "model.safetensors", "pytorch_model.bin"]


def test_a_cached_pinned_commit_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WEIGHTS_FOLDER, raising=False)
    folder, calls = filled(tmp_path, "config.json", "model.safetensors"), []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *_, **options: calls.append(options) or str(folder)
    )
    HUB.folder()
    assert [options["local_files_only"] for options in calls] == [True]


def test_tensors_are_read_from_both_formats(tmp_path: Path) -> None:
    wanted = {"a": torch.arange(3.0)}
    save_file(wanted, tmp_path / "w.safetensors")
    torch.save(wanted, tmp_path / "w.pth")
    torch.save({"state_dict": wanted, "epoch": 3}, tmp_path / "wrapped.pt")
    for name in ("w.safetensors", "w.pth", "wrapped.pt"):
        assert torch.equal(load_tensors(tmp_path / name)["a"], wanted["a"])


class Trap:
    """Unpickling it would run code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("run",)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("w.safetensors", b"not a safetensors file", "is corrupt"),
        ("w.pth", b"not a zip", "is corrupt"),
        ("w.pth", b"", "is corrupt"),
    ],
)
def test_a_corrupt_file_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ScorerError, match=f"{name} {said}"):
        load_tensors(tmp_path / name)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    for name in ("w.safetensors", "w.pth"):
        path = tmp_path / name
        tensors = {"a": torch.arange(3000.0)}
        save_file(tensors, path) if name.endswith("safetensors") else torch.save(tensors, path)
        path.write_bytes(path.read_bytes()[:2000])
        with pytest.raises(ScorerError, match=f"{name} is corrupt"):
            load_tensors(path)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"a": Trap()}, tmp_path / "w.pth")
    with pytest.raises(ScorerError, match="could run code when loaded"):
        load_tensors(tmp_path / "w.pth")
    assert capsys.readouterr().out == ""


def test_missing_and_wrong_content(tmp_path: Path) -> None:
    with pytest.raises(ScorerError, match="is not there"):
        load_tensors(tmp_path / "gone.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ScorerError, match="holds no state dict"):
        load_tensors(tmp_path / "list.pth")


def test_a_description_never_asks_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WEIGHTS_FOLDER, raising=False)
    calls = []

    def download(*_: Any, **options: Any) -> str:
        calls.append(options["local_files_only"])
        raise OSError("not cached")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with only_local(), pytest.raises(ScorerError, match="are not on this machine"):
        HUB.folder()
    assert calls == [True]


def test_a_hub_that_gave_nothing_is_not_asked_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WEIGHTS_FOLDER, raising=False)
    monkeypatch.setattr(weights, "_failed", {})
    calls = []

    def download(*_: Any, **options: Any) -> str:
        calls.append(options["local_files_only"])
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    for _ in range(2):
        with pytest.raises(ScorerError, match=r"the hub gave nothing \(no network\)"):
            HUB.folder()
    assert calls.count(False) == 1


def test_tensors_read_in_inference_mode_can_still_be_trained_through(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "w.safetensors")
    torch.save({"a": torch.ones(2)}, tmp_path / "w.pth")
    for name in ("w.safetensors", "w.pth"):
        with torch.inference_mode():
            tensor = load_tensors(tmp_path / name)["a"]
        (tensor.requires_grad_() * 2).sum().backward()
        assert tensor.grad is not None
