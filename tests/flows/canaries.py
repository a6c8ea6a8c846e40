"""Everything that is personal or secret in a rehearsed world, old and new, with labels to show."""

import pyotp

from rehearsal.world.people import LINK
from tests.flows.leaks import Canaries, strings_in
from tests.flows.rehearsed import Rehearsed, ask


async def canaries_of(rehearsed: Rehearsed) -> Canaries:
    """As things stand now: to be asked when the incident is over."""
    world, known = rehearsed.world, Canaries()
    _people(rehearsed, known)
    _systems(rehearsed, known)
    for client in world.population.clients.values():
        known.add("a client's old secret", client.secret)
        known.add("a client's secret", *(s.value for s in world.platform.secrets_of(client.id)))
        known.add(
            "a client's secret in Vault", world.vault.read(f"apps/{client.id}")["client_secret"]
        )
    known.add("the introspector's secret", world.population.introspector.secret)
    everything = {"include_secrets": True, "limit": 200}
    for block in await ask(rehearsed.api, "POST", "/block_documents/filter", everything):
        fields = block["block_schema"]["fields"].get("secret_fields", [])
        for path, text in strings_in(block["data"], "block"):
            if any(path.startswith(f"block.{name.removesuffix('.*')}") for name in fields):
                known.add(f"{path} of {block['block_type_name']}", text)
    return known


def _people(rehearsed: Rehearsed, known: Canaries) -> None:
    world = rehearsed.world
    for account in world.population.accounts.values():
        known.add("an address", account.email)
        # Malformed numbers of a few digits ("555-01") stand in run ids by chance.
        if account.phone and sum(c.isdigit() for c in account.phone) >= 9:
            known.add("a phone", account.phone)
        known.add("a handle", account.handle)
        known.add("a password", account.password)
        known.add("an old authenticator", account.totp_secret)
        bound = world.platform.authenticators_of(account.id)
        known.add("an authenticator", *(a.secret for a in bound))
    known.add("a reset password", *(hit.new_password for hit in world.population.burst))
    for credential in (*world.population.credentials, *world.attacker.held()):
        known.add(f"a {credential.kind}", credential.value)
    for received in world.mailboxes.everything():
        for text in (received.text, received.html):
            known.add("a link", *(m[0].partition("#t=")[2] for m in LINK.finditer(text or "")))
    for name in rehearsed.world.approvers:
        url = rehearsed.world.approvers[name].otpauth_url
        known.add("an approver's key", pyotp.parse_uri(url).secret)
    known.add_short("an approver's code", *rehearsed.codes)


def _systems(rehearsed: Rehearsed, known: Canaries) -> None:
    access, stage = rehearsed.world.access, rehearsed.stage
    for name in (
        "platform_bind_token",
        "siem_api_key",
        "sendgrid_key",
        "twilio_token",
        "jenkins_token",
        "github_token",
        "kubernetes_token",
        "introspector_secret",
    ):
        known.add(name, getattr(access, name))
    known.add("a leased token", *(value for _, value in rehearsed.world.platform.broker.made))
    known.add("Vault's root token", stage.bao.root_token)
    known.add("the Prefect password", stage.prefect.auth.partition(":")[2])
    known.add("the ledger's key", stage.ledger_key)
    known.add("the code key", stage.code_key)
    key = rehearsed.world.vault.read("recovery/enrollment-signing-key")
    known.add("the signing key", *key["private_pem"].splitlines()[1:-1])
