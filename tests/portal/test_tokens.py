"""Forged, stale and stolen enrollment tokens: all are refused, and all refusals look alike."""

import hashlib
import hmac
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from statistics import median
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from recovery.enroll import ALGORITHM, PURPOSE, TYPE, Issuer, jwks, mint, new_signing_key
from recovery.incident import Enrollment
from tests.portal.conftest import MakeWorld
from tests.portal.world import INCIDENT, PortalWorld

Forge = Callable[[PortalWorld, Enrollment], str]


def claims(world: PortalWorld, enrollment: Enrollment, **changed: Any) -> dict[str, Any]:
    assert enrollment.issued_at is not None
    assert enrollment.expires_at is not None
    return {
        "iss": world.parties.issuer,
        "aud": world.parties.audience,
        "sub": enrollment.ref,
        "jti": enrollment.jti,
        "iat": int(enrollment.issued_at.timestamp()),
        "exp": int(enrollment.expires_at.timestamp()),
        "inc": enrollment.incident_id,
        "purpose": PURPOSE,
        **changed,
    }


def signed(world: PortalWorld, enrollment: Enrollment, **changed: Any) -> str:
    """As the right key would sign it, with other claims: what a stolen or careless signer makes."""
    return jwt.encode(
        claims(world, enrollment, **changed),
        world.key.private,
        ALGORITHM,
        headers={"typ": TYPE, "kid": world.key.kid},
    )


def b64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def alg_none(world: PortalWorld, enrollment: Enrollment) -> str:
    header = {"alg": "none", "typ": TYPE, "kid": world.key.kid}
    body = json.dumps(claims(world, enrollment)).encode()
    return f"{b64(json.dumps(header).encode())}.{b64(body)}."


def hs256_with_the_public_key(world: PortalWorld, enrollment: Enrollment) -> str:
    """PyJWT refuses to sign so; an attacker's own code does not."""
    public = world.key.private.public_key()
    secret = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    header = {"alg": "HS256", "typ": TYPE, "kid": world.key.kid}
    body = json.dumps(claims(world, enrollment)).encode()
    signing = f"{b64(json.dumps(header).encode())}.{b64(body)}"
    return f"{signing}.{b64(hmac.digest(secret, signing.encode(), hashlib.sha256))}"


def wrong_key(world: PortalWorld, enrollment: Enrollment) -> str:
    other, _ = new_signing_key(world.key.kid)
    return mint(enrollment, other, world.parties)


def unknown_key(world: PortalWorld, enrollment: Enrollment) -> str:
    other, _ = new_signing_key("k2")
    return mint(enrollment, other, world.parties)


def another_type(world: PortalWorld, enrollment: Enrollment) -> str:
    headers = {"typ": "JWT", "kid": world.key.kid}
    return jwt.encode(claims(world, enrollment), world.key.private, ALGORITHM, headers=headers)


def another_audience(world: PortalWorld, enrollment: Enrollment) -> str:
    return mint(enrollment, world.key, Issuer(world.parties.issuer, "https://other.example"))


def another_issuer(world: PortalWorld, enrollment: Enrollment) -> str:
    return mint(enrollment, world.key, Issuer("evil.example", world.parties.audience))


def truncated(world: PortalWorld, enrollment: Enrollment) -> str:
    return mint(enrollment, world.key, world.parties)[:-6]


def other_payload(world: PortalWorld, enrollment: Enrollment) -> str:
    """The signature of one token under the claims of another."""
    header, _, signature = mint(enrollment, world.key, world.parties).split(".")
    return f"{header}.{b64(json.dumps(claims(world, enrollment, exp=2**40)).encode())}.{signature}"


def with_claims(**changed: Any) -> Forge:
    def forge(world: PortalWorld, enrollment: Enrollment) -> str:
        return signed(world, enrollment, **changed)

    return forge


def critical_extension(world: PortalWorld, enrollment: Enrollment) -> str:
    """RFC 7515, 4.1.11: who does not know an extension that is critical must refuse."""
    headers = {"typ": TYPE, "kid": world.key.kid, "crit": ["exp"], "exp": 1}
    return jwt.encode(claims(world, enrollment), world.key.private, ALGORITHM, headers=headers)


def key_id_that_is_no_text(world: PortalWorld, enrollment: Enrollment) -> str:
    token = mint(enrollment, world.key, world.parties)
    header = b64(json.dumps({"alg": ALGORITHM, "typ": TYPE, "kid": None}).encode())
    return ".".join([header, *token.split(".")[1:]])


