"""Scores of variants against passes by hand with transformers' own class and tokenizer."""

import os
import pickle
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import (
    ESM_TOKENS,
    T5_LETTERS,
    save_bert,
    save_esm,
    save_generic,
    save_iglm,
    save_t5,
    small,
)
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted
from transformers import EsmForMaskedLM, EsmTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM

from revdist_sklearn import ESMFeaturizer, ESMVariantScorer
from revdist_sklearn.embedding._cache import cache_info
from revdist_sklearn.interop import TRUSTED_TYPES
from revdist_sklearn.models import _loading
from revdist_sklearn.models._residues import AMINO_ACIDS
from revdist_sklearn.variants import _head_run, _scorer

TOLERANCE = 1e-5
WILD_TYPE = "MKTAYIAKQRXISF"
# The wild type, singles, several mutations (two of one set of sites), and all letters' context.
VARIANTS = [
    "MKTAYIAKQRXISF",
    "MKTAYIAKQRXISW",
    "AKTAYIAKQRXISF",
    "AKTAYIAKQRXISW",
    "CKTAYIAKQRXISD",
    "MKPAWIAKQRXISF",
    "MKTAYIAKQRXICW",
]


class ByHand:
    """A model of a folder, by transformers' own class and tokenizer, one text at a time."""

    def __init__(self, folder):
        self.model = EsmForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = EsmTokenizer.from_pretrained(folder)
        self.columns = self.tokenizer.convert_tokens_to_ids(list(AMINO_ACIDS))

    def table(self, text, masked=()):
        """Log probabilities of all sites, those that are masked hidden from the model."""
        letters = ["<mask>" if p in masked else letter for p, letter in enumerate(text)]
        with torch.no_grad():
            logits = self.model(**self.tokenizer("".join(letters), return_tensors="pt")).logits
        return logits[0, 1:-1, self.columns].log_softmax(-1).numpy().astype(np.float64)

    def score(self, text, score, joint=True, reference=WILD_TYPE):
        if score == "pseudo_likelihood":
            return self.pseudo(text) - (0 if reference is None else self.pseudo(reference))
        sites = [p for p in range(len(text)) if text[p] != reference[p]]
        total = 0.0
        for p in sites:
            if score == "masked":
                table = self.table(reference, sites if joint else [p])
            else:
                table = self.table(reference if score == "wild_type" else text)
            total += table[p, AMINO_ACIDS.index(text[p])]
            total -= table[p, AMINO_ACIDS.index(reference[p])]
        return total

    def pseudo(self, text):
        return sum(
            self.table(text, [p])[p, AMINO_ACIDS.index(letter)]
            for p, letter in enumerate(text)
            if letter in AMINO_ACIDS
        )


@pytest.fixture(scope="module")
def by_hand(tiny_family):
    models = [ByHand(folder) for folder in tiny_family]

    def scores(texts, *how, **more):
        return np.array([[model.score(text, *how, **more) for model in models] for text in texts])

    scores.models = models
    return scores


@pytest.fixture
def texts_seen(monkeypatch):
    """Record the texts that any model gets."""
    texts = []
    forward = _loading.Encoder.__call__

    def spy(self, sequences):
        texts.extend(sequences)
        return forward(self, sequences)

    monkeypatch.setattr(_loading.Encoder, "__call__", spy)
    return texts


@pytest.fixture
def no_models(monkeypatch):
    """Return a function after which a model that runs, or is looked up, is an error."""

    def forbid():
        def refuse(*args, **kwargs):
            raise AssertionError("a model was asked for")

        monkeypatch.setattr("revdist_sklearn.embedding._member_run.get_encoder", refuse)
        monkeypatch.setattr("revdist_sklearn.embedding._family_estimator.resolve_family", refuse)

    return forbid


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


# What is computed


@pytest.mark.parametrize(
    ("score", "joint"),
    [
        ("masked", True),
        ("masked", False),
        ("wild_type", True),
        ("mutant", True),
        ("pseudo_likelihood", True),
    ],
)
@pytest.mark.parametrize("fitted", [False, True])
def test_scores_are_those_of_passes_by_hand(tiny_family, by_hand, score, joint, fitted):
    scorer = ESMVariantScorer(tiny_family, reference=WILD_TYPE, score=score, joint=joint)
    if fitted:
        scorer.fit(VARIANTS)
    found = scorer.transform(VARIANTS)
    assert found.shape == (len(VARIANTS), 3) and found.dtype == np.float64
    assert_close(found, by_hand(VARIANTS, score, joint))
    assert_close(found[0], 0)
    assert np.abs(found[1:]).min() > 1e-3


