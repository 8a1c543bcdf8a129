"""Levels of moments by name, and what is chosen by them."""

import pickle
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone

from revdist_sklearn import DamagedFileError, FormatError, Moments, ReverseDistiller, StageReport
from revdist_sklearn.base import _tensor_file
from revdist_sklearn.method import _products_numpy
from revdist_sklearn.method._chain import importance_order, truncate_chain
from revdist_sklearn.method._level import Level

SIZES = (3, 5, 8)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def rows(rng):
    small = rng.normal(size=(400, 3)) * [0.3, 3, 1]
    middle = np.hstack([small, rng.normal(size=(400, 2))]) @ rng.normal(size=(5, 5))
    return np.hstack([small, middle, rng.normal(size=(400, 8)) + middle[:, [0]]])


@pytest.fixture
def other(rng):
    """Rows of another kind: their variance lies along other directions."""
    return (
        rng.normal(size=(300, 16)) @ np.diag(np.linspace(0.1, 5, 16)) @ rng.normal(size=(16, 16))
    )


@pytest.fixture
def moments(rows, other):
    found = Moments(SIZES).update(rows, proteins=np.arange(400) // 10)
    return found.update(other, level="mutant")


def test_a_level_holds_its_rows_alone(moments, rows, other):
    level = moments.levels["mutant"]
    assert list(moments.levels) == ["residue", "protein", "mutant"]
    assert_allclose(level.covariance, np.cov(other.T, bias=True), atol=1e-10)
    assert level.n == 300 and moments.n_rows == 400 and moments.n_proteins == 40
    assert_allclose(moments.residue.covariance, np.cov(rows.T, bias=True), atol=1e-10)
    assert "levels=['residue', 'protein', 'mutant']" in repr(moments)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("tensor", [False, True])
def test_rows_of_another_level_are_centred_by_protein(rng, weighted, tensor):
    rows = rng.normal(size=(60, 4)) + np.repeat(rng.normal(size=(6, 4)) * 100, 10, axis=0)
    labels, weights = np.repeat(list("abcdef"), 10), rng.integers(0, 3, 60).astype(float)
    weights[:10] = 0  # a protein without any
    w = weights if weighted else np.ones(60)
    expected = np.zeros((4, 4))
    for label in "abcdef":
        own, its = rows[labels == label], w[labels == label]
        if its.sum():
            centred = own - np.average(own, axis=0, weights=its)
            expected += (its[:, None] * centred).T @ centred
    given = rows
    if tensor:
        given = pytest.importorskip("torch").from_numpy(rows)
    found = Moments([4]).update(
        given, proteins=labels, level="x", sample_weight=weights if weighted else None
    )
    assert_allclose(found.levels["x"].scatter, expected, atol=1e-9)
    assert_allclose(found.levels["x"].mean, 0, atol=1e-12)
    assert found.levels["x"].n == w.sum()


def test_levels_merge_in_any_order_and_one_that_another_lacks_stays(rows, other):
    whole = Moments(SIZES).update(rows).update(other, level="mutant")
    first = Moments(SIZES).update(rows[:100]).update(other[:50], level="mutant")
    second = Moments(SIZES).update(rows[100:]).update(other[50:], level="mutant")
    for one, two in ((first, second), (second, first)):
        both = pickle.loads(pickle.dumps(one)).merge(two)
        assert_allclose(both.levels["mutant"].scatter, whole.levels["mutant"].scatter)
        assert both.n_rows == 400
    plain = Moments(SIZES).update(rows)
    assert plain.merge(Moments(SIZES).update(other, level="mutant")).levels["mutant"].n == 300
    assert Moments(SIZES).merge(whole).levels["mutant"] == whole.levels["mutant"]
    assert second.levels["mutant"].n == 250  # left as it was


def test_levels_are_kept_in_files_that_older_versions_refuse(moments, tmp_path):
    moments.save(tmp_path / "m")
    again = Moments.load(tmp_path / "m")
    assert again.levels == moments.levels
    with pytest.raises(FormatError, match="format 4"):
        _tensor_file.read_tensors(tmp_path / "m", "moments", 3)
    Moments(SIZES).update(np.eye(16)).save(tmp_path / "plain")
    _tensor_file.read_tensors(tmp_path / "plain", "moments", 3)


@pytest.mark.parametrize("name", ["protein", "two words", "", 3, None, "a.b"])
def test_what_is_no_name_of_a_level(name):
    with pytest.raises(ValueError, match="no name of a level"):
        Moments([2]).update(np.eye(2), level=name)


def test_rows_that_cannot_be_added_leave_no_level(rows):
    moments = Moments(SIZES).update(rows)
    with pytest.raises(ValueError, match="beyond the range"):
        moments.update(np.full((3, 16), 1e200) * [[1], [-1], [1]], level="x")
    assert "x" not in moments.levels
    assert moments.update(np.eye(16), level="x").levels["x"].n == 16


def test_an_interrupt_leaves_a_level_that_is_told_to_be_cut_off(moments, other, monkeypatch):
    from revdist_sklearn.method import _products_numpy

    def cut(level, rows, *others):
        level.steps = np.nan
        raise KeyboardInterrupt

    monkeypatch.setattr(_products_numpy, "add_rows", cut)
    with pytest.raises(KeyboardInterrupt):
        moments.update(other, level="mutant")
    with pytest.raises(RuntimeError, match="in the middle of an update"):
        moments.merge(Moments(SIZES))


def test_directions_are_those_of_the_level(moments, rows, other):
    """The regression is of residues, the directions are of the other rows' residual."""
    distiller = ReverseDistiller(residual_level="mutant").fit_moments(moments)
    z, h = rows[:, :3], rows[:, 3:8]
    W = np.linalg.lstsq(z - z.mean(axis=0), h - h.mean(axis=0), rcond=None)[0]
    left = other[:, 3:8] - other[:, :3] @ W
    _, V = np.linalg.eigh(np.cov(left.T))
    found = distiller.stages_[1].directions
    assert_allclose(np.abs(found.T @ V[:, ::-1][:, :2]), np.eye(2), atol=1e-8)
    paper = ReverseDistiller().fit_moments(moments).stages_[1].directions
    assert np.abs(np.abs(paper.T @ found) - np.eye(2)).max() > 0.05


@pytest.mark.parametrize("level", ["residue", "protein", "mutant"])
def test_the_base_turns_to_the_axes_of_the_level(moments, rows, other, level):
    by = {
        "residue": rows,
        "protein": rows.reshape(40, 10, 16).mean(axis=1),
        "mutant": other,
    }[level]
    _, V = np.linalg.eigh(np.cov(by[:, :3].T, bias=True))
    distiller = ReverseDistiller(rotate_base=level).fit_moments(moments)
    assert_allclose(np.abs(distiller.stages_[0].directions.T @ V[:, ::-1]), np.eye(3), atol=1e-8)
    if level == "residue":
        as_ever = ReverseDistiller(rotate_base=True).fit_moments(moments)
        assert_array_equal(as_ever.components_, distiller.components_)


def test_a_base_turned_to_residues_by_name_keeps_their_weak_directions(rng):
    """What is too weak to invert is none at another level, but one of their own."""
    rows = rng.normal(size=(500, 6))
    rows[:, 1] = rows[:, 0] + 3e-7 * rows[:, 1]
    found = [ReverseDistiller((2, 4), rotate_base=how).fit(rows) for how in (True, "residue")]
    assert_array_equal(found[0].components_, found[1].components_)
    assert found[1].stages_[0].n_added_nonzero == 2


def test_null_directions_of_a_level_are_zero_columns(rng):
    """Rounding at another level turns the null direction a little; it is none all the same."""
    V = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    rows = rng.normal(size=(500, 8))
    rows[:, :4] -= rows[:, :4] @ np.outer(V[:, 0], V[:, 0])
    moments = Moments([4, 8 - 4]).update(rows.astype(np.float32))
    others = rng.normal(size=(200, 8))
    others[:, :4] -= others[:, :4] @ np.outer(V[:, 0], V[:, 0]) * (1 - 1e-6)
    moments.update(others, level="x")
    distiller = ReverseDistiller(rotate_base="x", residual_sizes=(2,)).fit_moments(moments)
    assert distiller.stages_[0].n_added_nonzero == 3
    assert not distiller.transform(rows)[:, 3].any()


@pytest.mark.parametrize("parameter", ["residual_level", "rotate_base"])
def test_a_level_that_the_moments_lack(rows, parameter):
    with pytest.raises(ValueError, match=f"{parameter}='mutant' is a level.*'residue'"):
        ReverseDistiller(SIZES, **{parameter: "mutant"}).fit(rows)
    with pytest.raises(ValueError, match=f'{parameter}="protein" needs'):
        ReverseDistiller(SIZES, **{parameter: "protein"}).fit(rows)
    with pytest.raises(ValueError, match=f'{parameter}="protein" needs proteins'):
        ReverseDistiller(SIZES, **{parameter: "protein"}).partial_fit(rows)


@pytest.mark.parametrize("parameter", ["residual_level", "rotate_base"])
@pytest.mark.parametrize(
    "added",
    [
        {"rows": np.ones((1, 16))},
        {"rows": np.ones((5, 16))},
        {"rows": np.arange(32.0).reshape(2, 16), "proteins": ["a", "b"]},
    ],
    ids=["one row", "equal rows", "a row a protein"],
)
def test_a_level_without_variance_chooses_nothing(rows, parameter, added):
    moments = Moments(SIZES).update(rows).update(**added, level="x")
    message = rf"{parameter}='x' is a level of which no column.*varies.*{len(added['rows'])}\)"
    with pytest.raises(ValueError, match=f"{message}.*add rows that differ.*{parameter}="):
        ReverseDistiller(**{parameter: "x"}).fit_moments(moments)


def test_a_base_turns_to_a_level_that_varies_in_it(rows, other):
    moments = Moments(SIZES).update(rows).update(other * np.repeat([0, 1], [3, 13]), level="x")
    with pytest.raises(ValueError, match=r"rotate_base='x'.*no column of the first block varies"):
        ReverseDistiller(rotate_base="x").fit_moments(moments)
    assert ReverseDistiller(residual_level="x").fit_moments(moments).n_components_ == 8
    # Weights may be in any unit.
    light = Moments(SIZES).update(rows)
    light.update(other, sample_weight=np.full(300, 1e-3), level="x")
    expected = Moments(SIZES).update(rows).update(other, level="x")
    assert_allclose(
        ReverseDistiller(residual_level="x").fit_moments(light).components_,
        ReverseDistiller(residual_level="x").fit_moments(expected).components_,
        atol=1e-9,
    )


@pytest.mark.parametrize("level", ["residue", "protein", "mutant"])
@pytest.mark.parametrize("rotate_base", [False, "mutant"])
def test_columns_by_variance(moments, rows, other, level, rotate_base):
    how = {"residual_level": level, "rotate_base": rotate_base}
    plain = ReverseDistiller(**how).fit_moments(moments)
    ordered = ReverseDistiller(order="variance", **how).fit_moments(moments)
    by = {"residue": rows, "protein": rows.reshape(40, 10, 16).mean(axis=1), "mutant": other}[
        level
    ]
    variances = plain.transform(by).var(axis=0)
    expected = np.argsort(-variances, kind="stable")
    assert_array_equal(ordered.column_order_, expected)
    assert not np.array_equal(expected, np.arange(8))
    assert_array_equal(ordered.transform(rows), plain.transform(rows)[:, expected])
    assert_allclose(
        ordered.transform(rows) - ordered.transform(rows[:1]),
        (rows - rows[0]) @ ordered.components_.T,
        atol=1e-9,
    )
    names = plain.get_feature_names_out()
    assert list(ordered.get_feature_names_out()) == list(names[expected])
    stage = np.searchsorted([3, 5, 8], expected, side="right")
    assert_array_equal(ordered.n_models_, np.maximum.accumulate(stage) + 1)
    assert_array_equal(plain.n_models_, [1] * 3 + [2] * 2 + [3] * 3)
    for i in range(3):
        longest = max([d for d in range(1, 9) if ordered.n_models_[d - 1] <= i + 1], default=0)
        assert ordered.stage_dims_[i] == longest
    assert_array_equal(plain.stage_dims_, [3, 5, 8])


@pytest.mark.parametrize("rotate_base", [False, "mutant"])
@pytest.mark.parametrize("d", [1, 2, 4, 8])
def test_a_prefix_by_variance_takes_the_models_it_needs(moments, rows, tmp_path, rotate_base, d):
    how = {"residual_level": "mutant", "rotate_base": rotate_base, "order": "variance"}
    whole = ReverseDistiller(**how).fit_moments(moments)
    Z = whole.transform(rows)
    cut = whole.truncate(d)
    n = whole.n_models_[d - 1]
    assert cut.n_features_in_ == sum(SIZES[:n]) and len(cut.stages_) == n
    X = rows[:, : cut.n_features_in_]
    assert_allclose(cut.transform(X), Z[:, :d], atol=1e-12)
    assert_array_equal(cut.n_models_, whole.n_models_[:d])
    short = ReverseDistiller(n_components=d, **how).fit_moments(moments)
    assert short.n_components_ == d
    assert_allclose(short.transform(rows), Z[:, :d], atol=1e-10)
    # The best reconstruction from these columns is that of least squares on the rows.
    back = whole.inverse_transform(Z[:, :d])
    centred = Z[:, :d] - Z[:, :d].mean(axis=0)
    W = np.linalg.lstsq(centred, rows - rows.mean(axis=0), rcond=None)[0]
    assert_allclose(back, rows.mean(axis=0) + centred @ W, atol=1e-8)
    if not rotate_base:
        own = [c for c in whole.column_order_[:d] if c < 3]
        assert_array_equal(back[:, own], rows[:, own])
    for dtype in ("float64", "float32"):
        cut.save_pretrained(tmp_path, dtype=dtype)
        again = ReverseDistiller.from_pretrained(tmp_path)
        assert again.get_params() == cut.get_params()
        assert_array_equal(again.column_order_, cut.column_order_)
        assert_allclose(again.transform(X), Z[:, :d], atol=1e-12 if dtype == "float64" else 1e-4)
    assert_array_equal(pickle.loads(pickle.dumps(cut)).transform(X), cut.transform(X))


def test_files_with_an_order_are_told_to_older_versions(moments, tmp_path):
    for name, how, number in (
        ("order", {"order": "variance"}, 5),
        ("level", {"residual_level": "mutant"}, 5),
        ("base", {"rotate_base": "protein"}, 5),
        ("plain", {"rotate_base": True, "residual_level": "protein"}, 3),
    ):
        ReverseDistiller(**how).fit_moments(moments).save_pretrained(tmp_path / name)
        file = tmp_path / name / "chain.safetensors"
        header, *_ = _tensor_file.read_tensors(file, "distiller", 5)
        assert header["format"] == number
        assert ("order" in header["parameters"]) == (number == 5)


def test_a_parameter_that_was_set_after_the_fit_leaves_a_file_whole(moments, rows, tmp_path):
    """The columns are those of the fit; versions before the order refuse what they do not know."""
    for fitted, later in (("variance", "stage"), ("stage", "variance")):
        distiller = ReverseDistiller(order=fitted).fit_moments(moments).set_params(order=later)
        distiller.save_pretrained(tmp_path)
        file = tmp_path / "chain.safetensors"
        assert _tensor_file.read_tensors(file, "distiller", 5)[0]["format"] == 5
        again = ReverseDistiller.from_pretrained(tmp_path)
        assert again.order == later
        assert_array_equal(again.transform(rows), distiller.transform(rows))


@pytest.mark.parametrize("order", [[], [0, 0], [0, 8], [-1, 0], [0.5], "01", [True]])
def test_an_order_of_other_columns_than_there_are_is_damage(moments, tmp_path, order):
    ReverseDistiller(order="variance").fit_moments(moments).save_pretrained(tmp_path)
    file = tmp_path / "chain.safetensors"
    header, tensors, _ = _tensor_file.read_tensors(file, "distiller", 5)
    _tensor_file.write_tensors(file, "distiller", {**header, "column_order": order}, tensors)
    with pytest.raises(DamagedFileError, match="column_order"):
        ReverseDistiller.from_pretrained(tmp_path)


def test_partial_fit_knows_its_order_when_it_is_asked(rows):
    distiller = ReverseDistiller(SIZES, order="variance").partial_fit(rows[:200])
    assert len(distiller.get_feature_names_out()) == 8
    distiller.partial_fit(rows[200:])
    once = ReverseDistiller(SIZES, order="variance").fit(rows)
    assert_array_equal(distiller.column_order_, once.column_order_)
    assert_allclose(distiller.transform(rows), once.transform(rows), atol=1e-9)
    stages = clone(distiller).set_params(order="stage").fit(rows)
    assert_array_equal(stages.column_order_, np.arange(8))
    # A fit anew in another order has nothing of the one before.
    assert_array_equal(once.set_params(order="stage").fit(rows).column_order_, np.arange(8))


def test_columns_of_nothing_come_last(rows):
    rows = rows.copy()
    rows[:, 5:8] = rows[:, 3:5] @ np.ones((2, 3)) + rows[:, :3]
    distiller = ReverseDistiller(SIZES, order="variance", residual_sizes=(5, 3)).fit(rows)
    zero = ~distiller.components_.any(axis=1)
    assert zero.any() and zero[-zero.sum() :].all()


def test_columns_that_do_not_vary_at_the_level_stay_in_order_before_those_of_nothing(rng):
    rows = rng.normal(size=(400, 16))
    rows[:, 7] = rows[:, 0]  # one column of the second stage is zero
    others = rng.normal(size=(300, 16)) * np.repeat([0, 1, 0, 1], [3, 4, 1, 8])
    moments = Moments(SIZES).update(rows).update(others, level="x")
    how = {"residual_sizes": (5, 8), "residual_level": "x", "order": "variance"}
    distiller = ReverseDistiller(**how).fit_moments(moments)
    assert distiller.column_order_[-4:].tolist() == [0, 1, 2, 7]
    assert not distiller.components_[-1].any() and distiller.components_[-2].any()


def test_the_order_of_a_chain_of_fewer_models_is_by_their_part_of_the_covariance(moments):
    chain, C = ReverseDistiller().fit_moments(moments)._chain, moments.residue.covariance
    order = importance_order(chain, C)
    assert_array_equal(importance_order(truncate_chain(chain, 5), C), order[order < 5])


def test_the_order_of_the_kernel_needs_the_chain_alone(moments):
    chain = ReverseDistiller().fit_moments(moments)._chain
    order = importance_order(chain, moments.residue.covariance)
    z = np.diag(
        ReverseDistiller().fit_moments(moments).components_
        @ moments.residue.covariance
        @ ReverseDistiller().fit_moments(moments).components_.T
    )
    assert np.all(np.diff(z[order]) <= 1e-12)


def test_pickles_from_before_there_was_an_order(rows):
    distiller = ReverseDistiller(SIZES).partial_fit(rows)
    state = dict(distiller.__getstate__())
    for name in ("order", "_order", "n_models_", "column_order_"):
        state.pop(name, None)
    state["_parameters"] = {k: v for k, v in state["_parameters"].items() if k != "order"}
    old = ReverseDistiller.__new__(ReverseDistiller)
    old.__setstate__(state)
    assert_array_equal(old.transform(rows), distiller.transform(rows))


def test_a_report_of_stages_is_of_their_order(rows):
    distiller = ReverseDistiller(SIZES, order="variance").fit(rows)
    with pytest.raises(ValueError, match="fit one with order='stage'"):
        StageReport.from_estimator(distiller)


def provenance_of(digest):
    member = {"block": "a", "fingerprint": "f", "weights": "w"}
    corpus = {"digest": digest, "n_proteins": 1, "n_residues": 2}
    return {"members": [member] * 3, "corpora": [corpus], "version": "1"}


def of_corpus(rows, digest="d"):
    found = Moments(SIZES).update(rows)
    found.provenance = provenance_of(digest)
    return found


def test_provenance_ends_where_rows_of_elsewhere_join_at_any_level(rows, other):
    """It tells the models of all rows, also of those that choose directions."""
    assert of_corpus(rows).update(other, level="x").provenance is None
    elsewhere = Moments(SIZES).update(other, level="x")
    assert of_corpus(rows).merge(elsewhere).provenance is None
    assert elsewhere.merge(of_corpus(rows)).provenance is None  # which had no residue before
    # Of known rows it goes on, and nothing does not end it.
    known = Moments(SIZES).update(other, level="x")
    known.provenance = provenance_of("e")
    corpora = of_corpus(rows).merge(known).provenance["corpora"]
    assert [corpus["digest"] for corpus in corpora] == ["d", "e"]
    assert Moments(SIZES).merge(known).provenance == provenance_of("e")
    assert of_corpus(rows).merge(Moments(SIZES)).provenance == provenance_of("d")


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("kind", ["float16", "float32"])
def test_each_level_has_the_precision_of_its_rows(rows, other, tmp_path, merged, kind):
    coarse = other.astype(kind)
    moments = Moments(SIZES).update(rows)
    if merged:
        theirs = Moments(SIZES, precision="float32").update(coarse, level="x")
        moments.merge(Moments(SIZES).update(other, level="x")).merge(theirs)
        moments.merge(Moments(SIZES).update(other, level="x"))  # makes none finer
    else:
        moments.update(other, level="x").update(coarse, level="x")
    # That of residues, and the sample that tells what their products lose, stay.
    assert (moments.product_precision, moments.row_precision) == ("float64", "float64")
    assert np.array_equal(moments.sample.rows[0], rows[0])
    products = "float32" if merged else "float64"
    assert moments.precisions_of("x") == (products, kind)
    assert moments.precisions_of("residue") == ("float64", "float64")
    moments.save(tmp_path / "m")
    assert Moments.load(tmp_path / "m").precisions_of("x") == (products, kind)
    assert pickle.loads(pickle.dumps(moments)).precisions_of("x") == (products, kind)
    # No level is finer than the residues.
    moments.update(other, level="y").update(rows.astype("float16"))
    assert moments.precisions_of("y") == ("float64", "float16")


def uncorrelated(rng):
    """Return rows without anything to regress."""
    rows = rng.normal(size=(500, 8))
    return np.linalg.qr(rows - rows.mean(axis=0))[0]


@pytest.mark.parametrize(
    ("of_level", "n"),
    [(("float64", "float64"), 4), (("float32", "float32"), 3)],
)
def test_directions_within_the_products_of_their_level_are_zero(rng, of_level, n):
    """Two columns that are nearly one at a level of float32 products."""
    rows = uncorrelated(rng)
    others = rng.normal(size=(500, 8))
    others[:, [3, 7]] = others[:, [2, 6]] + 2e-4 * others[:, [3, 7]]
    moments = Moments([4, 4]).update(rows).update(others, level="x")
    moments._kinds = {"x": of_level}
    how = {"rotate_base": "x", "residual_level": "x", "residual_sizes": (4,)}
    distiller = ReverseDistiller(**how).fit_moments(moments)
    assert [stage.n_added_nonzero for stage in distiller.stages_] == [n, n]


def test_no_level_is_finer_than_residues_of_float32_in_arrays_of_float64(rng):
    rows = uncorrelated(rng).astype(np.float32).astype(np.float64)
    others = rng.normal(size=(500, 8))
    others[:, :4] *= 1e-3
    others[:, [3, 7]] *= [1e-6, 1e-9]
    moments = Moments([4, 4]).update(rows).update(others, level="x")
    how = {"rotate_base": "x", "residual_level": "x", "residual_sizes": (4,)}
    distiller = ReverseDistiller(**how).fit_moments(moments)
    assert [stage.n_added_nonzero for stage in distiller.stages_] == [3, 3]


def test_rounding_of_the_prefix_at_a_level_counts_as_the_regression_draws_on_it(rng):
    """A difference of two columns that are nearly one, a hundred times, is rounding of these."""
    z = rng.normal(size=(2000, 1)) + np.array([0, 0.01]) * rng.normal(size=(2000, 2))
    h = 100 * (z[:, [1]] - z[:, [0]])
    rows = np.hstack([z, h + rng.normal(size=(2000, 1))])
    others = np.hstack([z, h]).astype(np.float16).astype(np.float64)
    for kind, n in (("float64", 1), ("float16", 0)):
        moments = Moments([2, 1]).update(rows).update(others, level="x")
        moments._kinds = {"x": ("float64", kind)}
        distiller = ReverseDistiller(residual_level="x", residual_sizes=(1,))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*adds no column")
            distiller.fit_moments(moments)
        assert distiller.stages_[1].n_added_nonzero == n


@pytest.mark.filterwarnings("ignore:.*adds no column")
@pytest.mark.parametrize("seed", range(4))
def test_what_products_leave_of_a_large_prefix_at_a_level_is_no_direction(seed):
    """The larger model follows the smaller at this level, but for rounding of large columns."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(500, 2))
    rows = np.hstack([z, 1e4 * (z[:, [0]] - z[:, [1]]) + rng.normal(size=(500, 1))])
    W = np.linalg.lstsq(z - z.mean(axis=0), rows[:, 2] - rows[:, 2].mean(), rcond=None)[0]
    z = 1e6 * rng.normal(size=(500, 1)) + [0, 1e-2] * rng.normal(size=(500, 2))
    moments = Moments([2, 1]).update(rows)
    moments.update(np.hstack([z, (z @ W)[:, None]]), level="x")
    how = {"residual_level": "x", "residual_sizes": (1,)}
    assert ReverseDistiller(**how).fit_moments(moments).stages_[1].n_added_nonzero == 0


def test_null_directions_of_residues_are_none_of_another_level(rng):
    V = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    rows, others = rng.normal(size=(500, 8)), rng.normal(size=(200, 8))
    rows[:, 4:] -= rows[:, 4:] @ np.outer(V[:, 0], V[:, 0])
    others[:, 4:] -= others[:, 4:] @ np.outer(V[:, 0], V[:, 0]) * (1 - 1e-6)
    moments = Moments([4, 4]).update(rows.astype(np.float32)).update(others, level="x")
    how = {"residual_level": "x", "residual_sizes": (4,)}
    assert ReverseDistiller(**how).fit_moments(moments).stages_[1].n_added_nonzero == 3


def test_directions_within_the_rounding_of_their_level_are_zero(rng):
    """Of rows that were rounded to float16, a null direction varies by that much."""
    rows = uncorrelated(rng)
    others = rng.normal(size=(500, 8))
    others[:, [3, 7]] = 1 + 1e-7 * others[:, [3, 7]]
    how = {"rotate_base": "x", "residual_level": "x", "residual_sizes": (4,)}
    for kind, n in (("float64", 4), ("float16", 3)):
        moments = Moments([4, 4]).update(rows).update(others, level="x")
        moments._kinds = {"x": ("float64", kind)}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            distiller = ReverseDistiller(**how).fit_moments(moments)
        assert [stage.n_added_nonzero for stage in distiller.stages_] == [n, n]


def test_threads_that_add_to_levels_at_once_lose_nothing(rows, monkeypatch):
    add_rows = _products_numpy.add_rows

    def slowly(*args):
        time.sleep(0.01)  # in which the other threads arrive
        add_rows(*args)

    moments = Moments(SIZES)
    names = ["residue", "a", "b", "a", "c", "residue", "d", "b"]
    with monkeypatch.context() as slow, ThreadPoolExecutor(8) as threads:
        slow.setattr(_products_numpy, "add_rows", slowly)
        list(threads.map(lambda name: moments.update(rows, level=name), names))
    assert {name: level.n for name, level in moments.levels.items()} == {
        name: 400 * names.count(name) for name in names
    }
    assert moments.n_rows == 800


def test_threads_that_merge_at_once_lose_nothing(rows, monkeypatch):
    merge = Level.merge

    def slowly(*args):
        time.sleep(0.01)
        merge(*args)

    moments, parts = Moments(SIZES), [Moments(SIZES).update(rows, level=x) for x in "abcab"]
    parts += [Moments(SIZES).update(rows)] * 3
    with monkeypatch.context() as slow, ThreadPoolExecutor(8) as threads:
        slow.setattr(Level, "merge", slowly)
        list(threads.map(moments.merge, parts))
    found = {name: level.n for name, level in moments.levels.items()}
    assert found == {"residue": 1200, "a": 800, "b": 800, "c": 400}
    assert moments.n_rows == 1200


@pytest.mark.parametrize("with_residues", [False, True])
@pytest.mark.parametrize("fault", [KeyboardInterrupt, MemoryError])
def test_a_merge_that_was_cut_off_between_two_levels_says_so(
    rows, other, monkeypatch, tmp_path, with_residues, fault
):
    moments = Moments(SIZES).update(rows).update(other, level="a")
    theirs = Moments(SIZES).update(other, level="a").update(other, level="b")
    if with_residues:
        theirs.update(rows)
    before, merge, calls = pickle.dumps(theirs), Level.merge, []

    def cut_off(level, added):
        calls.append(level)
        if len(calls) == 2 + with_residues:  # of a, b
            raise fault
        merge(level, added)

    with monkeypatch.context() as broken:
        broken.setattr(Level, "merge", cut_off)
        with pytest.raises(fault):
            moments.merge(theirs)
    assert "b" not in moments.levels and moments.levels["a"].n == 600  # a part counts
    for call in (
        lambda: moments.update(other, level="c"),
        lambda: moments.merge(theirs),
        lambda: theirs.merge(moments),
        lambda: moments.save(tmp_path / "m"),
        lambda: ReverseDistiller(residual_level="a").fit_moments(moments),
    ):
        with pytest.raises(RuntimeError, match="in the middle of an update"):
            call()
    assert theirs.levels == pickle.loads(before).levels
    theirs.check_whole()


def test_moments_do_not_wait_for_others(rows, monkeypatch):
    """While one is in the midst of its products, another takes rows."""
    one, other = Moments(SIZES), Moments(SIZES)
    begun, go_on, done = threading.Event(), threading.Event(), threading.Event()
    add_rows = _products_numpy.add_rows

    def waiting(level, *given):
        if level is one.residue:
            begun.set()
            assert go_on.wait(30)
        return add_rows(level, *given)

    monkeypatch.setattr(_products_numpy, "add_rows", waiting)
    first = threading.Thread(target=one.update, args=(rows,))
    second = threading.Thread(target=lambda: (other.update(rows), done.set()))
    first.start()
    assert begun.wait(30)
    second.start()
    assert done.wait(30)
    go_on.set()
    first.join()
    second.join()
    assert one.n_rows == other.n_rows == len(rows)


def test_merges_into_one_another_end(rows):
    pair = [Moments(SIZES).update(rows) for _ in range(2)]
    threads = [
        threading.Thread(target=one.merge, args=(other,), daemon=True)
        for _ in range(20)
        for one, other in (pair, pair[::-1])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)


def test_precisions_of_a_level_that_is_not_there(rows):
    with pytest.raises(ValueError, match=r"level='x' is none of 'residue'"):
        Moments(SIZES).update(rows).precisions_of("x")


def test_levels_of_a_version_that_told_of_all_together_stay_coarse(rows, other):
    """Before, float16 rows of a level were told for all levels, and no level had its own."""
    old = Moments(SIZES).update(other.astype(np.float16), level="x")
    old.row_precision, old._kinds = "float16", {}
    merged = Moments(SIZES).update(rows).merge(old)
    assert merged.precisions_of("x") == ("float64", "float16")
    assert merged.row_precision in ("float64", "float16")
