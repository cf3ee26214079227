"""The page in a real Chromium: come in, ask, see what was used, change, delete, forget. No text becomes a script."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest

from persona.records import Record
from persona.serve.keys import KeyStore
from persona.store.profile_store import ProfileStore
from tests.serve.conftest import CANARY, Serve, Upstream, chunks, streams

FILES = Path(__file__).resolve().parents[3] / "persona/serve/page/files"
SCRIPT = "<script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\"><b>bold</b>"
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 360, "height": 700}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, without a window."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with playwright.sync_playwright() as running:
        launched = running.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield launched
        launched.close()


@pytest.fixture
def url(serve: Serve, upstream: Upstream) -> str:
    """The URL of a server whose upstream answers what it can see of the user, as HTML."""

    def behave(handler: BaseHTTPRequestHandler) -> None:
        asked = json.dumps(upstream.asked[-1])
        knows = next((user for user, text in CANARY.items() if text in asked), "nobody")
        streams(*chunks(*re.findall(r"\S+\s*", f"I know {knows}. {SCRIPT}")))(handler)

    upstream.behaviour = behave
    return serve(f"openai:gpt@{upstream.url}", endpoint={"api_key": "sk"}, k=2)


class Visit:
    """A page that somebody has open."""

    def __init__(self, browser: Any, url: str, **how: Any) -> None:
        self.page = browser.new_page(**{"viewport": WIDE, **how})
        self.page.set_default_timeout(15_000)
        self.problems: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", self._note)
        self.page.goto(url)

    def _note(self, said: Any) -> None:
        if "Failed to load resource" not in said.text:  # a refusal, which the page shows
            self.problems.append(said.text)

    def enter(self, secret: str, user: str = "") -> Visit:
        self.page.get_by_label("API key").fill(secret)
        self.page.get_by_label("User", exact=True).fill(user)
        self.page.get_by_role("button", name="Open").click()
        return self

    def ask(self, request: str) -> None:
        self.page.get_by_label("Your request").fill(request)
        self.page.keyboard.press("Enter")
        self.page.get_by_text("The answers are there.").wait_for(state="attached")

    def button(self, name: str) -> Any:
        return self.page.get_by_role("button", name=name)

    def said(self, text: str) -> None:
        """Wait until the page has said that."""
        self.page.locator("#status").get_by_text(text).wait_for(state="attached")

    @property
    def records(self) -> list[str]:
        return [text.split("\n")[0] for text in self.page.locator("#records .lines p:first-of-type").all_inner_texts()]


@pytest.fixture
def visit(browser: Any, url: str, store: ProfileStore) -> Iterator[Visit]:
    """The page, open for ana, who may do everything."""
    secret, _ = KeyStore(store).make("phone", ["ask", "write", "erase"], user_id="ana")
    visit = Visit(browser, url).enter(secret)
    visit.page.get_by_text(CANARY["ana"]).wait_for()
    yield visit
    assert visit.problems == []
    visit.page.close()


def test_no_text_can_become_a_script(url: str) -> None:
    reply = httpx.get(url)
    policy = dict(part.strip().split(" ", 1) for part in reply.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert reply.headers["x-content-type-options"] == "nosniff"
    for path in FILES.iterdir():
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Storage\b|cookie", text), path
        assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text) == []
        assert httpx.get(f"{url}/page/{path.name}").headers["content-security-policy"]
    assert re.findall(r"<script(?![^>]*src=)|\son\w+=|\sstyle=|<style", reply.text) == []
    assert [httpx.get(f"{url}/page/{name}").status_code for name in ("nope.js", "..%2Froutes.py")] == [404, 404]


def test_a_key_is_asked_for_and_kept_in_memory_alone(browser: Any, url: str, store: ProfileStore) -> None:
    secret, key = KeyStore(store).make("phone", ["ask"], user_id="ana")
    visit = Visit(browser, url)
    visit.enter("persona_wrong")
    visit.page.get_by_role("alert").get_by_text("wrong or was revoked").wait_for()
    visit.enter(secret)
    visit.page.get_by_text("This key may not read what is held.").wait_for()
    assert visit.page.get_by_label("API key").input_value() == ""
    kept = "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])"
    assert secret not in visit.page.evaluate(kept) + visit.page.content()
    visit.page.reload()
    visit.page.get_by_label("API key").wait_for()  # nothing was kept
    KeyStore(store).revoke(key.key_id)
    visit.enter(secret)
    visit.page.get_by_role("alert").get_by_text("wrong or was revoked").wait_for()
    everybody, _ = KeyStore(store).make("all", ["admin"])
    visit.enter(everybody)
    visit.page.get_by_role("alert").get_by_text("name one").wait_for()
    visit.enter(everybody, "ben")
    visit.page.get_by_text(CANARY["ben"]).wait_for()
    assert visit.problems == []


def test_without_any_key_it_asks_for_the_user_alone(browser: Any, url: str) -> None:
    visit = Visit(browser, url)
    visit.page.get_by_text("No key is needed").wait_for()
    assert not visit.page.get_by_label("API key").is_visible()
    visit.page.keyboard.type("ben")
    visit.page.keyboard.press("Enter")
    visit.page.get_by_text(CANARY["ben"]).wait_for()


def test_two_answers_side_by_side_and_what_was_used(visit: Visit, upstream: Upstream, store: ProfileStore) -> None:
    visit.ask("A headline about the garden?")
    own, plain = visit.page.locator(".answer").all()
    assert "I know ana." in own.inner_text()
    assert "I know nobody." in plain.inner_text()
    assert own.bounding_box()["y"] == plain.bounding_box()["y"]
    own.get_by_text("Used: 1 record").click()
    assert CANARY["ana"] in own.inner_text()
    assert "user" not in upstream.asked[-1]
    plain.get_by_role("button", name="Prefer this one").click()
    visit.said("Noted as a record.")
    (chosen,) = [each for each in store.profile("ana") if each.metadata.get("feedback") == "choice"]
    assert (chosen.text, "I know nobody." in (chosen.target or "")) == ("A headline about the garden?", True)
    visit.ask("And a shorter one?")
    (sent,) = [each for each in upstream.asked[-2:] if CANARY["ana"] not in json.dumps(each)]
    assert [turn["role"] for turn in sent["messages"]] == ["user", "assistant", "user"]


def test_an_answer_can_be_stopped(visit: Visit, upstream: Upstream) -> None:
    more = Event()
    upstream.behaviour = streams(*chunks("It begins"), lambda: more.wait(20))
    visit.page.get_by_label("Your request").fill("A garden?")
    visit.page.keyboard.press("Enter")
    visit.page.get_by_text("It begins").first.wait_for()  # before the answer has ended
    visit.button("Stop").click()
    visit.said("No answer.")
    more.set()
    assert visit.page.locator(".answer").get_by_text("Stopped.").count() == 2
    assert visit.button("Send").is_visible()
    assert visit.page.evaluate("document.activeElement.id") == "request"


def test_records_and_answers_stay_text(visit: Visit, store: ProfileStore) -> None:
    store.upsert([("ana", Record(SCRIPT, target=SCRIPT, metadata={SCRIPT: SCRIPT}, id="s"))])
    visit.ask(f"{SCRIPT} garden?")
    visit.button("Add a record").click()
    visit.page.get_by_label("Text").fill(SCRIPT)
    visit.button("Save").click()
    visit.said("The record was added.")
    assert visit.page.title() == "persona"
    assert visit.page.locator(".rooms script, .rooms b, .rooms img").count() == 0
    assert visit.records.count(SCRIPT) == 2
    assert SCRIPT in visit.page.locator(".request").inner_text()
    assert SCRIPT in visit.page.locator(".answer").first.inner_text()


def test_records_are_added_changed_filtered_and_deleted(visit: Visit, store: ProfileStore) -> None:
    visit.button("Add a record").click()
    visit.page.get_by_label("Text").fill("A pond was dug.")
    visit.page.get_by_label("Time").fill("soon")
    visit.button("Save").click()
    visit.page.get_by_role("alert").get_by_text("time").wait_for()
    visit.page.get_by_label("Time").fill("2027-01-31")
    visit.button("Save").click()
    visit.said("The record was added.")
    assert visit.records == ["A pond was dug.", CANARY["ana"]]
    visit.button("Change: A pond").click()
    visit.page.get_by_label("Target").fill("pond dug")
    visit.button("Save").click()
    visit.said("The record was changed.")
    assert [(each.text, each.target) for each in store.profile("ana")][-1] == ("A pond was dug.", "pond dug")
    visit.page.get_by_label("Filter the records").fill("POND")
    assert visit.records == ["A pond was dug."]
    visit.page.get_by_label("Filter the records").fill("")
    visit.button("Delete: Canary").click()
    visit.said("The record was deleted.")
    assert visit.records == ["A pond was dug."]
    assert [each.text for each in store.profile("ana")] == ["A pond was dug."]


def test_forgetting_ends_in_a_receipt(visit: Visit, store: ProfileStore) -> None:
    visit.button("Forget everything").click()
    assert visit.page.evaluate("document.activeElement.id") == "keep"
    visit.page.keyboard.press("Escape")
    assert "ana" in store
    visit.button("Forget everything").click()
    visit.button("Erase everything").click()
    receipt = visit.page.get_by_role("dialog")
    receipt.get_by_text("Everything was erased").wait_for()
    rows = [row.split("\t") for row in receipt.get_by_role("row").all_inner_texts()]
    assert ["records", "1", "0"] in rows
    assert ["API keys", "1", "0"] in rows
    assert "backups and copies" in receipt.inner_text()
    assert "ana" not in store
    assert CANARY["ana"] not in visit.page.content()
    with visit.page.expect_download() as saved:
        visit.button("Save the receipt").click()
    assert json.loads(Path(saved.value.path()).read_text())["complete"] is True
    visit.button("Done").click()
    visit.page.get_by_label("API key").wait_for()


def test_it_can_be_used_by_keyboard_and_has_names_for_everything(visit: Visit) -> None:
    visit.ask("A garden?")
    visit.page.locator("#request").focus()
    seen = []
    for _ in range(30):
        visit.page.keyboard.press("Tab")
        seen.append(visit.page.evaluate("(at => `${at.id} ${at.textContent.trim()}`)(document.activeElement)"))
        if seen[-1].startswith("forget"):
            break
    # In the order in which one reads: the chat, then what is held.
    ids = [each.split(" ")[0] for each in seen if each.split(" ")[0]]
    assert ids == ["compare", "send", "add", "filter", "forget"]
    assert "Change" in " ".join(seen)
    nameless = """[...document.querySelectorAll('button, input, textarea')].filter(each => each.offsetParent
        && !(each.labels?.length || each.textContent.trim() || each.ariaLabel)).length"""
    assert visit.page.evaluate(nameless) == 0
    visit.page.keyboard.press("Enter")
    assert visit.page.get_by_role("dialog").is_visible()
    visit.page.keyboard.press("Escape")
    assert visit.page.evaluate("document.activeElement.id") == "forget"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_wide_and_narrow_in_light_and_dark(
    browser: Any, url: str, store: ProfileStore, size: dict[str, int], scheme: str
) -> None:
    store.upsert([("ana", Record("a" * 300, target="b" * 300))])
    secret, _ = KeyStore(store).make("phone", ["admin"], user_id="ana")
    visit = Visit(browser, url, viewport=size, color_scheme=scheme).enter(secret)
    visit.ask("A headline about the garden?")
    page = visit.page
    if size is PHONE:
        assert not page.locator("#held").is_visible()
        visit.button("Held").click()
        assert not page.locator("#chat").is_visible()
    assert page.locator("#held").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).every(each => each > 127)")
    assert light == (scheme == "light")
    # What is written can be read: WCAG's contrast of text with what is behind it.
    assert page.evaluate(CONTRAST) >= 4.5
    assert visit.problems == []
    page.close()


CONTRAST = """() => {
  const light = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map(each => each / 255)
    .map(each => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4)
    .reduce((sum, each, index) => sum + each * [0.2126, 0.7152, 0.0722][index], 0);
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const colour = getComputedStyle(element).backgroundColor;
      if (!/, 0\\)$/.test(colour)) return colour;
    }
  };
  return Math.min(...[...document.querySelectorAll('#rooms *')].filter(each => each.offsetParent && !each.disabled
      && [...each.childNodes].some(node => node.nodeType === 3 && node.data.trim())).map(each => {
    const [one, other] = [getComputedStyle(each).color, behind(each)].map(light);
    return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
  }));
}"""
