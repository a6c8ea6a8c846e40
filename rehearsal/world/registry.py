"""The OAuth clients at the start: who owns them, how risky they are, who runs with their secret."""

import zlib
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random

from rehearsal.world.credentials import opaque

INTROSPECTOR_ID = "svc-recovery-introspect"
RESTART_JOB = "restart-consumer"
RESTART_WORKFLOW = "restart-consumer.yml"
CI_NAMES = ("github", "kubernetes")
"""How the registry names the CIs that are not the usual Jenkins."""
OWN_APP_ID = "app-first-party"
"""The client of an app that belongs to whoever recovers: it keeps people's refresh tokens."""

_PRODUCT_NAMES = (
    "campaign-planner live-chat-desk post-scheduler insight-board ticket-bridge ad-manager "
    "media-vault survey-kit crm-sync loyalty-hub newsroom-feed moderation-queue partner-portal "
    "commerce-link"
)
_OWNERS = ("team-growth", "team-care", "team-ads", "team-data", "team-partners", "team-commerce")
_PARTS = ("api", "worker", "sync")
_RISKS = ("low", "low", "medium", "medium", "high")


@dataclass(frozen=True, slots=True)
class ConsumerSeed:
    """One running copy of an app; `ci_job` restarts it, so that it reads its secret anew.

    `tries_both`: where its secret is refused it looks into Vault for another before it gives up.
    """

    name: str
    ci_job: str = RESTART_JOB
    tries_both: bool = False


@dataclass(frozen=True, slots=True)
class ClientSeed:
    """A confidential OAuth client with its one secret at the start.

    `max_secrets` 1: a new secret replaces the old one at once (Auth0's rotate-secret).
    `deactivates` False: a secret can be deleted only (Entra's removePassword). `partners` are
    integrations of others that work only while the client's own consumers do.
    """

    id: str
    name: str
    owner: str
    risk: str
    consumers: tuple[ConsumerSeed, ...]
    secret_id: str
    secret: str = field(repr=False)
    introspect_all: bool = False
    max_secrets: int = 2
    deactivates: bool = True
    partners: tuple[str, ...] = ()

    @property
    def secret_age(self) -> timedelta:
        """How old the secret is when the world begins: the same in every world of that id."""
        return timedelta(days=20 + zlib.crc32(self.id.encode()) % 500)


def make_clients(rng: Random, count: int) -> dict[str, ClientSeed]:
    """Clients by id, in the order of their making."""
    products = _PRODUCT_NAMES.split()
    clients: dict[str, ClientSeed] = {}
    for serial in range(count):
        product = products[serial % len(products)]
        if serial >= len(products):
            product = f"{product}-{serial // len(products) + 1}"
        parts = _PARTS[: rng.randint(1, 3)]
        client = ClientSeed(
            id=_client_id(rng, serial),
            name=product,
            owner=rng.choice(_OWNERS),
            risk=rng.choice(_RISKS),
            consumers=tuple(
                ConsumerSeed(name, _ci_job(serial, name))
                for name in (f"{product}-{part}" for part in parts)
            ),
            secret_id=f"sec-{rng.getrandbits(40):010x}",
            secret=_awkward_secret(rng),
        )
        clients[client.id] = client
    return clients


def _ci_job(serial: int, consumer: str) -> str:
    """Two teams have left Jenkins: one for GitHub Actions, one for plain Kubernetes."""
    github, kubernetes = CI_NAMES
    if serial == 1:
        return f"{github}:{RESTART_WORKFLOW}"
    if serial == 2:
        return f"{kubernetes}:deployment/{consumer}"
    return RESTART_JOB


def _client_id(rng: Random, serial: int) -> str:
    drawn = f"app-{rng.getrandbits(32):08x}"
    return OWN_APP_ID if serial == 0 else drawn


def make_introspector(rng: Random) -> ClientSeed:
    return ClientSeed(
        id=INTROSPECTOR_ID,
        name="recovery-introspector",
        owner="team-security",
        risk="high",
        consumers=(),
        secret_id=f"sec-{rng.getrandbits(40):010x}",
        secret=_awkward_secret(rng),
        introspect_all=True,
    )


def _awkward_secret(rng: Random) -> str:
    """Holds `:`, `+`, `/` and `%`, which only survive Basic if form-encoded (RFC 6749 2.3.1)."""
    return opaque(rng, "cs") + rng.choice((":+/%", "%2B+:/", "/:%25+"))