def test_masking_sites_together_is_another_thing_than_adding_them(tiny_family):
    joint, added = (
        ESMVariantScorer(tiny_family, reference=WILD_TYPE, joint=joint).transform(VARIANTS)
        for joint in (True, False)
    )
    assert_close(joint[:3], added[:3])
    assert np.abs(joint[3:] - added[3:]).min() > 1e-3


def test_pseudo_likelihood_needs_no_reference_and_takes_any_length(tiny_family, by_hand):
    texts = ["MKT", "MKTAYIAKQRQISF", "W"]
    found = ESMVariantScorer(tiny_family, score="pseudo_likelihood").transform(texts)
    assert_close(found, by_hand(texts, "pseudo_likelihood", reference=None))
    scorer = ESMVariantScorer(tiny_family, score="pseudo_likelihood", reference=WILD_TYPE)
    assert_close(scorer.transform(texts), by_hand(texts, "pseudo_likelihood"))


def test_copies_of_many_proteins_are_made_some_at_a_time(tiny_family, monkeypatch, texts_seen):
    scorers = [
        ESMVariantScorer(tiny_family[:1], reference=WILD_TYPE, score=score)
        for score in ("masked", "pseudo_likelihood")
    ]
    expected = [scorer.transform(VARIANTS) for scorer in scorers]
    calls = len(texts_seen)
    monkeypatch.setattr(_head_run, "COPIES", 30)
    monkeypatch.setattr(_scorer, "COPIES", 30)
    for scorer, of_scorer in zip(scorers, expected, strict=True):
        assert_close(scorer.transform(VARIANTS), of_scorer)
    assert len(texts_seen) - calls >= calls


def test_a_pass_of_many_sites_is_shared_by_all_variants_of_them(tiny_family, texts_seen):
    scorer = ESMVariantScorer(tiny_family[:1], reference=WILD_TYPE)
    scorer.transform(VARIANTS)
    # Two single sites; three sets of two, of which one has two variants.
    assert sorted(text.count("?") for text in texts_seen) == [1, 1, 2, 2, 2]
    assert all(text.replace("?", "") in WILD_TYPE or text.count("?") for text in texts_seen)


def test_combined_columns_are_the_mean_and_the_least_of_the_members(tiny_family):
    scorer = ESMVariantScorer(tiny_family, reference=WILD_TYPE)
    each = scorer.transform(VARIANTS)
    for combine, function in (("mean", np.mean), ("min", np.min)):
        scorer.set_params(combine=combine)
        np.testing.assert_array_equal(
            scorer.transform(VARIANTS), function(each, axis=1, keepdims=True)
        )
        assert scorer.get_feature_names_out().tolist() == [f"{combine}__masked"]


def test_other_architectures_score_too(tmp_path):
    folder = save_bert(tmp_path / "bert")
    for score in ("masked", "wild_type", "mutant", "pseudo_likelihood"):
        scores = ESMVariantScorer(folder, reference=WILD_TYPE, score=score).transform(VARIANTS)
        assert np.isfinite(scores).all() and np.abs(scores[1:]).min() > 1e-4


def test_lower_case_is_the_same_protein(tiny_family):
    scorer = ESMVariantScorer(tiny_family, reference=WILD_TYPE)
    lower = ESMVariantScorer(tiny_family, reference=WILD_TYPE.lower())
    texts = [text.lower() for text in VARIANTS]
    np.testing.assert_array_equal(lower.transform(texts), scorer.transform(VARIANTS))


# Long proteins


def states_in_windows(model, text, masked, size, starts):
    """Return the mean over windows of the states of each site, by hand."""
    total, count = np.zeros((len(text), model.model.config.hidden_size)), np.zeros((len(text), 1))
    for start in starts:
        piece = ["<mask>" if p in masked else text[p] for p in range(start, start + size)]
        with torch.no_grad():
            ids = model.tokenizer("".join(piece), return_tensors="pt")
            states = model.model.esm(**ids).last_hidden_state[0, 1:-1]
        total[start : start + size] += states.numpy()
        count[start : start + size] += 1
    return torch.tensor(total / count, dtype=torch.float32)


