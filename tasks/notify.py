"""Tell people: compose (the token is derived here, stored nowhere), send once per channel, settle.

A message is sent at most once. An answer that never came is not repeated: the provider is asked
first whether it has the message.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from clients.sendgrid import split_batches
from clients.twilio import body_hash
from recovery import enroll, notify
from recovery.accounts import Account, Act, BatchRef, Channel, Outcome, Stage, Verdict
from recovery.enroll import SigningKey, read_signing_key
from recovery.errors import NotFound, Refused
from recovery.incident import DeliveryEvent, Enrollment, FailedChannels, Intention
from recovery.messages import BannerCopy, EmailCopy, EmailText, SmsCopy
from recovery.notify import NoticeKind, PlannedNotice, Skipped
from recovery.policy import RecoveryPolicy
from tasks.acts import UNFINISHED, failed
from tasks.case import BATCHES_AT_ONCE, Case
from tasks.claims import claimed, held
from tasks.counts import BatchCounts, counted
from tasks.notices import Seal, open_seal
from tasks.reroute import reachable, reopen_lost
from tasks.retries import RETRIES
from tasks.spread import spread

STEP = "notify"
NOTIFIED_STEP = "stage.notified"
SKIP_STEP = "skip"
OPTED_OUT_CODE = "21610"
TOLD_WITHIN = timedelta(seconds=12)
"""How long a stop may take to let people be told to the end; well inside the 30 seconds between
Prefect's two signals."""
ENROLLED_MEANWHILE = "enrolled meanwhile"
ASK_AGAIN = timedelta(seconds=5)
"""Between two questions to a provider that may not list a message yet."""


@task(
    task_run_name="notify {batch.incident_id} wave {batch.wave} batch {batch.batch}",
    cache_policy=NO_CACHE,
    persist_result=False,
    timeout_seconds=3600,
    **RETRIES,
)
async def send_notices(case: Case, batch: BatchRef) -> BatchCounts:
    """NOTIFIED for who is due; a notice without a link for who is left to a person."""
    async with claimed(case, [f"people.{batch.wave}.{batch.batch}"]):
        return await _send_batch(case, batch)


async def _send_batch(case: Case, batch: BatchRef) -> BatchCounts:
    await reopen_lost(case, batch)
    due = await asyncio.to_thread(case.ledger.due, batch, Stage.NOTIFIED)
    due = await reachable(case, due)
    due += await asyncio.to_thread(_half_told, case, batch)
    manual = await asyncio.to_thread(
        lambda: [
            account
            for account in case.ledger.accounts(
                batch.incident_id, stages={Stage.MANUAL}, wave=batch.wave
            )
            if account.batch == batch.batch
        ]
    )
    counts = await notify_accounts(case, due, manual)
    if counts.total:
        get_run_logger().info("%s: %s", batch, counts)
    return counts


def _half_told(case: Case, batch: BatchRef) -> list[Account]:
    """Who is NOTIFIED and has a message whose outcome nobody knows: asked for again. For who has
    enrolled meanwhile it does not matter any more, and that is written down."""
    open_acts = {
        record.act
        for record in case.ledger.unsettled(batch.incident_id)
        if record.act.step.startswith("notify.")
    }
    if not open_acts:
        return []
    members = {
        account.ref: account
        for account in case.ledger.accounts(
            batch.incident_id,
            stages={Stage.NOTIFIED, Stage.ENROLLED, Stage.VALIDATED},
            wave=batch.wave,
            refs={act.subject for act in open_acts},
        )
        if account.batch == batch.batch
    }
    moot = [
        Outcome(act, Verdict.ALREADY, ENROLLED_MEANWHILE)
        for act in open_acts
        if act.subject in members and members[act.subject].stage is not Stage.NOTIFIED
    ]
    case.ledger.settle(batch.incident_id, moot)
    return [account for account in members.values() if account.stage is Stage.NOTIFIED]


async def publish_status(case: Case) -> None:
    """The status page shows this incident from now on, in the words of the gate just passed."""
    texts = {
        locale: notify.status_text(locale, case.policy, case.incident_id)
        for locale in notify.LOCALES
    }
    digest = notify.text_digest(case.policy)
    await asyncio.to_thread(case.ledger.publish_status, case.incident_id, texts, digest=digest)


