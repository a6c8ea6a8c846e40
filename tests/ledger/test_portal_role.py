"""The portal's role on a real PostgreSQL: it can redeem and settle, and nothing else."""

import secrets
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ledger import Ledger
from ledger.portal_role import statements
from recovery.accounts import Act, Outcome, Stage, Verdict
from recovery.errors import Misconfigured, RecoveryError, Unverified
from recovery.incident import CodeCheck, Delivery, DeliveryEvent
from recovery.status import PublicStep, StatusText

ROOT = Path(__file__).resolve().parents[2]
STEP = "enroll.bind"
TTL = timedelta(minutes=30)


@pytest.fixture
def backend() -> str:
    return "postgresql"


@pytest.fixture
def role(postgresql: Any, url: str) -> Iterator[str]:
    name = f"portal_{secrets.token_hex(4)}"
    postgresql.admin(f"CREATE ROLE {name} LOGIN")
    database = url.partition("@/")[2].partition("?")[0]
    with postgresql._connect(database) as owner:
        for statement in statements(name) * 2:  # safe to repeat
            owner.execute(statement.encode())
    yield name
    with postgresql._connect(database) as owner:
        for table in ("marks", "accounts", "stage_changes", "acts", "enrollments"):
            owner.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY".encode())
        owner.execute(f"DROP OWNED BY {name}".encode())
    postgresql.admin(f"DROP ROLE {name}")


@pytest.fixture
def as_portal(url: str, role: str, clock: Any, world: Any) -> Iterator[Ledger]:
    ledger = Ledger(url.replace("//ledger@", f"//{role}@"), key=world.key, clock=clock)
    yield ledger
    ledger.close()


@pytest.fixture
def portal_sql(postgresql: Any, url: str, role: str) -> Iterator[psycopg.Connection[Any]]:
    database = url.partition("@/")[2].partition("?")[0]
    with psycopg.connect(
        host=str(postgresql.folder), user=role, dbname=database, autocommit=True
    ) as connection:
        yield connection


def test_the_whole_way_under_the_narrow_role(world: Any, as_portal: Ledger) -> None:
    as_portal.check()
    texts = {"en": StatusText("t", "b", dict.fromkeys(PublicStep, "s"))}
    world.ledger.publish_status(world.incident, texts, digest="d")
    [enrollment] = world.armed(1)
    world.carry_out([enrollment.ref], "notify.email", advance=Stage.NOTIFIED, receipt="m-1")

    assert as_portal.public_statuses()[0].texts == texts
    assert [v.ref for v in as_portal.find_account("person.0")] == [enrollment.ref]
    assert as_portal.visitor(enrollment.ref).phone
    assert [r.act.step for r in as_portal.notices(enrollment.ref)] == ["notify.email"]
    assert as_portal.request_link(enrollment.ref)
    assert not as_portal.request_link(enrollment.ref)
    assert as_portal.throttle("anything", limit=1, per=TTL)
    event = Delivery("m-1", DeliveryEvent.DELIVERED, "e-1", f"{enrollment.ref}.notify.email.1")
    assert as_portal.settle_deliveries([event]) == 1

    session = "s" * 64
    as_portal.begin(enrollment.jti, session_hash=session, ttl=TTL)
    assert as_portal.store_code(session, code_hash="c", ttl=TTL, max_sends=3)
    assert as_portal.check_code(session, "c", max_attempts=5) is CodeCheck.ACCEPTED
    as_portal.store_candidate(session, b"sealed")
    as_portal.redeem(enrollment.jti, session)
    act = Act(enrollment.ref, STEP)
    as_portal.intend(world.incident, [act])
    as_portal.settle(world.incident, [Outcome(act, Verdict.UNKNOWN, "lost")])
    outcome = Outcome(act, Verdict.DONE, receipt="auth-1")
    as_portal.settle(world.incident, [outcome], advance=Stage.ENROLLED)
    as_portal.complete(session)
    assert world.stage(enrollment.ref) is Stage.ENROLLED
    assert world.ledger.verify_audit()
    with pytest.raises(Unverified):
        as_portal.redeem(enrollment.jti, "x" * 64)


