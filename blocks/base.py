"""What every block of a kind offers, whichever product stands behind it, and the shared TLS fields.

A task asks for a kind (`SiemBlock`); an operator configures a product (`ElasticsearchSiem`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Protocol, Self

from prefect.blocks.core import Block
from pydantic import Field

from recovery.accounts import Sighting, Verdict
from recovery.checkpoint import Checkpoint, Kept
from recovery.detect_burst import Bucket
from recovery.messages import EmailCopy, EmailText, SmsCopy
from recovery.own_resets import OwnResets
from recovery.refusals import AuthCounts

if TYPE_CHECKING:
    from clients.ci import Build
    from clients.http import Pace
    from clients.http_bearer import Bearer
    from clients.leases import LeaseTerms
    from clients.platform import PlatformClient
    from clients.secret_store import SecretStore
    from clients.vault import VaultClient

CaFile = Annotated[
    str | None,
    Field(
        title="CA file",
        description=(
            "PEM file with the certificate authorities to trust instead of the public ones; "
            "a path on the machine of the worker."
        ),
    ),
]
ClientCertFile = Annotated[
    str | None,
    Field(
        title="Client certificate file",
        description="PEM file with our certificate, where the server asks for one (mutual TLS).",
    ),
]
ClientKeyFile = Annotated[
    str | None,
    Field(
        title="Client key file",
        description=(
            "PEM file with the key of our certificate; empty when it stands in the certificate's "
            "own file."
        ),
    ),
]
AllowCleartext = Annotated[
    bool,
    Field(description="Accept plain http to another machine, because an encrypted mesh is below."),
]


def client_cert(cert_file: str | None, key_file: str | None) -> tuple[str, str | None] | None:
    """The two TLS fields in the form in which `clients.http.Wire` takes them."""
    return (cert_file, key_file) if cert_file else None


class Closing(Protocol):
    """Every client is closed by the one who asked for it."""

    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *_: object) -> None: ...
    async def aclose(self) -> None: ...


class SiemClient(Closing, Protocol):
    """Reads resets out of logs; windows are [start, end) and an answer is whole or an error."""

    async def check(self) -> None: ...
    async def reset_counts(
        self,
        start: datetime,
        end: datetime,
        bucket: timedelta,
        *,
        own: OwnResets | None = None,
    ) -> list[Bucket]: ...
    def sightings(
        self, start: datetime, end: datetime, *, own: OwnResets | None = None
    ) -> AsyncIterator[list[Sighting]]: ...
    async def unattributed(
        self, start: datetime, end: datetime, *, own: OwnResets | None = None
    ) -> dict[str, int]: ...
    async def client_authentications(
        self,
        client_ids: Collection[str],
        start: datetime,
        end: datetime,
        *,
        actions: Collection[str],
        client_field: str,
    ) -> Mapping[str, AuthCounts]: ...


class EmailClient(Closing, Protocol):
    """Hands one request of many copies to the mail provider; never repeats a lost answer."""

    async def send(self, text: EmailText, copies: Sequence[EmailCopy], *, category: str) -> str: ...
    async def found(self, notice_ids: Sequence[str]) -> Mapping[str, str]: ...


class SmsClient(Closing, Protocol):
    """Hands one message to the carrier; never repeats a lost answer."""

    async def send(self, copy: SmsCopy) -> tuple[Verdict, str]: ...
    async def sent_since(self, to: str, since: datetime) -> list[tuple[str, str]]: ...


class CheckpointStore(Protocol):
    """Keeps notes for ever; nothing that was kept is changed or removed."""

    async def keep(self, checkpoint: Checkpoint, note: bytes, leaves: bytes) -> None: ...
    async def kept(self) -> Kept: ...


class CiClient(Closing, Protocol):
    """Starts a job once under `run_id`, which finds the run again after a lost answer or a crash,
    and follows it to its end. Refused with the log's link where it is red or was cancelled; Unknown
    with the link, and whether it still runs, where `timeout` passed."""

    async def run(
        self,
        job: str,
        parameters: Mapping[str, str],
        *,
        run_id: str = "",
        poll: timedelta | None = None,
        timeout: timedelta | None = None,
    ) -> Build: ...


class SiemBlock(Block, ABC):
    """Where password resets are logged."""

    @abstractmethod
    def get_client(
        self, pace: Pace | None = None, *, presets: Sequence[str] = ("okta", "ecs")
    ) -> SiemClient:
        """`presets` name the kinds of documents to read, as in the runbook's `detect` section."""


class Rights(StrEnum):
    """What a phase may do at the platform: look, or change something."""

    READ = "read"
    ACT = "act"


class PlatformBlock(Block, ABC):
    """The platform whose accounts are recovered, with an administrative credential."""

    @abstractmethod
    def get_client(self, pace: Pace | None = None, bearer: Bearer | None = None) -> PlatformClient:
        """`pace` is awaited before every request: a lease on the platform's quota. `bearer` gives
        the credential in place of the block's own, where `lease_terms` asked for it."""

    def lease_terms(self, rights: Rights) -> LeaseTerms | None:
        """What to lease from the secrets store for a phase; None where the block has a token."""
        return None


class ClientSecretsBlock(Block, ABC):
    """Where client secrets are kept, with the labels of their rotation."""

    @abstractmethod
    def get_client(self) -> SecretStore:
        """A client with a login of its own; nothing is asked before its first use."""


class SecretsBlock(ClientSecretsBlock, ABC):
    """Where signing keys and the approvers' TOTP keys are kept, and client secrets where the
    runbook names no other place for them."""

    @abstractmethod
    def get_client(self) -> VaultClient:
        """A client with a login of its own; nothing is asked before its first use."""


class CiBlock(Block, ABC):
    """What restarts the consumers of a client secret."""

    @abstractmethod
    def get_client(self, pace: Pace | None = None) -> CiClient:
        """`pace` is awaited before every request."""


class CheckpointBlock(Block, ABC):
    """A second place for checkpoints of the audit log."""

    @abstractmethod
    def get_client(self) -> CheckpointStore:
        """A store; nothing is written before its first use."""


class EmailBlock(Block, ABC):
    """The provider that sends email to people."""

    @abstractmethod
    def get_client(self, pace: Pace | None = None) -> EmailClient:
        """`pace` is awaited before every request, each of which may carry many copies."""


class SmsBlock(Block, ABC):
    """The provider that sends text messages to people."""

    @abstractmethod
    def get_client(self, pace: Pace | None = None) -> SmsClient:
        """`pace` is awaited before every request, each of which carries one message."""
