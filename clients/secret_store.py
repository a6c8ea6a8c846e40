"""The promise of a store of client secrets, whichever product keeps it (Vault, AWS, Azure).

A path holds up to three secrets, each under one label: CURRENT, which consumers read, PENDING and
PREVIOUS (`recovery.app_clients.SecretLabels`). `tests/contracts/` proves the promise for each.
"""

from typing import Protocol, Self

from pydantic import SecretStr

from recovery.app_clients import SecretLabels, StoreVersion

__all__ = ["SecretLabels", "SecretStore", "StoreVersion"]


class SecretStore(Protocol):
    """Every change is a check-and-set: `cas` is the `version` of the look it was decided on.

    - Of any number of writers with one `cas` and different changes, one wins; the others get
      Conflict and have changed nothing that a consumer reads.
    - A lost answer is cleared up by looking, or by a repetition that makes no second version; a
      change that can't be cleared up is Unknown.
    - A move that does not fit what stands there is Refused, with nothing changed.
    - A change returns the new version. Versions are opaque: compare them for equality alone.

    The value of a secret leaves as SecretStr alone; paths, ids and versions may be logged.
    """

    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *_: object) -> None: ...
    async def aclose(self) -> None: ...

    async def check(self) -> None:
        """Returns where the store answers and knows us; else says what to mend."""

    async def observe(self, path: str) -> SecretLabels:
        """Which secret stands under which label; all empty where nothing is there."""

    async def current(self, path: str) -> tuple[str, SecretStr]:
        """Id and value of CURRENT; the id is empty where it was stored without. NotFound."""

    async def pending(self, path: str) -> tuple[str, SecretStr]:
        """Id and value of PENDING, to try it before anybody depends on it. NotFound if none."""

    async def stage_pending(
        self, path: str, secret_id: str, value: SecretStr, *, cas: StoreVersion
    ) -> StoreVersion:
        """A new secret under PENDING, beside a CURRENT. Refused `pending_taken`, `previous_taken`
        while an older rotation is not finished."""

    async def promote(self, path: str, *, cas: StoreVersion) -> StoreVersion:
        """PENDING -> CURRENT and CURRENT -> PREVIOUS, for a consumer in one moment."""

    async def roll_back(self, path: str, *, cas: StoreVersion) -> StoreVersion:
        """PREVIOUS -> CURRENT; what was CURRENT has no label any more."""

    async def drop_pending(self, path: str, *, cas: StoreVersion) -> StoreVersion:
        """Forgets PENDING, once it is gone from the platform."""

    async def drop_previous(self, path: str, *, cas: StoreVersion) -> StoreVersion:
        """Forgets PREVIOUS, once it is gone from the platform."""
