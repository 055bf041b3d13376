"""A real browser for tests, spoken to through pipes: Chromium's DevTools protocol."""

import base64
import contextlib
import itertools
import json
import os
import pathlib
import select
import shutil
import subprocess

NAMES = ("chromium", "google-chrome", "chromium-browser")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--disable-dev-shm-usage --hide-scrollbars --remote-debugging-pipe"
).split()


class Page:
    """One page of a browser."""

    def __init__(self, folder: pathlib.Path):
        self.numbers = itertools.count(1)
        self.loads = 0
        self.errors: list[str] = []  # what the page's console and policy complain of
        (hears, speaks), (reads, writes) = os.pipe(), os.pipe()
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}"]
        plumbing = f'exec "$0" "$@" 3<&{hears} 4>&{writes}'
        self.process = subprocess.Popen(
            ["bash", "-c", plumbing, *command, "about:blank"],
            pass_fds=(hears, writes),
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        os.close(hears), os.close(writes)
        self.speaks, self.reads = open(speaks, "wb"), open(reads, "rb")
        self.buffer = b""
        self.session = None
        targets = self.call("Target.getTargets")["targetInfos"]
        target = next(t["targetId"] for t in targets if t["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        """Sends a command and waits for its answer."""
        number = next(self.numbers)
        asked = {"id": number, "method": method, "params": parameters}
        if self.session:
            asked["sessionId"] = self.session
        self.speaks.write(json.dumps(asked).encode() + b"\0")
        self.speaks.flush()
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def _next(self):
        while b"\0" not in self.buffer:
            there, _, _ = select.select([self.reads], [], [], 60)
            assert there, "the browser says nothing"
            more = os.read(self.reads.fileno(), 1 << 20)
            assert more, "the browser has gone"
            self.buffer += more
        line, _, self.buffer = self.buffer.partition(b"\0")
        said = json.loads(line)
        self.loads += said.get("method") == "Page.loadEventFired"
        if said.get("method") == "Log.entryAdded":
            self.errors.append(said["params"]["entry"]["text"])
        if said.get("method") == "Runtime.exceptionThrown":
            self.errors.append(str(said["params"]["exceptionDetails"])[:2000])
        return said

    def open(self, url, *, width=1280, height=900, dark=False, script=True):
        """Goes to a page and waits until it is loaded."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1}
        phone = width < 600
        self.call("Emulation.setDeviceMetricsOverride", **size, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Emulation.setScriptExecutionDisabled", value=not script)
        for address in ("about:blank", url):
            before = self.loads
            self.call("Page.navigate", url=address)
            while self.loads == before:
                self._next()

    def value(self, expression):
        """What an expression is worth in the page, promises awaited."""
        options = {"awaitPromise": True, "returnByValue": True}
        found = self.call("Runtime.evaluate", expression=expression, **options)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait_for(self, expression):
        """Waits up to 20 seconds for an expression to be true; gives its value."""
        return self.value(
            "new Promise((done, fail) => { const began = performance.now(); const look "
            f"= () => {{ const value = {expression}; if (value) done(value); else if "
            "(performance.now() - began > 20000) fail(new Error('never')); else "
            "setTimeout(look, 10); }; look(); })"
        )

    def picture(self, file, whole=False):
        """Writes a screenshot."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        pathlib.Path(file).write_bytes(base64.b64decode(found["data"]))

    def close(self):
        with contextlib.suppress(BrokenPipeError, AssertionError):
            self.session = None
            self.call("Browser.close")
        self.speaks.close(), self.reads.close()
        self.process.wait(timeout=20)
