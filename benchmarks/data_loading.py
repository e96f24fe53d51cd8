"""Reading images from files, and a list of 600,000 of them.

Baseline ``torchvision``: an ``ImageFolder`` with Resize, CenterCrop and PILToTensor behind a
``DataLoader`` with the same number of workers. ``ours``: batches of a stream of folders, which
decode to the same pixels. ``augment`` moves each image by up to four pixels and mirrors half of
them: torchvision image by image in the workers, ours whole batches. Times are the processor's, of
this process and its workers, so that other work on the machine adds little. ``open`` reads a list
file of many lines in a fresh process and builds the stream; its images are not looked at.

Usage: python benchmarks/data_loading.py [--quick] [--workers 1,2] [--lines N]
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from _timing import Report, parser
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from rtl_continual.streams import FoldersConfig, build_stream, read_ahead
from rtl_continual.training import random_flip, random_shift

SIDE = 224
SHIFT = 4
BATCH = 32

OPEN = """
import json, re, sys, time
from rtl_continual.streams import FoldersConfig, build_stream
def kibibytes(key):
    # getrusage would count the peak of the process that started this one.
    return int(re.search(key + r":\\s*(\\d+)", open("/proc/self/status").read()).group(1))
before = kibibytes("VmRSS")
start = time.process_time()
stream = build_stream(FoldersConfig(
    root=sys.argv[1], image_size=32, lists={"photo": {"train": "train.txt", "test": "test.txt"}}))
used = kibibytes("VmHWM") - before
print(json.dumps([time.process_time() - start, used / 1024]))
"""


def write_images(folder: Path, count: int) -> None:
    """Photographs of the usual size, as far as a decoder can tell."""
    rng = np.random.default_rng(0)
    for index in range(count):
        part = "train" if index % 8 else "test"
        place = folder / "photo" / part / f"class{index % 2}"
        place.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        small.resize((640, 480)).save(place / f"{index}.jpg", quality=90)


def processor_seconds() -> float:
    """Of this process and of workers that have ended."""
    workers = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + workers.ru_utime + workers.ru_stime


def measure_decoding(report: Report, workers: int) -> None:
    """Processor time of the same images, ours over torchvision's."""
    count = 64 if report.options.quick else 256
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder, count)
        config = FoldersConfig(
            root=str(folder),
            layout="{domain}/{split}/{class}",
            image_size=SIDE,
            upright=False,
            validation_fraction=0.0,
            resize=256,
            workers=workers,
        )
        ours = build_stream(config).experiences[0].train
        batches = [range(i, min(i + BATCH, len(ours))) for i in range(0, len(ours), BATCH)]
        draw = torch.Generator().manual_seed(0)
        decode = [transforms.Resize(256), transforms.CenterCrop(SIDE), transforms.PILToTensor()]
        augment = [
            transforms.RandomCrop(SIDE, padding=SHIFT, padding_mode="edge"),
            transforms.RandomHorizontalFlip(),
        ]

        def torchvision(steps: list[object]) -> int:
            theirs = ImageFolder(str(folder / "photo" / "train"), transforms.Compose(steps))
            # A loader without workers decodes in its own process: that is one.
            processes = workers if workers > 1 else 0
            loader = DataLoader(theirs, batch_size=BATCH, num_workers=processes)
            return sum(len(images) for images, _ in loader)

        def stream(*, augmented: bool) -> int:
            seen = 0
            for images, _ in read_ahead(ours, batches):
                if augmented:
                    images = random_flip(random_shift(images, SHIFT, draw), draw)
                seen += len(images)
            return seen

        rows = {
            "decode": (lambda: torchvision(decode), lambda: stream(augmented=False)),
            "augment": (lambda: torchvision(decode + augment), lambda: stream(augmented=True)),
        }
        for row, (theirs, mine) in rows.items():
            assert theirs() == mine() == len(ours)
            report.compare(
                f"{row}/{len(ours)}_images/{workers}_workers",
                {"torchvision": theirs, "ours": mine},
                "torchvision",
                at_most={"ours": 1.0},
                clock=processor_seconds,
            )


def measure_opening(report: Report, lines: int) -> None:
    """A long list file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "class0").mkdir()
        # Only the first image of a list has to be there.
        Image.new("RGB", (32, 32)).save(folder / "class0" / "0.jpg")
        rows = [f"class{i % 345}/{i}.jpg {i % 345}" for i in range(lines)]
        (folder / "train.txt").write_text("\n".join(rows))
        (folder / "test.txt").write_text("\n".join(rows[:345]))
        out = subprocess.run(
            [sys.executable, "-c", OPEN, name], capture_output=True, text=True, check=False
        )
        if out.returncode:
            raise SystemExit(out.stderr)
        seconds, used = json.loads(out.stdout)
        report.add_value(f"open/{lines}_lines/seconds", seconds, "s CPU", at_most=3)
        report.add_value(f"open/{lines}_lines/memory", used, "MiB", at_most=300)


def main() -> None:
    """Run it."""
    line = parser(__doc__)
    line.add_argument("--workers", default="1,2", help="that decode, several counts; default 1,2")
    line.add_argument("--lines", type=int, help="default 600,000; quick 60,000")
    options = line.parse_args()
    report = Report("data_loading", options)
    measure_opening(report, options.lines or (60_000 if options.quick else 600_000))
    for workers in options.workers.split(","):
        measure_decoding(report, int(workers))
    report.finish()


if __name__ == "__main__":
    main()
