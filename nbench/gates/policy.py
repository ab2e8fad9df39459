"""What a release must not lose: a YAML file of rules, checked before anything is read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nbench.errors import UsageError
from nbench.scoring.scorer import Kind
from nbench.yaml_files import first_fault, read_mapping

Tier = Literal["critical", "supporting", "advisory"]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Margin(_Part):
    """The largest drop that is allowed; exactly one of the two.

    Attributes:
        absolute: in the measure's unit.
        sd: in standard deviations of the base's values at that step count.
    """

    absolute: NotNegative | None = None
    sd: NotNegative | None = None

    @model_validator(mode="after")
    def _one(self) -> Margin:
        if (self.absolute is None) == (self.sd is None):
            raise ValueError("a margin is either absolute or in sd: give one of them")
        return self


class Rule(_Part):
    """Measures that are held to a margin.

    Attributes:
        tier: "critical": anything but PASS blocks. "supporting": a BREACH blocks. "advisory": is shown only.
        scorers: measures by name ("pocket-clip", "image-stats.saturation"), or scorers, which stand for all their
            measures.
        kinds: kinds of scorers: every measure of them that the base's run has.
        steps: step counts; None is every one of the base's run.
        margin: of each measure.
        coverage: least share of pairs that both sides must have; None is the policy's.
    """

    tier: Tier = "critical"
    scorers: tuple[str, ...] = ()
    kinds: tuple[Kind, ...] = ()
    steps: tuple[int, ...] | None = None
    margin: Margin
    coverage: Share | None = None

    @model_validator(mode="after")
    def _names_something(self) -> Rule:
        if not self.scorers and not self.kinds:
            raise ValueError("a rule names scorers, kinds, or both")
        return self


class Policy(_Part):
    """A gate.

    Attributes:
        name: of the policy.
        rules: in order; a measure at a step count is held to the first rule that names it.
        confidence: of each one-sided bound.
        coverage: least share of pairs that both sides must have, unless a rule says otherwise.
        least_prompts: a row with pairs of fewer prompts is inconclusive: so few may all look alike by chance.
        allow: parts of the cards that may differ, see `nbench.comparable.ALLOWANCES`.
    """

    name: str = "gate"
    rules: tuple[Rule, ...] = ()
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    coverage: Share = 1.0
    least_prompts: Annotated[int, Field(ge=2)] = 8
    allow: tuple[str, ...] = ()


def read_policy(path: Path) -> Policy:
    """Read a policy.

    Raises:
        UsageError: not YAML, an unknown key (the nearest is named), or a wrong value.
    """
    content = read_mapping(path, what="policy", example="name: release")
    return make_policy(content, where=f"policy {path}")


def make_policy(content: dict[str, Any], where: str = "the policy") -> Policy:
    """Check `content` and make it a policy.

    Raises:
        UsageError: as `read_policy`.
    """
    try:
        return Policy.model_validate(content)
    except ValidationError as error:
        raise UsageError(first_fault(error, where, _siblings)) from error


def _siblings(location: Sequence[int | str]) -> Iterable[str]:
    if "margin" in location[:-1]:
        return Margin.model_fields
    return (Rule if location[0] == "rules" else Policy).model_fields


TEMPLATE = """\
# A release gate: `nbench gate POLICY --run RUN --base BASE --candidate CANDIDATE`.
# Exit code 0: passed. 1: breached, a drop beyond a margin is shown. 2: inconclusive, more prompts are needed.
# `nbench gate plan` says how many prompts and seeds these margins need.
name: release

# Of each one-sided bound. A row passes when the drop is shown, with this confidence, to be smaller than its margin.
confidence: 0.95

# Least share of pairs (same prompt, seed and steps) of which both checkpoints need a score; below it a row is
# inconclusive, never passed.
coverage: 1.0

# A row with pairs of fewer prompts is inconclusive, however alike they are.
least_prompts: 8

# Parts of the two cards that may differ; everything allowed here is marked in the result. `guidance` is what a
# checkpoint trained without guidance needs.
allow: []

# A measure at a step count is held to the first rule that names it.
#   tier      critical: must pass. supporting: a breach blocks, an inconclusive row does not. advisory: shown only.
#   kinds     reward, judge, realism, diversity: every such measure of the base's run.
#   scorers   measures by name instead, as `nbench scorers list` shows them.
#   steps     step counts; leave out for all of the base's run.
#   margin    the largest drop that is allowed: {sd: 0.2} in standard deviations of the base, {absolute: 0.01} in the
#             measure's own unit.
rules:
  - tier: critical
    kinds: [reward, judge]
    margin: {sd: 0.2}
  - tier: critical
    kinds: [realism]
    margin: {sd: 0.3}
  - tier: supporting
    kinds: [diversity]
    margin: {sd: 0.5}
"""
