"""What keeps the console safe; each guard is taken away once, to see that its test would tell."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from console_world import (
    BASE,
    HEALTH,
    HOUSING,
    POLICE,
    World,
    console_world,
    plan,
    snapshot,
)

from deptbus.console import guard, login, roles, visit
from deptbus.console import snapshot as snapshots
from deptbus.console.app import routes_of
from deptbus.console.roles import Act, Role
from deptbus.console.settings import Settings
from deptbus.console.visit import local_path
from deptbus.errors import DeptbusError

ACTS = {
    "/quarantine/resend": {"place": "out.housing-330106/0/2", "reason": "mended"},
    "/quarantine/dismiss": {"place": "out.housing-330106/0/2", "reason": "a test"},
    "/quarantine/retry": {
        "row": f"{HOUSING}/main/resident/{POLICE}/{'a1' * 16}",
        "reason": "the table is mended",
    },
    "/holds/hold": {"unit": HOUSING, "reason": "its database moves"},
    "/holds/resume": {"unit": HEALTH, "reason": "it has moved"},
    "/alarms/acknowledge": {"subject": f"lag/{HOUSING}/apply", "reason": "I look after it"},
    "/jobs/plan": {"unit": HOUSING, "all": "1", "reason": "their disk failed"},
    "/jobs/propose": {"plan": plan().as_file()},
    "/jobs/decide": {"proposal": "replay-9", "word": "confirmed", "reason": "I looked at it"},
    "/jobs/steer": {"job": "replay-1", "wanted": "paused", "reason": "their busy hour"},
    "/proof/repair": {
        "unit": HEALTH,
        "dataset": "resident",
        "leg": "copy",
        "reason": "the proof found it",
    },
    "/find": {"dataset": "housing_unit", "key": "00" * 16},
}
CHANGES = {Act.RESEND, Act.DISMISS, Act.RETRY, Act.HOLD, Act.RESUME, Act.ACKNOWLEDGE} | {
    Act.REPLAY,
    Act.REPAIR,
    Act.DECIDE,
    Act.STEER,
}
ALLOWED = {
    Role.VIEWER: set(),
    Role.OPERATOR: set(ACTS),
    Role.CLERK: {"/quarantine/resend", "/quarantine/retry"},
    Role.AUDITOR: {"/find"},
}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return console_world(tickets=tmp_path)


class TestRoles:
    @pytest.mark.parametrize("role", Role)
    @pytest.mark.parametrize("path", ACTS)
    def test_what_a_role_may_not_do_is_refused_by_direct_request(
        self, world: World, path: str, role: Role
    ) -> None:
        answer = world.post(world.of(role), path, **ACTS[path])
        if path in ALLOWED[role]:
            assert answer.status_code in (200, 303)
            assert len(world.desk.done) == 1
        else:
            # A clerk does not even learn that there is such a unit.
            assert answer.status_code in ((403, 404) if role is Role.CLERK else (403,))
            assert world.desk.done == []

    def test_a_clerk_asks_for_a_resend_of_his_own_unit_alone(self, world: World) -> None:
        clerk = world.of(Role.CLERK)
        answer = world.post(
            clerk, "/quarantine/resend", place="out.public_security-330106/0/1", reason="mended"
        )
        assert answer.status_code == 404
        answer = world.post(clerk, "/quarantine/resend", which="all", reason="mended")
        assert answer.status_code == 303
        assert {place[0] for place in world.desk.done[0][1]} == {"out.housing-330106"}

    def test_a_clerk_has_his_own_units_parked_rows_tried_again_alone(self, world: World) -> None:
        clerk = world.of(Role.CLERK)
        foreign = f"{HEALTH}/main/resident/{POLICE}/{'a3' * 16}"
        answer = world.post(clerk, "/quarantine/retry", row=foreign, reason="mended")
        assert answer.status_code == 404
        answer = world.post(clerk, "/quarantine/retry", which="all", reason="mended")
        assert answer.status_code == 303
        assert world.desk.done == [("retry", (HOUSING,), "carl", "mended")]

    def test_a_clerk_sees_his_own_unit_alone(self, world: World) -> None:
        clerk = world.of(Role.CLERK)
        assert clerk.get(f"/units/{HOUSING}").status_code == 200
        assert clerk.get(f"/units/{POLICE}").status_code == 404
        assert clerk.get("/quarantine/out.public_security-330106/0/1").status_code == 404
        assert set(re.findall(r'data-row="([^/]+)/', clerk.get("/quarantine").text)) == {HOUSING}
        units = set(re.findall(r'data-unit="([^"]+)"', clerk.get("/lag").text))
        assert units == {HOUSING}
        assert "1,234" in clerk.get("/saved").text
        assert ">17<" not in clerk.get("/saved").text

    def test_planted_a_table_that_nobody_asks_is_found(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(roles.Person, "may", lambda self, act, unit=None: True)
        with pytest.raises(AssertionError):
            self.test_what_a_role_may_not_do_is_refused_by_direct_request(
                world, "/holds/hold", Role.VIEWER
            )

    def test_planted_a_scope_that_is_not_cut_is_found(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(visit, "seen_by", lambda whole, person: whole)
        with pytest.raises(AssertionError):
            self.test_a_clerk_sees_his_own_unit_alone(world)

    def test_nobody_who_is_not_logged_in_sees_or_does_anything(self, world: World) -> None:
        open_to_all = {"/login", "/enter", "/logout", "/look", "/openid/begin", "/openid/return"}
        for route in routes_of(world.console):
            if route.path in open_to_all:
                continue
            browser = world.browser()
            path = re.sub(r"\{[^}]+\}", "x", route.path)
            if "GET" in (route.methods or ()):
                answer = browser.get(path)
                assert answer.status_code == 303, path
                assert answer.headers["location"].startswith("/login")
            else:
                browser.get("/login")
                assert world.post(browser, path).status_code == 401, path
        assert world.desk.done == []

    def test_a_clerk_has_a_unit_and_no_other_role(self) -> None:
        for given, unit in (({"clerk"}, ""), ({"clerk", "operator"}, HOUSING), (set(), "")):
            with pytest.raises(ValueError, match=r"clerk|role"):
                roles.person_of("x", frozenset(map(Role, given)), unit)
        with pytest.raises(ValueError, match="only a clerk"):
            roles.person_of("x", frozenset({Role.VIEWER}), HOUSING)

    def test_every_act_is_somebodys_and_viewers_change_nothing(self) -> None:
        assert set().union(*roles._MAY.values()) == set(Act)
        for role in (Role.VIEWER, Role.AUDITOR):
            assert not roles._MAY[role] & CHANGES


class TestForms:
    def test_a_form_that_was_not_drawn_for_this_browser_is_refused(self, world: World) -> None:
        browser, other = world.of(Role.OPERATOR), world.of(Role.OPERATOR)
        form = ACTS["/holds/hold"]
        for token in ("", "0" * 64, world.token(other)):
            answer = browser.post("/holds/hold", data={**form, "csrf": token})
            assert answer.status_code == 403
        assert browser.post("/holds/hold", data=form).status_code == 403
        assert world.desk.done == []

    def test_planted_forms_without_a_token_are_found(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(visit, "is_ours", lambda one: True)
        with pytest.raises(AssertionError):
            self.test_a_form_that_was_not_drawn_for_this_browser_is_refused(world)

    def test_every_post_there_is_needs_the_token(self, world: World) -> None:
        posts = [r.path for r in routes_of(world.console) if "POST" in (r.methods or ())]
        assert len(posts) >= 10
        for path in posts:
            answer = world.of(Role.OPERATOR).post(path, data={"reason": "x"})
            assert answer.status_code == 403, path

    def test_no_act_is_done_by_get(self, world: World) -> None:
        for path in ACTS:
            if path != "/find":
                assert world.of(Role.OPERATOR).get(path).status_code in (404, 405)

    @pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9999"])
    def test_what_comes_from_another_page_is_refused(self, world: World, origin: str) -> None:
        browser = world.of(Role.OPERATOR)
        form = {**ACTS["/holds/hold"], "csrf": world.token(browser)}
        answer = browser.post("/holds/hold", data=form, headers={"origin": origin})
        assert answer.status_code == 403
        answer = browser.post("/holds/hold", data=form, headers={"origin": BASE})
        assert answer.status_code == 303

    def test_only_forms_are_taken_and_none_that_is_too_large(self, world: World) -> None:
        browser = world.of(Role.OPERATOR)
        assert browser.post("/holds/hold", json={"csrf": world.token(browser)}).status_code == 415
        large = world.post(browser, "/holds/hold", reason="x" * 300_000)
        assert large.status_code == 413
        chunked = browser.post(
            "/holds/hold",
            content=iter([b"csrf=x"]),
            headers={"content-type": "application/x-www-form-urlencoded"},
        )
        assert chunked.status_code == 413

    def test_what_cannot_be_done_is_said_and_typed_text_is_not_repeated(self, world: World) -> None:
        browser = world.of(Role.OPERATOR)
        number = "330106199001011237"
        answer = world.post(browser, "/holds/hold", unit=HOUSING, reason=f"about {number}")
        assert answer.status_code == 409
        assert "resident number" in answer.text
        assert number not in answer.text
        assert world.desk.done == []
        world.desk.refusal = DeptbusError("housing@330106 is held already")
        answer = world.post(browser, "/holds/hold", unit=HOUSING, reason="once more")
        assert "is held already" in answer.text

    def test_an_act_bears_the_name_of_the_person(self, world: World) -> None:
        world.post(world.of(Role.OPERATOR), "/holds/hold", **ACTS["/holds/hold"])
        assert world.desk.done == [("hold", HOUSING, "", "olga", "its database moves")]

    @pytest.mark.parametrize(
        "form",
        [
            {"unit": HOUSING, "dataset": "resident"},
            {"unit": "", "dataset": ""},
            {"unit": "nobody@33"},
            {"dataset": "nothing"},
        ],
    )
    def test_a_hold_names_one_thing_that_there_is(self, world: World, form: dict[str, str]) -> None:
        answer = world.post(world.of(Role.OPERATOR), "/holds/hold", reason="x", **form)
        assert answer.status_code in (400, 404)
        assert world.desk.done == []

    def test_thousands_of_notes_are_resolved_at_once(self, world: World) -> None:
        from console_world import case

        world.change(cases=tuple(case(POLICE, n, "malformed") for n in range(5000)))
        answer = world.post(
            world.of(Role.OPERATOR),
            "/quarantine/dismiss", which="all", refused_for="malformed", reason="a test",
        )  # fmt: skip
        assert answer.headers["location"] == "/quarantine?done=dismiss&count=5000"


class TestAnswers:
    def test_headers_are_on_every_answer(self, world: World) -> None:
        browser = world.of(Role.VIEWER)
        static = re.search(r'/static/[^"]+\.css', browser.get("/").text)
        assert static is not None
        for path in ("/", "/login", "/nothing", "/alive", static[0]):
            headers = browser.get(path).headers
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "same-origin"
            assert headers["cross-origin-opener-policy"] == "same-origin"
            kept = headers["cache-control"]
            assert kept == "no-store" if path != static[0] else "immutable" in kept

    def test_planted_headers_that_are_forgotten_are_found(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(guard, "_HEADERS", {})
        with pytest.raises(KeyError):
            self.test_headers_are_on_every_answer(console_world(tickets=tmp_path))

    @pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:8421", ""])
    def test_another_name_for_this_address_is_refused(self, world: World, host: str) -> None:
        answer = world.of(Role.VIEWER).get("/", headers={"host": host})
        assert answer.status_code == 421
        assert "deptbus: this is not" in answer.text

    def test_planted_a_host_that_nobody_looks_at_is_found(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Everybody(frozenset[str]):
            def __contains__(self, _: object) -> bool:
                return True

        monkeypatch.setattr(Settings, "hosts", property(lambda self: Everybody()))
        with pytest.raises(AssertionError):
            self.test_another_name_for_this_address_is_refused(
                console_world(tickets=tmp_path), "evil.example"
            )

    @pytest.mark.parametrize(
        "where",
        [
            "//evil.example", "https://evil.example/", "/\\evil.example", "\\\\evil.example",
            "javascript:alert(1)", "evil.example", "/\n/evil.example", "", "/\tx",
        ],
    )  # fmt: skip
    def test_nobody_is_sent_elsewhere(self, world: World, where: str) -> None:
        browser = world.of(Role.VIEWER)
        answer = world.post(browser, "/look", language="zh", next=where)
        assert answer.headers["location"] == "/"
        page = browser.get("/login", params={"next": where})
        assert page.headers["location"] == "/"

    def test_planted_an_open_redirect_is_found(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(visit, "local_path", lambda text: text)
        monkeypatch.setattr(login, "local_path", lambda text: text)
        with pytest.raises(AssertionError):
            self.test_nobody_is_sent_elsewhere(world, "//evil.example")

    def test_a_path_of_ours_is_kept_with_its_query(self) -> None:
        assert local_path("/units/housing@330106?a=1") == "/units/housing@330106?a=1"

    def test_our_own_bug_tells_nothing_of_what_it_met(
        self, world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def fail(*_: object) -> None:
            raise RuntimeError("about 330106199001011237")

        monkeypatch.setattr(world.desk, "find", fail)
        world.app.debug = False
        browser = world.of(Role.OPERATOR)
        browser._transport.raise_server_exceptions = False  # type: ignore[attr-defined]
        answer = world.post(browser, "/find", dataset="resident", key="00" * 16)
        assert answer.status_code == 500
        assert "33010619900101" not in answer.text + capsys.readouterr().out

    def test_only_our_own_files_are_served(self, world: World) -> None:
        for path in ("/static/x/../app.py", "/static/x/words.toml", "/static/x/..%2fapp.py"):
            assert world.browser().get(path).status_code == 404

    def test_a_preference_that_is_none_changes_nothing(self, world: World) -> None:
        browser = world.of(Role.VIEWER, language="zh", theme="dark")
        answer = world.post(browser, "/look", language="<b>", theme="x;y", next="/lag")
        assert f"{world.console.look_cookie_name}=zh.dark" in answer.headers["set-cookie"]


class TestCanaries:
    """What may be seen nowhere is planted in every place that holds content."""

    @pytest.fixture
    def leaking(self, tmp_path: Path) -> World:
        return console_world(tickets=tmp_path)

    def pages(self, world: World) -> str:
        paths = ["/", "/lag", "/units", f"/units/{POLICE}", "/datasets/resident", "/quarantine",
                 "/quarantine/out.housing-330106/0/2", "/saved", "/holds", "/find", "/proof",
                 "/jobs"]  # fmt: skip
        shown = "".join(world.of(Role.OPERATOR).get(path).text for path in paths)
        # Tokens are drawn: one in some hundred looks like a number.
        return re.sub(r'value="[0-9a-f]{64}"', "", shown)

    def test_a_page_of_a_refused_record_shows_what_the_desk_masked(self, leaking: World) -> None:
        shown = self.pages(leaking)
        assert "(masked: conditional)" in shown
        assert not re.search(r"\d{17}[\dXx]", shown)

    def test_planted_a_canary_that_is_shown_is_found(self, leaking: World) -> None:
        assert leaking.desk.record is not None
        leaking.desk.record["change"]["fields"]["resident_id"] = "330106199001011237"
        with pytest.raises(AssertionError):
            self.test_a_page_of_a_refused_record_shows_what_the_desk_masked(leaking)

    def test_who_may_not_see_a_record_does_not_make_the_desk_read_it(
        self, leaking: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = []
        monkeypatch.setattr(leaking.desk, "show", lambda case: asked.append(case))
        answer = leaking.of(Role.VIEWER).get("/quarantine/out.housing-330106/0/2")
        assert answer.status_code == 200
        assert asked == []


def test_the_snapshot_of_everybody_else_is_whole() -> None:
    from console_world import PEOPLE

    whole = snapshot()
    assert snapshots.seen_by(whole, PEOPLE[Role.VIEWER]) is whole
