"""A real Chromium, without a network, that pages are opened in."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

ARGUMENTS = (
    *(
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
    ),
    *("--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--hide-scrollbars", "--disable-dev-shm-usage"),
    # Nothing is resolved: whatever a page asks of a network fails, and is seen.
    "--host-resolver-rules=MAP * ~NOTFOUND",
)


class Browser:
    """Opens files, and says what it did and what went wrong."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def open(self, path: Path, width: int = 1280, *, dark: bool = False) -> None:
        """Open a file in a window of this width (CSS pixels)."""
        self.resize(width)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[scheme])
        self._log("performance")
        self._log("browser")
        self.driver.get(path.as_uri())

    def resize(self, width: int) -> None:
        """Change the width of the window, as a phone's cannot be had otherwise."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
        )

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script of ours finds on the page."""
        return self.driver.execute_script(script, *arguments)

    def command(self, name: str, **arguments: Any) -> Any:
        """A command of the DevTools protocol."""
        return self.driver.execute_cdp_cmd(name, arguments)

    def console(self) -> list[dict[str, Any]]:
        """Errors and warnings since the page was opened."""
        return self._log("browser")

    def requested(self) -> list[str]:
        """The addresses that were asked for since the page was opened."""
        messages = [
            json.loads(entry["message"])["message"]
            for entry in self._log("performance")
        ]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]

    def picture(self, path: Path, top: int, width: int, height: int) -> None:
        """Write a part of the page as a PNG; all in CSS pixels."""
        clip = {"x": 0, "y": top, "width": width, "height": height, "scale": 1}
        shot = self.command(
            "Page.captureScreenshot", captureBeyondViewport=True, clip=clip
        )
        path.write_bytes(base64.b64decode(shot["data"]))

    def _log(self, kind: str) -> list[dict[str, Any]]:
        """What was logged since this was asked for last."""
        entries: list[dict[str, Any]] = self.driver.get_log(kind)  # type: ignore[no-untyped-call]
        return entries


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """Start Chromium with a new ``profile``, and end it; RuntimeError without one."""
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    missing = [name for name, path in programs.items() if path is None]
    if missing:
        raise RuntimeError(
            f"{' and '.join(missing)} cannot be found: tools/debian-packages"
            f" {' '.join(missing)} installs it"
        )
    options = Options()
    options.binary_location = str(programs["chromium"])
    for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    logged = {"browser": "ALL", "performance": "ALL"}
    options.set_capability("goog:loggingPrefs", logged)
    driver = Chrome(options, Service(programs["chromedriver"]))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
