"""Draw the pictures of ``docs/growth.md``: what discovery sees, and when a ticket appears.

Usage: python benchmarks/growth_pictures.py [--pictures clusters,stream] [--cache DIR]
       [--out docs/images]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import discovery as cases
import matplotlib.pyplot as plt
import numpy as np

from rtl_continual.backbones import BackboneConfig, build_backbone
from rtl_continual.discovery import DiscoveryConfig, KnownTickets, OnlineDiscovery, discover
from rtl_continual.threads import use_threads

NAMES = ("handwritten", "photo", "printed", "street", "outline")


def draw_clusters(parts: list[cases.Part], path: Path) -> None:
    """Two shuffled domains beside the tickets that discovery finds in them."""
    both = cases.join(parts, np.random.default_rng(0))
    found = discover(both.x, KnownTickets(), DiscoveryConfig(), targets=both.y)
    z = ((both.x - both.x.mean(dim=0)) / both.x.std(dim=0).clamp_min(1e-6)).numpy()
    axes = np.linalg.svd(z, full_matrices=False)[2][:2].T
    place = z @ axes
    figure, panels = plt.subplots(1, 2, figsize=(7.2, 3.0), sharex=True, sharey=True)
    hidden = [(NAMES[d], both.domain == d) for d in np.unique(both.domain)]
    tickets = [(f"ticket {t}", found.ticket_ids == t) for t in found.new]
    titles = ("hidden domains", "tickets that discovery finds")
    for panel, title, groups in zip(panels, titles, (hidden, tickets), strict=True):
        for label, rows in groups:
            panel.scatter(*place[rows].T, s=3, alpha=0.5, label=label, linewidths=0)
        panel.set_title(title, fontsize=9)
        panel.legend(markerscale=4, fontsize=8, frameon=False)
        panel.set_xticks([])
        panel.set_yticks([])
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def draw_stream(domains: list[dict[str, cases.Part]], path: Path) -> None:
    """What the detector watches while domains change, and when new clusters are found."""
    batches = cases.abrupt(domains, np.random.default_rng(0))
    finder = OnlineDiscovery(cases.one_ticket(domains[0]), DiscoveryConfig())
    watched, found_at = [], []
    for number, batch in enumerate(batches):
        step = finder.update(batch.x)
        watched.append(np.expm1(step.verdict.statistic))
        if step.found is not None:
            found_at.append(number)
    figure, panel = plt.subplots(figsize=(7.2, 2.4))
    panel.plot(watched, color="0.3", linewidth=1)
    panel.set_yscale("symlog", linthresh=1)
    for place, number in enumerate(range(0, len(batches), len(batches) // len(domains))):
        panel.axvline(number, color="0.8", linewidth=0.8, zorder=0)
        panel.text(number + 0.5, panel.get_ylim()[1], NAMES[place], fontsize=8, va="bottom")
    for number in found_at:
        panel.plot(number, watched[number], "v", color="tab:red", markersize=6)
    panel.set_xlabel("mini-batch of 32 images (triangle: a new cluster is found)", fontsize=8)
    panel.set_ylabel("median surprise", fontsize=8)
    panel.tick_params(labelsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", default="clusters,stream")
    parser.add_argument("--cache", type=Path, help="folder in which router features are kept")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    use_threads(1)
    backbone = build_backbone(BackboneConfig(name="glyphnet", taps=("stem", "block1")))
    domains = cases.load("digits", 0, backbone, options.cache)
    if "clusters" in options.pictures:
        draw_clusters([d["train"] for d in domains[:2]], options.out / "growth-clusters.png")
    if "stream" in options.pictures:
        draw_stream(domains[:3], options.out / "growth-stream.png")


if __name__ == "__main__":
    main()
