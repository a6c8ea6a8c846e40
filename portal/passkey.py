"""A passkey for the account: its options, the check of what the authenticator made, the binding.

W3C Web Authentication 3, 7.1, by the `webauthn` library: user verification required, discoverable,
attestation `none`; the challenge is the session's own, lives in the ledger and is good once.
"""

import json
import logging
from datetime import timedelta

from starlette.requests import Request
from starlette.responses import Response
from webauthn import (
    generate_registration_options,
    options_to_json,
    verify_registration_response,
)
from webauthn.helpers import (
    decode_credential_public_key,
    decoded_public_key_to_cryptography,
    generate_challenge,
)
from webauthn.helpers.cose import COSEAlgorithmIdentifier
from webauthn.helpers.exceptions import WebAuthnException
from webauthn.helpers.structs import (
    AttestationConveyancePreference,
    AttestationFormat,
    AuthenticatorSelectionCriteria,
    PublicKeyCredentialDescriptor,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from portal.binding import Bound, bind_passkey
from portal.door import Door, Visit, in_thread
from portal.forms import PasskeyForm, read
from portal.pages import see
from portal.texts import choose
from recovery.errors import RecoveryError, Unverified
from recovery.incident import AuthenticatorKind
from recovery.passkey import TRANSPORTS, Passkey, b64url, from_b64url, read_passkey

_CEREMONY = timedelta(minutes=5)
"""How long a person may take with the device; the standard advises five to ten minutes."""
_ALGORITHMS = [
    COSEAlgorithmIdentifier.ECDSA_SHA_256,
    COSEAlgorithmIdentifier.EDDSA,
    COSEAlgorithmIdentifier.RSASSA_PKCS1_v1_5_SHA_256,
]
_MOST_TRANSPORTS = 8

log = logging.getLogger("portal")


class PasskeyDesk:
    """The choice between the two kinds, and the way to a passkey."""

    def __init__(self, door: Door) -> None:
        self._door = door

    async def choice(self, request: Request) -> Response:
        visit = await self._door.visit(request)
        elsewhere = self._elsewhere(visit)
        if elsewhere is not None:
            return elsewhere
        if self._door.settings.rp_id is None:
            return see("/enroll/authenticator")
        return self._page(request, visit)

    async def options(self, request: Request) -> Response:
        """What the browser needs, as JSON; with it the session's challenge, which the newest
        request replaces. A refusal is a status: the page's script has the words for it."""
        door = self._door
        visit, _ = await door.visit_by_form(request)
        rp_id = door.settings.rp_id
        if rp_id is None or self._elsewhere(visit) or visit.session.sealed_passkey is not None:
            return Response(status_code=409)
        limit = door.settings.limits.confirmations_per_session
        if not await door.allowed("passkey-options", visit.session.session_hash, limit):
            return Response(status_code=429)
        try:
            known = await door.platform.passkeys(visit.account.account_id)
        except RecoveryError as error:
            log.warning("no passkey was begun for %s: %s", visit.session.ref, error)
            return Response(status_code=503)
        challenge = generate_challenge()
        await in_thread(
            lambda: door.ledger.store_challenge(
                visit.session.session_hash, b64url(challenge), ttl=_CEREMONY
            )
        )
        options = generate_registration_options(
            rp_id=rp_id,
            rp_name=door.settings.organization,
            user_id=door.keyed.user_handle(visit.account.account_id),
            user_name=visit.account.handle,
            user_display_name=visit.account.handle,
            challenge=challenge,
            timeout=int(_CEREMONY.total_seconds() * 1000),
            attestation=AttestationConveyancePreference.NONE,
            authenticator_selection=AuthenticatorSelectionCriteria(
                resident_key=ResidentKeyRequirement.REQUIRED,
                user_verification=UserVerificationRequirement.REQUIRED,
            ),
            exclude_credentials=[PublicKeyCredentialDescriptor(id=one) for one in known],
            supported_pub_key_algs=_ALGORITHMS,
        )
        return Response(options_to_json(options), media_type="application/json")

    async def confirm(self, request: Request) -> Response:
        """Takes what the authenticator made; without it (the button that asks once more) goes on
        with the passkey that was taken before."""
        door = self._door
        visit, given = await door.visit_by_form(request)
        session = visit.session.session_hash
        limit = door.settings.limits.confirmations_per_session
        if not await door.allowed("confirm", session, limit):
            return door.pages.error(request, 429)
        elsewhere = self._elsewhere(visit)
        if elsewhere is not None:
            return elsewhere
        sealed = visit.session.sealed_passkey
        if sealed is None:
            try:
                sealed = await self._taken(visit, given)
            except Unverified as error:
                log.info("a passkey was not taken for %s: %s", visit.session.ref, error.got)
                await in_thread(lambda: door.ledger.burn_challenge(session))
                return self._page(request, visit, 422, problem="passkey.refused")
        passkey = read_passkey(door.sealer.open(visit.session.jti, sealed))
        return await self._bind(request, visit, passkey)

    async def _taken(self, visit: Visit, given: dict[str, str]) -> bytes:
        """The sealed passkey that the session has from now on, or has by another press of the same
        button. Raises Unverified."""
        door, session = self._door, visit.session
        made = self._made(visit, session.challenge, given)
        sealed = door.sealer.seal(session.jti, made.text())

        def store() -> bytes:
            door.ledger.store_passkey(session.session_hash, sealed, challenge=session.challenge)
            kept = door.ledger.portal_session(session.session_hash)
            return kept.sealed_passkey or sealed if kept is not None else sealed

        return await in_thread(store)

    async def _bind(self, request: Request, visit: Visit, passkey: Passkey) -> Response:
        door = self._door
        try:
            bound = await bind_passkey(door, visit, passkey)
        except Unverified:
            return door.pages.page(request, "refused", 400, about="refused")
        match bound:
            case Bound.DONE:
                return see("/enroll/done")
            case Bound.OTHER:
                return see("/enroll/choose")
            case Bound.AGAIN:
                return self._page(request, visit, 503, problem="passkey.again", kept=True)
            case Bound.REFUSED:
                return door.pages.page(
                    request, "stuck", 422, about="stuck.account", support=door.settings.support
                )

    def _made(self, visit: Visit, challenge: str, given: dict[str, str]) -> Passkey:
        """The passkey that was made for the session's challenge. Raises Unverified."""
        door = self._door
        form = read(PasskeyForm, given)
        rp_id = door.settings.rp_id
        if not challenge or form is None or rp_id is None:
            got = "a malformed form" if challenge else "no open challenge"
            raise Unverified("Take a passkey", got=got)
        try:
            made = verify_registration_response(
                credential=form.credential,
                expected_challenge=from_b64url(challenge),
                expected_rp_id=rp_id,
                expected_origin=door.settings.public_url,
                require_user_verification=True,
                supported_pub_key_algs=_ALGORITHMS,
            )
            # A key that no signature could ever be checked with would lock the person out.
            decoded_public_key_to_cryptography(
                decode_credential_public_key(made.credential_public_key)
            )
        except WebAuthnException as error:
            raise Unverified("Take a passkey", got=type(error).__name__) from None
        except Exception as error:
            # The library lets through what its parsers of CBOR and JSON raise.
            raise Unverified("Take a passkey", got=f"malformed: {type(error).__name__}") from None
        if made.fmt != AttestationFormat.NONE:
            raise Unverified("Take a passkey", got="an attestation, which was not asked for")
        if _cross_origin(form.credential):
            raise Unverified("Take a passkey", got="made inside another site's page")
        return Passkey(
            credential_id=made.credential_id,
            public_key=made.credential_public_key,
            sign_count=made.sign_count,
            transports=_transports(form.credential),
            user_handle=door.keyed.user_handle(visit.account.account_id),
            rp_id=rp_id,
            backed_up=made.credential_backed_up,
        )

    @staticmethod
    def _elsewhere(visit: Visit) -> Response | None:
        """Where a session belongs that is not at the choice any more, or not yet."""
        session = visit.session
        if session.completed_at is not None:
            return see("/enroll/done")
        if session.sealed_candidate is None:
            return see("/enroll/code")
        if session.method is AuthenticatorKind.TOTP:
            return see("/enroll/authenticator")
        return None

    def _page(
        self,
        request: Request,
        visit: Visit,
        status: int = 200,
        *,
        problem: str = "",
        kept: bool = False,
    ) -> Response:
        texts = choose(request.headers.get("accept-language", ""))
        return self._door.pages.page(
            request,
            "choose",
            status,
            problem=texts(problem) if problem else "",
            kept=kept or visit.session.sealed_passkey is not None,
            # Bound or not, the link is used up by now: its end no longer matters.
            left_minutes=None if kept else self._door.minutes_left(visit),
            csrf=self._door.keyed.form_token(visit.cookie),
        )


def _cross_origin(credential: str) -> bool:
    said = json.loads(from_b64url(json.loads(credential)["response"]["clientDataJSON"]))
    return bool(said.get("crossOrigin"))


def _transports(credential: str) -> tuple[str, ...]:
    """What the browser says of how the authenticator is reached; a hint for sign-ins."""
    said = json.loads(credential).get("response", {}).get("transports", [])
    known = [one for one in said if one in TRANSPORTS] if isinstance(said, list) else []
    return tuple(dict.fromkeys(known))[:_MOST_TRANSPORTS]
