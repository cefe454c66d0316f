"""People at the console of a running county: every page in both languages and themes, by keyboard
and on a phone; flows as they happen; what a role may not do; what nobody may see."""

from __future__ import annotations

import json
import re
from urllib.parse import quote

import pytest
from browser import DESK, PHONE, Visit, visit
from installed import sql
from playwright.async_api import Browser
from running_console import CLERKS_UNIT, PASSWORD, Office

from deptbus.connection import find_connection
from deptbus.demo.county import CANARY
from deptbus.names import AUDIT
from deptbus.stream.log import read_to_end
from deptbus.wire.control import Act, decode_control

pytestmark = [pytest.mark.service, pytest.mark.asyncio(loop_scope="session")]

OTHER = "civil_affairs@330106"
PAGES = (
    "/",
    "/units",
    f"/units/{CLERKS_UNIT}",
    "/datasets",
    "/datasets/resident",
    "/lag",
    "/quarantine",
    "/holds",
    "/proof",
    "/jobs",
    "/saved",
    "/alarms",
    "/find",
)
WORDS = {"en": "Quarantine", "zh": "隔离区"}
GROUND = {"light": "rgb(246, 247, 248)", "dark": "rgb(17, 23, 28)"}


def leaks(text: str, residents: list[str]) -> list[str]:
    """What nobody may see: canaries of fields that are never shared, personal numbers."""
    found = [CANARY] if CANARY in text else []
    return found + [number for number in residents if number in text]


async def test_leaks_would_be_found(office: Office) -> None:
    residents = office.residents()
    assert len(residents) >= 300
    (canary,) = sql(office.file("public_security-330106"), "SELECT zjxy FROM rkjbxx LIMIT 1")
    assert leaks(f"<td>{canary[0]}</td>", residents) == [CANARY]
    assert leaks(f"title='{residents[7]}'", residents) == [residents[7]]
    assert leaks("330106", residents) == []


async def _case(visitor: Visit) -> str:
    await visitor.open("/quarantine")
    link = visitor.page.locator("#cases tbody tr a").first
    return str(await link.get_attribute("href"))


async def _seen_whole(visitor: Visit) -> None:
    """The watcher has looked at everything once."""
    await visitor.open("/")
    await visitor.page.wait_for_selector(f"[id='node-{CLERKS_UNIT}'].ok", timeout=30_000)
    await visitor.open("/saved")
    await visitor.page.wait_for_selector("#saved-total", timeout=30_000)
    await visitor.open("/quarantine")
    await visitor.page.wait_for_selector("#cases", timeout=30_000)


@pytest.mark.parametrize("language", ["en", "zh"])
async def test_every_page_is_well(browser: Browser, office: Office, language: str) -> None:
    """By day and by night, on a desk and on a phone."""
    residents = office.residents()
    async with visit(browser, office.base, language=language) as seen:
        await office.log_in(seen, "operator")
        await _seen_whole(seen)
        links = seen.page.locator("header nav a")
        found = await links.evaluate_all("all => all.map(a => a.getAttribute('href'))")
        assert set(found) <= set(PAGES), "a page that is not walked"
        for path in (*PAGES, await _case(seen)):
            await seen.page.set_viewport_size(DESK)  # type: ignore[arg-type]
            await seen.open(path)
            text = await seen.text()
            assert WORDS[language] in text, path
            assert leaks(text, residents) == [], path
            for theme in ("dark", "light") if language == "en" else ("light", "dark"):
                await seen.page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
                assert await _ground(seen) == GROUND[theme], f"{path}, {theme}"
            assert await seen.sideways() == [], path
            await seen.shot(f"{language}-{theme}-{path.strip('/').replace('/', '-') or 'map'}")
            await seen.page.set_viewport_size(PHONE)  # type: ignore[arg-type]
            assert await seen.sideways() == [], f"{path} on a phone"
        seen.check()


async def _ground(visitor: Visit) -> str:
    script = "getComputedStyle(document.body).backgroundColor"
    return str(await visitor.page.evaluate(script))


async def test_language_and_theme_are_a_click_away(browser: Browser, office: Office) -> None:
    async with visit(browser, office.base) as seen:
        await office.log_in(seen, "viewer")
        for language in ("zh", "en"):
            await seen.press("#language")
            await seen.page.wait_for_selector(f"text={WORDS[language]}")
        for theme in ("dark", "light"):
            await seen.press("#theme")
            await seen.page.wait_for_selector(f":root[data-theme={theme}]")
            assert await _ground(seen) == GROUND[theme]
        seen.check()


async def test_everything_can_be_reached_by_keyboard(browser: Browser, office: Office) -> None:
    async with visit(browser, office.base) as seen:
        await seen.open("/login")
        assert await seen.not_reached_by_keyboard() == []
        await office.log_in(seen, "operator")
        await _seen_whole(seen)
        for path in ("/", f"/units/{CLERKS_UNIT}", "/quarantine", "/holds", "/jobs", "/find"):
            await seen.open(path)
            assert await seen.not_reached_by_keyboard() == [], path
        # Without a mouse: the first link leads past the head of the page.
        await seen.open("/units")
        await seen.page.keyboard.press("Tab")
        await seen.page.keyboard.press("Enter")
        assert await seen.page.evaluate("document.activeElement.id") == "main"
        seen.check()


