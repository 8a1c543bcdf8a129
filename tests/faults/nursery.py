"""Processes to be killed: a nursery that has imported everything forks each in a moment.

A process of its own, because the tests' has threads by then, which no fork survives. What runs
in its children are the tasks of :mod:`tasks`. Run as a script it is the nursery, asked by lines
of JSON on its standard input.
"""

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import revdist_sklearn

# Seconds after which a child counts as hanging.
PATIENCE = 60.0
ROOT = Path(revdist_sklearn.__file__).parents[1]


@dataclass
class End:
    """How a child ended.

    Parameters
    ----------
    code : int or str
        Its exit code; a negative signal where one ended it; "hangs" where nothing did.

    text : str
        What it wrote, errors included.
    """

    code: int | str
    text: str

    @property
    def last(self):
        """Its last line of the shell: joblib's tracker may tell of its own after that."""
        return [line for line in self.text.splitlines() if line.startswith("revdist")][-1]


class Child:
    """A process that runs a task; ``kill`` and ``wait`` as of ``subprocess.Popen``."""

    def __init__(self, nursery, pid, log):
        self.nursery, self.pid, self.log = nursery, pid, log

    def kill(self, number=signal.SIGKILL, group=False):
        """Send a signal; the child is not reaped before ``wait``, so its number is its own.

        With ``group`` also to its workers, as a terminal does.
        """
        (os.killpg if group else os.kill)(self.pid, number)

    def runs(self):
        """Return whether it has not ended."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"

    def wait(self, patience=PATIENCE):
        """Return the ``End``; of one that hangs after some seconds, too."""
        code = self.nursery.ask(wait=self.pid, patience=patience)
        text = Path(self.log).read_text()
        os.unlink(self.log)
        return End(code, text)


class Nursery:
    """Starts processes that have everything imported, but no model loaded and no thread."""

    def __enter__(self):
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,  # Ctrl-C is ours alone
        )
        assert self._process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *fault):
        self._process.stdin.close()
        self._process.wait(PATIENCE)
        self._process.stdout.close()

    def ask(self, **request):
        """Return the answer to a request."""
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, task, *arguments, at=None, do=None, nth=1, limit=None):
        """Start a task.

        Parameters
        ----------
        task : str
            Name of a function of :mod:`tasks`.

        *arguments
            Its arguments, of JSON.

        at : str, default=None
            A function, such as ``"os.replace"``, at whose ``nth`` call something happens.

        do : int or str, default=None
            What happens: a signal to the process itself, or a folder that is removed.

        nth : int, default=1

        limit : int, default=None
            Bytes to which a file may grow.

        Returns
        -------
        child : Child
        """
        fault = {"at": at, "do": do, "nth": nth, "limit": limit}
        pid, log = self.ask(start=task, arguments=[*map(_plain, arguments)], fault=fault)
        return Child(self, pid, log)

    def run(self, *arguments, **fault):
        """Start a task, wait, and return its ``End``; as ``start``."""
        return self.start(*arguments, **fault).wait()


def _plain(argument):
    return argument if isinstance(argument, (int, float, list)) else str(argument)


def _serve():
    import tasks

    tasks.warm_up()
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = _wait(**request)
        else:
            answer = _start(**request)
        print(json.dumps(answer), flush=True)


def _start(start, arguments, fault):
    import tempfile

    handle, log = tempfile.mkstemp(suffix=".log")
    pid = os.fork()
    if pid:
        os.close(handle)
        return pid, log
    code = 1
    try:
        os.setsid()
        # Where the tests run in the background, it is ignored, and that is inherited.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (handle, 1), (handle, 2)):
            os.dup2(source, target)
        import tasks

        tasks.arm(**fault)
        code = getattr(tasks, start)(*arguments) or 0
    except SystemExit as error:
        code = error.code or 0
    except KeyboardInterrupt:  # as the interpreter ends itself
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(wait, patience):
    end = time.monotonic() + patience
    while time.monotonic() < end:
        found, status = os.waitpid(wait, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.killpg(wait, signal.SIGKILL)
    os.waitpid(wait, 0)
    return "hangs"


if __name__ == "__main__":
    _serve()
