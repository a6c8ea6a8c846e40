"""Who goes when: the canary, the waves after it, and the batches inside. Decided once, for life."""

from collections.abc import Mapping, Sequence

from recovery.accounts import Affected, Placed, Priority
from recovery.policy import WavePolicy

EXCLUDED_WAVE = -1
"""Where excluded accounts are kept; no phase ever works on this wave."""


def assign(
    accounts: Sequence[Affected], policy: WavePolicy, *, taken: Mapping[int, int] | None = None
) -> list[Placed]:
    """Gives each account its wave and batch; the order of arrival never matters.

    Wave 0 is the canary: a few high-priority and a few ordinary accounts, so that both kinds are
    seen to work. Then the rest of the high-priority accounts, then waves of `policy.growth`, then
    everybody else. Where waves are `taken` already (late arrivals), new ones follow them.
    """
    excluded = [a for a in accounts if a.excluded]
    ranked = sorted((a for a in accounts if not a.excluded), key=_urgency)
    first = max((w for w in (taken or {}) if w >= 0), default=-1) + 1
    placed = [Placed(a, EXCLUDED_WAVE, 0) for a in sorted(excluded, key=lambda a: a.account_id)]
    for offset, wave in enumerate(_split(ranked, policy, canary=first == 0)):
        for position, account in enumerate(wave):
            placed.append(Placed(account, first + offset, position // policy.batch))
    return placed


def _urgency(account: Affected) -> tuple[bool, int, str]:
    return (account.priority is not Priority.HIGH, -len(account.reasons), account.account_id)


def _split(
    ranked: Sequence[Affected], policy: WavePolicy, *, canary: bool
) -> list[Sequence[Affected]]:
    high = [a for a in ranked if a.priority is Priority.HIGH]
    normal = [a for a in ranked if a.priority is not Priority.HIGH]
    waves: list[Sequence[Affected]] = []
    if canary:
        wanted_high = round(policy.canary * policy.canary_high_priority)
        from_high = min(wanted_high, len(high))
        from_normal = min(policy.canary - from_high, len(normal))
        from_high = min(policy.canary - from_normal, len(high))
        waves.append(high[:from_high] + normal[:from_normal])
        high, normal = high[from_high:], normal[from_normal:]
    waves.append(high)
    for size in policy.growth:
        waves.append(normal[:size])
        normal = normal[size:]
    waves.append(normal)
    return [wave for wave in waves if wave]
