"""Memory: the only writer of incident state; every change and its audit entry in one transaction.

One class, composed of one module per subject. The same SQL runs on SQLite (a file, the default)
and on PostgreSQL (where several workers and the portal write); see docs/decisions/0002-ledger.md.
"""

from ledger.accounts import Accounts
from ledger.acts import Acts
from ledger.app_clients import AppClients
from ledger.approvals import Approvals
from ledger.audit_log import AuditLog
from ledger.checkpoints import Checkpoints
from ledger.claims import Claims
from ledger.confirmations import Confirmations
from ledger.deliveries import Deliveries
from ledger.enrollments import Enrollments
from ledger.incidents import Incidents
from ledger.links import Links
from ledger.revisions import Revisions
from ledger.runs import Runs
from ledger.scope import Scope
from ledger.sessions import Sessions
from ledger.stages import Stages
from ledger.status import Status
from ledger.throttle import Throttle

__all__ = ["Ledger"]


class Ledger(
    Revisions,
    Incidents,
    Runs,
    Scope,
    Accounts,
    Acts,
    Stages,
    AppClients,
    Approvals,
    Claims,
    Enrollments,
    Sessions,
    Links,
    Confirmations,
    Deliveries,
    Status,
    Throttle,
    AuditLog,
    Checkpoints,
):
    """Everything the product remembers of its incidents.

    Thread-safe; several processes may hold a Ledger on one database. Nothing is opened before the
    first call. A call that raises left nothing behind, except `Unknown`: its commit was not
    answered, so repeat the (idempotent) call or read back.
    """