@pytest.mark.parametrize("score", ["masked", "wild_type", "mutant", "pseudo_likelihood"])
def test_windows_average_states_as_embeddings_do(tiny_family, by_hand, score):
    size, starts = 6, [0, 3, 6, 8]
    scorer = ESMVariantScorer(
        tiny_family[1], reference=WILD_TYPE, score=score, max_length=6, too_long="window"
    )
    found = scorer.transform(VARIANTS)
    model = by_hand.models[1]

    def table(text, masked=()):
        states = states_in_windows(model, text, masked, size, starts)
        with torch.no_grad():
            logits = model.model.lm_head(states)
        return logits[:, model.columns].log_softmax(-1).numpy().astype(np.float64)

    windowed = ByHand.__new__(ByHand)
    windowed.table = table
    expected = [[windowed.score(text, score)] for text in VARIANTS]
    assert_close(found, expected)


def test_only_windows_that_hold_a_site_run(tiny_family, texts_seen):
    scorer = ESMVariantScorer(tiny_family[1], reference=WILD_TYPE, max_length=6, too_long="window")
    scorer.transform(["AKTAYIAKQRXISF"])
    assert texts_seen == ["?KTAYI"]


def test_a_length_limit_is_an_error_or_cuts(tiny_family):
    scorer = ESMVariantScorer(tiny_family[1], reference=WILD_TYPE, max_length=10)
    with pytest.raises(ValueError, match=r"^`reference` has 14 residues, the limit is 10\. "):
        scorer.transform(VARIANTS)
    scorer.set_params(too_long="truncate")
    with pytest.warns(UserWarning) as told:
        found = scorer.transform(VARIANTS)
    of_reference, of_variants = (str(each.message) for each in told)
    assert re.search("`reference` .* cut to its first 10", of_reference)
    assert re.search("7 sequences .* cut to their first 10", of_variants)
    short = ESMVariantScorer(tiny_family[1], reference=WILD_TYPE[:10])
    assert_close(found, short.transform([text[:10] for text in VARIANTS]))


# Fitted


@pytest.mark.parametrize("score", ["masked", "wild_type"])
def test_a_fitted_scorer_runs_no_model(tiny_family, no_models, score, tmp_path):
    folders = [shutil.copytree(f, tmp_path / os.path.basename(f)) for f in tiny_family]
    folders = [str(folder) for folder in folders]
    singles = VARIANTS[:3]
    scorer = ESMVariantScorer(folders, reference=WILD_TYPE, score=score)
    expected = scorer.transform(singles)
    scorer.fit(singles)
    assert scorer.log_probabilities_.shape == (3, 14, 20)
    kept = pickle.loads(pickle.dumps(scorer))
    for folder in folders:
        shutil.rmtree(folder)
    no_models()
    assert_close(kept.transform(singles), expected)
    assert kept.get_feature_names_out().tolist() == [
        f"tiny_{n}__{score}" for n in ("08", "12", "16")
    ]
    assert kept.site_log_probabilities().shape == (14, 60)
    assert len(kept.score_landscape()) == 13 * 19
    added = kept.set_params(joint=False).transform(VARIANTS)
    assert added.shape == (7, 3)


def test_sites_together_need_the_models_after_fit_too(tiny_family, texts_seen):
    scorer = ESMVariantScorer(tiny_family[:1], reference=WILD_TYPE).fit(VARIANTS)
    texts_seen.clear()
    scorer.transform(VARIANTS[:3])
    assert not texts_seen
    scorer.transform(VARIANTS[3:])
    assert sorted(text.count("?") for text in texts_seen) == [2, 2, 2]


def test_the_reference_is_scored_once_by_a_fitted_pseudo_likelihood(tiny_family, texts_seen):
    scorer = ESMVariantScorer(tiny_family[:1], reference="MKT", score="pseudo_likelihood").fit(
        ["MKT"]
    )
    texts_seen.clear()
    scorer.transform(["GIVE"])
    assert len(texts_seen) == 4


@pytest.mark.parametrize(
    "change",
    [
        {"score": "wild_type"},
        {"reference": "A" * 10 + "XISF"},
        {"models": None},
        {"dtype": "float16"},
        {"model_kwargs": {"attn_implementation": "eager"}},
    ],
)
def test_what_fit_kept_is_of_its_parameters_alone(tiny_family, change):
    if "models" in change:
        change = {"models": tiny_family[:2]}
    scorer = ESMVariantScorer(tiny_family, reference=WILD_TYPE).fit(VARIANTS)
    scorer.set_params(**change)
    fresh = clone(scorer)
    np.testing.assert_array_equal(scorer.transform(VARIANTS), fresh.transform(VARIANTS))
    assert scorer.get_feature_names_out().tolist() == fresh.get_feature_names_out().tolist()


