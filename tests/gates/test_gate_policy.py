"""Policies as users write them."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from nbench.errors import UsageError
from nbench.gates.policy import TEMPLATE, Policy, Rule, make_policy, read_policy

RULE = {"kinds": ["reward"], "margin": {"sd": 0.2}}


def test_the_template_is_a_policy(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(TEMPLATE)
    policy = read_policy(tmp_path / "p.yaml")
    assert policy.name == "release" and len(policy.rules) == 3 and policy.rules[0].margin.sd == 0.2


def test_the_documented_policy_is_a_policy() -> None:
    text = (Path(__file__).parents[2] / "docs/gates.md").read_text()
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    policy = make_policy(yaml.safe_load(block))
    assert [rule.tier for rule in policy.rules] == ["critical", "critical", "supporting"]
    for name in Policy.model_fields | Rule.model_fields:
        assert f"`{name}`" in text or f"{name}:" in text, f"docs/gates.md does not speak of {name}"


def test_an_empty_policy_can_be_read_and_has_defaults() -> None:
    policy = make_policy({})
    assert (policy.rules, policy.confidence, policy.coverage) == ((), 0.95, 1.0)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"ruls": []}, r"unknown key 'ruls'. Did you mean 'rules'\?"),
        ({"rules": [{**RULE, "tear": "critical"}]}, r"unknown key 'rules.0.tear'. Did you mean 'tier'\?"),
        ({"rules": [{**RULE, "margin": {"std": 1}}]}, r"unknown key 'rules.0.margin.std'"),
        ({"rules": [{"kinds": ["reward"]}]}, r"has no 'rules.0.margin'"),
        ({"rules": [{"margin": {"sd": 1}}]}, "names scorers, kinds, or both"),
        ({"rules": [{**RULE, "margin": {"sd": 1, "absolute": 1}}]}, "either absolute or in sd"),
        ({"rules": [{**RULE, "margin": {"sd": -1}}]}, "rules.0.margin.sd is -1"),
        ({"rules": [{**RULE, "kinds": ["rewards"]}]}, "rules.0.kinds.0 is 'rewards'"),
        ({"confidence": 0.3}, "confidence is 0.3"),
        ({"coverage": 0}, "coverage is 0"),
        ({"least_prompts": 1}, "least_prompts is 1"),
    ],
)
def test_what_is_wrong_is_named(content: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make_policy(content)


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", "just words"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"policy .*p\.yaml"):
        read_policy(tmp_path / "p.yaml")
