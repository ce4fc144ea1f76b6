"""The page for everybody: by keyboard, on a phone, in the dark, without motion, for who hears it."""

from pathlib import Path

import pytest
from page_things import FAST, SLOW, onnx_model

VIEWS = ("devices", "staircase", "model", "jobs")
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
# Pairs of the palette: text on what is behind it, then marks and borders.
TEXTS = [(ink, paper) for ink in ("ink", "faint", "accent", "bad", "good") for paper in ("paper", "card")] + [
    ("on-accent", "accent")
]
MARKS = [("border", "paper"), ("border", "card"), ("accent", "card"), ("bad", "card")]


def fill(page, service, view):
    """Bring a view to where it shows all that it can."""
    keys = "".join(f"&environment={one.key}" for one in (FAST, SLOW))
    if view == "devices":
        page.goto(f"{service.url}/#devices")
        page.wait_for_selector("#devices-result td")
    elif view == "staircase":
        page.goto(f"{service.url}/#staircase?axis=out{keys}")
        page.wait_for_selector("#staircase-chart .main-svg")
        page.click("#config-fields summary")
    elif view == "model":
        page.goto(f"{service.url}/#model")
        page.wait_for_selector("#model-device option", state="attached")
        name = f"{'a_long_name_without_a_gap' * 5}.onnx"
        file = {"name": name, "mimeType": "application/octet-stream", "buffer": onnx_model()}
        page.set_input_files("#model-file", files=[file])
        page.wait_for_selector("#model-result table")
    else:
        page.goto(f"{service.url}/#jobs")
        page.wait_for_selector("#jobs-result td")


@pytest.fixture(scope="module")
def waiting_job(service):
    """Have a job in the queue."""
    with service.client() as client:
        body = {"configs": ["1x8x9x9 ->8 k3 s1 p1 g1 conv fp32 nchw"], "wants": {"device": "NONE" * 40}}
        job = client.post("/v1/jobs", json=body).json()
        yield job
        client.post(f"/v1/jobs/{job['id']}/cancel")


def contrast(one, other):
    def luminance(colour):
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def palette(page, name):
    return page.evaluate(f"getComputedStyle(document.documentElement).getPropertyValue('--{name}').trim()")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_palette_has_contrast(new_page, service, scheme):
    page = new_page(color_scheme=scheme)
    page.goto(service.url)
    page.wait_for_selector("#devices-result td")
    for pairs, least in ((TEXTS, 4.5), (MARKS, 3.0)):
        for one, other in pairs:
            assert contrast(palette(page, one), palette(page, other)) >= least, (scheme, one, other)
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(22, 24, 28)")


def test_charts_follow_the_colours_of_the_reader(new_page, service, wait):
    page = new_page(color_scheme="dark")
    fill(page, service, "staircase")
    layout = "document.getElementById('staircase-chart').layout"
    for scheme in ("dark", "light", "dark"):
        page.emulate_media(color_scheme=scheme)
        ink = palette(page, "ink")
        wait(page, f"{layout}.font.color === '{ink}'")
        lines = page.evaluate(
            "document.getElementById('staircase-chart').data.map(t => t.line?.color ?? t.marker.line.color)"
        )
        assert all(contrast(colour, palette(page, "paper")) >= 3 for colour in lines)


@pytest.mark.parametrize("view", VIEWS)
def test_a_phone_need_not_be_scrolled_sideways(new_page, service, waiting_job, view):
    page = new_page(**PHONE)
    fill(page, service, view)
    assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [360, 360]
    # Nothing sticks out either, but inside what scrolls by itself.
    outside = page.evaluate(
        """ours => [...document.querySelectorAll("body *")].filter(e => {
          const box = e.getBoundingClientRect();
          return box.width && (box.right > 361 || box.left < -1) && !e.closest(ours);
        }).map(e => e.outerHTML.slice(0, 100))""",
        ".scroll, .hidden, .skip, .chart, #js-plotly-tester",
    )
    assert outside == []
    small = page.evaluate(
        """() => [...document.querySelectorAll("main button, main select, main .button, nav a")].filter(e => {
          const box = e.getBoundingClientRect();
          return box.width && (box.width < 24 || box.height < 24);
        }).map(e => e.outerHTML.slice(0, 100))"""
    )
    assert small == []


CHECKS = (Path(__file__).parent / "checks.js").read_text()


@pytest.mark.parametrize("view", VIEWS)
def test_everything_has_a_name(page, service, waiting_job, view):
    fill(page, service, view)
    page.click("#access summary")
    assert page.evaluate(CHECKS) == []
    assert page.locator(f"#view-{view} [role=status]").count() or view == "devices"
    if view != "devices":
        assert page.locator(f"#view-{view} [role=alert]").count() == 1


def focused(page):
    return page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()")


