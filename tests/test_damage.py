"""Damage to every kind of file: the same numbers, an error that says what to do, or new numbers.

Never others without a word. Each kind is damaged in some hundred seeded ways: single bits are
flipped, parts zeroed or replaced by noise, ends cut off or added, and other files put in place.
"""

import json
import os
import pickle
import shutil
import sqlite3
import warnings
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from conftest import save_esm

from revdist_sklearn import (
    DamagedFileError,
    ESMFeaturizer,
    FormatError,
    Moments,
    ReverseDistiller,
    corpus_moments,
)
from revdist_sklearn.embedding._cache import FILE, EmbeddingCache, cache_info, clear_cache
from revdist_sklearn.interop import load_published_scalers
from revdist_sklearn.models._encoder import Encoder

DATA = Path(__file__).parent / "data"
PROTEINS = ["MKTAYIAKQR", "GSHMWWY", "MKTAYIAKQRQISFVKSHFSRQ", "ACDEFGHIKLMNPQRSTVWY", "MM"]
FLIPS = 300


def flips(content):
    """Yield a file with one bit changed, at places of a seed."""
    rng = np.random.default_rng(0)
    for bit in rng.choice(8 * len(content), FLIPS, replace=False):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << (bit % 8)
        yield bytes(changed)


def larger(content):
    """Yield a file of which more is changed than a bit, and files of other kinds."""
    rng = np.random.default_rng(0)
    n = len(content)
    yield from (content[:cut] for cut in {0, 1, 7, 8, 9, *rng.integers(0, n, 40).tolist(), n - 1})
    yield from (content + more for more in (b"\0", b" ", content))
    for start in rng.integers(0, n, 30):
        length = int(rng.integers(1, min(4096, n - start) + 1))
        noise = rng.integers(0, 256, length, dtype=np.uint8).tobytes()
        for part in (bytes(length), noise):
            changed = content[:start] + part + content[start + length :]
            if changed != content:
                yield changed
    # The length of a safetensors header, and files of other kinds.
    yield from (size.to_bytes(8, "little") + content[8:] for size in (0, 2, 2**31, 2**63))
    yield from (bytes(n), b"{}", b"[]", b"null", b"[" * 10**5, b"PK\5\6" + bytes(18))
    header = {"mean": {"dtype": "F64", "shape": [2**60, 2**3], "data_offsets": [0, 8]}}
    for text in (json.dumps(header).encode(), b"{", b"\xff\xfe", b"\0" * 8):
        yield len(text).to_bytes(8, "little") + text + bytes(8)


def outcomes(path, variants, read):
    """Return how often each outcome came of a file's variants; another number is none of them.

    Parameters
    ----------
    path : Path
        Replaced by each variant in turn.

    variants : iterable of bytes

    read : callable
        Returns what the file says, as bytes.
    """
    content, expected, found = path.read_bytes(), read(), Counter()
    for variant in variants:
        path.write_bytes(variant)
        try:
            result = read()
        except (DamagedFileError, FormatError) as error:
            found[type(error).__name__] += 1
            assert str(path.parent) in str(error) and len(str(error)) < 800
        else:
            assert result == expected
            found["same"] += 1
        assert path.read_bytes() == variant, "what was there is left"
    path.write_bytes(content)
    assert read() == expected
    return found


def rows(n=60):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 12)) @ rng.normal(size=(12, 12)) + 1


def told(distiller):
    """Return all that a distiller tells."""
    Z = distiller.transform(rows())
    texts = distiller.get_params(), distiller.get_feature_names_out().tolist(), distiller.stages_
    texts = (*texts, distiller.rounding_)
    facts = repr((*texts, distiller.n_samples_seen_, distiller.provenance_, distiller.blocks_))
    arrays = [Z, distiller.inverse_transform(Z)]
    for stage in distiller.stages_:
        arrays += [stage.component_shares, stage.residual_variances]
    return facts.encode() + b"".join(array.tobytes() for array in arrays)


@pytest.fixture
def distiller(tmp_path, request):
    folder = tmp_path / "distiller"
    moments = Moments((4, 8), block_names=("a", "b")).update(rows())
    mark = {"fingerprint": "0" * 64, "weights": "1" * 64}
    moments.provenance = {
        "members": [{"block": name, **mark} for name in "ab"],
        "corpora": [{"digest": "2" * 64, "n_proteins": 3, "n_residues": 60}],
        "version": "0.1.0",
    }
    distiller = ReverseDistiller(n_components=7).fit_moments(moments)
    distiller.save_pretrained(folder, dtype=getattr(request, "param", "float64"))
    return folder


