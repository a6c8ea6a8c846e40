"""The portal's configuration file: JSON, readable by its owner alone, validated before all else.

Secrets stand in this file or in whatever mounts it, never in the process's arguments.
"""

import os
import stat
from ipaddress import ip_address
from pathlib import Path

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from clients.platform_paths import PlatformPaths
from portal.settings import PortalSettings
from recovery.errors import Misconfigured

ADVICE = "See docs/systems.md, Portal; nothing was started."


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class _Tls(_Section):
    ca_file: str | None = None
    client_cert_file: str | None = None
    client_key_file: str | None = None

    @property
    def client_cert(self) -> tuple[str, str | None] | None:
        return (self.client_cert_file, self.client_key_file) if self.client_cert_file else None


class LedgerConfig(_Section):
    url: SecretStr = Field(description="sqlite:////… or postgresql+psycopg://…")
    key: SecretStr = Field(description="The ledger's HMAC key, as the flows have it.")


class PlatformConfig(_Tls):
    base_url: str
    token: SecretStr = Field(description="May bind authenticators and nothing else.")
    paths: dict[str, str] = Field(
        default_factory=dict, description="As `paths` of the block: those that differ, by name."
    )

    @field_validator("paths")
    @classmethod
    def _known_paths(cls, paths: dict[str, str]) -> dict[str, str]:
        PlatformPaths.of(paths)
        return paths


class SmsConfig(_Tls):
    base_url: str = "https://api.twilio.com"
    account_sid: str
    user: str = Field(description="The account's SID, or an API key's.")
    secret: SecretStr
    messaging_service_sid: str | None = None
    from_number: str | None = None
    status_callback: str | None = None

    @model_validator(mode="after")
    def _somebody_sends(self) -> "SmsConfig":
        if bool(self.messaging_service_sid) == bool(self.from_number):
            raise ValueError("one of messaging_service_sid and from_number")
        return self


class MetricsConfig(_Section):
    """Where Prometheus asks. Never an address that the internet reaches."""

    host: str = "127.0.0.1"
    port: int = Field(9464, ge=0, le=65535)

    @field_validator("host")
    @classmethod
    def _inside(cls, value: str) -> str:
        address = ip_address(value)
        if address.is_unspecified or not (address.is_loopback or address.is_private):
            raise ValueError("a loopback or private address of this machine")
        return value


class PortalConfig(_Section):
    portal: PortalSettings
    ledger: LedgerConfig
    platform: PlatformConfig
    sms: SmsConfig
    metrics: MetricsConfig | None = None
    clock_offset_file: Path | None = Field(
        None, description="Rehearsals alone: seconds added to the wall clock, read when changed."
    )

    @model_validator(mode="after")
    def _world_time_in_rehearsals_alone(self) -> "PortalConfig":
        # Whoever could write that file could bring expired links back to life.
        if self.clock_offset_file is not None and not self.portal.loopback:
            raise ValueError("clock_offset_file is for a portal on this machine itself")
        return self


def load_config(path: Path) -> PortalConfig:
    """Raises Misconfigured, naming fields and never values."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            _check_owner(path, status)
            return PortalConfig.model_validate_json(file.read())
    except OSError as error:
        raise Misconfigured(
            f"Read the portal's configuration {path}",
            expected="a readable file",
            got=error.strerror or type(error).__name__,
            advice=ADVICE,
        ) from None
    except ValidationError as error:
        raise Misconfigured(
            f"Read the portal's configuration {path}",
            expected="every field to be valid",
            got="; ".join(
                f"{'.'.join(map(str, e['loc'])) or '(whole file)'}: {e['msg']}"
                for e in error.errors(include_url=False, include_input=False)[:8]
            ),
            advice=ADVICE,
        ) from None


def _check_owner(path: Path, status: os.stat_result) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077 or status.st_uid not in (0, os.geteuid()):
        raise Misconfigured(
            f"Read the portal's configuration {path}",
            expected="a file that its owner alone may read",
            got=f"mode {mode:04o}",
            advice=f"Run chmod 600 {path} as the user of the portal.",
        )
