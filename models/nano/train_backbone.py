#!/usr/bin/env python3
"""Trains nano's backbone from scratch on the dialogues of dialogues.py; the loss is on replies only.

Writes OUT/backbone.pt, OUT/backbone.csv (one line an evaluation), OUT/tokenizer.json and
OUT/checkpoint.pt, from which the same command goes on after an interruption.
"""

import argparse
import csv
import math
import pathlib
import random
import time

import torch
import torch.nn.functional as F

from tokenizers import Tokenizer

import dialogues
import model
import muon
import prompt


def batch_of(rows):
    """rows: (ids, marks). Right-padded [B, T] ids and the mask of positions whose successor is scored."""
    t = max(len(ids) for ids, _ in rows)
    ids = torch.zeros(len(rows), t, dtype=torch.long)
    scored = torch.zeros(len(rows), t, dtype=torch.bool)
    for i, (row, marks) in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        scored[i, : len(row) - 1] = torch.tensor(marks[1:], dtype=torch.bool)
    return ids, scored


# Dialogues grow with the level: facts at most, turns at most, share with the system header, share of
# pure repetition (which teaches copying), tokens a step.
LEVELS = ((1, 3, 0.0, 0.5, 2048), (2, 4, 0.1, 0.1, 2048), (4, 7, 0.4, 0.06, 3072), (8, 99, 0.85, 0.04, 4096))
# Share of the batches that stays with an earlier level: short dialogues are the cheapest way to meet every wording.
EARLIER_RATE = 0.5
# A level ends when the mean loss falls below this, or at this share of the training.
LEVEL_UP_LOSS, LEVELS_END = 0.25, (0.12, 0.22, 0.35)
# From this share of the training on, that share of the draws are drills, messages of one to four facts with their
# acknowledgement, corrections and questions: the hardest thing to learn, and all recall depends on it.
DRILLS_FROM, DRILL_RATE = 0.2, 0.5
# This share of the drills begin with a value: few wordings do, and each value has to be met so.
VALUE_FIRST_RATE = 0.3


def batches(chat, rng, level, progress):
    """Endless batches of dialogues of level(), at times of an earlier one, and of drills."""
    while True:
        now = level()
        is_drill = progress() >= DRILLS_FROM and rng.random() < DRILL_RATE
        if now > 1 and rng.random() < EARLIER_RATE:
            now = rng.randint(1, now - 1)
        max_facts, max_turns, header_rate, repeat_rate, tokens = LEVELS[now]
        tokens = LEVELS[level()][-1]
        # As drills are short, more of them.
        rows = [chat.dialogue(dialogues.drill(rng, VALUE_FIRST_RATE), prompt.draw_date(rng) if rng.random() < 0.3 else None) for _ in range(512 if is_drill else 0)]
        for _ in range(0 if is_drill else 128):
            turns = dialogues.conversation(rng, max_facts=max_facts, made_up_rate=0.1 if now < 2 else 0.2, repeat_rate=repeat_rate, wordings=dialogues.MORE)[:max_turns]
            rows.append(chat.dialogue(turns, prompt.draw_date(rng) if rng.random() < header_rate else None))
        rows.sort(key=lambda r: len(r[0]))
        groups, group = [], []
        for row in rows:
            if group and (len(group) + 1) * len(row[0]) > tokens:
                groups.append(group)
                group = []
            group.append(row)
        rng.shuffle(groups)
        yield from groups


@torch.no_grad()
def share_spellings(nano, tokenizer):
    """Tokens that differ by case or a leading space alone start close to each other, so that one is soon read for the other."""
    weight, first = nano.embed_tokens.weight, {}
    for token, i in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        bare = token.removeprefix("Ġ").lower()
        if len(bare) > 2:
            weight[i] = 0.8 * weight[first.setdefault(bare, i)] + 0.6 * weight[i] if bare in first else weight[i]
            first.setdefault(bare, i)


@torch.no_grad()
def exact_replies(nano, chat, cases, with_context):
    """Share of cases whose greedy reply is the true one, and the first misses."""
    ok, misses = 0, []
    for start in range(0, len(cases), 50):
        rows = []
        for case in cases[start : start + 50]:
            ids, marks = chat.dialogue(case["turns"] if with_context else [], "20 November 2026")
            more, more_marks = chat.turn(case["question"], case["reply"])
            rows.append((ids + more, [0] * len(marks) + more_marks))
        ids, scored = batch_of(rows)
        guess = nano.logits(nano.hidden(ids)).argmax(-1)
        right = ((guess[:, :-1] == ids[:, 1:]) | ~scored[:, :-1]).all(1)
        ok += right.sum().item()
        for i in (~right).nonzero().flatten().tolist():
            said = chat.tokenizer.decode(guess[i][scored[i]].tolist())
            misses.append((cases[start + i]["question"], cases[start + i]["reply"], said))
    return ok / len(cases), misses


