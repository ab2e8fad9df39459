from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_fakes import Fakes, fake_suite

from nbench.runs.backend import Models
from nbench.runs.plan import SCORE_BATCH, make_cells, plan_batches, plan_scores, ratio_wanted
from nbench.runs.resolve import Resolved, resolve
from nbench.runs.store import Store


def resolved(tmp_path: Path, **fields: object) -> Resolved:
    backend = Fakes().backend()
    return resolve(fake_suite(**fields), Store(tmp_path), backend, Models(backend))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Resolved:
    return resolved(tmp_path_factory.mktemp("plan"))


def test_a_fresh_run_plans_every_cell_once(run: Resolved) -> None:
    cells = make_cells(run)
    assert len(cells) == 2 * 2 * 4 * 2 == len({cell.key for cell in cells})
    batches = plan_batches(run, cells, (), (), ())
    assert sorted(key for batch in batches for key in batch.write) == sorted(cell.key for cell in cells)


def test_a_finished_run_plans_nothing(run: Resolved) -> None:
    cells = make_cells(run)
    keys = {cell.key for cell in cells}
    assert plan_batches(run, cells, keys, (), ()) == ()
    assert list(plan_scores(cells, keys, {"fake-a": keys, "fake-b": keys})) == []


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_whatever_is_missing_batches_keep_their_rows_and_write_only_that(run: Resolved, data: st.DataObject) -> None:
    cells = make_cells(run)
    stored = data.draw(st.sets(st.sampled_from([cell.key for cell in cells])))
    rows = {(batch.checkpoint, batch.index): batch.rows for batch in plan_batches(run, cells, (), (), ())}
    batches = plan_batches(run, cells, stored, (), ())
    assert {key for batch in batches for key in batch.write} == {cell.key for cell in cells} - stored
    for batch in batches:
        assert batch.rows == rows[batch.checkpoint, batch.index]
        for column in batch.cells.values():
            assert tuple(cell.row for cell in column) == batch.rows
            assert any(cell.key in batch.write for cell in column)


def test_a_failed_cell_is_not_planned_again(run: Resolved) -> None:
    cells = make_cells(run)
    batches = plan_batches(run, cells, (), (), {cells[0].key})
    assert cells[0].key not in {key for batch in batches for key in batch.write}


def test_step_counts_share_noise_and_checkpoints_do_too(run: Resolved) -> None:
    seeds: dict[tuple[str, int], set[int]] = {}
    for cell in make_cells(run):
        seeds.setdefault((cell.row.prompt.id, cell.row.seed), set()).add(cell.row.noise_seed)
    assert all(len(found) == 1 for found in seeds.values())
    assert len({next(iter(found)) for found in seeds.values()}) == len(seeds)


def test_another_limit_or_scorer_or_name_keeps_the_keys(tmp_path: Path) -> None:
    keys = {cell.key for cell in make_cells(resolved(tmp_path))}
    more = {cell.key for cell in make_cells(resolved(tmp_path, limit=6, name="x", scorers="", batch_size=8, seeds=3))}
    assert keys < more


def test_a_lora_in_the_run_does_not_move_the_bases_keys(tmp_path: Path) -> None:
    alone = {cell.key for cell in make_cells(resolved(tmp_path, checkpoints=["b=fake-base"]))}
    assert alone == {cell.key for cell in make_cells(resolved(tmp_path)) if cell.checkpoint == "base"}


@pytest.mark.parametrize(
    "fields",
    [{"seed": 1}, {"guidance": 2.0}, {"grid": "linspace"}, {"dtype": "bfloat16"}, {"height": 64, "width": 64}],
)
def test_what_makes_a_picture_moves_every_key(tmp_path: Path, fields: dict[str, object]) -> None:
    keys = {cell.key for cell in make_cells(resolved(tmp_path))}
    assert keys.isdisjoint({cell.key for cell in make_cells(resolved(tmp_path, **fields))})


def test_attention_kernels_move_every_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {cell.key for cell in make_cells(resolved(tmp_path))}
    monkeypatch.setenv("DIFFUSERS_ATTN_BACKEND", "flash")
    assert keys.isdisjoint({cell.key for cell in make_cells(resolved(tmp_path))})


def test_rescale_moves_the_keys_of_all_but_the_reference(tmp_path: Path) -> None:
    plain = {cell.key: cell.checkpoint for cell in make_cells(resolved(tmp_path))}
    rescaled = {cell.key for cell in make_cells(resolved(tmp_path, rescale={"phi": 1.0}))}
    assert {plain[key] for key in plain.keys() & rescaled} == {"base"}


def test_checkpoints_of_equal_weights_make_their_pictures_once(tmp_path: Path) -> None:
    run = resolved(tmp_path, checkpoints=["base=fake-base", "same=fake-base"])
    cells = make_cells(run)
    assert len({cell.key for cell in cells}) == len(cells) / 2
    assert {batch.checkpoint for batch in plan_batches(run, cells, (), (), ())} == {"base"}


def test_ratios_are_planned_for_stored_pictures_too_but_not_for_the_reference(tmp_path: Path) -> None:
    run = resolved(tmp_path, norm_ratio=True)
    cells = make_cells(run)
    keys = {cell.key for cell in cells}
    batches = plan_batches(run, cells, keys, (), ())
    assert {batch.checkpoint for batch in batches} == {"nft"}
    assert all(not batch.write for batch in batches)
    assert {key for batch in batches for key in batch.ratios} == {c.key for c in cells if c.checkpoint == "nft"}
    assert plan_batches(run, cells, keys, keys, ()) == ()
    assert not ratio_wanted(run, "base")


def test_score_batches_do_not_depend_on_what_is_scored_already(run: Resolved) -> None:
    cells = make_cells(run)
    keys = [cell.key for cell in cells]
    whole = {batch.cells for batch in plan_scores(cells, keys, {"fake-a": ()})}
    some = list(plan_scores(cells, keys, {"fake-a": set(keys[::3])}))
    assert {batch.cells for batch in some} <= whole
    assert {key for batch in some for key in batch.write["fake-a"]} == set(keys) - set(keys[::3])
    assert all(len(batch.cells) <= SCORE_BATCH for batch in some)
