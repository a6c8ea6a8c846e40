"""The next step of a rotation where the platform holds one secret: the new one replaces the old at
once (Auth0's rotate-secret, Keycloak without its rotation policy). Decided by looking, as in
`recovery.rotate`; there is no way back, so it needs an approval that names the gap.
"""

from collections.abc import Collection, Sequence

from recovery.app_clients import AppClient, ClientSecret
from recovery.rotate import Evidence, Move, Observed, Step, StepKind, behind_now


def next_step_in_place(
    observed: Observed,
    *,
    marker: str,
    evidence: Evidence,
    approved: bool,
    prepared: Collection[str] = (),
    stages: Sequence[int] = (1,),
) -> Step:
    """The one next step. `prepared` are consumers that try both secrets in Vault by themselves.

    The new secret stands in Vault as PENDING before it is promoted, so an interruption loses it
    only between the platform's answer and the write; then it is rotated once more, for nobody has
    anything to lose by that.
    """
    if len(observed.secrets) != 1:
        return _ask(
            f"one secret was expected at the platform and {len(observed.secrets)} are there"
        )
    (only,) = observed.secrets
    labels = observed.labels
    if labels.pending_id == only.secret_id:
        if labels.previous_id is not None:
            return _drop(Move.DROP_PREVIOUS, labels.previous_id)
        return Step(
            StepKind.DEPLOY, Move.PROMOTE, "the platform takes PENDING alone", only.secret_id
        )
    if labels.current_id == only.secret_id:
        return _serve(observed, only, marker, evidence, approved, prepared, stages)
    if only.marker != marker:
        return _ask("the platform's one secret is not in Vault: somebody has rotated by hand")
    if labels.pending_id is not None:
        return _drop(Move.DROP_PENDING, labels.pending_id)
    if labels.previous_id is not None:
        return _drop(Move.DROP_PREVIOUS, labels.previous_id)
    return _rotate("the new secret never came into Vault and nobody has it: once more")


def _serve(
    observed: Observed,
    current: ClientSecret,
    marker: str,
    evidence: Evidence,
    approved: bool,
    prepared: Collection[str],
    stages: Sequence[int],
) -> Step:
    """CURRENT is what the platform takes: bring everybody there, then rotate if it is not ours."""
    labels, current_id = observed.labels, current.secret_id
    if current_id in evidence.failed:
        why = "the secret in force did not work and the platform keeps no older one"
        return _ask(why, current_id)
    # Who can't look for the new secret by himself is without service: he waits for no stage.
    behind = tuple(n for n, held in evidence.running.items() if held != current_id)
    hurt = tuple(name for name in behind if name not in prepared)
    behind = hurt or behind_now(evidence.running, current_id, stages)
    if behind:
        why = "these consumers don't run on CURRENT yet"
        return Step(StepKind.DEPLOY, Move.RESTART, why, current_id, behind)
    if labels.pending_id is not None:
        return _drop(Move.DROP_PENDING, labels.pending_id)
    if labels.previous_id is not None:
        return _drop(Move.DROP_PREVIOUS, labels.previous_id)
    if current.marker != marker:
        if not approved:
            return _ask("the platform holds one secret: an approval that names the gap is needed")
        return _rotate("CURRENT is from before the incident")
    if evidence.proof is None or evidence.proof.secret_id != current_id:
        why = "all consumers run on CURRENT; not yet proven in this run"
        return Step(StepKind.TEST, Move.PROVE, why, current_id)
    return Step(StepKind.DONE, Move.NONE, "rotated in place", current_id)


def in_place(client: AppClient) -> bool:
    """The platform can't hold a second secret for this client."""
    return client.max_secrets < 2


def expected_gap(client: AppClient) -> str:
    """Who is without service, in words for the approval; measured afterwards."""
    unprepared = [c.name for c in client.consumers if not c.tries_both]
    if not unprepared:
        return "none: every consumer tries both secrets"
    return f"{', '.join(unprepared)}: from the rotation until its restart is done"


def _rotate(why: str) -> Step:
    return Step(StepKind.CREATE, Move.ROTATE_IN_PLACE, why)


def _drop(move: Move, secret_id: str) -> Step:
    return Step(StepKind.REPAIR, move, "it is gone from the platform", secret_id)


def _ask(why: str, secret_id: str | None = None) -> Step:
    return Step(StepKind.ASK, Move.NONE, why, secret_id)
