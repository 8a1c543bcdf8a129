"""Shared helpers: tiny random checkpoints as transformers writes them, and the grid search."""

import signal
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from revdist_sklearn import ESMFeaturizer, PrefixSelector, ReverseDistiller, fit_on_corpus

# Ignored in what a shell starts in the background, and in all that that starts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The tokens of ESM-2 in the order of their ids.
ESM_TOKENS = [
    *("<cls>", "<pad>", "<eos>", "<unk>"),
    *"LAGVSERTIDPKQNFYMHWCXBUZO.-",
    *("<null_1>", "<mask>"),
]
# ProtT5, ProtBert and Ankh have tokens for all letters.
T5_LETTERS = "ALGVSREDTIPKFQNYMHWCXBOUZ"
BERT_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"LAGVESIKRDTPNQFYMHCWXUBZO"]
# Of IgLM: chains and species are told before a protein, and it ends with [SEP].
IGLM_TOKENS = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *"ACDEFGHIKLMNPQRSTVWY",
    *("[HEAVY]", "[LIGHT]", "[CAMEL]", "[HUMAN]", "[MOUSE]", "[RABBIT]", "[RAT]", "[RHESUS]"),
]
# Revisions of a made-up repository on the hub, and their commits.
HUB_COMMITS = {"main": "a" * 40, "v1": "b" * 40}


def out_of_memory_errors():
    """Errors of a GPU, of torch on a CPU and of Python."""
    import torch

    return [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ]


def save_esm(folder, *, width=8, layers=1, lm_head=True, seed=0, **config):
    """Save a random ESM model with its tokenizer and return the folder as a string."""
    import torch
    from transformers import EsmConfig, EsmForMaskedLM, EsmModel

    settings = {
        "vocab_size": len(ESM_TOKENS),
        "mask_token_id": ESM_TOKENS.index("<mask>"),
        "pad_token_id": ESM_TOKENS.index("<pad>"),
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "intermediate_size": 2 * width,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "max_position_embeddings": 1026,
        "layer_norm_eps": 1e-5,
        "position_embedding_type": "rotary",
        "emb_layer_norm_before": False,
        "token_dropout": True,
        # Large enough for attention to be uneven: else a missing mask would go unseen.
        "initializer_range": 0.6,
    }
    config = EsmConfig(**{**settings, **config})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = EsmForMaskedLM(config) if lm_head else EsmModel(config, add_pooling_layer=False)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model.eval().save_pretrained(folder)
    save_esm_tokenizer(folder)
    return str(folder)


def save_esm_tokenizer(folder):
    """Save ESM's tokenizer beside a model."""
    from transformers import EsmTokenizer

    vocabulary = Path(folder) / "vocab.txt"
    vocabulary.write_text("\n".join(ESM_TOKENS))
    EsmTokenizer(str(vocabulary)).save_pretrained(folder)


def save_esmc(folder, *, width=8, seed=5):
    """Save a random ESM C with its tokenizer, where transformers has them."""
    import transformers

    config = transformers.EsmcConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.6,
    )
    save_random(folder, transformers.EsmcForMaskedLM, config, seed)
    transformers.EsmcTokenizer().save_pretrained(folder)
    return str(folder)


def save_t5(folder, *, spelling, tags=(), width=8, lm_head=False, seed=0, **config):
    """Save a random T5 with a tokenizer like ProtT5's ("▁{}") or Ankh's ("{}")."""
    from transformers import PreTrainedTokenizerFast, T5Tokenizer

    tokens = ["<pad>", "</s>", "<unk>", *(spelling.format(r) for r in T5_LETTERS)]
    if spelling == "{}":
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=letter_tokenizer(tokens, end="</s>"),
            pad_token="<pad>",
            eos_token="</s>",
            unk_token="<unk>",
        )
    else:
        tokenizer = T5Tokenizer(vocab=[(token, 0.0) for token in tokens], extra_ids=4)
    tokenizer.add_tokens(list(tags))
    tokenizer.save_pretrained(folder)
    save_random_t5(folder, len(tokenizer), width=width, lm_head=lm_head, seed=seed, **config)
    return str(folder)


def save_random_t5(folder, vocab_size, *, width=8, lm_head=False, seed=0, **config):
    """Save a random T5, whole or its encoder alone."""
    from transformers import T5Config, T5EncoderModel, T5ForConditionalGeneration

    settings = {
        "vocab_size": vocab_size,
        "d_model": width,
        "d_kv": 4,
        "d_ff": 2 * width,
        "num_layers": 2,
        "num_heads": 2,
        "decoder_start_token_id": 0,
    }
    model_class = T5ForConditionalGeneration if lm_head else T5EncoderModel
    return save_random(folder, model_class, T5Config(**{**settings, **config}), seed)


