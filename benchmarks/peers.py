"""The peers of the paper's Table 1 that timm has, timed beside ours in one alternating run: is the order the paper's?

`export` writes each network as ONNX once, in its deployed form, verified (timm must be installed), and its counts, by
the graph and by fvcore; `time` adds rounds, in each of which every network is timed in a fresh process with one thread
and with four, in an order that turns round from round to round, until its seconds are up; `table` prints what stands.
Each row is on disk before the next is begun, so that any of them may be killed and started again.

The paper timed on a Xeon E5-2680 with 4 threads. Kendall's tau is between the medians here and its CPU milliseconds,
with a 95 % interval over networks. Peers that timm lacks are named and left out.

Usage: python benchmarks/peers.py export|time|table [--folder F] [--rows FILE] [--seconds 270] [--runs 20]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import fmean, median

import numpy as np

from modscale.analysis.rank_correlation import agreement, resample
from modscale.document import read_yaml
from modscale.latency.device import Device
from modscale.lines import append_line, read_lines
from modscale.machine import available_cores, describe_machine
from modscale.settings import LatencySettings
from modscale.specs.published import list_models

PAPER = Path(__file__).parents[1] / "tests" / "golden" / "published.yaml"
OURS = ("xxs", "xs", "s", "s_conv")
TIMM = {
    "MobileNetV2x1.0": "mobilenetv2_100", "MobileNetV2x1.4": "mobilenetv2_140", "FasterNet-T0": "fasternet_t0",
    "FasterNet-T1": "fasternet_t1", "FasterNet-T2": "fasternet_t2", "MobileOne-S1": "mobileone_s1",
    "EfficientFormerV2-S0": "efficientformerv2_s0", "EfficientFormerV2-S1": "efficientformerv2_s1",
    "EfficientFormerV2-S2": "efficientformerv2_s2", "DeiT-T": "deit_tiny_patch16_224",
    "EfficientNet-B0": "efficientnet_b0", "MobileViTv2-1.0": "mobilevitv2_100", "MobileViTv2-1.5": "mobilevitv2_150",
    "PoolFormer-s12": "poolformer_s12", "EfficientFormer-L1": "efficientformer_l1",
}  # fmt: skip
THREADS = (1, 4)


def paper() -> dict[str, tuple[float, float, float, float]]:
    """Of each network: top-1 %, CPU ms, params in M, FLOPs in G."""
    peers = read_yaml(PAPER)["peers_table1"]  # type: ignore[index]
    found = {name: (row[0], row[2], row[3], row[4]) for name, row in peers.items()}
    for row in list_models():
        if row.name in OURS:
            found[row.name] = tuple(row.paper[key] for key in ("top1", "cpu_ms", "params_m", "flops_g"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("export", "time", "table"))
    parser.add_argument("--folder", type=Path, default=Path("/tmp/peers"))  # noqa: S108  # of what can be made again
    parser.add_argument("--rows", type=Path, default=Path(__file__).with_suffix(".jsonl"))
    parser.add_argument("--seconds", type=float, default=270.0)
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args()
    if options.task == "export":
        export(options.folder, options.rows)
    elif options.task == "time":
        take_times(options.folder, options.rows, seconds=options.seconds, runs=options.runs)
    else:
        show(options.rows)


def rows_of(file: Path, kind: str) -> list[dict]:
    return [row for _, row in read_lines(file) if row["kind"] == kind]


def export(folder: Path, rows: Path) -> None:
    import torch

    from modscale.deploy.export import export_onnx, fresh_network
    from modscale.deploy.foreign import count_file, export_timm
    from modscale.models.fvcore_trace import trace_network
    from modscale.models.timm_networks import build_deployed
    from modscale.specs.published import published

    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    counted = {row["name"] for row in rows_of(rows, "counts")}
    for name in (*OURS, *TIMM):
        file = folder / f"{name}.onnx"
        if not file.exists():
            if name in OURS:
                export_onnx(fresh_network(published(name), seed=0), published(name), file)
            else:
                export_timm(TIMM[name], file)
        if name not in counted:
            if name in OURS:
                network, shape = fresh_network(published(name), seed=0), (3, 224, 224)
            else:
                network, shape = build_deployed(TIMM[name])
            graph = count_file(file, (1, *shape))
            params = sum(one.numel() for one in network.parameters())
            _, traced, uncounted = trace_network(network, shape)
            row = {"name": name, "input": list(shape), "params": graph.params, "flops": graph.flops}
            other = {"torch_params": params, "fvcore_flops": traced, "fvcore_uncounted": list(uncounted)}
            append_line(rows, {"kind": "counts", **row, **other})
            print(name, row, other, flush=True)


def take_times(folder: Path, rows: Path, *, seconds: float, runs: int) -> None:
    """Rounds of all networks until the time is up; a round that was cut short is gone on with."""
    end = time.monotonic() + seconds
    shapes = {row["name"]: (1, *row["input"]) for row in rows_of(rows, "counts")}
    done = {(row["round"], row["name"], row["threads"]) for row in rows_of(rows, "time")}
    devices = {threads: Device(LatencySettings(threads=threads, runs=runs)) for threads in THREADS}
    pairs = [(name, threads) for name in shapes for threads in THREADS]
    for turn in range(1000):
        for name, threads in pairs if turn % 2 == 0 else reversed(pairs):
            if (turn, name, threads) in done:
                continue
            if time.monotonic() > end:
                return
            timings = devices[threads].time(folder / f"{name}.onnx", runs=runs, shape=shapes[name])
            times = [ns / 1e6 for ns in timings.times_ns]
            row = {"round": turn, "name": name, "threads": threads, "runs": runs, "median_ms": median(times)}
            share = timings.main_cpu_ns / sum(timings.times_ns)
            here = {"cores": available_cores(), "cpu": describe_machine()["cpu"]}
            append_line(rows, {"kind": "time", **row, "mean_ms": fmean(times), "core_share": share, **here})


def show(file: Path) -> None:
    published, times = paper(), rows_of(file, "time")
    whole = {t: max((r["round"] for r in times if r["threads"] == t), default=-1) for t in THREADS}
    seen = {
        (name, threads): [r["median_ms"] for r in times if (r["name"], r["threads"]) == (name, threads)]
        for name in published
        for threads in THREADS
    }
    here = [name for name in published if all(seen[name, threads] for threads in THREADS)]
    print("| network | top-1 % | paper, CPU ms | 1 thread, ms | 4 threads, ms | rank, paper | 1 thread | 4 threads |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    ranks = {}
    for key, values in {
        "paper": {n: published[n][1] for n in here},
        **{t: {n: median(seen[n, t]) for n in here} for t in THREADS},
    }.items():
        order = sorted(here, key=values.__getitem__)
        ranks[key] = {name: order.index(name) + 1 for name in here}
    for name in sorted(here, key=lambda name: published[name][1]):
        cells = [f"{median(seen[name, t]):.2f} ({min(seen[name, t]):.2f} to {max(seen[name, t]):.2f})" for t in THREADS]
        shown = f"**{name}**" if name in OURS else name
        print(f"| {shown} | {published[name][0]} | {published[name][1]} | {' | '.join(cells)} |"
              f" {ranks['paper'][name]} | {ranks[1][name]} | {ranks[4][name]} |")  # fmt: skip
    truth = np.array([published[name][1] for name in here])
    for threads in THREADS:
        scores = np.array([[median(seen[name, threads])] for name in here])
        found, _ = agreement(scores, truth, resample(len(here), 1))
        rounds = min(len(seen[name, threads]) for name in here)
        ratio = scores[:, 0] / truth
        least, most = here[int(ratio.argmin())], here[int(ratio.argmax())]
        print(
            f"\n{threads} threads, {rounds} rounds or more, {whole[threads] + 1} begun: tau {found.tau:+.2f}"
            f" {found.tau_ci95}, rho {found.rho:+.2f} {found.rho_ci95}; ours / paper: median {np.median(ratio):.2f},"
            f" {ratio.min():.2f} ({least}) to {ratio.max():.2f} ({most})"
        )
    one, four = (np.array([median(seen[name, t]) for name in here]) for t in THREADS)
    between, _ = agreement(one[:, None], four, resample(len(here), 1))
    print(f"1 thread beside 4: tau {between.tau:+.2f}; 4 threads take {np.median(four / one):.2f} of 1's time (median)")
    absent = [name for name in published if name not in here]
    print(f"\nnot in timm: {', '.join(name for name in absent if name not in TIMM)}; cores {times[0]['cores']},"
          f" {times[0]['cpu']}; least share of a core {min(r['core_share'] for r in times):.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