async def notify_accounts(
    case: Case, linked: Sequence[Account], manual: Sequence[Account]
) -> BatchCounts:
    """Sends links to `linked` (their enrollments are open) and plain notices to `manual`; under a
    claim on their batches.

    A few people at a time, each over all of their channels: the brake stops between two groups, so
    that nobody has been half told.
    """
    counts = BatchCounts()
    size = at_once(case.policy)
    people = [*((a, NoticeKind.LINK) for a in linked), *((a, NoticeKind.MANUAL) for a in manual)]
    for start in range(0, len(people), size):
        await case.brake.check()
        group = people[start : start + size]
        counts = counts + await _notify_group(
            case,
            [account for account, kind in group if kind is NoticeKind.LINK],
            [account for account, kind in group if kind is NoticeKind.MANUAL],
        )
    return counts


def at_once(policy: RecoveryPolicy) -> int:
    """How many people of one batch are told before the brake is asked again: as many as all
    batches side by side can tell within `TOLD_WITHIN` at the runbook's quotas."""
    a_person = 1 / policy.quotas.sms.per_second + 1 / policy.quotas.platform.per_second
    fitting = TOLD_WITHIN.total_seconds() / (BATCHES_AT_ONCE * a_person)
    return max(1, min(int(fitting), policy.notify.personalizations))


async def _notify_group(
    case: Case, linked: Sequence[Account], manual: Sequence[Account]
) -> BatchCounts:
    refs = [account.ref for account in linked]
    enrollments = {
        e.ref: e
        for e in await asyncio.to_thread(
            case.ledger.arm, case.incident_id, refs, ttl=case.policy.enroll.token_ttl
        )
    }
    opted_out = await _opted_out(case, enrollments.values())
    sent = await asyncio.to_thread(case.ledger.messages_without_link, case.incident_id, refs)
    failed_channels = await asyncio.to_thread(
        case.ledger.unreachable, case.incident_id, [a.ref for a in (*linked, *manual)]
    )
    barred = _Barred(opted_out, failed_channels)
    letters = [
        *_letters(case, linked, NoticeKind.LINK, enrollments, barred, sent),
        *_letters(case, manual, NoticeKind.MANUAL, {}, barred, {}),
    ]
    await _record_skips(case, [s for s in letters if isinstance(s, Skipped)])
    planned = {letter.act: letter for letter in letters if isinstance(letter, _Letter)}
    intention = await asyncio.to_thread(case.ledger.intend, case.incident_id, list(planned))
    key = await _signing_key(case) if linked else None
    post = _Post(case, key, await open_seal(case, key) if planned else None)
    outcomes = await post.deliver(planned, intention)
    await _advance(case, linked, enrollments, planned)
    return counted(outcomes)


async def send_plain(case: Case, notices: Sequence[tuple[Account, PlannedNotice]]) -> list[Outcome]:
    """Notices without a link, each once; one whose answer was lost is asked for first."""
    planned = {notice.act: _Letter(account, notice, None) for account, notice in notices}
    intention = await asyncio.to_thread(case.ledger.intend, case.incident_id, list(planned))
    seal = await open_seal(case, None) if planned else None
    return await _Post(case, None, seal).deliver(planned, intention)


@dataclass(frozen=True, slots=True)
class _Letter:
    """One message to one person before it is composed."""

    account: Account
    notice: PlannedNotice
    enrollment: Enrollment | None

    @property
    def act(self) -> Act:
        return self.notice.act


@dataclass(frozen=True, slots=True)
class _Barred:
    """Whom a channel does not reach: who answered STOP, whose message came back."""

    opted_out: set[str]
    failed_channels: FailedChannels

    def failures(self, ref: str) -> Mapping[Channel, DeliveryEvent]:
        return self.failed_channels.get(ref, {})

    def silenced(self, ref: str) -> set[Channel]:
        said = {c for c, event in self.failures(ref).items() if event is DeliveryEvent.OPTED_OUT}
        return said | {Channel.SMS} if ref in self.opted_out else said


