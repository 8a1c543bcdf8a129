import hashlib
import json
import math
from collections import OrderedDict
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revdist_sklearn.base._identity import canonical_json, digest

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


class Configuration:
    def __init__(self, **values):
        self.values = values

    def to_dict(self):
        return self.values


class OtherConfiguration(Configuration):
    pass


NAME = f"{__name__}.Configuration"


@settings(max_examples=50, deadline=None)
@given(PLAIN)
def test_plain_settings_come_back_from_their_text(value):
    assert json.loads(canonical_json(value)) == value


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(max_size=3), PLAIN, max_size=5), st.randoms())
def test_the_order_of_keys_does_not_count(value, order):
    shuffled = list(value.items())
    order.shuffle(shuffled)
    assert canonical_json({"a": dict(shuffled)}) == canonical_json({"a": value})


@pytest.mark.parametrize(
    "value, text",
    [
        (
            {"b": 1, "a": {"d": [True, False], "c": None}},
            '{"a":{"c":null,"d":[true,false]},"b":1}',
        ),
        ((1, (2.5, "x")), '[1,[2.5,"x"]]'),
        ({3, 1, 2}, '{"set":[1,2,3]}'),
        (frozenset({"b", "a"}), '{"set":["a","b"]}'),
        ({(1, 2), (1,)}, '{"set":[[1,2],[1]]}'),
        (OrderedDict(b=1, a=2), '{"a":2,"b":1}'),
        (MappingProxyType({"b": 1, 2: (3,)}), '{"mapping":[["b",1],[2,[3]]]}'),
        ({1: "x"}, '{"mapping":[[1,"x"]]}'),
        ({"1": "x"}, '{"1":"x"}'),
        (Path("some") / "folder", '"some/folder"'),
        (
            Configuration(b=(1,), a=Path("x")),
            f'{{"class":"{NAME}","settings":{{"a":"x","b":[1]}}}}',
        ),
        (
            [Configuration(), OtherConfiguration()],
            f'[{{"class":"{NAME}","settings":{{}}}},'
            f'{{"class":"{__name__}.OtherConfiguration","settings":{{}}}}]',
        ),
        (np.float32, '"numpy.float32"'),
        (OrderedDict, '"collections.OrderedDict"'),
        (np.int64(-3), "-3"),
        (np.uint8(3), "3"),
        (np.float64(2.5), "2.5"),
        (np.float32(0.5), "0.5"),
        (np.True_, "true"),
        (Configuration, f'"{NAME}"'),
        (np.str_("a"), '"a"'),
    ],
)
def test_the_text_of_settings(value, text):
    assert canonical_json(value) == text
    assert digest(value) == hashlib.sha256(text.encode()).hexdigest()


def test_types_and_devices_of_torch_are_their_names():
    torch = pytest.importorskip("torch")
    settings = {"dtype": torch.float16, "device": torch.device("cuda", 1)}
    assert canonical_json(settings) == '{"device":"cuda:1","dtype":"torch.float16"}'


@pytest.mark.parametrize(
    "value, where",
    [
        (object(), "settings is"),
        ({"a": [1, object()]}, r"settings\['a'\]\[1\] is"),
        ({"a": {"b": lambda: 1}}, r"settings\['a'\]\['b'\] is"),
        ({"a": (1, {object()})}, r"settings\['a'\]\[1\] is"),
        ({"a": Configuration(b=object())}, r"settings\['a'\]\['b'\] is"),
        (np.arange(3), "settings is"),
        (b"12", "settings is"),
        (Decimal("0.5"), "settings is"),
        (1j, "settings is"),
    ],
)
def test_what_has_no_text_of_its_own_is_named_by_its_place(value, where):
    with pytest.raises(TypeError, match=f"^{where} .*no text that is the same"):
        canonical_json(value)


def test_keys_of_another_type_are_other_keys():
    assert len({canonical_json({"a": value}) for value in ({1: "x"}, {"1": "x"}, {1.5: "x"})}) == 3
    assert canonical_json({1: "x", "1": "y"}) == canonical_json({"1": "y", 1: "x"})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_does_not_have_are_refused(value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"a": value})
