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
  document.body.innerHTML = `<p>scroll=${{page.scrollWidth}} client=${{page.clientWidth}}</p>`;
}};
</script>"""


@pytest.mark.parametrize("kind", ["run", "hostile"])
@pytest.mark.parametrize("width", [360, 400, 1280, 1600])
def test_the_page_does_not_scroll_sideways(kind, width, request, tmp_path):
    page = render_html(request.getfixturevalue(kind))
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.format(width=width), encoding="utf-8")
    command = [
        CHROMIUM,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--allow-file-access-from-files",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=1700,2100",
        "--virtual-time-budget=5000",
        "--dump-dom",
        frame.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    sizes = re.search(r"scroll=(\d+) client=(\d+)", done.stdout)
    assert sizes, done.stdout + done.stderr
    scroll, client = map(int, sizes.groups())
    assert width - 20 <= client <= width
    assert scroll <= client
