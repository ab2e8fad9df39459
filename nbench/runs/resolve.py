"""Suite -> resolved run: prompts read, weights hashed, grids explicit, devices named. Everything a key or a card holds.

A model is loaded here only when the store does not know its facts yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from nbench.errors import UsageError
from nbench.flow.load import CheckpointSpec
from nbench.prompts import Prompt
from nbench.runs.backend import (
    Backend,
    Models,
    attention_backend,
    base_of,
    library_versions,
    resolve_device,
    resolve_dtype,
)
from nbench.runs.canonical import digest
from nbench.runs.facts import Facts, ask, check_size, read_facts, sigma_name, write_facts
from nbench.runs.store import Store
from nbench.runs.suite import Checkpoint, Suite
from nbench.scoring.registry import AnyScorer
from nbench.scoring.scorer import Scorer
from nbench.scoring.sets import SetScorer


@dataclass(frozen=True)
class ResolvedCheckpoint:
    """A checkpoint with all that its pictures depend on.

    Attributes:
        name: of the checkpoint.
        spec: with device and dtype resolved.
        weights: its weights hash.
        facts: what it said of itself; None when it was never loaded and `resolve` was told not to.
        guidance: in use; None where facts are missing or the pipeline takes none.
        sigmas: steps -> explicit grid; all of the suite's, unless `resolve` was told not to load.
        reference: whether ratios and rescale against the reference checkpoint make sense for it.
    """

    name: str
    spec: CheckpointSpec
    weights: str
    facts: Facts | None
    guidance: float | None
    sigmas: Mapping[int, tuple[float, ...]]
    reference: bool = False


@dataclass(frozen=True)
class Resolved:
    """A suite with every name looked up.

    Attributes:
        suite: what was asked.
        prompts: in order.
        prompt_set: name of the set.
        checkpoints: in the suite's order.
        height, width: in pixels; 0 where no checkpoint's facts are known.
        device, dtype: resolved.
        versions: of the libraries that make pixels.
        attention: attention kernels.
        scorers: by name, in the suite's order, no weights loaded.
    """

    suite: Suite
    prompts: tuple[Prompt, ...]
    prompt_set: str
    checkpoints: tuple[ResolvedCheckpoint, ...]
    height: int
    width: int
    device: str
    dtype: str
    versions: Mapping[str, str]
    attention: str
    scorers: Mapping[str, AnyScorer]

    @cached_property
    def set_scorers(self) -> Mapping[str, SetScorer]:
        """Those of sets."""
        return {name: scorer for name, scorer in self.scorers.items() if isinstance(scorer, SetScorer)}

    @cached_property
    def picture_scorers(self) -> Mapping[str, Scorer]:
        """Those of single pictures."""
        return {name: scorer for name, scorer in self.scorers.items() if not isinstance(scorer, SetScorer)}

    @property
    def reference(self) -> ResolvedCheckpoint:
        """The reference checkpoint."""
        return self.checkpoint(self.suite.reference_name)

    def checkpoint(self, name: str) -> ResolvedCheckpoint:
        """A checkpoint by name."""
        return next(checkpoint for checkpoint in self.checkpoints if checkpoint.name == name)

    @property
    def prompts_hash(self) -> str:
        """Hash of the prompts that are used: ids and texts, in order."""
        return digest([[prompt.id, prompt.text] for prompt in self.prompts])


def resolve(suite: Suite, store: Store, backend: Backend, models: Models, *, may_load: bool = True) -> Resolved:
    """Look up everything that `suite` names.

    Args:
        suite: what is asked.
        store: where facts of checkpoints are kept.
        backend: how things are looked up.
        models: where a model that must be loaded stays for the generation stage.
        may_load: with False, a checkpoint that was never loaded stays without facts (for a dry run).

    Raises:
        UsageError: a checkpoint, prompt set or scorer is missing or wrong, or the size does not fit.
        StoreError: the store cannot be used.
    """
    device = resolve_device(suite.device)
    dtype = resolve_dtype(suite.dtype, device)
    scorers = {name: backend.scorer(name, device) for name in suite.scorers}
    prompts = backend.prompts(suite.prompts, suite.limit)
    specs = {entry.name: entry.spec(device=device, dtype=dtype) for entry in suite.checkpoints}
    weights = {name: backend.weights_hash(spec) for name, spec in specs.items()}
    facts = {name: read_facts(store, weights[name]) for name in specs}
    wanted = (suite.height, suite.width) if suite.height and suite.width else None
    # The first base is asked last, so that it is the one still loaded when pictures are made.
    for name in sorted(specs, key=lambda name: _load_order(specs, name)):
        known = facts[name]
        if known and wanted:
            check_size(name, *wanted, known.size_multiple)  # before anything is loaded
        height, width = wanted or (known.resolution if known else (0, 0))
        if (known is None or not known.knows(height, width, suite.grid, suite.steps)) and may_load:
            # The model gets no name here: one that holds it would keep it in memory while the next is loaded.
            new = ask(models.get(specs[name], weights[name]), known, name, wanted, suite.grid, suite.steps)
            write_facts(store, weights[name], new)
            facts[name] = new
    height, width = _size(suite, facts)
    checkpoints = tuple(
        _checkpoint(entry, specs[entry.name], weights[entry.name], facts[entry.name], suite, (height, width))
        for entry in suite.checkpoints
    )
    return Resolved(
        suite=suite,
        prompts=tuple(prompts.prompts),
        prompt_set=prompts.name,
        checkpoints=_with_references(checkpoints, suite, (height, width)),
        height=height,
        width=width,
        device=device,
        dtype=dtype,
        versions=library_versions(lora=any(entry.lora for entry in suite.checkpoints)),
        attention=attention_backend(),
        scorers=scorers,
    )


def _load_order(specs: Mapping[str, CheckpointSpec], name: str) -> int:
    """Bases from last to first."""
    bases = list(dict.fromkeys(base_of(spec) for spec in specs.values()))
    return -bases.index(base_of(specs[name]))


def _size(suite: Suite, facts: Mapping[str, Facts | None]) -> tuple[int, int]:
    known = {name: value for name, value in facts.items() if value is not None}
    if suite.height and suite.width:
        for name, value in known.items():
            check_size(name, suite.height, suite.width, value.size_multiple)
        return suite.height, suite.width
    sizes = {value.resolution: name for name, value in known.items()}
    if len(sizes) > 1:
        listed = ", ".join(f"{name} {height}x{width}" for (height, width), name in sizes.items())
        raise UsageError(f"the checkpoints were made for different sizes ({listed}): give one with --size.")
    return next(iter(sizes), (0, 0))


def _checkpoint(
    entry: Checkpoint, spec: CheckpointSpec, weights: str, facts: Facts | None, suite: Suite, size: tuple[int, int]
) -> ResolvedCheckpoint:
    height, width = size
    if facts is None or f"{height}x{width}" not in facts.latents:
        return ResolvedCheckpoint(entry.name, spec, weights, None, None, {})
    choices = (entry.guidance, suite.guidance, facts.default_guidance)
    guidance = next((float(value) for value in choices if value is not None), None)
    names = {steps: sigma_name(suite.grid, height, width, steps) for steps in suite.steps}
    sigmas = {steps: facts.sigmas[name] for steps, name in names.items() if name in facts.sigmas}
    return ResolvedCheckpoint(entry.name, spec, weights, facts, guidance, sigmas)


def _with_references(
    checkpoints: tuple[ResolvedCheckpoint, ...], suite: Suite, size: tuple[int, int]
) -> tuple[ResolvedCheckpoint, ...]:
    """Mark the checkpoints whose velocities can be set beside the reference's: same family, same latents.

    Raises:
        UsageError: rescale is asked for one that has no such reference.
    """
    reference = next(checkpoint for checkpoint in checkpoints if checkpoint.name == suite.reference_name)
    marked = []
    for checkpoint in checkpoints:
        fits = _same_space(checkpoint, reference, size)
        if suite.rescale is not None and checkpoint.facts and reference.facts and not fits:
            raise UsageError(
                f"checkpoint {checkpoint.name!r} cannot be rescaled to {reference.name!r}: they are of different "
                "families or latent sizes, or can only generate; leave one out, or drop rescale."
            )
        marked.append(replace(checkpoint, reference=fits))
    return tuple(marked)


def _same_space(checkpoint: ResolvedCheckpoint, reference: ResolvedCheckpoint, size: tuple[int, int]) -> bool:
    if checkpoint.facts is None or reference.facts is None or checkpoint.facts.generation_only:
        return False
    place = f"{size[0]}x{size[1]}"
    return (checkpoint.facts.family, checkpoint.facts.latents.get(place)) == (
        reference.facts.family,
        reference.facts.latents.get(place),
    )
