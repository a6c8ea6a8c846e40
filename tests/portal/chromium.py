"""A real Chromium, driven by its DevTools protocol over one websocket."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect

BINARY = Path("/usr/bin/chromium")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)
_START_SECONDS = 30.0
_ANSWER_SECONDS = 20.0


class Chromium:
    """One tab of a browser never used before. `events` is all that the tab told."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self._folder = tempfile.mkdtemp(prefix="chromium-")
        self._asked = 0
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._session: str | None = None

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            str(BINARY),
            *_FLAGS,
            f"--user-data-dir={self._folder}",
            "about:blank",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            self._socket: ClientConnection = await connect(await self._address(), max_size=None)
            self._reading = asyncio.create_task(self._read())
            target = await self._call("Target.createTarget", url="about:blank")
            attached = await self._call(
                "Target.attachToTarget", targetId=target["targetId"], flatten=True
            )
            self._session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Network", "Log", "Audits"):
                await self._call(f"{domain}.enable")
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._reading.cancel()
        await self._socket.close()
        await self._end()

    async def _end(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _address(self) -> str:
        port_file = Path(self._folder) / "DevToolsActivePort"
        deadline = asyncio.get_running_loop().time() + _START_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            if port_file.exists() and len(lines := port_file.read_text().split("\n")) >= 2:
                return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
            await asyncio.sleep(0.05)
        raise RuntimeError("Chromium did not start")

    async def _read(self) -> None:
        async for message in self._socket:
            told = json.loads(message)
            if "id" in told:
                self._waiting.pop(told["id"]).set_result(told)
            else:
                self.events.append(told)

    async def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._asked += 1
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[self._asked] = answer
        request = {"id": self._asked, "method": method, "params": parameters}
        if self._session is not None:
            request["sessionId"] = self._session
        await self._socket.send(json.dumps(request))
        told = await asyncio.wait_for(answer, _ANSWER_SECONDS)
        if "error" in told:
            raise RuntimeError(f"{method}: {told['error'].get('message')}")
        result: dict[str, Any] = told["result"]
        return result

    async def run(self, script: str) -> Any:
        """The value of an expression in the page; of a promise, what it comes to."""
        told = await self._call(
            "Runtime.evaluate",
            expression=script,
            returnByValue=True,
            awaitPromise=True,
            userGesture=True,
        )
        if "exceptionDetails" in told:
            raise RuntimeError(told["exceptionDetails"]["text"])
        return told["result"].get("value")

    async def open(self, address: str) -> None:
        await self._leave()
        await self._call("Page.navigate", url=address)
        await self._arrived()

    async def type(self, selector: str, text: str) -> None:
        await self.run(f"document.querySelector({selector!r}).focus()")
        await self.run(f"document.querySelector({selector!r}).select()")
        await self._call("Input.insertText", text=text)

    async def press_enter(self) -> None:
        """In the field that has the focus, as with a keyboard."""
        await self._leave()
        for kind in ("keyDown", "keyUp"):
            await self._call(
                "Input.dispatchKeyEvent",
                type=kind,
                key="Enter",
                code="Enter",
                text="\r" if kind == "keyDown" else "",
                windowsVirtualKeyCode=13,
            )
        await self._arrived()

    async def click(self, selector: str) -> None:
        """A real click in the middle of the element, and the page it leads to."""
        await self._leave()
        await self._mouse(selector)
        await self._arrived()

    async def _mouse(self, selector: str) -> None:
        where = await self.run(
            f"(e => {{ e.scrollIntoView({{block: 'center'}}); const r = e.getBoundingClientRect();"
            f" return [r.x + r.width / 2, r.y + r.height / 2]; }})"
            f"(document.querySelector({selector!r}))"
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self._call(
                "Input.dispatchMouseEvent",
                type=kind,
                x=where[0],
                y=where[1],
                button="left",
                clickCount=1,
            )

    async def width(self, pixels: int) -> None:
        await self._call(
            "Emulation.setDeviceMetricsOverride",
            width=pixels,
            height=800,
            deviceScaleFactor=1,
            mobile=pixels < 600,
        )

    async def without_scripts(self) -> None:
        await self._call("Emulation.setScriptExecutionDisabled", value=True)

    async def authenticator(self, **differing: Any) -> str:
        """Plugs in a virtual authenticator; its id. By default a phone with a fingerprint."""
        await self._call("WebAuthn.enable")
        options = {
            "protocol": "ctap2",
            "transport": "internal",
            "hasResidentKey": True,
            "hasUserVerification": True,
            "isUserVerified": True,
            "automaticPresenceSimulation": True,
        }
        told = await self._call("WebAuthn.addVirtualAuthenticator", options=options | differing)
        authenticator_id: str = told["authenticatorId"]
        return authenticator_id

    async def unplug(self, authenticator_id: str) -> None:
        await self._call("WebAuthn.removeVirtualAuthenticator", authenticatorId=authenticator_id)

    async def languages(self, wanted: str) -> None:
        headers = {"Accept-Language": wanted}
        await self._call("Network.setExtraHTTPHeaders", headers=headers)

    async def passkeys(self, authenticator_id: str) -> list[dict[str, Any]]:
        told = await self._call("WebAuthn.getCredentials", authenticatorId=authenticator_id)
        kept: list[dict[str, Any]] = told["credentials"]
        return kept

    async def until(self, script: str) -> None:
        """Returns when the expression is true in the page. Raises TimeoutError."""
        deadline = asyncio.get_running_loop().time() + _ANSWER_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            with contextlib.suppress(RuntimeError):
                if await self.run(script):
                    return
            await asyncio.sleep(0.05)
        raise TimeoutError(f"{script} did not come true")

    async def press(self, selector: str) -> None:
        """A real click that a script answers, without a new page."""
        await self._mouse(selector)

    async def script_first(self, source: str) -> None:
        """Runs before every page's own scripts from now on."""
        await self._call("Page.addScriptToEvaluateOnNewDocument", source=source)

    async def cookies(self) -> dict[str, dict[str, Any]]:
        told = await self._call("Network.getCookies")
        return {cookie["name"]: cookie for cookie in told["cookies"]}

    async def history(self) -> list[str]:
        told = await self._call("Page.getNavigationHistory")
        return [entry["url"] for entry in told["entries"]]

    def sent(self) -> list[tuple[str, dict[str, str]]]:
        """Every request's URL, and the headers that went with the requests on the wire."""
        urls: dict[str, str] = {}
        found: list[tuple[str, dict[str, str]]] = []
        for event in self.events:
            given = event["params"]
            if event["method"] == "Network.requestWillBeSent":
                urls[given["requestId"]] = given["request"]["url"]
            elif event["method"] == "Network.requestWillBeSentExtraInfo":
                headers = {name.lower(): value for name, value in given["headers"].items()}
                found.append((urls.get(given["requestId"], ""), headers))
        return found

    def complaints(self) -> list[str]:
        """What the console would show in red, save that a page answered 4xx on purpose."""
        found: list[str] = []
        for event in self.events:
            given = event["params"]
            if event["method"] == "Log.entryAdded" and given["entry"]["level"] == "error":
                if given["entry"]["source"] != "network":
                    found.append(given["entry"]["text"])
            elif event["method"] == "Runtime.exceptionThrown":
                found.append(given["exceptionDetails"]["text"])
            elif event["method"] == "Audits.issueAdded":
                found.append(given["issue"]["code"])
        return found

    async def _leave(self) -> None:
        await self.run("window.leaving = true")

    async def _arrived(self) -> None:
        deadline = asyncio.get_running_loop().time() + _ANSWER_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            try:
                if await self.run("!window.leaving && document.readyState === 'complete'"):
                    return
            except RuntimeError:
                pass  # Between two pages there is nothing to ask.
            await asyncio.sleep(0.02)
        raise TimeoutError("the next page did not come")
