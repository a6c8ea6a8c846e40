"""The figures against examples worked by hand, and the pages: whole, self-contained, impersonal."""

import random
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recovery.accounts import Act, Quarantined, Stage, Verdict
from recovery.incident import (
    ActRecord,
    ApprovalAttempt,
    ClientRecord,
    Incident,
    Mark,
    ScopeCounts,
    Tally,
)
from recovery.report import (
    AuditHead,
    ReportInput,
    RotationState,
    StageTimes,
    Standing,
    WorldCheck,
    WorldFacts,
    client_outcomes,
    count_quarantined,
    kpis,
    render_html,
    render_markdown,
    summarize,
    timeline,
)
from recovery.report_input import scrub
from recovery.report_kpis import duration
from recovery.report_svg import curves_svg, gantt_svg

OPENED = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


def at(minutes: float) -> datetime:
    return OPENED + minutes * MINUTE


def incident(**changes: object) -> Incident:
    fields: dict[str, object] = {
        "incident_id": "INC-2026-0142",
        "opened_at": OPENED,
        "window_start": at(-40),
        "window_end": at(-28),
        "runbook_digest": "9f2c" * 16,
        "runbook_commit": "c8c1b82d" * 5,
        "requested_by": "oscar",
    }
    return Incident(**{**fields, **changes})  # type: ignore[arg-type]


def report(
    *,
    stages: dict[tuple[int, Stage], int] | None = None,
    times: Iterable[tuple[str, Stage, datetime]] = (),
    marks: Iterable[tuple[str, float]] = (),
    after: timedelta = 30 * MINUTE,
    **changes: object,
) -> ReportInput:
    stages = {(0, Stage.SCOPED): 10} if stages is None else stages
    admitted = sum(stages.values())
    fields: dict[str, object] = {
        "incident": incident(),
        "scope": ScopeCounts(admitted, admitted, 0, 0, 0, 0, 0),
        "marks": [Mark(name, at(minutes)) for name, minutes in marks],
        "times": StageTimes.of(times),
        "tally": Tally(stages, {}),
        "steps": [],
        "clients": [],
        "approvals": [],
        "quarantined": {},
        "deliveries": {},
        "audit": AuditHead(0, ""),
        "generated_at": OPENED + after,
    }
    return ReportInput(**{**fields, **changes})  # type: ignore[arg-type]


def reached(stage: Stage, *minutes: float) -> list[tuple[str, Stage, datetime]]:
    return [(f"acc-{n}", stage, at(m)) for n, m in enumerate(minutes)]


def act(
    subject: str, step: str, verdict: Verdict | None, detail: str = "", n: int = 1
) -> ActRecord:
    return ActRecord(Act(subject, step, n), verdict, detail, "", {}, OPENED, OPENED)


def client(client_id: str, **changes: object) -> ClientRecord:
    fields: dict[str, object] = {
        "client_id": client_id,
        "name": f"Client {client_id}",
        "owner": "team",
        "risk": "low",
        "consumers": (f"{client_id}-a", f"{client_id}-b"),
        "linked_accounts": 12,
        "wave": 0,
    }
    return ClientRecord(**{**fields, **changes})  # type: ignore[arg-type]


