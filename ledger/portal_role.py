"""What the portal's database role may do in PostgreSQL: redeem and settle, and nothing else.

Grants by column, and row security where a column is not narrow enough (PostgreSQL manual, "Row
Security Policies"): the policies restrict this role alone and leave everybody else as he was. With
SQLite there are no roles; whoever reads the file reads all of it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ledger.revisions import VERSION_TABLE
from ledger.status import PUBLIC_MARK
from recovery.errors import Misconfigured
from recovery.status import MARKS

_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_ALL = ("",)
"""A grant on the whole table."""


@dataclass(frozen=True, slots=True)
class Grant:
    """Columns by privilege; `sequence` is the one behind the table's own numbers."""

    columns: Mapping[str, tuple[str, ...]]
    sequence: str = ""
    rows: Mapping[str, str] = field(default_factory=dict)
    """Command -> which rows. For writes the condition holds before as well as after, or `before ->
    after` where they differ."""


_PORTAL_ACTS = "step = 'enroll.bind' OR step LIKE 'enroll.bind.%'"
_PUBLIC_MARKS = ", ".join(f"'{name}'" for name in (PUBLIC_MARK, *MARKS))

GRANTS: Mapping[str, Grant] = {
    VERSION_TABLE: Grant({"SELECT": _ALL}),
    "incidents": Grant({"SELECT": ("incident_id", "closed_at")}),
    "marks": Grant(
        {"SELECT": ("incident_id", "name", "at")}, rows={"SELECT": f"name IN ({_PUBLIC_MARKS})"}
    ),
    "public_texts": Grant({"SELECT": _ALL}),
    "accounts": Grant(
        {
            "SELECT": (
                *("ref", "incident_id", "account_id", "wave", "stage"),
                *("handle", "handle_folded", "email", "email_folded", "phone", "locale"),
            ),
            "UPDATE": ("stage", "stage_reason"),
        },
        rows={
            "UPDATE": "stage IN ('SCOPED', 'CONTAINED', 'TOKEN_ISSUED', 'NOTIFIED')"
            " -> stage = 'ENROLLED'"
        },
    ),
    "stage_changes": Grant(
        {"INSERT": ("incident_id", "ref", "stage", "at")},
        sequence="stage_changes_id_seq",
        rows={"INSERT": "stage = 'ENROLLED'"},
    ),
    "acts": Grant(
        {
            "SELECT": _ALL,
            "INSERT": ("incident_id", "subject", "step", "generation", "wave", "intended_at"),
            "UPDATE": (
                *("verdict", "detail", "receipt", "counts"),
                *("intended_at", "settled_at", "reopened_at"),
            ),
        },
        sequence="acts_id_seq",
        rows={
            "SELECT": f"{_PORTAL_ACTS} OR step LIKE 'notify%'",
            "INSERT": _PORTAL_ACTS,
            "UPDATE": f"{_PORTAL_ACTS} -> {_PORTAL_ACTS}",
        },
    ),
    "enrollments": Grant(
        {"SELECT": _ALL, "UPDATE": ("redeemed_at", "redeemed_by")},
        rows={
            "UPDATE": "redeemed_at IS NULL AND superseded_at IS NULL -> redeemed_by <> ''",
        },
    ),
    "portal_sessions": Grant(
        {
            "SELECT": _ALL,
            "INSERT": ("session_hash", "incident_id", "ref", "jti", "created_at", "expires_at"),
            "UPDATE": (
                *("code_hash", "code_sent_at", "code_expires_at", "code_sends", "code_attempts"),
                *("code_verified_at", "sealed_candidate", "completed_at"),
                *("challenge", "challenge_expires_at", "sealed_passkey", "method"),
            ),
        }
    ),
    "link_requests": Grant(
        {
            "SELECT": ("id", "ref", "served_at"),
            "INSERT": ("incident_id", "ref", "requested_at"),
        },
        sequence="link_requests_id_seq",
    ),
    "deliveries": Grant({"SELECT": _ALL, "INSERT": _ALL}),
    "throttle": Grant({"SELECT": _ALL, "INSERT": _ALL, "UPDATE": _ALL, "DELETE": _ALL}),
    # It adds to the log and cannot read it; the head it needs to link to.
    "audit": Grant({"INSERT": _ALL}),
    "audit_head": Grant({"SELECT": _ALL, "UPDATE": ("seq", "hash")}),
}


def statements(role: str) -> list[str]:
    """SQL for the owner of the ledger's tables; safe to repeat, and to be repeated after each
    migration. The role must exist. Raises Misconfigured for a name that is not a plain one."""
    if not _NAME.fullmatch(role):
        raise Misconfigured(
            "Write the grants of the portal's role",
            expected="a role's name in small letters, digits and underscores",
            got="another name",
        )
    said = [
        f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {role}",
        f"REVOKE ALL ON ALL SEQUENCES IN SCHEMA public FROM {role}",
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE ALL ON TABLES FROM {role}",
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE ALL ON SEQUENCES FROM {role}",
        f"GRANT USAGE ON SCHEMA public TO {role}",
    ]
    for table, grant in GRANTS.items():
        for privilege, columns in grant.columns.items():
            named = "" if columns == _ALL else f" ({', '.join(columns)})"
            said.append(f"GRANT {privilege}{named} ON {table} TO {role}")
        if grant.sequence:
            said.append(f"GRANT USAGE ON SEQUENCE {grant.sequence} TO {role}")
        if grant.rows:
            said += _row_security(table, grant.rows, role)
    return said


def _row_security(table: str, rows: Mapping[str, str], role: str) -> list[str]:
    said = [
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
        f"DROP POLICY IF EXISTS everybody ON {table}",
        f"CREATE POLICY everybody ON {table} USING (true) WITH CHECK (true)",
    ]
    for command, condition in rows.items():
        before, _, after = (part.strip() for part in condition.partition("->"))
        name = f"{role}_{command.lower()}"
        said.append(f"DROP POLICY IF EXISTS {name} ON {table}")
        clauses = {
            "SELECT": f"USING ({before})",
            "INSERT": f"WITH CHECK ({before})",
            "UPDATE": f"USING ({before}) WITH CHECK ({after})",
        }
        said.append(
            f"CREATE POLICY {name} ON {table} AS RESTRICTIVE FOR {command} TO {role}"
            f" {clauses[command]}"
        )
    return said
