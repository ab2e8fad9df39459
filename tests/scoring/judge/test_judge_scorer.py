"""A judge as a scorer: metrics by mode, failures with reasons, and the faults of a server that it does not fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from judge_fakes import MindBackend, make_spec
from PIL import Image

from nbench.errors import InfrastructureError, NbenchError, ScorerError, UsageError
from nbench.scoring.judge import environment
from nbench.scoring.judge.answers import AnswerJournal
from nbench.scoring.judge.backend import JudgeBackend, open_judge
from nbench.scoring.judge.in_process import InProcessJudge
from nbench.scoring.judge.scorer import JudgeScorer, bundled_judges, create, judge_by_name
from nbench.scoring.judge.served import ServedJudge
from nbench.scoring.judge.spec import JudgeSpec
from nbench.scoring.judge.transport import Patience
from nbench.scoring.registry import card_identity
from nbench.testing.judge_server import JudgeServer, mixed

WHITE = Image.new("RGB", (8, 8), (255, 255, 255))
YES_NO = make_spec(scale={"Yes": 1, "No": 0})
PATIENCE = Patience(first_wait=0.01, longest_wait=0.02, silence_seconds=2, connect_seconds=1)


_made: list[JudgeScorer] = []


@pytest.fixture(autouse=True)
def _alone(judge_alone: None) -> Iterator[None]:
    """No server, cache or setting of anybody else's; connections are closed at the end."""
    yield
    while _made:
        _made.pop().close()


def by_mind(spec: JudgeSpec, backend: MindBackend) -> JudgeScorer:
    return JudgeScorer(spec, opener=lambda spec, journal: backend, keep_answers=False)


def at(server: JudgeServer, spec: JudgeSpec = YES_NO) -> JudgeScorer:
    def opener(spec: JudgeSpec, journal: AnswerJournal | None) -> JudgeBackend:
        return ServedJudge(spec, server.url, patience=PATIENCE, journal=journal)

    _made.append(JudgeScorer(spec, opener=opener))
    return _made[-1]


def test_items_are_asked_one_after_the_other_of_each_picture_and_give_a_metric_each() -> None:
    def mind(pictures: Sequence[Image.Image], text: str) -> Mapping[str, float]:
        yes = {"Blurred?": 0.2, "Sharp?": 0.6, "Odd?": 0.4}[text]
        return {"yes": yes, "no": 0.8 - yes}

    spec = make_spec(
        mode="items",
        scale={"yes": 1, "no": 0},
        items=[
            {"name": "blur", "question": "Blurred?"},
            {"name": "sharp", "question": "Sharp?", "good": True},
            {"name": "odd", "question": "Odd?"},
        ],
    )
    backend = MindBackend(mind)
    scorer = by_mind(spec, backend)
    scores = scorer.score([WHITE, WHITE], ["", ""])
    assert [question.text for question in backend.asked] == ["Blurred?", "Sharp?", "Odd?"] * 2
    assert scores[0].values == pytest.approx(
        {"sound": (0.75 + 0.75 + 0.5) / 3, "blur": 0.25, "sharp": 0.75, "odd": 0.5, "label_mass": 0.8}
    )
    assert set(scores[0].values or ()) == {metric.name for metric in scorer.card.metrics}
    orientations = {metric.name: metric.orientation for metric in scorer.card.metrics}
    assert orientations == {"sound": "higher", "blur": "lower", "sharp": "higher", "odd": "lower", "label_mass": "none"}


def test_alignment_asks_about_the_prompt_and_an_empty_one_is_a_reason() -> None:
    spec = make_spec(mode="alignment", scale={"yes": 1, "no": 0}, question="Is it {prompt}?", rubric="")
    backend = MindBackend(lambda pictures, text: {"yes": 0.6, "no": 0.2} if "cat" in text else {"yes": 0.1, "no": 0.7})
    cat, nothing, dog = by_mind(spec, backend).score([WHITE] * 3, ["a cat", " ", "a dog"])
    assert cat.values == pytest.approx({"p_yes": 0.75, "label_mass": 0.8})
    assert dog.values == pytest.approx({"p_yes": 0.125, "label_mass": 0.8})
    assert nothing.reason == "the prompt is empty"


def test_one_item_without_an_answer_is_a_reason_that_names_it() -> None:
    spec = make_spec(
        mode="items",
        scale={"yes": 1, "no": 0},
        items=[{"name": "one", "question": "1"}, {"name": "two", "question": "2"}],
    )
    backend = MindBackend(lambda pictures, text: {"yes": 0.9 if text == "1" else 0.01, "no": 0.01})
    (score,) = by_mind(spec, backend).score([WHITE], [""])
    assert score.values is None
    assert "item two: less than 0.5 of the probability" in (score.reason or "")


def test_no_picture_asks_nothing() -> None:
    backend = MindBackend(lambda pictures, text: {})
    assert by_mind(make_spec(), backend).score([], []) == []
    assert (backend.asked, backend.prepared) == ([], 0)


def test_the_card_knows_the_spec_and_the_model_and_reading_it_asks_nothing() -> None:
    backend = MindBackend(lambda pictures, text: {})
    card = by_mind(make_spec(), backend).card
    assert card.weights == {"spec": make_spec().identity, "model": "mind", "backend": "a function"}
    assert (card.kind, card.heavy, card.name) == ("judge", True, "judge@fake")
    assert backend.asked == []
    other = MindBackend(backend.mind, identity={"model": "another", "backend": "a function"})
    assert card_identity(by_mind(make_spec(), other).card) != card_identity(card)
    assert card_identity(by_mind(make_spec(rubric="Other."), backend).card) != card_identity(card)


