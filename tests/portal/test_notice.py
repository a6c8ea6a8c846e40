"""Signed notices: the page, and everybody with the JWKS, tell ours from a forgery."""

import base64
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import jwt
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from recovery.accounts import Channel
from recovery.enroll import SigningKey, mint, new_signing_key, public_keys
from recovery.errors import Unverified
from recovery.notices import HEADER, TYPE, Notice, canonical, digest_of, sign, signed, verify
from tests.portal.world import INCIDENT, PortalWorld

TITLE, BODY = "Set up your sign-in again", "We have reset its password. Code: 123456."


def notice(world: PortalWorld, **changed: Any) -> Notice:
    given = {
        "kind": "link",
        "incident": INCIDENT,
        "channel": Channel.IN_APP,
        "sent_at": world.clock.now().replace(microsecond=0),
        "text": digest_of(TITLE, BODY),
        "link": f"{world.url}/enroll",
    }
    return Notice(**{**given, **changed})


async def check(world: PortalWorld, document: str, text: str = "") -> tuple[int, str]:
    async with world.http.post(
        f"{world.url}/check/notice", data={"document": document, "text": text}
    ) as response:
        return response.status, await response.text()


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


async def test_our_own_notice(world: PortalWorld) -> None:
    document = signed(notice(world), world.notice_key)
    status, body = await check(world, document, f"{TITLE}\n{BODY}")
    assert status == 200
    assert "This message is ours" in body
    assert INCIDENT in body
    assert f"{world.url}/enroll" in body
    status, body = await check(world, document)
    assert "The signature is ours" in body, "words were not shown, so nothing is said of them"
    # As people paste it: from a mail's header, folded, with the words broken anew.
    folded = f"{HEADER}: {document[:60]}\r\n {document[60:]}"
    _, body = await check(world, folded, f"  {TITLE} \n\n {BODY.replace(' ', chr(10))}")
    assert "This message is ours" in body


async def test_our_signature_under_other_words(world: PortalWorld) -> None:
    document = signed(notice(world), world.notice_key)
    _, body = await check(world, document, f"{TITLE}\nCall +1 555 0100 at once.")
    assert "These are not our words" in body


def alg_none(world: PortalWorld, said: Notice) -> str:
    header = {"alg": "none", "b64": False, "crit": ["b64"], "kid": "n1", "typ": TYPE}
    return f"{b64(json.dumps(header).encode())}.."


def hs256(world: PortalWorld, said: Notice) -> str:
    import hmac

    header = {"alg": "HS256", "b64": False, "crit": ["b64"], "kid": "n1", "typ": TYPE}
    start = b64(json.dumps(header).encode())
    secret = world.notice_key.private.public_key().public_bytes_raw()
    made = hmac.digest(secret, start.encode() + b"." + canonical(said), "sha256")
    return f"{start}..{b64(made)}"


def wrong_key(world: PortalWorld, said: Notice) -> str:
    return sign(said, new_signing_key("n1")[0])


def unknown_key(world: PortalWorld, said: Notice) -> str:
    return sign(said, new_signing_key("n2")[0])


def key_of_the_links(world: PortalWorld, said: Notice) -> str:
    return sign(said, world.key)


def links_key_under_our_name(world: PortalWorld, said: Notice) -> str:
    return sign(said, SigningKey("n1", world.key.private))


def another_type(world: PortalWorld, said: Notice) -> str:
    return jwt.PyJWS().encode(
        canonical(said),
        world.notice_key.private,
        "EdDSA",
        headers={"kid": "n1", "typ": "JWT"},
        is_payload_detached=True,
    )


def encoded_payload(world: PortalWorld, said: Notice) -> str:
    """A JWS of the ordinary kind: valid by itself, and no notice."""
    return jwt.PyJWS().encode(
        canonical(said), world.notice_key.private, "EdDSA", headers={"kid": "n1", "typ": TYPE}
    )


def of_another_notice(world: PortalWorld, said: Notice) -> str:
    return sign(replace(said, kind="manual"), world.notice_key)


FORGERIES = {
    "alg none": alg_none,
    "HS256 with the public key": hs256,
    "wrong key": wrong_key,
    "unknown key": unknown_key,
    "the key of the links": key_of_the_links,
    "the key of the links under our name": links_key_under_our_name,
    "another type": another_type,
    "an encoded payload": encoded_payload,
    "of another notice": of_another_notice,
    "truncated": lambda world, said: sign(said, world.notice_key)[:-8],
    "empty": lambda world, said: "",
}


