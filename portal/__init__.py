"""The person's door: the only part that faces the internet, with narrow credentials of its own.

It may look at one incident's enrollments in the ledger, bind an authenticator at the platform and
send one code by text message; it cannot issue enrollments, sign tokens or revoke anything.
"""

from portal.app import create_app
from portal.settings import Limits, PortalSettings

__all__ = ["Limits", "PortalSettings", "create_app"]
