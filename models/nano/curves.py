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
    n_rows = (len(o.logs) + 1) // 2
    figure, axes = plt.subplots(n_rows, 2, figsize=(10, 4 * n_rows), squeeze=False, layout="constrained")
    for axis in axes.flat[len(o.logs) :]:
        axis.set_axis_off()
    for axis, path in zip(axes.flat, o.logs):
        rows = list(csv.DictReader(path.open()))
        axis.set_prop_cycle(color=plt.get_cmap("tab20").colors)
        for name in rows[0]:
            if name not in NO_SCORE:
                axis.plot([int(r["step"]) for r in rows], [float(r[name]) for r in rows], label=name, linewidth=1.2)
        axis.set(title=path.stem, xlabel="step", ylabel="exact replies", ylim=(0, 1.01))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7, ncols=2)
    figure.savefig(o.out, metadata={"Date": None})


if __name__ == "__main__":
    main()
