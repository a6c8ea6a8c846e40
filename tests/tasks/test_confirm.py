"""Who has enrolled is told so once, over another channel: a real ledger, a real wire."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prefect.logging import disable_run_logger
from pydantic import SecretStr

from clients.http import Wire
from clients.platform import PlatformClient
from clients.sendgrid import SendGridClient
from recovery.accounts import Act, Channel, Outcome, Stage, Verdict
from recovery.notify import authenticity_code
from recovery.policy import RecoveryPolicy, load_policy
from rehearsal.world.faults import CloseAfter
from rehearsal.world.mailbox import Received
from rehearsal.world.passkey_device import Device
from rehearsal.world.platform_quota import AdminToken
from rehearsal.world.population import populate
from rehearsal.world.sendgrid_app import ApiKey, SendGridApp
from rehearsal.world.serving import Loopback
from tasks.case import ROOT, Case
from tasks.confirm import confirm_enrolled
from tests.portal.conftest import clean
from tests.portal.world import CODE_KEY, INCIDENT, PortalWorld

POPULATION = populate(7, accounts=40, members=5)
PEOPLE = clean(POPULATION)
SENDER = "security@accounts.example.com"
POLICY, _ = load_policy(ROOT / "runbooks" / "rehearsal.yaml")


@dataclass
class Told:
    """A portal world with mail, and the part of a case that this task looks at."""

    world: PortalWorld
    sendgrid: SendGridApp
    case: Any
    told: list[str] = field(default_factory=list)

    async def enroll(self, account_id: str) -> None:
        browser = self.world.browser()
        page = await self.world.to_choice(browser, account_id, self.world.invite(account_id))
        page = await self.world.make_passkey(browser, page, Device())
        assert page.path == "/enroll/done", page.text

    async def run(self) -> Any:
        counts = await confirm_enrolled.fn(cast(Case, self.case))
        await self.sendgrid.settled()
        await self.world.twilio.settled()
        return counts

    def mails(self, account_id: str) -> list[Received]:
        address = POPULATION.accounts[account_id].email or ""
        return [m for m in self.world.mailboxes.of(address) if "notify_enrolled" in m.notice_id]

    def texts(self, account_id: str) -> int:
        """The codes, and whatever else came."""
        return len(self.world.mailboxes.of(POPULATION.accounts[account_id].phone or ""))

    def acts(self, step: str = "notify_enrolled") -> list[tuple[str, Verdict | None, str]]:
        records = self.world.ledger.acts(INCIDENT, step)
        return [(r.act.step, r.verdict, r.detail) for r in records]

    def policy(self, **changed: Any) -> None:
        notify = self.case.policy.notify.model_copy(update=changed)
        self.case.policy = self.case.policy.model_copy(update={"notify": notify})


@pytest.fixture
async def told(tmp_path: Path) -> AsyncIterator[Told]:
    async with AsyncExitStack() as stack:
        stack.enter_context(disable_run_logger())
        enter = stack.enter_async_context
        world = await enter(PortalWorld(POPULATION, tmp_path))
        world.contain(PEOPLE[:3])
        world.platform.admin.add(AdminToken("admin-token"))
        sendgrid = SendGridApp(
            world.clock.now, world.mailboxes, keys=[ApiKey("sg-key")], verified_senders=[SENDER]
        )
        server = await enter(Loopback(sendgrid))
        stack.push_async_callback(sendgrid.aclose)
        mail = Wire(
            "SendGrid",
            server.url,
            headers={"Authorization": SecretStr("Bearer sg-key")},
            attempts=1,
        )
        admin = {"Authorization": SecretStr("Bearer admin-token")}
        platform = Wire("the platform", world.platform_server.url, headers=admin, attempts=1)
        case = SimpleNamespace(
            incident_id=INCIDENT,
            ledger=world.ledger,
            policy=cast(RecoveryPolicy, POLICY),
            portal=SimpleNamespace(
                code_key=SecretStr(CODE_KEY), address=world.url, notice_key_path=""
            ),
            email=SendGridClient(await enter(mail), sender_email=SENDER, sender_name="Example"),
            platform=PlatformClient(await enter(platform)),
            sms=await world._sms(),
            width=lambda wanted, system: wanted,
        )
        yield Told(world, sendgrid, case)


async def test_one_mail_and_no_link(told: Told) -> None:
    for one in PEOPLE[:2]:
        await told.enroll(one)
    texts = [told.texts(one) for one in PEOPLE[:2]]
    assert len(told.world.ledger.unconfirmed(INCIDENT)) == 2
    counts = await told.run()
    assert counts.done == 2
    for one, before in zip(PEOPLE[:2], texts, strict=True):
        [mail] = told.mails(one)
        assert "://" not in (mail.text or ""), "no link, only the name of the site"
        assert "href" not in (mail.html or "")
        assert POLICY.notify.site in (mail.text or "")
        code = authenticity_code(CODE_KEY.encode(), mail.notice_id)
        assert code in (mail.text or "")
        assert told.texts(one) == before, "nothing over the channel that was just used"
        assert not told.world.platform.banners_of(one)
        # The page that tells whether a message is ours knows it.
        handle = POPULATION.accounts[one].handle
        async with told.world.http.post(
            f"{told.world.url}/check", data={"identifier": handle, "code": code}
        ) as answer:
            assert "this message is ours" in await answer.text()
    for _ in range(3):
        assert (await told.run()).total == 0
    assert [len(told.mails(one)) for one in PEOPLE[:3]] == [1, 1, 0]
    assert told.world.stage(PEOPLE[0]) is Stage.ENROLLED
    assert told.world.ledger.verify_audit()


async def test_two_runs_at_once_tell_once(told: Told) -> None:
    await told.enroll(PEOPLE[0])
    await asyncio.gather(told.run(), told.run(), told.run())
    assert len(told.mails(PEOPLE[0])) == 1


async def test_a_lost_answer_is_asked_for_and_not_repeated(told: Told) -> None:
    await told.enroll(PEOPLE[0])
    told.sendgrid.faults.inject(CloseAfter(), "mail/send", times=1)
    await told.run()
    assert told.acts() == [("notify_enrolled.email", Verdict.UNKNOWN, "Unknown")]
    await told.run()
    assert [verdict for _, verdict, _ in told.acts()] == [Verdict.DONE]
    assert len(told.mails(PEOPLE[0])) == 1


async def test_the_next_channel_and_the_budget(told: Told) -> None:
    """Where mail is not to be had, inside the platform; the phone that got the code comes last."""
    for one in PEOPLE[:3]:
        await told.enroll(one)
    told.policy(channels=(Channel.SMS, Channel.IN_APP))
    await told.run()
    for one in PEOPLE[:3]:
        [banner] = told.world.platform.banners_of(one)
        assert (banner.link, told.mails(one)) == (None, [])


async def test_the_phone_comes_last(told: Told) -> None:
    await told.enroll(PEOPLE[0])
    before = told.texts(PEOPLE[0])
    told.policy(channels=(Channel.SMS,))
    await told.run()
    assert told.texts(PEOPLE[0]) == before + 1


async def test_who_cannot_be_told_is_written_down_once(told: Told) -> None:
    await told.enroll(PEOPLE[0])
    told.policy(channels=(Channel.EMAIL,), max_messages=1)
    assert (await told.run()).total == 0
    assert told.acts("skip_enrolled") == [
        ("skip_enrolled", Verdict.REFUSED, "message budget used up")
    ]
    assert not told.world.ledger.unconfirmed(INCIDENT)
    assert not told.mails(PEOPLE[0])


async def test_a_refused_address_gives_the_next_channel(told: Told) -> None:
    await told.enroll(PEOPLE[0])
    ref = told.world.refs[PEOPLE[0]]
    act = Act(ref, "notify_enrolled.email", 1)
    told.world.ledger.intend(INCIDENT, [act])
    told.world.ledger.settle(INCIDENT, [Outcome(act, Verdict.REFUSED, "bad address")])
    await told.run()
    assert len(told.world.platform.banners_of(PEOPLE[0])) == 1
    assert (await told.run()).total == 0
