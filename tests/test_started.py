"""What a starter started ends with its caller, and with the starter."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

import pytest

from tests.started import Starter

WAITS = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"


@pytest.mark.slow
def test_nothing_outlives_its_caller_or_the_starter(tmp_path_factory: pytest.TempPathFactory) -> None:
    starter = Starter(tmp_path_factory.mktemp("s"))
    ended = "import sys; sys.exit(3)"
    assert starter.run(["python", "-c", ended]).returncode == 3
    with starter.begin("-c", WAITS) as begun:
        assert int(begun.stdout.readline()) == begun.pid
        begun.kill()
    assert begun.returncode == -signal.SIGKILL
    owner = (
        "import os, pathlib, sys; from tests.started import Starter; Starter(pathlib.Path(sys.argv[1])); os._exit(1)"
    )
    folder = str(tmp_path_factory.mktemp("s"))
    died = subprocess.run([sys.executable, "-c", owner, folder], stdout=subprocess.PIPE, timeout=120)  # read to its end
    assert died.returncode == 1
    for end in (subprocess.Popen.terminate, subprocess.Popen.kill, lambda caller: starter.close()):
        with subprocess.Popen([starter.folder / "python", "-c", WAITS], stdout=subprocess.PIPE, text=True) as caller:
            assert caller.stdout is not None
            worker = os.pidfd_open(int(caller.stdout.readline()))
            end(caller)
            assert select.select([worker], [], [], 60)[0]
            os.close(worker)
