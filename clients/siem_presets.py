"""Which documents in a SIEM tell of a password reset, and where the affected person stands in them.

Read from the public ingest pipelines of Elastic's integrations (okta, azure, auth0, keycloak,
google_workspace) and from ECS; facts section 5. A person's own change of a password that still
works is no reset and is left out everywhere.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from recovery.errors import Misconfigured

Clause = Mapping[str, Any]
"""One clause of Elasticsearch's query language."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Documents of one kind. `accounts` are the fields with the affected account's id: the first
    that a document has counts. `actor` is the field with the id of who did it."""

    actions: tuple[str, ...]
    accounts: tuple[str, ...]
    actor: str
    outcomes: tuple[str, ...] = ("success",)
    """Accepted values of event.outcome; empty where the source sets none."""
    also: tuple[Clause, ...] = ()

    def clauses(self) -> list[Clause]:
        """What a document must fulfil to count as a reset."""
        wanted: list[Clause] = [{"terms": {"event.action": list(self.actions)}}]
        if self.outcomes:
            wanted.append({"terms": {"event.outcome": list(self.outcomes)}})
        return [*wanted, *self.also]

    def clauses_for(self, account_field: str) -> tuple[list[Clause], list[Clause]]:
        """(must, must not) for the documents whose account stands in this field."""
        before = self.accounts[: self.accounts.index(account_field)]
        must = [*self.clauses(), {"exists": {"field": account_field}}]
        return must, [{"exists": {"field": name}} for name in before]

    def clauses_without_account(self) -> tuple[list[Clause], list[Clause]]:
        """(must, must not) for the resets of which nobody can tell whom they hit."""
        return self.clauses(), [{"exists": {"field": name}} for name in self.accounts]


@dataclass(frozen=True, slots=True)
class Preset:
    """All kinds of documents of one source. `name` is what the ledger keeps as the source."""

    name: str
    rules: tuple[Rule, ...] = field(default=())


OKTA = Preset(
    "okta",
    (
        Rule(
            actions=("user.account.reset_password",),
            # user.* is the actor, an administrator or a service; okta.target[] holds apps as well.
            accounts=("user.target.id",),
            actor="user.id",
        ),
    ),
)

_ENTRA_TARGET = "azure.auditlogs.properties.target_resources.0"
ENTRA = Preset(
    "entra",
    (
        Rule(
            actions=(
                "Reset password (self-service)",
                "Reset password (by admin)",
                "Reset user password",
                "Change user password",
            ),
            accounts=(f"{_ENTRA_TARGET}.id",),
            actor="azure.auditlogs.properties.initiated_by.user.id",
            # The pipeline passes Entra's own spelling on.
            outcomes=("success", "Success"),
            also=({"terms": {f"{_ENTRA_TARGET}.type": ["User", "user"]}},),
        ),
    ),
)

AUTH0 = Preset(
    "auth0",
    (
        Rule(
            # One action in two versions of the pipeline. Auth0 logs no other event for a reset.
            actions=("user-password-changed-successfully", "Successfully changed password"),
            accounts=("auth0.logs.data.user_id", "user.id"),
            actor="auth0.logs.data.client_id",
        ),
    ),
)

GOOGLE = Preset(
    "google",
    (
        Rule(
            actions=("CHANGE_PASSWORD",),
            # Google names the person by address: the roster has to know it as the account's id.
            accounts=("user.target.id", "user.target.email", "google_workspace.admin.user.email"),
            actor="source.user.id",
            outcomes=(),
        ),
        Rule(
            actions=("account_disabled_password_leak",),
            accounts=("user.target.id", "google_workspace.login.affected_email_address"),
            actor="source.user.id",
            outcomes=(),
        ),
    ),
)

KEYCLOAK = Preset(
    "keycloak",
    (
        Rule(
            # A failed one is another action, with _ERROR at its end.
            actions=("RESET_PASSWORD", "UPDATE_PASSWORD"),
            accounts=("user.id",),
            actor="user.id",
            outcomes=(),
        ),
        Rule(
            actions=("ACTION-USER",),
            accounts=("user.target.id",),
            actor="user.id",
            outcomes=(),
            also=({"wildcard": {"keycloak.admin.resource.path": "users/*/reset-password"}},),
        ),
    ),
)

ECS = Preset(
    "ecs",
    (
        Rule(
            # ECS leaves the action to the implementer; self-service has no user.target.
            actions=("user-password-reset", "password-reset"),
            accounts=("user.target.id", "user.id"),
            actor="user.id",
        ),
    ),
)

PRESETS: Mapping[str, Preset] = {
    preset.name: preset for preset in (OKTA, ENTRA, AUTH0, GOOGLE, KEYCLOAK, ECS)
}


def chosen(names: Iterable[str], *, ecs_actions: Collection[str] = ()) -> tuple[Preset, ...]:
    """The presets of these names, each once; `ecs_actions` are further actions for plain ECS.

    Misconfigured for an unknown name, and where no name is given.
    """
    wanted = tuple(dict.fromkeys(names))
    unknown = [name for name in wanted if name not in PRESETS]
    if unknown or not wanted:
        raise Misconfigured(
            "Choose what to search the SIEM for",
            expected=f"one or more of {', '.join(PRESETS)}",
            got=", ".join(unknown) or "none",
            advice="Correct `preset` and `also` in the runbook's `detect` section.",
        )
    return tuple(_extended(PRESETS[name], ecs_actions) for name in wanted)


def _extended(preset: Preset, ecs_actions: Collection[str]) -> Preset:
    if preset is not ECS or not ecs_actions:
        return preset
    (rule,) = preset.rules
    actions = tuple(dict.fromkeys((*rule.actions, *ecs_actions)))
    return Preset(preset.name, (Rule(actions, rule.accounts, rule.actor, rule.outcomes),))
