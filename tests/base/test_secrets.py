import copy
import pickle
import traceback

import pytest
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_no_attributes_set_in_init

from revdist_sklearn import ESMFeaturizer, ReverseDistiller
from revdist_sklearn.base._hub import HubRepository, ModelNotFoundError
from revdist_sklearn.base._secrets import may_be_token

HUB = "hf_" + "aB3" * 11
HEX = "a1b2c3d4e5" * 4
TOKENS = [HUB, HEX, HEX.upper(), "f" * 36, "api_org_" + "x" * 20, "eyJ.a.b", "a b", "é" * 5]
NAMES = ["HF_TOKEN_LAB", "LAB_TOKEN", "_TOKEN2", "HfTokenLab", "hub_token_of_the_lab_3", "value"]


def test_tokens_are_told_from_names(monkeypatch):
    assert [t for t in TOKENS if not may_be_token(t)] == []
    assert [n for n in NAMES if may_be_token(n)] == []
    monkeypatch.setenv(HEX, "x")  # an odd name, but one
    assert not may_be_token(HEX)


@pytest.mark.parametrize("between", ["\n", "\r\n", " ", "\x00", "\x7f", "é"])
def test_a_variable_that_holds_no_token_is_refused_before_the_hub_is_asked(
    between, monkeypatch, no_network
):
    """A client would quote it, escaped, in the error about a header that it cannot send."""
    value = f"{HUB}{between}{HEX}"
    if between == "\x00":  # no environment has one, but those that are made up
        monkeypatch.setattr("os.environ", {"HF_TOKEN_LAB": value})
    else:
        monkeypatch.setenv("HF_TOKEN_LAB", value)
    with pytest.raises(ValueError, match=r"'HF_TOKEN_LAB' names .* is no token") as caught:
        HubRepository(f"acme/two-lines-{ord(between[0])}", token="HF_TOKEN_LAB").file("x")
    text = "".join(traceback.format_exception(caught.value))
    assert HUB not in text and HEX not in text


@pytest.mark.parametrize("secret", [HUB, "q'\"\\uote/+d=="])
@pytest.mark.parametrize("quoted", [str, repr, lambda s: repr(s.encode())])
def test_an_error_that_quotes_the_token_escaped_is_cleaned(secret, quoted, monkeypatch):
    def refuse(*args, token, **options):
        raise ConnectionError(f"Illegal header value {quoted(f'Bearer {token}')}")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    monkeypatch.setenv("HF_TOKEN_LAB", secret)
    with pytest.raises(ModelNotFoundError, match=r"Bearer \*\*\*") as caught:
        HubRepository("acme/quoted-escaped", token="HF_TOKEN_LAB").file("x")
    text = "".join(traceback.format_exception(caught.value))
    for form in (secret, repr(secret)[1:-1], repr(secret.encode())[2:-1]):
        assert form not in text


def test_the_token_of_the_login_is_cleaned_too(monkeypatch):
    def refuse(*args, **options):
        raise ConnectionError(f"Illegal header value 'Bearer {HUB}'")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    monkeypatch.setenv("HF_TOKEN", HUB)
    with pytest.raises(ModelNotFoundError, match=r"Bearer \*\*\*") as caught:
        HubRepository("acme/quoted-login").file("x")
    assert HUB not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("token", [*TOKENS, HUB.encode()], ids=repr)
def test_what_may_be_a_token_is_refused_and_not_repeated(token):
    for call in (
        lambda: ESMFeaturizer("esm2-nano", token=token).fit(["MKT"]),
        lambda: ESMFeaturizer("acme/none", token=token).transform(["MKT"]),
        lambda: ReverseDistiller.from_pretrained("acme/none", token=token),
    ):
        with pytest.raises((ValueError, TypeError), match="token='HF_TOKEN_LAB'") as caught:
            call()
        lines = traceback.format_exception(caught.value)
        assert not any(str(token) in line for line in lines)


def shown(estimator):
    """Return all that is printed or stored of an estimator."""
    yield from (repr(estimator), str(estimator), f"{estimator}", str(estimator.get_params()))
    yield estimator._repr_html_()
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        yield repr(pickle.dumps(estimator, protocol))


@pytest.mark.parametrize("token", [*TOKENS, *NAMES])
@pytest.mark.parametrize("given", ["at once", "later"])
def test_what_may_be_a_token_is_neither_printed_nor_pickled(token, given):
    emb = ESMFeaturizer(token=token) if given == "at once" else ESMFeaturizer()
    emb.set_params(token=token)
    for estimator in (emb, make_pipeline(emb, Ridge())):
        for copied in (estimator, clone(estimator), copy.deepcopy(estimator)):
            found = [token in text or repr(token)[1:-1] in text for text in shown(copied)]
            assert set(found) == {token in NAMES}


def test_a_parameter_that_is_masked_is_a_parameter_all_the_same(monkeypatch):
    emb = ESMFeaturizer(token=HEX)
    assert emb.token == emb.get_params()["token"] == clone(emb).token == HEX
    assert clone(emb).get_params() == emb.get_params()
    check_no_attributes_set_in_init("ESMFeaturizer", emb)
    with pytest.raises(ValueError, match="token='HF_TOKEN_LAB'"):  # a pickle's has none
        pickle.loads(pickle.dumps(emb)).fit(["MKT"])
    # What becomes a variable is one.
    monkeypatch.setenv(HEX, HUB)
    assert HEX in repr(emb)
    assert pickle.loads(pickle.dumps(emb)).fit(["MKT"]).token == HEX
