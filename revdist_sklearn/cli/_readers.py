"""The reader of the FASTA files that users bring."""

from dataclasses import dataclass

from ..base._unpack import file_name
from ..embedding._sequences import listed, nucleotides
from ..library._fasta import FastaReader
from ._messages import note


@dataclass(frozen=True)
class Records:
    """Proteins of a file, each with what messages call it.

    Parameters
    ----------
    sequences : list of str

    labels : list of str
        Such as ``"sp|P1 (line 12)"``.

    names : list of str
        Their identifiers.
    """

    sequences: list
    labels: list
    names: list

    def prepared(self, featurizer):
        """Return the sequences as a featurizer embeds them, before it loads a model.

        Raises
        ------
        ValueError
            If sequences are no proteins, or not such as the models take.
        """
        found = nucleotides(self.sequences)
        if found:
            raise ValueError(
                f"{len(found)} of {len(self.sequences)} records are DNA or RNA by their letters: "
                f"{listed(self.labels[i] for i in found)}. Translate them to proteins, or leave "
                "them out."
            )
        return featurizer.embedding_plan("residue").prepare(self.sequences, self.labels)


def read_fasta(path, option="--fasta"):
    """Return the records of a FASTA file, as :class:`FastaReader` reads them.

    Parameters
    ----------
    path : path-like
        ``"-"`` is standard input.

    option : str, default="--fasta"
        The option that names it, for messages.

    Returns
    -------
    records : Records
        A name is the header's first word.

    Raises
    ------
    OSError
        If it cannot be read.

    ValueError
        If the file has no record, text before the first header, or an empty sequence.
    """
    reader = FastaReader(path, option=option)
    source = file_name(path, option)
    records = list(reader.records())
    labels = [record.label for record in records]
    empty = [label for label, record in zip(labels, records, strict=True) if not record.sequence]
    if empty:
        raise ValueError(
            f"{source}: {len(empty)} of {len(records)} records have no sequence: {listed(empty)}; "
            "remove them."
        )
    names = [record.name for record in records]
    _tell_repeats(source, "identifiers", names, [record.line for record in records])
    if reader.n_stripped:
        note(f"{source}: {reader.n_stripped} of {len(records)} sequences end in '*', left out.")
    return Records([record.sequence for record in records], labels, names)


def _tell_repeats(source, what, names, lines):
    """Note names that occur more than once, with their lines."""
    places: dict[str, list[int]] = {}
    for name, line in zip(names, lines, strict=True):
        places.setdefault(name, []).append(line)
    repeated = {name: found for name, found in places.items() if len(found) > 1}
    if repeated:
        shown = listed(
            f"{name} (lines {listed(map(str, found))})" for name, found in repeated.items()
        )
        note(
            f"warning: {source}: {len(repeated)} {what} occur more than once: {shown}. All are "
            "taken, in the order of the file; rename or remove them if that is not meant."
        )