@pytest.mark.parametrize("distiller", ["float64", "bfloat16"], indirect=True)
@pytest.mark.parametrize("damage", [flips, larger])
def test_distillers(distiller, damage):
    path = distiller / "chain.safetensors"
    variants = damage(path.read_bytes())
    found = outcomes(path, variants, lambda: told(ReverseDistiller.from_pretrained(distiller)))
    assert not found["same"] and found["DamagedFileError"] > 0.98 * sum(found.values())


@pytest.mark.parametrize("damage", [flips, larger])
def test_copies_of_the_header(distiller, damage):
    path = distiller / "config.json"
    variants = damage(path.read_bytes())
    found = outcomes(path, variants, lambda: told(ReverseDistiller.from_pretrained(distiller)))
    assert set(found) == {"same"}


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
@pytest.mark.parametrize("version", ["format_1", "format_2"])
@pytest.mark.parametrize("name", ["chain.safetensors", "config.json"])
def test_distillers_without_a_digest_load_or_are_told(tmp_path, version, name):
    """What they hold may change unseen, but never its form."""
    folder = shutil.copytree(DATA / version / "distiller_all_parameters", tmp_path / "d")
    path = folder / name
    content = path.read_bytes()
    for variant in (*flips(content), *larger(content)):
        path.write_bytes(variant)
        try:
            distiller = ReverseDistiller.from_pretrained(folder)
        except (DamagedFileError, FormatError) as error:
            assert str(folder) in str(error)
        else:
            # Exponents may have changed, but what is not finite is not read.
            assert distiller.components_.shape == (11, 16)
            assert distiller.transform(np.ones((2, 16))).shape == (2, 11)


def facts_of(moments):
    names = ("blocks", "precision", "product_precision", "row_precision", "n_rows", "provenance")
    text = repr([getattr(moments, name) for name in names]).encode()
    levels = [level for level in (moments.residue, moments.protein) if level is not None]
    return text + b"".join(
        np.float64(level.n).tobytes() + level.mean.tobytes() + level.scatter.tobytes()
        for level in levels
    )