def evaluation_sets(n, seed=7):
    def cases(facts, **more):
        rng = random.Random(f"{seed} {facts} {sorted(more.items())}")
        return [dialogues.evaluation_case(rng, facts, **more) for _ in range(n)]

    def told(facts):
        rng = random.Random(f"{seed} told {facts}")
        talks = [dialogues.Talk(rng, dialogues.TEST) for _ in range(n)]
        return [dict(zip(("question", "reply"), talk.tell(talk.draw_facts(facts, dialogues.LISTED))), turns=[]) for talk in talks]

    def corrected():
        """Corrections in a session of their own: the message alone says what holds."""
        rng, alone = random.Random(f"{seed} corrected"), []
        for _ in range(n):
            talk = dialogues.Talk(rng, dialogues.TEST)
            talk.person.told = talk.draw_facts(1, dialogues.LISTED)
            alone.append(dict(zip(("question", "reply"), talk.correct(*talk.person.told)), turns=[]))
        return alone

    return {
        "told1": (told(1), True),
        "told3": (told(3), True),
        "corrected": (corrected(), True),
        "train2": (cases(2, side=dialogues.TRAIN), True),
        "held1": (cases(1), True),
        "held2": (cases(2), True),
        "held4": (cases(4), True),
        "held8": (cases(8), True),
        "correct2": (cases(2, task="correction"), True),
        "untold0": (cases(0, task="untold"), True),
        "untold2": (cases(2, task="untold"), True),
        "untold2_train": (cases(2, task="untold", side=dialogues.TRAIN), True),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--lr", type=float, default=0.005)
    parser.add_argument("--adam-lr", type=float, default=3e-3)
    parser.add_argument("--constant", type=float, default=0.5, help="share of the training before the rates fall to nothing in a line")
    parser.add_argument("--optimizer", choices=("muon", "adam"), default="muon")
    parser.add_argument("--layers", type=int, default=model.CONFIG["num_hidden_layers"])
    parser.add_argument("--hidden", type=int, default=model.CONFIG["hidden_size"])
    parser.add_argument("--heads", type=int, default=model.CONFIG["num_attention_heads"])
    parser.add_argument("--head-dim", type=int, default=model.CONFIG["head_dim"])
    parser.add_argument("--eval-every", type=int, default=250)
    parser.add_argument("--eval-cases", type=int, default=100)
    parser.add_argument("--until", type=float, default=0, help="stop this many seconds after the start, where the schedule follows the clock")
    parser.add_argument("--compile", action="store_true", help="fuse the small operations (needs a C++ compiler); a sixth faster")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", type=pathlib.Path, help="a backbone.pt, or a folder as export.py writes it, whose weights and tokenizer to go on from, with all kinds of data at once")
    parser.add_argument("--bf16", action="store_true", help="matrix products in bf16, on CPUs that have such instructions")
    parser.add_argument("--seed", type=int, default=1)
    o = parser.parse_args()
    torch.set_num_threads(o.threads)
    torch.manual_seed(o.seed)
    o.out.mkdir(parents=True, exist_ok=True)
    resumed = model.load_backbone(o.resume) if o.resume else None
    tokenizer = Tokenizer.from_file(str(model.tokenizer_of(o.resume))) if o.resume else prompt.make_tokenizer()
    tokenizer.save(str(o.out / "tokenizer.json"))
    chat = prompt.Chat(tokenizer)
    prompt.check_template(chat, prompt.FOLDER / "chat_template.jinja")
    config = model.CONFIG | {"num_hidden_layers": o.layers, "hidden_size": o.hidden, "num_attention_heads": o.heads, "num_key_value_heads": o.heads // 2, "head_dim": o.head_dim,
                             "intermediate_size": o.hidden * 11 // 4}
    if resumed:
        config = resumed["config"]
    nano = model.Nano(config)
    if resumed:
        nano.load_state_dict(resumed["weights"])
    else:
        share_spellings(nano, tokenizer)
    print(f"{nano.n_parameters():,} parameters", flush=True)
    forward = torch.compile(nano.hidden, dynamic=True) if o.compile else nano.hidden
    matrices = [p for p in nano.layers.parameters() if p.dim() == 2]
    others = [p for p in nano.parameters() if not any(p is m for m in matrices)]
    if o.optimizer == "muon":
        optimizers = [muon.Muon(matrices, lr=o.lr, weight_decay=0.01, momentum=0.95, dtype=torch.bfloat16 if o.bf16 else torch.float32),
                      torch.optim.AdamW(others, lr=o.adam_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True)]
    else:
        optimizers = [torch.optim.AdamW(nano.parameters(), lr=o.adam_lr, betas=(0.9, 0.98), weight_decay=0.01)]
    peaks = [opt.param_groups[0]["lr"] for opt in optimizers]
    sets = evaluation_sets(o.eval_cases)
    checkpoint_path = o.out / "checkpoint.pt"
    checkpoint = torch.load(checkpoint_path, weights_only=False) if checkpoint_path.exists() else None
    began, step = time.time(), 0
    progress = lambda: min(1.0, (time.time() - began) / o.until if o.until else step / o.steps)
    running, n_tokens = 0.0, 0
    level, level_since = (len(LEVELS) - 1 if resumed else 0), 0
    if checkpoint:
        nano.load_state_dict(checkpoint["weights"])
        for opt, state in zip(optimizers, checkpoint["optimizers"]):
            opt.load_state_dict(state)
        step, running, n_tokens, level, level_since = (checkpoint[k] for k in ("step", "running", "n_tokens", "level", "level_since"))
        began -= checkpoint["seconds"]
        print(f"goes on at step {step}", flush=True)
    log = csv.writer((o.out / "backbone.csv").open("a" if checkpoint else "w", buffering=1))
    if not checkpoint:
        log.writerow(["step", "seconds", "tokens", "loss", *sets])
    data = None
    while True:
        # The data depends on the step alone, so that an interrupted run sees the same.
        if step % o.eval_every == 0 or data is None:
            data = batches(chat, random.Random(f"{o.seed} {step // o.eval_every}"), lambda: level, (lambda: 1.0) if resumed else progress)
        rows = next(data)
        p = progress()
        factor = min(1.0, (step + 1) / 50) * min(1.0, (1 - p) / (1 - o.constant) + 0.01)
        for opt, peak in zip(optimizers, peaks):
            opt.param_groups[0]["lr"] = peak * factor
        ids, scored = batch_of(rows)
        with torch.autocast("cpu", torch.bfloat16, enabled=o.bf16):
            logits = nano.logits(forward(ids)[:, :-1][scored[:, :-1]])
        loss = F.cross_entropy(logits.float(), ids[:, 1:][scored[:, :-1]])
        for opt in optimizers:
            opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(nano.parameters(), 1.0)
        for opt in optimizers:
            opt.step()
        n_tokens += ids.numel()
        running = loss.item() if step == 0 else 0.98 * running + 0.02 * loss.item()
        step += 1
        if level + 1 < len(LEVELS) and step - level_since > 100 and (running < LEVEL_UP_LOSS or p > LEVELS_END[level]):
            level, level_since = level + 1, step
            print(f"{step} level {level}", flush=True)
        done = p >= 1.0
        if step % 50 == 0:
            print(f"{step} loss {running:.3f} {time.time() - began:.0f} s {n_tokens / (time.time() - began):.0f} tokens/s", flush=True)
        if step % o.eval_every == 0 or done:
            torch.save({"config": config, "weights": nano.state_dict()}, o.out / "backbone.pt")
            torch.save({"weights": nano.state_dict(), "optimizers": [opt.state_dict() for opt in optimizers], "step": step, "running": running, "n_tokens": n_tokens,
                        "level": level, "level_since": level_since, "seconds": time.time() - began}, checkpoint_path)
            results = {name: exact_replies(nano, chat, *s) for name, s in sets.items()}
            log.writerow([step, round(time.time() - began), n_tokens, f"{running:.4f}", *(f"{r:.3f}" for r, _ in results.values())])
            print({name: round(r, 3) for name, (r, _) in results.items()}, flush=True)
            for name in ("told1", "told3", "held2", "untold2"):
                for miss in results[name][1][:4]:
                    print("   ", name, miss, flush=True)
        if done:
            break


if __name__ == "__main__":
    main()
