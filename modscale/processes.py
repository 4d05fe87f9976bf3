"""Child processes: the one way in which each of ours is started, asked and ended.

A child imports one module of the package and answers questions by calling its functions, one at a time. What holds
for all of them:

- **nothing of the user's folder is run**: Python starts with `-P`, the package is the parent's own, loaded by its
  place, and the current folder is taken out of PYTHONPATH;
- threads of OpenMP wait without spinning, unless the user has said how they are to wait: this must stand in the
  environment before torch is loaded;
- Ctrl-C and polite kills are its parent's to handle. It ends with its parent, however that ends: the kernel sends it
  SIGIO when the parent's end of a pipe closes, so that it needs no thread of its own to watch, and no Python lock;
- questions and answers are pickles over two private pipes. What a library prints goes to standard error;
- errors raised on purpose cross as they are, with file, place, rule and value. Any other one is a `WorkerFault`, and
  the child is ended: after some of CUDA's, every later call in the process fails too;
- if memory runs out it is the child that the kernel takes.

A child that is made without waiting for it may be asked now and listened to later (`begin`, `finish`), so that several
work side by side, and be made to stand still (`pause`). Then SIGIO, which a stopped process does not act upon, is not
enough: the kernel kills it (`prctl`) as the thread that made it ends.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import pickle
import select
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from modscale.errors import ModscaleError, WorkerFault, WorkerKilled
from modscale.interrupts import check_stop, deaf_to_stops

PACKAGE = Path(__file__).resolve().parent
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
"""How OpenMP's threads wait: GNU's runtime, and Intel's. Spinning at a barrier, they take cores from each other."""
TICK_S = 1.0
"""Seconds between two looks at whether a stop was asked for and lost."""
HEAD = 8
"""Bytes before each pickle that give its length."""
LOG_BYTES = 65_536
"""Of a child's standard error, what is kept."""

BOOT = """
import importlib.util, sys
place, *handles = sys.argv[1:]
spec = importlib.util.spec_from_file_location("modscale", place + "/__init__.py", submodule_search_locations=[place])
sys.modules["modscale"] = package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
from modscale.processes import serve
serve(*map(int, handles))
"""


