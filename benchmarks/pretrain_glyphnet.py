"""Pretrain GlyphNet on letters and write the weights that ship with the package.

    python benchmarks/pretrain_glyphnet.py [--images 24000] [--epochs 4] [--threads 1] [--out FILE]

No digit is ever drawn: the classes are letters, and those that read as a digit (O o I l S s Z z)
are left out. Letters are printed on plain or photographic ground and nothing else: handwriting,
line drawings, difference blends and busy streets are shifts that tickets have to learn, as sketches
and clip art are to weights trained on ImageNet. The last line printed is one JSON object: how well
a linear probe on the frozen features tells digits apart in each domain of the built-in stream, on
its validation part.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from safetensors.torch import save
from torch import nn

from rtl_continual.backbones._glyphnet import glyphnet_stages
from rtl_continual.streams import _glyphs
from rtl_continual.streams._glyphs import FONTS, SIZE, PhotoPatches

# Upper case without O I S Z; lower case without what reads as a digit or as its own capital.
LETTERS = "ABCDEFGHJKLMNPQRTUVWXY" + "abdefghijkmnqrty"
STYLES = {"print": 0.6, "scene": 0.4}
OUT = Path(__file__).parents[1] / "rtl_continual" / "backbones" / "weights" / "glyphnet.safetensors"


def draw_shape(letter: str, rng: np.random.Generator) -> Image.Image:
    """One letter on the fine canvas, turned, sheared and bent at random."""
    shape = _glyphs.draw_character(
        letter,
        str(rng.choice(FONTS)),
        size=rng.uniform(17, 30),
        centre=tuple(rng.uniform(-3, 3, 2) + SIZE / 2),
        angle=rng.uniform(-20, 20),
        shear=rng.uniform(-0.25, 0.25),
        stretch=rng.uniform(0.7, 1.3),
    )
    if rng.random() < 0.7:
        shape = _glyphs.warp(shape, rng, rng.uniform(0.01, 0.06))
    return shape


def thicken(shape: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Change the stroke's thickness, as another pen would."""
    choice = rng.random()
    if choice < 0.4:
        return shape.filter(ImageFilter.MaxFilter(3 if choice < 0.2 else 5))
    return shape


def draw_ink(letter: str, rng: np.random.Generator) -> np.ndarray:
    """Coverage ``[32, 32]`` of one letter."""
    return _glyphs.shrink(thicken(draw_shape(letter, rng), rng))


def draw_scene(letter: str, rng: np.random.Generator, patches: PhotoPatches) -> np.ndarray:
    """A coloured letter on a blurred photograph."""
    share = rng.uniform(0.2, 0.8)
    patch = patches.draw(rng, held_out=False, blur=rng.uniform(0.8, 3.0))
    canvas = share * patch + (1 - share) * _glyphs.random_colour(rng)
    return _glyphs.paint_over(
        canvas, draw_ink(letter, rng), _glyphs.contrasting_colour(rng, canvas)
    )


def draw_print(letter: str, rng: np.random.Generator) -> np.ndarray:
    """A letter on plain ground, dark on light or light on dark, most often grey."""
    dark, light = rng.uniform(0, 90, 3), rng.uniform(165, 255, 3)
    if rng.random() < 0.6:
        dark, light = np.full(3, dark[0]), np.full(3, light[0])
    ground, colour = (dark, light) if rng.random() < 0.5 else (light, dark)
    canvas = np.broadcast_to(ground, (SIZE, SIZE, 3))
    return _glyphs.paint_over(canvas, draw_ink(letter, rng), colour)


def draw_image(letter: str, rng: np.random.Generator, patches: PhotoPatches) -> np.ndarray:
    """One training image, ``uint8 [3, 32, 32]``."""
    style = str(rng.choice(list(STYLES), p=list(STYLES.values())))
    image = draw_scene(letter, rng, patches) if style == "scene" else draw_print(letter, rng)
    if rng.random() < 0.2:
        image = 255 - image
    picture = Image.fromarray(np.round(image).clip(0, 255).astype(np.uint8))
    if rng.random() < 0.3:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.9)))
    noisy = np.asarray(picture) + rng.normal(0, rng.uniform(0, 8), (SIZE, SIZE, 3))
    return np.round(noisy).clip(0, 255).astype(np.uint8).transpose(2, 0, 1)


