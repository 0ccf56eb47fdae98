"""The report in a real browser: silent, asking nobody, inside a phone's width, legible in light and dark."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from steps_studies import Made
from studies import write_learned, write_methods, write_retraining, write_streams, write_study

from prunus.report import write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt-get install chromium"),
]
QUIET = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-default-apps", "--hide-scrollbars"),
    "--host-resolver-rules=MAP * ~NOTFOUND",
]
THEMES = {"light": [], "dark": ["--blink-settings=preferredColorScheme=0"]}
# Runs in a copy without the policy that forbids scripts; leaves what it measured as the page's title.
MEASURE = """
<script>
onload = () => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = colour => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = colour => {
    const [r, g, b] = rgba(colour).map(part => part / 255)
      .map(part => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = element => {
    for (; element; element = element.parentElement) {
      const colour = getComputedStyle(element).backgroundColor;
      if (rgba(colour)[3]) return colour;
    }
  };
  const found = {overflow: [], contrast: {}, dark: matchMedia("(prefers-color-scheme: dark)").matches};
  document.querySelectorAll("body *").forEach(element => {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    const box = element.getBoundingClientRect();
    const free = !element.closest(".scroll, .panel");
    if (free && box.right > innerWidth + 1) found.overflow.push(element.outerHTML.slice(0, 80));
    if (!own || element.closest("title, figure[id$=-layers]")) return;
    const style = getComputedStyle(element);
    const shades = [light(element.closest("svg") ? style.fill : style.color), light(ground(element))].sort();
    const kind = element.closest("svg") ? "svg text" : element.tagName.toLowerCase();
    found.contrast[kind] = Math.min(found.contrast[kind] ?? 99, (shades[1] + 0.05) / (shades[0] + 0.05));
  });
  found.width = document.documentElement.scrollWidth;
  found.room = innerWidth;
  document.title = "MEASURED" + JSON.stringify(found) + "END";
};
</script>
"""


@pytest.fixture(scope="module", params=["studies", "steps"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five studies in one page, so that every section is on it; or one of steps to a result."""
    directory = tmp_path_factory.mktemp("browser")
    if request.param == "steps":
        unmet, without = (("sgd", 0.9, 4),), (("momentum", 0.9, 4096),)
        return opened(write_report(Made(unmet=unmet, without=without)(directory / "study")))
    writers = {"study": write_study, "methods": write_methods, "retraining": write_retraining}
    writers |= {"learned": write_learned, "streams": write_streams}
    return write_report(*(write(directory / name) for name, write in writers.items()), out=directory)


def opened(page: Path) -> Path:
    """The page with all that is folded unfolded."""
    page.write_text(page.read_text().replace("<details>", "<details open>"))
    return page


def browse(page: Path, scratch: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Open a page in a browser of its own, without a session bus to complain of."""
    assert BROWSER is not None
    command = [BROWSER, *QUIET, f"--user-data-dir={scratch / 'profile'}", *options, page.as_uri()]
    environment = {**os.environ, "HOME": str(scratch), "DBUS_SESSION_BUS_ADDRESS": "disabled:"}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=True)


def measured(page: Path, scratch: Path, *options: str) -> dict[str, Any]:
    """What ``MEASURE`` finds in a copy of the page."""
    copy = scratch / "measured.html"
    copy.write_text(re.sub(r"<meta http-equiv=[^>]+>", "", page.read_text()).replace("</head>", f"{MEASURE}</head>"))
    found = re.search("MEASURED(.*?)END", browse(copy, scratch, "--dump-dom", *options).stdout)
    assert found, "the script in the page did not run"
    values: dict[str, Any] = json.loads(found[1])
    return values


def asked_by_pages(log: Path) -> set[str]:
    """The addresses that pages asked the network for; a browser asks for things of its own, with no origin."""
    asked = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    return {entry["url"] for entry in asked if entry.get("initiator", "not an origin") != "not an origin"}


def test_the_console_stays_silent_and_nothing_is_asked_for(page: Path, tmp_path: Path) -> None:
    log = tmp_path / "network.json"
    options = ["--enable-logging=stderr", "--v=0", f"--log-net-log={log}", "--net-log-capture-mode=Everything"]
    shown = browse(page, tmp_path, *options, f"--screenshot={tmp_path / 'page.png'}")
    assert "CONSOLE" not in shown.stderr
    assert (tmp_path / "page.png").stat().st_size > 10_000
    assert asked_by_pages(log) == set()


def test_a_loud_page_would_be_heard(page: Path, tmp_path: Path) -> None:
    """With the policy of the page it cannot run a script, without it what it asks for is seen."""
    log, loud, free = (tmp_path / name for name in ("network.json", "loud.html", "free.html"))
    added = '<script>0</script><img src="https://example.org/x.png"></body>'
    loud.write_text(page.read_text().replace("</body>", added))
    shown = browse(loud, tmp_path, "--enable-logging=stderr", "--v=0", f"--screenshot={tmp_path / 'page.png'}")
    assert shown.stderr.count("CONSOLE") == 2
    free.write_text(re.sub(r"<meta http-equiv=[^>]+>", "", loud.read_text()))
    options = [f"--log-net-log={log}", "--net-log-capture-mode=Everything", f"--screenshot={tmp_path / 'page.png'}"]
    browse(free, tmp_path, *options)
    assert asked_by_pages(log) == {"https://example.org/x.png"}


@pytest.mark.parametrize("theme", THEMES)
def test_text_stands_out(page: Path, tmp_path: Path, theme: str) -> None:
    found = measured(page, tmp_path, *THEMES[theme], "--window-size=1440,900")
    assert found["dark"] is (theme == "dark")
    assert {"p", "li", "td", "th", "small", "figcaption", "a", "svg text"} <= set(found["contrast"])
    assert {kind: ratio for kind, ratio in found["contrast"].items() if ratio < 4.5} == {}


def test_nothing_overflows_a_phone(page: Path, tmp_path: Path) -> None:
    frame = tmp_path / "frame.html"
    # a window of a browser is at least 500 wide, a frame in it is not
    inner = tmp_path / "inner.html"
    text = re.sub(r"<meta http-equiv=[^>]+>", "", page.read_text())
    tell = MEASURE.replace("document.title =", "parent.document.title =")
    inner.write_text(text.replace("</head>", f"{tell}</head>"))
    frame.write_text('<iframe src="inner.html" style="width: 390px; height: 800px; border: 0"></iframe>')
    shown = browse(frame, tmp_path, "--allow-file-access-from-files", "--dump-dom")
    found = re.search("MEASURED(.*?)END", shown.stdout)
    assert found, "the script in the page did not run"
    values = json.loads(found[1])
    assert values["room"] == 390
    assert values["overflow"] == []
    assert values["width"] <= 390