async def test_a_change_is_seen_on_the_map_without_reload(browser: Browser, office: Office) -> None:
    """A clerk of the police changes one address; housing and the city's police get it."""
    police = office.file("public_security-330106")
    async with visit(browser, office.base) as seen:
        await office.log_in(seen, "viewer")
        await seen.open("/")
        await seen.page.wait_for_selector("#live[data-state=on]")
        await seen.page.evaluate("window.stayed = true")
        ways = {
            "horizontal": "public_security@330106-housing@330106",
            "upward": "public_security@330106-public_security@3301",
        }
        for way, ends in ways.items():
            edge = f"[id='edge-{ends}-{way}']"
            # A line stays for a minute after the last change, which may be another test's.
            await seen.page.wait_for_selector(edge, state="detached", timeout=90_000)
        # Only while somebody moves: dots are drawn on the way.
        dots = "new MutationObserver((m, o) => { window.moved = true; o.disconnect(); })"
        await seen.page.evaluate(f"{dots}.observe(document.getElementById('dots'), "
                                 "{childList: true})")  # fmt: skip
        sql(police, "UPDATE rkjbxx SET dz = dz || '1' WHERE sfzh = (SELECT min(sfzh) FROM rkjbxx)")
        for way, ends in ways.items():
            await seen.page.wait_for_selector(
                f"[id='edge-{ends}-{way}']", state="attached", timeout=30_000
            )
            await seen.page.wait_for_selector(f"[id='flow-{ends}-{way}']", timeout=30_000)
        await seen.page.wait_for_function("() => window.moved", timeout=30_000)
        assert await seen.page.evaluate("window.stayed") is True
        await seen.shot("map-moving")
        seen.check()


async def _post(visitor: Visit, path: str, **form: str) -> int:
    """By hand, with the token that this person's own pages have."""
    token = await visitor.page.locator("input[name=csrf]").first.get_attribute("value")
    answer = await visitor.page.context.request.post(
        visitor.base + path,
        form={"csrf": token or "", **form},
        headers={"Origin": visitor.base},
        max_redirects=0,
    )
    return answer.status


ACTS = {
    "/quarantine/resend": {"place": "out.housing-330106/0/0", "reason": "a test"},
    "/quarantine/dismiss": {"place": "out.housing-330106/0/0", "reason": "a test"},
    "/quarantine/retry": {"which": "all", "reason": "a test"},
    "/holds/hold": {"unit": OTHER, "reason": "a test"},
    "/holds/resume": {"unit": OTHER, "reason": "a test"},
    "/jobs/plan": {"unit": OTHER, "all": "1", "reason": "a test"},
    "/jobs/propose": {"plan": "a test"},
    "/jobs/decide": {"proposal": "a test", "word": "confirmed", "reason": "a test"},
    "/jobs/steer": {"job": "a test", "wanted": "cancelled", "reason": "a test"},
    "/proof/repair": {"unit": OTHER, "dataset": "resident", "leg": "copy", "reason": "a test"},
    "/alarms/acknowledge": {"subject": "a test", "reason": "a test"},
}
REFUSED = {
    "viewer": ({"/audit", "/find"}, set(ACTS)),
    "auditor": (set(), set(ACTS)),
    # A clerk may ask for these, of the own unit: what is chosen decides, and is asked for later.
    "clerk": (
        {"/audit", f"/units/{OTHER}"},
        set(ACTS) - {"/quarantine/resend", "/quarantine/retry"},
    ),
}


@pytest.mark.parametrize("role", REFUSED)
async def test_roles_are_refused_what_they_may_not_do(
    browser: Browser, office: Office, role: str
) -> None:
    pages, acts = REFUSED[role]
    connection = find_connection(data=office.up.data)
    before = len(await read_to_end(connection, AUDIT))
    async with visit(browser, office.base) as seen:
        await office.log_in(seen, role)
        for path in pages:
            answer = await seen.page.context.request.get(seen.base + quote(path))
            assert answer.status in (403, 404), path
            assert not await seen.page.locator(f"a[href='{path}']").count(), path
        for path in acts:
            assert await _post(seen, path, **ACTS[path]) == 403, path
        seen.check()
    assert len(await read_to_end(connection, AUDIT)) == before, "what is refused is no act"


async def test_a_clerk_sees_the_own_unit_alone(browser: Browser, office: Office) -> None:
    async with visit(browser, office.base) as seen:
        await office.log_in(seen, "clerk")
        for path in ("/", "/units", "/lag", "/saved", "/quarantine"):
            await seen.open(path)
            links = await seen.page.locator("main a[href^='/units/']").evaluate_all(
                "found => found.map(e => decodeURIComponent(e.getAttribute('href')))"
            )
            # Whom it gets data from and sends data to it may know; their state it may not.
            assert f"/units/{OTHER}" not in links, path
        seen.check()