def tab_to(page, wanted, most=60):
    """Press Tab until what is focused has an id or a text; each stop must be seen to be focused."""
    for _ in range(most):
        page.keyboard.press("Tab")
        seen = page.evaluate(
            """() => {
              const e = document.activeElement;
              const shown = e.type === "file" ? e.nextElementSibling : e;
              const style = getComputedStyle(shown), box = shown.getBoundingClientRect();
              if (e.matches("h1")) return true; // where the focus is put, not where Tab stops
              return style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2
                && box.width > 0 && box.bottom > 0;
            }"""
        )
        assert seen, f"{focused(page)} does not show that it is focused"
        if focused(page) == wanted:
            return
    raise AssertionError(f"Tab does not reach {wanted}")


def test_everything_works_by_keyboard(page, service, wait, waiting_job):
    # Listened for from the start: the browser is told to ask the test for files some time after that.
    file = {"name": "k.onnx", "mimeType": "application/octet-stream", "buffer": onnx_model()}
    page.on("filechooser", lambda chooser: chooser.set_files(file))
    page.goto(service.url)
    page.wait_for_selector("#devices-result td")
    tab_to(page, "Skip to the content", 1)
    page.keyboard.press("Enter")
    wait(page, "document.activeElement.id === 'main'")
    assert page.url.endswith("/")
    tab_to(page, "staircases")
    page.keyboard.press("Enter")
    page.wait_for_selector("#staircase-chart .main-svg")
    wait(page, "document.activeElement.id === 'staircase-title'")
    # The second device is chosen with the space bar, the axis with an arrow.
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    tab_to(page, "Set its parts one by one")
    page.keyboard.press("Enter")
    tab_to(page, "part-outputs")
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("64")
    while page.evaluate("document.activeElement.type") != "radio":
        page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    tab_to(page, "Show the staircase")
    page.keyboard.press("Enter")
    wait(page, "document.getElementById('staircase-summary').textContent.includes('efficient input counts')")
    assert page.locator("#staircase-legend li").count() == 3
    assert "->64 " in page.input_value("#config")
    tab_to(page, "staircase-table")
    # On to a model, whose file is chosen with the keyboard, and to its table.
    page.evaluate("document.querySelector('nav a[href=\"#staircase\"]').focus()")
    tab_to(page, "Model")
    page.keyboard.press("Enter")
    wait(page, "document.activeElement.id === 'model-title'")
    page.wait_for_selector("#model-device option", state="attached")
    tab_to(page, "model-file")
    page.keyboard.press("Enter")
    page.wait_for_selector("#model-result table")
    tab_to(page, "In the order of the network")
    page.keyboard.press("Space")
    wait(page, "document.activeElement.getAttribute('aria-pressed') === 'true'")
    # A job is cancelled: first that needs a token, which goes in by keyboard too.
    page.evaluate("document.querySelector('nav a[href=\"#model\"]').focus()")
    tab_to(page, "Jobs")
    page.keyboard.press("Enter")
    page.wait_for_selector("#jobs-result button")
    tab_to(page, "Cancel")
    page.keyboard.press("Enter")
    page.wait_for_selector("#jobs-problem .problem")
    tab_to_problem(page)
    page.keyboard.press("Enter")
    wait(page, "document.activeElement.id === 'token'")
    page.keyboard.type(service.token)
    page.keyboard.press("Enter")
    tab_to(page, "Cancel")
    page.keyboard.press("Enter")
    wait(page, "document.getElementById('jobs-summary').textContent.includes('cancelled')")


def tab_to_problem(page):
    for _ in range(60):
        page.keyboard.press("Shift+Tab")
        if focused(page) == "Enter a token":
            return
    raise AssertionError("the button of the problem is not reached")


def test_nothing_moves_for_who_wants_no_motion(new_page, service):
    page = new_page(reduced_motion="reduce")
    fill(page, service, "model")
    longest = """() => Math.max(...[...document.querySelectorAll("*")].flatMap(e => {
      const style = getComputedStyle(e);
      return [style.transitionDuration, style.animationDuration].flatMap(t => t.split(",")).map(parseFloat);
    }))"""
    assert page.evaluate(longest) == 0
    page.emulate_media(reduced_motion="no-preference")
    assert page.evaluate(longest) > 0


def test_nothing_is_asked_for_elsewhere_and_plotly_only_when_it_is_needed(new_page, service, watch, wait):
    page = new_page()
    fill(page, service, "devices")
    assert not [url for url in watch.requests if "plotly.min" in url]
    fill(page, service, "staircase")
    assert len([url for url in watch.requests if "plotly.min" in url]) == 1
    assert {url.split("/")[2] for url in watch.requests} == {service.url.split("/")[2]}
    # The policy would stop what a bug let in.
    page.evaluate("fetch('http://127.0.0.2:9/').catch(() => null)")
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'hacked = 1'}))"
    )
    # A violation is an event of its own, some time after what it stopped.
    wait(page, "window.violations.length >= 2")
    blocked = page.evaluate("window.violations.splice(0)")
    assert sorted(entry.split(" ")[0] for entry in blocked) == ["connect-src", "script-src-elem"]
    watch.allowed += ["Content Security Policy", "127.0.0.2"]
