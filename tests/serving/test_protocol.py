"""What the headers of a request ask the endpoint for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from lggseg.data.codecs import ATTRIBUTES_HEADER, JSON, NPY, PNG, TIFF
from lggseg.serving.protocol import (
    ANSWERS,
    Question,
    choose_answer,
    opaque_attributes,
    read_attributes,
)
from lggseg.utils.errors import Refused


@pytest.mark.parametrize(
    ("header", "media"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("*", JSON),
        ("application/*", JSON),
        ("image/*", TIFF),
        ("IMAGE/PNG", PNG),
        ("image/tiff;q=0, application/json", JSON),
        ("image/png;q=0.1, application/json", JSON),
        ("image/png, image/*;q=0.8", PNG),
        ("image/*, image/tiff;q=0", PNG),
        ("image/*;q=0.9, image/png;q=1.0, */*;q=0.5", PNG),
        ("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", JSON),
        ("text/csv, application/x-npy; q=0.3", NPY),
        ("application/x-npy, application/json", NPY),
        ("*/*, application/json;q=0", TIFF),
        ("application/json; version=1; Q=0.5, image/png;q=0.6", PNG),
        ("image/png;q=nan", PNG),
        ("image/png;q=soon, application/json;q=0.9", PNG),
        ("image/png;q=-3, image/tiff;q=0.001", TIFF),
        ("image/png ; q = 0.2 , image/tiff ; q = 0.4", TIFF),
    ],
)
def test_the_answer_is_what_accept_wants_most(header: str, media: str) -> None:
    assert choose_answer(header) == media


@pytest.mark.parametrize(
    "header", ["text/csv", "*/*;q=0", "image/*;q=0, application/*;q=0", "image", "/", "application"]
)
def test_an_answer_that_there_is_not_is_refused_with_those_there_are(header: str) -> None:
    with pytest.raises(Refused, match="expected application/json or image/tiff") as refused:
        choose_answer(header)
    assert refused.value.status == 406


@given(st.text(max_size=60))
def test_any_accept_is_answered_or_refused(header: str) -> None:
    try:
        assert choose_answer(header) in ANSWERS
    except Refused as error:
        assert error.status == 406


def headers_of(*pairs: tuple[str, str]) -> Headers:
    return Headers(raw=[(name.lower().encode(), value.encode("latin-1")) for name, value in pairs])


def test_lines_of_one_header_count_together() -> None:
    lines = [("Content-Type", NPY), ("Accept", "image/png;q=0.1"), ("Accept", "image/tiff")]
    lines += [(ATTRIBUTES_HEADER, "slice=2"), (ATTRIBUTES_HEADER, "context=1,1")]
    question = Question.of(headers_of(*lines))
    assert question.accept == TIFF
    assert question.attributes == {"slice": [2], "context": [1, 1]}


@pytest.mark.parametrize("encoding", ["gzip", "identity, br", "deflate", "zstd", "x"])
def test_an_encoded_body_is_refused(encoding: str) -> None:
    with pytest.raises(Refused, match=r"Content-Encoding .* Send the file as it is") as refused:
        Question.of(headers_of(("Content-Type", TIFF), ("Content-Encoding", encoding)))
    assert refused.value.status == 415


@pytest.mark.parametrize("encoding", ["", "identity", "Identity"])
def test_a_body_that_is_not_encoded_is_taken(encoding: str) -> None:
    assert Question.of(headers_of(("Content-Type", TIFF), ("Content-Encoding", encoding)))


@pytest.mark.parametrize(
    ("text", "settings", "opaque"),
    [
        ("", {}, ""),
        ("trace-id=abc", {}, "trace-id=abc"),
        ("c000b4f9-df62-4c85-a0bf-7c525f9104a4", {}, "c000b4f9-df62-4c85-a0bf-7c525f9104a4"),
        ("slice=7; trace-id=abc; b", {"slice": [7.0]}, "trace-id=abc;b"),
        ('{"user": "a=b", "n": [1, 2]}', {}, '{"user": "a=b", "n": [1, 2]}'),
        ("patient=x;=;;", {}, "patient=x;="),
        ("slice", None, ""),
        ("slice=1; slice=2", None, ""),
        ("slcie=3", None, ""),
        ("Contrast=1,1,1", None, ""),
        ("slice=" + "9" * 5000, None, ""),
    ],
)
def test_attributes_are_ours_opaque_or_a_slip(
    text: str, settings: dict[str, list[float]] | None, opaque: str
) -> None:
    assert opaque_attributes(headers_of((ATTRIBUTES_HEADER, text))) == opaque
    if settings is not None:
        assert read_attributes(text) == settings
    else:
        with pytest.raises(Refused, match="found custom attribute"):
            read_attributes(text)


@given(st.text(max_size=60))
def test_any_attributes_are_read_or_refused(text: str) -> None:
    try:
        read_attributes(text)
    except Refused as error:
        assert error.status == 400
