"""Without the privilege for the full mode: touches work, system calls on absent pages fail, and both are said once."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.process.conftest import DEADLINE_S, PROGRAMS, Pool

pytestmark = pytest.mark.process

# A process of root without any capability, for which /dev/userfaultfd is not there.
_HIDE = 'mount --bind /dev/null /dev/userfaultfd && exec setpriv --bounding-set=-all --inh-caps=-all "$@"'


def test_without_privilege_touches_work_and_the_remedy_is_said_once(pool: Pool) -> None:
    if os.geteuid() != 0 or not shutil.which("setpriv") or not shutil.which("unshare"):
        pytest.skip("needs root, unshare and setpriv to take the privilege away from a process")
    program = str(PROGRAMS / "unprivileged.py")
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", _HIDE, "bash", sys.executable, program],
        env=os.environ | {"WEFT_COORDINATOR": pool.url, "WEFT_SECRET": pool.secret},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["touched", "EFAULT", "prefetched"]
    assert done.stderr.count("vm.unprivileged_userfaultfd=1") == 1