async def test_who_is_not_logged_in_sees_nothing(browser: Browser, office: Office) -> None:
    async with visit(browser, office.base) as seen:
        for path in (*PAGES, "/audit", "/events"):
            answer = await seen.page.context.request.get(seen.base + quote(path), max_redirects=0)
            assert answer.status in (303, 401), path
            assert "deptbus" not in await answer.text() or answer.status == 303
        await seen.open("/login")
        for path in ACTS:
            assert await _post(seen, path, **ACTS[path]) in (303, 401, 403), path
        await seen.page.fill("#name", "operator")
        await seen.page.fill("#password", PASSWORD + "?")
        with seen.expecting(401):
            await seen.press("#login button.main")
            await seen.page.wait_for_selector("[role=alert]")
        assert await seen.page.locator("#logout").count() == 0


async def test_an_act_without_its_token_is_refused(browser: Browser, office: Office) -> None:
    """As another site would have the operator's browser do it."""
    async with visit(browser, office.base) as seen:
        await office.log_in(seen, "operator")
        for path, form in ACTS.items():
            answer = await seen.page.context.request.post(seen.base + path, form=form)
            assert answer.status == 403, path


async def test_a_parked_row_is_tried_again_from_the_page(browser: Browser, office: Office) -> None:
    """Civil affairs' table takes no name as long as that one; it refuses it again, and says so."""
    connection = find_connection(data=office.up.data)
    residents = office.residents()
    async with visit(browser, office.base) as seen:
        await office.log_in(seen, "operator")
        await seen.open("/quarantine")
        row = seen.page.locator("#parked-rows tbody tr").first
        await row.wait_for(timeout=30_000)
        assert OTHER in str(await row.get_attribute("data-row"))
        await row.locator("input[name=row]").check()
        await seen.page.fill("#parked-reason", "is the column wider now?")
        await seen.press("#retry")
        done = str(await seen.page.text_content("#done"))
        assert "1 parked rows were tried again: 0 written, 1 refused again." in done
        told = seen.page.locator(f"[data-retried='{OTHER}']")
        await told.wait_for(timeout=30_000)
        assert leaks(await seen.text(), residents) == []
        seen.check()
    act = decode_control((await read_to_end(connection, AUDIT))[-1].value)
    assert isinstance(act, Act)
    assert (act.verb, act.operator, act.unit) == ("quarantine_retry", "operator", OTHER)
    assert act.key is not None


async def test_a_record_is_found_by_its_number_which_is_shown_nowhere(
    browser: Browser, office: Office
) -> None:
    residents = office.residents()
    (wanted,) = sql(office.file("public_security-330106"), "SELECT min(sfzh) FROM rkjbxx")
    async with visit(browser, office.base) as seen:
        await office.log_in(seen, "operator")
        await seen.open("/find")
        form = seen.page.locator("form[data-natural='resident']")
        await form.locator("select[name=unit]").select_option("public_security@330106")
        await form.locator("input[name=natural]").fill(wanted[0])
        await form.locator("button").click()
        await seen.page.wait_for_selector("#found", timeout=60_000)
        assert await seen.page.locator("#versions tbody tr").count() >= 1
        assert leaks(await seen.text(), residents) == []
        assert leaks(seen.page.url, residents) == []
        seen.check()


_LISTEN = """() => {
  window.heard = [];
  const events = new EventSource('/events');
  events.addEventListener('open', () => window.listens = true);
  events.addEventListener('flows', e => window.heard.push(e.data));
}"""


async def test_no_log_metric_or_stream_holds_what_nobody_may_see(
    browser: Browser, office: Office
) -> None:
    residents = office.residents()
    pattern = re.compile("|".join(map(re.escape, [CANARY, *residents])))
    for log in office.logs():
        found = pattern.search(log.read_text(errors="replace"))
        assert found is None, log
    figures = office.figures()
    assert all("deptbus_" in told for told in figures.values())
    assert [address for address, told in figures.items() if pattern.search(told)] == []
    async with visit(browser, office.base) as seen:
        await office.log_in(seen, "operator")
        await seen.open("/")
        await seen.page.evaluate(_LISTEN)
        await seen.page.wait_for_function("() => window.listens")
        # Not those of the test above, whose lines on the map are to be quiet.
        police = office.file("public_security-330105")
        sql(police, "UPDATE rkjbxx SET dz = dz || '2' WHERE sfzh = (SELECT min(sfzh) FROM rkjbxx)")
        await seen.page.wait_for_function("() => window.heard.length > 0", timeout=30_000)
        said = await seen.page.evaluate("window.heard")
        assert json.loads(said[0])[0]["source"] == "public_security@330105"
        assert pattern.search(str(said)) is None
        seen.check()
