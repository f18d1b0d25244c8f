"""Both emitters of YAML write the same text, wherever the fast one is taken."""

from __future__ import annotations

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.entrypoints.serve.dialects.object_text import _is_same_in_both, object_text

ODD = st.sampled_from(
    [
        "yes",
        "~",
        "1.5",
        "0x1f",
        "- a",
        "a: b",
        "a #b",
        "'q'",
        "a\n\nb\n",
        " lead",
        "trail ",
        "{a}",
        "&x",
        "|",
        "? q",
        "...",
        "\r",
    ]
)
TEXT = st.one_of(ODD, st.text(max_size=20), st.text("ab :#\n'\"-", max_size=20))
KEY = st.one_of(ODD, st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=12), TEXT)
VALUE = st.recursive(
    st.one_of(TEXT, st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEY, inner, max_size=3)),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(KEY, VALUE, min_size=1, max_size=3))
def test_an_object_is_written_as_by_the_emitter_in_python(item: dict[str, object]) -> None:
    assert object_text(item) == yaml.safe_dump(item, sort_keys=False, allow_unicode=True, width=2**31 - 1).strip()


def test_ordinary_objects_take_the_fast_one() -> None:
    assert _is_same_in_both({"title": "Überblick: 東京", "body": ["a\nb", {"year": 2024, "ok": None}]})
    assert not _is_same_in_both({"title": "\U0001f600"})
