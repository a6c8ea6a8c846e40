"""Signs what goes out, so that a person or a third party can tell our words from a forgery's."""

from dataclasses import dataclass, replace

from recovery import notices
from recovery.accounts import Channel
from recovery.enroll import SigningKey, read_signing_key
from recovery.errors import Misconfigured, NotFound
from recovery.messages import BannerCopy, EmailCopy, EmailText
from recovery.notices import Notice, digest_of
from recovery.notify import NoticeKind, filled
from tasks.case import Case


@dataclass(frozen=True, slots=True)
class Seal:
    """The notice key of one batch and what all its notices have in common."""

    case: Case
    key: SigningKey

    def banner(self, copy: BannerCopy, kind: NoticeKind) -> BannerCopy:
        notice = self._notice(kind, Channel.IN_APP, digest_of(copy.title, copy.body), copy.link)
        return replace(copy, signature=notices.signed(notice, self.key))

    def email(
        self, copy: EmailCopy, text: EmailText, kind: NoticeKind, link: str | None
    ) -> EmailCopy:
        said = digest_of(filled(text.subject, copy), filled(text.text, copy))
        notice = self._notice(kind, Channel.EMAIL, said, link)
        return replace(copy, headers={notices.HEADER: notices.signed(notice, self.key)})

    def _notice(self, kind: NoticeKind, channel: Channel, text: str, link: str | None) -> Notice:
        return Notice(
            kind=kind.value,
            incident=self.case.incident_id,
            channel=channel,
            sent_at=self.case.ledger.now(),
            text=text,
            # The fragment holds the token; the address before it is the same for everybody.
            link=link.partition("#")[0] if link else "",
        )


async def open_seal(case: Case, links: SigningKey | None) -> Seal | None:
    """None where the portal's block names no notice key. Raises Misconfigured where there is none
    at that path, or where it is the key of the links: one key, one purpose."""
    path = case.portal.notice_key_path
    if not path:
        return None
    try:
        stored = await case.secrets.get(path)
    except NotFound:
        raise Misconfigured(
            "Read the key that signs notices",
            subject=path,
            expected="a key with `kid` and `private_pem`",
            got="nothing at that path",
            advice="Make one as docs/systems.md, Vault, says; an empty notice_key_path sends "
            "notices unsigned.",
        ) from None
    key = read_signing_key(
        stored.data["kid"].get_secret_value(), stored.data["private_pem"].get_secret_value()
    )
    if links is not None and key.private.public_key() == links.private.public_key():
        raise Misconfigured(
            "Read the key that signs notices",
            subject=path,
            expected="a key of its own",
            got="the key that signs enrollment links",
            advice="Make another one as docs/systems.md, Vault, says.",
        )
    return Seal(case, key)
