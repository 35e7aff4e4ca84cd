"""In a browser, from file://, on a desk and on a telephone: figures have size and no text lies on another."""

import json
import re
import shutil
import subprocess
from html import escape, unescape

import pytest

from bilevel.report import page, read
from bilevel.report.page import POLICY

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
MEASURE = """<script>addEventListener("load", () => {
  const box = (one) => { const r = one.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; };
  const leaves = [...document.querySelectorAll("svg text, td, th, h1, h2, p, .key, summary, figcaption, pre")]
    .filter((one) => one.textContent.trim() && one.getClientRects().length && !one.closest("details:not([open])"));
  const texts = leaves.map((one) => {
    const range = document.createRange(); range.selectNodeContents(one);
    return [one.tagName, one.textContent.slice(0, 40), box(range)]; });
  const figures = [...document.querySelectorAll("figure svg, img")]
    .filter((one) => !one.closest("details:not([open])")).map((one) => box(one));
  const inks = leaves.map((one) => [one.textContent.slice(0, 40),
    getComputedStyle(one)[one instanceof SVGElement ? "fill" : "color"]]);
  const found = {texts, figures, inks, width: document.documentElement.scrollWidth, paper:
    getComputedStyle(document.body).backgroundColor};
  document.body.innerHTML = ""; document.body.textContent = "FOUND" + JSON.stringify(found) + "END"; });</script>"""

# A window of a headless browser has a least width, so that the page is shown in a frame of the width asked for.
FRAME = """<!DOCTYPE html><body><iframe style="border:0;width:WIDTHpx;height:6000px" srcdoc="PAGE"></iframe><script>
  addEventListener("load", () => setTimeout(() => {
    document.body.textContent = document.querySelector("iframe").contentDocument.body.textContent; }, 500));
</script></body>"""


DARK = "--blink-settings=preferredColorScheme=0"  # what a browser whose user prefers dark pages tells the page


@pytest.mark.sample(1)
@pytest.mark.skipif(BROWSER is None, reason="no browser is installed")
@pytest.mark.parametrize(("width", "number"), [(1280, 1), (390, 1), (390, 3)])
def test_figures_have_size_and_texts_do_not_overlap(write_run, tmp_path, width, number):
    """Of one run, and of several that are compared; a legend may be wider than a telephone."""
    words = "with one penalty for all of the classes, the best of a grid"
    head = {"sentence": "test loss 0.1", "name": "test loss", "value": 0.1, "baselines": {words: 0.5}}
    told = {"headline": {**head, "against": {"baseline_single_test_loss": words}}, "baseline_single_test_loss": 0.5}
    html = page([read(write_run(f"run{k}", settings={"seed": k}, summary=told)) for k in range(number)])
    assert number > 1 or f"held out: {words}" in html
    html = html.replace(POLICY, "").replace("</body>", f"{MEASURE}</body>")  # the page itself allows no script
    found = measured(html, tmp_path / "frame.html", width)
    assert found["width"] <= width
    assert len(found["figures"]) >= (6 if number == 1 else 3)
    for left, top, right, bottom in found["figures"]:
        assert right - left > 20 and bottom - top > 5 and right <= width + 1
    texts = [one for one in found["texts"] if one[0] not in ("FIGCAPTION",)]
    for place, (_, first, one) in enumerate(texts):
        for _, second, other in texts[place + 1 :]:
            across = min(one[2], other[2]) - max(one[0], other[0])
            down = min(one[3], other[3]) - max(one[1], other[1])
            assert across <= 1 or down <= 2, f"{first!r} lies on {second!r} at {width} pixels"


@pytest.mark.sample(1)
@pytest.mark.skipif(BROWSER is None, reason="no browser is installed")
@pytest.mark.parametrize(("settings", "dark"), [((DARK,), True), ((), False)])
def test_texts_stand_out_from_a_dark_and_from_a_light_page(write_run, tmp_path, settings, dark):
    """By the ratio of luminances that W3C asks for, Web Content Accessibility Guidelines 2.1, 1.4.3."""
    html = page([read(write_run())]).replace(POLICY, "").replace("</body>", f"{MEASURE}</body>")
    found = measured(html, tmp_path / "frame.html", 390, *settings)
    paper = luminance(found["paper"])
    assert (paper < 0.1) == dark
    for text, ink in found["inks"]:
        low, high = sorted((paper, luminance(ink)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, f"{text!r} in {ink} on {found['paper']}"


def luminance(color):
    """The relative luminance of a colour "rgb(r, g, b)"."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def measured(html, path, width, *settings):
    """What the script in the page finds, at a viewport of this width."""
    path.write_text(FRAME.replace("WIDTH", str(width)).replace("PAGE", escape(html)))
    command = [
        *(str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", "--virtual-time-budget=4000"),
        *settings,
        *("--window-size=1400,2000", path.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    told = re.search(r"FOUND(.*)END", unescape(done.stdout), re.DOTALL)
    assert told, done.stderr[-2000:]
    return json.loads(told[1])