def test_a_fit_that_is_interrupted_leaves_nothing_of_the_one_before(tiny_family, monkeypatch):
    scorer = ESMVariantScorer(tiny_family[:1], reference="MKT", score="pseudo_likelihood")
    expected = scorer.fit(["MKT"]).transform(["GIVE"])

    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(ESMVariantScorer, "_pseudo_likelihoods", interrupt)
        with pytest.raises(KeyboardInterrupt):
            scorer.fit(["MKT"])
    assert_close(scorer.transform(["GIVE"]), expected)


def test_parameters_that_mean_nothing_are_told_after_fit_too(tiny_family):
    scorer = ESMVariantScorer(tiny_family, reference=WILD_TYPE).fit(VARIANTS)
    scorer.set_params(combine="max")
    for method in (lambda: scorer.transform(VARIANTS), scorer.score_landscape):
        with pytest.raises(ValueError, match="The 'combine' parameter"):
            method()


def test_lists_that_are_changed_after_fit_are_other_models(tiny_family):
    models = list(tiny_family)
    scorer = ESMVariantScorer(models, reference=WILD_TYPE).fit(VARIANTS)
    models.pop()
    assert scorer.transform(VARIANTS).shape == (7, 2)
    assert len(scorer.get_feature_names_out()) == 2


# The table and the landscape


def test_the_table_is_that_of_masked_passes(tiny_family, by_hand):
    frame = ESMVariantScorer(tiny_family).site_log_probabilities(WILD_TYPE)
    assert frame.shape == (14, 60)
    assert frame.index.tolist() == [f"{a}{i}" for i, a in enumerate(WILD_TYPE, start=1)]
    assert frame.columns[[0, 20, 59]].tolist() == ["tiny_08__A", "tiny_12__A", "tiny_16__Y"]
    for model, name in zip(by_hand.models, ("tiny_08", "tiny_12", "tiny_16"), strict=True):
        of_model = frame.filter(like=f"{name}__").to_numpy()
        expected = [model.table(WILD_TYPE, [p])[p] for p in range(14)]
        assert_close(of_model, expected)
        assert_close(np.exp(of_model).sum(axis=1), 1)
    frame = ESMVariantScorer(tiny_family, score="wild_type").site_log_probabilities(WILD_TYPE)
    assert_close(frame.filter(like="tiny_12__"), by_hand.models[1].table(WILD_TYPE))


def test_the_table_that_is_returned_may_be_written_to(tiny_family):
    scorer = ESMVariantScorer(tiny_family[:1], reference=WILD_TYPE).fit(VARIANTS)
    expected = scorer.transform(VARIANTS[:3])
    frame = scorer.site_log_probabilities()
    frame.iloc[:, :] = 0.0
    np.testing.assert_array_equal(scorer.transform(VARIANTS[:3]), expected)
    assert scorer.site_log_probabilities().to_numpy().any()


@pytest.mark.parametrize("score", ["masked", "wild_type", "mutant", "pseudo_likelihood"])
def test_the_landscape_holds_the_scores_of_all_single_substitutions(tiny_family, score):
    scorer = ESMVariantScorer(tiny_family, score=score)
    frame = scorer.score_landscape("MKXT")
    assert len(frame) == 3 * 19 and frame["mutant"].is_unique
    names = [f"tiny_{n}__{score}" for n in ("08", "12", "16")]
    assert frame.columns.tolist() == ["mutant", "position", "wild_type", "residue", *names]
    row = frame[frame["mutant"] == "T4W"]
    assert [row[name].item() for name in ("position", "wild_type", "residue")] == [4, "T", "W"]
    scorer.set_params(reference="MKXT")
    assert_close(row[names], scorer.transform(["MKXW"]))
    pd.testing.assert_frame_equal(scorer.score_landscape(), frame)


def test_the_mutant_score_has_no_table():
    with pytest.raises(ValueError, match="score='mutant' has no table"):
        ESMVariantScorer(score="mutant").site_log_probabilities("MKT")


