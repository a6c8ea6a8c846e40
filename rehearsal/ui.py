"""`python -m rehearsal.ui`: a person's path through the Prefect UI, in a real browser.

Fills in the run form, waits at the gate, answers the Resume form with a wrong code, reads why it
was refused, answers it with the right one, and so on to the end. --pictures writes the pages.
"""

import argparse
import asyncio
import base64
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from playwright.async_api import Locator, Page, async_playwright

from rehearsal.drive import INCIDENT
from rehearsal.operator import Operator, RunState
from rehearsal.prefect_server import ROOT
from rehearsal.stage import REQUESTER, Stage
from rehearsal.world.scenarios import SCENARIOS

CHROMIUM = Path("/usr/bin/chromium")
FOLDER = ROOT / "var" / "ui"
PICTURES = ROOT / "docs" / "images"
PAGE_SECONDS = 120.0
RUN_SECONDS = 900.0
POLL_SECONDS = 0.5
WIDTH, HEIGHT = 1280, 960
REFUSED = "The last answer was refused"
Say = Callable[[str], None]


class PrefectPages:
    """The pages of the Prefect UI that a person needs, by what they see: labels and buttons."""

    def __init__(self, page: Page, url: str, pictures: Path | None) -> None:
        self._page, self._url, self._pictures = page, url, pictures

    async def picture(self, name: str, *, whole: bool = False) -> None:
        """Nothing where no pictures are wanted."""
        if self._pictures is not None:
            await self._page.wait_for_timeout(1500)
            path = self._pictures / f"{name}.png"
            await self._page.screenshot(path=path, full_page=whole)

    async def run_form(self, deployment_id: str, values: Mapping[str, str | bool]) -> None:
        """Fills in a deployment's run form and submits it; a switch is set by a bool."""
        await self._page.goto(f"{self._url}/deployments/deployment/{deployment_id}/run")
        form = self._page.locator("form")
        await form.wait_for()
        for label, value in values.items():
            field = _field(form, label)
            if isinstance(value, str):
                await field.locator("textarea").fill(value)
            elif await self._switched(field) is not value:
                await field.get_by_role("switch").click()
        await self.picture("run-form", whole=True)
        async with self._page.expect_response(lambda r: r.url.endswith("/create_flow_run")) as made:
            await self._page.get_by_role("button", name="Submit").click()
        assert (await made.value).status == 201

    @staticmethod
    async def _switched(field: Locator) -> bool:
        names = await field.get_by_role("switch").get_attribute("class") or ""
        return "checked" in names

    async def open_run(self, run_id: str, state: str, *, tab: str = "") -> None:
        """The run's page, once it shows this state."""
        address = f"{self._url}/runs/flow-run/{run_id}"
        await self._page.goto(f"{address}?tab={tab}" if tab else address)
        await self._page.get_by_text(state, exact=True).first.wait_for()

    async def open_form(self) -> str:
        """Presses Resume; the text of the form that comes."""
        await self._page.get_by_role("button", name="Resume").first.click()
        await self._modal.locator("textarea").first.wait_for()
        return await self._modal.inner_text()

    async def answer(self, *, approver: str, decision: str, reason: str, code: str) -> None:
        """Fills in the form and submits it. The decision is chosen by keyboard: the box is a button
        that opens a list, and the arrows go through it from its first line."""
        modal = self._modal
        await _field(modal, "approver").locator("textarea").fill(approver)
        await _field(modal, "Reason").locator("textarea").fill(reason)
        await _field(modal, "code").locator("textarea").fill(code)
        box = _field(modal, "Decision").locator(".p-select-button__control")
        await self._choose(box, decision)
        async with self._page.expect_response(lambda r: r.url.endswith("/resume")) as sent:
            await modal.get_by_role("button", name="Submit").click()
        assert (await (await sent.value).json())["status"] == "ACCEPT"

    async def _choose(self, box: Locator, wanted: str) -> None:
        await box.focus()
        await box.press("ArrowDown")
        lines = self._page.locator(".p-select-option")
        await lines.first.wait_for()
        for _ in range(await lines.count()):
            at = await self._page.locator(".p-select-option--highlighted").inner_text()
            if at.strip() == wanted:
                break
            await box.press("ArrowDown")
        await box.press("Enter")
        chosen = (await box.inner_text()).strip()
        if chosen != wanted:
            raise RuntimeError(f"The box shows {chosen!r}, not {wanted!r}")

    async def artifact(self, key: str, shows: str, name: str, *, whole: bool = True) -> str:
        """The newest artifact of this key as the UI renders it, once it shows some text."""
        await self._page.goto(f"{self._url}/artifacts/key/{key}")
        await self._page.get_by_text(shows).first.wait_for()
        await self.picture(name, whole=whole)
        return await self._page.locator("body").inner_text()

    async def pictures_drawn(self) -> list[int]:
        """The widths of the images in the page's Markdown; 0 for one that could not be drawn."""
        widths = "() => [...document.querySelectorAll('article img')].map(i => i.naturalWidth)"
        return list(await self._page.evaluate(widths))

    @property
    def _modal(self) -> Locator:
        return self._page.locator("[role=dialog]")


def _field(within: Locator, label: str) -> Locator:
    named = within.page.locator("label.p-label__label", has_text=label)
    return within.locator(".p-label", has=named).first


@dataclass(frozen=True, slots=True)
class Walked:
    """What the person saw."""

    run: RunState
    first_form: str
    refused_form: str
    gates: tuple[str, ...]
    """Every gate that was answered, in order; the refused answer counts too."""
    figures: str
    widths: tuple[int, ...]


