import pytest

from revdist_sklearn.base._units import as_size, as_time


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1536, "1.5 kB"),
        (2.5e6, "2.5 MB"),
        (865e6, "865.0 MB"),
        (5.4e12, "5.4 TB"),
    ],
)
def test_sizes_are_written_as_people_do(size, text):
    assert as_size(int(size)) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2.0 h"), (57 * 3600, "2.4 days")],
)
def test_times_too(seconds, text):
    assert as_time(seconds) == text
