import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from PIL import Image

from nbench.errors import InfrastructureError, ScorerError
from nbench.pocket.scenes import sample_scenes
from nbench.scoring.conformance import check_scorer
from nbench.scoring.judge.client import ServedModel
from nbench.scoring.judge.transport import Patience
from nbench.scoring.registry import card_identity
from nbench.scoring.rewards import vqascore
from nbench.scoring.rewards.vqascore import MODELS, VqaScore, find_served
from nbench.scoring.scorer import Score
from nbench.testing.judge_server import JudgeServer

REPO = "Qwen/Qwen3-VL-8B-Instruct"
MODEL = MODELS["vqascore-qwen3vl-8b"]
QUICK = Patience(silence_seconds=5, attempts=3, first_wait=0.002, longest_wait=0.01)
GREY = Image.new("RGB", (16, 16), (128, 128, 128))


def served(**settings: Any) -> JudgeServer:
    return JudgeServer(**{"model": "judge", "root": REPO} | settings)


def thinking(**shares: float) -> JudgeServer:
    return served(mind=lambda pictures, text: {**shares, "other": 1 - sum(shares.values())})


def score(server: JudgeServer, images: Sequence[Image.Image], prompts: Sequence[str], **settings: Any) -> list[Score]:
    scorer = VqaScore(MODEL, url=server.url, **{"patience": QUICK} | settings)
    try:
        return scorer.score(images, prompts)
    finally:
        scorer.close()


def one(server: JudgeServer, prompt: str = "a cat") -> Score:
    return score(server, [GREY], [prompt])[0]


def test_the_score_is_the_probability_of_yes_over_the_whole_vocabulary() -> None:
    with thinking(Yes=0.5, No=0.3, yes=0.05) as server:
        found = one(server)
    assert found.values == pytest.approx({"p_yes": 0.5, "label_mass": 0.85})  # not 0.5 / 0.8, not 0.55
    assert found.truncated is False


def test_the_question_is_the_published_one_behind_the_picture_and_one_token_is_asked_for() -> None:
    with served() as server:
        one(server, 'a "blue" {cat}')
    (body,) = server.asked
    picture, text = body["messages"][0]["content"]
    assert picture["type"] == "image_url"
    assert text["text"] == 'Does this figure show "a "blue" {cat}"? Please answer Yes or No.'
    assert (body["max_tokens"], body["temperature"], body["model"]) == (1, 0, "judge")
    assert set(body["logprob_token_ids"]) == set(range(100, 108))  # YES and NO are several tokens here


def test_each_picture_has_its_own_score_in_order() -> None:
    images = [Image.new("RGB", (8, 8), (level,) * 3) for level in range(0, 255, 20)]
    with served() as server:
        found = [values(score) for score in score(server, images, ["a cat"] * len(images))]
    wanted = [0.05 + 0.85 * level / 255 for level in range(0, 255, 20)]
    assert [value["p_yes"] for value in found] == pytest.approx(wanted)


def values(score: Score) -> Mapping[str, float]:
    assert score.values is not None, score.reason
    return score.values


def test_a_judge_that_does_not_answer_the_question_is_a_failure() -> None:
    with thinking(Yes=0.3, No=0.1, A=0.6) as server:
        found = one(server)
    assert found.reason == "only 0.4 of the probability is on Yes or No: the judge began with 'A'"
    with thinking(Yes=0.3, No=0.1) as server:
        assert score(server, [GREY], ["a cat"], least_mass=0.3)[0].ok


def test_by_the_top_list_a_yes_that_is_not_in_it_is_a_failure_unless_it_must_be_tiny() -> None:
    plain = {"vllm": False, "top": 1}
    with served(mind=lambda pictures, text: {"No": 0.9, "Yes": 0.08, "other": 0.02}, **plain) as server:
        found = one(server)
    assert found.reason is not None and "at most 0.1" in found.reason
    with served(mind=lambda pictures, text: {"No": 0.9996, "Yes": 0.0002, "other": 0.0002}, **plain) as server:
        assert values(one(server))["p_yes"] == pytest.approx(0.0002)  # half of the bound


def test_by_the_top_list_values_are_the_same_as_by_id() -> None:
    with thinking(Yes=0.6, No=0.3) as by_id, thinking(Yes=0.6, No=0.3) as by_text:
        by_text.vllm = False
        assert values(one(by_id)) == pytest.approx(values(one(by_text)))


def test_an_empty_prompt_has_a_reason_and_is_not_asked() -> None:
    with served() as server:
        bad, good = score(server, [GREY, GREY], ["  ", "a cat"])
        assert score(server, [], []) == []
    assert bad.reason == "the prompt is empty"
    assert good.ok
    assert len(server.asked) == 1


def test_a_picture_that_the_server_refuses_spares_its_neighbours() -> None:
    def picky(body: Mapping[str, Any], before: int) -> Any:
        return "400" if "a dog" in body["messages"][0]["content"][1]["text"] else None

    with served(faults=picky) as server:
        bad, good = score(server, [GREY, GREY], ["a dog", "a cat"])
    assert bad.reason == "vqascore-qwen3vl-8b: the server gave 400 told to give 400"
    assert good.ok