class Walk:
    """One person at the browser, with the phones of all approvers on the desk."""

    def __init__(self, stage: Stage, operator: Operator, pages: PrefectPages, say: Say) -> None:
        self._stage, self._operator, self._pages, self._say = stage, operator, pages, say
        self._asked: Counter[str] = Counter()
        self._gates: list[str] = []
        self._forms: list[str] = []

    async def whole(self) -> Walked:
        """From the run form to the artifacts of the finished run."""
        run_id = await self._start()
        stop = asyncio.Event()
        people = asyncio.create_task(self._stage.people.run_prompt(stop))
        try:
            run = await self._answer_all(run_id)
        finally:
            stop.set()
            await people
        await self._pages.open_run(run_id, run.state)
        await self._pages.picture("run-completed")
        figures, widths = await self._artifacts()
        return Walked(run, self._forms[0], self._forms[1], tuple(self._gates), figures, widths)

    async def _start(self) -> str:
        """Starts `respond` by its form; the id of the run that came of it."""
        deployment = await self._operator.deployment_id("respond/respond")
        values: dict[str, str | bool] = {
            "incident_id": INCIDENT,
            "runbook": self._stage.scenario.runbook,
            "dry_run": False,
            "requested_by": REQUESTER,
        }
        await self._pages.run_form(deployment, values)
        self._say("the run form is filled in and submitted")
        return await self._operator.newest_run(deployment)

    async def _answer_all(self, run_id: str) -> RunState:
        """Answers each gate in the browser until the run has ended. The first answer is wrong."""
        answered: set[str] = set()
        async with asyncio.timeout(RUN_SECONDS):
            while True:
                self._stage.prefect.check()
                run = await self._operator.look(run_id)
                if run.ended:
                    return run
                if run.type == "PAUSED" and run.pause_key not in answered:
                    answered.add(run.pause_key)
                    await self._answer(run)
                await asyncio.sleep(POLL_SECONDS)

    async def _answer(self, run: RunState) -> None:
        number = len(self._gates)
        await self._pages.open_run(run.run_id, "Suspended")
        if number == 0:
            await self._pages.picture("run-suspended")
        text = await self._pages.open_form()
        self._forms.append(text)
        if number < 2:
            await self._pages.picture("form-refused" if number else "resume-form")
        if number == 1 and REFUSED not in text:
            raise RuntimeError("The form after a wrong code does not say that it was refused")
        name = self._approver(run.gate, count=number > 0)
        signer = self._stage.world.approvers[name]
        await asyncio.sleep(signer.seconds_until_fresh())
        code = signer.code()
        if number == 0:
            code = f"{(int(code) + 1) % 1_000_000:06}"
        await self._pages.answer(
            approver=name, decision="approve", reason="read the plan in the UI", code=code
        )
        self._gates.append(run.gate)
        self._say(f"gate {run.gate}: {name} answered{', with a wrong code' if not number else ''}")

    def _approver(self, gate: str, *, count: bool) -> str:
        """The next of the gate's approvers; whoever typed a wrong code tries once more."""
        approvals = self._stage.policy.approvals
        names = approvals.of_gate(gate.replace("-", ".")).approvers
        name = str(names[self._asked[gate] % len(names)])
        self._asked[gate] += count
        return name

    async def _artifacts(self) -> tuple[str, tuple[int, ...]]:
        suffix = INCIDENT.lower()
        await self._pages.artifact(f"progress-contain-{suffix}", "batches", "artifact-progress")
        await self._pages.artifact(f"contain-{suffix}", "canary", "artifact-contain")
        await self._pages.artifact(f"runs-{suffix}", "Runs of", "artifact-runs")
        figures = await self._pages.artifact(f"kpis-{suffix}", "Figures of", "artifact-kpis")
        return figures, tuple(await self._pages.pictures_drawn())


async def walk(stage: Stage, pictures: Path | None, say: Say) -> Walked:
    """The whole path on a stage that is up."""
    operator = Operator(stage.prefect.api, stage.prefect.auth)
    try:
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(
                executable_path=CHROMIUM, args=["--no-sandbox"]
            )
            page = await browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
            page.set_default_timeout(PAGE_SECONDS * 1000)
            # What the UI's own log-in page leaves in the browser.
            kept = base64.b64encode(stage.prefect.auth.encode()).decode()
            await page.add_init_script(f"localStorage.setItem('prefect-password', '{kept}')")
            try:
                return await Walk(
                    stage, operator, PrefectPages(page, stage.prefect.url, pictures), say
                ).whole()
            finally:
                await browser.close()
    finally:
        await operator.close()


async def _life(stage: Stage, pictures: Path | None) -> int:
    try:
        await stage.up(print)
        seen = await walk(stage, pictures, print)
        print(f"{seen.run.name} ended as {seen.run.state}: {seen.run.message}")
        return 0 if seen.run.type == "COMPLETED" else 1
    finally:
        await stage.down()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accounts", type=int, default=120)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pictures", action="store_true", help="write docs/images")
    chosen = parser.parse_args()
    if not CHROMIUM.exists():
        print(f"No browser at {CHROMIUM}; on Debian: apt install chromium")
        return 1
    scenario = SCENARIOS["mass-reset"]
    stage = Stage(FOLDER, scenario=scenario, seed=chosen.seed, accounts=chosen.accounts)
    try:
        stage.prepare()
        return asyncio.run(_life(stage, PICTURES if chosen.pictures else None))
    finally:
        stage.release()


if __name__ == "__main__":
    sys.exit(main())
