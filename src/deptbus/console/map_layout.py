"""Where everything stands on the map: territories are rows, lines of work are columns. Pure.

So a horizontal flow is drawn sideways, an upward one upwards and a downward one downwards: the
picture is the county's own (lines and blocks). Rows go by code, which is the order of the division
tree, and are indented by their depth; territories and lines without a unit are left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from deptbus.console.snapshot import Snapshot
from deptbus.console.words import Words
from deptbus.contract.model import Contract, Unit
from deptbus.contract.territory import parent_of
from deptbus.operations.lag_report import is_bad
from deptbus.operations.stages import BUS, StageReport

LEFT, TOP = 176, 56  # of the first column, of the first row
COLUMN, ROW = 150, 60  # from one to the next
WIDE, HIGH = 136, 40  # of a unit's box
_INDENT = 14
_BOX_LETTERS = 17.0  # of Latin letters; a Chinese one counts 1.75
_DIRECTIONS = ("horizontal", "upward", "downward", "return", "granted")


@dataclass(frozen=True, slots=True)
class Node:
    unit: str
    title: str
    lines: tuple[str, ...]  # the title, cut to the box
    x: int  # of its middle
    y: int
    state: str  # ok, busy, bad, unknown, absent, closed
    report: StageReport | None


@dataclass(frozen=True, slots=True)
class Edge:
    """What flowed in the last minute from one unit to another in one direction."""

    source: str
    recipient: str
    direction: str
    datasets: tuple[str, ...]
    count: int
    path: str  # of SVG
    width: float


@dataclass(frozen=True, slots=True)
class Row:
    code: str
    name: str
    y: int
    indent: int


@dataclass(frozen=True, slots=True)
class Column:
    line: str
    title: str
    lines: tuple[str, ...]
    x: int


@dataclass(frozen=True, slots=True)
class Map:
    width: int
    height: int
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    bus: StageReport | None  # routing, which serves everybody


def lay_out(contract: Contract, snapshot: Snapshot, words: Words, *, only: str = "") -> Map:
    """`only`: a unit; of the others those are shown that exchanged something with it."""
    units = _shown(contract, snapshot, only)
    codes = sorted({unit.territory for unit in units})
    lines = [name for name in contract.lines if any(u.line == name for u in units)]
    said = {r.unit: r for r in snapshot.lag.units} if snapshot.lag is not None else {}
    ys = {code: TOP + number * ROW + ROW // 2 for number, code in enumerate(codes)}
    xs = {line: LEFT + number * COLUMN + COLUMN // 2 for number, line in enumerate(lines)}
    nodes = tuple(
        Node(
            unit.unit,
            words.title(unit),
            wrapped(words.title(unit)),
            xs[unit.line],
            ys[unit.territory],
            state_of(said.get(unit.unit)),
            said.get(unit.unit),
        )
        for unit in units
    )
    return Map(
        LEFT + len(lines) * COLUMN + 16,
        TOP + len(codes) * ROW + 12,
        tuple(
            Row(code, contract.territories[code], ys[code], _depth(code, codes) * _INDENT)
            for code in codes
        ),
        tuple(_column(name, words.title(contract.lines[name]), xs[name]) for name in lines),
        nodes,
        _edges(snapshot, {node.unit: (node.x, node.y) for node in nodes}),
        said.get(BUS),
    )


def _column(line: str, title: str, x: int) -> Column:
    return Column(line, title, wrapped(title), x)


def _shown(contract: Contract, snapshot: Snapshot, only: str) -> Sequence[Unit]:
    if not only:
        return contract.units
    partners = {only} | {f.source for f in snapshot.flows} | {f.recipient for f in snapshot.flows}
    return [unit for unit in contract.units if unit.unit in partners]


def state_of(report: StageReport | None) -> str:
    """How a unit is marked. `absent`: it never began, which is no fault of the bus."""
    if report is None:
        return "quiet"
    if report.closed_until is not None:
        return "closed"
    if report.verdict is None:
        return "unknown"
    if is_bad(report.verdict):
        return "bad" if report.has_lived else "absent"
    return "ok" if report.verdict == "OK" else "busy"


def _depth(code: str, shown: Sequence[str]) -> int:
    known, depth, parent = set(shown), 0, parent_of(code)
    while parent is not None:
        depth += parent in known
        parent = parent_of(parent)
    return depth


def _edges(snapshot: Snapshot, at: dict[str, tuple[int, int]]) -> tuple[Edge, ...]:
    counts: dict[tuple[str, str, str], int] = defaultdict(int)
    datasets: dict[tuple[str, str, str], dict[str, None]] = defaultdict(dict)
    for flow in snapshot.flows:
        if flow.source in at and flow.recipient in at:
            which = flow.source, flow.recipient, flow.direction
            counts[which] += flow.count
            datasets[which][flow.dataset] = None
    return tuple(
        Edge(
            source,
            recipient,
            direction,
            tuple(datasets[source, recipient, direction]),
            count,
            path(at[source], at[recipient], _DIRECTIONS.index(direction)),
            min(5.0, 1.25 + len(str(count)) * 0.6),
        )
        for (source, recipient, direction), count in sorted(counts.items())
        if direction in _DIRECTIONS
    )


def path(start: tuple[int, int], end: tuple[int, int], lane: int = 0) -> str:
    """A curve from box to box that passes beside what lies between. `lane`: so that two directions
    between the same boxes do not lie on each other."""
    (x1, y1), (x2, y2) = start, end
    aside = 6 * lane - 12
    if y1 == y2:  # sideways, through the gap above the row
        lift = y1 - HIGH // 2 - 10 - min(18, abs(x2 - x1) // 40)
        return f"M{x1} {y1 - HIGH // 2} C{x1} {lift} {x2} {lift} {x2} {y2 - HIGH // 2}"
    leave = y1 + (HIGH // 2 if y2 > y1 else -HIGH // 2)
    arrive = y2 + (-HIGH // 2 if y2 > y1 else HIGH // 2)
    if x1 == x2:  # along the column, through the gap beside it
        side = x1 + WIDE // 2 + 4 + min(20, abs(y2 - y1) // 24) + aside // 4
        if abs(y2 - y1) <= ROW:
            return f"M{x1 + aside} {leave} L{x2 + aside} {arrive}"
        edge = x1 + WIDE // 2
        return f"M{edge} {y1} C{side + 12} {y1} {side + 12} {y2} {edge} {y2}"
    edge = x2 + (WIDE // 2 if x2 < x1 else -WIDE // 2)  # from the side: what lies in its column
    near = edge + (40 if x2 < x1 else -40)
    y2 += aside // 2
    return f"M{x1 + aside} {leave} C{x1 + aside} {(leave + y2) // 2} {near} {y2} {edge} {y2}"


def wrapped(title: str) -> tuple[str, ...]:
    """At most two lines that fit into a box; what is cut off stands in its title."""
    lines, line, room = [], "", _BOX_LETTERS
    for piece in _pieces(title):
        width = sum(1.75 if ord(letter) > 0x2E80 else 1.0 for letter in piece)
        if width > room and line.strip():
            lines.append(line.strip())
            line, room = "", _BOX_LETTERS
        line, room = line + piece, room - width
    lines.append(line.strip())
    if len(lines) > 2:
        return lines[0], lines[1][:-1] + "…"
    return tuple(lines)


def _pieces(title: str) -> list[str]:
    """Where a line may break: after each word, and after each Chinese letter."""
    pieces, word = [], ""
    for letter in title:
        if ord(letter) > 0x2E80:
            pieces += [word, letter] if word else [letter]
            word = ""
        else:
            word += letter
            if letter == " ":
                pieces.append(word)
                word = ""
    return [*pieces, word] if word else pieces
