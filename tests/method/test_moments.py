import ctypes
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from revdist_sklearn import Moments, ReverseDistiller
from revdist_sklearn.method import _moments, _products_numpy
from revdist_sklearn.method._level import Level
from revdist_sklearn.method._products_numpy import CHUNK_ROWS, add_chunks


def rows_of(n=300, d=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 10 * rng.normal(size=d)


def assert_same(a, b, rtol=1e-12):
    assert a.n_rows == b.n_rows and a.n_proteins == b.n_proteins
    for level in ("residue", "protein"):
        one, other = getattr(a, level), getattr(b, level)
        if one is None or other is None:
            assert one is other
            continue
        assert_allclose(one.n, other.n, rtol=rtol)
        assert_allclose(one.mean, other.mean, rtol=rtol, atol=rtol)
        scale = np.abs(other.scatter).max()
        assert_allclose(one.scatter, other.scatter, atol=rtol * scale)


def test_are_mean_and_covariance():
    X = rows_of()
    moments = Moments([2, 4]).update(X)
    assert moments.n == moments.n_rows == len(X)
    assert_allclose(moments.mean, X.mean(axis=0), rtol=1e-12)
    assert_allclose(moments.scatter / len(X), np.cov(X.T, bias=True), rtol=1e-10)


def test_more_rows_than_a_chunk():
    X = rows_of(2 * CHUNK_ROWS + 7, 3)
    moments = Moments([3]).update(X)
    assert_allclose(moments.scatter / len(X), np.cov(X.T, bias=True), rtol=1e-10)


@settings(max_examples=30, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 300), max_size=5),
    order=st.randoms(use_true_random=False),
    weighted=st.booleans(),
)
def test_any_split_in_any_order_of_merging_is_the_whole(cuts, order, weighted):
    X = rows_of()
    w = np.random.default_rng(1).integers(0, 3, len(X)).astype(float) if weighted else None
    groups = np.repeat(np.arange(30), 10)
    cuts = sorted(10 * (c // 10) for c in cuts)
    parts = [slice(a, b) for a, b in zip([0, *cuts], [*cuts, len(X)], strict=True)]
    pieces = [
        Moments([2, 4]).update(
            X[part], sample_weight=None if w is None else w[part], proteins=groups[part]
        )
        for part in parts
    ]
    order.shuffle(pieces)
    merged = Moments([2, 4])
    for piece in pieces:
        merged.merge(piece)
    assert_same(merged, Moments([2, 4]).update(X, sample_weight=w, proteins=groups))


def test_weights_count_rows():
    X = rows_of(50)
    w = np.random.default_rng(0).integers(0, 4, 50)
    assert_same(
        Moments([2, 4]).update(X, sample_weight=w),
        _with_rows(Moments([2, 4]).update(np.repeat(X, w, axis=0)), np.count_nonzero(w)),
    )


def _with_rows(moments, n_rows):
    moments.n_rows = n_rows  # a weight of 3 is one row of weight 3
    return moments


def test_protein_level_is_that_of_protein_means():
    X, groups = rows_of(60), np.repeat(["b", "a", "c"], [10, 20, 30])
    moments = Moments([6]).update(X, proteins=groups)
    means = np.array([X[groups == g].mean(axis=0) for g in "abc"])
    assert moments.n_proteins == 3
    assert_allclose(moments.protein.mean, means.mean(axis=0), rtol=1e-12)
    assert_allclose(moments.protein.covariance, np.cov(means.T, bias=True), rtol=1e-9)


def test_protein_mean_is_weighted_and_weightless_proteins_do_not_count():
    X, groups = rows_of(6), np.repeat([0, 1, 2], 2)
    w = np.array([1.0, 3.0, 0.0, 0.0, 1.0, 1.0])
    moments = Moments([6]).update(X, sample_weight=w, proteins=groups)
    first, last = (X[0] + 3 * X[1]) / 4, (X[4] + X[5]) / 2
    assert moments.n_proteins == 2
    assert_allclose(moments.protein.mean, (first + last) / 2, rtol=1e-12)


@pytest.mark.parametrize("n", [300, 1500])
def test_means_of_proteins_are_multiplied_some_hundred_at_a_time(n, monkeypatch):
    """Neither once a batch, which costs D x D each, nor at the end, when they fill memory."""
    added, X = [], rows_of(n)
    add_rows = _products_numpy.add_rows

    def count(level, rows, *how):
        added.append(len(rows) if level is moments._protein else 0)
        add_rows(level, rows, *how)

    monkeypatch.setattr(_products_numpy, "add_rows", count)
    moments = Moments([6])
    for i in range(1, 11):
        moments.update(X, proteins=np.arange(n))
        assert moments.n_proteins == i * n
        assert i * n - sum(added) < 1500
    assert sum(map(bool, added)) <= 10 * n / 1000
    assert moments.protein.n == 10 * n
    assert_allclose(moments.protein.covariance, np.cov(X.T, bias=True), rtol=1e-9)


def test_protein_level_is_dropped_where_one_update_has_no_groups():
    X = rows_of(20)
    moments = Moments([6]).update(X, proteins=np.arange(20)).update(X)
    assert moments.protein is None
    assert moments.update(X, proteins=np.arange(20)).protein is None
    whole = Moments([6]).update(X, proteins=np.arange(20))
    assert whole.merge(Moments([6]).update(X)).protein is None


def test_shifted_columns_keep_their_covariance():
    # Raw second moments in float32 lose 8% of the covariance at a shift of 100.
    X = rows_of(1000, 4).astype(np.float32)
    shifted = (X.astype(np.float64) + 1e4).astype(np.float32)
    exact = np.cov(shifted.T.astype(np.float64), bias=True)
    single = Moments([4]).update(shifted).residue.covariance
    assert_allclose(single, exact, atol=1e-6 * exact.max())
    double = Moments([4], precision="float64").update(shifted).residue.covariance
    assert_allclose(double, exact, rtol=1e-9)


def test_a_constant_column_stays_constant():
    # A whole chunk of the largest size: the sum behind its mean rounds most.
    moments = Moments([CHUNK_ROWS // 4]).update(np.full((CHUNK_ROWS, CHUNK_ROWS // 4), 1 / 3))
    spread = np.sqrt(np.diag(moments.residue.covariance))
    assert spread.max() <= np.finfo(float).eps * moments.mean.max()


@pytest.mark.parametrize("groups", [None, np.repeat(np.arange(10), 30)])
def test_save_and_load(tmp_path, groups):
    moments = Moments([2, 4], block_names=["a", "b"]).update(rows_of(), proteins=groups)
    moments.save(tmp_path / "m.safetensors")
    loaded = Moments.load(tmp_path / "m.safetensors")
    assert (loaded.block_sizes, loaded.block_names) == ((2, 4), ("a", "b"))
    assert_same(loaded, moments, rtol=0)
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_load_refuses_an_incomplete_file(tmp_path):
    path = tmp_path / "m.safetensors"
    Moments([6]).update(rows_of()).save(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="holds no moments, or is incomplete"):
        Moments.load(path)


@pytest.mark.parametrize(
    "rows, kwargs, message",
    [
        (np.zeros((3, 5)), {}, r"\(3, 5\) do not fit block_sizes=\(2, 4\)"),
        (
            np.zeros((3, 6)),
            {"sample_weight": [1, 2]},
            r"sample_weight has shape \(2,\) and rows 3 entries",
        ),
        (np.zeros((3, 6)), {"sample_weight": [1, -2, 1]}, r"sample_weight\[1\] is -2"),
        (np.zeros((3, 6)), {"proteins": [1]}, r"proteins has shape \(1,\) and rows 3 entries"),
        (np.full((3, 6), np.inf), {}, "row 0, column 0"),
        (np.full((3, 6), "a"), {}, "no numbers"),
        (np.zeros((3, 6)), {"proteins": ["a", None, "b"]}, r"proteins\[1\] is None, no label"),
        (np.zeros((3, 6)), {"proteins": ["a", 1.5j, {}]}, "proteins must be labels of one kind"),
    ],
)
def test_bad_rows_leave_the_moments_as_they_were(rows, kwargs, message):
    moments, same = Moments([2, 4]).update(rows_of()), Moments([2, 4]).update(rows_of())
    with pytest.raises(ValueError, match=message):
        moments.update(rows, **kwargs)
    assert_same(moments, same, rtol=0)


def test_merge_refuses_other_blocks():
    with pytest.raises(ValueError, match="cannot be merged"):
        Moments([2, 4]).merge(Moments([4, 2]))
    with pytest.raises(ValueError, match="cannot be merged"):
        Moments([2], block_names=["a"]).merge(Moments([2], block_names=["b"]))


@pytest.mark.parametrize("sizes, names", [([], None), ([2, 0], None), ([2, 3], ["a"])])
def test_bad_blocks(sizes, names):
    with pytest.raises(ValueError, match="block"):
        Moments(sizes, block_names=names)


def test_merging_nothing_changes_nothing():
    rows, proteins = rows_of(), np.arange(300)
    moments = Moments([6]).update(rows, proteins=proteins)
    assert_same(moments.merge(Moments([6])), Moments([6]).update(rows, proteins=proteins))


def test_fit_leaves_moments_unchanged():
    moments = Moments([2, 4]).update(rows_of())
    before = moments.scatter.copy()
    ReverseDistiller().fit_moments(moments)
    assert_array_equal(moments.scatter, before)


# Precision and tensors


def precisions(moments):
    return moments.row_precision, moments.product_precision


def test_products_are_float64_or_as_asked():
    X = rows_of()
    assert precisions(Moments([6]).update(X)) == ("float64", "float64")
    assert precisions(Moments([6]).update(X.astype(np.float32))) == ("float32", "float64")
    assert precisions(Moments([6]).update(X.astype(np.float16))) == ("float16", "float64")
    single = Moments([6], precision="float32").update(X)
    assert precisions(single) == ("float32", "float32")
    assert precisions(Moments([6]).update(X).merge(single)) == ("float32", "float32")
    half = Moments([6], precision="float32").update(X.astype(np.float16))
    assert precisions(half) == ("float16", "float32")
    with pytest.raises(ValueError, match="precision='half'"):
        Moments([6], precision="half")


def test_float32_products_agree_to_rounding():
    X = rows_of(3 * CHUNK_ROWS, 40).astype(np.float32)
    single = Moments([40], precision="float32").update(X).residue
    double = Moments([40], precision="float64").update(X).residue
    assert double == Moments([40]).update(X).residue
    assert_allclose(single.mean, double.mean, rtol=1e-12)
    error = np.abs(single.scatter - double.scatter).max() / double.scatter.max()
    assert 0 < error < 1e-6


@pytest.mark.parametrize("kind", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("weighted", [False, True])
def test_tensors_are_multiplied_like_arrays(kind, weighted):
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(rows_of(CHUNK_ROWS + 50)).to(getattr(torch, kind))
    w = np.random.default_rng(0).uniform(0, 2, len(tensor)) if weighted else None
    groups = np.repeat(np.arange(-(-len(tensor) // 7)), 7)[: len(tensor)]
    moments = Moments([2, 4]).update(tensor, sample_weight=w, proteins=groups)
    array = tensor.double().numpy()
    expected = Moments([2, 4]).update(array, sample_weight=w, proteins=groups)
    assert_same(moments, expected, rtol=1e-12)
    assert precisions(moments) == (kind, "float64")


def test_a_tensor_that_is_not_finite_is_named():
    torch = pytest.importorskip("torch")
    tensor = torch.zeros(4, 6)
    tensor[2, 1] = float("nan")
    with pytest.raises(ValueError, match=r"NaN.*row 2, column 1"):
        Moments([6]).update(tensor)


def test_half_precision_arrays_are_exact_in_float32():
    X = rows_of().astype(np.float16)
    moments = Moments([6]).update(X)
    exact = Moments([6], precision="float32").update(X.astype(np.float32))
    assert_array_equal(
        Moments([6], precision="float32").update(X).scatter, exact.scatter, strict=True
    )
    assert moments.residue == Moments([6]).update(X.astype(np.float64)).residue


@pytest.mark.parametrize("tensors", [False, True])
@pytest.mark.parametrize(
    "kind, large, message", [("float32", 1e25, "float32"), ("float64", 1e200, "float64")]
)
def test_squares_beyond_the_range_are_told_by_their_column(tensors, kind, large, message):
    X = rows_of().astype(kind)
    X[7, 4] = large
    if tensors:
        X = pytest.importorskip("torch").from_numpy(X)
    with (
        np.errstate(all="ignore"),
        pytest.raises(ValueError, match=f"column 4 are beyond the range of {message}"),
    ):
        Moments([6], precision=kind).update(X)


def test_what_products_were_coarsest_survives_a_merge():
    single, double = rows_of().astype(np.float32), rows_of()
    half = Moments([6], precision="float32").update(rows_of().astype(np.float16))
    exact = Moments([6]).update(double)
    for one, other in ((half, exact), (exact, half)):
        both = Moments([6]).merge(one).merge(other)
        assert precisions(both) == ("float16", "float32")
    assert precisions(exact) == ("float64", "float64")
    then = Moments([6]).update(single).update(double)
    assert precisions(then) == ("float32", "float64")
    assert precisions(then.update(rows_of().astype(np.float16))) == ("float16", "float64")
    assert precisions(then.update(double)) == ("float16", "float64")


@pytest.mark.parametrize("kind", [bool, np.int8, np.uint16])
def test_rows_may_be_integers_or_booleans(kind):
    X = (np.random.default_rng(0).uniform(0, 2, size=(50, 4))).astype(kind)
    moments = Moments([4]).update(X)
    assert precisions(moments) == ("float64", "float64")
    assert_same(moments, Moments([4]).update(X.astype(float)), rtol=0)


def test_large_rows_whose_squares_are_within_the_range_count():
    X = (1e17 * rows_of(500, 4)).astype(np.float32)
    moments = Moments([4], precision="float32").update(X[:200]).update(X[200:])
    exact = Moments([4], precision="float64").update(X)
    assert moments.n == 500
    assert_allclose(moments.scatter, exact.scatter, rtol=1e-5)
    with pytest.raises(ValueError, match="squares of column"):
        moments.update(X * np.float32(100))
    assert moments.n == moments.n_rows == 500
    assert_allclose(moments.scatter, exact.scatter, rtol=1e-5)


@pytest.mark.parametrize("unit", [1.0, 1e-200])
@pytest.mark.parametrize("fault", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("merging", [False, True])
def test_moments_whose_update_was_cut_off_say_so(monkeypatch, fault, merging, unit, tmp_path):
    """Where a signal comes between the scatter and the count, no number is given any more."""
    moments, other = Moments([2, 4]).update(rows_of()), Moments([2, 4]).update(rows_of())
    w = np.full(len(rows_of()), unit)

    def cut_off(*args):
        raise fault

    with monkeypatch.context() as broken:
        if merging:
            broken.setattr(Level, "move", cut_off)
        else:  # after the first of two chunks
            step = _products_numpy._centre
            outcomes = iter([step, cut_off])
            broken.setattr(_products_numpy, "_centre", lambda *args: next(outcomes)(*args))
            broken.setattr(_products_numpy, "chunk_rows", lambda n_columns: len(w) // 2)
        with pytest.raises(fault):
            moments.merge(other) if merging else moments.update(rows_of(), sample_weight=w)
    for call in (
        lambda: moments.update(rows_of()),
        lambda: moments.merge(other),
        lambda: other.merge(moments),
        lambda: moments.save(tmp_path / "m"),
        lambda: ReverseDistiller().fit_moments(moments),
    ):
        with pytest.raises(RuntimeError, match="in the middle of an update"):
            call()
    assert not list(tmp_path.iterdir())
    ReverseDistiller().fit_moments(other)


@pytest.mark.parametrize("bad", [np.nan, np.float32("nan")], ids=["object", "float"])
def test_a_protein_that_is_nan_is_told_by_its_place(bad):
    labels = np.repeat(np.arange(10.0), 10)
    labels[37] = np.nan
    labels = labels.astype(object if bad is np.nan else np.float32)
    with pytest.raises(ValueError, match=r"proteins\[37\] is NaN"):
        Moments([6]).update(rows_of(100), proteins=labels)


@pytest.mark.parametrize("kind", ["list", "tuple", "array", "Series", "string", "category"])
@pytest.mark.parametrize("missing", ["nan", "numpy nan", "None", "NaT", "pandas NaT", "NA"])
def test_a_protein_without_a_label_is_an_error(missing, kind):
    pd = pytest.importorskip("pandas")
    missing = {
        "nan": float("nan"),
        "numpy nan": np.float32("nan"),
        "None": None,
        "NaT": np.datetime64("NaT"),
        "pandas NaT": pd.NaT,
        "NA": pd.NA,
    }[missing]
    labels = ["a", missing, "b", "b"]
    if kind == "tuple":
        labels = tuple(labels)
    elif kind == "array":
        labels = np.array(labels, dtype=object)
    elif kind != "list":
        labels = pd.Series(labels, dtype=None if kind == "Series" else kind)
    with pytest.raises(ValueError, match=r"proteins\[1\] is (NaN|None|NaT|<NA>), no label"):
        Moments([2, 4]).update(np.zeros((4, 6)), proteins=labels)
    labels = ["nan", "NaT", "b", "b"]  # are names
    assert Moments([2, 4]).update(np.zeros((4, 6)), proteins=labels).n_proteins == 3


def test_dates_without_one_are_an_error():
    for dates in (["2020", "NaT", "2021", "2021"], ["NaT", "2020", "2021", "2021"]):
        dates = np.array(dates, dtype="datetime64[D]")
        with pytest.raises(ValueError, match="is NaT, no label"):
            Moments([2, 4]).update(np.zeros((4, 6)), proteins=dates)


def test_threads_that_ask_for_the_protein_level_at_once_get_it_whole(monkeypatch):
    """The means that wait are added once, by one of them."""
    X, groups = rows_of(300), np.arange(300) // 3
    expected = Moments([6]).update(X, proteins=groups).protein
    slow = _products_numpy.add_rows

    def ask(moments):
        level = moments.protein
        return level.n, level.scatter.copy()

    def add_rows(level, *args):
        time.sleep(0.01)  # all threads are here by then
        slow(level, *args)

    for _ in range(3):
        moments = Moments([6]).update(X, proteins=groups)
        with monkeypatch.context() as slowly, ThreadPoolExecutor(8) as pool:
            slowly.setattr(_products_numpy, "add_rows", add_rows)
            found = list(pool.map(ask, [moments] * 8))
        for n, scatter in found:
            assert n == expected.n
            assert_array_equal(scatter, expected.scatter)


def test_threads_that_ask_a_distiller_at_once_get_one_answer():
    X, groups = rows_of(300), np.arange(300) // 3
    how = {"residual_level": "protein"}
    expected = ReverseDistiller((2, 4), **how).fit(X, proteins=groups).transform(X)
    for _ in range(20):
        distiller = ReverseDistiller((2, 4), **how)
        for part in np.array_split(np.arange(300), 10):
            distiller.partial_fit(X[part], proteins=groups[part])
        barrier = threading.Barrier(8)

        def ask(distiller=distiller, barrier=barrier):
            barrier.wait()
            return distiller.transform(X)

        with ThreadPoolExecutor(8) as pool:
            found = [future.result() for future in [pool.submit(ask) for _ in range(8)]]
        for Z in found:
            assert_allclose(Z, expected, atol=1e-10)


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("fault", [KeyboardInterrupt, MemoryError])
def test_means_of_proteins_whose_addition_was_cut_off_are_not_lost_unseen(
    monkeypatch, fault, begun
):
    moments = Moments([6]).update(rows_of(300), proteins=np.arange(300) // 3)

    def cut_off(*args):
        raise fault

    with monkeypatch.context() as broken:
        broken.setattr(Level, "merge" if begun else "add_product", cut_off)
        if begun:
            broken.setattr(_products_numpy, "add_rows", begin)
        with pytest.raises(fault):
            moments.protein  # noqa: B018
    if begun:
        with pytest.raises(RuntimeError, match="in the middle of an update"):
            moments.update(rows_of())
        with pytest.raises(RuntimeError, match="in the middle of an update"):
            moments.protein  # noqa: B018
    else:  # nothing is lost
        assert moments.protein.n == moments.n_proteins == 100


def begin(level, rows):
    add_chunks(level, rows[:50], None, np.float64)
    level.due += 1
    level.merge(level)


def test_weights_or_sums_beyond_the_range_leave_the_moments_as_they_were():
    X = rows_of(300, 2)
    moments = Moments([2]).update(X[:10])
    before = moments.scatter.copy()
    with pytest.raises(ValueError, match="adds up to more than float64 holds"):
        moments.update(X, sample_weight=np.r_[np.ones(256), np.full(44, 1e308)])
    large, X = Moments([2]), X - X.mean(axis=0)
    with pytest.raises(ValueError, match=r"squares of column \d are beyond"):
        for _ in range(40):
            large.update(6e152 * X / np.abs(X).max())
    assert np.isfinite(large.scatter).all() and large.n == large.n_rows
    assert (moments.n, moments.n_rows) == (10, 10)
    assert_array_equal(moments.scatter, before)


@pytest.mark.parametrize("waiting", [1, 4, 1024])
def test_means_of_proteins_beyond_the_range_leave_the_moments_as_they_were(waiting, monkeypatch):
    """Their weight is 1 each, whatever that of the rows, whose squares are far within it."""
    monkeypatch.setattr(_moments, "PROTEINS_WAITING", waiting)
    rows = 6e152 * np.array([[1.0, -1.0], [-1.0, 1.0]])
    weights, proteins = np.full(2, 1e-12), np.arange(2)
    moments, added = Moments([2]), 0
    with pytest.raises(ValueError, match=r"squares of column \d are beyond"):
        for _ in range(4000):
            moments.update(rows, sample_weight=weights, proteins=proteins)
            added += 2
    for _ in range(2):
        assert 10 < added == moments.n_rows == moments.n_proteins == moments.protein.n
        assert_allclose(moments.n, added * 1e-12)
        moments.check_whole()
        assert np.isfinite(moments.scatter).all() and np.isfinite(moments.protein.scatter).all()
        with pytest.raises(ValueError, match=r"squares of column \d are beyond"):
            moments.update(rows, sample_weight=weights, proteins=proteins)
    # Without proteins they are dropped, and the rows count.
    assert moments.update(rows, sample_weight=weights).n_rows == added + 2


def test_means_beyond_the_range_are_found_before_a_merge_changes_anything():
    X, proteins = rows_of(20), np.arange(20) // 2
    moments, other = Moments([6]).update(X, proteins=proteins), Moments([6])
    other.update(X, proteins=proteins)
    other._waiting[0] = other._waiting[0] * 1e200
    moments.provenance = {"version": "1"}
    with pytest.raises(ValueError, match="are beyond"):
        moments.merge(other)
    assert moments.provenance == {"version": "1"} and moments.n_rows == 20
    assert moments.protein.n == 10
    moments.check_whole()


@pytest.mark.skipif(
    sys.implementation.name != "cpython" or sys.version_info >= (3, 13), reason="needs the GIL"
)
def test_interrupts_at_any_step_of_an_update_leave_all_of_it_or_nothing(monkeypatch):
    """As Ctrl-C in the main thread: 48 of 300 were refused, and none must be claimed whole."""
    monkeypatch.setattr(_moments, "PROTEINS_WAITING", 64)
    X, proteins = rows_of(480, 120), np.arange(480) // 8  # mostly in the product
    one = Moments([120]).update(X, proteins=proteins)
    rng, refused = np.random.default_rng(0), 0
    interrupt = ctypes.pythonapi.PyThreadState_SetAsyncExc
    for _ in range(150):
        moments, begun = Moments([120]), threading.Event()

        def work(moments=moments, begun=begun):
            with suppress(KeyboardInterrupt):
                begun.set()
                while True:
                    moments.update(X, proteins=proteins)

        thread = threading.Thread(target=work)
        thread.start()
        begun.wait()
        time.sleep(rng.uniform(0, 0.004))
        interrupt(ctypes.c_ulong(thread.ident), ctypes.py_object(KeyboardInterrupt))
        thread.join(20)
        if not moments._whole:
            refused += 1
            continue
        k = moments.n_rows // 480
        assert moments.n == moments.n_rows == 480 * k
        assert moments.n_proteins == (moments.protein.n if k else 0) == 60 * k
        if k:
            assert_allclose(moments.scatter, k * one.scatter, rtol=1e-9)
            assert_allclose(moments.protein.scatter, k * one.protein.scatter, rtol=1e-9)
    assert refused <= 2


def test_a_pickle_of_the_version_before_goes_on():
    moments = Moments([6], precision="float32").update(rows_of(10))
    state = {k: v for k, v in vars(moments).items() if k not in ("row_precision", "_whole")}
    old = Moments.__new__(Moments)
    old.__setstate__({**state, "half": "float16"})
    assert precisions(old.update(rows_of())) == ("float16", "float32")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_while_another_thread_adds_means_does_not_hang(monkeypatch):
    moments = Moments([6]).update(rows_of(300), proteins=np.arange(300) // 3)
    other = Moments([6]).update(rows_of(9), proteins=np.arange(9))
    inside, leave = threading.Event(), threading.Event()
    add_rows = _products_numpy.add_rows

    def slowly(*args):
        inside.set()
        leave.wait(20)
        return add_rows(*args)

    monkeypatch.setattr(_products_numpy, "add_rows", slowly)
    thread = threading.Thread(target=lambda: moments.protein)
    thread.start()
    assert inside.wait(10)
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        leave.set()
        os._exit(0 if other.protein.n == 9 else 1)
    leave.set()
    thread.join(20)
    assert os.waitpid(child, 0)[1] == 0
