import importlib
import sys

import pytest

from revdist_sklearn import ESMFeaturizer
from revdist_sklearn.embedding import _callbacks

sklearn_callback = pytest.importorskip("sklearn.callback")


class Recorder:
    """A callback that keeps what it hears."""

    def __init__(self):
        self.heard = []

    def setup(self, estimator, context):
        self.heard.append("setup")

    def teardown(self, estimator, context):
        self.heard.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.heard.append(("begin", context.task_name))

    def on_fit_task_end(self, estimator, context):
        self.heard.append(("end", context.task_name))


def test_fit_transform_tells_of_models_and_batches(tiny_family):
    recorder = Recorder()
    emb = ESMFeaturizer(tiny_family[:2], token_budget=1).set_callbacks(recorder)
    plain = ESMFeaturizer(tiny_family[:2], token_budget=1).transform(["MKT", "GIVEQ"])
    assert (emb.fit_transform(["MKT", "GIVEQ"]) == plain).all()
    batch = [("begin", "batch"), ("end", "batch")] * 2
    assert recorder.heard == [
        "setup",
        ("begin", "fit-transform"),
        *(("begin", "tiny_08"), *batch, ("end", "tiny_08")),
        *(("begin", "tiny_12"), *batch, ("end", "tiny_12")),
        ("end", "fit-transform"),
        "teardown",
    ]


def test_fit_is_a_task_and_transform_none(tiny_model):
    recorder = Recorder()
    emb = ESMFeaturizer(tiny_model).set_callbacks(recorder)
    emb.fit(["MKT"])
    assert recorder.heard == ["setup", ("begin", "fit"), ("end", "fit"), "teardown"]
    emb.transform(["MKT"])
    assert len(recorder.heard) == 4


def test_a_fault_ends_the_callbacks_too(tiny_model):
    recorder = Recorder()
    with pytest.raises(ValueError, match="empty"):
        ESMFeaturizer(tiny_model).set_callbacks(recorder).fit_transform([""])
    assert recorder.heard[-1] == "teardown"


def test_a_pipeline_passes_its_callbacks_on(tiny_model):
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline

    class Propagated(Recorder):
        max_propagation_depth = None

    recorder = Propagated()
    pipeline = make_pipeline(ESMFeaturizer(tiny_model), Ridge())
    with pytest.warns(UserWarning, match="Ridge does not support callbacks"):
        pipeline.set_callbacks(recorder).fit(["MKT", "GIVEQ"], [0.0, 1.0])
    assert ("begin", "tiny_12") in recorder.heard and ("end", "batch") in recorder.heard


def test_without_the_protocol_everything_works_and_nothing_is_offered(tiny_model, monkeypatch):
    """As in scikit-learn before 1.9."""
    monkeypatch.setitem(sys.modules, "sklearn.callback", None)
    old = importlib.util.module_from_spec(_callbacks.__spec__)
    old.__spec__.loader.exec_module(old)

    class Featurizer(old.CallbackSupportMixin):
        @old.with_callbacks
        def fit(self):
            context = self._init_callback_context(task_name="fit", max_subtasks=1)
            context.call_on_fit_task_begin(estimator=self)
            context.subcontext(task_name="batch").call_on_fit_task_begin(estimator=self)
            assert not context.call_on_fit_task_end(estimator=self)
            return self

    assert not hasattr(Featurizer().fit(), "set_callbacks")
