"""The runbook as a value: every number and choice an operator may turn, validated at the door.

A runbook is a YAML file in `runbooks/`. `load_policy` refuses an invalid one with file, field,
what was expected and what stands there; the digest of the file goes into the audit log.
"""

import hashlib
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)

from recovery.accounts import Channel, PriorityReason
from recovery.app_clients import CI_NAME, DEFAULT_CI
from recovery.breaker import BreakerRule
from recovery.errors import Misconfigured
from recovery.freeze import FreezeWindow, minute_of_week

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{2,60}")
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def parse_duration(value: object) -> timedelta:
    """`"15m"`, `"1h30m"`, `"24h"`, `"26d"`; a bare number has no unit and is refused."""
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str) or not value or _DURATION.sub("", value.strip()):
        raise ValueError('a duration with its unit, such as "30s", "15m", "24h" or "26d"')
    return timedelta(
        seconds=sum(float(n) * _UNITS[unit] for n, unit in _DURATION.findall(value.strip()))
    )


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(lambda value: f"{value.total_seconds():g}s", when_used="json"),
]
Share = Annotated[float, Field(ge=0, le=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Systems(_Section):
    """Block documents, as `type-slug/name`: which outside systems this runbook works with."""

    ledger: str = "recovery-ledger/main"
    siem: str = "elasticsearch-siem/main"
    platform: str = "platform-admin/main"
    oauth: str = "oauth-client/main"
    secrets: str = "vault-secrets/main"
    client_secrets: str = Field(
        "", description="Where client secrets live, if not in the store of `secrets`."
    )
    ci: str | dict[str, str] = Field(
        "jenkins-ci/main",
        description=(
            "One CI, or several by name: a consumer's ci_job `name:job` goes to that one, a bare "
            "job to the one under `default`."
        ),
    )
    email: str = "recovery-sendgrid/main"
    sms: str = "recovery-twilio/main"
    portal: str = "enrollment-portal/main"
    checkpoints: tuple[str, ...] = Field(
        (), description="Second places for signed checkpoints of the audit log."
    )

    @model_validator(mode="after")
    def _ci_names(self) -> "Systems":
        if isinstance(self.ci, dict):
            if DEFAULT_CI not in self.ci:
                raise ValueError("`ci` names several and none as `default`")
            if wrong := [name for name in self.ci if not CI_NAME.fullmatch(name)]:
                raise ValueError(f"`ci` has a name of other signs than a-z, 0-9, dash: {wrong[0]}")
        return self

    @property
    def ci_by_name(self) -> dict[str, str]:
        """Block documents of the CIs by the name that a `ci_job` gives; one is `default`."""
        return dict(self.ci) if isinstance(self.ci, dict) else {DEFAULT_CI: self.ci}


class DetectPolicy(_Section):
    """How a burst is told from ordinary traffic and who counts as affected."""

    preset: str = Field("okta", description="Which documents the SIEM holds: okta, entra, ...")
    also: tuple[str, ...] = Field(
        ("ecs",), description="Further presets whose documents are in the same index."
    )
    baseline: Duration = timedelta(days=26)
    bucket: Duration = timedelta(minutes=1)
    guard: Duration = Field(
        timedelta(minutes=30), description="Left out of the baseline before the burst."
    )
    z_threshold: float = Field(6.0, gt=0)
    floor: int = Field(10, ge=1, description="Fewer resets a bucket are never a burst.")
    pad: Duration = Field(timedelta(minutes=2), description="Added at both ends of the burst.")
    min_confidence: Share = 0.95
    own_actors: tuple[str, ...] = Field(
        (),
        description="Our service account as the SIEM names the actor: its forced resets during a "
        "containment are no burst.",
    )


class WatchPolicy(_Section):
    """The detector that runs every minute, between incidents."""

    recent: Duration = Field(
        timedelta(minutes=15), description="Fewer resets than detect.floor in it: no closer look."
    )
    full_look: Duration = Field(
        timedelta(minutes=15), description="How often it looks closely all the same, for drips."
    )
    reach: Duration = Field(
        timedelta(hours=6), description="How long ago a burst may have ended to be told."
    )


class PriorityPolicy(_Section):
    followers: int = Field(100_000, ge=1)
    manual_proofing: tuple[PriorityReason, ...] = (PriorityReason.BRAND, PriorityReason.ADMIN)


class ExclusionPolicy(_Section):
    """Accounts that are never touched: our own service account, the break-glass accounts."""

    accounts: tuple[str, ...] = Field(..., min_length=1)
    roles: tuple[str, ...] = ("service",)


class WavePolicy(_Section):
    canary: int = Field(10, ge=1, description="Accounts in wave 0.")
    canary_high_priority: Share = 0.5
    growth: tuple[int, ...] = Field((100,), description="Sizes of the next waves.")
    batch: int = Field(100, ge=1, le=1000, description="Accounts a task run.")


class GatePolicy(_Section):
    """When a wave is promoted without asking; anything else holds."""

    max_refused: Share = 0.02
    max_unknown: Share = 0.01
    min_settled: Share = Field(0.98, description="Share of a wave that must have an outcome.")
    on_hold: str = Field("ask", pattern="^(ask|stop)$")


class ApprovalPolicy(_Section):
    """Who may let a gate pass. `approvers` are names of keys in Vault's TOTP engine."""

    required: bool = True
    approvers: tuple[str, ...] = ()
    four_eyes: bool = Field(True, description="The requester can't approve his own run.")
    approvals_needed: int = Field(
        1, ge=1, le=5, description="Distinct people who must approve the same plan."
    )
    valid_for: Duration = timedelta(minutes=30)
    timeout: Duration = Field(
        timedelta(hours=2), description="Unanswered for so long: escalated. Never approved."
    )

    @model_validator(mode="after")
    def _someone_can_approve(self) -> "ApprovalPolicy":
        if self.required and not self.approvers:
            raise ValueError("at least one approver where approval is required")
        if self.required and len(set(self.approvers)) < self.approvals_needed:
            raise ValueError(f"at least {self.approvals_needed} different approvers")
        return self


class Approvals(_Section):
    contain: ApprovalPolicy
    notify: ApprovalPolicy
    retire: ApprovalPolicy
    hold: ApprovalPolicy
    reopen: ApprovalPolicy = Field(
        ApprovalPolicy(required=False), description="Trying refused acts again by `reopen`."
    )
    close: ApprovalPolicy = Field(
        ApprovalPolicy(required=False), description="Ending an incident for good by `close`."
    )
    late_share: Share = Field(
        0.05, description="Late arrivals up to this share go under the first approval."
    )
    max_wrong_codes: int = Field(
        5, ge=1, description="Wrong codes in a row, over all gates, that lock an approver."
    )
    lockout: Duration = timedelta(minutes=15)

    def of_gate(self, gate: str) -> ApprovalPolicy:
        """The rules of a gate by its name: `contain.late.3` follows `contain`, `hold.notify.0`
        follows `hold`. Raises Misconfigured for a gate no rule is written for."""
        # Rotating a client by name (`rotate.gap`) is decided by whom retiring is decided by.
        family = gate.split(".")[0].replace("rotate", "retire")
        found = getattr(self, family, None)
        if not isinstance(found, ApprovalPolicy):
            raise Misconfigured(
                "Look up who may let a gate pass",
                subject=gate,
                expected="rules for it under `approvals`",
                got="none",
                advice="Correct `approvals` in the runbook.",
            )
        return found


class ContainPolicy(_Section):
    """Which of an account's credentials die; refresh tokens always go first."""

    refresh_tokens: bool = True
    sessions: bool = True
    device_sessions: bool = True
    grants: bool = True
    recovery_tokens: bool = True
    force_password_reset: bool = True
    verify: bool = Field(True, description="Ask the platform afterwards what is still alive.")
    own_apps: tuple[str, ...] = Field(
        (), description="Clients of ours whose stored tokens are revoked by RFC 7009."
    )
    app_tokens_path: str = Field("app-tokens/{client_id}", pattern=r"\{client_id\}")
    concurrency: int = Field(8, ge=1, le=200)


class EnrollPolicy(_Section):
    token_ttl: Duration = timedelta(minutes=15)
    code_ttl: Duration = timedelta(minutes=10)
    code_attempts: int = Field(5, ge=1, le=10)
    code_sends: int = Field(3, ge=1, le=10)
    remove_old_authenticators: bool = True
    concurrency: int = Field(8, ge=1, le=200)

    @model_validator(mode="after")
    def _short(self) -> "EnrollPolicy":
        if not timedelta(minutes=5) <= self.token_ttl <= timedelta(minutes=15):
            raise ValueError("token_ttl between 5m and 15m")
        if self.code_ttl > timedelta(minutes=10):
            raise ValueError("code_ttl of at most 10m (NIST SP 800-63B-4)")
        return self


class NotifyPolicy(_Section):
    channels: tuple[Channel, ...] = (Channel.EMAIL, Channel.SMS, Channel.IN_APP)
    organization: str = Field(..., min_length=1, description="How people know us.")
    site: str = Field(..., min_length=3, description="The address that people type themselves.")
    max_messages: int = Field(4, ge=1, description="For one person over one incident and channel.")
    personalizations: int = Field(500, ge=1, le=1000, description="People in one email request.")
    concurrency: int = Field(8, ge=1, le=200)


class CrashPolicy(_Section):
    """How work goes on after a crash; see docs/decisions/0005-crash-safety.md."""

    claim: Duration = Field(
        timedelta(seconds=60),
        description="A run that is silent for so long has lost what it was doing to the next run.",
    )
    provider_lag: Duration = Field(
        timedelta(minutes=2),
        description="How long a provider may take to list a message that it accepted. Nothing is "
        "sent again sooner.",
    )


class FreezePolicy(_Section):
    """A weekly stretch in which nothing is rotated unless somebody approves it."""

    start: str = Field(..., alias="from", description='Such as "fri 16:00".')
    until: str = Field(..., description='Such as "mon 07:00".')
    timezone: str = "UTC"
    reason: str = ""

    @model_validator(mode="after")
    def _readable(self) -> "FreezePolicy":
        for moment in (self.start, self.until):
            minute_of_week(moment)
        try:
            self.window()
        except (ZoneInfoNotFoundError, OSError):
            raise ValueError("a timezone such as Europe/Berlin") from None
        return self

    def window(self) -> FreezeWindow:
        return FreezeWindow(self.start, self.until, ZoneInfo(self.timezone), self.reason)


class RotatePolicy(_Section):
    waves: tuple[int, ...] = Field((1, 4), description="Clients per wave, then the rest.")
    at_once: int = Field(4, ge=1, le=50, description="Clients of one wave side by side.")
    consumer_waves: tuple[int, ...] = Field(
        (1, 2), description="Consumers of one client restarted at once: the canary, then the rest."
    )
    health_timeout: Duration = timedelta(minutes=5)
    soak: Duration = Field(
        timedelta(minutes=2), description="Watched in the test, before an old secret is retired."
    )
    watch: Duration = Field(
        timedelta(minutes=2), description="Watched between deactivating and deleting."
    )
    siem: Literal["required", "when_seen", "off"] = Field(
        "when_seen",
        description="Refused client authentications in the SIEM: needed, counted if there are "
        "any documents, or not asked for.",
    )
    siem_actions: tuple[str, ...] = Field(
        ("client-authentication",), description="event.action of a client that authenticates."
    )
    siem_client_field: str = Field("client.user.id", description="Where the client's id stands.")
    siem_lag: Duration = Field(
        timedelta(seconds=30), description="How long documents take to become searchable."
    )
    max_error_share: Share = Field(0.02, description="Refused authentications in the test.")
    freeze: tuple[FreezePolicy, ...] = ()
    without_consumers: Literal["leave", "ask"] = Field(
        "leave", description="Clients that nobody is known to use: left to a person, or a gate."
    )
    allow_without_consumers: tuple[str, ...] = Field(
        (), description="Client ids that may be rotated although nobody is known to use them."
    )
    single_secret: Literal["leave", "ask"] = Field(
        "leave", description="Clients whose platform holds one secret: left to a person, or a gate."
    )
    max_age: Duration = Field(
        timedelta(days=90), description="What `rotate-scheduled` finds too old."
    )
    retire_scheduled: Literal["ask", "standing"] = Field(
        "ask", description="`rotate-scheduled` retires old secrets by approval, or by this word."
    )
    ci_timeout: Duration = timedelta(minutes=15)
    ci_poll: Duration = timedelta(seconds=5)
    max_failures: int = Field(1, ge=1, description="Failed rotations that stop the rest.")
    vault_path: str = Field("apps/{client_id}", pattern=r"\{client_id\}")


class ValidatePolicy(_Section):
    probe_accounts_path: str = Field(
        "recovery/probe-accounts",
        description="Our own test accounts among the affected, with the password they had.",
    )
    sample: int = Field(200, ge=1, description="Contained accounts probed for the old credentials.")
    min_passed: Share = 1.0
    concurrency: int = Field(8, ge=1, le=200)


class Quota(_Section):
    per_second: float = Field(..., gt=0)
    concurrent: int = Field(..., ge=1)


class Quotas(_Section):
    """What each system allows us, shared by all workers through Prefect's global limits."""

    platform: Quota
    siem: Quota
    email: Quota
    sms: Quota
    ci: Quota


class BreakerPolicy(_Section):
    """When a system that keeps failing is left alone: everything waits, one request at a time is
    tried, and the first good answer lets all go on."""

    window: int = Field(20, ge=2, le=1000, description="Attempts that are looked at.")
    failures: int = Field(
        10,
        ge=2,
        description="So many of them without an answer or with a server's error.",
    )
    probe: Duration = Field(timedelta(seconds=5), description="Between two tries while it is open.")
    longest: Duration = Field(
        timedelta(minutes=15), description="Then the run stops; start it again to go on."
    )

    @model_validator(mode="after")
    def _can_open(self) -> "BreakerPolicy":
        if self.failures > self.window:
            raise ValueError("failures of at most window")
        return self

    @property
    def rule(self) -> BreakerRule:
        return BreakerRule(self.window, self.failures, self.probe, self.longest)


_BLOCK = r"^[a-z0-9-]+/[a-z0-9-]+$"


class AlertPolicy(_Section):
    """Who is told: notification blocks of Prefect as `type-slug/name`, created in its UI."""

    approvers: tuple[Annotated[str, Field(pattern=_BLOCK)], ...] = (
        "slack-webhook/recovery-approvers",
        "sendgrid-email/recovery-approvers",
    )
    escalation: tuple[Annotated[str, Field(pattern=_BLOCK)], ...] = (
        "slack-webhook/recovery-escalation",
        "sendgrid-email/recovery-escalation",
    )
    failures: tuple[Annotated[str, Field(pattern=_BLOCK)], ...] = (
        "slack-webhook/recovery-team",
        "sendgrid-email/recovery-team",
    )
    escalate_after: Duration = Field(
        timedelta(minutes=30), description="A run suspended for longer is told to the escalation."
    )

    @model_validator(mode="after")
    def _no_quicker_than_prefect(self) -> "AlertPolicy":
        if self.escalate_after < timedelta(seconds=10):
            raise ValueError("escalate_after of at least 10s: Prefect looks no more often")
        return self


class DriftPolicy(_Section):
    """What a rehearsal may differ from the one before it without being a failed run."""

    tolerance: Share = Field(0.5, description="Share by which a time may grow.")
    slack: Duration = Field(
        timedelta(seconds=30), description="What a time may grow in any case, however short it was."
    )
    share: Share = Field(0.05, description="By how much a share may shrink: 0.05 is five points.")


class ReportPolicy(_Section):
    directory: str = "var/reports"
    containment_target: Duration = timedelta(minutes=10)
    remediation_target: Duration = timedelta(hours=2)


class AuditPolicy(_Section):
    signing_key: str = Field(
        "recovery-checkpoint", description="Ed25519 key of Vault's transit engine."
    )


class RecoveryPolicy(_Section):
    version: int = Field(..., ge=1, le=1)
    name: str = Field(..., pattern=rf"^{_NAME.pattern}$")
    description: str = ""
    systems: Systems = Systems()
    detect: DetectPolicy = DetectPolicy()
    watch: WatchPolicy = WatchPolicy()
    priority: PriorityPolicy = PriorityPolicy()
    exclusions: ExclusionPolicy
    waves: WavePolicy = WavePolicy()
    gates: GatePolicy = GatePolicy()
    approvals: Approvals
    contain: ContainPolicy = ContainPolicy()
    enroll: EnrollPolicy = EnrollPolicy()
    notify: NotifyPolicy
    rotate: RotatePolicy = RotatePolicy()
    validation: ValidatePolicy = Field(ValidatePolicy(), alias="validate")
    crash: CrashPolicy = CrashPolicy()
    quotas: Quotas
    breaker: BreakerPolicy = BreakerPolicy()
    report: ReportPolicy = ReportPolicy()
    audit: AuditPolicy = AuditPolicy()
    alerts: AlertPolicy = AlertPolicy()
    drift: DriftPolicy = DriftPolicy()


def parse_policy(text: str, *, source: str) -> RecoveryPolicy:
    """Validates a runbook's text; `source` names the file in the refusal."""
    return _validated(_parsed(text, source), source)


def _parsed(text: str, source: str) -> dict[str, Any]:
    try:
        document: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise Misconfigured(
            f"Read the runbook {source}",
            expected="valid YAML",
            got=f"{getattr(error, 'problem', None) or 'a syntax error'}{where}",
            advice="Correct the file and start the run again.",
        ) from None
    if not isinstance(document, dict):
        raise Misconfigured(
            f"Read the runbook {source}",
            expected="a mapping of sections",
            got=type(document).__name__,
            advice="Start from runbooks/mass-password-reset.yaml.",
        )
    return document


def _validated(document: dict[str, Any], source: str) -> RecoveryPolicy:
    try:
        return RecoveryPolicy.model_validate(document)
    except ValidationError as error:
        raise Misconfigured(
            f"Read the runbook {source}",
            expected="every field to be valid",
            got="; ".join(_complaint(e) for e in error.errors(include_url=False)[:8]),
            advice="Correct the file and start the run again; nothing was done.",
        ) from None


def _complaint(error: Any) -> str:
    field = ".".join(str(part) for part in error["loc"]) or "(whole file)"
    if error["type"] == "extra_forbidden":
        return f"{field}: no such field"
    if error["type"] == "missing":
        return f"{field}: missing"
    message = str(error["msg"]).removeprefix("Value error, ")
    given = error.get("input")
    shown = f", not {given!r}" if isinstance(given, str | int | float | bool) else ""
    return f"{field}: {message[0].lower()}{message[1:]}{shown}"


def load_policy(path: Path) -> tuple[RecoveryPolicy, str]:
    """The validated runbook and the SHA-256 (hex) of its file, and of the one it `extends`.

    `extends: other` takes the sections of other.yaml beside it and overrides single fields.
    """
    document, read = _read(path)
    digest = hashlib.sha256(read)
    base_name = document.pop("extends", None)
    if base_name is not None:
        if not isinstance(base_name, str) or not _NAME.fullmatch(base_name):
            raise Misconfigured(
                f"Read the runbook {path}", expected="`extends` to name a runbook beside it"
            )
        base, base_read = _read(path.with_name(f"{base_name}.yaml"))
        if "extends" in base:
            raise Misconfigured(
                f"Read the runbook {path}",
                expected=f"{base_name} to stand on its own",
                got="a runbook that extends another one",
            )
        document = _merged(base, document)
        digest.update(base_read)
    return _validated(document, str(path)), digest.hexdigest()


def _read(path: Path) -> tuple[dict[str, Any], bytes]:
    try:
        read = path.read_bytes()
        return _parsed(read.decode("utf-8"), str(path)), read
    except FileNotFoundError:
        raise Misconfigured(
            f"Read the runbook {path}",
            expected="a file",
            got="nothing there",
            advice="Name a file in runbooks/, such as mass-password-reset.",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(
            f"Read the runbook {path}", expected="readable UTF-8", got=type(error).__name__
        ) from None


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Mappings are merged field by field; anything else is replaced."""
    merged = dict(base)
    for name, value in over.items():
        held = merged.get(name)
        both = isinstance(held, dict) and isinstance(value, dict)
        merged[name] = _merged(held, value) if both else value  # type: ignore[arg-type]
    return merged