def full(seed: int = 5, *, rehearsal: bool = True) -> ReportInput:
    """An incident of the playbook's size, a day on: 338 accounts, 14 client secrets."""
    chance = random.Random(seed)
    times: list[tuple[str, Stage, datetime]] = []
    stages: dict[tuple[int, Stage], int] = {}
    for n in range(338):
        ref, wave = f"acc-{n:05}", 0 if n < 10 else 1 if n < 31 else 2 if n < 131 else 3
        contained = 11 + wave * 2.1 + chance.random() * 1.8
        times.append((ref, Stage.CONTAINED, at(contained)))
        stage = Stage.CONTAINED
        if 10 <= n < 31:
            stage = Stage.MANUAL
        else:
            notified = 31 + wave * 1.5 + chance.random()
            times.append((ref, Stage.NOTIFIED, at(notified)))
            stage = Stage.NOTIFIED
            if chance.random() < 0.9:
                enrolled = notified + chance.lognormvariate(4.2, 1.3)
                if enrolled < 24 * 60:
                    times.append((ref, Stage.ENROLLED, at(enrolled)))
                    stage = Stage.VALIDATED if chance.random() < 0.8 else Stage.ENROLLED
        stages[wave, stage] = stages.get((wave, stage), 0) + 1
    stages[-1, Stage.EXCLUDED] = 3
    marks = [
        ("detect.started", 0.2),
        ("detect.finished", 3.4),
        ("gate.contain.waiting", 3.5),
        ("gate.contain.passed.0123456789abcdef", 10.6),
        ("contain.started", 10.7),
        ("contain.first_action", 10.9),
        ("contain.finished", 19.5),
        ("enroll.started", 19.6),
        ("enroll.finished", 24.0),
        ("gate.notify.waiting", 24.1),
        ("gate.notify.passed.0123456789abcdef", 30.8),
        ("notify.started", 30.9),
        ("notify.finished", 38.2),
        ("rotate.started", 38.3),
        ("rotate.finished", 64.0),
        ("validate.started", 64.1),
        ("validate.finished", 69.2),
        ("gate.retire.waiting", 69.3),
        ("gate.retire.passed.0123456789abcdef", 92.0),
        ("retire.started", 92.1),
        ("retire.finished", 97.5),
    ]
    acts = [act(f"acc-{n}", "contain.account", Verdict.DONE) for n in range(335)]
    acts += [act(f"acc-{n}", "contain.account", Verdict.ALREADY) for n in range(335, 338)]
    acts += [act(f"acc-{n}", "enroll.remove_authenticators", Verdict.DONE) for n in range(317)]
    acts += [act(f"acc-{n}", "notify.email", Verdict.DONE) for n in range(309)]
    acts += [act(f"acc-{n}", "notify.email", Verdict.REFUSED, "bounced") for n in range(3)]
    acts += [act(f"acc-{n}", "notify.email", Verdict.UNKNOWN, "Unknown") for n in range(2)]
    acts += [act(f"acc-{n}", "notify.sms", Verdict.DONE) for n in range(300)]
    acts += [act(f"acc-{n}", "notify.sms", Verdict.REFUSED, "21610") for n in range(12)]
    acts += [act(f"acc-{n}", "notify.in_app", Verdict.DONE) for n in range(317)]
    acts += [act(f"acc-{n}", "skip.sms", Verdict.REFUSED, "no address on record") for n in range(5)]
    rotation = [
        act(f"app-{n:02}", step, Verdict.DONE)
        for n in range(12)
        for step in (
            "rotate.create.create_secret",
            "rotate.deploy.promote",
            "rotate.deploy.restart",
            "rotate.test.prove",
            "rotate.retire.deactivate",
            "rotate.retire.delete",
            "rotate.retire.drop_previous",
        )
    ]
    rotation += [
        act("app-12", "rotate.deploy.restart", Verdict.REFUSED, "unverified"),
        act("app-12", "rotate.roll_back.roll_back", Verdict.DONE),
        act("app-12", "rotate.outcome", Verdict.REFUSED, "the new secret did not work"),
    ]
    records = [client(f"app-{n:02}", risk=("low", "medium", "high")[n % 3]) for n in range(13)]
    records.append(client("app-13", consumers=(), untouched_reason="no known consumer"))
    approvals = [
        ApprovalAttempt(
            "contain",
            "a1b2c3d4e5f6" * 5,
            1,
            "maya",
            "approve",
            "go",
            "the one-time code was not accepted",
            at(6),
        ),
        ApprovalAttempt(
            "contain", "a1b2c3d4e5f6" * 5, 2, "maya", "approve", "go", "", at(10.6), at(40)
        ),
        ApprovalAttempt("notify", "0c9d8e7f6a5b" * 5, 1, "legal", "approve", "ok", "", at(30.8)),
        ApprovalAttempt("retire", "77aa66bb55cc" * 5, 1, "jonas", "approve", "ok", "", at(92)),
    ]
    world = WorldFacts(
        at(17.4),
        (
            WorldCheck("no stolen session, token or password works", True, "412 tried, 0 accepted"),
            WorldCheck("nobody got the same notice twice", True, "912 messages, 0 doubled"),
            WorldCheck("no consumer's request failed on the way", False, "2 of 18,412 failed"),
        ),
    )
    return report(
        stages=stages,
        times=times,
        marks=marks,
        after=24.5 * HOUR,
        scope=ScopeCounts(
            343, 338, 3, 2, 21, 9, 4, {"brand": 18, "admin": 3, "high follower count": 9}
        ),
        steps=summarize(acts + rotation),
        clients=client_outcomes(records, rotation),
        approvals=approvals,
        quarantined={
            ("email", "malformed address"): 4,
            ("phone", "not an assigned number range"): 3,
            ("account_id", "sighted, but the roster does not know it"): 2,
            ("email", "look-alike letters in the domain"): 2,
        },
        deliveries={"delivered": 301, "bounced": 3, "dropped": 2},
        audit=AuditHead(4_812, "6d1f0c" * 10 + "abcd"),
        world=world if rehearsal else None,
    )