def test_tables_need_a_reference():
    for score in ("masked", "pseudo_likelihood"):
        scorer = ESMVariantScorer(score=score)
        for method in (scorer.site_log_probabilities, scorer.score_landscape):
            with pytest.raises(ValueError, match="`reference` is None, here and as a parameter"):
                method()


# The cache


@pytest.mark.parametrize("score", ["masked", "wild_type", "mutant", "pseudo_likelihood"])
def test_no_score_is_computed_twice_with_a_cache(tiny_family, tmp_path, texts_seen, score):
    scorer = ESMVariantScorer(
        tiny_family, reference=WILD_TYPE, score=score, cache_dir=tmp_path / "c"
    )
    first = scorer.transform(VARIANTS)
    assert texts_seen
    texts_seen.clear()
    np.testing.assert_array_equal(clone(scorer).transform(VARIANTS), first)
    assert not texts_seen


def test_another_process_finds_the_table(tiny_family, tmp_path, texts_seen):
    code = (
        "import sys; from revdist_sklearn import ESMVariantScorer; "
        "ESMVariantScorer(sys.argv[3:], cache_dir=sys.argv[1]).site_log_probabilities(sys.argv[2])"
    )
    command = [sys.executable, "-c", code, str(tmp_path), WILD_TYPE, *tiny_family]
    subprocess.run(command, check=True, timeout=300)
    scorer = ESMVariantScorer(tiny_family, cache_dir=tmp_path)
    scorer.site_log_probabilities(WILD_TYPE)
    assert not texts_seen
    scorer.set_params(reference=WILD_TYPE).fit(VARIANTS)
    assert not texts_seen


def test_scores_and_embeddings_lie_beside_each_other(tiny_family, tmp_path):
    settings = {"reference": WILD_TYPE, "cache_dir": tmp_path}
    alone = ESMVariantScorer(tiny_family, reference=WILD_TYPE, score="wild_type")
    expected = alone.transform(VARIANTS), ESMFeaturizer(tiny_family).transform(VARIANTS)
    for _ in range(2):
        scorer = ESMVariantScorer(tiny_family, score="wild_type", **settings)
        emb = ESMFeaturizer(tiny_family, cache_dir=tmp_path)
        assert_close(scorer.transform(VARIANTS), expected[0])
        assert_close(emb.transform(VARIANTS), expected[1])
    spaces, _ = cache_info(tmp_path)
    kinds = {space["pooling"] for space in spaces}
    assert kinds == {"mean", "log probabilities of amino acids"}


# As scikit-learn has it


def test_it_is_a_transformer_that_needs_no_fit():
    scorer = ESMVariantScorer(reference=WILD_TYPE)
    check_is_fitted(scorer)
    tags = get_tags(scorer)
    assert tags.input_tags.string and not tags.input_tags.two_d_array and not tags.requires_fit
    assert clone(scorer).get_params() == scorer.get_params()


def test_pandas_output_has_names_and_the_index(tiny_family):
    scorer = ESMVariantScorer(tiny_family, reference=WILD_TYPE).set_output(transform="pandas")
    frame = scorer.transform(pd.Series(VARIANTS, index=range(5, 12)))
    assert frame.columns.tolist() == scorer.get_feature_names_out().tolist()
    assert len(scorer.score_landscape()) == 13 * 19


def test_beside_embeddings_in_a_union_and_a_search(tiny_family):
    union = FeatureUnion(
        [
            ("score", ESMVariantScorer(tiny_family, reference=WILD_TYPE)),
            ("embedding", ESMFeaturizer(tiny_family)),
        ]
    )
    model = make_pipeline(union, Ridge())
    grid = {"featureunion__score__combine": [None, "mean"]}
    search = GridSearchCV(model, grid, cv=2).fit(VARIANTS, np.arange(7.0))
    assert search.predict(VARIANTS).shape == (7,)
    names = union.fit(VARIANTS).get_feature_names_out()
    assert names[0] == "score__tiny_08__masked" and len(names) == 3 + 36


def test_workers_give_the_same_scores(tiny_family):
    for score in ("masked", "pseudo_likelihood"):
        scorer = ESMVariantScorer(tiny_family[:1], reference=WILD_TYPE, score=score)
        expected = scorer.transform(VARIANTS)
        assert_close(scorer.set_params(n_jobs=2).transform(VARIANTS), expected)


# What is wrong


