"""What int8 gains and costs: accuracy and processor time by what is quantised and in how many bits of weight.

    python benchmarks/int8.py EXPORT --data DATA [--val-images N] [--rounds N]

EXPORT is a folder of `modscale export` of a trained network. Processor time of one thread, batch 1, files taking
turns: it suffers less from neighbours than wall time does. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from unittest import mock

import onnxruntime.quantization as library

from modscale.datasets.dataset import load_dataset
from modscale.deploy import quantize, runtime
from modscale.deploy.classify import classify, feed
from modscale.deploy.judgement import judge
from modscale.files import scratch_folder
from modscale.specs.spec import load_spec

LEVELS = {
    "linear layers": ("linear",),
    "+ head and dense convs": ("linear", "conv", "head"),
    "+ depthwise convs": ("linear", "conv", "head", "depthwise"),
}
RUNS = 10


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--val-images", type=int)
    parser.add_argument("--rounds", type=int, default=8)
    given = parser.parse_args()
    side = load_spec(given.folder / "spec.yaml").resolution
    data = load_dataset(given.data, resolution=side, train_images=200, val_images=given.val_images, seed=0)
    source = given.folder / "model.onnx"
    expected = classify(source, data.x_val)
    plain = library.quantize_static
    with scratch_folder() as folder:
        files = {("float32", 32): source}
        for bits in (7, 8):
            for level in LEVELS:

                def quantise(*arguments, bits=bits, **keywords):
                    plain(*arguments, **keywords | {"reduce_range": bits == 7})

                files[level, bits] = folder / f"{len(files)}.onnx"
                with (
                    mock.patch.object(quantize, "LEVELS", LEVELS),
                    mock.patch.object(quantize, "quantize_static", quantise),
                ):
                    quantize.quantise(source, files[level, bits], feed(source, data.x_train), level=level)
        image = next(feed(source, data.x_val))[:1]
        sessions = {key: runtime.open_session(str(file)) for key, file in files.items()}
        seen: dict[tuple[str, int], list[float]] = {key: [] for key in files}
        for _ in range(given.rounds):
            for key, session in sessions.items():
                session.run(None, {runtime.INPUT_NAME: image})
                start = time.process_time()
                for _ in range(RUNS):
                    session.run(None, {runtime.INPUT_NAME: image})
                seen[key].append((time.process_time() - start) / RUNS * 1e3)
        print("| in int8 | bits of weight | accuracy | same answer | verdict | CPU ms, least | median | MB |")
        print("|---|--:|--:|--:|---|--:|--:|--:|")
        for (level, bits), file in files.items():
            found = judge(classify(file, data.x_val), expected, data.y_val, level=level)
            times = sorted(seen[level, bits])
            print(
                f"| {level} | {bits} | {found.accuracy:.1%} | {found.agreement:.1%} | {found.verdict} |"
                f" {times[0]:.2f} | {times[len(times) // 2]:.2f} | {file.stat().st_size / 1e6:.1f} |"
            )


if __name__ == "__main__":
    main()
