"""Where things stand on the map, and how many wait for the next picture: pure."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from typing import Any

import pytest
from console_world import (
    HOUSING,
    NOW,
    POLICE,
    World,
    case,
    console_world,
    contract,
    lag_report,
    snapshot,
    stage,
)

from deptbus.console.map_layout import COLUMN, HIGH, ROW, WIDE, lay_out, path, state_of, wrapped
from deptbus.console.roles import Role
from deptbus.console.show import well
from deptbus.console.snapshot import Board, Snapshot
from deptbus.console.words import LANGUAGES, Words
from deptbus.operations.picture import Flow
from deptbus.operations.stages import Stage, StageReport
from deptbus.operations.verdicts import Verdict


class TestLayout:
    def test_territories_are_rows_and_lines_are_columns(self) -> None:
        drawn = lay_out(contract(), snapshot(), Words("en"))
        at = {node.unit: (node.x, node.y) for node in drawn.nodes}
        assert len(set(at.values())) == len(at) == len(contract().units)
        for unit in contract().units:
            x, y = at[unit.unit]
            assert next(c.x for c in drawn.columns if c.line == unit.line) == x
            assert next(r.y for r in drawn.rows if r.code == unit.territory) == y
        codes = [row.code for row in drawn.rows]
        assert codes == sorted(codes)  # the order of the tree: a parent before its parts
        assert [row.y for row in drawn.rows] == sorted(row.y for row in drawn.rows)

    def test_no_two_boxes_touch(self) -> None:
        assert COLUMN > WIDE
        assert ROW > HIGH

    def test_a_flow_runs_as_its_direction_says(self) -> None:
        drawn = lay_out(contract(), snapshot(), Words("en"))
        at = {node.unit: (node.x, node.y) for node in drawn.nodes}
        ways = {edge.direction: edge for edge in drawn.edges}
        assert set(ways) == {"horizontal", "upward", "downward", "return", "granted"}
        sideways, up, down = ways["horizontal"], ways["upward"], ways["downward"]
        assert at[sideways.source][1] == at[sideways.recipient][1]
        assert at[up.source][0] == at[up.recipient][0]
        assert at[up.recipient][1] < at[up.source][1]
        assert at[down.recipient][1] > at[down.source][1]

    def test_flows_of_one_kind_are_one_line(self) -> None:
        flows = [
            Flow(POLICE, HOUSING, name, "horizontal", 2, NOW) for name in ("resident", "household")
        ]
        world = console_world()
        world.change(flows=tuple(flows * 3))
        (edge,) = lay_out(contract(), world.console.board.snapshot, Words("en")).edges
        assert edge.count == 12
        assert edge.datasets == ("resident", "household")

    def test_what_names_no_unit_of_the_contract_is_not_drawn(self) -> None:
        world = console_world()
        world.change(flows=(Flow("gone@33", HOUSING, "resident", "upward", 1, NOW),))
        assert lay_out(contract(), world.console.board.snapshot, Words("en")).edges == ()

    @pytest.mark.parametrize("end", [(0, 100), (300, 0), (300, 100), (300, -100), (0, -500)])
    def test_a_path_begins_and_ends_at_its_boxes(self, end: tuple[int, int]) -> None:
        numbers = [int(n) for n in re.findall(r"-?\d+", path((0, 0), end))]
        assert abs(numbers[0]) <= WIDE // 2
        assert abs(numbers[1]) <= HIGH // 2
        assert abs(numbers[-2] - end[0]) <= WIDE // 2
        assert abs(numbers[-1] - end[1]) <= HIGH // 2

    @pytest.mark.parametrize("language", LANGUAGES)
    def test_a_title_has_two_lines_at_the_most(self, language: str) -> None:
        words = Words(language)
        for unit in contract().units:
            lines = wrapped(words.title(unit))
            assert 1 <= len(lines) <= 2
            assert "".join(lines).rstrip("…").replace(" ", "") in words.title(unit).replace(" ", "")
        assert wrapped("x" * 80)[-1]


class TestStates:
    @pytest.mark.parametrize(
        ("verdict", "more", "state"),
        [
            (Verdict.OK, {}, "ok"),
            (Verdict.OK, {"closed_until": NOW}, "closed"),
            (Verdict.CATCHING_UP, {}, "busy"),
            (None, {}, "unknown"),
            (Verdict.STOPPED, {"has_lived": False}, "absent"),
            *((v, {}, "bad") for v in Verdict if v.needs_a_person),
        ],
    )
    def test_each_has_its_mark(self, verdict: Verdict | None, more: dict, state: str) -> None:
        assert state_of(stage(HOUSING, Stage.APPLY, verdict, **more)) == state

    def test_nothing_known_is_not_well(self) -> None:
        assert state_of(None) == "quiet"
        assert well(Snapshot()) == "unknown"

    def test_the_word_of_the_whole_bus_is_that_of_status(self) -> None:
        fine = stage(HOUSING, Stage.APPLY, Verdict.OK)
        dark = stage(POLICE, Stage.APPLY, None)
        bad = stage(POLICE, Stage.APPLY, Verdict.LOST)
        absent = stage(POLICE, Stage.APPLY, Verdict.STOPPED, has_lived=False)
        holding = replace(fine, parked=2)
        calm = Snapshot(lag=lag_report(), freshness=(), cases=())

        def word(*stages: StageReport, **more: Any) -> str:
            return well(replace(calm, lag=replace(lag_report(), stages=stages), **more))

        assert word(fine) == "well"
        assert word(fine, absent) == "person"  # something waits for who never joined
        assert word(fine, dark) == "unknown"
        assert word(fine, dark, bad) == "person"
        assert word(holding) == "person"
        assert word(fine, cases=(case(HOUSING, 1),)) == "person"
        assert word(fine, cases=None) == "unknown"
        assert word(fine, freshness=None) == "unknown"


class TestBoard:
    async def test_who_follows_gets_what_is_new_and_no_more_than_the_newest(self) -> None:
        board = Board()
        seen = board.follow(60)
        assert (await anext(seen)).number == 0
        for _ in range(5):
            await board.put(trouble="x")
        assert (await anext(seen)).number == 5
        waiting = asyncio.ensure_future(anext(seen))
        await asyncio.sleep(0)
        await board.put(trouble="")
        assert (await waiting).number == 6

    async def test_something_is_said_though_nothing_is_new(self) -> None:
        seen = Board().follow(0.01)
        assert (await anext(seen)).number == (await anext(seen)).number

    async def test_all_end_when_it_is_closed(self) -> None:
        board = Board()
        seen = board.follow(60)
        await anext(seen)
        waiting = asyncio.ensure_future(anext(seen, None))
        await asyncio.sleep(0)
        await board.close()
        assert await waiting is None


class TestEvents:
    """The stream is drawn by hand: a browser of the tests waits for its end."""

    async def events(self, world: World, role: Role, *flows: Flow) -> list[tuple[str, object]]:
        from console_world import PEOPLE
        from starlette.requests import Request

        from deptbus.console import events, visit

        cookie = world.console.sessions.begin(PEOPLE[role])
        header = f"{world.console.cookie_name}={cookie}".encode()
        scope = {"type": "http", "method": "GET", "path": "/events", "query_string": b""}
        scope["headers"] = [(b"cookie", header)]
        one = visit.visit_of(world.console, Request(scope))
        stream = events._events(one)
        found = [await anext(stream)]
        board = world.console.board
        await board.put(flows=(*board.snapshot.flows, *flows))
        found.append(await anext(stream))
        if "flows" in found[-1]:
            found.append(await anext(stream))
        world.console.sessions.end(cookie)
        await board.put(trouble="x")
        found += [text async for text in stream]
        assert world.console.followers == 0
        return [_parsed(text) for text in found]

    async def test_flows_are_told_as_they_come_and_old_ones_are_not(self) -> None:
        new = Flow(POLICE, HOUSING, "resident", "horizontal", 2, NOW)
        told = await self.events(console_world(), Role.VIEWER, new)
        assert [name for name, _ in told] == ["changed", "flows", "changed", "ended"]
        assert told[1][1] == [
            {"source": POLICE, "recipient": HOUSING, "dataset": "resident",
             "direction": "horizontal", "count": 2}
        ]  # fmt: skip

    async def test_a_clerk_is_told_of_his_own_alone(self) -> None:
        other = Flow(POLICE, "health@330106", "resident", "horizontal", 2, NOW)
        told = await self.events(console_world(), Role.CLERK, other)
        assert [name for name, _ in told] == ["changed", "changed", "ended"]


def _parsed(text: str) -> tuple[str, object]:
    event, data = text.strip().split("\n")
    return event.removeprefix("event: "), json.loads(data.removeprefix("data: "))
