"""HTTP to Vault with a bound on the whole answer: hvac's requests bounds each read alone.

A server that sends a byte a second, or a body without end, would hold a thread for ever.
"""

import time
from typing import Any

import requests
from requests.adapters import HTTPAdapter

LARGEST = 32 * 1024 * 1024
_PIECE = 64 * 1024


class BoundedAdapter(HTTPAdapter):
    """Reads an answer to its end within `seconds` and `LARGEST` bytes, or raises the error that
    requests has for an answer that broke off."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> Any:
        ends_at = time.monotonic() + self._seconds
        response = super().send(request, *args, **{**kwargs, "stream": True})
        body = bytearray()
        try:
            # What has come so far; `read` and `stream` would wait for a whole piece. The wait for
            # the next byte is bounded by the read's own limit.
            while piece := response.raw.read1(_PIECE, decode_content=True):
                body += piece
                if len(body) > LARGEST or time.monotonic() > ends_at:
                    raise requests.exceptions.ChunkedEncodingError("an answer without end")
        except (requests.RequestException, OSError):
            response.close()
            raise
        except Exception as error:
            response.close()
            raise requests.exceptions.ChunkedEncodingError(type(error).__name__) from None
        response._content = bytes(body)
        response._content_consumed = True  # type: ignore[attr-defined]
        response.close()
        return response
