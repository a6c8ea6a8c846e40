"""A bounce, end to end: the task sends, the mail server refuses, a signed webhook tells the portal,
and the next run goes over the next channel. Every server is real.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.logging import disable_run_logger
from pydantic import SecretStr

from blocks.portal import EnrollmentPortal
from clients.http import Wire
from clients.platform import PlatformClient
from clients.sendgrid import SendGridClient
from clients.twilio import TwilioClient
from clients.vault import VaultClient
from recovery import notices
from recovery.accounts import BatchRef, Channel, Stage
from recovery.enroll import public_keys
from recovery.errors import Misconfigured
from recovery.incident import DeliveryEvent
from recovery.policy import RecoveryPolicy, load_policy
from rehearsal.world.mailbox import Mailboxes
from rehearsal.world.platform_quota import AdminToken
from rehearsal.world.population import Population, populate
from rehearsal.world.sendgrid_app import ApiKey, SendGridApp
from rehearsal.world.serving import Loopback
from tasks.case import ROOT, Case
from tasks.links import reroute, serve_requests
from tasks.notify import send_notices
from tasks.reroute import NO_LINK_CHANNEL
from tests.portal.conftest import clean
from tests.portal.world import ACCOUNT_SID, CODE_KEY, INCIDENT, SENDER, PortalWorld

BATCH = BatchRef(INCIDENT, 0, 0)
MAIL_SENDER = "security@example.com"


@dataclass
class Post:
    """A case whose messages go out over the rehearsal's servers, which report to the portal."""

    world: PortalWorld
    mail: SendGridApp
    mailboxes: Mailboxes
    case: Case
    people: list[str]

    async def notify(self) -> None:
        """One run of the notify task, and everything that the providers say of it."""
        with disable_run_logger():
            await send_notices.fn(self.case, BATCH)
        await self.settled()

    async def settled(self) -> None:
        await self.mail.settled()
        await self.world.twilio.settled()
        await self.world.twilio.callbacks.drained()
        assert self.mail.webhook.undelivered == []

    def mails(self, account_id: str) -> int:
        return len(self.mailboxes.of(self.world.population.accounts[account_id].email or ""))

    def banners(self, account_id: str) -> list[Any]:
        return list(self.world.platform.banners_of(account_id))

    def texts(self, account_id: str) -> int:
        return len(self.world.mailboxes.of(self.world.population.accounts[account_id].phone or ""))

    def limited(self, **notify: Any) -> None:
        policy = self.case.policy
        changed = policy.notify.model_copy(update=notify)
        self.case.policy = policy.model_copy(update={"notify": changed})


@pytest.fixture(scope="module")
def population() -> Population:
    return populate(7, accounts=40, members=5)


@pytest.fixture
async def post(bao: Any, population: Population, tmp_path: Path) -> AsyncIterator[Post]:
    policy, _ = load_policy(ROOT / "runbooks" / "rehearsal.yaml")
    people = clean(population)[:3]
    mailboxes = Mailboxes()
    clock: list[Any] = []
    mail = SendGridApp(
        lambda: clock[0].now(),
        mailboxes,
        keys=[ApiKey("sg-key")],
        verified_senders=[MAIL_SENDER],
        delay_seconds=(0.0, 0.01),
    )
    hooks = {"sendgrid_key": mail.webhook.public_key, "twilio_auth_token": "auth-token"}
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        world = await enter(PortalWorld(population, tmp_path, {"webhooks": hooks}))
        clock.append(world.clock)
        mail.webhook.url = f"{world.url}/hooks/sendgrid"
        mail.bouncing.add((population.accounts[people[0]].email or "").lower())
        world.platform.admin.add(AdminToken("admin", per_second=500, concurrent=100))
        world.contain(people)
        world.ledger.issue(INCIDENT, [world.refs[i] for i in people])
        yield Post(world, mail, mailboxes, await _case(enter, bao, world, mail, policy), people)


async def _case(
    enter: Any, bao: Any, world: PortalWorld, mail: SendGridApp, policy: RecoveryPolicy
) -> Case:
    for path, kid, key in (
        ("enrollment", "k1", world.key_pem),
        ("notice", "n1", world.notice_pem),
    ):
        bao.contents.put(f"recovery/{path}-signing-key", {"kid": kid, "private_pem": key})
    login = bao.contents.issue("recovery-flows")
    server = await enter(Loopback(mail))

    def wire(name: str, url: str, token: str) -> Wire:
        return Wire(name, url, headers={"Authorization": SecretStr(f"Bearer {token}")})

    vault = await enter(
        VaultClient(bao.address, role_id=login.role_id, secret_id=SecretStr(login.secret_id))
    )
    return Case(
        incident_id=INCIDENT,
        runbook="rehearsal",
        policy=policy,
        runbook_digest="0" * 64,
        runbook_commit="0" * 40,
        ledger=world.ledger,
        portal=EnrollmentPortal(
            address=world.url, issuer=world.parties.issuer, code_key=SecretStr(CODE_KEY)
        ),
        systems=SimpleNamespace(  # type: ignore[arg-type]
            siem=None,
            oauth=None,
            ci=None,
            consumers=None,
            platform=await enter(
                PlatformClient(wire("the platform", world.platform_server.url, "admin"))
            ),
            secrets=vault,
            client_secrets=vault,
            checkpoints=[],
            email=await enter(
                SendGridClient(
                    wire("SendGrid", server.url, "sg-key"),
                    sender_email=MAIL_SENDER,
                    sender_name="Security",
                )
            ),
            sms=await enter(
                TwilioClient(
                    ACCOUNT_SID,
                    (ACCOUNT_SID, SecretStr("auth-token")),
                    Wire("Twilio", world.sms_server.url),
                    messaging_service_sid=None,
                    from_number=SENDER,
                    status_callback=f"{world.url}/hooks/twilio/status",
                )
            ),
        ),
    )


