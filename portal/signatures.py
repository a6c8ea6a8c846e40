"""Whether a webhook is from the provider: SendGrid's signed events, Twilio's status callbacks.

SendGrid: ECDSA on P-256 with SHA-256 over timestamp + raw body (its page on the Signed Event
Webhook, which leaves freshness to us). Twilio: its own library's RequestValidator, over the address
that Twilio called, which is the public one whatever proxies stand between.
"""

import base64
import binascii
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pydantic import SecretStr
from twilio.request_validator import (
    HMAC_SHA1,
    HMAC_SHA256,
    RequestValidator,
    get_signature_algorithm,
)

from recovery.errors import Unverified

SENDGRID_SIGNATURE = "x-twilio-email-event-webhook-signature"
SENDGRID_TIMESTAMP = "x-twilio-email-event-webhook-timestamp"
TWILIO_SIGNATURE = "x-twilio-signature"
TWILIO_SETTINGS = "x-twilio-webhooks-signature-settings"

_ATTEMPT = "Verify a webhook"


def read_sendgrid_key(given: str) -> ec.EllipticCurvePublicKey:
    """From base64 without PEM armour, as SendGrid shows it. ValueError for anything else."""
    try:
        key = load_der_public_key(base64.b64decode(given, validate=True))
    except (ValueError, binascii.Error):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise ValueError("a P-256 public key in base64, as SendGrid's settings show it")
    return key


class SendGridSignature:
    def __init__(self, key: str, freshness: timedelta) -> None:
        self._key = read_sendgrid_key(key)
        self._freshness = freshness

    def check(self, headers: Mapping[str, str], body: bytes, *, now: datetime) -> None:
        """Raises Unverified. A good signature that is too old is a replay."""
        timestamp = headers.get(SENDGRID_TIMESTAMP, "")
        try:
            signature = base64.b64decode(headers.get(SENDGRID_SIGNATURE, ""), validate=True)
            self._key.verify(signature, timestamp.encode() + body, ec.ECDSA(SHA256()))
        except (InvalidSignature, ValueError):
            raise Unverified(_ATTEMPT, subject="sendgrid", got="a wrong signature") from None
        if not timestamp.isascii() or not timestamp.isdigit() or len(timestamp) > 12:
            raise Unverified(_ATTEMPT, subject="sendgrid", got="a malformed timestamp")
        if abs(now - datetime.fromtimestamp(int(timestamp), UTC)) > self._freshness:
            raise Unverified(_ATTEMPT, subject="sendgrid", got="a stale timestamp")


class TwilioSignature:
    """`shared_keys` sign by HMAC-SHA256 and are named in a header; the auth token by HMAC-SHA1.
    Where only shared keys are known, the weaker kind is refused."""

    def __init__(
        self, url: str, auth_token: SecretStr, shared_keys: Mapping[str, SecretStr]
    ) -> None:
        self._url = url
        token = auth_token.get_secret_value()
        self._by_token = RequestValidator(token) if token else None
        self._by_key = {
            name: RequestValidator(secret.get_secret_value())
            for name, secret in shared_keys.items()
        }

    def check(self, headers: Mapping[str, str], query: str, parameters: Mapping[str, str]) -> None:
        """Raises Unverified."""
        settings = headers.get(TWILIO_SETTINGS, "")
        validator, algorithm = self._by_token, HMAC_SHA1
        if settings:
            validator, algorithm = self._by_key.get(_key_id(settings)), HMAC_SHA256
            if get_signature_algorithm(settings).upper() != HMAC_SHA256:
                validator = None
        signature = headers.get(TWILIO_SIGNATURE, "")
        url = f"{self._url}?{query}" if query else self._url
        if validator is None or not signature.isascii():
            raise Unverified(_ATTEMPT, subject="twilio", got="an unknown key")
        if not validator.validate(url, dict(parameters), signature, algorithm):
            raise Unverified(_ATTEMPT, subject="twilio", got="a wrong signature")


def _key_id(settings: str) -> str:
    for part in settings.split(","):
        name, _, value = part.partition("=")
        if name.strip() == "key":
            return value.strip()
    return ""