# --- figures -----------------------------------------------------------------------------------


def figure(given: ReportInput, key: str) -> tuple[str, Standing]:
    kpi = kpis(given).by_key[key]
    return kpi.value, kpi.standing


def test_first_containment_counts_from_the_opening() -> None:
    one = report(times=reached(Stage.CONTAINED, 9.5, 12))
    assert figure(one, "first_containment") == ("9 min 30 s", Standing.MET)
    assert figure(
        replace(one, marks=[Mark("contain.first_action", at(8))]), "first_containment"
    ) == (
        "8 min",
        Standing.MET,
    )
    late = report(times=reached(Stage.CONTAINED, 10.5))
    assert figure(late, "first_containment") == ("10 min 30 s", Standing.MISSED)
    assert figure(report(after=9 * MINUTE), "first_containment") == ("not yet", Standing.OPEN)
    assert figure(report(after=11 * MINUTE), "first_containment") == ("not yet", Standing.MISSED)


def test_all_contained_needs_all() -> None:
    stages = {(0, Stage.CONTAINED): 3, (0, Stage.MANUAL): 1, (-1, Stage.EXCLUDED): 5}
    three = report(stages=stages, times=reached(Stage.CONTAINED, 11, 12, 13), after=20 * MINUTE)
    assert figure(three, "all_contained") == ("not yet", Standing.OPEN)
    assert kpis(three).by_key["all_contained"].note == "4 of 4"
    four = replace(three, times=StageTimes.of(reached(Stage.CONTAINED, 11, 24, 12, 13)))
    assert figure(four, "all_contained") == ("24 min", Standing.MET)


def test_ninety_percent_is_the_ninth_of_ten() -> None:
    minutes = [50, 60, 70, 80, 90, 100, 110, 115, 119]
    nine = report(times=reached(Stage.ENROLLED, *minutes), after=3 * HOUR)
    assert figure(nine, "remediation_90") == ("1 h 59 min", Standing.MET)
    eight = report(times=reached(Stage.ENROLLED, *minutes[:8]), after=HOUR)
    assert figure(eight, "remediation_90") == ("not yet", Standing.OPEN)
    assert figure(replace(eight, generated_at=at(121)), "remediation_90")[1] is Standing.MISSED
    notified = report(times=reached(Stage.NOTIFIED, *range(30, 39)))
    assert figure(notified, "notified_90") == ("38 min", Standing.MET)