def save_bert(folder, *, width=8, seed=0):
    """Save a random BERT with ProtBert's vocabulary."""
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(**small(len(BERT_TOKENS), width), max_position_embeddings=64)
    save_random(folder, BertForMaskedLM, config, seed)
    (Path(folder) / "vocab.txt").write_text("\n".join(BERT_TOKENS))
    (Path(folder) / "tokenizer_config.json").write_text(
        '{"do_lower_case": false, "tokenizer_class": "BertTokenizer"}'
    )
    return str(folder)


def save_iglm(folder, *, width=8, layers=2, positions=64, seed=0):
    """Save a random GPT-2 with IgLM's vocabulary, as its package writes it."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=len(IGLM_TOKENS),
        n_embd=width,
        n_layer=layers,
        n_head=2,
        n_positions=positions,
        initializer_range=0.6,
    )
    save_random(folder, GPT2LMHeadModel, config, seed)
    (Path(folder) / "vocab.txt").write_text("\n".join(IGLM_TOKENS))
    (Path(folder) / "tokenizer_config.json").write_text(
        '{"do_lower_case": false, "tokenizer_class": "BertTokenizer"}'
    )
    return str(folder)


def save_generic(folder, model_class, config, *, letters=T5_LETTERS, spaced=False, seed=0):
    """Save a random model of any class with a tokenizer of letters: <s> ... </s>."""
    from transformers import PreTrainedTokenizerFast

    tokens = ["<s>", "<pad>", "</s>", "<unk>", *letters]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=letter_tokenizer(tokens, start="<s>", end="</s>", spaced=spaced),
        pad_token="<pad>",
        unk_token="<unk>",
    )
    tokenizer.save_pretrained(folder)
    return save_random(folder, model_class, config, seed)


def letter_tokenizer(tokens, *, start=None, end=None, spaced=False):
    """Return a tokenizer of single letters, or of words where they must be spaced."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

    ids = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    steps = [pre_tokenizers.WhitespaceSplit()]
    if not spaced:
        steps.append(pre_tokenizers.Split(Regex("."), "isolated"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    around = [token for token in (start, end) if token]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=" ".join([start or "", "$A", end or ""]).strip(),
        special_tokens=[(token, ids[token]) for token in around],
    )
    return tokenizer


def small(vocab_size, width=8):
    """Return the settings that configurations of most encoders share."""
    return {
        "vocab_size": vocab_size,
        "hidden_size": width,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 2 * width,
        "initializer_range": 0.6,
    }


def save_random(folder, model_class, config, seed=0):
    """Save a model of random weights and return the folder as a string."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model_class(config).eval().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_family(tmp_path_factory):
    """Return the folders of three random ESM models with 8, 12 and 16 columns."""
    base = tmp_path_factory.mktemp("family")
    return [
        save_esm(base / "tiny_08", width=8, layers=1, seed=1),
        save_esm(base / "tiny_12", width=12, layers=2, seed=2),
        save_esm(base / "tiny_16", width=16, layers=2, seed=3),
    ]


@pytest.fixture(scope="session")
def tiny_model(tiny_family):
    """Return the folder of a random ESM model with 12 columns and 2 layers."""
    return tiny_family[1]


@pytest.fixture(scope="session")
def proteins():
    """Return seven sequences of different lengths, with every letter that ESM knows."""
    return [
        "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQ",
        "GIVEQCCTSICSLYQLENYCN",
        "M",
        "ACDEFGHIKLMNPQRSTVWYXBZUO",
        "MQYKLILNGKTLKGETTTEAVDAATAEKVFKQYANDNGVDGEWTYDDATKTFTVTE",
        "GSHMW",
        "FVNQHLCGSHLVEALYLVCGERGFFYTPKT",
    ]


@pytest.fixture(scope="session")
def emb(tiny_family):
    """Return the featurizer of the three random models."""
    return ESMFeaturizer(tiny_family)


@pytest.fixture(scope="session")
def rd(emb, proteins):
    """Return a distiller that is fitted on their residues."""
    return fit_on_corpus(ReverseDistiller(), emb, proteins * 3, verbose=False)


@pytest.fixture
def ran(monkeypatch):
    """Return the widths of the models that run; none is loaded before."""
    from revdist_sklearn.models import _loading

    widths = set()
    forward = _loading.Encoder.__call__

    def spy(self, sequences):
        widths.add(self.width)
        return forward(self, sequences)

    monkeypatch.setattr(_loading.Encoder, "__call__", spy)
    monkeypatch.setattr(_loading, "REGISTRY", _loading.Registry(8))
    return widths


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """Return a function that puts a repository of two revisions into an empty hub cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def add(repo_id, *, weights=True):
        repo = tmp_path / "hub" / f"models--{repo_id.replace('/', '--')}"
        (repo / "refs").mkdir(parents=True)
        for width, (name, commit) in zip((8, 12), HUB_COMMITS.items(), strict=True):
            (repo / "refs" / name).write_text(commit)
            folder = repo / "snapshots" / commit
            save_esm(folder, width=width)
            if not weights:
                (folder / "model.safetensors").unlink()
        return repo

    return add


@pytest.fixture
def no_network(monkeypatch):
    """Make every connection an error of the test."""

    def refuse(*args, **kwargs):
        raise AssertionError("the network was touched")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)


