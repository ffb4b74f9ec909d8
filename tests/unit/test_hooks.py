"""Calling a hook: bounded in time and output, and with nothing of ours."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from backfold.engine import left_over_hooks
from backfold.engine.hooks import ExecutableHook, ProgramHook, hook_obstacle
from backfold.journal.errors import CommandFailed
from backfold.journal.model import Disk
from backfold.states.ports import HookCall

RUN = "0123456789ab"
#: A name that a shell would run, and a terminal obey.
HOSTILE = "/srv/$(touch owned) '\"\\;\n\x1b[31m.qcow2"


def script(folder: Path, text: str, name: str = "hook") -> str:
    """An executable."""
    path = folder / name
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def a_call(hook: str, source: str = "/a", *, again: bool = False) -> HookCall:
    """A call of this hook."""
    disks = (Disk("vda", source, "qcow2"),)
    return HookCall("switch", RUN, "deletion", "web", disks, (), hook, again)


def call(hook: str, source: str = "/a", *, seconds: float = 60) -> str:
    """Call it, and return what it said."""
    return asyncio.run(ExecutableHook(seconds).call(a_call(hook, source)))


def ended(path: Path) -> bool:
    """Whether the process that wrote its id there is gone."""
    try:
        text = Path(f"/proc/{path.read_text().strip()}/stat").read_text()
    except FileNotFoundError:
        return True
    return text.rpartition(")")[2].split()[0] == "Z"


def until(condition: Callable[[], bool]) -> None:
    """Wait for it."""
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it does not come true")


def test_it_gets_the_call_on_its_input_and_in_its_environment(tmp_path: Path) -> None:
    """One JSON object, nothing as an argument, and the last line is what it said."""
    hook = script(
        tmp_path,
        f'#!/bin/sh\ncat > {tmp_path}/told; echo "$#" "$PWD" >&2\n'
        'echo "$BACKFOLD_CALL $BACKFOLD_DOMAIN $BACKFOLD_RUN" >&2\necho out\n',
    )

    assert call(hook, HOSTILE) == f"switch web {RUN}"
    assert json.loads((tmp_path / "told").read_text()) == {
        "schema": 1,
        "call": "switch",
        "run": RUN,
        "machine": "deletion",
        "domain": "web",
        "disks": [{"target": "vda", "source": HOSTILE, "format": "qcow2"}],
    }
    assert [path.name for path in tmp_path.iterdir()] == ["hook", "told"] or (
        not (tmp_path / "owned").exists()
    )


def test_planned_images_are_told_beside_the_present_ones(tmp_path: Path) -> None:
    """What is in `disks` is right to be written in every call."""
    hook = script(tmp_path, f"#!/bin/sh\ncat > {tmp_path}/told\n")
    now, then = Disk("vda", "/a.s1", "qcow2"), Disk("vda", "/a", "raw")
    asked = HookCall("prepare", RUN, "deletion", "web", (now,), (then,), hook)
    asyncio.run(ExecutableHook().call(asked))
    told = json.loads((tmp_path / "told").read_text())

    assert told["disks"] == [{"target": "vda", "source": "/a.s1", "format": "qcow2"}]
    assert told["planned"] == [{"target": "vda", "source": "/a", "format": "raw"}]


def test_it_inherits_nothing(tmp_path: Path) -> None:
    """No descriptor, and a session of its own: a Ctrl-C of the engine is not for it."""
    kept = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(kept, True)
    try:
        hook = script(
            tmp_path,
            f"#!/bin/sh\nreadlink /proc/$$/fd/* | grep -cx {tmp_path} >&2\n"
            "cut -d' ' -f1,6 /proc/$$/stat >&2\nexit 1\n",
        )
        with pytest.raises(CommandFailed) as caught:
            call(hook)
    finally:
        os.close(kept)

    inherited, pids = caught.value.what.rpartition(": ")[2].split(" / ")
    assert inherited == "0"
    leader, session = pids.rstrip(".").split()
    assert leader == session


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("#!/bin/sh\nexit 7\n", "(exit status 7)."),
        ("#!/bin/sh\necho no >&2; exit 1\n", "(exit status 1): no."),
        ("#!/bin/sh\nkill -9 $$\n", "(ended by SIGKILL)."),
        ("#!/nowhere/at-all\n", "could not be started: No such file or directory."),
        ("no interpreter\n", "could not be started: Exec format error."),
        ("#!/bin/sh\nprintf 'a\\033[2Jb\\001\\377' >&2; exit 1\n", ": a [2Jb �."),
    ],
)
def test_how_it_failed_is_told(tmp_path: Path, text: str, said: str) -> None:
    """By its exit status or signal, and by what it said, which no terminal obeys."""
    with pytest.raises(CommandFailed) as caught:
        call(script(tmp_path, text))

    assert caught.value.what.endswith(said)


def test_of_huge_output_only_the_end_is_kept(tmp_path: Path) -> None:
    """It is read all along: a hook that writes without end does not stand still."""
    noise = "head -c 3000000 /dev/zero | tr '\\0' x"
    hook = script(
        tmp_path,
        f"#!/bin/sh\n{noise}\n{noise} >&2\necho >&2\n{noise} >&2\nexit 1\n",
    )
    with pytest.raises(CommandFailed) as caught:
        call(hook)

    assert "xxx." in caught.value.what and len(caught.value.what) < 1100


def test_it_may_leave_something_behind_that_holds_its_output(tmp_path: Path) -> None:
    """Its own end counts, and its input need not be read."""
    hook = script(
        tmp_path,
        f"#!/bin/sh\nsleep 60 &\necho $! > {tmp_path}/pid\necho done >&2\n",
    )
    try:
        assert call(hook, "/" + "x" * 200_000) == "done"
    finally:
        subprocess.run(["kill", (tmp_path / "pid").read_text().strip()], check=True)


def test_one_that_does_not_end_is_ended_with_its_children(tmp_path: Path) -> None:
    """Asked to first, so that it can clean up."""
    hook = script(
        tmp_path,
        "#!/bin/sh\ntrap 'echo cleaned up >&2; exit' TERM\n"
        f"sh -c 'trap \"\" TERM; echo $$ > {tmp_path}/pid; while :; do sleep 1; done' "
        "2> /dev/null &\nwhile :; do sleep 0.05; done\n",
    )
    with pytest.raises(CommandFailed, match=r"longer than 0\.5 s .*: .*cleaned up"):
        call(hook, seconds=0.5)

    until(lambda: ended(tmp_path / "pid"))


def test_a_call_that_is_cancelled_leaves_nothing_running(tmp_path: Path) -> None:
    """As when the engine leaves a run."""
    hook = script(tmp_path, f"#!/bin/sh\necho $$ > {tmp_path}/pid\nsleep 60\n")

    async def story() -> None:
        task = asyncio.ensure_future(ExecutableHook().call(a_call(hook)))
        await asyncio.to_thread(until, (tmp_path / "pid").exists)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()

    asyncio.run(story())

    assert ended(tmp_path / "pid")


def test_what_a_dead_engine_left_running_is_ended_first(tmp_path: Path) -> None:
    """Of this run only, with its children: no late write of it comes after ours."""
    text = f"#!/bin/sh\necho $$ > {tmp_path}/pid.$BACKFOLD_RUN\nsleep 60\n"
    hook = script(tmp_path, text)
    others = []
    for run in (RUN, "ba9876543210"):
        told = left_over_hooks.input_of(run)
        others.append(
            subprocess.Popen(
                [hook],
                stdin=told,
                start_new_session=True,
                env={**os.environ, "BACKFOLD_RUN": run},
            )
        )
        os.close(told)
        until((tmp_path / f"pid.{run}").exists)
    try:
        left = script(tmp_path, "#!/bin/sh\necho fine >&2\n", "mended")
        again = ExecutableHook().call(a_call(left, again=True))
        assert asyncio.run(again) == "fine"
        assert others[0].wait(10) == -9
        assert others[1].poll() is None
    finally:
        for other in others:
            with suppress(ProcessLookupError):
                os.killpg(other.pid, 9)
            other.wait()


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("missing", "No such file or directory"),
        ("a folder", "is not a regular file"),
        ("a pipe", "is not a regular file"),
        ("not executable", "is not executable"),
        ("written by a group", "can be written by others"),
        ("written by all", "can be written by others"),
        ("relative", "is not an absolute path"),
        ("replaced by all", "in a folder that everybody can write to"),
    ],
)
def test_what_cannot_be_a_hook(tmp_path: Path, how: str, why: str) -> None:
    """Nobody else may say what is run."""
    path = tmp_path / "hook"
    mode = {
        "not executable": 0o644,
        "written by a group": 0o775,
        "written by all": 0o757,
    }
    if how == "a folder":
        path.mkdir()
    elif how == "a pipe":
        os.mkfifo(path)
    elif how != "missing":
        path.write_text("#!/bin/sh\n")
        path.chmod(mode.get(how, 0o755))
    if how == "replaced by all":
        tmp_path.chmod(0o777)
    named = "hook" if how == "relative" else str(path)

    assert why in (hook_obstacle(named) or "")


def test_what_can_be_a_hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of ours, also by a symbolic link, and in a folder that is sticky."""
    path = Path(script(tmp_path, "#!/bin/sh\n"))
    link = tmp_path / "link"
    link.symlink_to(path)
    assert hook_obstacle(str(link)) is None
    tmp_path.chmod(0o777 | stat.S_ISVTX)
    assert hook_obstacle(str(path)) is None
    if os.geteuid() == 0:
        os.chown(path, 4242, 0)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 4242)
    assert "belongs to another user" in (hook_obstacle(str(path)) or "")


def test_a_program_fails_by_any_exception() -> None:
    """It is told the call itself."""
    told: list[HookCall] = []

    async def hook(call: HookCall) -> None:
        told.append(call)

    asyncio.run(ProgramHook(hook).call(a_call("/h")))

    assert told == [a_call("/h")]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away")
def test_a_hook_in_a_folder_of_somebody_else(tmp_path: Path) -> None:
    """Its owner could put another executable in its place, or behind a link."""
    path = Path(script(tmp_path, "#!/bin/sh\n"))
    other = tmp_path / "other"
    other.mkdir()
    link = other / "hook"
    link.symlink_to(path)
    os.chown(other, 4242, 0)
    assert "in a folder of another user" in (hook_obstacle(str(link)) or "")
    assert hook_obstacle(str(path)) is None
    os.chown(tmp_path, 4242, 0)
    assert "in a folder of another user" in (hook_obstacle(str(path)) or "")
