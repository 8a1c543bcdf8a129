import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revdist_sklearn.base._text import shown, visible


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sp|P1|é 蛋白", "sp|P1|é 蛋白"),
        ("\x1b]0;evil\x07", r"\x1b]0;evil\x07"),
        ("a\rb\tc\nd", r"a\rb\tc\nd"),
        ("a\u202eb\u2066c\u200bd\ufeff", r"a\u202eb\u2066c\u200bd\ufeff"),
        ("\x85\x9b31m\u2028", r"\x85\x9b31m\u2028"),
        ("\udce9\ud800", r"\udce9\ud800"),
        ("\U000e0041", r"\U000e0041"),  # a tag, which no terminal shows
    ],
    ids=["printable", "title", "lines", "direction", "C1", "surrogates", "tags"],
)
def test_what_moves_a_terminal_is_written_out(text, expected):
    assert visible(text) == expected


@given(st.text(st.characters(), max_size=20))
def test_nothing_else_is_left_and_twice_is_once(text):
    done = visible(text, keep="\n")
    # Categories of Unicode as the witness: other, and separators of lines.
    left = {unicodedata.category(c) for c in done if c != "\n"}
    assert not left & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    assert visible(done, keep="\n") == done
    assert done.count("\n") == text.count("\n")


def test_long_names_are_shortened():
    assert shown("a" * 100) == "a" * 100
    assert shown("a" * 101) == "a" * 97 + "..."
    assert shown("\x07" * 9, most=5) == r"\x07\x07..."
