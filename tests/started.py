"""Processes that begin at once: forks of one that has loaded torch, transformers and the command line.

A command of the docs spends most of its time on imports. `Starter.folder` holds commands ``python`` and ``persona``
that do what those of the environment do, in a new process each, with the caller's folder, environment and streams.
On Linux.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]

_COMMAND = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [b"."], [0, 1, 2])
    server.sendall(json.dumps([{given}, os.getcwd(), dict(os.environ)]).encode())
    server.shutdown(socket.SHUT_WR)
    with server.makefile() as said:
        _, status = said.read().split()
        sys.exit(int(status))
"""


class Starter:
    """The process that forks, and the commands that ask it to.

    Args:
        folder: an empty folder with a short path, for its socket and the commands.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._address = address = str(folder / "socket")
        for name, given in (("python", "sys.argv[1:]"), ("persona", "['-m', 'persona', *sys.argv[1:]]")):
            command = folder / name
            command.write_text(_COMMAND.format(python=sys.executable, address=address, given=given))
            command.chmod(0o755)
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        command_line = [sys.executable, "-m", "tests.started", address]
        self._process = subprocess.Popen(
            command_line, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def run(
        self, command: Sequence[str], folder: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command whose ``python`` and ``persona`` are these; warnings are errors in them."""
        given = {"PYTHONWARNINGS": "error", **(os.environ if environment is None else environment)}
        given["PATH"] = os.pathsep.join((str(self.folder), given.get("PATH", "")))
        return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=given)

    def begin(self, *arguments: object, stderr: int | IO[Any] = 2, **environment: str) -> Begun:
        """Begin ``python`` with these arguments, in this folder and with this environment and more."""
        return Begun(self._address, list(map(str, arguments)), stderr, {**os.environ, **environment})

    def close(self) -> None:
        """End the process, and what it started that still runs."""
        assert self._process.stdout is not None
        assert self._process.stdin is not None
        os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


class Begun:
    """A process that a starter began, to be used like `subprocess.Popen`: a context manager that waits for the end.

    Attributes:
        pid: of the process.
        stdout: what it prints, to be read.
        returncode: how it ended; None before `wait`.
    """

    def __init__(
        self, address: str, given: Sequence[str], stderr: int | IO[Any], environment: Mapping[str, str]
    ) -> None:
        self._server = socket.socket(socket.AF_UNIX)
        self._server.connect(address)
        reading, writing = os.pipe()
        self.stdout = os.fdopen(reading, encoding="utf-8")
        with open(os.devnull, "rb") as nothing:
            streams = [nothing.fileno(), writing, stderr if isinstance(stderr, int) else stderr.fileno()]
            socket.send_fds(self._server, [b"."], streams)
        os.close(writing)
        self._server.sendall(json.dumps([given, os.getcwd(), dict(environment)]).encode())
        self._server.shutdown(socket.SHUT_WR)
        self._said = self._server.makefile()
        self.pid = int(self._said.readline())
        self.returncode: int | None = None

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, negative for a signal; TimeoutError if it takes longer."""
        if self.returncode is None:
            if not select.select([self._server], [], [], timeout)[0]:
                raise TimeoutError(f"the process {self.pid} has not ended in {timeout} seconds")
            self.returncode = int(self._said.readline())
        return self.returncode

    def __enter__(self) -> Begun:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait for the end, and close what was open."""
        self.stdout.close()
        self.wait()
        self._said.close()
        self._server.close()


def serve(address: str) -> None:
    """Fork for each caller until terminated, or until who started it is gone; returns in the fork, to do the work."""
    import sentence_transformers  # noqa: F401
    import transformers  # noqa: F401

    import persona.cli.app
    import persona.llm.transformers
    import persona.serve.opening
    import persona.serve.running
    import persona.soft_prompts.training.user_embedder  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        waited: list[Any] = [listener, 0]  # and a pipe that nothing is written to
        listener.bind(address)
        listener.listen()
        os.write(1, b"ready\n")
        while True:
            if 0 in select.select(waited, [], [])[0]:
                os.killpg(0, signal.SIGTERM)
            caller, _ = listener.accept()
            if _fork() == 0:
                break
            caller.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    work(caller)


def work(caller: socket.socket) -> None:
    """Run what a caller asks for, and tell it the exit status; where a caller is ended, the work is told to end."""
    _, streams, _, _ = socket.recv_fds(caller, 1, 3)
    given, folder, environment = json.loads(b"".join(iter(lambda: caller.recv(1 << 16), b"")))
    if child := _fork():
        caller.sendall(f"{child}\n".encode())
        if _goes_first(caller, child):
            os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
        with contextlib.suppress(OSError):
            caller.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
        os._exit(0)
    caller.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    # What Python reads of them when it begins, which was before.
    sys.path[:0] = [place for place in environment.get("PYTHONPATH", "").split(os.pathsep) if place not in sys.path]
    if os.environ.pop("PYTHONWARNINGS", "") == "error":  # not for processes that this one begins
        warnings.simplefilter("error")
    os._exit(_ended(given))


def _ended(given: Sequence[str]) -> int:
    """Run it, with all that a process does at its end but taking modules apart, which takes seconds."""
    code: object = 0
    try:
        run(given)
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)  # noqa: T201
    private: Any = threading
    private._shutdown()
    private = atexit
    private._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        return 120
    return code if isinstance(code, int) else int(code is not None)


def _goes_first(caller: socket.socket, child: int) -> bool:
    """Wait for one of both to go: whether it is the caller. It has shut its side down, so there is nothing to read."""
    waited = select.poll()
    waited.register(os.pidfd_open(child), select.POLLIN)
    waited.register(caller, 0)  # that it is closed is reported unasked
    return caller.fileno() in [number for number, _ in waited.poll()]


def run(given: Sequence[str]) -> None:
    """What ``python`` does with these arguments: ``-c CODE``, ``-m MODULE`` or a file, and what is for them."""
    kind, *rest = given
    if kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif kind == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [kind, *rest]
        sys.path.insert(0, str(Path(kind).resolve().parent))
        runpy.run_path(kind, run_name="__main__")


def _fork() -> int:
    with warnings.catch_warnings(action="ignore"):  # Python warns of threads, which here are idle ones of BLAS
        return os.fork()


if __name__ == "__main__":
    serve(sys.argv[1])
