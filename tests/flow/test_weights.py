"""Digests of weight files are remembered, and never beyond a change of the file."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from nbench.flow import weights


@pytest.fixture
def noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every file counts as large, and the cache is a folder of its own."""
    monkeypatch.setattr(weights, "_LARGE_FILE", 1)
    monkeypatch.setenv("NBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a new process would."""
    monkeypatch.setattr(weights, "_digests", {})


def test_a_new_process_takes_the_digest_from_its_note(noted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = noted / "model.safetensors"
    path.write_bytes(b"weights")
    wanted = hashlib.sha256(b"weights").hexdigest()
    assert weights.file_digest(path) == wanted
    forget(monkeypatch)

    def refuse(*_: object) -> None:
        raise AssertionError("the file was read again")

    monkeypatch.setattr(hashlib, "file_digest", refuse)
    assert weights.file_digest(path) == wanted


def test_a_changed_file_is_read_again(noted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = noted / "model.safetensors"
    path.write_bytes(b"weights")
    weights.file_digest(path)
    path.write_bytes(b"WEIGHTS")
    os.utime(path, ns=(1, 1))
    forget(monkeypatch)
    assert weights.file_digest(path) == hashlib.sha256(b"WEIGHTS").hexdigest()


def test_a_damaged_note_and_a_cache_that_cannot_be_written_do_no_harm(
    noted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = noted / "model.safetensors"
    path.write_bytes(b"weights")
    wanted = weights.file_digest(path)
    (note,) = (noted / "cache" / "digests").iterdir()
    note.write_text("torn")
    forget(monkeypatch)
    assert weights.file_digest(path) == wanted
    (noted / "a file").write_text("")
    monkeypatch.setenv("NBENCH_CACHE", str(noted / "a file"))
    forget(monkeypatch)
    assert weights.file_digest(path) == wanted
