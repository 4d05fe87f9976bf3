"""Child processes: nothing of the user's folder is run, no stop is theirs, errors keep their words, none is left."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modscale import interrupts
from modscale.errors import DataError, InputError, ModscaleError, WorkerFault, WorkerKilled
from modscale.processes import PASSIVE, Child

TASKS = """
import os, sys, time
from modscale.errors import DataError, ModscaleError, TrialFailed

class Counter:
    def __init__(self, start): self.value, self.after = start, 0
    def add(self, more): self.value += more; return self.value
    def after_answer(self): self.after += 1
    def answered(self): return self.after

def echo(value): return value
def look(*names): return [os.environ.get(name) for name in names]
def path(): return sys.path
def here(): return os.getcwd()
def chatter():
    print("from Python"); os.write(1, b"from C\\n" * 100_000); sys.stdout.flush(); os.write(2, b"the last words\\n")
    return "heard"
def refuse(): raise DataError("must be new", file="a.npz", place="x_val", value=[1, "two"])
def stumble(): raise ZeroDivisionError("of a kind\\n  nobody foresaw")
def unsendable(): return lambda: None
def die(number): os.kill(os.getpid(), number); time.sleep(60)
def leave(code): os.write(2, b"first\\nlast words\\n"); os._exit(code)
def spin(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end: sum(range(10**6))
    return "spun"
def threads(): return len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1
"""


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module that children find, and this process does not."""
    (tmp_path / "places").mkdir()
    (tmp_path / "places" / "child_tasks.py").write_text(TASKS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "places"))
    return "child_tasks"


def test_a_child_answers_and_keeps_its_state(tasks: str) -> None:
    """It makes its object once, answers as often as it is asked, and tidies up after each answer."""
    with Child(tasks, "Counter", (40,), name="counter") as child:
        assert child.ask("add", 1) == 41
        assert child.ask("add", 1) == 42
        assert child.ask("answered") == 3  # the making of it, and two additions
    assert not child.is_running
    assert not Path(f"/proc/{child.pid}").exists()


def test_large_questions_and_answers_pass(tasks: str) -> None:
    """Far more than a pipe holds, both ways."""
    content = os.urandom(5_000_000)
    with Child(tasks, name="echo") as child:
        assert child.ask("echo", content) == content


