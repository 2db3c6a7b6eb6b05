#!/usr/bin/env python3
"""Records anew what the tokenizer in models/nano makes of the texts in recordings.json, after that tokenizer has changed.

    python3 -m venv VENV && VENV/bin/pip install tokenizers==0.23.3
    VENV/bin/python tests/templates/record_tokens.py
"""

import hashlib
import json
import pathlib
import struct

import tokenizers

FOLDER = pathlib.Path(__file__).resolve().parent


def main():
    tokenizer = tokenizers.Tokenizer.from_file(str(FOLDER.parents[1] / "models/nano/tokenizer.json"))
    path = FOLDER / "recordings.json"
    lines = path.read_text().split("\n")
    for at, line in enumerate(lines):
        if not line.startswith("  {"):
            continue
        case = json.loads(line.removesuffix(","))
        for expected in filter(None, case["expected"].values()):
            if "text" in expected:
                ids = tokenizer.encode(expected["text"], add_special_tokens=False).ids
                expected["tokens"] = len(ids)
                expected["tokens_sha256"] = hashlib.sha256(b"".join(struct.pack("<I", i) for i in ids)).hexdigest()
        lines[at] = "  " + json.dumps(case, ensure_ascii=False) + ("," if line.endswith(",") else "")
    path.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
