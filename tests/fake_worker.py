"""What stands for `searching/worker.py` in children: it trains nothing, takes its time, and may be told to die."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path


class Tasks:
    def __init__(self, log: str, most_s: float) -> None:
        self.log, self.rng, self.most_s = Path(log), random.Random(os.getpid()), most_s

    def load(self) -> str:
        return "the data"

    def anchor(self) -> int:
        self._write("anchor")
        return 1

    def export(self, name: str) -> str:
        self._write(f"export {name}")
        return name

    def train(self, name: str, value: float) -> float:
        self._write(f"train {name}")
        if "deadly" in name:
            os.kill(os.getpid(), signal.SIGKILL)
        return value

    def spin(self) -> None:
        while True:
            self._write("spin")

    def _write(self, line: str) -> None:
        with self.log.open("a") as stream:
            stream.write(f"{line}\n")
        time.sleep(self.rng.uniform(0, self.most_s))
