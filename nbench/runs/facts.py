"""What a checkpoint says of itself once loaded, kept in the store so that a plan need not load it again."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import nbench
from nbench.errors import UsageError
from nbench.runs.backend import library_versions
from nbench.runs.store import Store, read_json, write_json

if TYPE_CHECKING:
    from nbench.flow.model import FlowModel, SigmaGrid
    from nbench.runs.backend import AnyModel

_FORMAT = 1


@dataclass(frozen=True)
class Speed:
    """How fast a checkpoint was here, for estimates.

    Attributes:
        step_seconds: seconds per picture and step.
        picture_bytes: mean bytes of a stored picture.
    """

    step_seconds: float
    picture_bytes: float


@dataclass(frozen=True)
class Facts:
    """Properties of a checkpoint that keys and cards hold, each a function of its weights and the libraries.

    Attributes:
        family: of the model.
        default_guidance: used when the user names none; None where the pipeline takes none.
        resolution: (height, width) that it was made for.
        size_multiple: what height and width must be multiples of.
        generation_only: whether it is a pipeline without a family adapter: its sigmas and latents are its own affair.
        latents: "HxW" -> (C, h, w); () when generation-only.
        sigmas: "GRID:HxW:STEPS" -> the explicit grid, descending from 1 to 0; () when generation-only.
        speed: "DEVICE:DTYPE:HxW" -> how fast it was.
    """

    family: str
    default_guidance: float | None
    resolution: tuple[int, int]
    size_multiple: int
    generation_only: bool = False
    latents: dict[str, tuple[int, ...]] = field(default_factory=dict)
    sigmas: dict[str, tuple[float, ...]] = field(default_factory=dict)
    speed: dict[str, Speed] = field(default_factory=dict)

    def knows(self, height: int, width: int, grid: str, steps: tuple[int, ...]) -> bool:
        """Whether latents and all grids of this size are there."""
        wanted = {sigma_name(grid, height, width, count) for count in steps}
        return f"{height}x{width}" in self.latents and wanted <= self.sigmas.keys()


def sigma_name(grid: str, height: int, width: int, steps: int) -> str:
    """Key of `Facts.sigmas`."""
    return f"{grid}:{height}x{width}:{steps}"


def speed_name(device: str, dtype: str, height: int, width: int) -> str:
    """Key of `Facts.speed`."""
    return f"{device.partition(':')[0]}:{dtype}:{height}x{width}"


def check_size(name: str, height: int, width: int, multiple: int) -> None:
    """Refuse a size that a checkpoint cannot make.

    Raises:
        UsageError: naming the nearest sizes that work.
    """
    if height % multiple or width % multiple:
        near = [max(multiple, round(side / multiple) * multiple) for side in (height, width)]
        raise UsageError(
            f"checkpoint {name!r} cannot make {height}x{width} pictures: height and width must be multiples of "
            f"{multiple}; try --size {near[0]}x{near[1]}."
        )


def ask(
    model: AnyModel, known: Facts | None, name: str, size: tuple[int, int] | None, grid: str, steps: tuple[int, ...]
) -> Facts:
    """The facts of a loaded model, for a size (None is its own) and step counts, added to those known.

    Raises:
        UsageError: the size does not fit.
    """
    height, width = size or model.resolution
    check_size(name, height, width, model.size_multiple)
    only = not hasattr(model, "velocity")
    facts = known or Facts(model.family, model.default_guidance, model.resolution, model.size_multiple, only)
    latents: tuple[int, ...] = ()
    sigmas: dict[str, tuple[float, ...]] = {sigma_name(grid, height, width, count): () for count in steps}
    if only and grid != "diffusers":
        raise UsageError(
            f"checkpoint {name!r} is a {model.family}, which nbench can only generate with: it takes no grid but "
            "its own; use --grid diffusers."
        )
    if not only:
        flow = cast("FlowModel", model)
        latents = tuple(flow.latent_shape(height, width))
        for count in steps:
            found = flow.sigmas(count, grid=cast("SigmaGrid", grid), height=height, width=width)
            sigmas[sigma_name(grid, height, width, count)] = tuple(float(sigma) for sigma in found)
    return replace(
        facts,
        latents={**facts.latents, f"{height}x{width}": latents},
        sigmas={**facts.sigmas, **sigmas},
    )


def read_facts(store: Store, weights: str) -> Facts | None:
    """The facts of a checkpoint, None when it was never loaded under these library versions.

    Raises:
        StoreError: the file cannot be read.
    """
    value = read_json(store.facts_path(weights))
    if value is None or value.get("made_by") != _made_by():
        return None
    facts: dict[str, Any] = value["facts"]
    return Facts(
        family=facts["family"],
        default_guidance=facts["default_guidance"],
        resolution=(facts["resolution"][0], facts["resolution"][1]),
        size_multiple=facts["size_multiple"],
        generation_only=facts["generation_only"],
        latents={key: tuple(shape) for key, shape in facts["latents"].items()},
        sigmas={key: tuple(grid) for key, grid in facts["sigmas"].items()},
        speed={key: Speed(**speed) for key, speed in facts["speed"].items()},
    )


def write_facts(store: Store, weights: str, facts: Facts) -> None:
    """Keep the facts of a checkpoint.

    Raises:
        StoreError: the disk refuses.
    """
    write_json(store.facts_path(weights), {"made_by": _made_by(), "facts": asdict(facts)})


def _made_by() -> dict[str, Any]:
    return {"format": _FORMAT, "nbench": nbench.__version__, **library_versions(lora=False)}