def test_a_score_without_its_reference(tiny_family):
    for score in ("masked", "wild_type", "mutant"):
        scorer = ESMVariantScorer(tiny_family, score=score)
        for method in (scorer.fit, scorer.transform):
            with pytest.raises(ValueError, match=rf"score='{score}' compares with a wild type"):
                method(VARIANTS)


def test_insertions_name_the_score_that_takes_them(tiny_family):
    for score in ("masked", "wild_type", "mutant"):
        scorer = ESMVariantScorer(tiny_family, reference=WILD_TYPE, score=score)
        for method in (scorer.fit, scorer.transform):
            with pytest.raises(
                ValueError, match=r"Sequence 1 has 15 residues, .*'pseudo_likelihood' alone"
            ):
                method([WILD_TYPE, WILD_TYPE + "A"])


def test_variants_that_would_be_cut_to_one_length_are_still_of_two(tiny_family):
    scorer = ESMVariantScorer(tiny_family, reference=WILD_TYPE, max_length=5, too_long="truncate")
    with (
        pytest.warns(UserWarning, match="cut"),
        pytest.raises(ValueError, match=r"Sequence 0 has 13 residues"),
    ):
        scorer.transform([WILD_TYPE[1:]])
    with (
        pytest.warns(UserWarning, match="cut"),
        pytest.raises(ValueError, match=r"Sequence 0 has 5 residues"),
    ):
        scorer.transform([WILD_TYPE[:5]])


@pytest.mark.parametrize("letter", "XBZUO")
def test_mutated_sites_have_one_of_the_twenty(tiny_family, letter):
    for score in ("masked", "wild_type", "mutant"):
        scorer = ESMVariantScorer(tiny_family, reference=WILD_TYPE, score=score)
        for method in (scorer.fit, scorer.transform):
            with pytest.raises(ValueError, match=rf"Sequence 1 has '{letter}' at position 1 "):
                method([WILD_TYPE, f"M{letter}TAYIAKQRXISF"])
            with pytest.raises(ValueError, match="where `reference` has 'X'"):
                method(["MKTAYIAKQRAISF"])


def test_a_protein_without_any_of_the_twenty_has_no_likelihood(tiny_family):
    scorer = ESMVariantScorer(tiny_family, score="pseudo_likelihood")
    with pytest.raises(ValueError, match="Sequence 1 has none of the twenty amino acids"):
        scorer.transform(["MKT", "XXB"])


@pytest.mark.filterwarnings("ignore:.*cut to")
def test_what_is_left_of_a_cut_protein_has_a_residue_to_score(tiny_family):
    cut = {"score": "pseudo_likelihood", "max_length": 5, "too_long": "truncate"}
    scorer = ESMVariantScorer(tiny_family[1], **cut)
    none = "has none of the twenty amino acids ACDEFGHIKLMNPQRSTVWY"
    for method in (scorer.fit, scorer.transform):
        with pytest.raises(ValueError, match=f"^Sequence 1 {none} in its first 5 residues"):
            method(["MKTAY", "XXXXXAAA"])
    for reference, where in (("XXXXX", ""), ("XXXXXAAA", " in its first 5 residues")):
        scorer.set_params(reference=reference)
        for method in (scorer.fit, scorer.transform):
            with pytest.raises(ValueError, match=f"^`reference` {none}{where}, so"):
                method(["MKTAY"])


def test_a_reference_is_called_by_its_name(tiny_family):
    for score in ("masked", "pseudo_likelihood"):
        scorer = ESMVariantScorer(tiny_family[1], reference="", score=score)
        with pytest.raises(ValueError, match=r"^`reference` is empty: .* Give its residues"):
            scorer.transform([WILD_TYPE])


@pytest.mark.parametrize("score", ["masked", "wild_type", "mutant", "pseudo_likelihood"])
def test_a_call_cuts_the_reference_and_the_sequences_once(tiny_family, score):
    scorer = ESMVariantScorer(
        tiny_family[1], reference=WILD_TYPE, score=score, max_length=10, too_long="truncate"
    )
    for method in (scorer.transform, scorer.fit, scorer.transform):
        with pytest.warns(UserWarning) as told:
            method(VARIANTS)
        assert [str(each.message)[:27] for each in told] == [
            "`reference` has 14 residues",
            "7 of 7 sequences are longer",
        ]


