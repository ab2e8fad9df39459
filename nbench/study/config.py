"""What a study is asked to do: one YAML file, checked before anything is trained. Every default stands here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from nbench.errors import UsageError, did_you_mean
from nbench.normguard.config import RewardConfig
from nbench.resources import bundled
from nbench.yaml_files import first_fault, read_mapping

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


def _listed(value: object) -> object:
    return [value] if isinstance(value, str | int) else value


Words = Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1)]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_listed), Field(min_length=1)]
Counts = Annotated[tuple[Count, ...], BeforeValidator(_listed), Field(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Arm(_Part):
    """One way to train, which differs from the others in its guards alone.

    Attributes:
        guards: as in a training config; they take the place of the template's norm guards and join its others.
        settings: further values of the training config, by dotted key, that belong to the guard (such as its own clip).
    """

    guards: tuple[dict[str, Any], ...] = ()
    settings: dict[str, Any] = {}


class Block(_Part):
    """A full grid: every base with every method, reward, arm and training seed that is listed."""

    bases: Words
    methods: Words
    rewards: Words
    arms: Words
    seeds: Seeds = (0,)


class Evaluation(_Part):
    """How every checkpoint is looked at.

    Attributes:
        prompts: a prompt set; None takes the prompts that every training holds out.
        limit: use at most so many.
        steps: step counts of final checkpoints.
        seeds: pictures per prompt.
        seed: run seed.
        scorers: by name.
        batch_size: pictures per forward.
        trajectory_steps: step counts at which earlier checkpoints of a training are evaluated.
        trajectory_every: epochs between them; 0 for none.
        trajectory_seeds: pictures per prompt there; None is `seeds`.
        rescale: evaluate unguarded checkpoints also with the norm pulled back while sampling, in these modes.
    """

    prompts: str | None = None
    limit: Count | None = None
    steps: Counts = (2, 4, 8, 16, 28)
    seeds: Count = 2
    seed: Annotated[int, Field(ge=0)] = 0
    scorers: Words
    batch_size: Count = 16
    trajectory_steps: Counts = (8,)
    trajectory_every: Annotated[int, Field(ge=0)] = 0
    trajectory_seeds: Count | None = None
    rescale: tuple[Literal["full", "one-sided"], ...] = ("full", "one-sided")


class Analyses(_Part):
    """What is measured on velocities of unguarded checkpoints.

    Attributes:
        limit: prompts; None takes all of the evaluation's.
        seeds: samples per prompt.
        adjoint_steps: of the sampler, for the adjoint sensitivity; None leaves it out. It needs differentiable rewards.
        ratio_steps: of the stochastic sampler, for GRPO's importance ratios; None leaves them out.
        ratio_epoch: which checkpoint of a GRPO training is compared with its base; None is the first that is kept.
    """

    limit: Count | None = 24
    seeds: Count = 1
    adjoint_steps: Count | None = 8
    ratio_steps: Count | None = 10
    ratio_epoch: Count | None = None


class ClaimSettings(_Part):
    """What the claims are tested with; fixed before a study is run.

    Attributes:
        quality: the measure of judged quality, as `nbench compare` names it.
        realism: the measure of forensic realism.
        few, full: step counts of the difference in differences.
        smallest: smallest effect worth having, in standard deviations of the base's values over pictures.
        margin: of non-inferiority in the trained reward, in the same unit.
        unguarded, guarded: arms that NormGuard's claims compare.
        ratio_guarded: arm of GRPO-Guard.
    """

    quality: str
    realism: str
    few: Count = 4
    full: Count = 28
    smallest: Positive = 0.1
    margin: Positive = 0.1
    unguarded: str = "unguarded"
    guarded: str = "normguard"
    ratio_guarded: str = "grpo-guard"


class StudyConfig(_Part):
    """A whole study.

    Attributes:
        name: of the study and, unless `--out` says otherwise, of its folder.
        title, label: head of its pages; `label` says what its figures are figures of.
        notes: how the setting differs from the papers', for the page of claims.
        templates: base -> method -> training config, a bundled name or a file.
        settings: values that replace the templates', by dotted key.
        base_settings, method_settings: the same for one base and for one method, after `settings`.
        rewards: name -> terms.
        arms: name -> guards.
        grid: blocks; a training that is in two of them is there once.
        evaluation, analyses, claims: see their classes.
    """

    name: str
    title: str = ""
    label: str = ""
    templates: dict[str, dict[str, str]]
    settings: dict[str, Any] = {}
    base_settings: dict[str, dict[str, Any]] = {}
    method_settings: dict[str, dict[str, Any]] = {}
    notes: str = ""
    rewards: dict[str, tuple[RewardConfig, ...]]
    arms: dict[str, Arm]
    grid: Annotated[tuple[Block, ...], Field(min_length=1)]
    evaluation: Evaluation
    analyses: Analyses = Analyses()
    claims: ClaimSettings

    @field_validator("name")
    @classmethod
    def _usable_name(cls, name: str) -> str:
        if not _WORD.fullmatch(name):
            raise ValueError(
                "a study's name holds letters, digits, '.', '_' and '-', and starts with a letter or digit"
            )
        return name

    @model_validator(mode="after")
    def _consistent(self) -> StudyConfig:
        for kind, names in (("base", self.templates), ("reward", self.rewards), ("arm", self.arms)):
            for name in names:
                if not _WORD.fullmatch(name):
                    raise ValueError(f"{kind} {name!r}: names hold letters, digits, '.', '_' and '-'")
        methods = {method for of_base in self.templates.values() for method in of_base}
        for part, named, templates in (
            ("base_settings", self.base_settings, set(self.templates)),
            ("method_settings", self.method_settings, methods),
        ):
            for name in named:
                if name not in templates:
                    hint = did_you_mean(name, templates)
                    raise ValueError(f"{part} has {name!r}, for which there is no template.{hint}")
        for block in self.grid:
            for kind, wanted, known in (
                ("reward", block.rewards, self.rewards),
                ("arm", block.arms, self.arms),
                ("base", block.bases, self.templates),
            ):
                for name in wanted:
                    if name not in known:
                        raise ValueError(
                            f"the grid names {kind} {name!r}, which is not defined.{did_you_mean(name, known)}"
                        )
            for base in block.bases:
                for method in block.methods:
                    if method not in self.templates[base]:
                        raise ValueError(
                            f"templates.{base} has no method {method!r}.{did_you_mean(method, self.templates[base])}"
                        )
        claims = self.claims
        for count in (claims.few, claims.full):
            if count not in self.evaluation.steps:
                raise ValueError(f"claims compare {count} steps, which evaluation.steps does not hold")
        if not claims.few < claims.full:
            raise ValueError("claims.few must be fewer steps than claims.full")
        if claims.unguarded not in self.arms:
            raise ValueError(
                f"claims.unguarded is {claims.unguarded!r}, which is no arm.{did_you_mean(claims.unguarded, self.arms)}"
            )
        return self

    def to_yaml(self) -> str:
        """The study as YAML that `read_study` reads back equal."""
        text: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)
        return text


def bundled_studies() -> dict[str, Path]:
    """Bundled studies by name."""
    return {path.stem: path for path in sorted(bundled("leaderboards/studies").glob("*.yaml"))}


def read_study(name_or_path: str | Path) -> StudyConfig:
    """Read a study from a YAML file or by bundled name; a file goes first.

    Templates and prompts may be paths relative to the file.

    Raises:
        UsageError: there is no such study, it is not YAML, a key is unknown (the nearest is named), or a value is
            wrong.
    """
    path = Path(name_or_path).expanduser()
    if not path.is_file():
        known = bundled_studies()
        if str(name_or_path) not in known:
            hint = did_you_mean(str(name_or_path), known)
            raise UsageError(f"there is no study {str(name_or_path)!r}: give a YAML file or a bundled name.{hint}")
        path = known[str(name_or_path)]
    content = read_mapping(path, what="study", example="name: my-study")
    return make_study(content, where=f"study {path.name}", folder=path.parent)


def make_study(content: Mapping[str, Any], where: str = "the study", folder: Path | None = None) -> StudyConfig:
    """Check `content`; templates and prompts in it may be files relative to `folder`, and become absolute.

    Raises:
        UsageError: a key is unknown (the nearest is named), or a value is wrong.
    """
    try:
        study = StudyConfig.model_validate(dict(content))
    except ValidationError as error:
        raise UsageError(first_fault(error, where, _siblings)) from error
    templates = {
        base: {method: _file(template, folder) for method, template in methods.items()}
        for base, methods in study.templates.items()
    }
    prompts = study.evaluation.prompts
    evaluation = study.evaluation.model_copy(update={"prompts": None if prompts is None else _file(prompts, folder)})
    return study.model_copy(update={"templates": templates, "evaluation": evaluation})


def _file(text: str, folder: Path | None) -> str:
    for root in (folder or Path(), Path()):
        path = root / Path(text).expanduser()
        if path.is_file():
            return str(path.resolve())
    return text


def _siblings(location: Any) -> Any:
    parts: dict[str, type[BaseModel]] = {
        "evaluation": Evaluation,
        "analyses": Analyses,
        "claims": ClaimSettings,
        "grid": Block,
        "arms": Arm,
        "rewards": RewardConfig,
    }
    return (parts.get(str(location[0]), StudyConfig) if len(location) > 1 else StudyConfig).model_fields
