#!/usr/bin/env python3
"""Checks files of wordings: form, duplicates, and that held-out wordings use only words that training wordings of the kind use."""

import re
import sys

import facts


def main(paths):
    faults = 0
    added = facts.read_wordings(paths)
    for (kind, what), fresh in added.items():
        old = getattr(facts.KINDS[kind], what) if kind in facts.KINDS else ()
        seen = {}
        for line in (*old, *fresh):
            texts = facts.expand(line)
            for text in texts:
                if text.count("{v}") != (what == "statements") or re.search(r"[()|]", text) or not text:
                    print(kind, what, "form:", line, "->", text)
                    faults += 1
                    break
            held = line.startswith("!")
            for text in texts:
                if text in seen and seen[text] != line:
                    if seen[text].startswith("!") != held:
                        print(kind, what, "on both sides:", text)
                        faults += 1
                seen[text] = line
        words = lambda lines: {w for line in lines for text in facts.expand(line) for w in re.findall(r"[a-z']+", text.replace("{v}", " ").lower())}
        merged = dict.fromkeys((*old, *fresh))
        trained = words(l for l in merged if not l.startswith("!"))
        for line in merged:
            if line.startswith("!") and (lost := words([line]) - trained):
                print(kind, what, "words never trained:", sorted(lost), "in", line)
                faults += 1
        print(kind, what, len(merged), "lines,", sum(l.startswith("!") for l in merged), "held out")
    return faults


if __name__ == "__main__":
    sys.exit(1 if main(sys.argv[1:]) else 0)