async def test_the_next_run_takes_the_next_channel(post: Post) -> None:
    world, bounced = post.world, post.people[0]
    await post.notify()
    ref = world.refs[bounced]
    assert world.ledger.unreachable(INCIDENT) == {ref: {Channel.EMAIL: DeliveryEvent.BOUNCED}}
    assert {world.stage(i) for i in post.people} == {Stage.NOTIFIED}
    assert world.ledger.lost_links(INCIDENT) == [ref]

    await post.notify()
    assert [len(post.banners(i)) for i in post.people] == [2, 1, 1]
    assert [post.mails(i) for i in post.people] == [0, 1, 1], "nobody is written to twice"
    assert world.stage(bounced) is Stage.NOTIFIED
    assert world.ledger.lost_links(INCIDENT) == []
    skipped = {r.act.step: r.detail for r in world.ledger.acts(INCIDENT, "skip")}
    assert skipped == {"skip.email": "an earlier message came back"}

    before = world.ledger.audit_head()
    await post.notify()
    assert world.ledger.audit_head() == before, "a third run finds nothing to do"
    # The first link died with its message; the second leads to a new authenticator.
    first, second = (banner.link for banner in post.banners(bounced))
    assert (await world.begin(world.browser(), first)).status == 400
    assert (await world.begin(world.browser(), second)).path == "/enroll/code"
    assert world.ledger.verify_audit()


async def test_what_went_out_proves_itself(post: Post) -> None:
    """Banner and mail, by the JWKS that the portal shows; the words are those that arrived."""
    world, person = post.world, post.people[1]
    await post.notify()
    keys = public_keys(world.settings.notice_jwks)
    [banner] = post.banners(person)
    shown = notices.verify(banner.signature, keys, now=world.clock.now())
    assert shown.channel is Channel.IN_APP
    assert shown.text == notices.digest_of(banner.title, banner.body)
    assert shown.link == f"{world.url}/enroll"
    [mail] = post.mailboxes.of(world.population.accounts[person].email or "")
    sent = notices.verify(mail.headers[notices.HEADER], keys, now=world.clock.now())
    assert (sent.kind, sent.incident, sent.channel) == ("link", INCIDENT, Channel.EMAIL)
    assert sent.text == notices.digest_of(mail.subject, mail.text)
    async with world.http.post(
        f"{world.url}/check/notice",
        data={"document": banner.signature, "text": f"{banner.title}\n{banner.body}"},
    ) as answer:
        assert "This message is ours" in await answer.text()


async def test_serving_links_reacts_as_well(post: Post) -> None:
    """`serve-links` looks for bounces each time; who asks himself is answered over what is left."""
    world, bounced = post.world, post.people[0]
    await post.notify()
    with disable_run_logger():
        await reroute.fn(post.case)
    await post.settled()
    assert len(post.banners(bounced)) == 2
    assert world.ledger.request_link(world.refs[bounced])
    with disable_run_logger():
        await serve_requests.fn(post.case, [world.refs[bounced]])
    await post.settled()
    assert len(post.banners(bounced)) == 3
    assert post.mails(bounced) == 0


async def test_the_budget_holds(post: Post) -> None:
    post.limited(max_messages=1)
    await post.notify()
    await post.notify()
    assert [len(post.banners(i)) for i in post.people] == [1, 1, 1]


async def test_where_no_channel_with_a_link_is_left(post: Post) -> None:
    """Then a person has to help, and the text message says so."""
    world, bounced = post.world, post.people[0]
    post.limited(channels=(Channel.EMAIL, Channel.SMS))
    await post.notify()
    await post.notify()
    assert world.stage(bounced) is Stage.MANUAL
    assert world.ledger.account(world.refs[bounced]).stage_reason == NO_LINK_CHANNEL
    assert world.ledger.current_enrollments(INCIDENT, [world.refs[bounced]]) == []
    assert [r.act.step for r in world.ledger.acts(INCIDENT, "notify_manual")] == [
        "notify_manual.sms"
    ]
    assert {world.stage(i) for i in post.people[1:]} == {Stage.NOTIFIED}


async def test_an_opted_out_phone_gets_no_second_message(post: Post) -> None:
    world, person = post.world, post.people[1]
    phone = world.population.accounts[person].phone or ""
    world.twilio.unreachable.add(phone)
    await post.notify()
    assert world.ledger.unreachable(INCIDENT)[world.refs[person]] == {
        Channel.SMS: DeliveryEvent.BOUNCED
    }
    world.twilio.unreachable.discard(phone)
    assert world.ledger.request_link(world.refs[person])
    with disable_run_logger():
        await serve_requests.fn(post.case, [world.refs[person]])
    await post.settled()
    assert post.texts(person) == 0
    assert post.mails(person) == 2


async def test_one_key_for_two_purposes_stops_the_run(post: Post, bao: Any) -> None:
    pem = post.world.key_pem
    bao.contents.put("recovery/notice-signing-key", {"kid": "n1", "private_pem": pem})
    with disable_run_logger(), pytest.raises(Misconfigured, match="signs notices"):
        await send_notices.fn(post.case, BATCH)
    assert post.mailboxes.everything() == ()


async def test_without_a_notice_key_they_go_unsigned(post: Post) -> None:
    post.case.portal.notice_key_path = ""
    await post.notify()
    [banner] = post.banners(post.people[1])
    assert banner.signature is None
    [mail] = post.mailboxes.of(post.world.population.accounts[post.people[1]].email or "")
    assert mail.headers == {}