def _letters(
    case: Case,
    accounts: Iterable[Account],
    kind: NoticeKind,
    enrollments: Mapping[str, Enrollment],
    barred: _Barred,
    sent: Mapping[str, Mapping[Channel, int]],
) -> list[_Letter | Skipped]:
    letters: list[_Letter | Skipped] = []
    for account in accounts:
        enrollment = enrollments.get(account.ref)
        if kind is NoticeKind.LINK and enrollment is None:
            continue
        for notice in notify.plan_notices(
            account,
            case.policy,
            kind=kind,
            generation=enrollment.generation if enrollment else 1,
            opted_out=barred.silenced(account.ref),
            bounced=barred.failures(account.ref),
            sent={
                channel: number + (enrollment.generation - 1 if enrollment else 0)
                for channel, number in sent.get(account.ref, {}).items()
            },
        ):
            if isinstance(notice, PlannedNotice):
                letters.append(_Letter(account, notice, enrollment))
            else:
                letters.append(notice)
    return letters


async def _opted_out(case: Case, enrollments: Iterable[Enrollment]) -> set[str]:
    """Who answered STOP to an earlier message; asked only where there was one."""
    if all(e.generation == 1 for e in enrollments):
        return set()

    def refused() -> set[str]:
        return {
            record.act.subject
            for record in case.ledger.acts(case.incident_id, "notify.sms")
            if record.verdict is Verdict.REFUSED and record.detail == OPTED_OUT_CODE
        }

    return await asyncio.to_thread(refused)


async def _record_skips(case: Case, skips: Sequence[Skipped]) -> None:
    """Each person and channel that gets nothing, with the reason, once."""
    outcomes = {
        act: Outcome(act, Verdict.REFUSED, skip.reason)
        for skip in skips
        for act in [Act(skip.ref, f"{SKIP_STEP}.{skip.channel}")]
    }
    intention = await asyncio.to_thread(case.ledger.intend, case.incident_id, list(outcomes))
    fresh = [outcomes[act] for act in (*intention.fresh, *intention.unsettled)]
    await asyncio.to_thread(case.ledger.settle, case.incident_id, fresh)


async def _signing_key(case: Case) -> SigningKey:
    stored = await case.secrets.get(case.portal.signing_key_path)
    return read_signing_key(
        stored.data["kid"].get_secret_value(), stored.data["private_pem"].get_secret_value()
    )


async def _advance(
    case: Case,
    linked: Sequence[Account],
    enrollments: Mapping[str, Enrollment],
    planned: Mapping[Act, _Letter],
) -> None:
    """NOTIFIED for everybody whom the link reached over at least one channel."""
    with_link = (Channel.EMAIL, Channel.IN_APP)
    acts = [a for a, letter in planned.items() if letter.notice.channel in with_link]
    told = {act.subject for act in await asyncio.to_thread(_settled, case, acts)}
    reached = {
        act: Outcome(act, Verdict.DONE)
        for account in linked
        if account.ref in told
        for act in [Act(account.ref, NOTIFIED_STEP, enrollments[account.ref].generation)]
    }
    intention = await asyncio.to_thread(case.ledger.intend, case.incident_id, list(reached))
    await asyncio.to_thread(
        case.ledger.settle,
        case.incident_id,
        [reached[act] for act in (*intention.fresh, *intention.unsettled)],
        advance=Stage.NOTIFIED,
    )


def _settled(case: Case, acts: list[Act]) -> list[Act]:
    """Which of these acts are settled well, by the ledger."""
    return list(case.ledger.intend(case.incident_id, acts).settled)


