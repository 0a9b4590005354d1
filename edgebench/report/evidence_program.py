"""Evidence of what really ran: providers, operators, integers, and whether their answers are right.

Source of the words: `edgebench.agent.evidence`, docs/runtimes.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgebench.agent.evidence import SATURATED_DB
from edgebench.report import format as fmt
from edgebench.report.facts import (
    Fact,
    Section,
    Table,
    Told,
    amount,
    amounts,
    count,
    listed,
    mapping,
    text,
    texts,
    whole,
)

_MOST_KINDS = 4


def program_section(told: Told) -> Section:
    """What ran where, and in which numbers."""
    facts = []
    providers = told.take("providers", texts)
    if providers:
        facts.append(Fact("provider", listed(providers)))
    seen = told.inside("inspection")
    problem = seen.take("problem", text)
    if problem:
        facts.append(Fact("operators", f"could not be looked at: {problem}", doubtful=True))
    nodes = seen.take("nodes", _nodes)
    integer = seen.take("integer_operators", amounts)
    tables = []
    if nodes is not None:
        facts.append(Fact("operators", _placement(nodes)))
        facts.append(Fact("integers", _integers(nodes, integer or {})))
        if sum(map(len, nodes.values())) > _MOST_KINDS:
            tables.append(_operators(nodes, integer or {}))
    session = seen.inside("optimised_vs_unoptimised")
    if session.left:
        facts.append(_plain_session(session))
        facts += session.rest()
    notes = seen.take("notes", texts) or []
    facts += [Fact("to know", note, doubtful=True) for note in notes]
    return Section("What ran", (*facts, *seen.rest()), tuple(tables))


def integers_of(evidence: Mapping[str, Any]) -> str:
    """How many operators computed in integers: `20 of 24`, `none`, or a dash."""
    seen = mapping(evidence.get("inspection"))
    nodes = _nodes(seen.get("nodes"))
    if not nodes or not _total(nodes):
        return fmt.MISSING
    integer = sum((amounts(seen.get("integer_operators")) or {}).values())
    return f"{whole(integer)} of {whole(_total(nodes))}" if integer else "none"


def plain_session_of(evidence: Mapping[str, Any]) -> str:
    """How near the optimised session's answers are to the plain one's: `35.1 dB`, or a word."""
    session = mapping(mapping(evidence.get("inspection")).get("optimised_vs_unoptimised"))
    ratio = amount(session.get("sqnr_db"))
    if ratio is not None:
        return f"{fmt.point('sqnr_db', ratio)}{', saturates' if ratio < SATURATED_DB else ''}"
    return "identical" if amount(session.get("max_abs_difference")) == 0 else fmt.MISSING


def _nodes(value: object) -> dict[str, dict[str, float]] | None:
    """{provider: {operator: number}}, or None where it is nothing of the kind."""
    if not isinstance(value, Mapping):
        return None
    found = {fmt.plain(provider): amounts(names) for provider, names in value.items()}
    known = {provider: names for provider, names in found.items() if names is not None}
    return known if len(known) == len(found) else None


def _total(nodes: dict[str, dict[str, float]]) -> float:
    return sum(sum(names.values()) for names in nodes.values())


def _placement(nodes: dict[str, dict[str, float]]) -> str:
    if not _total(nodes):
        return "none ran: the whole model was folded into constants"
    parts = []
    for provider, names in sorted(nodes.items()):
        most = [f"{n} {whole(c)}" for n, c in _most(names)]
        parts.append(f"{whole(sum(names.values()))} on {provider} ({listed(most, 4)})")
    return "; ".join(parts)


def _integers(nodes: dict[str, dict[str, float]], integer: dict[str, float]) -> str:
    of, ran = _total(nodes), sum(integer.values())
    if not of:
        return "there was nothing to compute"
    if not ran:
        return f"none of {count(of, 'operator')} ran as integers"
    names = listed([f"{name} {whole(n)}" for name, n in _most(integer)], 4)
    return (
        f"{whole(ran)} of {count(of, 'operator')} ran as integers ({names}); "
        "the others compute in floats, convert, compare or move numbers"
    )


def _operators(nodes: dict[str, dict[str, float]], integer: dict[str, float]) -> Table:
    body = [
        (name, provider, whole(n), "yes" if name in integer else "no")
        for provider, names in sorted(nodes.items())
        for name, n in _most(names)
    ]
    return Table("Operators that ran", ("Operator", "On", "How many", "Integers"), tuple(body))


def _most(names: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(names.items(), key=lambda item: (-item[1], item[0]))


def _plain_session(session: Told) -> Fact:
    """Whether the session that was timed answers as one without optimisations does."""
    ratio, n = session.take("sqnr_db", amount), session.take("n", amount)
    largest = session.take("max_abs_difference", amount)
    changed = session.take("changed_predictions", amount)
    examples = f"on {count(n, 'example')}" if n is not None else ""
    if ratio is None and largest == 0:
        said = f"the optimised session answers exactly as the plain one does {examples}"
        return Fact("optimisations", said.strip())
    if ratio is None:
        return Fact("optimisations", "it is not known how far they move the answers")
    details = [f"{fmt.point('sqnr_db', ratio)} of signal over difference {examples}".strip()]
    if changed is not None:
        details.append(
            "no prediction is another" if not changed else
            f"{count(changed, 'prediction is another', 'predictions are others')}"
        )  # fmt: skip
    if largest is not None:
        details.append(f"largest difference {fmt.number(largest)}")
    saturated = ratio < SATURATED_DB
    said = "otherwise than the plain one: int8 saturates, or the runtime computes in other numbers"
    return Fact(
        "optimisations",
        f"the optimised session answers {said if saturated else 'as the plain one does'} "
        f"({', '.join(details)}; healthy: over {SATURATED_DB:.0f} dB)",
        doubtful=saturated,
    )
