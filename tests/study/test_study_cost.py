"""What a study costs: counts equal those of real trainings and runs; sizes and operations equal diffusers' own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nbench.testing  # noqa: I001  (before diffusers: it makes torchvision importable beside a CPU build of torch)
import pytest
import torch
import yaml
from diffusers import AutoencoderKL, FluxTransformer2DModel, SD3Transformer2DModel
from safetensors import safe_open
from torch.utils.flop_counter import FlopCounterMode
from train_fakes import train_config

import nbench.normguard.trainer as trainer_module
from nbench.normguard.config import ModelConfig, TrainConfig
from nbench.normguard.evaluate import Evaluator
from nbench.normguard.trainer import train
from nbench.runs.backend import default_backend
from nbench.runs.execute import execute
from nbench.runs.store import Store
from nbench.runs.suite import make_suite
from nbench.study.config import make_study, read_study
from nbench.study.cost import POCKET_FORWARD_SECONDS, StudyCost, estimate_study
from nbench.study.cost_bases import find_base
from nbench.study.cost_work import (
    Work,
    checkpoint_epochs,
    epoch_work,
    evaluation_epochs,
    evaluation_work,
    run_works,
    sweep,
    training_bytes,
)
from nbench.study.folder import StudyFolder
from nbench.study.plan import Plan, make_plan, suite_content
from nbench.study.tasks import make_tasks
from nbench.testing import FakeScorer

PUBLIC = {"stabilityai/stable-diffusion-3.5-medium": 2_243_171_520, "black-forest-labs/FLUX.1-dev": 11_901_408_320}
HINGE = {"name": "norm_hinge", "weight": 0.1}


@dataclass
class Counter:
    """Rows that went through transformers and decoders."""

    forwards: int = 0
    trained: int = 0
    blocks: int = 0
    pictures: int = 0


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter]:
    found = Counter()
    forward, decode = SD3Transformer2DModel.forward, AutoencoderKL.decode

    def counted(self: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        block = self.transformer_blocks[0]
        handle = block.register_forward_hook(lambda *_: setattr(found, "blocks", found.blocks + len(hidden_states)))
        handles.append(handle)
        for old in handles[:-1]:
            old.remove()
        if torch.is_grad_enabled():
            found.trained += len(hidden_states)
        else:
            found.forwards += len(hidden_states)
        return forward(self, hidden_states, *args, **kwargs)

    def decoded(self: Any, z: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        found.pictures += len(z)
        return decode(self, z, *args, **kwargs)

    handles: list[Any] = []
    monkeypatch.setattr(SD3Transformer2DModel, "forward", counted)
    monkeypatch.setattr(AutoencoderKL, "decode", decoded)
    yield found


class Counting(FakeScorer):
    """Counts the pictures that it is shown."""

    seen = 0

    def score(self, images: Any, prompts: Any) -> Any:
        self.seen += len(images)
        return super().score(images, prompts)


def counted_work(config: TrainConfig, held_out: int = 2) -> Work:
    base = find_base(config.model)
    return epoch_work(config, base).times(config.optim.epochs) + evaluation_work(config, base, held_out)


TRAININGS = {
    "nft": ("nft", {"evaluate__steps": [1, 3], "times__count": 2}),
    "nft with a hinge, which brings the reference": ("nft", {"guards": [HINGE], "times__count": 2}),
    "nft against the old policy": ("nft", {"guards": [{**HINGE, "name": "old_policy_hinge"}], "times__count": 2}),
    "nft with a guard that is only measured": ("nft", {"guards": [{**HINGE, "weight": 0}], "times__count": 2}),
    "awm with its anchor and old weights": (
        {"name": "awm", "anchor_weight": 0.5},
        {"optim__updates_per_epoch": 2, "times__count": 2},
    ),
    "dpo with evaluations between": ("dpo", {"evaluate__every": 1, "optim__epochs": 3, "evaluate__ema": True}),
    "grpo": ({"name": "grpo", "skip_last": 1}, {"times__count": 2}),
    "grpo with its KL, guided": (
        {"name": "grpo", "skip_last": 1},
        {"guards": [{"name": "state_kl", "weight": 0.1}], "model__guidance": 4.0, "times__count": 2},
    ),
}


@pytest.mark.parametrize(("method", "changes"), TRAININGS.values(), ids=TRAININGS.keys())
def test_counts_equal_those_of_a_real_training(
    sd3_folder: Path, tmp_path: Path, counter: Counter, method: Any, changes: dict[str, Any]
) -> None:
    config = train_config(sd3_folder, method, **changes)
    scorer = Counting("fake-score")
    train(config, tmp_path / "out", scorers={"fake-score": scorer})
    expected = counted_work(config)
    assert (counter.forwards, counter.trained) == (expected.forwards, expected.trained)
    assert counter.pictures == expected.pictures
    assert scorer.seen == expected.scores["fake-score"]
    assert expected.trained > 0 and expected.forwards > expected.trained


def test_gradient_checkpointing_counts_one_forward_more(sd3_folder: Path, tmp_path: Path, counter: Counter) -> None:
    config = train_config(sd3_folder, model__gradient_checkpointing=True)
    train(config, tmp_path / "out", scorers={"fake-score": FakeScorer("fake-score")})
    expected = counted_work(config)
    assert counter.blocks == expected.forwards + 2 * expected.trained
    assert expected.equivalents(checkpointing=True) - expected.equivalents() == expected.trained


def test_bytes_equal_what_a_training_leaves(sd3_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = train_config(sd3_folder, {"name": "awm", "anchor_weight": 0.5}, optim__epochs=3)
    out = tmp_path / "out"
    train(config, out, scorers={"fake-score": FakeScorer("fake-score")})
    base = find_base(config.model)
    assert base is not None
    left = sum(tensor_bytes(path) for path in out.rglob("*.safetensors"))
    assert left == training_bytes(config, base.lora_parameters(config.model))
    assert [path.name for path in sorted((out / "checkpoints").iterdir())] == [
        f"epoch-{epoch:04d}" for epoch in checkpoint_epochs(config)
    ]


def tensor_bytes(path: Path) -> int:
    with safe_open(path, framework="pt") as file:
        return sum(file.get_tensor(name).nbytes for name in file.keys())  # noqa: SIM118


def test_evaluations_fall_on_their_epochs_and_the_end(sd3_folder: Path) -> None:
    assert evaluation_epochs(train_config(sd3_folder, optim__epochs=5)) == (5,)
    assert evaluation_epochs(train_config(sd3_folder, optim__epochs=6, evaluate__every=2)) == (2, 4, 6)
    assert evaluation_epochs(train_config(sd3_folder, optim__epochs=5, evaluate__every=2)) == (2, 4, 5)


def test_a_sweep_shares_its_first_forward() -> None:
    assert sweep([8]) == 8
    assert sweep([4, 8, 8]) == 11
    assert sweep([]) == 0


# What is known of bases.


def transformer(model: ModelConfig) -> tuple[Any, dict[str, Any]]:
    """The transformer on no device, and inputs of one row."""
    base = find_base(model)
    assert base is not None
    image, text = base.tokens(model)
    rows: dict[str, Any] = {
        "timestep": torch.zeros(1),
        "encoder_hidden_states": torch.zeros(1, text, base.config["joint_attention_dim"]),
        "pooled_projections": torch.zeros(1, base.config["pooled_projection_dim"]),
    }
    if base.family == "sd3":
        side = (model.height or base.resolution[0]) // base.vae_factor
        return SD3Transformer2DModel.from_config(dict(base.config)), {
            "hidden_states": torch.zeros(1, base.config["in_channels"], side, side),
            **rows,
        }
    return FluxTransformer2DModel.from_config(dict(base.config)), {
        "hidden_states": torch.zeros(1, image, base.config["in_channels"]),
        "guidance": torch.zeros(1),
        "img_ids": torch.zeros(image, 3),
        "txt_ids": torch.zeros(text, 3),
        **rows,
    }


@pytest.mark.parametrize("name", [*PUBLIC, "pocket-sd3", "pocket-flux"])
def test_layers_weights_and_operations_are_those_of_diffusers(name: str) -> None:
    model = ModelConfig(base=name)
    if name in PUBLIC:
        model = ModelConfig(base=name, height=512, width=512, max_sequence_length=128)
    base = find_base(model)
    assert base is not None
    with torch.device("meta"):
        network, row = transformer(model)
        with FlopCounterMode(display=False) as flops:
            network(**row)
    linear = {
        path: (one.in_features, one.out_features)
        for path, one in network.named_modules()
        if isinstance(one, torch.nn.Linear)
    }
    layers = {one.name: (one.inputs, one.outputs) for one in base.layers() if one.name != "pos_embed.proj"}
    assert layers == linear
    assert base.parameters() == sum(weight.numel() for weight in network.parameters())
    assert base.parameters() == PUBLIC.get(name, base.parameters())
    assert base.forward_flops(model) == flops.get_total_flops()


@pytest.mark.parametrize(("name", "expected"), [(name, None) for name in PUBLIC] + [("pocket-sd3", 638_976)])
def test_an_adapter_has_the_weights_that_peft_gives_it(name: str, expected: int | None) -> None:
    from peft import LoraConfig

    from nbench.normguard.policy import LORA_DEFAULTS

    model = ModelConfig(base=name)
    base = find_base(model)
    assert base is not None
    rank, alpha, targets = LORA_DEFAULTS[base.family]
    with torch.device("meta"):
        network, _ = transformer(model)
        network.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets)))
    found = sum(weight.numel() for path, weight in network.named_parameters() if "lora_" in path)
    assert base.lora_parameters(model) == found
    assert found == (expected or found)
    half = model.model_copy(update={"lora": model.lora.model_copy(update={"rank": rank // 2})})
    assert 2 * base.lora_parameters(half) == found


def test_guidance_doubles_the_rows_of_sd3_alone() -> None:
    sd3, flux = ModelConfig(base="pocket-sd3"), ModelConfig(base="pocket-flux", guidance=5.0)
    found = [find_base(sd3), find_base(flux)]
    assert found[0] is not None and found[1] is not None
    assert found[0].network_rows(sd3) == 2  # its own guidance is 4.5
    assert found[0].network_rows(sd3.model_copy(update={"guidance": 1.0})) == 1
    assert found[1].network_rows(flux) == 1


# Whole studies.


def small_study(base: str, **changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = {
        "name": "small",
        "templates": {"tiny": {"nft": "pocket-sd3-nft", "grpo": "pocket-sd3-grpo"}},
        "settings": {
            "model.base": base,
            "model.height": 16,
            "model.width": 16,
            "model.lora.rank": 4,
            "model.lora.alpha": 4,
            "model.device": "cpu",
            "prompts.holdout": 3,
            "prompts.limit": 4,
            "rollout.prompts": 2,
            "rollout.group_size": 2,
            "optim.epochs": 2,
            "evaluate.steps": [1],
            "evaluate.seeds": 1,
            "evaluate.scorers": [],
        },
        "rewards": {"fake": [{"scorer": "fake-score"}]},
        "arms": {"unguarded": {}, "normguard": {"guards": [HINGE]}},
        "grid": [{"bases": "tiny", "methods": "nft", "rewards": "fake", "arms": ["unguarded", "normguard"]}],
        "evaluation": {
            "steps": [1, 2, 4],
            "seeds": 2,
            "batch_size": 4,
            "scorers": ["fake-score"],
            "trajectory_every": 1,
            "trajectory_steps": [2],
            "trajectory_seeds": 1,
        },
        "analyses": {"adjoint_steps": None, "ratio_steps": None},
        "claims": {"quality": "fake-score", "realism": "fake-score", "few": 1, "full": 4},
    }
    return {**content, **changes}


def small_plan(base: str, **changes: Any) -> Plan:
    return make_plan(make_study(small_study(base, **changes)))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_counts_equal_those_of_real_runs_over_one_store(
    sd3_folder: Path, tmp_path: Path, counter: Counter, guidance: float
) -> None:
    settings = {**small_study("")["settings"], "model.base": str(sd3_folder), "model.guidance": guidance}
    plan = small_plan(str(sd3_folder), settings=settings)
    loras: dict[tuple[str, int | None], str] = {}
    for number, training in enumerate(plan.trainings):
        for epoch in (1, 2):
            folder = tmp_path / f"{training.name}-{epoch}"
            nbench.testing.tiny_lora(folder, sd3_folder, seed=10 * number + epoch)
            loras[training.name, epoch] = str(folder)
        loras[training.name, None] = loras[training.name, 2]  # the end is the last epoch's checkpoint
    prompts = tmp_path / "held-out.yaml"
    prompts.write_text(
        yaml.safe_dump(
            {
                "name": "held-out",
                "source": "here",
                "licence": "CC0-1.0",
                "prompts": [{"id": one.id, "text": one.text} for one in plan.prompts],
            }
        )
    )
    store, scorer = Store(tmp_path / "store"), Counting("fake-score")
    backend = replace(default_backend(), scorer=lambda name, device: scorer)
    base = find_base(plan.trainings[0].config.model)
    kinds = []
    for run, work in run_works(plan, {"tiny": base}):
        before = replace(counter)
        seen = scorer.seen
        chosen = {name: loras[training.name, epoch] for name, (training, epoch) in run.checkpoints.items()}
        suite = suite_content(plan, run, chosen, str(prompts))
        execute(make_suite({**suite, "device": "cpu"}), store, backend=backend)
        kinds.append(run.kind)
        assert counter.forwards - before.forwards == work.forwards, run.name
        assert counter.pictures - before.pictures == work.pictures, run.name
        assert scorer.seen - seen == work.scores["fake-score"], run.name
    assert kinds == ["final", "trajectory", "rescale-full", "rescale-one-sided"]
    assert counter.trained == 0


def costs(plan: Plan, out: Path, **options: Any) -> StudyCost:
    folder = StudyFolder(out)
    return estimate_study(plan, folder, make_tasks(plan, folder), **options)


@pytest.mark.parametrize(("name", "trainings", "days"), [("sd35-medium", 21, (30, 150)), ("flux1-dev", 17, (60, 250))])
def test_bundled_studies_of_public_models_have_a_cost(
    name: str, trainings: int, days: tuple[int, int], tmp_path: Path
) -> None:
    plan = make_plan(read_study(name))
    found = costs(plan, tmp_path / "none")
    assert len(found.of("train")) == trainings
    assert {one.task for one in found.tasks} == {one.name for one in make_tasks(plan, StudyFolder(tmp_path / "none"))}
    assert {one.basis for one in found.tasks} == {"operations"}
    seconds, size = found.seconds(), found.size()
    assert seconds is not None and size is not None
    assert days[0] < seconds / 86400 < days[1]
    assert 1e10 < size < 1e12
    faster = costs(plan, tmp_path / "none", tflops=800).seconds()
    assert faster == pytest.approx(seconds / 2)
    assert not (tmp_path / "none").exists()


def test_what_was_trained_and_run_here_gives_the_speed(tmp_path: Path) -> None:
    plan = small_plan("pocket-sd3")
    out = tmp_path / "studies" / "one"
    typical = costs(plan, out)
    assert {one.basis for one in typical.tasks} == {"typical"}
    assert typical.seconds() == pytest.approx(
        POCKET_FORWARD_SECONDS * sum(one.work.equivalents() for one in typical.tasks)
    )
    first, second = plan.trainings
    write_training(out, first.name, first.config, seconds=[9.0, 7.0, 11.0])
    for study in (out, tmp_path / "studies" / "two"):  # the second has nothing of its own: it looks beside
        (out / "study.yaml").write_text("name: one")
        found = {one.task: one for one in costs(plan, study).tasks}
        base = find_base(first.config.model)
        assert base is not None
        per_forward = 9.0 / epoch_work(first.config, base).equivalents()
        held = evaluation_work(first.config, base, 3).forwards
        line = found[f"train-{first.name}"]
        assert line.basis == "measured"
        assert line.seconds == pytest.approx(2 * 9.0 + held * per_forward)
        guarded = found[f"train-{second.name}"]  # another arm of the method, with more forwards: by its share of them
        assert guarded.seconds == pytest.approx(
            per_forward * (2 * epoch_work(second.config, base).equivalents() + held)
        )
        run = found["run-tiny-nft-fake"]
        assert run.seconds == pytest.approx(per_forward * run.work.forwards)


def test_finished_tasks_take_what_they_took_and_are_not_left_to_do(tmp_path: Path) -> None:
    plan = small_plan("pocket-sd3")
    first, second = plan.trainings
    write_training(tmp_path, first.name, first.config, seconds=[9.0])
    (tmp_path / "trainings" / first.name / "result.json").write_text(json.dumps({"epochs": 2}))
    lines = [
        {"task": f"train-{first.name}", "stage": "train", "seconds": 33.0},
        {"task": f"train-{second.name}", "stage": "train", "seconds": 44.0},  # its folder is gone
    ]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = costs(plan, tmp_path)
    done, again = found.of("train")
    assert (done.basis, done.seconds) == ("done", 33.0)
    assert again.basis == "measured" and again.seconds != 44.0
    assert found.seconds("train") == pytest.approx(33.0 + (again.seconds or 0.0))
    assert found.seconds("train", remaining=True) == again.seconds


def test_a_base_that_is_not_here_has_forwards_but_no_time(tmp_path: Path) -> None:
    plan = small_plan("somebody/a-model")
    found = costs(plan, tmp_path)
    assert found.unknown == ("somebody/a-model",)
    assert found.seconds() is None and found.flops() is None and found.size() is None
    assert {one.basis for one in found.tasks} == {"unknown"}
    assert found.work() == costs(small_plan("pocket-sd3"), tmp_path).work()  # at guidance 1


def test_only_the_tasks_that_are_asked_for_are_counted(tmp_path: Path) -> None:
    plan, folder = small_plan("pocket-sd3"), StudyFolder(tmp_path)
    chosen = [task for task in make_tasks(plan, folder) if task.stage == "evaluate"]
    found = estimate_study(plan, folder, chosen)
    assert [one.task for one in found.tasks] == [task.name for task in chosen]
    assert not found.of("train")


def write_training(out: Path, name: str, config: TrainConfig, *, seconds: list[float]) -> None:
    folder = out / "trainings" / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config.to_yaml())
    lines = [json.dumps({"epoch": i, "seconds": {"epoch": taken}}) for i, taken in enumerate(seconds)]
    (folder / "log.jsonl").write_text("\n".join(lines) + "\n")


def test_the_trainer_evaluates_with_the_real_evaluator_here() -> None:
    assert trainer_module.Evaluator is Evaluator  # else the counts above would leave evaluations out
