from pathlib import Path

import pytest

from nbench.errors import StoreError
from nbench.runs import journal as module
from nbench.runs.journal import Journal, Ledger, read_folder, read_journal


def test_lines_come_back_in_order(tmp_path: Path) -> None:
    with Journal(tmp_path / "a" / "w.jsonl") as journal:
        journal.append([{"n": 1}, {"n": 2}])
        journal.append([{"n": 3, "text": "ü\n"}])
    content = read_journal(tmp_path / "a" / "w.jsonl")
    assert content.records == ({"n": 1}, {"n": 2}, {"n": 3, "text": "ü\n"})
    assert not content.torn


def test_a_missing_journal_is_empty(tmp_path: Path) -> None:
    assert read_journal(tmp_path / "none.jsonl").records == ()


def test_every_cut_of_a_journal_loses_only_the_lines_it_cuts(tmp_path: Path) -> None:
    path = tmp_path / "w.jsonl"
    with Journal(path) as journal:
        journal.append([{"n": n} for n in range(4)])
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        lines = whole[:length].count(b"\n")
        with Journal(path) as journal:
            assert journal.was_torn == (not (whole[:length].endswith(b"\n") or length == 0))
            journal.append([{"n": "new"}])
        assert [record["n"] for record in read_journal(path).records] == [*range(lines), "new"]


def test_a_last_line_of_zeros_is_torn(tmp_path: Path) -> None:
    path = tmp_path / "w.jsonl"
    path.write_bytes(b'{"n":1}\n\0\0\0\0\n')
    assert read_journal(path).torn
    with Journal(path) as journal:
        journal.append([{"n": 2}])
    assert [record["n"] for record in read_journal(path).records] == [1, 2]


@pytest.mark.parametrize("tail", [b'{"n":3}\n', b'{"n":3'])
def test_a_damaged_line_in_the_middle_is_an_error_that_says_where(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "w.jsonl"
    path.write_bytes(b'{"n":1}\n{"n":2\n' + tail)
    with pytest.raises(StoreError, match=r"w\.jsonl, line 2: the line is damaged; delete it"):
        read_journal(path)


def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.jsonl"
    with Journal(path) as journal:
        journal.append([{"n": 1}])

        def half(descriptor: int, data: bytes) -> None:
            import errno
            import os

            os.write(descriptor, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(module, "write_all", half)
            with pytest.raises(StoreError, match="the disk is full; free some space"):
                journal.append([{"n": 2}, {"n": 3}])
        journal.append([{"n": 4}])
    assert [record["n"] for record in read_journal(path).records] == [1, 4]


def test_a_ledger_sees_every_writer_and_keeps_the_first_value(tmp_path: Path) -> None:
    first = Ledger(tmp_path, "run-a--local")
    first.add([("k1", 1.5), ("k2", {"": 2.0})])
    first.close()
    second = Ledger(tmp_path, "run-b--local")
    second.add([("k2", {"": 9.0}), ("k3", 3.0)])
    second.close()
    both = Ledger(tmp_path, "run-c--local")
    assert (both.get("k1"), both.get("k2"), both.get("k3")) == (1.5, {"": 2.0}, 3.0)
    assert "k4" not in both
    assert len(read_folder(tmp_path)) == 3


def test_a_ledger_writes_nothing_until_it_is_given_something(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "scores", "w")
    ledger.add([])
    ledger.close()
    assert not (tmp_path / "scores").exists()
