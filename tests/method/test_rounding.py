import json
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from revdist_sklearn import DamagedFileError, Moments, ReverseDistiller
from revdist_sklearn.base._tensor_file import BFLOAT16, narrowed, read_tensors, widened
from revdist_sklearn.base._tensor_file import write_tensors as write
from revdist_sklearn.method._rounding import drawn_rows

SIZES = (20, 40, 64)
# Half the spacing of numbers: what rounding to nearest leaves, in units of a number.
UNIT = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


def rows(n=600, null=True, seed=0):
    """Rows of three models, each with a null direction, as a LayerNorm leaves one."""
    rng = np.random.default_rng(seed)
    D = sum(SIZES)
    X = rng.normal(size=(n, D)) @ (rng.normal(size=(D, D)) * np.geomspace(1, 0.1, D)) + 3
    if null:
        for stop in np.cumsum(SIZES):
            start = stop - SIZES[np.searchsorted(np.cumsum(SIZES), stop)]
            X[:, start:stop] -= X[:, start:stop].mean(axis=1, keepdims=True)
    return X


@pytest.fixture(scope="module")
def distiller():
    moments = Moments(SIZES, block_names=("a", "b", "c")).update(rows())
    return ReverseDistiller().fit_moments(moments)


def test_bfloat16_is_that_of_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    ties = np.float64([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 0.0, -0.0, 1e-40, 65504.0, 3e38])
    values = np.concatenate([ties, rng.normal(size=5000) * 10.0 ** rng.integers(-30, 30, 5000)])
    expected = torch.from_numpy(values.astype(np.float32)).to(torch.bfloat16)
    assert_array_equal(widened(narrowed(values, "bfloat16")), expected.double().numpy())


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float32"])
def test_files_are_those_that_other_readers_of_safetensors_know(tmp_path, kind):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    values = np.random.default_rng(0).normal(size=(3, 5))
    tensors = {"b": narrowed(values, kind), "a": values, "c": narrowed(values[:0], kind)}
    write(tmp_path / "t", "key", {"format": 4}, tensors)
    found = load_file(tmp_path / "t")
    assert found["b"].dtype == getattr(torch, kind) and found["c"].shape == (0, 5)
    assert_array_equal(found["b"].double().numpy(), widened(tensors["b"]))
    assert_array_equal(found["a"].numpy(), values)
    _, again, _ = read_tensors(tmp_path / "t", "key", 4)
    assert (again["b"].dtype == BFLOAT16) == (kind == "bfloat16")
    assert_array_equal(again["b"], tensors["b"])


@pytest.mark.parametrize("kind", UNIT)
@pytest.mark.parametrize(
    "settings", [{}, {"rotate_base": True, "n_components": 50}, {"regressor": "ridge"}]
)
def test_what_is_read_again_works_as_before_within_the_rounding(tmp_path, kind, settings):
    distiller = ReverseDistiller(SIZES, **settings).fit(rows())
    distiller.save_pretrained(tmp_path, dtype=kind)
    again = ReverseDistiller.from_pretrained(tmp_path)
    assert again.get_params() == distiller.get_params()
    X = rows(seed=1)
    Z, found = distiller.transform(X), again.transform(X)
    assert found.dtype == np.float64
    spread = Z.std(axis=0) + 1e-9
    assert np.abs((found - Z) / spread).max() < 300 * UNIT[kind]
    if not distiller.rotate_base:
        assert_array_equal(found[:, :20], X[:, :20])
    # Also where a prefix has directions without variance, which no rounding may bring back.
    for d in (distiller.n_components_, 33, 20, 7):
        back = distiller.inverse_transform(Z[:, :d])
        error = np.abs(again.inverse_transform(found[:, :d]) - back) / X.std(axis=0)
        assert error.max() < 300 * UNIT[kind], d
        cut = again.truncate(d)
        assert_array_equal(cut.transform(X[:, : cut.n_features_in_]), found[:, :d])
    for one, other in zip(again.stages_, distiller.stages_, strict=True):
        assert one.explained_after == other.explained_after
        assert_array_equal(one.residual_variances, other.residual_variances)


