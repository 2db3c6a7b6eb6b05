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


def token_digest(tokenizer, text):
    """How many tokens, and the SHA-256 of their ids as little-endian u32."""
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    return len(ids), hashlib.sha256(b"".join(struct.pack("<I", i) for i in ids)).hexdigest()


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
                expected["tokens"], expected["tokens_sha256"] = token_digest(tokenizer, expected["text"])
        lines[at] = "  " + json.dumps(case, ensure_ascii=False) + ("," if line.endswith(",") else "")
    path.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
