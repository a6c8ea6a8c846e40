"""Who asks, as far as our own proxies vouch for it: a key for throttles, never logged.

The headers are read from the right, since each proxy appends the address that it saw: what stands
left of the first address that is not one of our proxies was written by the client (RFC 7239, 8.1).
"""

import re
from collections.abc import Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

from starlette.requests import Request

from portal.settings import PortalSettings

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

_MOST_HOPS = 20
_FOR = re.compile(r'(?:^|;)\s*for\s*=\s*("[^"]*"|[^;\s]+)', re.IGNORECASE)
_PORT = re.compile(r":\d{1,5}$")


def client_of(request: Request, settings: PortalSettings) -> str:
    """The client's address, or its /64 network: whoever has one IPv6 address has 2^64 of them."""
    peer = request.client.host if request.client else ""
    if settings.proxies:
        return _grouped(_counted(request, settings.proxies) or peer)
    if not settings.trusted_proxies:
        return _grouped(peer)
    # Without a peer the server listens on a socket file: who may open that is one of ours.
    current = _read(peer)
    if peer and (current is None or not _is_ours(current, settings.trusted_proxies)):
        return _grouped(peer)
    for hop in reversed(_hops(request, settings.forwarded_by)):
        address = _read(hop)
        if address is None:
            # A proxy of ours vouches for nothing here; further left it is the client's word.
            break
        current = address
        if not _is_ours(address, settings.trusted_proxies):
            break
    return _grouped(str(current) if current is not None else "")


def _counted(request: Request, proxies: int) -> str:
    seen = [part.strip() for part in request.headers.get("x-forwarded-for", "").split(",")]
    return seen[-proxies] if len(seen) >= proxies else ""


def _hops(request: Request, header: str) -> list[str]:
    lines = ",".join(request.headers.getlist(header))
    elements = lines.split(",")[-_MOST_HOPS:] if lines else []
    if header == "x-forwarded-for":
        return [element.strip() for element in elements]
    found = (_FOR.search(element) for element in elements)
    return [match[1].strip('"') if match else "" for match in found]


def _read(text: str) -> Address | None:
    """An address with or without port and brackets; None for a name, "unknown" or rubbish."""
    host = text.strip()
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = _PORT.sub("", host)
    try:
        address = ip_address(host)
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped if isinstance(mapped, IPv4Address) else address


def _is_ours(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def _grouped(host: str) -> str:
    address = _read(host)
    if address is None:
        return host or "unknown"
    if isinstance(address, IPv6Address):
        return str(ip_network((address, 64), strict=False))
    return str(address)
