"""scikit-learn's callback protocol, where the installed version has it (1.9)."""

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands in for scikit-learn's: an estimator without callbacks."""

        def _init_callback_context(self, **kwargs):
            return NO_CALLBACKS

    def with_callbacks(method):
        """Return the method as it is."""
        return method


class _NoCallbacks:
    """A context whose tasks nobody hears of."""

    def subcontext(self, **kwargs):
        return self

    def call_on_fit_task_begin(self, **kwargs):
        return self

    def call_on_fit_task_end(self, **kwargs):
        return False


NO_CALLBACKS = _NoCallbacks()

__all__ = ["NO_CALLBACKS", "CallbackSupportMixin", "with_callbacks"]
