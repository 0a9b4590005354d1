"""Evidence of what the device did while it was measured, and of the energy it took."""

from __future__ import annotations

from collections.abc import Mapping

from edgebench.report import format as fmt
from edgebench.report.facts import (
    Fact,
    Section,
    Table,
    Told,
    amount,
    amounts,
    count,
    flag,
    listed,
    mapping,
    rows,
    share,
    text,
    texts,
    title,
    whole,
)

# What the agent takes for a spoilt measurement is smaller; these only mark what is worth a look.
_OTHERS = 0.10
_STOLEN = 0.01

_CARD = {
    "graphics_mhz": "Graphics, MHz",
    "memory_mhz": "Memory, MHz",
    "temperature_c": "°C",
    "power_w": "W",
    "slowed_by": "Slowed by",
}


def device_sections(told: Told) -> list[Section]:
    """What happened to the device meanwhile; and the energy of a query, where it was asked for."""
    sections = []
    seen = told.inside("watch")
    if seen.left:
        facts = [*_slowed(seen), *_clocks(seen), *_neighbours(seen), *_memory(seen)]
        cards, tables = _cards(seen.inside("nvidia"))
        facts += cards
        seconds = seen.take("seconds", amount)
        during = "" if seconds is None else f", in {fmt.duration(seconds)}"
        facts += seen.rest()
        sections.append(Section(f"The device meanwhile{during}", tuple(facts), tuple(tables)))
    elif (slowed := told.take("throttle_events", amount)) is not None:
        sections.append(Section("The device meanwhile", (_throttled(slowed, {}),)))
    energy = told.inside("energy")
    if energy.left:
        sections.append(_energy(energy))
    return sections


def _throttled(slowed: float, causes: Mapping[str, float]) -> Fact:
    why = f" ({', '.join(causes)})" if causes else ""
    said = f"{count(slowed, 'time')}{why}" if slowed else "not once, as far as it counts that"
    return Fact("slowed itself down", said, slowed > 0)


def _slowed(seen: Told) -> list[Fact]:
    facts = []
    slowed = seen.take("throttle_events", amount)
    causes = seen.take("throttle_causes", amounts) or {}
    if slowed is not None:
        facts.append(_throttled(slowed, causes))
    now = seen.take("throttled_now", texts)
    if now:
        facts.append(Fact("slowed down at the end", listed(now), doubtful=True))
    group = seen.inside("cgroup")
    stopped, periods = group.take("throttled", amount), group.take("periods", amount)
    part = group.take("share", amount)
    group.take("throttled_ms", amount)
    if stopped is not None and periods is not None:
        time = "" if part is None else f", {share(part)} of the time"
        facts.append(
            Fact(
                "control group",
                f"stopped in {whole(stopped)} of {count(periods, 'period')}{time}"
                if stopped
                else "never stopped it",
                stopped > 0,
            )
        )
    return [*facts, *group.rest()]


def _clocks(seen: Told) -> list[Fact]:
    facts = []
    clocks = seen.take("frequency_khz", _frequencies)
    if clocks is not None:
        facts.append(clocks)
    heat = seen.take("temperature_c", lambda value: _before_after(value, 0, " °C"))
    if heat is not None:
        facts.append(Fact("temperature", heat))
    changed = seen.take("settings_changed", flag)
    if changed is not None:
        said = "changed meanwhile" if changed else "as they were"
        facts.append(Fact("settings of the clocks", said, changed))
    return facts


def _neighbours(seen: Told) -> list[Fact]:
    facts = []
    others = seen.take("others_share", amount)
    if others is not None:
        said = f"used {share(others)} of the processors' time"
        facts.append(Fact("other programs", said, others > _OTHERS))
    stolen = seen.take("stolen_share", amount)
    if stolen is not None:
        facts.append(Fact("its host", f"took {share(stolen)} of the time", stolen > _STOLEN))
    load = seen.take("load_1min", lambda value: _before_after(value, 2))
    if load is not None:
        facts.append(Fact("load over a minute", load))
    return facts


def _memory(seen: Told) -> list[Fact]:
    facts = []
    pages = seen.take("swapped_pages", amounts)
    if pages is not None:
        moved = sum(pages.values())
        facts.append(Fact("swapped", count(moved, "page") if moved else "nothing", moved > 0))
    killed = seen.take("killed_for_memory", amount)
    if killed:
        said = f"{count(killed, 'process', 'processes')} by the kernel, for want of memory"
        facts.append(Fact("killed", said, doubtful=True))
    return facts


