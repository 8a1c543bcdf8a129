"""FASTA files as they are, read as a stream."""

import os
import re
from typing import NamedTuple

from ..base._text import shown
from ..base._unpack import (
    STANDARD_INPUT,
    START,
    CutShortError,
    file_name,
    is_rereadable,
    unpacked,
)

NEWLINE = b"\n"
WHITE = b" \t\n\r\x0b\x0c"
MARK = b"\xef\xbb\xbf"  # of byte order, in UTF-8
# Headers that are indented, or follow the mark of a file that was appended to another.
_HIDDEN_HEADER = re.compile(rb"\n[ \t\x0b\x0c]*(?:\xef\xbb\xbf)?[ \t\x0b\x0c]*>")

# What begins otherwise than FASTA: beginnings, name, and the way out.
_EXPORT = "Export its sequences as FASTA."
_UNPACK = "Unpack it, and name the FASTA file that it holds."
KINDS = (
    ((b"LOCUS  ",), "a GenBank file", _EXPORT),
    ((b"ID   ",), "a flat file of UniProt or EMBL", _EXPORT),
    ((b"CLUSTAL", b"# STOCKHOLM", b"#NEXUS"), "an alignment", "Export it as FASTA, without gaps."),
    ((b"HEADER  ", b"ATOM  ", b"data_"), "a structure", _EXPORT),
    ((b"##gff", b"##gtf"), "an annotation", "Name the FASTA file of its proteins."),
    ((b"@HD\t", b"@SQ\t", b"BAM\1"), "an alignment of reads", "Name a FASTA file of proteins."),
    ((b"<",), "a page of HTML or XML", "Was it a download that failed? Fetch it again."),
    ((b"{", b"["), "JSON", _EXPORT),
    ((b"PK\3\4", b"Rar!", b"7z\xbc\xaf", b"\x1f\x9d", b"\x04\x22\x4d\x18"), "an archive", _UNPACK),
    ((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"), "packed twice", _UNPACK),
    ((b"\x89HDF", b"PAR1", b"\x93NUMPY"), "a file of arrays", "Name a FASTA file of proteins."),
)


class Record(NamedTuple):
    """A protein as it was read.

    Parameters
    ----------
    name : str
        The header's first word, or ``"line_12"`` where it has none.

    sequence : str

    path : str
        File that it comes from; "" where it is an item of an iterable.

    line : int
        Line of its header, from 1; of an item, its place, from 0.

    one_of_several : bool, default=False
        Whether it takes the path to find it.
    """

    name: str
    sequence: str
    path: str
    line: int
    one_of_several: bool = False

    @property
    def label(self):
        """What messages call it."""
        if not self.path:
            name = self.name if isinstance(self.name, str) else repr(self.name)
            return f"record {self.line} ({shown(name)})"
        file = f"{file_name(self.path)}, " if self.one_of_several else ""
        return f"{shown(self.name)} ({file}line {self.line})"


class FastaReader:
    r"""Proteins of FASTA files, read as they are needed.

    An iteration gives ``(identifier, sequence)``, one after the other; no more than a
    megabyte of a file, or one record, is held. Files may be packed by gzip, bzip2, xz or
    zstd, told by their contents. Lines may end as on any system and be wrapped at any width;
    a byte-order mark, blank lines and white space within sequences are passed over, and one
    ``*`` at the end of a sequence, the stop of a translation, is left out and counted.
    Nothing else is changed: letters stay in their case, and whether they are residues is
    asked later.

    Parameters
    ----------
    paths : str, path-like or list of these
        Files, read one after the other; ``"-"`` is standard input.

    option : str, default=""
        Option of a command that named them, for messages.

    Attributes
    ----------
    n_stripped : int
        Sequences that ended in ``*``, of those that the last iteration has given so far.

    Raises
    ------
    TypeError
        If ``paths`` are no paths.

    ValueError
        If there is none, or one stands there twice. While reading: if a file holds no record,
        text before the first header, a NUL byte or what is no UTF-8, or is something else
        than FASTA: the message names file, line and what it seems to be; also where a packed
        file is damaged or ends early, and where standard input is read twice.

    OSError
        While reading: if a file is not there, is a folder, or cannot be read.

    ImportError
        While reading: if a file is packed by zstd, which Python reads from 3.14 on, and
        ``zstandard`` is not installed.

    Notes
    -----
    An identifier is the first word of its header, and where that has none, ``line_`` and the
    number of the line. It may occur twice, and a sequence may be empty. Files can be read
    again, standard input and pipes once.

    Examples
    --------
    >>> import gzip, tempfile
    >>> from pathlib import Path
    >>> from revdist_sklearn import FastaReader
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "proteins.fasta.gz"
    ...     written = path.write_bytes(gzip.compress(b">a one\nMKT\nAY*\n>b\ngiv\n"))
    ...     reader = FastaReader(path)
    ...     print(list(reader), reader.n_stripped)
    ...     print([record.label for record in reader.records()])
    [('a', 'MKTAY'), ('b', 'giv')] 1
    ['a (line 1)', 'b (line 4)']
    """

    def __init__(self, paths, *, option=""):
        several = isinstance(paths, (list, tuple))
        self.paths = [_path_of(path) for path in (paths if several else [paths])]
        self.option = option
        self.n_stripped = 0
        self._was_read = False
        if not self.paths:
            raise ValueError("`paths` is empty; name at least one FASTA file.")
        twice = [path for path in self.paths if self.paths.count(path) > 1]
        if twice:
            raise ValueError(f"{file_name(twice[0], option)} stands there twice; name it once.")

    def __iter__(self):
        """Yield ``(identifier, sequence)``."""
        for name, sequence, *_ in self.records():
            yield name, sequence

    @property
    def rereadable(self):
        """Whether it can be iterated again: standard input and pipes cannot."""
        return all(map(is_rereadable, self.paths))

    def records(self):
        """Yield the records with where they stand.

        Yields
        ------
        record : Record
            A named tuple ``(name, sequence, path, line, one_of_several)``; ``record.label``
            is what messages call it.
        """
        if not self.rereadable:
            if self._was_read:
                raise ValueError(
                    f"{', '.join(file_name(path, self.option) for path in self.paths)}: what came "
                    "by standard input or a pipe was read before, which can be done once. Save it "
                    "as a file."
                )
            self._was_read = True
        for path in self.paths:  # before the first is read for hours
            if path != STANDARD_INPUT and not os.path.exists(path):
                raise FileNotFoundError(f"{file_name(path, self.option)}: there is no such file.")
        self.n_stripped = 0
        for path in self.paths:
            yield from self._records_of(path)

    def _records_of(self, path):
        name_of_file = file_name(path, self.option)
        several = len(self.paths) > 1
        make = tuple.__new__  # a third of the time of Record(...)
        for line, piece in _pieces(path, name_of_file):
            parts = piece.split(b"\n>")
            if piece.count(b">") >= len(parts):  # the first is gone, one a part is left otherwise
                parts = [part for text in parts for part in _HIDDEN_HEADER.split(text)]
            for part in parts:
                header, _, body = part.partition(NEWLINE)
                words = header.split(None, 1)
                sequence = body.translate(None, WHITE)
                if sequence.endswith(b"*"):
                    sequence = sequence[:-1]
                    self.n_stripped += 1
                try:
                    name = words[0].decode() if words else f"line_{line}"
                    letters = sequence.decode()
                except UnicodeDecodeError as error:
                    raise _no_utf8(name_of_file, part, line, error) from error
                yield make(Record, (name, letters, path, line, several))
                line += part.count(NEWLINE) + 1


def _path_of(path):
    if isinstance(path, (str, os.PathLike)):
        path = os.fspath(path)
    if not isinstance(path, str):
        raise TypeError(
            f"Expected the path of a FASTA file or a list of paths, got {path!r} "
            f"({type(path).__name__}). Sequences themselves need no reader."
        )
    return path


def _pieces(path, name):
    """Yield whole records as ``(line of the first, bytes)``, the first '>' left out."""
    line = 1
    begun = False
    waiting: list[bytes] = []  # of a record whose end has not come

    def place(before):
        """Return where the text ends that was read and not yet given, and ``before``."""
        text = b"".join([*waiting, before])
        words = text[text.rfind(b"\n>") + 2 if b"\n>" in text else 0 :].split(None, 1)
        within = f" (of {shown(words[0].decode(errors='replace'))})" if begun and words else ""
        return f"line {line + text.count(NEWLINE)}{within}"

    chunks = _chunks_of_lines(path, name)
    while True:
        try:
            chunk = next(chunks, None)
        except CutShortError as error:
            raise ValueError(f"{error} What can be read of it ends in {place(b'')}.") from error
        if chunk is None:
            break
        if not begun:
            text = chunk.lstrip(WHITE)
            line += chunk.count(NEWLINE, 0, len(chunk) - len(text))
            if not text:
                continue
            if not text.startswith(b">"):
                raise ValueError(_no_fasta(name, text, line))
            begun, chunk = True, text[1:]
        if b"\0" in chunk:
            raise ValueError(
                f"{name} has a NUL byte in {place(chunk[: chunk.index(0)])}, which no text has. "
                "Was it damaged on its way? Fetch it again."
            )
        cut = chunk.rfind(b"\n>")
        if cut < 0:
            waiting.append(chunk)
        else:
            piece = b"".join([*waiting, chunk[:cut]])
            waiting = [chunk[cut + 2 :]]
            yield line, piece
            line += piece.count(NEWLINE) + 1
    if not begun:
        before = ", or was read before" if path == STANDARD_INPUT else ""
        raise ValueError(
            f"{name} holds no FASTA record ('>name', then the sequence); it is empty{before}."
        )
    yield line, b"".join(waiting)


def _chunks_of_lines(path, name):
    """Yield chunks in which lines end in a newline alone, without the mark of byte order.

    The end of a line is never the end of a chunk, but the beginning of the next one, so that
    each header is preceded by its newline; at the end of the file it is left out.
    """
    held = b""
    for number, chunk in enumerate(unpacked(path, name)):
        if number == 0:
            _check_encoding(name, chunk)
            chunk = chunk.removeprefix(MARK)
        chunk = held + chunk
        ending = 2 if chunk.endswith(b"\r\n") else chunk.endswith((b"\r", NEWLINE))
        chunk, held = chunk[: len(chunk) - ending], chunk[len(chunk) - ending :]
        if b"\r" in chunk:
            chunk = chunk.replace(b"\r\n", NEWLINE).replace(b"\r", NEWLINE)
        if chunk:
            yield chunk


def _check_encoding(name, start):
    """Raise where the beginning of a file is that of text in another encoding than UTF-8."""
    zeros = start[:START].count(0) / len(start[:START])
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or (zeros > 0.4 and b"\0" in start[:2]):
        raise ValueError(f"{name} is no text in UTF-8, but in UTF-16 or UTF-32. Save it as UTF-8.")


def _no_fasta(name, text, line):
    """Return what a text is that does not begin with a header."""
    first = text[:START].partition(NEWLINE)[0]
    kinds = [(what, way_out) for starts, what, way_out in KINDS if text.startswith(starts)]
    lines = text.split(NEWLINE, 3)
    if text.startswith(b"@") and len(lines) > 2 and lines[2].startswith(b"+"):
        what = "FASTQ, reads of nucleotides with their qualities"
        kinds = [(what, "Assemble and translate them, and name the proteins.")]
    elif text[257:262] == b"ustar":
        kinds = [("an archive", _UNPACK)]
    for what, way_out in kinds:
        return f"{name} is no FASTA but {what}, by its line {line}. {way_out}"
    words = first.decode(errors="replace")
    if b"\0" in text[:START] or "\ufffd" in words[:-1]:  # the last may be cut
        return f"{name} is no text in UTF-8 but something binary. Name a FASTA file."
    return (
        f"{name} has text before the first header in line {line} ({shown(words, 40)}); FASTA "
        "records start with '>name'."
    )


def _no_utf8(name, part, line, error):
    """Return the error that a record is no text in UTF-8, with the line."""
    header, *lines = part.split(NEWLINE)
    for number, text in enumerate([b"".join(header.split(None, 1)[:1]), *lines], start=line):
        try:
            text.decode()
        except UnicodeDecodeError:
            line = number
            break
    return ValueError(
        f"{name} is no text in UTF-8 in line {line} ({error.reason}: "
        f"{error.object[error.start]:#04x}). Save it as UTF-8, or if it is packed, as .gz, .bz2, "
        ".xz or .zst."
    )