@pytest.mark.parametrize("name", FORGERIES)
async def test_forged_notices(world: PortalWorld, name: str) -> None:
    said = notice(world)
    document = json.dumps(
        {"jws": FORGERIES[name](world, said), "notice": json.loads(canonical(said))}
    )
    status, body = await check(world, document, f"{TITLE}\n{BODY}")
    assert status == 200
    assert "This signature is not ours" in body


@pytest.mark.parametrize(
    "changed",
    [
        {"incident": "INC-2026-9999"},
        {"link": "https://evil.example/enroll"},
        {"channel": "email"},
        {"text": digest_of("other words")},
        {"sent_at": "2020-01-01T00:00:00Z"},
        {"sent_at": "yesterday"},
        {"more": "fields"},
        {"kind": 5},
    ],
)
async def test_bent_notices(world: PortalWorld, changed: dict[str, Any]) -> None:
    document = json.loads(signed(notice(world), world.notice_key))
    document["notice"] |= changed
    _, body = await check(world, json.dumps(document))
    assert "This signature is not ours" in body


async def test_a_token_is_no_notice_and_a_notice_no_token(world: PortalWorld, person: str) -> None:
    """One key, one purpose: even with the keys swapped neither is taken for the other."""
    token = mint(world.issue(person), SigningKey("n1", world.notice_key.private), world.parties)
    page = await world.begin(world.browser(), f"{world.url}/enroll#t={token}")
    assert page.status == 400
    link_token = mint(world.issue(person), world.key, world.parties)
    for pasted in (token, link_token, json.dumps({"jws": link_token, "notice": {}})):
        _, body = await check(world, pasted)
        assert "This signature is not ours" in body


async def test_from_the_future(world: PortalWorld) -> None:
    later = world.clock.now() + timedelta(minutes=5)
    _, body = await check(world, signed(notice(world, sent_at=later), world.notice_key))
    assert "This signature is not ours" in body


@pytest.mark.parametrize("pasted", ["", "too short"])
async def test_nothing_was_pasted(world: PortalWorld, pasted: str) -> None:
    status, body = await check(world, pasted)
    assert status == 422
    assert "from its first to its last bracket" in body


@pytest.mark.parametrize(
    "pasted", ["[" * 5000, "{}" * 15, '{"jws":{},"notice":[]}', "\x00" * 40, "9" * 7000]
)
async def test_rubbish(world: PortalWorld, pasted: str) -> None:
    status, body = await check(world, pasted)
    assert status == 200
    assert "This signature is not ours" in body


async def test_third_parties_need_the_jwks_alone(world: PortalWorld) -> None:
    """By hand, after RFC 7797: no code of ours but the document and the address."""
    document = json.loads(signed(notice(world), world.notice_key))
    async with world.http.get(f"{world.url}/.well-known/jwks.json") as response:
        assert response.headers["Content-Type"] == "application/jwk-set+json"
        etag = response.headers["ETag"]
        keys = {key["kid"]: key for key in (await response.json(content_type=None))["keys"]}
    assert set(keys) == {"k1", "n1"}
    assert all("d" not in key for key in keys.values())
    protected, payload, signature = document["jws"].split(".")
    header = json.loads(unb64(protected))
    assert header == {
        "alg": "EdDSA", "b64": False, "crit": ["b64"], "kid": "n1", "typ": TYPE
    }  # fmt: skip
    assert payload == ""
    said = json.dumps(document["notice"], sort_keys=True, separators=(",", ":")).encode()
    key = Ed25519PublicKey.from_public_bytes(unb64(keys[header["kid"]]["x"]))
    key.verify(unb64(signature), protected.encode() + b"." + said)
    with pytest.raises(InvalidSignature):
        key.verify(unb64(signature), protected.encode() + b"." + said.replace(b"link", b"lynk"))
    async with world.http.get(
        f"{world.url}/.well-known/jwks.json", headers={"If-None-Match": etag}
    ) as response:
        assert response.status == 304


def test_no_personal_data_is_signed(world: PortalWorld, person: str) -> None:
    seed = world.population.accounts[person]
    said = canonical(notice(world)).decode()
    for private in (seed.handle, seed.email, seed.phone, world.refs[person], "#t="):
        assert private
        assert private not in said


def test_verification_needs_the_right_keys(world: PortalWorld) -> None:
    document = signed(notice(world), world.notice_key)
    keys = public_keys(world.settings.notice_jwks)
    assert verify(document, keys, now=world.clock.now()) == notice(world)
    with pytest.raises(Unverified):
        verify(document, public_keys(world.settings.jwks), now=world.clock.now())
    with pytest.raises(Unverified):
        verify(document, {}, now=world.clock.now())