@pytest.mark.parametrize("text", ["MK?AYIAKQRXISF", "MK-AYIAKQRXISF", "MK AYIAKQRXISF"])
def test_masks_and_gaps_of_users_are_refused(tiny_family, text):
    scorer = ESMVariantScorer(tiny_family, reference=WILD_TYPE)
    with pytest.raises(ValueError, match=r"Sequence 0 has .* at position 2"):
        scorer.transform([text])
    with pytest.raises(ValueError, match=r"^`reference` has .* at position 2 "):
        ESMVariantScorer(tiny_family, reference=text).transform([WILD_TYPE])


@pytest.mark.parametrize("bad", ["MKTAYIAKQRXISF", [], [None], [3], np.zeros((2, 2))])
def test_no_list_of_sequences(tiny_family, bad):
    scorer = ESMVariantScorer(tiny_family, reference=WILD_TYPE)
    for method in (scorer.fit, scorer.transform):
        with pytest.raises((TypeError, ValueError)):
            method(bad)


def test_encoders_without_a_head_say_what_remains(tmp_path):
    folder = save_t5(tmp_path / "t5", spelling="▁{}")
    scorer = ESMVariantScorer(folder, reference=WILD_TYPE)
    for method in (scorer.fit, scorer.transform):
        with pytest.raises(ValueError, match=r"no masked-language-model head.*embeddings remain"):
            method(VARIANTS)
    bare = save_esm(tmp_path / "bare", lm_head=False)
    with pytest.raises(ValueError, match="no weights of a language-model head"):
        ESMVariantScorer(bare, reference=WILD_TYPE).transform(VARIANTS)


@pytest.mark.parametrize("known", [True, False])
def test_decoders_have_no_such_head(tmp_path, known):
    folder = tmp_path / "m"
    if known:
        save_iglm(folder)
    else:
        config = GPTNeoXConfig(**small(4 + len(T5_LETTERS)))
        save_generic(folder, GPTNeoXForCausalLM, config)
    scorer = ESMVariantScorer([str(folder)], reference=WILD_TYPE)
    for method in (scorer.fit, scorer.transform):
        with pytest.raises(ValueError, match=r"no masked-language-model head.*decoders.*ESM-2,"):
            method(VARIANTS)
    assert scorer.get_feature_names_out().tolist() == ["m__masked"]


def test_without_a_mask_token_what_masks_nothing_is_scored(tmp_path):
    folder = save_esm(tmp_path / "m")
    settings = {"models": folder, "reference": WILD_TYPE}
    kinds = ("wild_type", "mutant")
    expected = [ESMVariantScorer(score=kind, **settings).transform(VARIANTS) for kind in kinds]
    tokens = [token if token != "<mask>" else "<other>" for token in ESM_TOKENS]
    (tmp_path / "m" / "vocab.txt").write_text("\n".join(tokens))
    for kind, scores in zip(kinds, expected, strict=True):
        found = ESMVariantScorer(score=kind, **settings).transform(VARIANTS)
        np.testing.assert_array_equal(found, scores)
    for kind in ("masked", "pseudo_likelihood"):
        with pytest.raises(ValueError, match=r"has no mask token.*Use score='wild_type'"):
            ESMVariantScorer(score=kind, **settings).transform(VARIANTS)


@pytest.mark.parametrize(
    "wrong", [{"score": "masks"}, {"combine": "max"}, {"joint": "yes"}, {"reference": 3}]
)
def test_parameters_that_mean_nothing(tiny_family, wrong):
    scorer = ESMVariantScorer(tiny_family, **{"reference": WILD_TYPE, **wrong})
    for method in (scorer.fit, scorer.transform):
        with pytest.raises(ValueError, match=f"The '{next(iter(wrong))}' parameter"):
            method(VARIANTS)


def test_scores_that_are_not_finite_are_an_error(tiny_family, monkeypatch):
    monkeypatch.setattr(
        _loading.Encoder,
        "log_probabilities",
        lambda self, states: torch.full((len(states), 20), torch.nan),
    )
    with pytest.raises(ValueError, match=r"The score of sequence 0 by .* is not finite"):
        ESMVariantScorer(tiny_family, reference=WILD_TYPE).transform(VARIANTS)


