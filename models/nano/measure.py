"""How much of what it is told a backbone understands, on more draws than cases.jsonl has.

    python measure.py                      the shipped folder, 1,000 cases a row
    python measure.py --cases 3000 --sets told1,told3 --show 10 ../../target/nano/backbone/backbone.pt

Held-out people and wordings, drawn anew; a case counts when the reply is the true one to the letter, with the
true replies of the turns before it fed. told: acknowledgements of one and three facts; held: answers with the
facts in context; correct2 and corrected: after and to a correction; untold: it says that it was not told.
"""
import argparse
import math
import pathlib

from tokenizers import Tokenizer

import model
import prompt
from train_backbone import evaluation_sets, exact_replies

SETS = "told1,told3,corrected,held1,held2,held4,held8,correct2,untold0,untold2"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbone", type=pathlib.Path, nargs="?", default=pathlib.Path(__file__).parent)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--sets", default=SETS)
    parser.add_argument("--show", type=int, default=0, help="misses to print of each: message, true reply, reply")
    parser.add_argument("--seed", type=int, default=99, help="7 are the cases of the training's log")
    given = parser.parse_args()
    saved = model.load_backbone(given.backbone)
    chat = prompt.Chat(Tokenizer.from_file(str(model.tokenizer_of(given.backbone))))
    nano = model.Nano(saved["config"])
    nano.load_state_dict(saved["weights"])
    model.round_to_bf16(nano)
    sets = evaluation_sets(given.cases, given.seed)
    names = given.sets.split(",")
    unknown = [name for name in names if name not in sets]
    if unknown:
        parser.error(f"there is no {unknown[0]}: {','.join(sets)}")
    for name in names:
        cases, with_context = sets[name]
        share, misses = exact_replies(nano, chat, cases, with_context)
        error = math.sqrt(share * (1 - share) / len(cases))
        print(f"{name:14} {100 * share:6.2f} % ± {100 * error:.2f}  {len(misses)} of {len(cases)} wrong", flush=True)
        for miss in misses[: given.show]:
            print("    ", " | ".join(miss))


if __name__ == "__main__":
    main()
