"""Credentials that change while a client is open: a lease, an OAuth access token."""

from typing import Protocol

from pydantic import SecretStr


class Bearer(Protocol):
    """Asked before every request that goes out with our credential."""

    async def bearer(self) -> SecretStr:
        """The token to send now; taken or renewed first where that is due."""

    async def refused(self, token: SecretStr) -> bool:
        """The other side answered 401 to `token`. True where another one stands ready: the
        request, which did nothing, is sent again with it, once."""
