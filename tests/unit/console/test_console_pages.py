"""Every page in both languages for every role: it is drawn, whole, and in that language alone."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import pytest
from console_world import (
    HEALTH,
    HOUSING,
    KEY,
    NATURAL,
    POLICE,
    World,
    case,
    console_world,
    lag_report,
    plan,
    snapshot,
    stage,
)

from deptbus.console.app import routes_of
from deptbus.console.roles import Role
from deptbus.console.snapshot import Snapshot
from deptbus.console.words import LANGUAGES, catalogue
from deptbus.operations.proposal_desk import RepairTerms
from deptbus.operations.stages import Stage
from deptbus.operations.verdicts import Verdict

PAGES = {
    "map": "/",
    "units": "/units",
    "unit": f"/units/{HOUSING}",
    "datasets": "/datasets",
    "dataset": "/datasets/housing_unit",
    "lag": "/lag",
    "quarantine": "/quarantine",
    "case": "/quarantine/out.housing-330106/0/2",
    "saved": "/saved",
    "holds": "/holds",
    "proof": "/proof",
    "jobs": "/jobs",
    "differences": f"/proof/differences?unit={HEALTH}&dataset=resident&leg=copy",
    "find": "/find",
    "alarms": "/alarms",
    "audit": "/audit",
}
REFUSED = {
    Role.VIEWER: {"find", "audit"},
    Role.OPERATOR: {"audit"},
    Role.CLERK: {"audit", "differences"},  # another unit's
    Role.AUDITOR: set(),
}


@pytest.fixture
def world() -> World:
    return console_world()


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("page", PAGES)
def test_is_drawn_for_whom_it_is(world: World, page: str, role: Role, language: str) -> None:
    answer = world.of(role, language=language).get(PAGES[page])
    if page in REFUSED[role]:
        assert answer.status_code in (403, 404)
        return
    assert answer.status_code == 200
    assert f'data-page="{page}"' in answer.text
    checked = Checked()
    checked.feed(answer.text)
    assert checked.problems == []
    assert checked.language == {"en": "en", "zh": "zh-CN"}[language]


@pytest.mark.parametrize("page", PAGES)
def test_says_no_more_than_that_nothing_is_known_yet(page: str) -> None:
    empty = console_world(now_snapshot=Snapshot())
    answer = empty.of(Role.OPERATOR).get(PAGES[page])
    assert answer.status_code == (404 if page in ("unit", "dataset", "case", "differences") else
                                  403 if page == "audit" else 200)  # fmt: skip


@pytest.mark.parametrize("theme", ["auto", "light", "dark"])
def test_has_the_theme_that_was_chosen(world: World, theme: str) -> None:
    assert f'data-theme="{theme}"' in world.of(Role.VIEWER, theme=theme).get("/").text


@pytest.mark.parametrize("page", PAGES)
def test_is_chinese_where_it_is_asked_to_be(world: World, page: str) -> None:
    """No English word of the catalogue stands on a Chinese page where its Chinese one differs."""
    role = Role.AUDITOR if page == "audit" else Role.OPERATOR
    answer = world.of(role, language="zh").get(PAGES[page])
    shown = Shown()
    shown.feed(answer.text)
    english = {en for en, zh in catalogue().values() if en != zh and " " in en and "{" not in en}
    assert english & set(shown.texts) == set()


def test_shows_where_something_stands_and_what_to_do(world: World) -> None:
    page = world.of(Role.VIEWER).get("/").text
    assert f'data-red="{HOUSING}"' in page
    assert "Start the adapter at housing@330106" in page
    assert re.search(rf'data-unit="{HOUSING}" data-state="bad"', page)
    assert re.search(rf'data-unit="{HEALTH}" data-state="closed"', page)
    assert 'data-red="human_resources@330106"' not in page  # it never began: told apart
    assert page.count("data-flow ") == 5


def test_tells_that_the_bus_is_away_and_of_when_its_picture_is(world: World) -> None:
    world.change(trouble="no broker answers")
    page = world.of(Role.VIEWER).get("/lag").text
    assert 'id="trouble"' in page
    assert "no broker answers" in page
    assert "The bus does not answer" in page


def test_says_of_a_unit_what_it_does_not_receive_and_why(world: World) -> None:
    page = world.of(Role.VIEWER).get(f"/units/{HOUSING}").text
    assert re.search(r'data-dataset="resident" data-why="not_shared"', page)
    page = world.of(Role.VIEWER).get(f"/units/{HEALTH}").text
    assert 'data-why="held"' in page


def test_says_of_each_copy_what_its_last_proof_came_to_and_how_old_it_is(world: World) -> None:
    page = world.of(Role.VIEWER).get("/proof").text
    found = re.findall(r'id="proof-([^"]+)" data-proof="(\w+)"', page)
    assert (f"{HEALTH}-resident-copy", "different") == found[0]  # what needs a person comes first
    assert (f"{HOUSING}-resident-copy", "equal") in found
    assert "3 stale" in page
    assert "2 h ago" in page
    bad = world.of(Role.VIEWER).get("/proof?bad=1").text
    assert set(re.findall(r'data-proof="(\w+)"', bad)) == {"different"}
    clerk = world.of(Role.CLERK).get("/proof").text
    assert {unit for unit, _ in re.findall(r'id="proof-([^-]+)-([^"]+)"', clerk)} == {HOUSING}


def test_says_of_each_order_how_far_it_is(world: World) -> None:
    page = world.of(Role.VIEWER).get("/jobs").text
    assert page.count('data-job="') == 2
    assert "1,203 of 5,000 keys" in page
    assert 'action="/jobs/' not in page  # who changes nothing is offered nothing
    assert world.of(Role.CLERK).get("/jobs").text.count('data-job="') == 1
    assert world.of(Role.OPERATOR).get("/jobs").text.count('action="/jobs/steer"') == 2


def test_a_proposal_is_offered_to_another_person_to_be_confirmed(world: World) -> None:
    page = world.of(Role.OPERATOR).get("/jobs").text
    cards = dict(re.findall(r'<article[^>]*id="proposal-([^"]+)"(.*?)</article>', page, re.S))
    assert set(cards) == {"replay-9", "mend-8"}
    assert 'value="confirmed"' in cards["replay-9"]
    assert "Would send 8 deliveries" in cards["replay-9"]
    assert "phone" in cards["replay-9"]  # what today's rights withhold
    assert 'value="confirmed"' not in cards["mend-8"], "olga has proposed it"
    assert 'value="declined"' in cards["mend-8"]
    assert "Removes up to 2 extra rows" in cards["mend-8"]
    assert re.search(r'<tr id="proposal-mend-7" data-proposal="done">', page)
    assert 'value="confirmed"' not in world.of(Role.VIEWER).get("/jobs").text


def test_planted_bug_whoever_proposed_is_offered_to_confirm(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(world.console.pages.globals, "may_confirm", lambda proposal, person: True)
    with pytest.raises(AssertionError, match="olga has proposed it"):
        test_a_proposal_is_offered_to_another_person_to_be_confirmed(world)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_plan_is_shown_before_it_is_applied(world: World, language: str) -> None:
    browser = world.of(Role.OPERATOR, language=language)
    form = {"unit": HOUSING, "from": "2027-01-01T08:00", "reason": "their disk failed"}
    answer = world.post(browser, "/jobs/plan", **form)
    assert answer.status_code == 200
    checked = Checked()
    checked.feed(answer.text)
    assert checked.problems == []
    assert 'data-page="plan"' in answer.text
    found = re.search(r'name="plan" value="([^"]+)"', answer.text)
    assert found is not None
    text = unescape(found[1])
    assert world.post(browser, "/jobs/propose", plan=text).headers["location"] == (
        "/jobs?done=propose"
    )
    job = plan().job
    assert [done[0] for done in world.desk.done] == ["plan", "propose_replay"]
    assert world.desk.done[1][1:] == (job, "olga")
    changed = world.post(browser, "/jobs/propose", plan=text.replace("resident", "household"))
    assert changed.status_code == 409
    assert "was changed since it was made" in changed.text
    assert len(world.desk.done) == 2


@pytest.mark.parametrize("form", [{}, {"all": "1", "from": "2027-01-01T08:00"}])
def test_a_plan_is_of_a_time_or_of_everything(world: World, form: dict[str, str]) -> None:
    answer = world.post(world.of(Role.OPERATOR), "/jobs/plan", unit=HOUSING, reason="x", **form)
    assert answer.status_code == 400
    assert "Say either a time" in answer.text
    assert world.desk.done == []


def test_what_differs_is_named_by_its_bus_key_and_mended_by_whom_it_is_for(world: World) -> None:
    page = world.of(Role.AUDITOR).get(PAGES["differences"]).text
    assert f'data-key="{KEY.hex()}"' in page
    assert "version 3" in page
    assert "1 of 3 are shown" in page
    assert 'action="/proof/repair"' not in page
    assert 'action="/proof/repair"' in world.of(Role.OPERATOR).get(PAGES["differences"]).text


def test_a_repair_mends_at_most_what_the_proof_has_named(world: World) -> None:
    browser = world.of(Role.OPERATOR)
    form = {"unit": HEALTH, "dataset": "resident", "leg": "copy", "reason": "found by night"}
    assert world.post(browser, "/proof/repair", **form, delete_extra="1").status_code == 303
    (done,) = world.desk.done
    assert done[1] == (HEALTH, "resident", "copy")
    assert done[2] == RepairTerms(leg="copy", most=3)  # none of the three is an extra row
    equal = world.post(browser, "/proof/repair", **{**form, "unit": HOUSING})
    assert equal.status_code == 404  # there is nothing to mend


def test_a_certificate_is_given_byte_by_byte(world: World) -> None:
    words = {"unit": HOUSING, "dataset": "resident", "leg": "copy"}
    answer = world.of(Role.CLERK).get("/proof/certificate", params=words)
    assert answer.content == b"{}"
    assert re.fullmatch(
        r'attachment; filename="certificate-housing-330106-resident-copy-\d+\.json"',
        answer.headers["content-disposition"],
    )
    foreign = world.of(Role.CLERK).get("/proof/certificate", params={**words, "unit": HEALTH})
    assert foreign.status_code == 404
    never = world.of(Role.VIEWER).get("/proof/certificate", params={**words, "leg": "source"})
    assert never.status_code == 404


def test_what_differs_needs_a_person_here_as_in_status(world: World) -> None:
    world.change(
        lag=replace(lag_report(), units=(), stages=(stage(HEALTH, Stage.APPLY, Verdict.OK),)),
        freshness=(), cases=(), parked=(),
    )  # fmt: skip
    assert 'class="pulse person"' in world.of(Role.VIEWER).get("/").text
    world.change(proofs=replace(snapshot().proofs, outcomes={}))  # type: ignore[type-var]
    assert 'class="pulse well"' in world.of(Role.VIEWER).get("/").text


def test_an_alarm_says_whom_to_ring_and_what_to_do(world: World) -> None:
    page = world.of(Role.OPERATOR, language="zh").get("/alarms").text
    assert f"在 {HOUSING} 启动适配器" in page
    assert "请联系：科技科" in page
    assert page.count('action="/alarms/acknowledge"') == 1  # the other was seen already
    assert "olga" in page
    assert world.of(Role.CLERK).get("/alarms").text.count("data-alarm=") == 1


def test_escapes_what_strangers_wrote(world: World) -> None:
    world.change(cases=(case(POLICE, 1, reason='<script>alert("x")</script>'),))
    page = world.of(Role.OPERATOR).get("/quarantine").text
    assert "<script>alert" not in page
    assert "&lt;script&gt;" in page


def test_no_page_has_a_script_or_style_of_its_own(world: World) -> None:
    """The policy of the headers forbids them; a page that needs one would be dead."""
    for path in PAGES.values():
        page = world.of(Role.OPERATOR).get(path).text
        assert re.search(r"<script(?! src)", page) is None
        assert re.search(r'\sstyle="|<style|\son\w+="|javascript:', page) is None
        assert re.search(r'(?:src|href|action)="(?:https?:)?//', page) is None


def test_every_route_is_a_page_that_is_tested_or_an_act(world: World) -> None:
    shown = {route.path for route in routes_of(world.console) if "GET" in (route.methods or ())}
    others = {"/login", "/enter", "/openid/return", "/events", "/proof/certificate"}
    tested = {
        re.sub(
            r"/(units|datasets)/[^/]+$",
            r"/\1/{x}",
            re.sub("/out.*|[?].*", lambda m: "/{x}" * m[0].startswith("/"), path),
        )
        for path in PAGES.values()
    }
    assert {re.sub(r"\{[^}]+\}", "{x}", path) for path in shown} == tested | others


def test_the_map_folds_what_nobody_needs(world: World) -> None:
    """A clerk's map has his own unit and whom it exchanged something with."""
    page = world.of(Role.CLERK).get("/").text
    assert set(re.findall(r'data-unit="([^"]+)"', page)) == {HOUSING, POLICE}


