"""What the headers of a request to the endpoint say: what its body is, and which answer is wanted.

``Accept`` is read as RFC 9110 defines it, with q-values and ranges such as ``image/*``. SageMaker's
custom attributes hold this endpoint's own settings (see ``_ATTRIBUTES``) and, as AWS documents
them, whatever a client likes, such as an ID to track the request by: the latter comes back in the
same header of the answer.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from starlette.datastructures import Headers

from lggseg.data.codecs import ATTRIBUTES_HEADER, JSON, NPY, PNG, TIFF
from lggseg.utils.errors import Refused

Attributes = dict[str, list[float]]

BODIES = (TIFF, NPY)
# In the order in which they are chosen where the client does not mind.
ANSWERS = (JSON, TIFF, NPY, PNG)
# Custom attributes: type, how many values, lowest, highest.
_ATTRIBUTES: dict[str, tuple[Callable[[str], float], int, float, float]] = {
    # lggseg.preprocessing.volume.channel_statistics of the whole volume; no two grey levels are
    # closer than 1.
    "background": (float, 3, 0, 255),
    "scale": (float, 3, 1, 255),
    # So many slices at the start and the end are only neighbours of the others.
    "context": (int, 2, 0, 1),
    # 1: npy of the probability, float32, instead of the mask.
    "probability": (int, 1, 0, 1),
    # The slice of the picture, from 0; without it the one with the most tumour.
    "slice": (int, 1, 0, 10**6),
}
# What version 0.1 called them.
_OLD_NAMES = {"air": "background", "contrast": "scale"}
_OWN = {*_ATTRIBUTES, *_OLD_NAMES}
_ALIKE = 0.8  # of difflib: a name that is so much like one of the above is a slip


@dataclass(frozen=True)
class Question:
    """What the headers of a request say: what the body is, and what is wanted."""

    kind: str
    accept: str
    attributes: Attributes

    @classmethod
    def of(cls, headers: Headers) -> Question:
        """Raises ``Refused``."""
        refuse_encoding(headers)
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in BODIES:
            action = "Name the body's type in the header Content-Type."
            raise Refused(415, f"Content-Type {kind!r}", " or ".join(BODIES), action)
        accept = choose_answer(", ".join(headers.getlist("accept")))
        attributes = read_attributes(";".join(headers.getlist(ATTRIBUTES_HEADER)))
        if attributes.get("probability") == [1] and accept != NPY:
            raise Refused(400, f"probability=1 and Accept {accept}", f"Accept {NPY}", "Change one.")
        return cls(kind, accept, attributes)


def refuse_encoding(headers: Headers) -> None:
    """Raise ``Refused`` for a body that is packed by ``Content-Encoding``."""
    names = _items(", ".join(headers.getlist("content-encoding")), ",")
    packed = [name for name in names if name.lower() != "identity"]
    if packed:
        found = f"Content-Encoding {', '.join(packed)[:100]!r}"
        raise Refused(415, found, "a body that is not encoded", "Send the file as it is.")


def choose_answer(header: str) -> str:
    """The media type of ``ANSWERS`` that a header ``Accept`` wants most.

    >>> choose_answer("image/tiff;q=0, image/png;q=0.1, application/json")
    'application/json'
    >>> choose_answer("image/*")
    'image/tiff'

    Raises:
        Refused: it wants none of them.
    """
    ranges = [_media_range(item) for item in _items(header, ",")] or [("*/*", 1.0)]
    ranked = [(*_preference(media, ranges), media) for media in ANSWERS]
    quality, _, media = max(ranked, key=lambda entry: entry[:2])
    if quality <= 0:
        expected = " or ".join(ANSWERS)
        raise Refused(406, f"Accept {header[:100]!r}", expected, "Accept one of them.")
    return media


def _preference(media: str, ranges: Sequence[tuple[str, float]]) -> tuple[float, int]:
    """The quality that the closest range gives to a media type, and how early that range stands."""
    forms = (media, f"{media.partition('/')[0]}/*", "*/*")
    for form in forms:
        for position, (name, quality) in enumerate(ranges):
            if name == form:
                return quality, -position
    return 0.0, 0


def _media_range(item: str) -> tuple[str, float]:
    """A media type or range without its parameters, and its q-value: 1 where there is none or it
    is no number."""
    name, *parameters = (item.strip().lower() for item in item.split(";"))
    quality = 1.0
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                quality = float(value)
            except ValueError:
                quality = 1.0
    quality = min(max(quality, 0.0), 1.0) if math.isfinite(quality) else 1.0
    return "*/*" if name == "*" else name, quality


def read_attributes(text: str) -> Attributes:
    """The settings among custom attributes like ``background=3,5,2; scale=80,120,85; trace-id=7``.

    Raises:
        Refused: a setting with a wrong value, or a name that looks like a misspelt setting.
    """
    values: Attributes = {}
    for item in _items(text, ";"):
        name, _, numbers = (piece.strip() for piece in item.partition("="))
        name = _OLD_NAMES.get(name, name)
        if name in values:
            raise _bad_attribute(f"{name!r} twice")
        if name in _ATTRIBUTES:
            try:
                values[name] = _numbers(name, numbers)
            except ValueError:
                raise _bad_attribute(repr(item[:100])) from None
        elif _is_slip(item):
            raise _bad_attribute(repr(item[:100]))
    if ("background" in values) != ("scale" in values):
        raise _bad_attribute("background without scale or scale without background")
    return values


def opaque_attributes(headers: Headers) -> str:
    """The custom attributes of a request that are not for this endpoint, such as a trace ID."""
    items = _items(";".join(headers.getlist(ATTRIBUTES_HEADER)), ";")
    names = ((item, item.partition("=")[0].strip()) for item in items)
    return ";".join(item for item, name in names if name not in _OWN and not _is_slip(item))


def _is_slip(item: str) -> bool:
    """Whether an attribute looks like one of the settings with a slip in its name."""
    name, equals, _ = item.partition("=")
    return bool(equals and difflib.get_close_matches(name.strip().lower(), _OWN, 1, _ALIKE))


def _items(header: str, separator: str) -> Iterable[str]:
    return [item for item in (item.strip() for item in header.split(separator)) if item]


def _numbers(name: str, text: str) -> list[float]:
    kind, count, low, high = _ATTRIBUTES[name]
    numbers = [kind(number) for number in text.split(",")]
    if len(numbers) != count or not all(low <= number <= high for number in numbers):
        raise ValueError(text)
    return numbers


def _bad_attribute(found: str) -> Refused:
    known = (f"{name}: {count} from {low} to {high}"
             for name, (_, count, low, high) in _ATTRIBUTES.items())  # fmt: skip
    action = "Write name=number,number and a semicolon between attributes."
    return Refused(400, f"custom attribute {found}", "; ".join(known), action)
