"""What the portal is told, and what it is not told: settings, configuration file, clock, forms."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from starlette.requests import Request

from ledger.clock import OffsetClock
from portal.authenticity import masked_email
from portal.client_address import client_of
from portal.config import load_config
from portal.forms import BeginForm, CodeForm, read
from portal.keyed import Keyed, Sealer, new_code, new_cookie, session_hash
from portal.settings import PortalSettings
from recovery.enroll import SigningKey, jwks, new_signing_key
from recovery.errors import Misconfigured

KEY, PEM = new_signing_key("k1")
SEAL = Fernet.generate_key().decode()
CODE_KEY = "code-key-" * 5


def settings(**changed: Any) -> dict[str, Any]:
    return {
        "public_url": "https://enroll.example.com",
        "organization": "Example Social",
        "site": "accounts.example.com",
        "issuer": {"issuer": "recovery.example", "audience": "https://enroll.example.com"},
        "jwks": jwks([KEY]),
        "seal_key": SEAL,
        "code_key": CODE_KEY,
        **changed,
    }


def told(**changed: Any) -> PortalSettings:
    return PortalSettings.model_validate(settings(**changed))


def config(**changed: Any) -> dict[str, Any]:
    return {
        "portal": settings(),
        "ledger": {"url": "sqlite:////nowhere/ledger.db", "key": "ledger-key-" * 4},
        "platform": {"base_url": "https://platform.example.com", "token": "bind-token"},
        "sms": {
            "account_sid": "AC" + "0" * 32,
            "user": "AC" + "0" * 32,
            "secret": "twilio-secret",
            "from_number": "+12125550100",
        },
        **changed,
    }


def written(folder: Path, document: object, mode: int = 0o600) -> Path:
    path = folder / "portal.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    "changed",
    [
        {"public_url": "enroll.example.com"},
        {"public_url": "https://enroll.example.com/path"},
        {"public_url": "https://user@enroll.example.com"},
        {"public_url": "https://enroll.example.com?x=1"},
        {"public_url": "http://enroll.example.com"},
        {"public_url": "ftp://enroll.example.com"},
        {"code_key": "short"},
        {"seal_key": "not a Fernet key"},
        {"jwks": {"keys": []}},
        {"jwks": {"keys": [{**jwks([KEY])["keys"][0], "d": "AAAA"}]}},
        {"enroll": {"token_ttl": "2h"}},
        {"enroll": {"code_ttl": "11m"}},
        {"jwks": None},
        {"jwks_file": "/nowhere/jwks.json"},
        {"jwks": {"keys": [*jwks([KEY])["keys"], *jwks([KEY])["keys"]]}},
        {"passkey_domain": "elsewhere.example"},
        {"passkey_domain": "ample.com"},
        {"passkey_domain": "com"},
        {"proxies": -1},
        {"proxies": 1, "trusted_proxies": ["10.0.0.0/8"]},
        {"trusted_proxies": ["10.0.0.1/8"]},
        {"forwarded_by": "x-real-ip"},
        {"notice_jwks": jwks([KEY])},
        {"notice_jwks": jwks([SigningKey("n1", KEY.private)])},
        {"notice_jwks": jwks([new_signing_key("k1")[0]])},
        {"notice_jwks": {"keys": [{**jwks([KEY])["keys"][0], "d": "AAAA"}]}},
        {"notice_jwks": {"keys": [{"kty": "RSA", "kid": "n1"}]}},
        {"webhooks": {"sendgrid_key": "AAAA"}},
        {"webhooks": {"sendgrid_key": "%"}},
        {"unheard_of": 1},
    ],
)
def test_refused_settings(changed: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refused:
        PortalSettings.model_validate(settings(**changed))
    assert CODE_KEY not in str(refused.value)
    assert SEAL not in str(refused.value)


def test_accepted_settings() -> None:
    accepted = PortalSettings.model_validate(settings(public_url="https://Enroll.example.com/"))
    assert accepted.public_url == "https://enroll.example.com"
    assert accepted.https
    assert accepted.cookie == "__Host-enroll"
    assert accepted.rp_id == "enroll.example.com"
    above = PortalSettings.model_validate(settings(passkey_domain="example.com"))
    assert above.rp_id == "example.com"
    assert PortalSettings.model_validate(settings(passkeys=False)).rp_id is None
    number = PortalSettings.model_validate(settings(public_url="http://127.0.0.1:8080"))
    assert number.rp_id is None, "browsers make no passkey for an address without a name"
    port = PortalSettings.model_validate(settings(public_url="https://enroll.example.com:443"))
    assert port.public_url == "https://enroll.example.com"
    slash = {"issuer": "recovery.example", "audience": "https://enroll.example.com/"}
    assert PortalSettings.model_validate(settings(issuer=slash)).issuer.audience == port.public_url
    for local in ("http://127.0.0.1:8080", "http://localhost:1", "http://a.localhost"):
        assert not PortalSettings.model_validate(settings(public_url=local)).https
    assert CODE_KEY not in repr(accepted)
    assert SEAL not in repr(accepted)


def test_a_good_file(tmp_path: Path) -> None:
    loaded = load_config(written(tmp_path, config()))
    assert loaded.portal.enroll.token_ttl == timedelta(minutes=15)
    for secret in ("bind-token", "twilio-secret", "ledger-key", CODE_KEY, SEAL):
        assert secret not in repr(loaded)
    platform = {
        "base_url": "https://platform.example.com",
        "token": "bind-token",
        "paths": {"passkeys": "/v2/users/{account}/passkeys"},
    }
    loaded = load_config(written(tmp_path, config(platform=platform)))
    assert loaded.platform.paths == platform["paths"]


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("{", "Invalid JSON"),
        ("[]", "(whole file)"),
        (config(sms={"account_sid": "AC", "user": "u", "secret": "twilio-secret"}), "sms"),
        (config(platform={"base_url": "https://p.example.com"}), "platform.token"),
        (config(clock_offset_file="/tmp/offset"), "clock_offset_file"),
        (
            config(
                platform={
                    "base_url": "https://p.example.com",
                    "token": "bind-token",
                    "paths": {"passkeys": "/v2/passkeys"},
                }
            ),
            "must look like",
        ),
        (config(portal=settings(code_key="hush")), "portal.code_key"),
    ],
)
def test_bad_files_name_the_field_and_no_value(tmp_path: Path, document: object, said: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        load_config(written(tmp_path, document))
    assert said in str(refused.value)
    for secret in ("bind-token", "twilio-secret", "ledger-key", "hush", CODE_KEY, SEAL):
        assert secret not in str(refused.value)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_file_that_others_may_read(tmp_path: Path, mode: int) -> None:
    with pytest.raises(Misconfigured, match="chmod 600"):
        load_config(written(tmp_path, config(), mode))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="No such file"):
        load_config(tmp_path / "portal.json")


def test_the_clock_of_a_rehearsal(tmp_path: Path) -> None:
    path = tmp_path / "offset"
    clock = OffsetClock(path)
    assert abs(clock() - datetime.now(UTC)) < timedelta(seconds=5)
    for hours in (1, 25, 3):
        replacement = tmp_path / "new"
        replacement.write_text(f"{hours * 3600.0!r}")
        os.replace(replacement, path)
        ahead = clock() - datetime.now(UTC)
        assert abs(ahead - timedelta(hours=hours)) < timedelta(seconds=5)


@pytest.mark.parametrize(
    ("forwarded", "proxies", "client"),
    [
        ("", 0, "192.0.2.1"),
        ("203.0.113.9", 0, "192.0.2.1"),
        ("203.0.113.9", 1, "203.0.113.9"),
        ("1.1.1.1, 203.0.113.9", 1, "203.0.113.9"),
        ("1.1.1.1, 203.0.113.9, 198.51.100.7", 2, "203.0.113.9"),
        ("203.0.113.9", 2, "192.0.2.1"),
        ("", 1, "192.0.2.1"),
    ],
)
def test_whose_address_is_throttled(forwarded: str, proxies: int, client: str) -> None:
    headers = [(b"x-forwarded-for", forwarded.encode())] if forwarded else []
    request = Request({"type": "http", "headers": headers, "client": ("192.0.2.1", 5)})
    assert client_of(request, told(proxies=proxies)) == client


OURS = ["10.0.0.0/8", "fd00::/8"]


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.1", "203.0.113.9", "192.0.2.1"),  # not by a proxy of ours
        ("10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "1.1.1.1, 203.0.113.9", "203.0.113.9"),  # the client's own invention
        ("10.0.0.1", "1.1.1.1, 203.0.113.9, 10.0.0.7, fd00::7", "203.0.113.9"),
        ("10.0.0.1", "203.0.113.9:5511", "203.0.113.9"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "unknown", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9, rubbish", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.9, 10.0.0.8", "10.0.0.9"),
        ("10.0.0.1", ", ".join(["203.0.113.9", *["10.0.0.2"] * 300]), "10.0.0.2"),
        ("10.0.0.1", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("10.0.0.1", "[2001:db8:1:2:ffff::1]:443", "2001:db8:1:2::/64"),
        ("10.0.0.1", "::ffff:203.0.113.9", "203.0.113.9"),
        ("::ffff:10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("2001:db8::1", "203.0.113.9", "2001:db8::/64"),
        ("", "203.0.113.9", "203.0.113.9"),  # a socket file
    ],
)
@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded"])
def test_only_our_proxies_are_believed(header: str, peer: str, forwarded: str, client: str) -> None:
    if header == "forwarded":
        hops = [hop.strip() for hop in forwarded.split(",") if hop]
        forwarded = ", ".join(f'for="{hop}";proto=https;by=10.0.0.1' for hop in hops)
    other = {"x-forwarded-for": "forwarded", "forwarded": "x-forwarded-for"}[header]
    headers = [(other.encode(), b"for=9.9.9.9" if other == "forwarded" else b"9.9.9.9")]
    if forwarded:
        headers.append((header.encode(), forwarded.encode()))
    request = Request({"type": "http", "headers": headers, "client": (peer, 5) if peer else None})
    assert client_of(request, told(trusted_proxies=OURS, forwarded_by=header)) == client


def test_one_neighbourhood_is_one_client() -> None:
    """Whoever has one IPv6 address has all of its /64."""
    seen = {
        client_of(Request({"type": "http", "headers": [], "client": (address, 5)}), told())
        for address in ("2001:db8:0:1::1", "2001:db8:0:1:ffff:ffff:ffff:ffff", "2001:db8:0:2::1")
    }
    assert seen == {"2001:db8:0:1::/64", "2001:db8:0:2::/64"}


def test_a_code_hash_is_bound_to_its_session_and_key() -> None:
    keyed = Keyed(b"k" * 32)
    hashes = {
        keyed.code_hash("session-a", "123456"),
        keyed.code_hash("session-b", "123456"),
        keyed.code_hash("session-a", "123457"),
        Keyed(b"l" * 32).code_hash("session-a", "123456"),
        keyed.form_token("session-a"),
    }
    assert len(hashes) == 5
    cookie = new_cookie()
    assert keyed.form_token_fits(cookie, keyed.form_token(cookie))
    assert not keyed.form_token_fits(cookie, keyed.form_token(new_cookie()))
    assert not keyed.form_token_fits(cookie, "ü")
    assert len(cookie) == 43
    assert cookie not in session_hash(cookie)


def test_codes_are_six_digits_and_use_them_all() -> None:
    codes = [new_code() for _ in range(2000)]
    assert all(len(code) == 6 and code.isdigit() for code in codes)
    assert len(set(codes)) > 1900
    assert {code[0] for code in codes} == set("0123456789")


def test_a_seal_opens_for_its_enrollment_alone() -> None:
    sealer = Sealer(SEAL)
    sealed = sealer.seal("jti-1", "SECRET")
    assert b"SECRET" not in sealed
    assert sealer.open("jti-1", sealed) == "SECRET"
    for jti, what, by in (
        ("jti-2", sealed, sealer),
        ("jti-1", sealed[:-2], sealer),
        ("jti-1", sealed, Sealer(Fernet.generate_key().decode())),
    ):
        with pytest.raises(Misconfigured):
            by.open(jti, what)


@given(st.integers(0, 999_999), st.sampled_from(["", " ", "-", " ", "·"]), st.booleans())
def test_codes_as_people_type_them(number: int, between: str, wide: bool) -> None:
    code = f"{number:06}"
    typed = f"  {code[:3]}{between}{code[3:]} "
    if wide:
        typed = typed.translate({ord("0") + d: ord("０") + d for d in range(10)})
    form = read(CodeForm, {"code": typed})
    assert form is not None
    assert form.code == code


@given(st.text(max_size=20))
def test_no_text_is_taken_for_a_code_but_six_digits(text: str) -> None:
    form = read(CodeForm, {"code": text})
    assert form is None or (form.code.isascii() and form.code.isdigit() and len(form.code) == 6)


def test_a_pasted_link_is_a_token() -> None:
    for pasted in ("a" * 40, f" https://x.example/enroll#t={'a' * 40} \n", f"#t={'a' * 40}"):
        form = read(BeginForm, {"token": pasted})
        assert form is not None
        assert form.token == "a" * 40
        assert "aaa" not in repr(form)


@pytest.mark.parametrize(
    ("address", "masked"),
    [("ana@example.com", "a•••@e•••.com"), ("x@y", "x•••@•••y"), ("", "•••@•••")],
)
def test_masked_addresses(address: str, masked: str) -> None:
    assert masked_email(address) == masked
