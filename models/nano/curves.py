#!/usr/bin/env python3
"""Draws curves.svg from the logs of a run: backbone.csv and one adapter CSV a variant.

    curves.py logs/backbone.csv logs/msw.csv … --out curves.svg
"""

import argparse
import csv
import pathlib

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

NO_SCORE = ("step", "seconds", "tokens", "loss", "loss_asked", "loss_told")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", type=pathlib.Path, nargs="+")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    o = parser.parse_args()
    plt.rcParams["svg.hashsalt"] = "nano"
    figure, axes = plt.subplots(1, len(o.logs), figsize=(5 * len(o.logs), 4), squeeze=False, layout="constrained")
    for axis, path in zip(axes[0], o.logs):
        rows = list(csv.DictReader(path.open()))
        for name in rows[0]:
            if name not in NO_SCORE:
                axis.plot([int(r["step"]) for r in rows], [float(r[name]) for r in rows], label=name, linewidth=1.2)
        axis.set(title=path.stem, xlabel="step", ylabel="exact replies", ylim=(0, 1.01))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7, ncols=2)
    figure.savefig(o.out, metadata={"Date": None})


if __name__ == "__main__":
    main()
