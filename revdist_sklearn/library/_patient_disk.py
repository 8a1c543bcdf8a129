"""A file for HDF5 whose writes never fail in its sight."""

import io
import os


class PatientDisk(io.FileIO):
    """A new file that takes every write; what the disk does not take is held until ``check``.

    Where a write fails while HDF5 closes a file, the whole process ends by a fault in memory. So
    it does not hear of it: what came after the first failure is held here, which is little as long
    as the writer calls ``check`` often, and read from here again.

    Parameters
    ----------
    path : path-like
    """

    def __init__(self, path):
        super().__init__(path, "w+")
        self._at, self._late, self.failure = 0, [], None

    def check(self):
        """Raise the first failure, if there was one."""
        if self.failure is not None:
            raise self.failure

    def seek(self, offset, whence=os.SEEK_SET):
        """Go to a place, counted from the start, from here, or from the end with what is held."""
        if whence == os.SEEK_END:
            ends = [start + len(data) for start, data in self._late]
            offset += max([super().seek(0, os.SEEK_END), *ends])
        elif whence == os.SEEK_CUR:
            offset += self._at
        self._at = offset
        return offset

    def tell(self):
        """Return the place."""
        return self._at

    def write(self, data):
        """Write all of it, or hold it."""
        data = memoryview(data).cast("B")
        if self.failure is None:
            try:
                self._put(data)
            except BaseException as error:  # an interrupt as well
                self.failure = error
        if self.failure is not None:
            self._late.append((self._at, bytes(data)))
        self._at += len(data)
        return len(data)

    def _put(self, data):
        super().seek(self._at)
        done = 0
        while done < len(data):
            done += super().write(data[done:])

    def readinto(self, buffer):
        """Fill a buffer; what was never written is zero."""
        view = memoryview(buffer).cast("B")
        super().seek(self._at)
        done = 0
        while done < len(view) and (n := super().readinto(view[done:])):
            done += n
        view[done:] = bytes(len(view) - done)
        for start, data in self._late:
            first, last = max(start, self._at), min(start + len(data), self._at + len(view))
            if first < last:
                view[first - self._at : last - self._at] = data[first - start : last - start]
        self._at += len(view)
        return len(view)

    def truncate(self, size=None):
        """Give the file a size."""
        size = self._at if size is None else size
        try:
            super().truncate(size)
        except OSError as error:
            self.failure = self.failure or error
        return size
