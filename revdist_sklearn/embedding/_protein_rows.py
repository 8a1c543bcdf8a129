"""Rows of proteins: what caches hold, the rest computed here or by workers."""

import os
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
from joblib import effective_n_jobs

from ..base._notes import add_note
from ..base._progress import progress_bar
from ._cache import EmbeddingCache
from ._cache_place import HASTE
from ._callbacks import NO_CALLBACKS
from ._member_run import complete, pooled_rows
from ._plan import EmbeddingPlan
from ._sequences import REFERENCE, runs
from ._workers import in_order, is_worker_death, tasks_at_a_time

# Residues that one task embeds, unless there is less than four tasks' work for a worker.
PIECE_RESIDUES = 2**16


@dataclass(frozen=True)
class ProteinRows:
    """How the rows of proteins are made.

    Parameters
    ----------
    plan : EmbeddingPlan

    cache_dir, n_jobs, verbose
        As in :class:`ESMFeaturizer`.
    """

    plan: EmbeddingPlan
    cache_dir: str | os.PathLike | None = None
    n_jobs: int | None = None
    verbose: int = 0

    def of(self, sequences, context=NO_CALLBACKS, **told):
        """Return the rows of sequences, in order.

        Parameters
        ----------
        sequences : list of str
            As ``plan.prepare`` gives them; each distinct one is embedded once.

        context : CallbackContext, default=NO_CALLBACKS
            Of scikit-learn's callbacks: it hears of each model and batch.

        **told
            What the callbacks are told with each task.

        Returns
        -------
        rows : ndarray of shape (n_sequences, n_columns), float32
        """
        reference = self.plan.reference
        # Each distinct sequence once, with what messages call it.
        index: dict[str, object] = {}
        for i, sequence in enumerate(sequences):
            index.setdefault(sequence, i)
        if reference is not None:
            index.setdefault(reference, REFERENCE)
        texts, names = list(index), list(index.values())
        out = np.empty((len(texts), self.plan.blocks.n_columns), dtype=np.float32)
        with nullcontext() if self.cache_dir is None else EmbeddingCache(self.cache_dir) as cache:
            todo = []
            for run, columns in self.plan.runs():
                of_layers = run.columns_of_layers(columns.start)
                lacks = np.ones((len(texts), len(of_layers)), dtype=bool)
                for k, of_layer in enumerate(of_layers):
                    found, rows = run.cached(texts, cache, run.layers[k])
                    out[found, of_layer] = rows
                    lacks[found, k] = False
                todo += _parts(run, of_layers, lacks)
            try:
                self._compute(todo, texts, names, out, cache, context, told)
            except (KeyboardInterrupt, MemoryError) as error:
                add_note(error, self._kept(cache))
                raise
        place = {sequence: i for i, sequence in enumerate(texts)}
        if reference is not None:
            out -= out[place[reference]]
        # Without repeats the rows are in order already, and need not be there twice.
        if len(texts) == len(sequences):
            return out
        return out[[place[sequence] for sequence in sequences]]

    def _compute(self, todo, texts, names, out, cache, context, told):
        """Fill in the rows that no cache held."""
        total = sum(len(texts[i]) for _, _, missing in todo for i in missing)
        with progress_bar(total, self.verbose) as bar:
            for (run, columns, missing), batches in self._batches(todo, texts, names, cache):
                bar.set_description(run.member.block)
                task = context.subcontext(task_name=run.member.block, max_subtasks=None)
                task.call_on_fit_task_begin(**told)
                for indices, rows in complete(batches, missing, run):
                    leaf = task.subcontext(task_name="batch")
                    leaf.call_on_fit_task_begin(**told)
                    for of_layer, here in zip(columns, run.columns_of_layers(), strict=True):
                        out[indices, of_layer] = rows[:, here]
                    bar.update(sum(len(texts[i]) for i in indices))
                    leaf.call_on_fit_task_end(**told)
                task.call_on_fit_task_end(**told)

    def _batches(self, todo, texts, names, cache):
        """Yield each model's part of the work with its batches of indices and rows."""
        if effective_n_jobs(self.n_jobs) == 1:
            for part in todo:
                run, _, missing = part
                batches = run.pooled(
                    [texts[i] for i in missing], [names[i] for i in missing], cache
                )
                yield part, (([missing[j] for j in batch], rows) for batch, rows in batches)
            return
        pieces = [self._pieces(missing, texts) for _, _, missing in todo]
        # Workers may run in another folder.
        folder = self.cache_dir and os.path.abspath(os.path.expanduser(self.cache_dir))
        tasks = (
            (run, [texts[i] for i in piece], [names[i] for i in piece], folder)
            for (run, _, _), of_run in zip(todo, pieces, strict=True)
            for piece in of_run
        )
        results = in_order(pooled_rows, tasks, self.n_jobs)
        for part, of_run in zip(todo, pieces, strict=True):
            yield part, self._collected(part[0], of_run, results, texts, cache)

    def _pieces(self, missing, texts):
        """Return the tasks of a model: indices, longest proteins first."""
        order = sorted(missing, key=lambda i: -len(texts[i]))
        lengths = [len(texts[i]) for i in order]
        share = sum(lengths) // (4 * tasks_at_a_time(self.n_jobs))
        return [order[a:b] for a, b in runs(lengths, min(PIECE_RESIDUES, max(share, 1)))]

    def _collected(self, run, pieces, results, texts, cache):
        """Yield what the workers have computed of a model."""
        done = 0
        try:
            for piece, rows in zip(pieces, results, strict=False):
                # Workers on other machines may have a disk of their own.
                run.keep([texts[i] for i in piece], rows, cache)
                yield piece, rows
                done += 1
        except BaseException as error:
            if not is_worker_death(error):
                raise
            raise RuntimeError(
                f"A worker died, most often for want of memory, after {done} of {len(pieces)} "
                f"pieces of {run.member.source!r}. {self._kept(cache)} Each worker holds a copy "
                "of a model: use a smaller `n_jobs` or `token_budget`."
            ) from error

    def _kept(self, cache):
        """Return what is told of a fault: where the cache is, whose rows are written before."""
        if cache is None or self.cache_dir is None:
            return (
                "What was computed is lost; with `cache_dir` the same call would go on from there."
            )
        where = os.fspath(self.cache_dir)
        if not cache.flush(HASTE):
            return f"The cache in {where!r} does not work, and what it does not hold is lost."
        less = "" if effective_n_jobs(self.n_jobs) == 1 else ", less the last seconds of workers,"
        return f"Finished batches{less} are in {where!r}; the same call goes on from there."


def _parts(run, columns, lacks):
    """Yield what of a model is to be run: the layers that texts lack, in one pass for each text.

    Parameters
    ----------
    run : MemberRun

    columns : list of slice
        Of each of its layers.

    lacks : ndarray of shape (n_texts, n_layers), bool

    Yields
    ------
    run : MemberRun
        Of some of the layers.

    columns : list of slice
        Of these.

    missing : list of int
        The texts that lack just these. One part at least is yielded, of no texts where all is
        there.
    """
    # By what they lack, a byte a layer: a sort of so many rows would take seconds.
    alike: dict[bytes, list[int]] = {}
    flags, n = lacks.tobytes(), len(columns)
    for i in range(len(lacks)):
        alike.setdefault(flags[i * n : (i + 1) * n], []).append(i)
    parts = [([k for k, lack in enumerate(key) if lack], texts) for key, texts in alike.items()]
    parts = [(some, missing) for some, missing in parts if some]
    if not parts:
        yield run, columns, []
    for some, missing in parts:
        yield (
            run.of_layers(tuple(run.layers[k] for k in some)),
            [columns[k] for k in some],
            missing,
        )
