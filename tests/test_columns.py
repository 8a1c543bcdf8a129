from revdist_sklearn._columns import blocks_of, column_names


def test_names_are_padded_so_that_they_sort():
    names = column_names("a", 101)
    assert names[0] == "a__000" and names == sorted(names)
    assert column_names("a", 10)[-1] == "a__9"


def test_blocks_round_trip():
    assert blocks_of(column_names("rd_a__b", 3) + column_names("c", 2)) == [
        ("rd_a__b", 3),
        ("c", 2),
    ]


def test_no_blocks():
    assert blocks_of(None) is None
    assert blocks_of([]) is None
    assert blocks_of(["a__0", 1]) is None
    assert blocks_of(["a__0", "b"]) is None