def test_an_account_counts_from_the_first_time() -> None:
    again = StageTimes.of(
        [
            ("acc-1", Stage.NOTIFIED, at(90)),
            ("acc-1", Stage.NOTIFIED, at(30)),
            ("acc-1", Stage.TOKEN_ISSUED, at(1)),
        ]
    )
    assert again.notified == {"acc-1": at(30)}


def test_shares_stay_open_as_long_as_they_can_come_out_either_way() -> None:
    notices = reached(Stage.NOTIFIED, *[30] * 10)
    eight = [*notices, *reached(Stage.ENROLLED, *[60] * 8)]
    one = report(times=eight, after=10 * HOUR)
    assert figure(one, "enrolled_24h_notified") == ("80.0%", Standing.OPEN)
    assert figure(replace(one, generated_at=at(30) + 25 * HOUR), "enrolled_24h_notified") == (
        "80.0%",
        Standing.MISSED,
    )
    nine = report(times=[*notices, *reached(Stage.ENROLLED, *[60] * 9)], after=2 * HOUR)
    assert figure(nine, "enrolled_24h_notified") == ("90.0%", Standing.MET)
    late = [*notices, *reached(Stage.ENROLLED, *[60] * 8, 30 + 24 * 60 + 1)]
    assert figure(report(times=late, after=30 * HOUR), "enrolled_24h_notified") == (
        "80.0%",
        Standing.MISSED,
    )
    assert figure(report(times=late, after=30 * HOUR), "enrolled_72h_notified") == (
        "90.0%",
        Standing.MET,
    )
    # Since the opening, people without a notice count as well.
    few = report(times=[*reached(Stage.NOTIFIED, 30, 30), *reached(Stage.ENROLLED, 60, 60)])
    assert figure(few, "enrolled_24h_notified") == ("100.0%", Standing.MET)
    assert figure(few, "enrolled_24h_opened") == ("20.0%", Standing.OPEN)
    over = replace(few, generated_at=OPENED + 25 * HOUR)
    assert figure(over, "enrolled_24h_opened") == ("20.0%", Standing.MISSED)


def test_the_attackers_last_success_is_held_against_containment() -> None:
    contained = reached(Stage.CONTAINED, *range(10, 20))
    for minutes, standing in ((18.0, Standing.MET), (19.5, Standing.MISSED)):
        seen = report(times=contained, world=WorldFacts(at(minutes)))
        assert kpis(seen).by_key["attacker"].standing is standing
    none = report(times=contained, world=WorldFacts(None))
    assert figure(none, "attacker") == ("none since the opening", Standing.MET)
    assert "attacker" not in kpis(report(times=contained)).by_key


def test_failed_integrations() -> None:
    records = [client("app-1"), client("app-2")]
    assert figure(report(), "failed_integrations") == ("none rotated", Standing.OPEN)
    half = client_outcomes(records, [act("app-1", "rotate.test.prove", Verdict.DONE)])
    assert figure(report(clients=half), "failed_integrations") == ("0", Standing.OPEN)
    both = client_outcomes(
        records, [act(c, "rotate.test.prove", Verdict.DONE) for c in ("app-1", "app-2")]
    )
    assert figure(report(clients=both), "failed_integrations") == ("0", Standing.MET)
    ill = client_outcomes(
        records,
        [act(c, "rotate.test.prove", Verdict.DONE) for c in ("app-1", "app-2")],
        ill_consumers=["app-2-b"],
    )
    assert figure(report(clients=ill), "failed_integrations") == ("1", Standing.MISSED)
    assert ill[1].ill_consumers == ("app-2-b",)


def test_an_incident_without_accounts_has_no_figures() -> None:
    empty = report(stages={}, after=5 * HOUR)
    assert {k.standing for k in kpis(empty).all} == {Standing.OPEN}
    assert "No affected account" in render_markdown(empty)
    assert curves_svg(empty) == ""
    render_html(empty)


