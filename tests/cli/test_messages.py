import pytest

from revdist_sklearn.cli._messages import add_note, as_options, said_of


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Raise or drop `max_length`, or", "Raise or drop --max-length, or"),
        ("`max_length`=700 is more", "--max-length 700 is more"),
        ("use too_long='window' to", "use --too-long window to"),
        ("try dtype='bfloat16' or", "try --dtype bfloat16 or"),
        ("an alias, models='esm2'; a", "an alias, --models esm2; a"),
        ("`models` is empty", "--models is empty"),
        ("a smaller n_jobs, or", "a smaller --n-jobs, or"),
        ("a smaller `n_jobs`.", "a smaller --n-jobs."),
        ("n_components=700 is", "--n-components 700 is"),
        ("with checkpoint= the same", "with --cache-dir the same"),
        ("Name another `cache_dir`.", "Name another --cache-dir."),
        ("integer in [1, 64] or None.", "integer in [1, 64] or leave it out."),
        ("the models of the fit, device", "the models of the fit, device"),
    ],
)
def test_parameters_become_options(message, expected):
    assert as_options(message) == expected


def test_what_has_no_option_is_told():
    message = "Say so with model_kwargs={'trust_remote_code': True}."
    assert as_options(message).startswith(message + " (Parameters of Python alone")
    assert as_options(message).endswith("here: model_kwargs.)")


def test_errors_are_told_with_their_notes():
    error = MemoryError()
    add_note(error, "Kept: `cache_dir`.")
    assert said_of(error) == "MemoryError Kept: --cache-dir."