def test_what_a_child_prints_is_no_answer(tasks: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Python's and C's prints go to standard error, or into the log, however much it is."""
    with Child(tasks, name="chatter") as child:
        assert child.ask("chatter") == "heard"
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "from Python" in captured.err
    with Child(tasks, name="chatter", keeps_log=True) as child:
        assert child.ask("chatter") == "heard"
        assert child.log.endswith("from C\nthe last words\n") or "from Python" in child.log
    assert capfd.readouterr().err == ""


def test_errors_keep_their_type_and_their_words(tasks: str) -> None:
    """What was raised on purpose there is raised here: type, file, place, rule and value. The child lives on."""
    with Child(tasks, name="refuser") as child:
        with pytest.raises(DataError) as caught:
            child.ask("refuse")
        assert str(caught.value) == "a.npz: x_val: must be new, got [1, 'two']"
        assert (caught.value.file, caught.value.place, caught.value.value) == ("a.npz", "x_val", [1, "two"])
        assert child.ask("echo", 1) == 1


def test_an_unforeseen_error_ends_the_child(tasks: str) -> None:
    """After some of CUDA's errors every later call fails: what the process still says is not to be trusted."""
    with (
        Child(tasks, name="stumbler") as child,
        pytest.raises(WorkerFault, match=r"^stumbler: ZeroDivisionError: of a kind nobody foresaw$") as caught,
    ):
        child.ask("stumble")
    assert caught.value.exit_code == 1
    assert not child.is_running
    with Child(tasks, name="closure") as child, pytest.raises(WorkerFault, match="it cannot be sent"):
        child.ask("unsendable")
    with pytest.raises(WorkerFault, match="reader: ModuleNotFoundError: No module named 'no_such_tasks'"):
        Child("no_such_tasks", name="reader")


@pytest.mark.parametrize(
    ("function", "argument", "told", "code"),
    [
        ("die", signal.SIGKILL, "worker was ended by SIGKILL, as when memory runs out", 2),
        ("die", signal.SIGSEGV, "worker was ended by SIGSEGV", 2),
        ("leave", 3, "worker ended with code 3: last words", 1),
        ("leave", 0, "worker ended with code 0: last words", 1),
        ("spin", 60, "worker took longer than 2 s", 2),
    ],
)
def test_a_childs_end_is_told_in_words(tasks: str, function: str, argument: int, told: str, code: int) -> None:
    """Killed, crashed, gone or stuck: one line, and whose fault it is."""
    with Child(tasks, name="worker", limit_s=2, keeps_log=True) as child:
        with pytest.raises(WorkerFault) as caught:
            child.ask(function, int(argument))
        assert str(caught.value) == told
        assert caught.value.exit_code == code
        assert isinstance(caught.value, WorkerKilled) == (code == 2)


@pytest.mark.parametrize("number", interrupts.STOPS)
def test_a_stop_of_the_whole_group_is_the_parents_to_handle(tasks: str, number: int) -> None:
    """Ctrl-C reaches every process of the terminal; a child goes on until its parent ends it."""
    with Child(tasks, name="deaf") as child:
        os.kill(child.pid, number)
        assert child.ask("echo", 1) == 1


def test_a_stop_that_got_lost_is_seen_while_waiting(tasks: str) -> None:
    """An exception raised in a weak reference's callback is dropped; its mark is not."""
    with Child(tasks, name="spinner") as child, interrupts.hearing_stops():
        interrupts._heard.set()
        with pytest.raises(KeyboardInterrupt):
            child.ask("spin", 60)
    assert not child.is_running


def test_a_child_may_be_asked_now_and_heard_later(tasks: str) -> None:
    """Several work side by side; one that stands still says nothing until it goes on, and ends all the same."""
    with (
        Child(tasks, "Counter", (40,), name="counter", waits=False) as child,
        Child(tasks, name="echo", waits=False) as other,
    ):
        assert (child.finish(), other.finish()) == (None, None)  # they are made
        child.begin("add", 2)
        other.begin("echo", "heard")
        assert (other.finish(), child.finish()) == ("heard", 42)
        child.pause()
        child.begin("add", 1)
        assert select.select([child.answers], [], [], 0.2)[0] == []
        child.resume()
        assert child.finish() == 43
        child.pause()
    assert not Path(f"/proc/{child.pid}").exists()
    broken = Child("no_such_tasks", name="reader", waits=False)
    with pytest.raises(WorkerFault, match="reader: ModuleNotFoundError: No module named 'no_such_tasks'"):
        broken.finish()


def test_a_child_goes_when_its_parent_is_killed(tasks: str) -> None:
    """kill -9 on the parent ends it at once, in the middle of a computation, without a thread that watches."""
    script = (
        "import sys; from modscale.processes import Child\n"
        "child = Child(sys.argv[1], name='spinner'); print(child.pid, child.ask('threads'), flush=True)\n"
        "child.ask('spin', 60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, tasks], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid, threads = map(int, parent.stdout.readline().split())
        assert threads == 1
        time.sleep(0.3)
        parent.kill()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and is_alive(pid):
        time.sleep(0.05)
    assert not is_alive(pid)


def is_alive(pid: int) -> bool:
    """Whether the process runs, by the kernel's own table; an unreaped one does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_threads_wait_without_spinning_unless_told_otherwise(tasks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenMP reads its environment once: it must stand there before torch is loaded. What the user set stays."""
    for name in PASSIVE:
        monkeypatch.delenv(name, raising=False)
    with Child(tasks, name="looker", environment={"OMP_NUM_THREADS": "3"}) as child:
        assert child.ask("look", *PASSIVE, "OMP_NUM_THREADS") == ["PASSIVE", "0", "0", "3"]
    monkeypatch.setenv("KMP_BLOCKTIME", "7")
    with Child(tasks, name="looker") as child:
        assert child.ask("look", *PASSIVE) == ["PASSIVE", "0", "7"]
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    with Child(tasks, name="looker") as child:
        assert child.ask("look", *PASSIVE) == ["ACTIVE", None, "7"]


def plant_modules(folder: Path) -> None:
    """Modules of the user's own that bear the names of others; to import one leaves a trace."""
    names = ("signal", "socket", "pickle", "selectors", "json", "numpy", "torch", "onnxruntime", "yaml", "random",
             "sitecustomize", "usercustomize", "modscale", "optuna", "multiprocessing", "PIL", "importlib")  # fmt: skip
    for name in names:
        (folder / f"{name}.py").write_text(f"open({str(folder / 'RAN')!r}, 'a').write('{name} ')\n")


@pytest.mark.parametrize("more", ["", ".", "HERE"])
def test_no_module_of_the_current_folder_is_run(
    tasks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str
) -> None:
    """Not even where PYTHONPATH names that folder, as the empty parts of it do."""
    here = tmp_path / "here"
    here.mkdir()
    plant_modules(here)
    monkeypatch.chdir(here)
    places = [str(here) if more == "HERE" else more, str(tmp_path / "places")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(places))
    with Child(tasks, name="looker") as child:
        assert not {str(here), "", "."} & set(child.ask("path"))
    is_no_model = pytest.raises(InputError, match="is no model that ONNX Runtime loads")  # so it was loaded, and asked
    with Child("modscale.deploy.runtime", name="clock") as child, is_no_model:
        child.ask("answer_shape", __file__, None)
    assert not (here / "RAN").exists()


def test_a_child_starts_where_the_folder_is_gone(tasks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Someone may have removed the folder that the command runs in."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with Child(tasks, name="echo") as child:
        assert child.ask("echo", 1) == 1
        assert Path(child.ask("here")).is_dir()
    os.chdir(tmp_path)


def test_errors_of_the_package_cross_whatever_they_hold(tasks: str) -> None:
    """Every kind of error can be pickled: what crosses is raised, and not a failure to send it."""
    kinds, todo = [], [ModscaleError]
    while todo:
        kinds.append(kind := todo.pop())
        todo += kind.__subclasses__()
    with Child(tasks, name="echo") as child:
        for kind in kinds:
            error = child.ask("echo", kind("a rule"))
            assert type(error) is kind
            assert str(error) == "a rule"