def test_what_became_of_clients() -> None:
    def state(*acts: ActRecord) -> tuple[RotationState, str, int]:
        (outcome,) = client_outcomes([client("app-1")], acts)
        return outcome.state, outcome.reason, outcome.failures

    proved = act("app-1", "rotate.test.prove", Verdict.DONE)
    retired = act("app-1", "rotate.retire.drop_previous", Verdict.DONE)
    refused = act("app-1", "rotate.deploy.restart", Verdict.REFUSED, "unverified")
    back = act("app-1", "rotate.roll_back.roll_back", Verdict.DONE, "back")
    ask = act("app-1", "rotate.outcome", Verdict.REFUSED, "somebody rotated by hand")
    assert state() == (RotationState.OPEN, "", 0)
    assert state(proved) == (RotationState.RENEWED, "", 0)
    assert state(proved, retired) == (RotationState.RETIRED, "", 0)
    assert state(retired, proved) == (RotationState.RETIRED, "", 0)
    assert state(refused, back) == (RotationState.ROLLED_BACK, "back", 1)
    assert state(refused, back, ask) == (RotationState.ASK, "somebody rotated by hand", 1)
    assert state(ask, proved, retired) == (RotationState.RETIRED, "", 0)
    repair = act("app-1", "rotate.repair.drop_previous", Verdict.DONE)
    assert state(repair) == (RotationState.OPEN, "", 0)
    (left,) = client_outcomes([client("app-1", untouched_reason="one secret only")], [proved])
    assert (left.state, left.reason, left.failed) == (
        RotationState.UNTOUCHED,
        "one secret only",
        False,
    )
    # Approved by name: then what was done counts.
    promoted = act("app-1", "rotate.deploy.promote", Verdict.DONE)
    (done,) = client_outcomes(
        [client("app-1", untouched_reason="nobody known")], [promoted, proved, retired]
    )
    assert done.state is RotationState.RETIRED


def test_a_secret_that_was_replaced_in_place_tells_its_gap() -> None:
    acts = [
        act("app-1", "rotate.create.rotate_in_place", Verdict.DONE),
        act("app-1", "rotate.deploy.promote", Verdict.DONE),
        replace(act("app-1", "rotate.deploy.restart", Verdict.DONE), counts={"gap_ms": 840}),
        replace(act("app-1", "rotate.deploy.restart", Verdict.DONE), counts={"gap_ms": 310}),
        act("app-1", "rotate.test.prove", Verdict.DONE),
    ]
    (hurt,) = client_outcomes([client("app-1", untouched_reason="one secret only")], acts)
    assert (hurt.state, hurt.failed) == (RotationState.RETIRED, False)
    assert "without service for up to 840 ms" in hurt.reason
    prepared = [a for a in acts if not a.counts]
    (well,) = client_outcomes([client("app-1")], prepared)
    assert well.reason == "replaced in place; nobody was seen without service"


def test_acts_are_summed_by_step_with_reasons() -> None:
    summary = summarize(
        iter(
            [
                act("acc-1", "notify.email", Verdict.DONE),
                act("acc-2", "notify.email", Verdict.REFUSED, "bounced"),
                act("acc-3", "notify.email", Verdict.REFUSED, "bounced"),
                act("acc-4", "notify.email", Verdict.UNKNOWN),
                act("acc-5", "notify.email", None),
                act("acc-1", "contain.account", Verdict.ALREADY),
            ]
        )
    )
    assert [s.step for s in summary] == ["notify.email", "contain.account"]
    mail = summary[0]
    assert (mail.done, mail.refused, mail.unknown, mail.unsettled, mail.total) == (1, 2, 1, 1, 5)
    assert mail.refused_reasons == {"bounced": 2}
    assert mail.unknown_reasons == {"no reason given": 1}


def test_quarantine_is_counted_by_field_and_reason() -> None:
    rows = [Quarantined("roster", n, "email", "malformed address", f"u-{n}") for n in range(3)]
    rows.append(Quarantined("roster", 9, "phone", "no country code", "u-9"))
    assert count_quarantined(rows) == {
        ("email", "malformed address"): 3,
        ("phone", "no country code"): 1,
    }