def test_a_landscape_ends_where_sequences_are_cut(tiny_family):
    scorer = ESMVariantScorer(
        tiny_family[1], reference=WILD_TYPE, max_length=5, too_long="truncate"
    )
    short = ESMVariantScorer(tiny_family[1], reference=WILD_TYPE[:5]).score_landscape()
    with pytest.warns(UserWarning) as told:
        frame = scorer.score_landscape()
    assert [str(each.message)[:58] for each in told] == [
        "`reference` has 14 residues and was cut to its first 5. to"
    ]
    pd.testing.assert_frame_equal(frame, short, atol=TOLERANCE)
    with pytest.raises(ValueError, match="none of the twenty amino acids"):
        ESMVariantScorer(tiny_family[1]).score_landscape("XX")


def test_cached_scores_are_of_one_reference(tiny_family, tmp_path):
    others = ["AKTAYIAKQRXISF", "MKTAYIAKQRXISF"]
    for score in ("mutant", "pseudo_likelihood", "masked", "wild_type"):
        for reference in (WILD_TYPE, *others):
            settings = {"reference": reference, "score": score}
            found = ESMVariantScorer(tiny_family[1], cache_dir=tmp_path, **settings)
            plain = ESMVariantScorer(tiny_family[1], **settings)
            assert_close(found.transform(VARIANTS), plain.transform(VARIANTS))


def test_windows_have_rows_of_their_own_in_a_cache(tiny_family, tmp_path):
    for score in ("mutant", "pseudo_likelihood", "masked", "wild_type"):
        for max_length in (None, 6, 8):
            settings = {"reference": WILD_TYPE, "score": score, "max_length": max_length}
            settings["too_long"] = "window"
            found = ESMVariantScorer(tiny_family[1], cache_dir=tmp_path, **settings)
            plain = ESMVariantScorer(tiny_family[1], **settings)
            assert_close(found.transform(VARIANTS), plain.transform(VARIANTS))


def test_differences_of_long_proteins_are_not_rounded_away(tiny_family, monkeypatch):
    """A sum of 21,000 has steps of 0.002 in float32."""
    monkeypatch.setattr(
        _loading.Encoder,
        "__call__",
        lambda self, texts: ([torch.zeros(len(text), 12) for text in texts], torch.zeros(1, 12)),
    )
    log_p = np.full(20, -7.0)
    log_p[0] += 1e-3  # alanine
    monkeypatch.setattr(
        _loading.Encoder,
        "log_probabilities",
        lambda self, states: torch.tensor(log_p, dtype=torch.float32).expand(len(states), 20),
    )
    scorer = ESMVariantScorer(tiny_family[1], reference="K" * 3000, score="pseudo_likelihood")
    assert scorer.transform(["A" + "K" * 2999])[0, 0] == pytest.approx(1e-3, abs=1e-5)


def test_callbacks_hear_of_the_table(tiny_family):
    pytest.importorskip("sklearn.callback")

    class Recorder:
        def __init__(self):
            self.heard = []

        def setup(self, estimator, context):
            self.heard.append("setup")

        def teardown(self, estimator, context):
            self.heard.append("teardown")

        def on_fit_task_begin(self, estimator, context):
            self.heard.append(context.task_name)

        def on_fit_task_end(self, estimator, context):
            pass

    for score, heard in (
        ("wild_type", ["fit", "tiny_08", "batch", "tiny_12", "batch"]),
        ("mutant", ["fit"]),
    ):
        recorder = Recorder()
        scorer = ESMVariantScorer(tiny_family[:2], reference=WILD_TYPE, score=score)
        scorer.set_callbacks(recorder).fit(VARIANTS)
        assert recorder.heard == ["setup", *heard, "teardown"]


def test_a_fitted_scorer_goes_through_skops(tiny_family, no_models):
    skops = pytest.importorskip("skops.io")
    scorer = ESMVariantScorer(tiny_family, reference=WILD_TYPE).fit(VARIANTS)
    expected = scorer.transform(VARIANTS[:3])
    loaded = skops.loads(skops.dumps(scorer), trusted=TRUSTED_TYPES)
    no_models()
    np.testing.assert_array_equal(loaded.transform(VARIANTS[:3]), expected)


def test_a_table_of_other_settings_is_not_taken(tiny_family):
    scorer = ESMVariantScorer(tiny_family, reference=WILD_TYPE).fit(VARIANTS)
    assert scorer._is_kept()
    for change in ({"model_kwargs": {"attn_implementation": "eager"}}, {"dtype": "bfloat16"}):
        assert not clone(scorer).fit(VARIANTS).set_params(**change)._is_kept()