def draw_letters(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images ``uint8 [count, 3, 32, 32]`` and targets ``[count]``, classes in turn."""
    patches = PhotoPatches()
    images = np.empty((count, 3, SIZE, SIZE), dtype=np.uint8)
    targets = np.arange(count) % len(LETTERS)
    for i, target in enumerate(targets):
        images[i] = draw_image(LETTERS[target], np.random.default_rng([seed, i]), patches)
    return torch.from_numpy(images), torch.from_numpy(targets)


def normalise(images: torch.Tensor) -> torch.Tensor:
    """As ``Backbone.normalise`` does with the default ``InputSpec``."""
    return ((images.float() / 255 - 0.5) / 0.25).contiguous(memory_format=torch.channels_last)


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shift the batch by up to two pixels and shuffle its colour channels."""
    down, right = torch.randint(-2, 3, (2,), generator=generator).tolist()
    return images.roll((down, right), (2, 3))[:, torch.randperm(3, generator=generator)]


def pretrain(
    images: torch.Tensor, targets: torch.Tensor, epochs: int, seed: int
) -> tuple[nn.Sequential, float]:
    """Train stages and a throwaway head; returns the stages and the held-out letter accuracy."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    stages = glyphnet_stages()
    network = nn.Sequential(stages)
    model = nn.Sequential(network, nn.Linear(96, len(LETTERS))).to(
        memory_format=torch.channels_last
    )
    held_out = len(images) // 20
    train = len(images) - held_out
    steps = train // 128
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=6e-3, total_steps=epochs * steps, pct_start=0.2
    )
    for epoch in range(epochs):
        model.train()
        started, total = time.perf_counter(), 0.0
        order = torch.randperm(train, generator=generator)
        for index in order[: steps * 128].view(steps, 128):
            inputs = normalise(augment(images[index], generator))
            loss = nn.functional.cross_entropy(model(inputs), targets[index], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        model.eval()
        with torch.inference_mode():
            guesses = [
                model(normalise(part)).argmax(1) for part in torch.split(images[train:], 256)
            ]
        accuracy = (torch.cat(guesses) == targets[train:]).float().mean().item()
        seconds = time.perf_counter() - started
        print(
            f"epoch {epoch + 1}: loss {total / steps:.3f}, "
            f"held-out letters {accuracy:.3f}, {seconds:.0f} s",
            flush=True,
        )
    return network, accuracy


def probe(network: nn.Sequential, part: str) -> dict[str, float]:
    """Balanced accuracy of one linear probe per digit domain on ``validation`` or ``test``."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from rtl_continual.streams import DigitsConfig, build_stream

    stream = build_stream(DigitsConfig())

    @torch.inference_mode()
    def features(images: torch.Tensor) -> np.ndarray:
        return torch.cat([network(normalise(chunk)) for chunk in torch.split(images, 256)]).numpy()

    scores = {}
    for experience in stream.experiences:
        judged = stream.tests[experience.name] if part == "test" else experience.validation
        images, targets = experience.train.batch(range(len(experience.train)))
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        model.fit(features(images), targets.numpy())
        images, targets = judged.batch(range(len(judged)))
        score = balanced_accuracy_score(targets.numpy(), model.predict(features(images)))
        scores[experience.name] = round(float(score), 4)
    return scores


def main() -> None:
    """Draw, train, write, probe."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=24_000, help="letters to draw")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--probe", choices=("validation", "test"), default="validation")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    started = time.perf_counter()
    images, targets = draw_letters(options.images, options.seed)
    print(f"drew {len(images)} letters in {time.perf_counter() - started:.0f} s", flush=True)
    network, accuracy = pretrain(images, targets, options.epochs, options.seed)
    facts = {
        "architecture": "glyphnet",
        "classes": LETTERS,
        "epochs": options.epochs,
        "images": options.images,
        "letter_accuracy": round(accuracy, 4),
        "normalisation": {"mean": 0.5, "std": 0.25},
        "seed": options.seed,
        "torch": torch.__version__.split("+")[0],
        "width": 24,
    }
    # One metadata key: safetensors does not keep the order of several.
    metadata = {"training": json.dumps(facts, sort_keys=True, separators=(",", ":"))}
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_bytes(save(weights, metadata))
    print(f"wrote {options.out.name}, {options.out.stat().st_size / 1e3:.0f} kB", flush=True)

    scores = probe(network, options.probe)
    summary = {
        "benchmark": "pretrain_glyphnet",
        "letter_accuracy": round(accuracy, 4),
        "linear_probe": scores,
        "linear_probe_mean": round(math.fsum(scores.values()) / len(scores), 4),
        "part": options.probe,
        "python": platform.python_version(),
        "seconds": round(time.perf_counter() - started),
    }
    print(json.dumps(summary, sort_keys=True))


if __name__ == "__main__":
    main()