def test_pairwise_judges_are_no_scorers() -> None:
    with pytest.raises(ScorerError, match="compares two pictures"):
        create("quality-pairwise")
    assert "quality-pairwise" not in bundled_judges()
    assert {"quality-pocket", "items-pocket", "alignment-pocket"} <= set(bundled_judges())


def test_a_spec_file_is_a_scorer_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: quality-pocket\n")
    assert create(path).about.name == "judge@mine"
    with pytest.raises(UsageError, match="there is no judge 'nothing'"):
        judge_by_name("judge@nothing")


def test_scores_of_a_server_are_exact_and_answers_outlive_the_scorer() -> None:
    with JudgeServer() as server:
        for _ in range(2):  # the second finds all in the journal
            scorer = at(server)
            (score,) = scorer.score([WHITE], [""])
            assert score.values == pytest.approx({"rating": 0.9 / 0.95, "label_mass": 0.95})
            scorer.close()
        assert len([body for body in server.asked if "Rate it." in str(body["messages"])]) == 1


def test_a_server_of_another_model_is_refused_by_name() -> None:
    with JudgeServer(model="owner/other") as server, pytest.raises(ScorerError, match="serves owner/other"):
        _ = at(server).card


def test_a_rating_word_of_several_tokens_is_refused_before_anything_is_scored() -> None:
    spec = make_spec(scale={"Yes": 1, "certainly": 0})
    with JudgeServer() as server:
        with pytest.raises(ScorerError, match="'certainly' is not one token of fake-judge"):
            at(server, spec).score([WHITE], [""])
        assert server.asked == []


def test_a_judge_without_logprobs_is_refused_at_the_first_question() -> None:
    with (
        JudgeServer(faults=lambda body, before: "no logprobs") as server,
        pytest.raises(ScorerError, match="gives no logprobs"),
    ):
        at(server).score([WHITE], [""])
    assert len(server.asked) == 1


def test_a_server_that_is_gone_stops_the_run() -> None:
    with JudgeServer() as server:
        scorer = at(server)
        _ = scorer.card
    with pytest.raises(InfrastructureError, match="no judge answers at"):
        scorer.score([WHITE], [""])


def test_a_server_that_names_its_likeliest_tokens_only_gives_the_same_number() -> None:
    with JudgeServer(vllm=False) as server:
        (score,) = at(server).score([WHITE], [""])
    assert score.values == pytest.approx({"rating": 0.9 / 0.95, "label_mass": 0.95})


def test_faults_of_a_server_cost_coverage_and_invent_nothing() -> None:
    pictures = [Image.new("RGB", (8, 8), (shade, shade, shade)) for shade in range(64)]
    faults = mixed({"429": 0.1, "500": 0.1, "malformed": 0.1, "truncated": 0.05, "refusal": 0.1}, in_a_row=9)
    with JudgeServer(faults=faults) as server:
        scores = at(server).score(pictures, [""] * 64)
    sound = {i: score.values["rating"] for i, score in enumerate(scores) if score.values is not None}
    assert 32 < len(sound) < 64
    for i, value in sound.items():
        assert value == pytest.approx((0.05 + 0.85 * i / 255) / 0.95)
    assert all(score.reason for score in scores if score.values is None)


def test_a_named_server_comes_before_vllm_and_vllm_before_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "_importable", lambda: False)
    assert isinstance(open_judge(YES_NO), InProcessJudge)
    monkeypatch.setenv("NBENCH_JUDGE_URL", "http://127.0.0.1:9")
    assert type(open_judge(YES_NO)) is ServedJudge
    assert isinstance(open_judge(YES_NO, choice="transformers"), InProcessJudge)
    with pytest.raises(ScorerError, match="three ways on"):
        open_judge(YES_NO, choice="vllm")
    with pytest.raises(ScorerError, match="Did you mean 'vllm'"):
        open_judge(YES_NO, choice="vlm")
    monkeypatch.delenv("NBENCH_JUDGE_URL")
    with pytest.raises(ScorerError, match="no server is named"):
        open_judge(YES_NO, choice="url")


def test_a_model_that_is_nowhere_says_what_to_do_and_keeps_its_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_importable", lambda: False)
    scorer = create("quality-pointwise-8b")
    with pytest.raises(NbenchError, match="hf download Qwen/Qwen3-VL-8B-Instruct") as caught:
        _ = scorer.card
    assert "NBENCH_JUDGE_URL" in str(caught.value)
    assert scorer.about.metrics[0].name == "rating"
    with pytest.raises(ScorerError, match=r"there is no model '\./nothing'"):
        _ = create_with("./nothing").card


def create_with(model: str) -> JudgeScorer:
    return JudgeScorer(make_spec(model=model))


def test_the_journal_of_a_scorer_is_only_for_its_own_identity(tmp_path: Path) -> None:
    seen: list[Path] = []

    def opener(spec: JudgeSpec, journal: AnswerJournal | None) -> MindBackend:
        seen.extend([] if journal is None else [journal.path])
        return MindBackend(lambda pictures, text: {"1": 1.0})

    for rubric in ("Rate it.", "Other."):
        JudgeScorer(make_spec(rubric=rubric), opener=opener).score([WHITE], [""])
    assert len(set(seen)) == 2
