from dataclasses import FrozenInstanceError

import pytest

from revdist_sklearn import Blocks


def test_columns_are_padded_so_that_they_sort():
    names = Blocks([101], ["a"]).columns()
    assert names[0] == "a__000" and names == sorted(names)
    assert Blocks([10], ["a"]).columns()[-1] == "a__9"
    assert Blocks([2, 1]).columns("rd_") == ["rd_1__0", "rd_1__1", "rd_2__0"]


def test_columns_and_back():
    blocks = Blocks([3, 2], ["rd_a__b", "c"])
    assert Blocks.of_columns(blocks.columns()) == blocks
    assert Blocks.of_columns(iter(blocks.columns())) == blocks


def test_columns_without_blocks():
    assert Blocks.of_columns(None) is None
    assert Blocks.of_columns([]) is None
    assert Blocks.of_columns(["a__0", 1]) is None
    assert Blocks.of_columns(["a__0", "b"]) is None


@pytest.mark.parametrize(
    "columns",
    [
        ["a__0", "a__1", "b__0"],
        ["rd_1__0", "rd_1__1", "rd_2__0"],
        ["rd_esm2_t6_8M__0", "rd_esm2_t12_35M__0", "rd_esm2_t36_3B__0"],
        ["z__09", "z__10", "a__3", "a__7"],  # some of the columns
        ["z__x", "z__a", "a__x"],
    ],
)
def test_columns_that_come_model_by_model_are_nested(columns):
    assert Blocks.nested(iter(columns)) == Blocks.of_columns(columns)


@pytest.mark.parametrize(
    "columns",
    [
        None,
        ["a", "b"],
        ["a__0", "a__1"],
        ["a__0", "b__0", "a__1"],
        ["a__1", "a__0", "b__0"],
        ["a__0", "a__0", "b__0"],
    ],
)
def test_columns_in_another_order_are_not_nested(columns):
    assert Blocks.nested(columns) is None


@pytest.mark.parametrize(
    "names", [("a_layer_4", "a_layer_2"), ("esm_v2_8M", "esm_v1_35M"), ("esm2_8M", "esm1_35M")]
)
def test_numbers_in_names_of_models_say_nothing_of_their_order(names):
    columns = [f"{name}__{i}" for name in names for i in range(2)]
    assert Blocks.nested(columns).names == names


def test_what_follows_from_the_widths():
    blocks = Blocks((3, 5), ["a", "b"])
    assert (len(blocks), blocks.n_columns, blocks.edges) == (2, 8, (0, 3, 8))
    assert blocks.slices == [slice(0, 3), slice(3, 8)]
    assert blocks.first(1) == Blocks([3], ["a"]) and Blocks([3, 5]).first(1) == Blocks([3])
    assert blocks.labels == ("a", "b") and Blocks([3, 5]).labels == ("1", "2")


def test_is_a_value():
    assert Blocks([3, 5], ["a", "b"]) == Blocks((3, 5), ("a", "b"))
    assert hash(Blocks([3])) == hash(Blocks([3])) and Blocks([3]) != Blocks([3], ["a"])
    with pytest.raises(FrozenInstanceError):
        Blocks([3]).sizes = (4,)


def test_a_family_without_names_agrees_with_any_of_its_widths():
    named, other, plain = Blocks([3], ["a"]), Blocks([3], ["b"]), Blocks([3])
    assert plain.agrees(named) and named.agrees(plain) and not named.agrees(other)
    assert not plain.agrees(Blocks([4]))
    named.check(plain, "X has", "the fit has", "never mind.")
    message = r"^X has the blocks b \(3\), but the fit has a \(3\): go\.$"
    with pytest.raises(ValueError, match=message):
        named.check(other, "X has", "the fit has", "go.")


@pytest.mark.parametrize(
    ("sizes", "names", "words"),
    [
        ([], None, "at least one width"),
        ([2, 0], None, "each 1 or more"),
        ([2, 3], ["a"], "1 block_names were given for 2 blocks"),
    ],
)
def test_bad_blocks(sizes, names, words):
    with pytest.raises(ValueError, match=words):
        Blocks(sizes, names)


@pytest.mark.parametrize("sizes", [[2.0, 3], [True, 3], ["2", 3]])
def test_widths_are_integers(sizes):
    with pytest.raises(TypeError):
        Blocks(sizes)
