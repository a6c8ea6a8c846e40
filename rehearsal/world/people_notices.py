"""Who lives by signatures: a mail gateway that checks them, a counterfeiter who hopes nobody does.

The gateway knows nothing but the published keys and RFC 7797; people ask the portal's own page.
"""

import base64
import hashlib
import json
import secrets
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime

import aiohttp
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from rehearsal.world.mailbox import Mailboxes, Received
from rehearsal.world.people_strangers import Listening

HEADER = "X-Recovery-Notice"
PutBanner = Callable[[str, str, str, str, str | None], None]
"""(account id, title, body, link, signature)"""


class MailGateway(Listening):
    """Verifies the signed notice in the header of every mail against its words, as a company's own
    mail system would. `seen` counts: "fits", "unsigned", "forged", "other words", "other link"."""

    def __init__(self, portal_url: str, mailboxes: Mailboxes) -> None:
        super().__init__(mailboxes)
        self._portal_url = portal_url.rstrip("/")
        self._keys: dict[str, Ed25519PublicKey] = {}
        self.seen: Counter[str] = Counter()

    async def hear(self, received: Received) -> None:
        if received.channel != "email":
            return
        if not self._keys:
            self._keys = await _published_keys(self.client(), self._portal_url)
        self.seen[self._judge(received)] += 1

    def _judge(self, received: Received) -> str:
        signature = received.headers.get(HEADER)
        if signature is None:
            return "unsigned"
        notice = verified(signature, self._keys)
        if notice is None:
            return "forged"
        if notice["text"] != digest(f"{received.subject} {received.text}"):
            return "other words"
        if notice["link"] and f"{notice['link']}#" not in (received.text or ""):
            return "other link"
        return "fits"


class Counterfeiter(Listening):
    """Puts three forged banners beside ours in the app of each victim: one under a signature copied
    from the victim's mail, one under a signature of his own making, one under none."""

    def __init__(self, mailboxes: Mailboxes, victims: Mapping[str, str], put: PutBanner) -> None:
        super().__init__(mailboxes)
        self._victims = {address.lower(): account_id for address, account_id in victims.items()}
        self._put = put
        self._key = Ed25519PrivateKey.generate()
        self.forged: dict[str, int] = {}
        """By account, how many forged banners stand there."""

    async def hear(self, received: Received) -> None:
        account_id = self._victims.get(received.to.lower())
        copied = received.headers.get(HEADER)
        if received.channel != "email" or account_id is None or copied is None:
            return
        if account_id in self.forged:
            return
        title, body = "Your account is at risk", "Sign in at once, or it will be deleted."
        signatures = (copied, self._own(copied, f"{title} {body}"), None)
        for signature in signatures:
            self._put(account_id, title, body, "https://accounts.evil.example", signature)
        self.forged[account_id] = len(signatures)

    def _own(self, copied: str, words: str) -> str:
        """Everything right but the key."""
        document = json.loads(copied)
        now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        notice = {**document["notice"], "text": digest(words), "sent_at": now}
        protected = document["jws"].partition(".")[0]
        signature = self._key.sign(f"{protected}.".encode() + _canonical(notice))
        return json.dumps({"jws": f"{protected}..{_b64(signature)}", "notice": notice})


def verified(document: str, keys: Mapping[str, Ed25519PublicKey]) -> Mapping[str, str] | None:
    """The notice, where the detached JWS over it is of one of these keys (RFC 7797)."""
    try:
        given = json.loads(document)
        protected, payload, signature = given["jws"].split(".")
        header = json.loads(_unb64(protected))
        key = keys[header["kid"]]
        if (header["alg"], header["b64"], header["crit"], payload) != ("EdDSA", False, ["b64"], ""):
            return None
        key.verify(_unb64(signature), f"{protected}.".encode() + _canonical(given["notice"]))
    except (ValueError, KeyError, TypeError, InvalidSignature):
        return None
    notice: Mapping[str, str] = given["notice"]
    return notice


def digest(words: str) -> str:
    plain = " ".join(unicodedata.normalize("NFC", words).split())
    return hashlib.sha256(plain.encode()).hexdigest()


async def _published_keys(
    http: aiohttp.ClientSession, portal_url: str
) -> dict[str, Ed25519PublicKey]:
    async with http.get(f"{portal_url}/.well-known/jwks.json") as answer:
        rows: Iterable[Mapping[str, str]] = (await answer.json(content_type=None))["keys"]
    return {
        row["kid"]: Ed25519PublicKey.from_public_bytes(_unb64(row["x"]))
        for row in rows
        if row.get("crv") == "Ed25519"
    }


def forger_of(put_banner: Callable[..., object]) -> PutBanner:
    """How he gets a banner in: by a hole that is the platform's and not ours."""

    def put(account_id: str, title: str, body: str, link: str, signature: str | None) -> None:
        put_banner(
            account_id,
            key=f"forged-{secrets.token_hex(6)}",
            title=title,
            body=body,
            link=link,
            code="000000",
            signature=signature,
        )

    return put


def _canonical(notice: Mapping[str, object]) -> bytes:
    return json.dumps(notice, sort_keys=True, separators=(",", ":")).encode()


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
