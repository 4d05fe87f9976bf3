"""How busy many workers are: a search with one driver, a window, timing devices and deaths, event by event.

    python benchmarks/workers_simulation.py                         # the tables of workers_simulation.md
    python benchmarks/workers_simulation.py --ask 0.3 --train 600   # another driver, longer trainings

As a search does it: one driver, a server that does one thing at a time, takes in what is finished (`tell`), and asks
for trial n (`ask`) once the trials 0 to n - W are finished and fewer than `under_way` are on their way. A candidate to
be timed waits for a timing device, in its turn, without holding a worker; then every candidate waits for a worker.
A worker that dies loses its training; the candidate is trained once more, before others, and then has failed. It comes
back after a while. A candidate whose training takes more than `late` times what is known of its length is trained once
more, before others, and whichever ends first counts. Nothing here is modscale's own code but the numbers:
`tests/test_workers_simulation.py` holds the simulation to closed forms.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from statistics import mean, median

from modscale.api.workers import RAY_AHEAD
from modscale.searching.copies import LATE


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A search and what it runs on; seconds everywhere."""

    workers: int
    trials: int
    window: int
    """W."""
    train: Callable[[random.Random], float]
    """Draws the length of a candidate's training."""
    machine: Callable[[random.Random], float] = lambda rng: 1.0
    """Draws by how much a worker makes it longer, anew each time that it is begun."""
    ask_s: float = 0.0
    draw_s: float | None = None
    """To ask for one of the first W trials, which are drawn at random since nothing is known; None: as `ask_s`."""
    tell_s: float = 0.0
    timed: float = 0.0
    """Share of the candidates that are timed before they train."""
    time_s: float = 8.0
    devices: int = 1
    life_s: float = float("inf")
    """Mean life of a worker; how long it lives is exponential."""
    away_s: float = 300.0
    """From its death until it is back."""
    late: float = float("inf")
    """Times the median of what is known of its length after which a training has a copy."""
    copies_first: bool = True
    """Whether it comes before what waits for a worker, or is for workers that would be idle."""
    ends_the_other: bool = True
    """Whether the slower of two ends as the quicker does."""
    under_way: int = 10**9
    """Candidates on their way at most."""
    sizes: Callable[[random.Random], float] = lambda rng: 1.0
    """Draws what is known of a training before it begins: its length is that times what `train` draws."""
    longest_first: bool = True
    """Whether those known to be long begin first, once all are drawn."""
    oldest_first: bool = True
    """Whether of what waits for a worker the oldest begins first, or what came first: a candidate that was timed came
    later than others of its age."""
    seed: int = 0


@dataclass(kw_only=True)
class Result:
    """What came of it."""

    seconds: float
    """Until the last trial was taken in."""
    failed: int
    """Trials whose worker died twice."""
    whole: float
    """Share of the time in which workers were up that was spent on trainings that came to their end."""
    steady: float
    """The same without start and end: between the first and the last tenth of the trials."""
    lost: float
    """Share, of the whole run, that was spent on trainings whose worker died."""
    driver: float
    """Share of the time in which the driver was at work, without start and end."""
    device: float
    """Share of the time in which a timing device was at work, without start and end."""


@dataclass
class Meter:
    """Adds up how long things took, up to any moment."""

    total: float = 0.0
    marks: list[float] = field(default_factory=list)

    def between(self) -> float:
        return self.marks[1] - self.marks[0]