@pytest.mark.parametrize("damage", [flips, larger])
def test_moments(tmp_path, damage):
    path = tmp_path / "moments.safetensors"
    moments = Moments((4, 8), block_names=("a", "b"))
    moments.update(rows(), proteins=np.arange(60) // 6).save(path, metadata={"mine": [1, 2]})
    found = outcomes(path, damage(path.read_bytes()), lambda: facts_of(Moments.load(path)))
    assert not found["same"] and found["DamagedFileError"] > 0.98 * sum(found.values())


@pytest.mark.parametrize("damage", [flips, larger])
def test_checkpoints(tmp_path, monkeypatch, damage):
    """No model runs: what is damaged is not taken for a pass that has not begun."""
    path = tmp_path / "checkpoint.safetensors"
    emb = ESMFeaturizer([save_esm(tmp_path / "model", width=4)])

    def read():
        return facts_of(corpus_moments(emb, PROTEINS, checkpoint=path, verbose=False))

    read()
    monkeypatch.setattr(Encoder, "__call__", None)
    found = outcomes(path, islice(damage(path.read_bytes()), 0, None, 3), read)
    assert not found["same"] and found["DamagedFileError"] > 0.98 * sum(found.values())


NPZ = DATA / "reference" / "pcr-incremental" / "rd-scaler-8M-35M-pcr-incremental-1k.npz"


@pytest.mark.parametrize("damage", [flips, larger])
def test_published_scalers(tmp_path, damage):
    """Bits of a zip file that nothing depends on, such as dates, may change."""
    path = Path(shutil.copy(NPZ, tmp_path))

    def read():
        distiller = load_published_scalers([path])
        X = np.random.default_rng(0).normal(size=(5, distiller.n_features_in_))
        arrays = [stage.residual_variances for stage in distiller.stages_]
        return b"".join(array.tobytes() for array in (distiller.transform(X), *arrays))

    found = outcomes(path, damage(path.read_bytes()), read)
    assert found["DamagedFileError"] > sum(found.values()) / 2


class Payload:
    """What a pickle can do: here it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickles_in_published_scalers_are_not_run(tmp_path):
    trace, path = tmp_path / "executed", tmp_path / "scaler.npz"
    with np.load(NPZ) as file:
        arrays = dict(file)
    objects = np.array([Payload(trace)], dtype=object)
    np.savez(path, **arrays, logger=objects)
    assert load_published_scalers([path]).n_components_ > 0
    for name in ("regressor__coef_", "pca__components_", "pca__mean_"):
        np.savez(path, **{**arrays, name: objects})
        with pytest.raises(DamagedFileError, match=f"no array '{name}'"):
            load_published_scalers([path])
    path.write_bytes(pickle.dumps(Payload(trace)))
    with pytest.raises(DamagedFileError, match="is no whole scaler"):
        load_published_scalers([path])
    assert not trace.exists()


@pytest.mark.parametrize(
    "name, change",
    [
        ("pca__components_", lambda a: a * np.nan),
        ("pca__components_", lambda a: a[0]),
        ("pca__components_", lambda a: a > 0),
        ("pca__mean_", lambda a: a[:1]),
        ("regressor__coef_", lambda a: a + 0j),
        ("regressor__intercept_", lambda a: a[:1]),
        ("regressor__n_significant_pcs_", lambda a: a + 99),
        ("regressor__n_significant_pcs_", lambda a: np.repeat(a, 2)),
        ("regressor__input_mean_", lambda a: a.astype(str)),
        ("regressor__output_mean_", lambda a: a[:, None]),
        ("pca__explained_variance_", lambda a: a[:1]),
    ],
)
def test_published_scalers_of_another_form(tmp_path, name, change):
    with np.load(NPZ) as file:
        arrays = dict(file)
    np.savez(tmp_path / "scaler.npz", **{**arrays, name: change(arrays[name])})
    with pytest.raises(
        DamagedFileError, match=r"scaler\.npz is no whole scaler .*; fetch or save"
    ):
        load_published_scalers([tmp_path / "scaler.npz"])


SPACE = {"model": "m", "layer": -1, "width": 16}
TEXTS = [f"A{'CDEF'[i % 4]}{'GHIK'[i // 4 % 4]}{'LMNP'[i // 16]}" for i in range(60)]
ROWS = np.random.default_rng(0).normal(size=(60, 16)).astype(np.float32)


def use_cache(folder):
    """Look rows up, keep what is missing, look again; return how it went."""
    n_missing = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with EmbeddingCache(folder) as cache:
            for _ in range(2):
                found, rows = cache.get(SPACE, TEXTS)
                np.testing.assert_array_equal(rows, ROWS[found])
                missing = sorted({*range(60)} - {*found})
                n_missing.append(len(missing))
                cache.put(SPACE, [TEXTS[i] for i in missing], ROWS[missing])
    for warning in caught:
        assert str(folder) in str(warning.message)
        assert any(way in str(warning.message) for way in ("cache clear", "Name another"))
    way = "computed again" if n_missing[0] else "same"
    return f"{way}, with a warning" if caught else way


def is_told(folder):
    """Return whether ``revdist cache info`` tells the space, nothing, or what to do."""
    try:
        spaces, _ = cache_info(folder)
    except OSError as error:
        return str(folder) in str(error) or "pip install -U" in str(error)
    known = [space for space in spaces if "damaged" not in space]
    return all(SPACE == {name: space[name] for name in SPACE} for space in known)


def is_cleared(folder):
    try:
        clear_cache(folder)
    except OSError as error:
        return "another program" in str(error)
    return os.listdir(folder) == []


@pytest.mark.parametrize("damage", [flips, larger])
def test_caches(tmp_path, damage):
    path, found = tmp_path / FILE, Counter()
    with EmbeddingCache(tmp_path) as cache:
        cache.put(SPACE, TEXTS, ROWS)
    content = path.read_bytes()
    for variant in damage(content):
        for name in os.listdir(tmp_path):
            os.unlink(tmp_path / name)
        path.write_bytes(variant)
        assert is_told(tmp_path)
        found[use_cache(tmp_path)] += 1
        assert is_cleared(tmp_path)
    path.write_bytes(content)
    assert use_cache(tmp_path) == "same"
    assert found["computed again, with a warning"] > 50


@pytest.mark.parametrize("name", ["rows", "spaces"])
def test_a_table_of_something_else_in_a_cache_is_not_read(tmp_path, name):
    with EmbeddingCache(tmp_path) as cache:
        cache.put(SPACE, TEXTS, ROWS)
    connection = sqlite3.connect(tmp_path / FILE)
    connection.executescript(f"DROP TABLE {name}; CREATE TABLE {name} (a, b, c, d)")
    connection.close()
    assert use_cache(tmp_path) == "computed again, with a warning"
