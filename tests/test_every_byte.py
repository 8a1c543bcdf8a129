"""Every byte of a file that was written, changed: the same numbers, or an error that names it.

The files are as small as they can be, so that there is one reading for each byte. Damage of other
kinds, and of larger files, is in ``test_damage.py``; ``benchmarks/promise.py`` flips every bit.
"""

import sqlite3
import warnings
from contextlib import closing
from itertools import islice

import numpy as np
import pytest
from conftest import save_esm
from test_damage import facts_of, outcomes

from revdist_sklearn import ESMFeaturizer, Moments, ReverseDistiller, corpus_moments
from revdist_sklearn.embedding._cache import FILE, EmbeddingCache
from revdist_sklearn.models._encoder import Encoder

SPACE = {"model": "m", "width": 2}
TEXTS = ["MKT", "GSH", "AAC"]
ROWS = np.arange(6, dtype=np.float32).reshape(3, 2) + 0.5


def every_bit(content):
    """Yield a file with one bit changed, all of them: those of a byte are n apart."""
    n = len(content)
    for bit in range(8):
        for i in range(n):
            changed = bytearray(content)
            changed[i] ^= 1 << (i + bit) % 8
            yield bytes(changed)


def every_byte(content):
    """Yield a file with one byte changed, by one bit."""
    return islice(every_bit(content), len(content))


def distiller(folder, variants):
    """Return what comes of reading a distiller, which is written to a folder and changed."""
    X = np.random.default_rng(0).normal(size=(60, 3))
    ReverseDistiller((1, 2)).fit(X).save_pretrained(folder)
    path = folder / "chain.safetensors"

    def read():
        found = ReverseDistiller.from_pretrained(folder)
        return found.transform(X).tobytes() + repr(found.stages_).encode()

    return outcomes(path, variants(path.read_bytes()), read)


def moments(folder, variants):
    """Return what comes of reading moments."""
    path = folder / "m"
    Moments((1, 1)).update(np.eye(2), proteins=[0, 1]).save(path)
    return outcomes(path, variants(path.read_bytes()), lambda: facts_of(Moments.load(path)))


def checkpoint(folder, variants):
    """Return what comes of a corpus pass that goes on from a checkpoint; no model may run."""
    path = folder / "checkpoint"
    emb = ESMFeaturizer([save_esm(folder / "model", width=4)])

    def read():
        return facts_of(corpus_moments(emb, ["MKTAYIAKQR", "GSHMWWY"], checkpoint=path))

    read()
    call, Encoder.__call__ = Encoder.__call__, None
    try:
        return outcomes(path, variants(path.read_bytes()), read)
    finally:
        Encoder.__call__ = call


def cache(folder, variants):
    """Return how often rows of a cache were found, missing, or those of another protein."""
    path = folder / FILE
    with EmbeddingCache(folder, seconds=0) as store:
        store.put(SPACE, TEXTS, ROWS)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("PRAGMA page_size = 512; VACUUM")
    content, found = path.read_bytes(), {"rows": 0, "missing": 0, "without a word": 0}
    for variant in variants(content):
        path.write_bytes(variant)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with EmbeddingCache(folder, seconds=0) as store:
                known, rows = store.get(SPACE, TEXTS)
        np.testing.assert_array_equal(rows, ROWS[known])
        found["rows"] += len(known)
        found["missing"] += len(TEXTS) - len(known)
        found["without a word"] += len(known) < len(TEXTS) and not caught
    return found


@pytest.mark.slow
@pytest.mark.parametrize("of, step", [(distiller, 1), (moments, 1), (checkpoint, 29)])
def test_every_byte_of_what_has_a_digest(of, step, tmp_path):
    """A checkpoint is a file of moments, which takes longer to come to."""
    found = of(tmp_path, lambda content: islice(every_byte(content), 0, None, step))
    assert not found["same"] and found["DamagedFileError"] >= found.total() - 3, found


@pytest.mark.slow
def test_every_other_byte_of_a_cache(tmp_path):
    """What is missing without a word has another name now: that of its space or sequence."""
    found = cache(tmp_path, lambda content: islice(every_byte(content), 0, None, 2))
    assert found["rows"] > found["missing"] > 0
    assert found["without a word"] < 60, found