def test_a_server_that_is_gone_stops_the_run_instead_of_failing_every_picture() -> None:
    with served() as server:
        scorer = VqaScore(MODEL, url=server.url, patience=QUICK)
        assert scorer.score([GREY], ["a cat"])[0].ok
    with pytest.raises(InfrastructureError, match="no judge answers"):
        scorer.score([GREY], ["a cat"])
    scorer.close()


def test_without_a_url_the_card_says_what_to_serve_and_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NBENCH_JUDGE_URL", raising=False)
    scorer = vqascore.create_qwen3vl_8b("cuda")
    assert scorer.about.name == "vqascore-qwen3vl-8b"
    with pytest.raises(ScorerError, match=f"vllm serve {REPO}.*NBENCH_JUDGE_URL"):
        _ = scorer.card


def test_the_url_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with served() as server:
        monkeypatch.setenv("NBENCH_JUDGE_URL", server.url + "/v1")
        scorer = vqascore.create_qwen3vl_8b("cpu")
        assert scorer.card.name == "vqascore-qwen3vl-8b"
        assert scorer.score([GREY], ["a cat"])[0].ok
        scorer.close()


def test_a_server_of_another_model_is_refused_by_card_and_score() -> None:
    with JudgeServer(model="judge", root="Qwen/Qwen2.5-VL-7B-Instruct") as server:
        scorer = VqaScore(MODEL, url=server.url, patience=QUICK)
        for ask in (lambda: scorer.card, lambda: scorer.score([GREY], ["a cat"])):
            with pytest.raises(ScorerError, match=rf"needs {REPO}.*serves Qwen/Qwen2\.5-VL-7B-Instruct"):
                ask()
    assert server.asked == []


def test_a_server_that_is_not_there_makes_the_card_an_error_at_once() -> None:
    with JudgeServer() as server:
        pass
    with pytest.raises(ScorerError, match=f"vqascore-qwen3vl-8b: no judge answers at {server.url}"):
        _ = VqaScore(MODEL, url=server.url).card


@pytest.mark.parametrize(
    ("name", "root", "fits"),
    [
        (REPO, REPO, True),
        ("short", REPO, True),
        ("short", "/models/Qwen3-VL-8B-Instruct/", True),
        ("short", "models/here/Qwen3-VL-8B-Instruct", True),
        ("short", "Someone/Qwen3-VL-8B-Instruct", False),
        (REPO + "-FP8", REPO + "-FP8", False),
        ("short", "/models/Qwen3-VL-32B-Instruct", False),
    ],
)
def test_the_served_model_is_known_by_id_by_origin_or_by_the_name_of_its_folder(
    name: str, root: str, fits: bool
) -> None:
    entry = ServedModel(name, root, "vllm 1")
    assert find_served([ServedModel("else", "else", ""), entry], REPO) == (entry if fits else None)


def test_the_card_says_that_the_weights_identity_is_no_hash_and_changes_with_the_server() -> None:
    cards = []
    for root in (REPO, "/home/me/models/Qwen3-VL-8B-Instruct", "/other/Qwen3-VL-8B-Instruct"):
        with served(root=root) as server:
            cards.append(VqaScore(MODEL, url=server.url).card)
    told = cards[0].weights
    assert told == {
        "model (as the server says, no hash)": f"{REPO}, revision not told",
        "server": "vllm 0.0.0+fake",
    }
    assert "not a hash" in cards[0].preprocessing
    assert card_identity(cards[0]) != card_identity(cards[1])
    assert card_identity(cards[1]) == card_identity(cards[2])  # where a folder lies does not matter, and is not told
    assert cards[0].heavy


def test_a_tokenizer_in_which_yes_is_several_tokens_is_refused() -> None:
    with served() as server:
        server.tokenize = lambda text: [1, 2]  # type: ignore[method-assign]
        with pytest.raises(ScorerError, match="'Yes' is not one token"):
            one(server)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_each_model_has_a_factory_of_its_own(name: str) -> None:
    factory = getattr(vqascore, "create_" + name.removeprefix("vqascore-").replace("-", "_"))
    assert factory("cpu").about.name == name


def test_the_scorer_passes_the_checks_of_every_scorer_before_a_judge_that_can_see() -> None:
    scenes = sample_scenes()[:4]
    drawn = {hashlib.sha256(image.convert("RGB").tobytes()).hexdigest(): prompt for image, prompt in scenes}

    def mind(pictures: Sequence[Image.Image], text: str) -> Mapping[str, float]:
        prompt = drawn.get(hashlib.sha256(pictures[0].tobytes()).hexdigest())
        right = prompt is not None and f'"{prompt}"' in text
        return {"Yes": 0.8, "No": 0.15} if right else {"Yes": 0.1, "No": 0.85}

    with served(mind=mind) as server:
        scorer = VqaScore(MODEL, url=server.url, patience=QUICK)
        report = check_scorer(scorer, scenes)
        scorer.close()
    assert report.passed, [check for check in report.checks if check.passed is False]
    assert report.canaries["as drawn"] == pytest.approx({"p_yes": 0.8, "label_mass": 0.95})