def simulate(scenario: Scenario) -> Result:  # one function, so that the state stands in one place
    """Runs one search to its end."""
    s, rng = scenario, random.Random(scenario.seed)
    events: list[tuple[float, int, Callable[[], None]]] = []
    order = itertools.count()
    now = 0.0
    finished = [False] * s.trials
    prefix = asked = done = failed = on_the_way = 0
    results: deque[int] = deque()
    to_time: deque[int] = deque()
    to_train: list[tuple[float, int, int]] = []
    tries = [0] * s.trials
    sizes = [s.sizes(rng) for _ in range(s.trials)]
    lengths = [size * s.train(rng) for size in sizes]
    pace = median(length / size for length, size in zip(lengths, sizes, strict=True))
    idle = set(range(s.workers))
    late, ended = set[int](), set[int]()
    running: dict[int, tuple[int, float, int]] = {}  # worker: trial, when it began, which training of the run it is
    free_devices, driver_free, ids = s.devices, True, itertools.count()
    useful, wasted, driver_s, device_s = Meter(), Meter(), Meter(), Meter()
    up, up_since, up_s = s.workers, 0.0, 0.0
    ups: list[float] = []
    moments: list[float] = []

    def at(delay: float, what: Callable[[], None]) -> None:
        heapq.heappush(events, (now + delay, next(order), what))

    def up_until_now() -> float:
        return up_s + up * (now - up_since)

    def work() -> None:
        """Everybody who can begin something does."""
        nonlocal driver_free, asked, on_the_way, free_devices
        if driver_free and results:
            number = results.popleft()
            driver_free = False
            driver_s.total += s.tell_s
            at(s.tell_s, partial(taken, number))
        elif driver_free and asked < s.trials and asked < prefix + s.window and on_the_way < s.under_way:
            number, asked, on_the_way, driver_free = asked, asked + 1, on_the_way + 1, False
            spent = s.draw_s if number < s.window and s.draw_s is not None else s.ask_s
            driver_s.total += spent
            at(spent, partial(drawn, number))
        while free_devices and to_time:
            number = to_time.popleft()
            free_devices -= 1
            device_s.total += s.time_s
            at(s.time_s, partial(timed, number))
        if not s.copies_first:
            train_next()
        if idle and late:
            copied = Counter(number for number, _, _ in running.values())
            for number in sorted(late & {number for number, count in copied.items() if count == 1})[: len(idle)]:
                begin(min(idle), number, is_copy=True)
        train_next()

    def train_next() -> None:
        while idle and to_train:
            begin(min(idle), heapq.heappop(to_train)[-1])

    def drawn(number: int) -> None:
        nonlocal driver_free
        driver_free = True
        if rng.random() < s.timed:
            to_time.append(number)
        else:
            queue(number)

    def timed(number: int) -> None:
        nonlocal free_devices
        free_devices += 1
        queue(number)

    def queue(number: int, *, again: bool = False) -> None:
        first = -1 if again else -sizes[number] if s.longest_first and asked == s.trials else 0
        heapq.heappush(to_train, (first, number if s.oldest_first else next(order), number))

    def begin(worker: int, number: int, *, is_copy: bool = False) -> None:
        idle.remove(worker)
        which = next(ids)
        running[worker] = number, now, which
        tries[number] += not is_copy
        at(lengths[number] * s.machine(rng), partial(trained, worker, which))
        if s.late < float("inf"):
            at(s.late * sizes[number] * pace, partial(is_late, worker, which))

    def is_late(worker: int, which: int) -> None:
        if worker in running and running[worker][2] == which and running[worker][0] not in ended:
            late.add(running[worker][0])

    def trained(worker: int, which: int) -> None:
        if worker in running and running[worker][2] == which:  # else it died under way
            number, began, _ = running.pop(worker)
            idle.add(worker)
            late.discard(number)
            if number in ended:
                wasted.total += now - began
                return
            ended.add(number)
            useful.total += now - began
            results.append(number)
            for other in [one for one, (same, _, _) in running.items() if same == number and s.ends_the_other]:
                wasted.total += now - running.pop(other)[1]
                idle.add(other)

    def taken(number: int) -> None:
        nonlocal driver_free, prefix, done, on_the_way
        driver_free, done, on_the_way = True, done + 1, on_the_way - 1
        finished[number] = True
        while prefix < s.trials and finished[prefix]:
            prefix += 1
        if done in (s.trials // 10, s.trials - s.trials // 10):
            moments.append(now)
            ups.append(up_until_now())
            running_s = sum(now - began for number, began, _ in running.values() if number not in ended)
            useful.marks.append(useful.total + running_s)
            for meter in (driver_s, device_s):
                meter.marks.append(meter.total)

    def die(worker: int) -> None:
        nonlocal up, up_since, up_s, failed
        up_s, up_since, up = up_until_now(), now, up - 1
        idle.discard(worker)
        if worker in running:
            number, began, _ = running.pop(worker)
            wasted.total += now - began
            if number in ended or any(same == number for same, _, _ in running.values()):
                pass  # another worker trains it, or has trained it
            elif tries[number] < 2:
                queue(number, again=True)
            else:
                failed += 1
                results.append(number)
        at(s.away_s, partial(come_back, worker))

    def come_back(worker: int) -> None:
        nonlocal up, up_since, up_s
        up_s, up_since, up = up_until_now(), now, up + 1
        idle.add(worker)
        at(rng.expovariate(1 / s.life_s), partial(die, worker))

    if s.life_s < float("inf"):
        for worker in range(s.workers):
            at(rng.expovariate(1 / s.life_s), partial(die, worker))
    work()
    while done < s.trials:
        now, _, what = heapq.heappop(events)
        what()
        work()
    length = moments[1] - moments[0]
    return Result(
        seconds=now,
        failed=failed,
        whole=useful.total / up_until_now(),
        steady=useful.between() / (ups[1] - ups[0]),
        lost=wasted.total / up_until_now(),
        driver=driver_s.between() / length,
        device=device_s.between() / length / s.devices,
    )


def trainings(median_s: float, spread: float = 0.4) -> Callable[..., float]:
    """Lengths as measured ones vary: log-normal around a median."""
    return lambda rng: median_s * rng.lognormvariate(0, spread)


def sizes(spread: float) -> Callable[..., float]:
    """What of the length is known before, as a factor."""
    return lambda rng: rng.lognormvariate(0, spread)


def stragglers(share: float = 0.02, times: float = 5.0) -> Callable[..., float]:
    """Some trainings take several times as long, by their machine's fault."""
    return lambda rng: times if rng.random() < share else 1.0


DEFAULT = RAY_AHEAD
SEEDS = range(5)
KNOWN, REST = 0.27, 0.3
"""Of a deviation of 0.4, what FLOPs tell and what they do not: the logarithms of seconds and FLOPs correlate by 0.67 in
search_table.jsonl."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ask", type=float, default=0.17)
    parser.add_argument("--draw", type=float, default=0.005, help="to ask for one of the first W trials")
    parser.add_argument("--tell", type=float, default=0.01)
    parser.add_argument("--train", type=float, default=120.0, help="median seconds of a training")
    parser.add_argument("--life", type=float, default=4 * 3600.0)
    parser.add_argument("--per-worker", type=int, default=20, help="trials of a run for each worker")
    options = parser.parse_args()

    def run(workers: int, *, a_worker: float = DEFAULT, **changes: object) -> Result:
        """A run with W of so many a worker."""
        window = round(a_worker * workers)
        settings: dict[str, object] = {
            "workers": workers, "trials": options.per_worker * workers, "window": window,
            "train": trainings(options.train, REST), "sizes": sizes(KNOWN), "ask_s": options.ask,
            "draw_s": options.draw, "tell_s": options.tell, "timed": 0.1, "devices": 4, "life_s": options.life,
            "under_way": window + 1, "late": LATE,
        }  # fmt: skip
        return simulate(Scenario(**(settings | changes)))  # type: ignore[arg-type]

    def spread(values: list[float]) -> str:
        return f"{min(values):.1%} to {max(values):.1%}" if len(values) > 1 else f"{values[0]:.1%}"

    widths = (1, 2, 3, 4, 5, 6, 10, 20)
    heads = [f"{one}, the default" if one == DEFAULT else f"{one}" for one in widths]
    print(f"How trainings vary, and W: 100 workers, 10 % timed, 4 devices; steady, the mean of {len(SEEDS)} seeds\n")
    print(f"| trainings, and what is done | W = {' a worker | '.join(heads[:1])} a worker | {' | '.join(heads[1:])} |")
    print("|---|" + "--:|" * len(widths))
    varied: dict[str, dict[str, object]] = {
        "all of one length": {"train": lambda rng: options.train, "sizes": lambda rng: 1.0},
        "log-normal, 0.2": {"train": trainings(options.train, REST / 2), "sizes": sizes(KNOWN / 2)},
        "log-normal, 0.4": {},
        "and 2 % take twice as long": {"machine": stragglers(times=2.0)},
        "and 0.2 % take 5 times as long": {"machine": stragglers(0.002)},
        "and 2 % take 5 times as long": {"machine": stragglers()},
        "and 2 % take 20 times as long": {"machine": stragglers(times=20.0)},
    }
    plain = {f"{name}, no copies": varied[name] | {"late": float("inf")} for name in list(varied)[2:]}
    ways: dict[str, dict[str, object]] = {
        "copies by who would be idle": {"copies_first": False},
        "copies by who would be idle, the slower one goes on": {"copies_first": False, "ends_the_other": False},
        "the slower one goes on": {"ends_the_other": False},
        "copies after 1.5 times": {"late": 1.5},
        "copies after 3 times": {"late": 3.0},
    }
    tried = {f"{name}, {way}": varied[name] | ways[way] for name in list(varied)[-2:] for way in ways}
    kinds = varied | plain | tried
    for name, change in kinds.items():
        found = [mean([run(100, a_worker=one, seed=seed, **change).steady for seed in SEEDS]) for one in widths]
        print(f"| {name} | {' | '.join(f'{one:.1%}' for one in found)} |", flush=True)

    print("\nThe target, 90 % at 100 workers: least and most of the seeds\n")
    print("| trainings | W | trials a worker | steady | whole run | hours |\n|---|--:|--:|--:|--:|--:|")
    of_interest = ("log-normal, 0.4", "and 2 % take twice as long", "and 2 % take 5 times as long")
    for name in (*of_interest, "and 2 % take 5 times as long, no copies"):
        for a_worker, per_worker in ((0.16, 20), (3, 20), (DEFAULT, 20), (DEFAULT, 50), (10, 20), (10, 50)):
            trials, change = per_worker * 100, kinds[name]
            rows = [run(100, a_worker=a_worker, trials=trials, seed=seed, **change) for seed in SEEDS]
            cells = [spread([row.steady for row in rows]), spread([row.whole for row in rows])]
            hours = mean([row.seconds for row in rows]) / 3600
            cells.append(f"{hours:.1f}")
            window = f"{round(100 * a_worker)}" + (", the default" if a_worker == DEFAULT else "")
            print(f"| {name} | {window} | {per_worker} | {' | '.join(cells)} |", flush=True)

    print(f"\nTiming devices: log-normal 0.4 without stragglers, W = {DEFAULT} a worker\n")
    print(
        "| workers | timed | 1 device | 2 | 4 | 8 | 16 | trials an hour with 1, 16 |\n|--:|--:|--:|--:|--:|--:|--:|--:|"
    )
    for workers in (100, 1000):
        for timed in (1.0, 0.1):
            results = [run(workers, timed=timed, devices=devices) for devices in (1, 2, 4, 8, 16)]
            rates = [options.per_worker * workers / one.seconds * 3600 for one in (results[0], results[-1])]
            cells = [f"{one.steady:.1%}" for one in results]
            print(f"| {workers:,} | {timed:.0%} | {' | '.join(cells)} | {rates[0]:,.0f}, {rates[1]:,.0f} |", flush=True)

    changes: dict[str, dict[str, object]] = {
        "as above": {},
        "what came first begins first, not the oldest": {"oldest_first": False},
        "the first W take as long to ask for": {"draw_s": None},
        "what is known to be long is not begun first at the end": {"longest_first": False},
        "no deaths": {"life_s": float("inf")},
        "a worker lives 30 minutes": {"life_s": 1800.0},
        "no more under way than workers": {"under_way": 1.0},
        "trainings of 30 s": {"train": trainings(30.0, REST)},
        "trainings of 60 s": {"train": trainings(60.0, REST)},
        "trainings of 10 minutes": {"train": trainings(600.0, REST)},
        "ask 0.05 s": {"ask_s": 0.05},
        "ask 0.5 s": {"ask_s": 0.5},
        "ask 1 s": {"ask_s": 1.0},
        "2 % take 5 times as long": {"machine": stragglers()},
        "the same, no copies": {"machine": stragglers(), "late": float("inf")},
    }
    titles = [f"4 devices, 10 % timed, W = {DEFAULT} a worker", "100 workers, steady, least and most of 5 seeds"]
    titles += ["whole run", "driver", "device", "lost", "1,000 workers, steady", "driver"]
    print(f"\n| {' | '.join(titles)} |\n|---|--:|--:|--:|--:|--:|--:|--:|")
    for name, change in changes.items():
        rows = []
        for workers in (100, 1000):
            scaled = change | ({"under_way": workers} if "under_way" in change else {})
            rows.append([run(workers, seed=seed, **scaled) for seed in (SEEDS if workers == 100 else (0,))])
        small, large = rows
        cells = [spread([one.steady for one in small]), spread([one.whole for one in small])]
        cells += [f"{mean([getattr(one, key) for one in small]):.1%}" for key in ("driver", "device", "lost")]
        print(f"| {name} | {' | '.join(cells)} | {large[0].steady:.1%} | {large[0].driver:.1%} |", flush=True)


if __name__ == "__main__":
    main()
