import pytest

from revdist_sklearn import FormatError
from revdist_sklearn.base._formats import check_format, renamed


@pytest.mark.parametrize("number", [1, 2, 7])
def test_numbers_up_to_the_known_one_are_read(number):
    assert check_format(number, 7, "a file") == number


@pytest.mark.parametrize("known", [1, 2, 7])
def test_a_newer_number_is_a_typed_error_that_says_what_to_do(known):
    words = rf"^a file was written in format {known + 1}, .* up to {known}\. .*pip install -U"
    with pytest.raises(FormatError, match=words):
        check_format(known + 1, known, "a file")


@pytest.mark.parametrize("number", [0, -1, True, None, "1", 1.0, [1]])
def test_what_is_no_number_is_an_error_but_no_newer_format(number):
    with pytest.raises(ValueError, match=r"^a file was written in format ") as caught:
        check_format(number, 2, "a file")
    assert not isinstance(caught.value, FormatError)


# In format 2 the second name came in, in 3 "gone" went out, and "second" has become "third".
TABLE = {2: {"gone": None, "second": "third"}, 1: {"first": "second"}}


@pytest.mark.parametrize(
    "number, values, expected",
    [
        (1, {"first": 1, "gone": 2, "same": None}, {"third": 1, "same": None}),
        (2, {"second": 1, "gone": 2, "same": 3}, {"third": 1, "same": 3}),
        (2, {"first": 1}, {"first": 1}),
        (3, {"second": 1, "gone": 2}, {"second": 1, "gone": 2}),
        (1, {}, {}),
    ],
)
def test_names_of_each_format_since_are_replaced(number, values, expected):
    before = dict(values)
    assert renamed(values, TABLE, number) == expected
    assert values == before
