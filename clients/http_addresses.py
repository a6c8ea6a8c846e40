"""Which addresses a credential may be sent to: https, or plain http on this machine."""

import ipaddress
from urllib.parse import urlsplit


def url_problem(url: str, allow_cleartext: bool) -> str:
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return "something else"
    if parts.scheme not in ("http", "https") or not host:
        return "something else"
    if parts.username or parts.password or parts.query or parts.fragment:
        return "credentials, a query or a fragment in it"
    if parts.scheme == "http" and not allow_cleartext and not _is_loopback(host):
        return "plain http to another machine"
    return ""


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
