"""A page in headless Chromium: whatever chromium or chrome is on the path, with nothing else installed."""

import json
import os
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = next((found for name in NAMES if (found := shutil.which(name))), None)
ABSENT = f"none of {', '.join(NAMES)} is on the path"
needs_browser = pytest.mark.skipif(
    CHROMIUM is None and os.environ.get("EYAS_REQUIRE_BROWSER") != "1",
    reason=f"{ABSENT}: install chromium, or set EYAS_REQUIRE_BROWSER=1 to fail",
)
"""For tests that open a page: a browser is the one thing that the project's own commands do not bring."""
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
OUTCOME = '<pre id="outcome">'
LIGHT, DARK = "--blink-settings=preferredColorScheme=1", "--blink-settings=preferredColorScheme=0"


def opened(page: Path, profile: Path, *flags: str) -> tuple[str, list[str]]:
    """The document once the page is loaded, and what the browser's console said. No address but the file resolves."""
    assert CHROMIUM is not None, ABSENT
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    alone = [f"--user-data-dir={profile}", "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--v=0"]
    command = [CHROMIUM, *quiet, *alone, "--window-size=1400,1000", *flags, "--dump-dom", page.resolve().as_uri()]
    run = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert run.returncode == 0, run.stderr
    return run.stdout, [line for line in run.stderr.splitlines() if ":CONSOLE" in line]


def acted(page: Path, profile: Path, script: str, *flags: str) -> dict[str, object]:
    """What `script`, the body of a function that has the page loaded, returns; the page's own rule against scripts
    that are not its own is taken out of a copy for that."""
    acting = f"""<script>addEventListener("load", () => {{
      let outcome;
      try {{ outcome = (() => {{ {script} }})() }} catch (error) {{ outcome = {{ error: String(error) }} }}
      document.body.append(Object.assign(document.createElement("pre"), {{
        id: "outcome", textContent: JSON.stringify(outcome) }}));
    }})</script>"""
    copy = page.with_name(f"acted-{page.name}")
    copy.write_text(POLICY.sub("", page.read_text()).replace("</body>", acting + "</body>"))
    document, said = opened(copy, profile, *flags)
    assert not said, said
    return json.loads(unescape(document.rpartition(OUTCOME)[2].partition("</pre>")[0]))