class Child:
    """A process that answers for one module, or for the object that a function of that module makes there.

    Made, it is running; a context manager that ends it. Raises as `ask` does.
    """

    def __init__(
        self,
        module: str,
        factory: str = "",
        arguments: tuple[Any, ...] = (),
        *,
        name: str,
        environment: Mapping[str, str] | None = None,
        limit_s: float = math.inf,
        keeps_log: bool = False,
        debug: bool = False,
        waits: bool = True,
    ) -> None:
        """With `waits` false it is still being made; `finish` waits for that, before it is asked anything."""
        self.name = name
        self.limit_s = limit_s
        self.is_running = True
        self._log: bytes | None = b"" if keeps_log else None
        self._process: subprocess.Popen[bytes] | None = None
        theirs_in, self._questions = os.pipe()
        self._answers, theirs_out = os.pipe()
        lifeline, self._life = os.pipe()
        handles = (theirs_in, theirs_out, lifeline)
        flags = ["-P", *["-E"] * sys.flags.ignore_environment, *["-s"] * sys.flags.no_user_site]
        try:
            try:
                with deaf_to_stops():
                    self._process = subprocess.Popen(
                        [sys.executable, *flags, "-c", BOOT, str(PACKAGE), *map(str, handles)],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.PIPE if keeps_log else _standard_error(),
                        stderr=subprocess.STDOUT if keeps_log else None,
                        cwd=child_place(),
                        pass_fds=handles,
                        env=child_environment(environment or {}),
                    )
            finally:
                for handle in handles:
                    os.close(handle)
            self._put((module, factory, arguments, debug, not waits))
            if waits:
                self.finish()
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process, as the system numbers it."""
        assert self._process is not None  # noqa: S101  # made before anybody can ask
        return self._process.pid

    @property
    def log(self) -> str:
        """The end of what it wrote to standard error, where that is kept."""
        return (self._log or b"").decode("utf-8", "replace")

    def ask(self, function: str, *arguments: Any) -> Any:
        """What `function` returns there.

        Raises:
            ModscaleError: that the function raised, as it was.
            WorkerKilled: the child was ended by a signal, or took longer than its limit to answer.
            WorkerFault: it ended in another way, or the function raised what nobody foresaw; it is gone now.
        """
        self.begin(function, *arguments)
        return self.finish()

    def begin(self, function: str, *arguments: Any) -> None:
        """Asks for what `function` returns there, which `finish` gives; one thing at a time."""
        self._put((function, arguments))

    @property
    def answers(self) -> int:
        """The handle that can be read from as soon as there is something for `finish`."""
        return self._answers

    def pause(self) -> None:
        """Makes it stand still, wherever it is."""
        self._signal("SIGSTOP")

    def resume(self) -> None:
        """Lets it go on."""
        self._signal("SIGCONT")

    def _signal(self, name: str) -> None:
        if self.is_running and self._process is not None:
            self._process.send_signal(signal.Signals[name])

    def kill(self) -> None:
        """Ends it without waiting until it has; `stop` does the rest."""
        self._signal("SIGKILL")

    def stop(self) -> None:
        """Ends it, if it still runs."""
        if not self.is_running:
            return
        self.is_running = False
        try:
            if self._process is not None:
                self._process.kill()
                with contextlib.suppress(subprocess.TimeoutExpired):  # it dies once the machine lets it
                    self._process.wait(timeout=10)
        finally:
            for handle in (self._questions, self._answers, self._life):
                os.close(handle)
            if self._process is not None and self._process.stdout is not None:
                self._process.stdout.close()

    def _put(self, question: object) -> None:
        try:
            with contextlib.suppress(BrokenPipeError):  # it is gone; why, is found out when it is to answer
                _send(self._questions, question)
        except BaseException:
            self.stop()
            raise

    def finish(self) -> Any:
        """The answer to what was begun. Raises as `ask` does."""
        try:
            kind, value = self._receive()
        except BaseException:
            self.stop()  # an answer that comes now would be taken for another question's
            raise
        if kind == "broken":
            self.stop()
            raise WorkerFault(f"{self.name}: {value}")
        if kind == "error":
            raise value
        return value

    def _receive(self) -> tuple[str, Any]:
        """The answer; its log is read meanwhile. Raises as `ask` does."""
        assert self._process is not None  # noqa: S101
        deadline = time.monotonic() + self.limit_s
        received = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(self._answers, selectors.EVENT_READ)
            if self._process.stdout is not None:
                selector.register(self._process.stdout, selectors.EVENT_READ)
            while (left_s := deadline - time.monotonic()) > 0:
                ready = [key.fd for key, _ in selector.select(min(TICK_S, left_s))]
                check_stop()
                for handle in ready:
                    if handle != self._answers:
                        if not self._read_log(handle):
                            selector.unregister(handle)
                    elif part := os.read(handle, 1 << 20):
                        received += part
                    else:
                        raise self._lost()
                if len(received) >= HEAD and len(received) - HEAD == int.from_bytes(received[:HEAD], "big"):
                    self._drain_log()
                    answer: tuple[str, Any] = pickle.loads(received[HEAD:])  # noqa: S301  # from a process of ours
                    return answer
        raise WorkerKilled(f"{self.name} took longer than {self.limit_s:g} s")

    def _lost(self) -> WorkerFault:
        """Why there is no answer, in words."""
        assert self._process is not None  # noqa: S101
        with contextlib.suppress(subprocess.TimeoutExpired):  # the pipe is closed a moment before
            self._process.wait(timeout=5)
        self._drain_log()
        code = self._process.returncode
        if code is None:
            return WorkerFault(f"{self.name} no longer answers")
        if code < 0:
            return WorkerKilled(f"{self.name} was ended by {_signal_name(-code)}")
        lines = self.log.strip().splitlines()
        said = "" if self._log is None else f": {' '.join(lines[-1].split())[:300] if lines else 'it said nothing'}"
        return WorkerFault(f"{self.name} ended with code {code}{said}")

    def _drain_log(self) -> None:
        stream = None if self._process is None else self._process.stdout
        while stream is not None and select.select([stream], [], [], 0)[0] and self._read_log(stream.fileno()):
            pass

    def _read_log(self, handle: int) -> bool:
        """Takes over what stands in the log's pipe; whether more may come."""
        part = os.read(handle, LOG_BYTES)
        self._log = ((self._log or b"") + part)[-LOG_BYTES:]
        return bool(part)


