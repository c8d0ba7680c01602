"""The bodies of requests: read up to a limit, never written to the disk."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from edgead.web.problem import ProblemError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

READ_S = 30.0  # for a body to come
_MOST_PARTS = 64
_LONGEST_HEAD = 4096  # bytes of the headers of one part
_ANY = ("", "application/octet-stream", "application/x-www-form-urlencoded")  # the last is what curl says by itself


async def read_body(request: Request, limit: int) -> bytes:
    """Read a request's body.

    Raises:
        ProblemError: it is larger (413), as soon as that is known; it does not come (408).
    """
    too_large = ProblemError(413, f"the body is larger than {limit / 2**20:g} MiB; send a smaller image")
    told = request.headers.get("content-length", "")
    if told.isascii() and told.isdecimal() and (len(told) > 15 or int(told) > limit):
        raise too_large
    try:
        body = await asyncio.wait_for(_collected(request, limit, too_large), READ_S)
    except asyncio.TimeoutError as error:
        raise ProblemError(408, f"the body did not come within {READ_S:g} s") from error
    if not body:
        raise ProblemError(400, "the body is empty; send an image: curl --data-binary @image.png")
    return body


async def _collected(request: Request, limit: int, too_large: ProblemError) -> bytes:
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size > limit:
            raise too_large
        pieces.append(piece)
    return b"".join(pieces)


def images_of(content_type: str, body: bytes) -> dict[str, bytes]:
    """Return the images of a body by name: the parts of a form, or the body itself under the name "".

    Raises:
        ProblemError: another content type (415), a malformed form (400).
    """
    kind, options = parse_options_header(content_type.encode("latin-1", "replace"))
    word = kind.decode("latin-1").strip().lower()
    if word == "multipart/form-data":
        return _parts(options.get(b"boundary", b""), body)
    if word in _ANY or word.startswith("image/"):
        return {"": body}
    raise ProblemError(
        415, f"content type {word[:80]}; expected image/*, application/octet-stream or multipart/form-data"
    )


def _parts(boundary: bytes, body: bytes) -> dict[str, bytes]:
    if not 1 <= len(boundary) <= 70:  # RFC 2046, section 5.1.1
        raise ProblemError(400, "the form has no boundary, or one longer than 70 characters")
    form = _Form()
    try:
        parser = MultipartParser(boundary, form.callbacks())
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise ProblemError(400, "the form is malformed; expected multipart/form-data as of RFC 7578") from error
    if not form.is_whole:
        raise ProblemError(400, "the form is cut short: its last boundary is missing")
    if not form.images:
        raise ProblemError(400, "the form has no images; expected one part for each")
    return form.images


class _Form:
    """Takes the parts of a form in as a parser finds them."""

    def __init__(self) -> None:
        self.images: dict[str, bytes] = {}
        self.is_whole = False
        self._field, self._value, self._head, self._data = b"", b"", b"", bytearray()
        self._seen = 0

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._on_field,
            "on_header_value": self._on_value,
            "on_header_end": self._on_header,
            "on_part_data": self._on_data,
            "on_part_end": self._end,
            "on_end": self._over,
        }

    def _begin(self) -> None:
        if len(self.images) >= _MOST_PARTS:
            raise ProblemError(400, f"the form has more than {_MOST_PARTS} parts")
        self._field, self._value, self._head, self._data, self._seen = b"", b"", b"", bytearray(), 0

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._field += self._take(data, start, end)

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += self._take(data, start, end)

    def _take(self, data: bytes, start: int, end: int) -> bytes:
        self._seen += end - start
        if self._seen > _LONGEST_HEAD:
            raise ProblemError(400, f"a part of the form has more than {_LONGEST_HEAD} bytes of headers")
        return data[start:end]

    def _on_header(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._head = self._value
        self._field = self._value = b""

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        self._data += data[start:end]

    def _end(self) -> None:
        name = parse_options_header(self._head)[1].get(b"name")
        if name is None:
            raise ProblemError(
                400, 'a part of the form has no name; expected Content-Disposition: form-data; name="..."'
            )
        word = name.decode("utf-8", "replace")
        if word in self.images:
            raise ProblemError(400, f"two parts of the form are called '{word[:80]}'; give each its own name")
        self.images[word] = bytes(self._data)

    def _over(self) -> None:
        self.is_whole = True
