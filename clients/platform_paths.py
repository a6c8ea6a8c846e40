"""Where each call of the platform's admin API stands, so that a platform of the same shape with
other paths is configured and not coded. The defaults are the playbook's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from string import Formatter
from typing import Self

from recovery.contain import CredentialKind


@dataclass(frozen=True, slots=True)
class PlatformPaths:
    """Where each call stands below the base URL; `{account}`, `{client}`, `{secret}` are ids."""

    accounts: str = "/admin/accounts"
    accounts_query: str = "/admin/accounts/query"
    refresh_tokens: str = "/admin/accounts/{account}/refresh-tokens"
    sessions: str = "/admin/accounts/{account}/sessions"
    device_sessions: str = "/admin/accounts/{account}/device-sessions"
    grants: str = "/admin/accounts/{account}/grants"
    recovery_tokens: str = "/admin/accounts/{account}/recovery-tokens"
    password_reset: str = "/admin/accounts/{account}/password-reset"  # noqa: S105 - a path
    live: str = "/admin/accounts/{account}/credentials-summary"
    authenticators: str = "/admin/accounts/{account}/authenticators"
    passkeys: str = "/admin/accounts/{account}/authenticators"
    banners: str = "/admin/accounts/{account}/banners"
    clients: str = "/admin/clients"
    secrets: str = "/admin/clients/{client}/secrets"
    secret: str = "/admin/clients/{client}/secrets/{secret}"  # noqa: S105 - a path
    deactivate: str = "/admin/clients/{client}/secrets/{secret}/deactivate"
    activate: str = "/admin/clients/{client}/secrets/{secret}/activate"
    rotate_secret: str = "/admin/clients/{client}/rotate-secret"  # noqa: S105 - a path
    login: str = "/login"

    @classmethod
    def of(cls, differing: Mapping[str, str]) -> Self:
        """The defaults with some replaced. ValueError for an unknown name, a path that does not
        begin with a slash, or one with other placeholders than its default."""
        defaults = {field.name: str(field.default) for field in fields(cls)}
        for name, path in differing.items():
            default = defaults.get(name)
            if default is None:
                raise ValueError(f"there is no path named {name!r}")
            if not path.startswith("/") or _placeholders(path) != _placeholders(default):
                raise ValueError(f"the path {name!r} must look like {default}")
        return cls(**differing)

    def revocation(self, kind: CredentialKind) -> str:
        return {
            CredentialKind.REFRESH_TOKENS: self.refresh_tokens,
            CredentialKind.SESSIONS: self.sessions,
            CredentialKind.DEVICE_SESSIONS: self.device_sessions,
            CredentialKind.GRANTS: self.grants,
            CredentialKind.RECOVERY_TOKENS: self.recovery_tokens,
        }[kind]


def _placeholders(path: str) -> list[str]:
    return sorted(name for _, name, _, _ in Formatter().parse(path) if name is not None)
