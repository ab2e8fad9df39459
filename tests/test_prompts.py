"""Prompt sets as a whole: bundled ones, content hash, limits, and what is refused."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbench.errors import PromptSetError
from nbench.pocket.recipes import prompts as pocket_recipe
from nbench.pocket.world import COLOURS, CONCEPTS, SIZES, STYLES, vocabulary
from nbench.prompts import (
    Prompt,
    PromptSet,
    PromptSetWarning,
    describe_prompt_sets,
    load_prompt_set,
    prompt_set_paths,
    spread,
)
from nbench.resources import bundled


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def test_bundled_and_public_sets_have_names() -> None:
    names = set(prompt_set_paths())
    assert names >= {"pocket", "core", "parti-prompts", "hpdv2", "drawbench", "geneval", "unigenbench", "pick-a-pic"}


def test_listing_says_licence_and_count_without_fetching() -> None:
    rows = {row.name: row for row in describe_prompt_sets()}
    assert rows["core"].bundled and not rows["parti-prompts"].bundled
    assert rows["parti-prompts"].count == 1632 and rows["unigenbench"].licence == "CC-BY-4.0"
    assert all(row.licence and row.count for row in rows.values())


@pytest.mark.parametrize("name", ["pocket", "core"])
def test_bundled_sets_load_without_a_warning(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prompt_set = load_prompt_set(name)
    assert prompt_set.name == name and prompt_set.licence == "CC0-1.0" and prompt_set.source
    assert prompt_set.repeated_texts == {}
    assert len({prompt.id for prompt in prompt_set}) == len(prompt_set) == prompt_set.total
    assert all(prompt.tags for prompt in prompt_set)


def test_pocket_file_is_what_its_recipe_writes() -> None:
    assert (bundled("prompts") / "pocket.yaml").read_text(encoding="utf-8") == pocket_recipe.render()


def test_pocket_prompts_are_pocket_captions_of_at_most_12_tokens() -> None:
    known = set(vocabulary())
    plurals = "|".join(re.escape(concept.plural) for concept in CONCEPTS)
    nouns = "|".join(re.escape(concept.noun) for concept in CONCEPTS)
    grammar = re.compile(
        rf"(?:an?(?: (?:{'|'.join(SIZES)}))?(?: (?:{'|'.join(STYLES)}))? (?:{nouns})"
        rf"|(?:two|three)(?: (?:{'|'.join(STYLES)}))? (?:{plurals}))"
        rf"(?: on an? (?:{'|'.join(COLOURS)}) background)?"
    )
    for prompt in load_prompt_set("pocket"):
        words = prompt.text.split()
        assert set(words) <= known
        assert grammar.fullmatch(prompt.text), prompt.text
        assert len(words) + words.count("3d") + 2 <= 12


def test_pocket_prompts_cover_every_concept_and_tag_what_they_name() -> None:
    prompt_set = load_prompt_set("pocket")
    assert 190 <= len(prompt_set) <= 210
    tags = prompt_set.tags
    assert {tag for tag in tags if tag.startswith("concept:")} == {f"concept:{concept.noun}" for concept in CONCEPTS}
    assert all(tags[f"colour:{colour}"] >= 10 for colour in COLOURS)
    assert all(tags[f"style:{style}"] >= 40 for style in STYLES)
    assert all(tags[f"count:{count}"] >= 40 for count in (1, 2, 3))
    assert all(tags[f"size:{size}"] >= 15 for size in SIZES)
    for prompt in prompt_set:
        facts = dict(tag.split(":") for tag in prompt.tags)
        concept = next(concept for concept in CONCEPTS if concept.noun == facts["concept"])
        assert {concept.noun, concept.plural} & set(prompt.text.split())
        named = [fact for fact in ("style", "colour", "size") if fact in facts]
        assert facts["names"] == ("+".join(named) or "nothing")
        assert all(facts[fact] in prompt.text.split() for fact in named)
        assert not set(prompt.text.split()) & ({*STYLES, *COLOURS, *SIZES} - {facts[fact] for fact in named})


def test_pocket_concept_groups_hold_every_concept_once() -> None:
    nouns = [noun for nouns in pocket_recipe.GROUPS.values() for noun in nouns.split()]
    assert sorted(nouns) == sorted(concept.noun for concept in CONCEPTS)


def test_core_covers_its_kinds_with_enough_prompts_each() -> None:
    prompt_set = load_prompt_set("core")
    assert len(prompt_set) >= 240
    kinds = ["object", "counting", "colour", "spatial", "text", "people", "hands", "material", "light", "style", "long"]
    assert all(prompt_set.tags[kind] >= 18 for kind in kinds)
    assert {prompt.tags[0] for prompt in prompt_set} == set(kinds)


def test_core_text_prompts_quote_what_is_to_be_written() -> None:
    for prompt in load_prompt_set("core").tagged("text"):
        assert re.search(r'"[^"]+"', prompt.text), prompt.text


def test_core_long_prompts_have_more_than_60_words_and_others_are_short() -> None:
    for prompt in load_prompt_set("core"):
        assert (len(prompt.text.split()) > 60) == ("long" in prompt.tags), prompt.id


def test_core_is_varied_and_plainly_written() -> None:
    prompt_set = load_prompt_set("core")
    openings = [" ".join(prompt.text.lower().split()[:3]) for prompt in prompt_set]
    assert len(set(openings)) > 0.9 * len(openings)
    for prompt in prompt_set:
        assert prompt.text == " ".join(prompt.text.split())
        assert not re.search(r"\b(masterpiece|best quality|8k|trending|ultra[- ]?detailed)\b", prompt.text.lower())


def test_hash_follows_ids_texts_and_tags_in_their_order() -> None:
    prompts = (Prompt("a", "a cat", ("x",)), Prompt("b", "a dog"))

    def hashed(*changed: Prompt) -> str:
        return PromptSet("n", changed, "s", "l").content_hash

    same = PromptSet("other name", prompts, "other source", "other licence").content_hash
    assert hashed(*prompts) == same
    assert same == hashlib.sha256(b'[["a","a cat",["x"]],["b","a dog",[]]]').hexdigest()
    for changed in (
        prompts[::-1],
        prompts[:1],
        (Prompt("c", "a cat", ("x",)), prompts[1]),
        (Prompt("a", "a Cat", ("x",)), prompts[1]),
        (Prompt("a", "a cat"), prompts[1]),
    ):
        assert hashed(*changed) != same


def test_duplicate_ids_are_refused_by_name(tmp_path: Path) -> None:
    rows = [{"id": "x", "text": "a cat"}, {"id": "y", "text": "a dog"}, {"id": "x", "text": "a fish"}]
    path = write(tmp_path / "twice.jsonl", "\n".join(map(json.dumps, rows)))
    with pytest.raises(PromptSetError, match=r"repeats ids: 'x' \(line 1 of .*twice.jsonl and line 3 of"):
        load_prompt_set(path)


def test_duplicate_texts_are_kept_and_reported(tmp_path: Path) -> None:
    path = write(tmp_path / "twice.txt", "a cat\na dog\na cat\n")
    with pytest.warns(PromptSetWarning, match=r"repeats 1 text\(s\), e.g. 'a cat'"):
        prompt_set = load_prompt_set(path)
    assert [prompt.text for prompt in prompt_set] == ["a cat", "a dog", "a cat"]
    (ids,) = prompt_set.repeated_texts.values()
    assert ids == [prompt_set.prompts[0].id, f"{prompt_set.prompts[0].id}-2"]


@pytest.mark.parametrize(("name", "content"), [("none.txt", "\n \n"), ("none.jsonl", ""), ("none.csv", "text\n")])
def test_empty_set_is_refused(tmp_path: Path, name: str, content: str) -> None:
    with pytest.raises(PromptSetError, match=r"is empty; give it at least one prompt"):
        load_prompt_set(write(tmp_path / name, content))


def test_ids_made_from_texts_do_not_move_with_other_lines(tmp_path: Path) -> None:
    one = load_prompt_set(write(tmp_path / "one.txt", "a cat\na dog\n"))
    two = load_prompt_set(write(tmp_path / "two.txt", "a fish\na dog\na cat\n"))
    assert {p.text: p.id for p in one}.items() <= {p.text: p.id for p in two}.items()


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(PromptSetError, match=r"there is no prompt set 'pockte'\. Did you mean 'pocket'\?"):
        load_prompt_set("pockte")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PromptSetError, match=r"there is no prompt file .*gone\.yaml"):
        load_prompt_set(tmp_path / "gone.yaml")


def test_file_of_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PromptSetError, match=r"notes\.docx is not a prompt file; its name must end in one of \.yaml"):
        load_prompt_set(write(tmp_path / "notes.docx", "x"))


def test_a_path_overrides_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "core.yaml", "source: mine\nlicence: MIT\nprompts:\n  - {id: a, text: my own prompt}\n")
    monkeypatch.chdir(tmp_path)
    assert [prompt.text for prompt in load_prompt_set("core.yaml")] == ["my own prompt"]
    assert len(load_prompt_set("core")) > 200


def test_changed_file_no_longer_matches_its_hash(tmp_path: Path) -> None:
    head = "source: mine\nlicence: MIT\n"
    path = write(tmp_path / "set.yaml", f"{head}prompts:\n  - {{id: a, text: a cat}}\n")
    content_hash = load_prompt_set(path).content_hash
    write(path, f"{head}hash: '{content_hash}'\nprompts:\n  - {{id: a, text: a cat}}\n")
    assert load_prompt_set(path).content_hash == content_hash
    write(path, f"{head}hash: '{content_hash}'\nprompts:\n  - {{id: a, text: a dog}}\n")
    with pytest.raises(PromptSetError, match=r"has changed: its `hash` says"):
        load_prompt_set(path)


def test_another_count_than_expected_warns(tmp_path: Path) -> None:
    path = write(tmp_path / "s.yaml", "source: s\nlicence: MIT\ncount: 3\nprompts:\n  - {id: a, text: a cat}\n")
    with pytest.warns(PromptSetWarning, match=r"expected to hold 3 prompts, but holds 1"):
        load_prompt_set(path)


def test_limit_covers_every_main_tag_before_repeating_one() -> None:
    whole = load_prompt_set("core")
    limited = load_prompt_set("core", limit=22)
    mains = [prompt.tags[0] for prompt in limited]
    assert len(limited) == 22 and limited.total == len(whole)
    assert {mains.count(main) for main in mains} == {2}
    assert [whole.prompts.index(prompt) for prompt in limited] == sorted(whole.prompts.index(p) for p in limited)


def test_limit_spreads_over_the_other_tags_too() -> None:
    tags = load_prompt_set("pocket", limit=12).tags
    assert {tag for tag in tags if tag.startswith("style:")} == {"style:3d", "style:flat"}
    assert {tag for tag in tags if tag.startswith("count:")} == {"count:1", "count:2", "count:3"}
    assert max(count for tag, count in tags.items() if tag.startswith("colour:")) <= 2


def test_limit_below_one_is_refused() -> None:
    with pytest.raises(PromptSetError, match="limit of 0 prompts"):
        load_prompt_set("core", limit=0)


def test_tag_without_prompts_suggests_the_nearest() -> None:
    with pytest.raises(PromptSetError, match=r"no prompt of 'core' is tagged 'handz'\. Did you mean 'hands'\?"):
        load_prompt_set("core").tagged("handz")


_TAGS = st.lists(st.sampled_from("abcdef"), max_size=3, unique=True).map(tuple)
_PROMPTS = st.lists(_TAGS, min_size=1, max_size=25).map(
    lambda tags: tuple(Prompt(f"id{i}", f"text {i}", tag) for i, tag in enumerate(tags))
)


@settings(max_examples=60, deadline=None)
@given(prompts=_PROMPTS, limit=st.integers(1, 30), data=st.data())
def test_a_smaller_limit_is_part_of_a_larger_one_whatever_the_order(
    prompts: tuple[Prompt, ...], limit: int, data: st.DataObject
) -> None:
    chosen = spread(prompts, limit)
    assert len(chosen) == len(set(chosen)) == min(limit, len(prompts))
    assert set(chosen) <= set(spread(prompts, limit + 1))
    assert set(spread(data.draw(st.permutations(prompts)), limit)) == set(chosen)
