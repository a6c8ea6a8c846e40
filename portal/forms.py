"""What people send: each form as a value, made plain before it is checked."""

import re
import unicodedata
from typing import Annotated, TypeVar
from urllib.parse import parse_qsl

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request

from portal.keyed import CODE_DIGITS

_FRAGMENT = re.compile(r"#t=([^#&\s]*)\s*$")
_KIND = "application/x-www-form-urlencoded"
_F = TypeVar("_F", bound=BaseModel)


def _plain(value: object) -> object:
    """Full-width digits and letters, as phones in Japan type them, become ordinary ones."""
    return unicodedata.normalize("NFKC", value).strip() if isinstance(value, str) else value


def _digits(value: object) -> object:
    plain = _plain(value)
    return re.sub(r"[\s.·-]", "", plain) if isinstance(plain, str) else plain


def _token(value: object) -> object:
    """A person without JavaScript pastes the whole link."""
    if not isinstance(value, str):
        return value
    pasted = _FRAGMENT.search(value)
    return (pasted.group(1) if pasted else value).strip()


class _Form(BaseModel):
    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)


Digits = Annotated[
    str, BeforeValidator(_digits), Field(pattern=rf"^[0-9]{{{CODE_DIGITS}}}$", repr=False)
]
Identifier = Annotated[
    str, BeforeValidator(_plain), Field(min_length=1, max_length=254, repr=False)
]


class BeginForm(_Form):
    token: Annotated[
        str, BeforeValidator(_token), Field(min_length=20, max_length=4096, repr=False)
    ]


class CodeForm(_Form):
    code: Digits


class PasskeyForm(_Form):
    credential: Annotated[str, Field(min_length=2, max_length=8192, repr=False)]


class FreshLinkForm(_Form):
    identifier: Identifier


class CheckForm(_Form):
    identifier: Identifier
    code: Digits


class NoticeForm(_Form):
    """What somebody pasted: the signed notice, and the message's words if he has them."""

    document: Annotated[str, Field(min_length=20, max_length=8000, repr=False)]
    text: Annotated[str, Field(max_length=8000, repr=False)] = ""


async def fields(request: Request) -> dict[str, str]:
    """The body's fields. HTTPException 415 for another kind of body, 400 for a malformed one."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _KIND:
        raise HTTPException(415)
    try:
        pairs = parse_qsl(
            (await request.body()).decode(), keep_blank_values=True, max_num_fields=10
        )
    except ValueError:
        raise HTTPException(400) from None
    found = dict(pairs)
    if len(found) != len(pairs):
        raise HTTPException(400)
    return found


def read(model: type[_F], given: dict[str, str]) -> _F | None:
    """The form, or None where a field is missing or malformed."""
    try:
        return model.model_validate(given)
    except ValidationError:
        return None
