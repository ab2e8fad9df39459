"""The error tree: exit codes, and suggestions for unknown names."""

from __future__ import annotations

import inspect

import pytest

from nbench import errors
from nbench.errors import InfrastructureError, NbenchError, did_you_mean


def test_input_errors_exit_with_3_and_infrastructure_errors_with_4() -> None:
    classes = [item for item in vars(errors).values() if inspect.isclass(item) and issubclass(item, NbenchError)]
    assert len(classes) >= 9
    for item in classes:
        assert item.exit_code == (4 if issubclass(item, InfrastructureError) else 3)


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("stpes", ["steps", "seeds"], " Did you mean 'steps'?"),
        ("STEPS", ["Steps", "seeds"], " Did you mean 'Steps'?"),
        ("zzz", ["steps", "seeds"], " Known: seeds, steps."),
        ("zzz", [], ""),
    ],
)
def test_unknown_names_get_the_nearest_or_the_known_ones(name: str, known: list[str], expected: str) -> None:
    assert did_you_mean(name, known) == expected
    assert did_you_mean(name, iter(known)) == expected