def serve(questions: int, answers: int, lifeline: int) -> None:
    """A child's life: answers until its parent closes the questions, or is gone."""
    _end_with_parent(lifeline)
    for handle in (questions, answers, lifeline):
        os.set_inheritable(handle, False)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("800", encoding="ascii")
    tasks: Any = None
    debug = False
    with open(questions, "rb") as stream:
        while True:
            content = stream.read(int.from_bytes(stream.read(HEAD), "big"))
            if not content:
                return
            question = pickle.loads(content)  # noqa: S301  # from the process that started this one
            try:
                if tasks is None:
                    module, factory, arguments, debug, may_pause = question
                    if may_pause:
                        _die_with_thread()
                    tasks = importlib.import_module(module)
                    tasks = getattr(tasks, factory)(*arguments) if factory else tasks
                    kind, value = "ok", None
                else:
                    function, arguments = question
                    kind, value = "ok", getattr(tasks, function)(*arguments)
            except ModscaleError as error:
                kind, value = "error", error
            except Exception as error:  # noqa: BLE001  # whatever it is, the parent must hear of it in a line
                kind, value = "broken", _told(error, debug)
            del question
            _answer(answers, kind, value)
            if kind == "broken":
                return
            del value  # an error holds the frames it passed through, and they what a network took
            getattr(tasks, "after_answer", lambda: None)()


def _answer(answers: int, kind: str, value: Any) -> None:
    try:
        _send(answers, (kind, value))
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        _send(answers, ("broken", f"{type(value).__name__}: {str(value)[:300]} (it cannot be sent: {error})"))


def _send(handle: int, message: object) -> None:
    content = pickle.dumps(message)
    rest = memoryview(len(content).to_bytes(HEAD, "big") + content)
    while rest:
        rest = rest[os.write(handle, rest) :]


def _told(error: Exception, debug: bool) -> str:
    """An unforeseen error in a line; its traceback goes to standard error where it was asked for."""
    if debug:
        import traceback

        traceback.print_exc()
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _end_with_parent(lifeline: int) -> None:
    """Has the kernel end this process, by SIGIO's default, once the other end of `lifeline` is closed."""
    with contextlib.suppress(ImportError, AttributeError):
        import fcntl

        fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:  # it was closed before anybody listened
        os._exit(1)


def _die_with_thread() -> None:
    """Has the kernel kill this process, also where it stands still, as the thread that made it ends: Linux can."""
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def child_environment(more: Mapping[str, str]) -> dict[str, str]:
    """The parent's, with passive threads and without the current folder as a place of modules."""
    environment = dict(os.environ)
    if "OMP_WAIT_POLICY" not in environment:
        environment = {**PASSIVE, **environment}
    if "PYTHONPATH" in environment:
        places = environment["PYTHONPATH"].split(os.pathsep)
        environment["PYTHONPATH"] = os.pathsep.join(place for place in places if not _is_here(place))
    return {**environment, **more}


def child_place() -> Path | None:
    """Where a child is to run: here, or, as torch's libraries cannot be loaded where there is no folder, anywhere."""
    try:
        Path.cwd()
    except OSError:
        return PACKAGE
    return None


def _is_here(place: str) -> bool:
    """Whether `place` is the current folder; an empty one is."""
    try:
        return Path(place).samefile(Path())
    except OSError:
        return not place or not Path(place).is_absolute()


def _standard_error() -> int:
    """Where a child's standard output goes instead: this process's standard error, while there is one."""
    try:
        os.fstat(2)
    except OSError:
        return subprocess.DEVNULL
    return 2


def _signal_name(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return f"{name}, as when memory runs out" if name == "SIGKILL" else name
