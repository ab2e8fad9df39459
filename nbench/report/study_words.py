"""A study's claims as Markdown, for a repository's pages, and the words that its HTML page shares."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from nbench.report.gate import escape
from nbench.report.study_facts import StudyFacts, duration
from nbench.report.study_table import words
from nbench.report.study_tables import of_effect
from nbench.study.claims.claim import Claim, Effect
from nbench.study.evidence import Evidence

#: claim -> the figures that show it, by name
FIGURES: Mapping[int, tuple[str, ...]] = {
    1: ("norms",), 4: ("steps", "steps-by-group"), 5: ("steps", "steps-by-group"), 6: ("steps-by-group",),
    7: ("steps",), 8: ("frontier",), 9: ("ratios",), 10: ("ratios",), 11: ("frontier",),
}  # fmt: skip
_FALLBACK = ("forest",)
#: claim -> a word of the commands that measured what it rests on; without one, the runs of finished checkpoints
_WORDS: Mapping[int, str] = {
    2: "rescale", 3: "adjoint", 8: "trajectory", 9: "ratios", 10: "ratios", 11: "trajectory",
}  # fmt: skip
INTRO = (
    "Every claim is tested by a rule that was fixed before the study was run. It holds, it does not hold, or the "
    "study cannot tell; an interval that is too wide for a verdict is no verdict."
)


def claims_markdown(
    evidence: Evidence, claims: Sequence[Claim], facts: StudyFacts, figures: Collection[str] = (), *, root: str = ""
) -> str:
    """A page of all claims.

    Args:
        evidence: of the study.
        claims: in order.
        facts: of how it was run.
        figures: names of those that exist.
        root: where the results lie, seen from the page: "" or a path that ends in "/".
    """
    study = evidence.plan.study
    lines = [f"# The claims: {escape(study.title or study.name)}", ""]
    if study.label:
        lines += [f"> **{escape(study.label)}**", ""]
    lines += [INTRO, "", *_command(facts)]
    lines += ["| claim | | verdict | effect (95 % interval) |", "|---:|---|---|---:|"]
    for one in claims:
        head = f"[{one.number}](#{anchor(one)}) | {escape(one.statement)}"
        lines.append(f"| {head} | **{one.verdict}** | {escape(effect_words(one.effect))} |")
    lines += _setting(facts)
    drawn: set[str] = set()
    for one in claims:
        lines += ["", *_claim(one, facts, figures, root, drawn)]
    lines += ["", "## How it was run", "", *(f"* {escape(name)}: {escape(text)}" for name, text in run_lines(facts))]
    if facts.limits:
        lines += ["", "## Limits", "", *(f"* {escape(limit)}" for limit in facts.limits)]
    return "\n".join(lines) + "\n"


def anchor(claim: Claim) -> str:
    """Where a claim stands on a page."""
    return f"claim-{claim.number}"


def effect_words(effect: Effect | None) -> str:
    """An effect with its interval and unit."""
    return "not measured" if effect is None else f"{words(of_effect(effect))} {effect.unit}".strip()


def figures_of(claim: Claim, there: Collection[str]) -> list[str]:
    """Names of the figures that show a claim, of those that exist."""
    wanted = FIGURES.get(claim.number, _FALLBACK)
    return [name for name in wanted if name in there] or [name for name in _FALLBACK if name in there]


def commands_of(claim: Claim, facts: StudyFacts) -> list[str]:
    """The commands that measured what a claim rests on, in the order they were run."""
    words_there = set(_WORDS.values())
    wanted = _WORDS.get(claim.number)
    mine = [one.command for one in facts.done if one.stage in ("evaluate", "analyze")]
    if wanted is not None:
        return [command for command in mine if wanted in command]
    return [command for command in mine if not any(word in command for word in words_there)]


def sizes(effect: Effect) -> str:
    """What an effect rests on."""
    one = effect.trainings == 1
    trainings = "one training or pair of them" if one else f"{effect.trainings} trainings or pairs of them"
    return f"{trainings}, {effect.prompts} prompts"


def run_lines(facts: StudyFacts) -> list[tuple[str, str]]:
    """How a study was run, name and text of each."""
    spent = facts.seconds()
    total = [("in all", duration(sum(spent.values())))] if len(spent) > 1 else []
    times = [(f"time, {stage}", duration(seconds)) for stage, seconds in spent.items()]
    found = [
        ("command", facts.command),
        ("nbench", facts.nbench),
        ("machine", facts.machine),
        ("libraries", ", ".join(f"{name} {version}" for name, version in facts.versions.items())),
        *times,
        *((f"time, {name}", text) for name, text in total),
    ]
    return [(name, text) for name, text in found if text]


def _command(facts: StudyFacts) -> list[str]:
    return (
        [
            "Everything below comes from one command, which runs the commands that each claim names:",
            "",
            "```",
            facts.command,
            "```",
            "",
        ]
        if facts.command
        else []
    )


def _setting(facts: StudyFacts) -> list[str]:
    if not facts.notes:
        return []
    return ["", "## How the setting differs from the papers'", "", *"\n\n".join(map(escape, facts.notes)).split("\n")]


def _claim(one: Claim, facts: StudyFacts, figures: Collection[str], root: str, drawn: set[str]) -> list[str]:
    """Its figures are drawn where they come first, and linked after that; `drawn` has those that were."""
    lines = [f'<a id="{anchor(one)}"></a>', "", f"## {one.number}. {escape(one.statement)}", ""]
    lines += [f"**{one.verdict.capitalize()}.** {escape(one.summary)}".rstrip(), ""]
    lines.append(f"* effect: {escape(effect_words(one.effect))}" + (f" ({sizes(one.effect)})" if one.effect else ""))
    lines.append(f"* rule: {escape(one.rule)}")
    lines.append(f"* source: {escape(one.source)}")
    named = figures_of(one, figures)
    if named:
        lines.append(f"* figure: {', '.join(f'[{name}]({root}figures/{name}.svg)' for name in named)}")
    commands = [command for command in commands_of(one, facts) if "`" not in command]
    if commands:
        more = f" and {len(commands) - 1} more like it" if len(commands) > 1 else ""
        lines.append(f"* command: `{' '.join(commands[0].split())}`{more}")
    lines += [f"* caveat: {escape(caveat)}" for caveat in one.caveats]
    lines += [f"* not run: {escape(missing)}" for missing in one.missing]
    for name in named:
        if name not in drawn:
            drawn.add(name)
            lines += ["", f"![{name}]({root}figures/{name}.svg)"]
    if one.parts:
        lines += ["", "| part | verdict | effect (95 % interval) |", "|---|---|---:|"]
        for part in one.parts:
            lines.append(f"| {escape(part.name)} | {part.verdict} | {escape(effect_words(part.effect))} |")
    return lines
