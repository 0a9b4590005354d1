"""The page in a real browser: it fits the window, from a telephone to a desk."""

import re
import shutil
import subprocess

import pytest

from edgebench.report.html import render_html

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

# Chromium's own window is never narrower than 500 px, so the page is put in a frame of the width.
FRAME = """<!DOCTYPE html><title>waiting</title>
<iframe src="report.html" style="width:{width}px;height:2000px;border:0"></iframe>
<script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument.documentElement;
  const box = page.querySelector("[aria-label='Verdict table']");
  document.body.innerHTML = `<p>scroll=${{page.scrollWidth}} client=${{page.clientWidth}}
    inside=${{box.scrollWidth}} box=${{box.clientWidth}}</p>`;
}};
</script>"""


def sizes(page, width, folder):
    """What the page and its verdict table need in a frame of `width`, and what they have, in px."""
    (folder / "report.html").write_text(page, encoding="utf-8")
    frame = folder / "frame.html"
    frame.write_text(FRAME.format(width=width), encoding="utf-8")
    command = [
        CHROMIUM,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--allow-file-access-from-files",
        f"--user-data-dir={folder / 'profile'}",
        "--window-size=1700,2100",
        "--virtual-time-budget=5000",
        "--dump-dom",
        frame.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    found = dict(re.findall(r"(scroll|client|inside|box)=(\d+)", done.stdout))
    assert len(found) == 4, done.stdout + done.stderr
    return {name: int(size) for name, size in found.items()}


@pytest.mark.parametrize("kind", ["run", "hostile"])
@pytest.mark.parametrize("width", [360, 400, 1280, 1600])
def test_the_page_does_not_scroll_sideways(kind, width, request, tmp_path):
    found = sizes(render_html(request.getfixturevalue(kind)), width, tmp_path)
    assert width - 20 <= found["client"] <= width
    assert found["scroll"] <= found["client"]


@pytest.mark.parametrize("width", [1200, 1280])
def test_every_column_of_the_verdicts_is_in_sight(run, width, tmp_path):
    found = sizes(render_html(run), width, tmp_path)
    assert found["inside"] <= found["box"]
