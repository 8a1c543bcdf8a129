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


def save_esmc(folder):
    """Save a random ESM C model with its tokenizer and return the folder as a string."""
    import transformers

    config = transformers.EsmcConfig(
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.6,
    )
    _save_random(transformers.EsmcForMaskedLM, config, folder)
    transformers.EsmcTokenizer().save_pretrained(folder)
    return str(folder)


def save_t5(folder, *, gated=False, spelling="▁{}"):
    """Save a random T5 with encoder and decoder: ProtT5's kind, or Ankh's where gated."""
    from tokenizers import pre_tokenizers
    from transformers import T5Config, T5ForConditionalGeneration

    tokens = ["<pad>", "</s>", "<unk>", *map(spelling.format, "ALGVSREDTIPKFQNYMHWCXBOUZ")]
    config = T5Config(
        vocab_size=len(tokens) + 7,
        d_model=8,
        d_kv=4,
        d_ff=16,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu" if gated else "relu",
        initializer_factor=3.0,
        decoder_start_token_id=0,
    )
    _save_random(T5ForConditionalGeneration, config, folder)
    split = pre_tokenizers.Metaspace() if spelling == "▁{}" else pre_tokenizers.WhitespaceSplit()
    _save_tokenizer(folder, tokens, split, "$A </s>", pad="<pad>", unk="<unk>", eos="</s>")
    return str(folder)


def save_bert(folder, *, model="Bert", files=("vocab.txt",)):
    """Save a random BERT or DistilBERT, with a plain list of tokens or its tokenizer's file."""
    import transformers
    from tokenizers import pre_tokenizers

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = [*special, *"LAGVESIKRDTPNQFYMHCWX"]
    config = transformers.AutoConfig.for_model(
        model.lower(),
        vocab_size=len(tokens) + 4,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        **({"intermediate_size": 16} if model == "Bert" else {"hidden_dim": 16}),
        max_position_embeddings=60,
        initializer_range=0.6,
    )
    _save_random(getattr(transformers, f"{model}ForMaskedLM"), config, folder)
    if "vocab.txt" in files:
        (Path(folder) / "vocab.txt").write_text("\n".join(tokens))
    _save_tokenizer(
        folder,
        tokens,
        pre_tokenizers.WhitespaceSplit(),
        "[CLS] $A [SEP]",
        pad="[PAD]",
        unk="[UNK]",
        cls="[CLS]",
        sep="[SEP]",
    )
    return str(folder)


def _save_random(model_class, config, folder):
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(5)
        model_class(config).eval().save_pretrained(folder)


def _save_tokenizer(folder, tokens, split, template, **special):
    from tokenizers import Tokenizer, models, processors
    from transformers import PreTrainedTokenizerFast

    ids = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=special["unk"]))
    tokenizer.pre_tokenizer = split
    around = [token for token in template.split() if token != "$A"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(token, ids[token]) for token in around]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{f"{name}_token": token for name, token in special.items()}
    ).save_pretrained(folder)


@pytest.fixture(scope="session")
def architecture_folders(tmp_path_factory):
    """Return a folder with a random model for each architecture, and one that has no entry."""
    import transformers

    base = tmp_path_factory.mktemp("architectures")
    folders = {
        "esm": save_esm(base / "tiny_esm", layers=2, seed=4),
        "prott5": save_t5(base / "tiny_prott5"),
        "ankh": save_t5(base / "tiny_ankh", gated=True, spelling="{}"),
        "protbert": save_bert(base / "tiny_bert"),
        "distilbert": save_bert(base / "tiny_distil", model="DistilBert", files=()),
    }
    if hasattr(transformers, "EsmcModel"):
        folders["esmc"] = save_esmc(base / "tiny_c")
    return folders


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