@pytest.mark.parametrize(("kind", "limit"), [("float32", 1e-4), ("float16", 0.3)])
def test_a_base_of_condition_1000_is_reconstructed_from(tmp_path, kind, limit):
    """The covariance itself, rounded, is off by 5e-3 and by 30: its condition is a million."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(600, 20))
    scores = 25 * np.linalg.qr(scores - scores.mean(axis=0))[0]
    base = scores * np.geomspace(1, 1e-3, 20) @ np.linalg.qr(rng.normal(size=(20, 20)))[0]
    larger = scores @ rng.normal(size=(20, 30)) + 0.3 * rng.normal(size=(600, 30))
    X = np.hstack([base, larger])
    distiller = ReverseDistiller((20, 30)).fit(X)
    distiller.save_pretrained(tmp_path, dtype=kind)
    found = ReverseDistiller.from_pretrained(tmp_path).inverse_transform(base)
    assert np.abs(found - distiller.inverse_transform(base)).max() < limit * X.std()


@pytest.mark.parametrize("kind", UNIT)
def test_the_measured_error_is_that_of_rows(tmp_path, distiller, kind):
    distiller.save_pretrained(tmp_path, dtype=kind)
    again = ReverseDistiller.from_pretrained(tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    record = told["rounding"]
    assert again.rounding_ == record and told["dtype"] == record["dtype"] == kind
    # Rows that it was not measured on.
    X = rows(seed=2)
    Z = distiller.transform(X)
    differences = np.abs(again.transform(X) - Z) / np.where(Z.std(axis=0) > 1e-9, Z.std(0), np.inf)
    rms = np.sqrt(np.mean(differences**2))
    assert 0.6 * rms < record["root_mean_square"] < 1.6 * rms
    assert 0.3 * differences.max() < record["largest"] < 3 * differences.max()
    assert record["stages"][0]["largest"] == 0 and record["drawn_from"] == "covariance"
    assert record["largest"] == max(stage["largest"] for stage in record["stages"])
    assert 0 <= record["explained"] < 30 * UNIT[kind]


def test_rows_are_drawn_from_what_the_chain_knows(distiller):
    X = drawn_rows(distiller._chain)
    assert_array_equal(X, drawn_rows(distiller._chain))
    expected = rows()
    # 1,000 rows tell a mean and a variance to some percent.
    spread = expected.std(axis=0)
    assert_allclose(X.mean(axis=0), expected.mean(axis=0), atol=0.15 * spread.max())
    assert_allclose(X.var(axis=0).sum(), expected.var(axis=0).sum(), rtol=0.05)
    Z = distiller.transform(X)
    covariance = np.cov(distiller.transform(expected).T)
    assert_allclose(np.cov(Z.T), covariance, atol=0.3 * covariance.max())


@pytest.mark.parametrize("kind", BYTES)
def test_files_shrink_as_their_type(tmp_path, kind):
    sizes = (100, 160, 240)
    X = np.random.default_rng(0).normal(size=(600, 500))
    ReverseDistiller(sizes).fit(X).save_pretrained(tmp_path, dtype=kind)
    size = (tmp_path / "chain.safetensors").stat().st_size
    matrices = 100 * 100 + 160 * 60 + 240 * 80 + 100 * 60 + 160 * 80 + 500 * 240
    vectors = 3 * 500 + 100 + 160 + 240 + 240
    assert 0 < size - BYTES[kind] * matrices - 8 * vectors < 8000


def test_too_large_for_float16_says_which_type_takes_it(tmp_path):
    X = rows(null=False)
    X[:, 3] *= 1e6
    distiller = ReverseDistiller(SIZES).fit(X)
    words = r"cannot be kept in float16.*beyond the largest.*dtype=bfloat16, .* or float32"
    with pytest.raises(ValueError, match=words):
        distiller.save_pretrained(tmp_path / "d", dtype="float16")
    assert not (tmp_path / "d").exists()
    distiller.save_pretrained(tmp_path / "d", dtype="bfloat16")
    assert ReverseDistiller.from_pretrained(tmp_path / "d").rounding_["dtype"] == "bfloat16"
    with pytest.raises(ValueError, match="dtype='int8' is none of 'float64', 'float32'"):
        distiller.save_pretrained(tmp_path / "d", dtype="int8")


def test_a_rounding_that_makes_another_distiller_is_told(tmp_path):
    distiller = ReverseDistiller(SIZES).fit(rows() * 1e-8)  # below the numbers of float16
    with pytest.warns(UserWarning, match=r"Rounding to float16 moves .*explained shares by .*bfl"):
        distiller.save_pretrained(tmp_path, dtype="float16")
    assert ReverseDistiller.from_pretrained(tmp_path).rounding_["explained"] > 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        distiller.save_pretrained(tmp_path, dtype="bfloat16")


def test_the_record_goes_on_and_ends_with_another_fit(tmp_path, distiller):
    distiller.save_pretrained(tmp_path / "1", dtype="float16")
    first = ReverseDistiller.from_pretrained(tmp_path / "1")
    first.save_pretrained(tmp_path / "2")  # float64 does not undo it
    whole = ReverseDistiller.from_pretrained(tmp_path / "2")
    assert whole.rounding_ == first.rounding_
    assert_array_equal(whole.transform(rows()), first.transform(rows()))
    first.truncate(30).save_pretrained(tmp_path / "3", dtype="float32")
    twice = ReverseDistiller.from_pretrained(tmp_path / "3").rounding_
    assert twice["dtype"] == "float32" and twice["before"] == first.rounding_
    assert whole.set_params(block_sizes=SIZES).fit(rows()).rounding_ is None
    assert first.fit_moments(Moments(SIZES).update(rows())).rounding_ is None
    assert distiller.rounding_ is None


def test_a_chain_without_covariance_is_measured_on_unit_variances(tmp_path, distiller):
    distiller = ReverseDistiller.from_pretrained(_saved(distiller, tmp_path / "a"))
    distiller._chain = replace(distiller._chain, cross_covariance=None)
    distiller.save_pretrained(tmp_path / "b", dtype="float32")
    again = ReverseDistiller.from_pretrained(tmp_path / "b")
    assert again.rounding_["drawn_from"] == "unit variances"
    assert again.rounding_["explained"] is None
    assert again._chain.cross_covariance is None


def _saved(distiller, folder):
    distiller.save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings("ignore:.*adds no column")
def test_rows_that_do_not_vary(tmp_path):
    X = np.ones((10, 12))
    distiller = ReverseDistiller((4, 8)).fit(X)
    distiller.save_pretrained(tmp_path, dtype="bfloat16")
    again = ReverseDistiller.from_pretrained(tmp_path)
    assert_array_equal(again.transform(X), distiller.transform(X))
    assert_array_equal(again.inverse_transform(X[:, :8]), distiller.inverse_transform(X[:, :8]))


CHANGES = [
    lambda header, tensors: header.pop("dtype"),
    lambda header, tensors: header.update(dtype="float32"),
    lambda header, tensors: header.update(dtype="int8"),
    lambda header, tensors: header.update(rounding=3),
    lambda header, tensors: header["rounding"].update(largest="much"),
    lambda header, tensors: header["rounding"].update(explained=None),
    lambda header, tensors: header["rounding"].pop("stages"),
    lambda header, tensors: header["rounding"].update(dtype="float64"),
    lambda header, tensors: tensors.update(mean=narrowed(tensors["mean"], "float16")),
    lambda header, tensors: tensors.update(
        {"stage.1.coef": widened(tensors["stage.1.coef"])},
    ),
    lambda header, tensors: tensors.update(covariance_factor=tensors["covariance_factor"][1:]),
    lambda header, tensors: tensors.update(
        covariance_factor=np.hstack([tensors["covariance_factor"]] * 2)
    ),
    lambda header, tensors: tensors.update(
        covariance_factor=tensors["covariance_factor"] * np.float16(np.inf)
    ),
]


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
@pytest.mark.parametrize("change", CHANGES)
def test_what_is_no_rounded_distiller_is_one_typed_error(tmp_path, distiller, change):
    distiller.save_pretrained(tmp_path, dtype="float16")
    path = tmp_path / "chain.safetensors"
    header, tensors, _ = read_tensors(path, "distiller", 4)
    change(header, tensors)
    write(path, "distiller", header, tensors)
    with pytest.raises(DamagedFileError, match=r"holds no complete distiller \(.*; save it again"):
        ReverseDistiller.from_pretrained(tmp_path)


@pytest.mark.slow  # another process imports scikit-learn
def test_neither_writing_nor_reading_imports_torch(tmp_path, distiller):
    distiller.save_pretrained(tmp_path / "whole")
    code = (
        "import sys\nfrom revdist_sklearn import ReverseDistiller as R\n"
        "d = R.from_pretrained(sys.argv[1])\nd.save_pretrained(sys.argv[2], dtype='bfloat16')\n"
        "R.from_pretrained(sys.argv[2])\nassert 'torch' not in sys.modules\n"
    )
    folders = [str(tmp_path / "whole"), str(tmp_path / "rounded")]
    subprocess.run([sys.executable, "-c", code, *folders], check=True)