class FakeCuda:
    """GPUs that are none: which is current, and what is asked of which.

    ``happened`` holds the number of the current GPU with each thing that was asked.
    """

    def __init__(self, n=2, total=80e9):
        self.n, self.current, self.happened = n, 0, []
        self.total = total
        self.free = dict.fromkeys(range(n), total)
        self.kept = dict.fromkeys(range(n), 0)

    def note(self, what):
        self.happened.append((self.current, what))

    @contextmanager
    def device(self, device):
        import torch

        before, self.current = self.current, torch.device(device).index or 0
        try:
            yield
        finally:
            self.current = before

    def current_stream(self, device=None):
        return f"stream of {self.current if device is None else device.index}"

    def mem_get_info(self, device):
        self.note("measured")
        return self.free[device.index], self.total

    def memory_reserved(self, device):
        return self.kept[device.index]

    def get_device_properties(self, gpu):
        return SimpleNamespace(uuid=f"GPU-{gpu}")


@pytest.fixture
def fake_cuda(monkeypatch):
    """Have torch see two GPUs; no tensor can be put there."""
    import torch

    fake = FakeCuda()
    names = ("device", "current_stream", "mem_get_info", "memory_reserved")
    for name in (*names, "get_device_properties"):
        monkeypatch.setattr(torch.cuda, name, getattr(fake, name))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: fake.note("emptied"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: fake.n)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: fake.current)
    return fake


@pytest.fixture
def dask_cluster():
    """Run a real Dask cluster of two processes, for joblib's backend "dask"."""
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster),
    ):
        yield cluster


def prefix_grid_search(head, X, y, prefixes, alphas, *, w=None, scale=False, groups=None, **how):
    """Return GridSearchCV over PrefixSelector and a ridge, and scores of the shape of ours.

    ``head`` takes "svd" as solver, the most exact one.
    """
    scaler = StandardScaler(with_mean=head.fit_intercept) if scale else "passthrough"
    head = clone(head).set_params(solver="svd")
    model = Pipeline([("scaler", scaler), ("prefix", PrefixSelector()), ("ridge", head)])
    grid = {"prefix__n_components": list(prefixes), "ridge__alpha": list(alphas)}
    weights = {} if w is None else {"ridge__sample_weight": w}
    weights |= {"scaler__sample_weight": w} if scale and w is not None else {}
    search = GridSearchCV(model, grid, refit=first_of_ties, **how)
    search.fit(X, y, groups=groups, **weights)
    by_split = [search.cv_results_[f"split{i}_test_score"] for i in range(search.n_splits_)]
    return search, np.stack(by_split, axis=-1).reshape(len(prefixes), len(alphas), -1)


def first_of_ties(results):
    """Return the best candidate: of those that differ by rounding alone, the first."""
    mean = results["mean_test_score"]
    return int(np.flatnonzero(np.isclose(mean, np.nanmax(mean), rtol=1e-10, atol=0))[0])


def assert_alike(ours, theirs):
    """Check that two arrays, frames or lists are of one type, shape, index and content."""
    assert type(ours) is type(theirs)
    if not isinstance(ours, list):
        for name in ("dtype", "shape", "columns", "index", "name"):
            assert str(getattr(ours, name, None)) == str(getattr(theirs, name, None))
    np.testing.assert_array_equal(ours, theirs)


def assert_same_search(ours, theirs, scores, *, atol=1e-10):
    """Check scores and choice of a prefix search against those of GridSearchCV."""
    np.testing.assert_allclose(ours.cv_scores_, scores, rtol=atol, atol=atol)
    assert ours.n_components_ == theirs.best_params_["prefix__n_components"]
    assert ours.alpha_ == theirs.best_params_["ridge__alpha"]
    mean = theirs.cv_results_["mean_test_score"][theirs.best_index_]
    assert ours.best_score_ == pytest.approx(mean, abs=atol)


@pytest.fixture(scope="session")
def nursery():
    """Give processes that have everything imported, for the tests of faults."""
    from nursery import Nursery

    with Nursery() as processes:
        yield processes


@pytest.fixture(scope="session")
def inputs(nursery, tmp_path_factory):
    """Return a folder of what the tasks of the nursery read."""
    folder = tmp_path_factory.mktemp("inputs")
    end = nursery.run("write_inputs", folder)
    assert end.code == 0, end.text
    return folder