def _cards(seen: Told) -> tuple[list[Fact], list[Table]]:
    if not seen.left:
        return [], []
    facts = []
    slowed = seen.take("slowed_share", amounts)
    if slowed is not None:
        causes = [f"{share(part)} of the time ({cause})" for cause, part in slowed.items() if part]
        facts.append(Fact("card slowed down", listed(causes) or "never", bool(causes)))
    before, after = seen.take("before", rows), seen.take("after", rows)
    tables = []
    if before is not None and after is not None:
        keys = list(dict.fromkeys(str(key) for row in (*before, *after) for key in row))
        body = [
            (f"{number} {when}", *(fmt.plain(row.get(key)) for key in keys))
            for number, states in enumerate(zip(before, after, strict=False))
            for when, row in zip(("before", "after"), states, strict=True)
        ]
        head = ("Card", *(_CARD.get(key) or title(key) for key in keys))
        tables.append(Table("The cards", head, tuple(body)))
    return [*facts, *seen.rest()], tables


def _energy(energy: Told) -> Section:
    """The energy of a query, and what a reader must know to believe it."""
    problem = energy.take("problem", text)
    if problem is not None:
        fact = Fact("energy", f"not measured: {problem}", doubtful=True)
        return Section("Energy", (fact, *energy.rest()))
    each, queries = energy.take("energy_mj", amount), energy.take("queries", amount)
    windows = {name: energy.inside(name) for name in ("run", "idle")}
    facts = []
    problems = []
    for name, window in windows.items():
        watts, seconds = window.take("watts", amount), window.take("seconds", amount)
        window.take("joules", amount)
        wrong = window.take("problem", text)
        if wrong:
            problems.append(wrong)
        if watts is not None and seconds is not None:
            called = {"run": "while it ran", "idle": "idle"}[name]
            said = f"{fmt.number(watts)} W over {fmt.duration(seconds)}"
            facts.append(Fact(called, said + (f": {wrong}" if wrong else ""), bool(wrong)))
    run = windows["run"]
    sensor, scope = run.take("sensor", text), run.take("scope", text)
    rate, kind = run.take("rate_hz", amount), run.take("kind", text)
    if sensor:
        rest = ", ".join(part for part in (scope, kind) if part)
        often = "" if rate is None else f", new or read {fmt.number(rate)} times a second"
        facts.append(Fact("sensor", f"{sensor}{f' ({rest})' if rest else ''}{often}"))
    for key in ("sensor", "scope", "rate_hz", "kind"):
        windows["idle"].left.pop(key, None)
    if each is not None:
        over = "" if queries is None else f", over {count(queries, 'query', 'queries')}"
        said = f"{fmt.number(each)} mJ beyond the idle device{over}"
        facts.insert(0, Fact("a query", said, each <= 0))
    elif problems or facts:
        facts.insert(0, Fact("a query", "its energy could not be told", doubtful=True))
    return Section("Energy", (*facts, *run.rest(), *windows["idle"].rest(), *energy.rest()))


def _frequencies(value: object) -> Fact | None:
    """The clocks before and after, of one processor or from the slowest to the fastest."""
    found = mapping(value)
    before, after = amounts(found.get("before")), amounts(found.get("after"))
    if before is None or after is None:
        return None
    if not before or not after:
        return Fact("clock", "cannot be read here")
    said = f"{_megahertz(before)} MHz before, {_megahertz(after)} MHz after"
    return Fact("clock", said)


def _megahertz(clocks: Mapping[str, float]) -> str:
    ends = [whole(khz / 1000) for khz in (min(clocks.values()), max(clocks.values()))]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def _before_after(value: object, decimals: int, unit: str = "") -> str | None:
    """`41 °C before, 45 °C after`; None where it is nothing of the kind."""
    if not isinstance(value, Mapping) or not {"before", "after"} <= set(value):
        return None
    if value["before"] is None and value["after"] is None:
        return "cannot be read here"
    ends = [amount(value[key]) for key in ("before", "after")]
    known = [f"{end:,.{decimals}f}{unit}".replace("-", "−") for end in ends if end is not None]
    return f"{known[0]} before, {known[1]} after" if len(known) == 2 else None