def key_of_its_own(world: PortalWorld, enrollment: Enrollment) -> str:
    """RFC 8725, 3.10: a key that the token itself brings is not looked at."""
    other, _ = new_signing_key("own")
    [jwk] = jwks([other])["keys"]
    headers = {"typ": TYPE, "kid": "own", "jwk": jwk}
    return jwt.encode(claims(world, enrollment), other.private, ALGORITHM, headers=headers)


def over_before_it_began(world: PortalWorld, enrollment: Enrollment) -> str:
    now = int(world.clock.timestamp())
    return signed(world, enrollment, iat=now + 20, exp=now + 10)


def of_the_future(world: PortalWorld, enrollment: Enrollment) -> str:
    later = int(world.clock.timestamp()) + 3600
    return signed(world, enrollment, iat=later, exp=later + 60)


def run_out(world: PortalWorld, enrollment: Enrollment) -> str:
    token = mint(enrollment, world.key, world.parties)
    world.clock.advance(timedelta(minutes=15))
    return token


def run_out_but_signed_longer(world: PortalWorld, enrollment: Enrollment) -> str:
    """The row is the truth, whatever the token says."""
    world.clock.advance(timedelta(minutes=15))
    return signed(world, enrollment, exp=int(world.clock.timestamp()) + 600)


def superseded(world: PortalWorld, enrollment: Enrollment) -> str:
    world.ledger.issue(INCIDENT, [enrollment.ref])
    return mint(enrollment, world.key, world.parties)


def not_in_the_ledger(world: PortalWorld, enrollment: Enrollment) -> str:
    return mint(replace(enrollment, jti="f" * 32), world.key, world.parties)


FORGERIES: dict[str, Forge] = {
    "alg none": alg_none,
    "HS256 with the public key": hs256_with_the_public_key,
    "wrong key": wrong_key,
    "unknown key": unknown_key,
    "another type": another_type,
    "another audience": another_audience,
    "another issuer": another_issuer,
    "another purpose": with_claims(purpose="check-message"),
    "another account": with_claims(sub="acc-0000000000000000"),
    "another incident": with_claims(inc="INC-2020-0001"),
    "expired": run_out,
    "expired in the ledger": run_out_but_signed_longer,
    "from the future": of_the_future,
    "over before it began": over_before_it_began,
    "critical extension": critical_extension,
    "a key id that is no text": key_id_that_is_no_text,
    "a key of its own": key_of_its_own,
    "truncated": truncated,
    "another payload": other_payload,
    "superseded": superseded,
    "not in the ledger": not_in_the_ledger,
    "no token at all": lambda *_: "x" * 40,
    "empty": lambda *_: "",
    "a number as time": with_claims(exp="tomorrow"),
}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", FORGERIES)
async def test_forged_tokens(shared: PortalWorld, person: str, name: str) -> None:
    world = shared
    token = FORGERIES[name](world, world.issue(person))
    browser = world.browser()
    page = await world.begin(browser, f"{world.url}/enroll#t={token}")
    nothing = await world.begin(world.browser(), f"{world.url}/enroll#t={'n' * 40}")
    assert (page.status, page.path) == (400, "/enroll/begin")
    assert page.text == nothing.text, "one text for all reasons"
    assert not browser.cookies
    assert not world.platform.authenticators_of(person)


@pytest.mark.asyncio(loop_scope="module")
async def test_the_right_token_would_have_been_taken(shared: PortalWorld, person: str) -> None:
    """Or the table above could pass because nothing ever works."""
    world = shared
    link = f"{world.url}/enroll#t={signed(world, world.issue(person))}"
    assert (await world.begin(world.browser(), link)).path == "/enroll/code"


async def test_refusals_take_the_same_time(make_world: MakeWorld, person: str) -> None:
    """A bad signature ends before the ledger is asked; the answer does not tell."""
    world = await make_world(answer_floor=timedelta(milliseconds=120))
    world.contain([person])
    enrollment = world.issue(person)
    bad = wrong_key(world, enrollment)
    superseded_token = superseded(world, enrollment)
    times: dict[str, list[float]] = {bad: [], superseded_token: []}
    for _ in range(5):
        for token, taken in times.items():
            browser = world.browser()
            form = (await browser.open("/enroll")).forms["/enroll/begin"]
            started = time.perf_counter()
            assert (await browser.send(form, token=token)).status == 400
            taken.append(time.perf_counter() - started)
    early, late = (median(taken) for taken in times.values())
    assert min(early, late) >= 0.12
    assert abs(early - late) < 0.03


async def test_a_closed_incident_takes_its_links_along(world: PortalWorld, person: str) -> None:
    link = world.link(world.issue(person))
    world.ledger.close_incident(INCIDENT)
    assert (await world.begin(world.browser(), link)).status == 400
