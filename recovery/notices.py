"""A notice that proves itself: a detached JWS over what it says (RFC 7515 appendix F, RFC 7797).

What is signed is the canonical notice: JSON with sorted keys and no white space (RFC 8785). It
names nobody. Whoever has the message and the JWKS can check it; the text's digest keeps a
signature from being moved to other words, the link's address keeps it from leading elsewhere.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from recovery.accounts import Channel
from recovery.enroll import ALGORITHM, LEEWAY, SigningKey
from recovery.errors import Unverified

TYPE = "recovery-notice+jws"
HEADER = "X-Recovery-Notice"
"""The email header that carries the signed notice."""

LONGEST = 4096
_FIELDS = frozenset({"kind", "incident", "channel", "sent_at", "text", "link"})
_ATTEMPT = "Verify a signed notice"
_JWS = jwt.PyJWS(algorithms=[ALGORITHM])


@dataclass(frozen=True, slots=True)
class Notice:
    """`text` is `digest_of` what the person reads, `link` where its link leads, without what
    stands in the fragment; empty where there is none."""

    kind: str
    incident: str
    channel: Channel
    sent_at: datetime
    text: str
    link: str = ""


def digest_of(*parts: str) -> str:
    """SHA-256 (hex) of the words: NFC, every run of white space as one blank, since programs that
    show a message break its lines anew."""
    words = " ".join(unicodedata.normalize("NFC", " ".join(parts)).split())
    return hashlib.sha256(words.encode()).hexdigest()


def canonical(notice: Notice) -> bytes:
    """The octets that are signed."""
    said = {
        **asdict(notice),
        "channel": notice.channel.value,
        "sent_at": f"{notice.sent_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
    }
    return json.dumps(said, sort_keys=True, separators=(",", ":")).encode()


def sign(notice: Notice, key: SigningKey) -> str:
    """The detached JWS: protected header, nothing, signature."""
    headers = {"kid": key.kid, "typ": TYPE}
    return _JWS.encode(
        canonical(notice), key.private, ALGORITHM, headers=headers, is_payload_detached=True
    )


def signed(notice: Notice, key: SigningKey) -> str:
    """Notice and JWS as one line of JSON, as it stands in a banner and in a mail's header."""
    document = {"jws": sign(notice, key), "notice": json.loads(canonical(notice))}
    return json.dumps(document, sort_keys=True, separators=(",", ":"))


def verify(document: str, keys: Mapping[str, Ed25519PublicKey], *, now: datetime) -> Notice:
    """The notice of a document that `signed` made with one of these keys. Raises Unverified.

    It does not look at the message: compare `text` with `digest_of` it, and `link` with the
    address that it leads to.
    """
    jws, notice = _parsed(document)
    try:
        header = jwt.get_unverified_header(jws)
        key = keys.get(str(header.get("kid")))
        if header.get("typ") != TYPE or header.get("b64") is not False:
            raise Unverified(_ATTEMPT, got="another type")
        if key is None:
            raise Unverified(_ATTEMPT, got="an unknown key id")
        _JWS.decode(jws, key, algorithms=[ALGORITHM], detached_payload=canonical(notice))
    except jwt.InvalidTokenError as error:
        raise Unverified(_ATTEMPT, got=type(error).__name__) from None
    if notice.sent_at > now + LEEWAY:
        raise Unverified(_ATTEMPT, got="sent in the future")
    return notice


def _parsed(document: str) -> tuple[str, Notice]:
    """Folded lines are unfolded and a header's name is taken off: people paste what they see."""
    text = re.sub(rf"^\s*{HEADER}\s*:", "", document.strip(), flags=re.IGNORECASE).strip()
    if len(text) > LONGEST:
        raise Unverified(_ATTEMPT, got="too long a text")
    try:
        given = json.loads(re.sub(r"\r?\n[ \t]*", "", text))
        jws, said = given["jws"], given["notice"]
        if set(said) != _FIELDS or not all(isinstance(v, str) for v in (jws, *said.values())):
            raise ValueError("other fields")
        sent_at = datetime.strptime(said["sent_at"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        return jws, Notice(
            kind=said["kind"],
            incident=said["incident"],
            channel=Channel(said["channel"]),
            sent_at=sent_at,
            text=said["text"],
            link=said["link"],
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Unverified(_ATTEMPT, got="no signed notice") from None