# --- timeline ----------------------------------------------------------------------------------


def test_phases_against_the_playbooks_windows() -> None:
    line = timeline(
        report(
            marks=[
                ("detect.started", 0),
                ("detect.finished", 9),
                ("contain.started", 12),
                ("contain.finished", 26),
                ("enroll.started", 26),
            ],
            after=44 * MINUTE,
        )
    )
    spans = {p.phase: p for p in line.phases}
    assert spans["detect"].standing is Standing.MET
    assert spans["detect"].window == (timedelta(0), 10 * MINUTE)
    assert spans["contain"].standing is Standing.MISSED
    assert (spans["contain"].started, spans["contain"].finished) == (12 * MINUTE, 26 * MINUTE)
    assert (spans["enroll"].standing, spans["enroll"].finished) == (Standing.OPEN, None)
    assert spans["rotate"].started is None
    later = timeline(report(marks=[("enroll.started", 26)], after=46 * MINUTE))
    assert {p.phase: p.standing for p in later.phases}["enroll"] is Standing.MISSED


def test_waiting_for_people_is_counted_once() -> None:
    line = timeline(
        report(
            marks=[
                ("gate.contain.waiting", 2),
                ("gate.contain.passed.aa", 8),
                ("gate.notify.waiting", 6),
                ("gate.notify.passed.bb", 10),
                ("gate.retire.waiting", 20),
            ],
            after=25 * MINUTE,
        )
    )
    assert [w.gate for w in line.waits] == ["contain", "notify", "retire"]
    assert line.waits[2].until is None
    assert line.waited == (8 + 5) * MINUTE


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.4, "under 1 s"),
        (48, "48 s"),
        (60, "1 min"),
        (252, "4 min 12 s"),
        (3_900, "1 h 5 min"),
        (7_200, "2 h"),
        (184_000, "2 d 3 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(timedelta(seconds=seconds)) == text


# --- pages -------------------------------------------------------------------------------------

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Collects what the page is made of and whether every tag is closed where it should be."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "title"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def test_the_page_needs_nothing_but_itself() -> None:
    html = render_html(full())
    page = Page(html)
    assert page.open == []
    assert not {"script", "link", "img", "iframe", "object", "form", "a"} & set(page.tags)
    assert not [
        name for name, _ in page.attributes if name.startswith("on") or name in ("src", "href")
    ]
    assert "url(http" not in html
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", html)
    assert "prefers-color-scheme:dark" in html
    assert "@media print" in html


def test_the_page_says_what_is_true() -> None:
    given = full()
    text = Page(render_html(given)).text
    assert "338 of 338 accounts contained in" in text
    assert "343 sighted = 338 admitted + 3 excluded + 2 not in the roster" in text
    assert "nobody lost" in text
    assert "10 min 54 s" in text  # first containment
    assert "missed" in text
    assert "12 of 14 client secrets rotated (1 in trouble)" in text
    assert "the new secret did not work" in text
    assert "21610" in text
    assert given.audit.hash in text
    assert "Rehearsal" in text
    assert "412 tried, 0 accepted" in text
    assert "no address on record" in text
    bare = Page(render_html(full(rehearsal=False))).text
    assert "Rehearsal" not in bare
    assert "Attacker" not in bare


def test_a_scope_that_does_not_add_up_is_an_alarm() -> None:
    lost = replace(full(), scope=replace(full().scope, sighted=350))
    assert "does not add up" in Page(render_html(lost)).text
    assert "does not add up" in render_markdown(lost)
    assert "does not add up" not in render_markdown(full())


def test_nothing_to_do_is_said() -> None:
    quiet = report()
    assert "Nothing was refused and nothing is unknown." in Page(render_html(quiet)).text
    assert "Nothing was refused and nothing is unknown." in render_markdown(quiet)


PLANTED = (
    "ana.k@example.com",
    "+1 202 555 0123",
    "12025550123",
    "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhIn0.c2ln",
)


@pytest.mark.parametrize("planted", PLANTED)
def test_personal_data_that_strays_into_a_reason_does_not_come_out(planted: str) -> None:
    reason = f"refused for {planted} <script>alert(1)</script> | `x`"
    acts = [
        act("acc-1", "notify.email", Verdict.REFUSED, reason),
        act("acc-2", "notify.email", Verdict.UNKNOWN, reason),
        act("acc-3", "skip.email", Verdict.REFUSED, reason),
        act("app-1", "rotate.outcome", Verdict.REFUSED, reason),
    ]
    given = replace(
        full(),
        incident=incident(requested_by=reason),
        steps=summarize(acts),
        clients=client_outcomes([client("app-1", name=reason, owner=reason)], acts),
        approvals=[
            ApprovalAttempt("contain", "d" * 64, 1, planted, "approve", reason, reason, OPENED)
        ],
        quarantined=count_quarantined([Quarantined("roster", 1, "email", reason, planted)]),
        world=WorldFacts(None, (WorldCheck(reason, True, reason),)),
    )
    for output in (render_html(given), render_markdown(given)):
        assert planted not in output
        assert "[withheld]" in output
    assert Page(render_html(given)).open == []
    assert "script" not in Page(render_html(given)).tags


def test_scrubbing_leaves_ordinary_words_alone() -> None:
    for text in (
        "21610",
        "old password: expected 401, got 200",
        "2 of 18,412 failed",
        "acc-abcdefgh",
    ):
        assert scrub(text) == text


def test_the_markdown_is_short_and_its_tables_are_whole() -> None:
    shown = render_markdown(full())
    assert len(shown) < 8_000
    assert shown.startswith("# INC-2026-0142 (rehearsal)\n")
    assert "\n\n\n" not in shown
    tables = re.findall(r"(?:^\|.*\n)+", shown, flags=re.MULTILINE)
    assert len(tables) == 3
    for table in tables:
        rows = table.strip().split("\n")
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
    assert "| First containment action | **10 min 54 s** | within 10 min | ❌ missed |" in shown


def test_pictures_are_well_formed() -> None:
    for shown in (full(), report(), report(after=timedelta(days=3)), report(stages={})):
        line = timeline(shown)
        for picture in (
            gantt_svg(line),
            gantt_svg(line, [("A & B <c>", 17 * MINUTE, True), ("late", timedelta(days=2), False)]),
            curves_svg(shown),
        ):
            if picture:
                ET.fromstring(picture)


_marks = st.lists(
    st.tuples(
        st.sampled_from(
            [f"{p}.{w}" for p in ("detect", "contain", "retire") for w in ("started", "finished")]
            + ["gate.contain.waiting", "gate.contain.passed.ab", "gate.hold.contain.0.waiting"]
        ),
        st.floats(-5, 10_000),
    ),
    unique_by=lambda m: m[0],
)
_times = st.lists(
    st.tuples(
        st.sampled_from([f"acc-{n}" for n in range(12)]),
        st.sampled_from(Stage),
        st.floats(0, 10_000).map(at),
    ),
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(marks=_marks, times=_times, people=st.integers(0, 12), after=st.floats(0, 10_000))
def test_any_incident_can_be_reported(
    marks: list[tuple[str, float]],
    times: list[tuple[str, Stage, datetime]],
    people: int,
    after: float,
) -> None:
    stages = {(0, Stage.CONTAINED): people} if people else {}
    given_report = report(stages=stages, marks=marks, times=times, after=after * MINUTE)
    assert Page(render_html(given_report)).open == []
    assert render_markdown(given_report)
    for kpi in kpis(given_report).all:
        assert kpi.measured is None or kpi.measured >= 0
    line = timeline(given_report)
    assert line.waited >= timedelta(0)
    ET.fromstring(gantt_svg(line))