class _Post:
    """Composes and hands over the letters of one batch."""

    def __init__(self, case: Case, key: SigningKey | None, seal: Seal | None) -> None:
        self._case = case
        self._key = key
        self._seal = seal
        self._code_key = case.portal.code_key.get_secret_value().encode()

    async def deliver(self, planned: Mapping[Act, _Letter], intention: Intention) -> list[Outcome]:
        """Sends what is fresh; what was intended before and never settled is asked for first."""
        letters = [planned[act] for act in intention.fresh]
        outcomes: list[Outcome] = []
        if intention.unsettled:
            found, again = await self._reconcile([planned[act] for act in intention.unsettled])
            outcomes += found
            letters += again
        for channel, send in (
            (Channel.EMAIL, self._email),
            (Channel.IN_APP, self._in_app),
            (Channel.SMS, self._sms),
        ):
            chosen = [letter for letter in letters if letter.notice.channel is channel]
            outcomes += await send(chosen)
        return outcomes

    def _code(self, letter: _Letter) -> str:
        return notify.authenticity_code(self._code_key, letter.notice.notice_id)

    def _link(self, letter: _Letter) -> str | None:
        if letter.enrollment is None or self._key is None:
            return None
        token = enroll.mint(letter.enrollment, self._key, self._case.portal.parties)
        return notify.enrollment_link(f"{self._case.portal.address}/enroll", token)

    async def _settle(self, outcomes: Sequence[Outcome]) -> None:
        await asyncio.to_thread(self._case.ledger.settle, self._case.incident_id, outcomes)

    # Email: few requests with many copies each, one text per language and kind.

    async def _email(self, letters: Sequence[_Letter]) -> list[Outcome]:
        groups: dict[tuple[str, NoticeKind], list[_Letter]] = defaultdict(list)
        for letter in letters:
            locale = notify.message_locale(letter.account.locale)
            groups[locale, letter.notice.kind].append(letter)
        outcomes: list[Outcome] = []
        for (locale, kind), members in groups.items():
            by_id = {letter.notice.notice_id: letter for letter in members}
            text = notify.email_text(locale, kind, self._case.policy, self._case.incident_id)
            copies = [self._email_copy(letter, text) for letter in members]
            for request in split_batches(copies, self._case.policy.notify.personalizations):
                outcomes += await self._one_request(text, kind, request, by_id)
        return outcomes

    def _email_copy(self, letter: _Letter, text: EmailText) -> EmailCopy:
        link = self._link(letter)
        copy = notify.email_copy(
            letter.account,
            letter.notice.notice_id,
            kind=letter.notice.kind,
            code=self._code(letter),
            link=link,
        )
        return self._seal.email(copy, text, letter.notice.kind, link) if self._seal else copy

    async def _one_request(
        self,
        text: EmailText,
        kind: NoticeKind,
        copies: Sequence[EmailCopy],
        by_id: Mapping[str, _Letter],
    ) -> list[Outcome]:
        """One request. Where one bad address has the whole request refused, it is split in two
        until the address stands alone."""
        case = self._case
        acts = [by_id[copy.notice_id].act for copy in copies]
        held().sure()
        try:
            receipt = await case.email.send(text, copies, category=f"recovery-{kind}")
        except Refused as error:
            if len(copies) > 1:
                half = len(copies) // 2
                return [
                    *await self._one_request(text, kind, copies[:half], by_id),
                    *await self._one_request(text, kind, copies[half:], by_id),
                ]
            outcomes = [failed(act, error) for act in acts]
        except UNFINISHED as error:
            outcomes = [failed(act, error) for act in acts]
        else:
            outcomes = [Outcome(act, Verdict.DONE, receipt=receipt) for act in acts]
        await self._settle(outcomes)
        return outcomes

    # In-app banners and text messages: one request a person.

    async def _in_app(self, letters: Sequence[_Letter]) -> list[Outcome]:
        async def post(letter: _Letter) -> Outcome:
            copy: BannerCopy = notify.banner_copy(
                letter.account,
                letter.notice.notice_id,
                kind=letter.notice.kind,
                policy=self._case.policy,
                incident_id=self._case.incident_id,
                code=self._code(letter),
                link=self._link(letter),
            )
            if self._seal:
                copy = self._seal.banner(copy, letter.notice.kind)
            verdict, banner_id = await self._case.platform.post_banner(copy)
            return Outcome(letter.act, verdict, receipt=banner_id)

        return await self._each(letters, post, "platform")

    async def _sms(self, letters: Sequence[_Letter]) -> list[Outcome]:
        async def send(letter: _Letter) -> Outcome:
            verdict, receipt = await self._case.sms.send(self._sms_copy(letter))
            if verdict is Verdict.REFUSED:
                return Outcome(letter.act, verdict, receipt)
            return Outcome(letter.act, verdict, receipt=receipt)

        return await self._each(letters, send, "sms")

    def _sms_copy(self, letter: _Letter) -> SmsCopy:
        return notify.sms_copy(
            letter.account,
            letter.notice.notice_id,
            kind=letter.notice.kind,
            policy=self._case.policy,
            incident_id=self._case.incident_id,
            code=self._code(letter),
        )

    async def _each(
        self,
        letters: Sequence[_Letter],
        send: Callable[[_Letter], Awaitable[Outcome]],
        system: str,
    ) -> list[Outcome]:
        async def guarded(letter: _Letter) -> Outcome:
            held().sure()
            try:
                return await send(letter)
            except NotFound:
                return Outcome(letter.act, Verdict.REFUSED, "not found")
            except (Refused, *UNFINISHED) as error:
                return failed(letter.act, error)

        width = self._case.width(self._case.policy.notify.concurrency, system)
        worked = await spread(letters, guarded, width=width)
        await self._settle(worked.results)
        return worked.or_raise()

    # Asking the provider about what was begun and never settled.

    async def _reconcile(self, letters: Sequence[_Letter]) -> tuple[list[Outcome], list[_Letter]]:
        """(what the provider has, what may be sent now). What it may not list yet is waited for
        and asked about again: sending it now might tell somebody twice."""
        began = {
            record.act: record.intended_at
            for record in await asyncio.to_thread(
                self._case.ledger.unsettled, self._case.incident_id
            )
        }
        # A banner's idempotency key makes repeating it harmless.
        again = [w for w in letters if w.notice.channel is Channel.IN_APP]
        asked = [w for w in letters if w.notice.channel is not Channel.IN_APP]
        found: list[Outcome] = []
        while asked:
            ripe = {w.act for w in asked if self._must_be_listed(began[w.act])}
            receipts = await self._receipts(asked, began)
            known = [
                Outcome(act, Verdict.DONE, "found at the provider", receipt)
                for act, receipt in receipts.items()
            ]
            await self._settle(known)
            found += known
            again += [w for w in asked if w.act in ripe and w.act not in receipts]
            asked = [w for w in asked if w.act not in ripe and w.act not in receipts]
            if asked:
                held().sure()
                wait = min(ASK_AGAIN, self._case.policy.crash.provider_lag)
                await asyncio.sleep(wait.total_seconds())
        return found, again

    def _must_be_listed(self, began: datetime) -> bool:
        """True where the provider would list by now whatever it was given: by us, or by a run that
        lost this work and may have been in the middle of handing it over."""
        lag = self._case.policy.crash.provider_lag
        return self._case.ledger.now() - began > lag and held().settled_down(lag)

    async def _receipts(
        self, letters: Sequence[_Letter], began: Mapping[Act, datetime]
    ) -> dict[Act, str]:
        """What the providers have of these, with their receipts."""
        emails = {w.notice.notice_id: w.act for w in letters if w.notice.channel is Channel.EMAIL}
        mailed = await self._case.email.found(list(emails)) if emails else {}
        receipts = {emails[notice_id]: receipt for notice_id, receipt in mailed.items()}
        for letter in letters:
            if letter.notice.channel is Channel.SMS:
                since = began[letter.act] - self._case.policy.crash.provider_lag
                receipt = await self._texted(letter, since)
                if receipt is not None:
                    receipts[letter.act] = receipt
        return receipts

    async def _texted(self, letter: _Letter, since: datetime) -> str | None:
        """The provider's id of this very text to this phone, or None."""
        copy = self._sms_copy(letter)
        sent = await self._case.sms.sent_since(copy.to, since)
        return next((sid for sid, hashed in sent if hashed == body_hash(copy.body)), None)


def preview_stage(account: Account, kind: NoticeKind) -> Account:
    """The account as it would stand when it is written to; for plans made ahead."""
    return replace(account, stage=Stage.MANUAL if kind is NoticeKind.MANUAL else Stage.TOKEN_ISSUED)
