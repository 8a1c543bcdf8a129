"""Shared fixtures: tiny random checkpoints, as folders that transformers writes."""

from pathlib import Path

import pytest

# The tokens of ESM-2 in the order of their ids.
ESM_TOKENS = [
    *("<cls>", "<pad>", "<eos>", "<unk>"),
    *"LAGVSERTIDPKQNFYMHWCXBUZO.-",
    *("<null_1>", "<mask>"),
]
# Revisions of a made-up repository on the hub, and their commits.
HUB_COMMITS = {"main": "a" * 40, "v1": "b" * 40}


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
