"""A real vLLM on this CPU: started, asked with pictures, logprobs and a JSON schema, equal to this process, stopped.

Needs NBENCH_VLLM_PYTHON (`make test-vllm` makes such an environment); skipped without.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from judge_fakes import gone, make_spec
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from nbench.pocket.recipes.judge_model import CHAT_TEMPLATE, END, SPECIAL, STOP, build_model, build_tokenizer, export
from nbench.pocket.scenes import sample_scenes
from nbench.scoring.judge.answers import AnswerJournal
from nbench.scoring.judge.backend import JudgeBackend, open_judge
from nbench.scoring.judge.environment import PYTHON_VARIABLE
from nbench.scoring.judge.model_files import POCKET_WEIGHTS
from nbench.scoring.judge.pairs import judge_pairs
from nbench.scoring.judge.question import Answer, Picture, Question
from nbench.scoring.judge.reading import shown
from nbench.scoring.judge.scorer import JudgeScorer, Opener
from nbench.scoring.judge.served import StartedJudge, running_server, stop_servers
from nbench.scoring.judge.spec import JudgeSpec, load_judge

TOLERANCE = 1e-3  # of the scale's range: what docs/judge.md states
SPECS = ("quality-pocket", "items-pocket", "alignment-pocket")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not os.environ.get(PYTHON_VARIABLE), reason=f"{PYTHON_VARIABLE} names no vLLM"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled pocket-judge, or its class with random weights where it is not there."""
    bundled = POCKET_WEIGHTS / "pocket-judge"
    if (bundled / "model.safetensors").is_file():
        return bundled
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    folder = tmp_path_factory.mktemp("judge") / "model"
    export(build_model(tokenizer), tokenizer, folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setenv("NBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    stop_servers()
    patch.undo()


def spec_of(name: str, model: Path) -> JudgeSpec:
    return load_judge(name).model_copy(update={"model": str(model), "label_mass": 0.0})


def opener_of(choice: str) -> Opener:
    def opened(spec: JudgeSpec, journal: AnswerJournal | None) -> JudgeBackend:
        return open_judge(spec, choice=choice, journal=journal)

    return opened


@pytest.mark.parametrize("name", SPECS)
def test_both_ways_give_the_same_scores(name: str, model: Path) -> None:
    spec = spec_of(name, model)
    images, prompts = [image for image, _ in sample_scenes()], [prompt for _, prompt in sample_scenes()]
    served = JudgeScorer(spec, opener=opener_of("vllm"), keep_answers=False)
    here = JudgeScorer(spec, opener=opener_of("transformers"), keep_answers=False)
    range_ = spec.most - spec.least
    for one, other in zip(served.score(images, prompts), here.score(images, prompts), strict=True):
        assert one.values is not None
        assert other.values is not None
        for metric, value in one.values.items():
            assert value == pytest.approx(other.values[metric], abs=TOLERANCE * range_)
    assert "vllm" in served.card.weights["backend"]
    assert "transformers" in here.card.weights["backend"]


def test_pairs_are_the_same_too(model: Path) -> None:
    spec = spec_of("pairwise-pocket", model)
    images = [shown(image, spec.image) for image, _ in sample_scenes()]
    pairs = list(zip(images[::2], images[1::2], strict=True))
    found = [judge_pairs(_ready(open_judge(spec, choice=how)), spec, pairs) for how in ("vllm", "transformers")]
    for one, other in zip(*found, strict=True):
        assert one.shown_first == pytest.approx(other.shown_first, abs=TOLERANCE)
        assert one.shown_second == pytest.approx(other.shown_second, abs=TOLERANCE)


def _ready(backend: JudgeBackend) -> JudgeBackend:
    backend.prepare()
    return backend


def test_the_server_of_all_this_was_one_and_it_ends(model: Path) -> None:
    judge = open_judge(spec_of("quality-pocket", model), choice="vllm")
    assert isinstance(judge, StartedJudge)
    judge.prepare()
    server = running_server(judge._command)
    assert server.url == judge.url
    process = server._process
    assert process is not None
    judge.close()
    assert server.alive
    stop_servers()
    assert gone(process.pid)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte: unlike pocket-judge's tokenizer of words, it can write JSON."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate((*SPECIAL, *alphabet))}, []))
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in SPECIAL])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=END,
        eos_token=STOP,
        additional_special_tokens=[word for word in SPECIAL if word not in (END, STOP)],
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def test_structured_output_is_json_of_the_schema(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    export(build_model(tokenizer), tokenizer, tmp_path / "bytes")
    compact = json.dumps({"backend": "xgrammar", "disable_any_whitespace": True})  # random weights like spaces
    serve = ["--structured-outputs-config", compact]
    spec = make_spec(model=str(tmp_path / "bytes"), dtype="float32", max_model_len=512, label_mass=0, serve=serve)
    judge = _ready(open_judge(spec, choice="vllm"))
    schema = {"type": "object", "properties": {"good": {"enum": [True, False]}}, "required": ["good"]}
    schema["additionalProperties"] = False
    pictures = [Picture(image) for image, _ in sample_scenes()[:4]]
    questions = [Question((picture,), "Is it good?", schema=schema, max_tokens=300) for picture in pictures]
    for answer in judge.ask(questions):
        assert isinstance(answer, Answer)
        assert json.loads(answer.text) in ({"good": True}, {"good": False})
    judge.close()
    stop_servers()