def test_no_number_of_a_person_is_shown_back(world: World) -> None:
    for role in (Role.OPERATOR, Role.CLERK):
        unit = POLICE if role is Role.OPERATOR else HOUSING
        dataset = "resident" if role is Role.OPERATOR else "housing_unit"
        browser = world.of(role)
        answer = world.post(browser, "/find", unit=unit, dataset=dataset, natural=NATURAL)
        assert answer.status_code == 200
        assert NATURAL not in answer.text
        assert KEY.hex() in answer.text


class Checked(HTMLParser):
    """Well formed, every id once, every field with its label."""

    _VOID = frozenset(
        ["meta", "link", "input", "br", "img", "rect", "circle", "line", "path", "hr"]
    )

    def __init__(self) -> None:
        super().__init__()
        self.problems: list[str] = []
        self.language = ""
        self._open: list[str] = []
        self._ids: set[str] = set()
        self._fields: dict[str, bool] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "html":
            self.language = given["lang"] or ""
        name = given.get("id")
        if name is not None:
            if name in self._ids:
                self.problems.append(f"id {name} twice")
            self._ids.add(name)
        visible = given.get("type") not in ("hidden", "checkbox", "radio")
        if tag == "input" and visible and name is None and "aria-label" not in given:
            self.problems.append("a field without a label")
        if tag == "th" and "scope" not in given:
            self.problems.append("a heading of a table without its scope")
        if tag not in self._VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self._VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in self._VOID:
            return
        if not self._open or self._open[-1] != tag:
            self.problems.append(f"</{tag}> where {self._open[-1:]} is open")
        else:
            self._open.pop()


class Shown(HTMLParser):
    """The texts that a person reads, one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def handle_data(self, data: str) -> None:
        self.texts.append(" ".join(data.split()))
