"""The JSON of the platform's admin API as it stands on the wire, and its way into our types."""

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, NonNegativeInt, SecretStr

from recovery.accounts import RosterEntry
from recovery.app_clients import AppClient, ClientSecret, Consumer, Integration
from recovery.passkey import from_b64url
from recovery.validate import LiveCredentials


def _aware(moment: datetime) -> datetime:
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


Moment = Annotated[datetime, AfterValidator(_aware)]
"""ISO 8601 or epoch seconds; without a zone it is UTC."""
Id = Annotated[str, Field(min_length=1, max_length=256)]


class AccountAnswer(BaseModel):
    id: Id
    handle: str
    email: str | None = None
    phone: str | None = None
    role: str
    brand_account: bool
    followers: int
    billing_linked: bool
    last_active: Moment | None = None
    linked_apps: tuple[str, ...] = ()
    locale: str
    status: str

    def entry(self) -> RosterEntry:
        return RosterEntry(
            account_id=self.id,
            handle=self.handle,
            email=self.email,
            phone=self.phone,
            role=self.role,
            brand_account=self.brand_account,
            followers=self.followers,
            billing_linked=self.billing_linked,
            last_active=self.last_active,
            linked_apps=self.linked_apps,
            locale=self.locale,
            status=self.status,
        )


class QueryAnswer(BaseModel):
    accounts: list[AccountAnswer]
    missing: list[str]


class PageAnswer(BaseModel):
    accounts: list[AccountAnswer]
    next: str | None


class RevokedAnswer(BaseModel):
    revoked: NonNegativeInt


class RemovedAnswer(BaseModel):
    removed: NonNegativeInt


class CreatedAnswer(BaseModel):
    id: Id


def _bytes(value: object) -> object:
    return from_b64url(value) if isinstance(value, str) else value


class _AuthenticatorAnswer(BaseModel):
    type: str
    credential_id: Annotated[bytes | None, BeforeValidator(_bytes)] = None


class AuthenticatorsAnswer(BaseModel):
    authenticators: list[_AuthenticatorAnswer]

    def passkeys(self) -> list[bytes]:
        ids = [one.credential_id for one in self.authenticators if one.type == "passkey"]
        return [credential_id for credential_id in ids if credential_id]


class SummaryAnswer(BaseModel):
    sessions: NonNegativeInt
    device_sessions: NonNegativeInt
    refresh_tokens: NonNegativeInt
    access_tokens: NonNegativeInt
    grants: NonNegativeInt
    recovery_tokens: NonNegativeInt
    password_reset_required: bool
    authenticators: NonNegativeInt

    def live(self) -> LiveCredentials:
        return LiveCredentials(**self.model_dump())


class _BannerAnswer(BaseModel):
    idempotency_key: str


class BannersAnswer(BaseModel):
    banners: list[_BannerAnswer]


class _ConsumerAnswer(BaseModel):
    name: str
    health_url: str | None = None
    ci_job: str | None = None
    tries_both: bool = False


class _IntegrationAnswer(BaseModel):
    name: str
    health_url: str


class _ClientAnswer(BaseModel):
    id: Id
    name: str
    owner: str
    linked_accounts: NonNegativeInt
    risk: str
    max_secrets: int
    consumers: list[_ConsumerAnswer]
    kind: str = "oauth_client"
    can_deactivate: bool = True
    integrations: list[_IntegrationAnswer] = []

    def client(self) -> AppClient:
        return AppClient(
            client_id=self.id,
            name=self.name,
            owner=self.owner,
            risk=self.risk,
            linked_accounts=self.linked_accounts,
            max_secrets=self.max_secrets,
            consumers=tuple(
                Consumer(c.name, c.health_url or "", c.ci_job or "", tries_both=c.tries_both)
                for c in self.consumers
            ),
            kind=self.kind,
            can_deactivate=self.can_deactivate,
            integrations=tuple(Integration(i.name, i.health_url) for i in self.integrations),
        )


class ClientsAnswer(BaseModel):
    clients: list[_ClientAnswer]


class _SecretAnswer(BaseModel):
    id: Id
    created_at: Moment
    status: Literal["ACTIVE", "INACTIVE"]
    marker: str | None = None
    last_used_at: Moment | None = None

    def secret(self) -> ClientSecret:
        return ClientSecret(
            secret_id=self.id,
            created_at=self.created_at,
            active=self.status == "ACTIVE",
            marker=self.marker,
            last_used_at=self.last_used_at,
        )


class SecretsAnswer(BaseModel):
    secrets: list[_SecretAnswer]


class NewSecretAnswer(BaseModel):
    id: Id
    client_secret: SecretStr = Field(min_length=1)