def test_what_flows_do_is_refused(world: Any, as_portal: Ledger) -> None:
    refs = world.contained(2)
    [enrollment] = world.ledger.issue(world.incident, refs[:1])
    contain = Act(enrollment.ref, "contain.revoke_again")
    world.ledger.intend(world.incident, [contain])
    for attempt in (
        lambda: as_portal.issue(world.incident, refs[1:]),
        lambda: as_portal.arm(world.incident, refs[:1], ttl=TTL),
        lambda: as_portal.hand_over(world.incident, refs, "no"),
        lambda: as_portal.intend(world.incident, [Act(enrollment.ref, "contain.other")]),
        lambda: as_portal.settle(world.incident, [Outcome(contain, Verdict.DONE)]),
        lambda: as_portal.close_incident(world.incident),
        lambda: as_portal.mark(world.incident, "contain.finished"),
        lambda: as_portal.publish_status(world.incident, {}, digest="d"),
        lambda: as_portal.incident(world.incident),
        lambda: as_portal.account(enrollment.ref),
        lambda: list(as_portal.audit()),
        lambda: as_portal.approvals(world.incident, "contain"),
        lambda: as_portal.tally(world.incident),
        lambda: as_portal.migrate(),
    ):
        with pytest.raises(RecoveryError):
            attempt()
    assert world.ledger.verify_audit()
    assert world.stage(enrollment.ref) is Stage.TOKEN_ISSUED


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT priority FROM accounts",
        "SELECT reasons, linked_apps FROM accounts",
        "SELECT * FROM approvals",
        "SELECT * FROM clients",
        "SELECT * FROM sightings",
        "SELECT * FROM quarantine",
        "SELECT * FROM audit",
        "SELECT runbook_digest FROM incidents",
        "UPDATE accounts SET email = 'thief@example.com'",
        "UPDATE accounts SET phone = '+15550100'",
        "UPDATE enrollments SET expires_at = now() + interval '1 year'",
        "UPDATE enrollments SET superseded_at = NULL",
        "INSERT INTO enrollments (jti, incident_id, ref, generation, created_at)"
        " SELECT 'x', incident_id, ref, 9, now() FROM accounts LIMIT 1",
        "UPDATE audit SET hash = ''",
        "DELETE FROM audit",
        "UPDATE audit_head SET key_check = ''",
        "DELETE FROM portal_sessions",
        "DELETE FROM deliveries",
        "UPDATE incidents SET closed_at = now()",
        "UPDATE marks SET at = now()",
        "TRUNCATE throttle",
        "CREATE TABLE mine (x int)",
        "DROP TABLE acts",
        "ALTER TABLE acts DISABLE ROW LEVEL SECURITY",
        "UPDATE accounts SET stage = 'VALIDATED'",
        "UPDATE accounts SET stage = 'EXCLUDED'",
        "INSERT INTO stage_changes (incident_id, ref, stage, at)"
        " SELECT incident_id, ref, 'CONTAINED', now() FROM accounts LIMIT 1",
        "UPDATE enrollments SET redeemed_by = '', redeemed_at = NULL",
    ],
)
def test_statements_that_are_refused(
    world: Any, portal_sql: psycopg.Connection[Any], statement: str
) -> None:
    """As a thief of the portal's password would try them."""
    world.armed(1)
    with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.FeatureNotSupported)):
        portal_sql.execute(statement.encode())


def test_rows_that_are_not_there_for_it(
    world: Any, portal_sql: psycopg.Connection[Any], sql: Any
) -> None:
    [enrollment] = world.armed(1)
    world.ledger.mark(world.incident, "rotate.started")
    for statement in (
        "SELECT * FROM acts WHERE step LIKE 'contain%'",
        "SELECT name FROM marks WHERE name LIKE 'rotate%'",
    ):
        assert portal_sql.execute(statement.encode()).fetchall() == []
    for statement in (
        "UPDATE acts SET verdict = 'REFUSED' WHERE step LIKE 'contain%'",
        "UPDATE acts SET verdict = 'REFUSED' WHERE step LIKE 'notify%'",
    ):
        assert portal_sql.execute(statement.encode()).rowcount == 0
    now = datetime.now(UTC)
    session = "s" * 64
    world.ledger.begin(enrollment.jti, session_hash=session, ttl=TTL)
    world.ledger.redeem(enrollment.jti, session)
    statement = "UPDATE enrollments SET redeemed_by = 'thief', redeemed_at = %s"
    assert portal_sql.execute(statement.encode(), (now,)).rowcount == 0, "it is used already"
    assert sql("SELECT redeemed_by FROM enrollments") == [(session,)]


def test_everybody_else_is_left_as_he_was(world: Any, role: str, ledger: Ledger) -> None:
    refs = world.contained(2)
    assert [record.act.subject for record in ledger.acts(world.incident, "contain")] == refs
    ledger.close_incident(world.incident)


def test_the_command_writes_sql() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ledger", "grant-portal", "--role", "recovery_portal"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("BEGIN;\n")
    grant = "GRANT UPDATE (redeemed_at, redeemed_by) ON enrollments TO recovery_portal;"
    assert grant in done.stdout.splitlines()
    with pytest.raises(Misconfigured):
        statements("x; DROP TABLE acts")
