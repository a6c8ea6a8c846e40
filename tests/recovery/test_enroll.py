"""The enrollment token by RFC 8725: what verifies, and every way in which it must not."""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from recovery.enroll import (
    TYPE,
    Issuer,
    jwks,
    mint,
    new_signing_key,
    public_keys,
    read_signing_key,
    verify,
)
from recovery.errors import Misconfigured, Unverified
from recovery.incident import Enrollment

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
PARTIES = Issuer("https://recovery.example.com", "https://accounts.example.com")
KEY, PEM = new_signing_key("k1")
TABLE = public_keys(jwks([KEY]))
ROW = Enrollment("INC-2026-0142", "acc-abc", "jti-1", 1, NOW, NOW, NOW + timedelta(minutes=15))
CLAIMS = {
    "iss": PARTIES.issuer,
    "aud": PARTIES.audience,
    "sub": "acc-abc",
    "jti": "jti-1",
    "iat": int(NOW.timestamp()),
    "exp": int(NOW.timestamp()) + 900,
    "inc": "INC-2026-0142",
    "purpose": "enroll-authenticator",
}


def forged(key=KEY.private, algorithm="EdDSA", header=None, **claims):  # type: ignore[no-untyped-def]
    headers = {"typ": TYPE, "kid": "k1"} | (header or {})
    return jwt.encode(CLAIMS | claims, key, algorithm=algorithm, headers=headers)


def test_same_row_same_token_and_it_verifies() -> None:
    token = mint(ROW, KEY, PARTIES)
    assert token == mint(ROW, read_signing_key("k1", PEM), PARTIES)
    claims = verify(token, TABLE, PARTIES, now=NOW + timedelta(minutes=1))
    assert (claims.ref, claims.jti, claims.incident_id) == ("acc-abc", "jti-1", "INC-2026-0142")
    assert "acc-abc" not in repr(KEY)


def test_a_row_is_armed_first() -> None:
    with pytest.raises(ValueError, match="armed"):
        mint(replace(ROW, expires_at=None), KEY, PARTIES)


def public_pem() -> bytes:
    return KEY.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def hs256_with_public_key() -> str:
    """PyJWT refuses to sign with a PEM as an HMAC key, so the forgery is made by hand."""
    import hashlib
    import hmac

    def part(value: object) -> bytes:
        return urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

    signing = part({"alg": "HS256", "typ": TYPE, "kid": "k1"}) + b"." + part(CLAIMS)
    mac = hmac.new(public_pem(), signing, hashlib.sha256).digest()
    return (signing + b"." + urlsafe_b64encode(mac).rstrip(b"=")).decode()


def tampered() -> str:
    head, body, signature = mint(ROW, KEY, PARTIES).split(".")
    claims = json.loads(urlsafe_b64decode(body + "=="))
    claims["sub"] = "acc-other"
    body = urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"{head}.{body}.{signature}"


OTHER, _ = new_signing_key("k1")


@pytest.mark.parametrize(
    "token",
    [
        pytest.param("", id="empty"),
        pytest.param("x.y.z", id="not a JWT"),
        pytest.param(jwt.encode(CLAIMS, None, algorithm="none", headers={"typ": TYPE}), id="none"),
        pytest.param(hs256_with_public_key(), id="HS256 with the public key"),
        pytest.param(forged(key=OTHER.private), id="wrong key"),
        pytest.param(forged(header={"kid": "k2"}), id="unknown kid"),
        pytest.param(forged(header={"kid": "../../etc/passwd"}), id="path as kid"),
        pytest.param(forged(header={"typ": "JWT"}), id="wrong typ"),
        pytest.param(forged(purpose="banner"), id="wrong purpose"),
        pytest.param(forged(aud="https://evil.example"), id="wrong aud"),
        pytest.param(forged(aud=[PARTIES.audience]), id="aud as a list"),
        pytest.param(forged(iss="https://evil.example"), id="wrong iss"),
        pytest.param(forged(exp=int(NOW.timestamp())), id="expired this second"),
        pytest.param(forged(iat=int(NOW.timestamp()) + 3600), id="from the future"),
        pytest.param(forged(exp=10**20), id="exp out of range"),
        pytest.param(forged(exp=True), id="exp a boolean"),
        pytest.param(tampered(), id="changed subject"),
        pytest.param(mint(ROW, KEY, PARTIES)[:-4], id="truncated"),
    ],
)
def test_refused(token: str) -> None:
    with pytest.raises(Unverified):
        verify(token, TABLE, PARTIES, now=NOW)


@pytest.mark.parametrize("claim", sorted(CLAIMS))
def test_every_claim_is_required(claim: str) -> None:
    claims = {k: v for k, v in CLAIMS.items() if k != claim}
    token = jwt.encode(claims, KEY.private, algorithm="EdDSA", headers={"typ": TYPE, "kid": "k1"})
    with pytest.raises(Unverified):
        verify(token, TABLE, PARTIES, now=NOW)


def test_a_signing_key_must_be_ed25519() -> None:
    with pytest.raises(Misconfigured) as refusal:
        read_signing_key("k9", "not a key")
    assert "k9" in str(refusal.value)
    assert "not a key" not in str(refusal.value)
