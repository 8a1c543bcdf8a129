"""What estimators of a family of models share: the token, the cache's folder, and tags."""

import os

from sklearn.base import BaseEstimator, TransformerMixin

from ..base._secrets import TokenName
from ..base._state import set_missing_parameters
from ..models._family import resolve_family
from ._callbacks import CallbackSupportMixin


class FamilyEstimator(CallbackSupportMixin, TransformerMixin, BaseEstimator):
    """A transformer of protein sequences by models that it does not hold."""

    token = TokenName()

    def _members(self, local_files_only=None, causal=False):
        if local_files_only is None:
            local_files_only = self.local_files_only
        trust = (self.model_kwargs or {}).get("trust_remote_code") is True
        return resolve_family(
            self.models, self.revision, local_files_only, self.token, trust, causal
        )

    def _cache_folder(self):
        """Return the folder of the cache, a relative one as it was at the first use."""
        if self.cache_dir is None:
            return None
        given = os.path.expanduser(self.cache_dir)
        if os.path.isabs(given):
            return given
        if self.__dict__.get("_cache_place", (None, None))[0] != given:
            self._cache_place = given, os.path.abspath(given)
        return self._cache_place[1]

    def __getstate__(self):
        # A worker may run in another folder.
        if isinstance(self.cache_dir, (str, os.PathLike)):
            self._cache_folder()
        return super().__getstate__()

    def __setstate__(self, state):
        super().__setstate__(state)
        set_missing_parameters(self)

    def __sklearn_clone__(self):
        copy = super().__sklearn_clone__()
        if "_cache_place" in self.__dict__:
            copy._cache_place = self._cache_place
        return copy

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.transformer_tags.preserves_dtype = []
        tags.requires_fit = False
        return tags
