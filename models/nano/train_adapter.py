#!/usr/bin/env python3
"""Trains the δ-mem adapter of nano on its frozen backbone.

An episode: a first session is read and written (system header, messages, nano's own replies); its
context is dropped; questions are asked in fresh contexts. Loss on the replies, back-propagated
through every write. Writes OUT/adapter.pt, OUT/adapter.csv (one line an evaluation) and
OUT/checkpoint.pt, from which the same command goes on after an interruption.
"""

import argparse
import copy
import csv
import math
import pathlib
import random
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

import dialogues
import memory
import model
import muon
import prompt


class Batch:
    """Right-padded rows of (ids, marks, calls); calls = (first, end, n_header) of each prompt call."""

    def __init__(self, rows, granularity):
        t = max(len(r[0]) for r in rows)
        self.ids = torch.zeros(len(rows), t, dtype=torch.long)
        self.scored = torch.zeros(len(rows), t, dtype=torch.bool)
        mask = torch.zeros(len(rows), t)
        means = torch.eye(t).repeat(len(rows), 1, 1) if granularity == "message_mean" else None
        for i, (ids, marks, spans) in enumerate(rows):
            self.ids[i, : len(ids)] = torch.tensor(ids)
            self.scored[i, : len(ids) - 1] = torch.tensor(marks[1:], dtype=torch.bool)
            mask[i, : len(ids)] = 1
            if means is not None:
                # All tokens of a call read the state before it; its message is written at its last token.
                for first, end, message_first, message_end in spans:
                    mask[i, first:end] = 0
                    if message_end > message_first:
                        mask[i, end - 1] = 1
                        means[i, end - 1] = 0
                        means[i, end - 1, message_first:message_end] = 1 / (message_end - message_first)
        self.writes = memory.Writes(mask, means)


class Episodes:
    def __init__(self, chat):
        self.chat = chat
        self.n_prompt = len(chat.ids("<|im_start|>assistant\n<think>\n\n</think>\n"))

    def row(self, turns, date):
        """ids, marks and the spans of calls as the session makes them: prompt, reply tokens, closing tokens."""
        chat = self.chat
        ids, marks = chat.dialogue([], date)
        spans, call_first = [], 0
        for user_text, reply in turns:
            asked, said = chat.ids(prompt.user(user_text)), chat.ids(reply)
            message_first = len(ids)
            ids = ids + asked
            spans.append((call_first, len(ids), message_first, len(ids) - self.n_prompt))
            ids = ids + said
            call_first = len(ids)
            ids = ids + [chat.end] + chat.newline
            spans.append((call_first, len(ids), call_first, len(ids)))
            marks += [0] * len(asked) + [1] * (len(said) + 1) + [0]
            call_first = len(ids)
        return ids, marks, spans


@dataclass
class Plan:
    """What episodes hold at this point of the training."""

    max_facts: int
    chat_turns: int  # at most, inside the told session
    later_turns: int  # at most, in a session of its own after it; 0: there is none
    header_rate: float
    made_up_rate: float
    max_asked: int  # questions a row


# Share of the training after which a plan holds.
PLANS = (
    (0.0, Plan(1, 0, 0, 0.3, 0.0, 3)),
    (0.07, Plan(2, 2, 0, 0.4, 0.05, 3)),
    (0.17, Plan(4, 2, 4, 0.5, 0.05, 3)),
    (0.32, Plan(8, 3, 8, 0.6, 0.08, 3)),
    (0.75, Plan(8, 4, 16, 0.9, 0.08, 2)),
)


def draw_questions(rng, talk, n):
    """n turns of a later session: questions about what was told and what was not, and a little chat."""
    told, turns = list(talk.person.told), []
    for _ in range(n):
        draw = rng.random()
        if draw < 0.66:
            turns.append(talk.ask(rng.choice(told)))
        elif draw < 0.70 and len(told) > 1:
            turns.append(talk.ask(*rng.sample(told, 2)))
        elif draw < 0.92:
            turns.append(talk.ask(rng.choice([k for k in dialogues.KINDS if k not in told])))
        elif draw < 0.96:
            turns.append(talk.ask_never_told())
        else:
            turns.append(talk.chat())
    return turns


def draw_episode(rng, episodes, plan, n_rows):
    """A told session, perhaps a later one (else None), and n_rows sessions of questions."""
    talk = dialogues.Talk(rng, values="adapter", made_up_rate=plan.made_up_rate, wordings=dialogues.MORE)
    kinds = dialogues.LISTED if rng.random() < 0.7 else tuple(dialogues.KINDS)
    turns = dialogues.tell_all(talk, talk.draw_facts(rng.randint(1, plan.max_facts), kinds), chat_rate=0.0)
    if rng.random() < 0.15:
        turns.append(talk.correct(rng.choice(list(talk.person.told))))
    for _ in range(rng.randint(0, plan.chat_turns)):
        turns.insert(rng.randint(0, len(turns)), talk.chat())
    date = lambda: prompt.draw_date(rng) if rng.random() < plan.header_rate else None
    later = None
    if plan.later_turns and rng.random() < 0.5:
        later_turns = [talk.chat() for _ in range(rng.randint(0, plan.later_turns))]
        draw = rng.random()
        if draw < 0.35:
            later_turns.insert(rng.randint(0, len(later_turns)), talk.correct(rng.choice(list(talk.person.told))))
        elif draw < 0.6 and len(talk.person.told) < plan.max_facts:
            free = [k for k in kinds if k not in talk.person.told]
            later_turns.insert(rng.randint(0, len(later_turns)), talk.tell(talk.draw_facts(1, free)))
        elif draw < 0.75:
            later_turns += draw_questions(rng, talk, 1)
        later = episodes.row(later_turns or [talk.chat()], date())
    return episodes.row(turns, date()), later, [episodes.row(draw_questions(rng, talk, rng.randint(1, plan.max_asked)), date()) for _ in range(n_rows)]


def token_loss(nano, hidden, batch):
    """Mean cross-entropy of the scored positions."""
    logits = nano.logits(hidden[:, :-1][batch.scored[:, :-1]])
    return F.cross_entropy(logits.float(), batch.ids[:, 1:][batch.scored[:, :-1]])


@torch.no_grad()
def recall(nano, mem, episodes, cases, granularity):
    """Share of cases whose greedy reply from memory alone is the true one (replies while telling: as trained)."""
    ok, misses = 0, []
    for start in range(0, len(cases), 50):
        part = cases[start : start + 50]
        told = Batch([episodes.row(c["turns"], "20 November 2026") for c in part], granularity)
        states = mem.zero_states(len(part))
        if told.ids.shape[1]:
            _, states = mem.run(nano, told.ids, states, told.writes)
        asked = Batch([episodes.row([(c["question"], c["reply"])], "21 November 2026") for c in part], granularity)
        hidden, _ = mem.run(nano, asked.ids, states, asked.writes)
        guess = nano.logits(hidden).argmax(-1)
        right = ((guess[:, :-1] == asked.ids[:, 1:]) | ~asked.scored[:, :-1]).all(1)
        ok += right.sum().item()
        for i in (~right).nonzero().flatten().tolist():
            misses.append((part[i]["question"], part[i]["reply"], episodes.chat.tokenizer.decode(guess[i][asked.scored[i]].tolist())))
    return ok / len(cases), misses


def evaluation_sets(n, seed=11):
    def cases(facts, **more):
        rng = random.Random(f"{seed} {facts} {sorted(more.items())}")
        return [dialogues.evaluation_case(rng, facts, **more) for _ in range(n)]

    return {
        "train1": cases(1, side=dialogues.TRAIN, values="adapter"),
        **{f"recall{k}": cases(k, values="adapter") for k in (1, 2, 4, 8)},
        "kept2": cases(2, values="kept"),
        **{f"after{k}": cases(2, values="adapter", n_unrelated=k) for k in (4, 16)},
        "correct2": cases(2, values="adapter", task="correction"),
        "untold0": cases(0, values="adapter", task="untold"),
        "untold2": cases(2, values="adapter", task="untold"),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--mode", default="no_lambda", choices=("standard", "no_lambda", "free_lambda"))
    parser.add_argument("--granularity", default="token", choices=("token", "message_mean"))
    parser.add_argument("--delta", default="q,o")
    parser.add_argument("--beta-bias", type=float, default=-1.5)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rows", type=int, default=2, help="sessions of questions an episode")
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--optimizer", default="adam", choices=("adam", "muon"))
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--until", type=float, default=0)
    parser.add_argument("--eval-every", type=int, default=100)
    parser.add_argument("--eval-cases", type=int, default=100)
    parser.add_argument("--resume", type=pathlib.Path, help="an adapter.pt, or a folder as export.py writes it, to go on from")
    parser.add_argument("--bf16", action="store_true", help="matrix products in bf16, on CPUs that have such instructions; states stay f32")
    parser.add_argument("--plan-from", type=float, default=0.0, help="share of the training from which plans are drawn at the start")
    parser.add_argument("--compile", action="store_true", help="fuse the small operations (needs a C++ compiler)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    o = parser.parse_args()
    torch.set_num_threads(o.threads)
    torch.manual_seed(o.seed)
    o.out.mkdir(parents=True, exist_ok=True)
    saved = model.load_backbone(o.backbone)
    nano = model.Nano(saved["config"])
    nano.load_state_dict(saved["weights"])
    model.round_to_bf16(nano).requires_grad_(False)
    chat = prompt.Chat(Tokenizer.from_file(str(model.tokenizer_of(o.backbone))))
    episodes = Episodes(chat)
    d = memory.DELTA_CONFIG | {
        "num_state_heads": o.heads, "memory_write_granularity": o.granularity, "delta_heads": o.delta.split(","),
        "couple_lambda": o.mode != "free_lambda", "state_update_mode": "no_lambda" if o.mode == "no_lambda" else "standard",
    }
    mem = memory.Memory(saved["config"], d, o.beta_bias)
    if o.resume:
        mem.load_state_dict(memory.load_adapter(o.resume))
    trained = [p for p in mem.parameters() if p.requires_grad]
    print(f"{sum(p.numel() for p in trained):,} trained parameters", flush=True)
    if o.optimizer == "muon":
        optimizers = [muon.Muon([p for p in trained if p.dim() == 2], lr=o.lr, weight_decay=0.0),
                      torch.optim.AdamW([p for p in trained if p.dim() == 1], lr=4e-3, weight_decay=0.0)]
    else:
        optimizers = [torch.optim.AdamW(trained, lr=o.lr, betas=(0.9, 0.98), weight_decay=0.0)]
    peaks = [opt.param_groups[0]["lr"] for opt in optimizers]
    run = torch.compile(mem.run, dynamic=True) if o.compile else mem.run
    sets = evaluation_sets(o.eval_cases)
    checkpoint_path = o.out / "checkpoint.pt"
    checkpoint = torch.load(checkpoint_path, weights_only=False) if checkpoint_path.exists() else None
    log = csv.writer((o.out / "adapter.csv").open("a" if checkpoint else "w", buffering=1))
    rng = random.Random(o.seed)
    began, asked_mean, told_mean = time.time(), 0.0, 0.0
    step = 0
    if checkpoint:
        mem.load_state_dict(checkpoint["weights"])
        for opt, state in zip(optimizers, checkpoint["optimizers"]):
            opt.load_state_dict(state)
        step, asked_mean, told_mean = (checkpoint[k] for k in ("step", "asked_mean", "told_mean"))
        rng.setstate(checkpoint["rng"])
        began -= checkpoint["seconds"]
        print(f"goes on at step {step}", flush=True)
    else:
        log.writerow(["step", "seconds", "loss_asked", "loss_told", *sets])
    while True:
        p = min(1.0, (time.time() - began) / o.until if o.until else step / o.steps)
        for opt, peak in zip(optimizers, peaks):
            opt.param_groups[0]["lr"] = peak * min(1.0, (step + 1) / 30) * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * p)))
        plan = [plan for first, plan in PLANS if max(p, o.plan_from) >= first][-1]
        drawn = [draw_episode(rng, episodes, plan, o.rows) for _ in range(o.batch)]
        told = Batch([row for row, _, _ in drawn], o.granularity)
        with torch.autocast("cpu", torch.bfloat16, enabled=o.bf16):
            hidden, states = run(nano, told.ids, mem.zero_states(o.batch), told.writes)
            loss_told = token_loss(nano, hidden, told)
            goes_on = [i for i, (_, later, _) in enumerate(drawn) if later]
            if len(goes_on) > 1:
                later = Batch([drawn[i][1] for i in goes_on], o.granularity)
                which = torch.tensor(goes_on)
                hidden, after = run(nano, later.ids, [s[which] for s in states], later.writes)
                loss_told = loss_told + token_loss(nano, hidden, later)
                states = [s.index_copy(0, which, a) for s, a in zip(states, after)]
            asked = Batch([row for _, _, rows in drawn for row in rows], o.granularity)
            states = [s.repeat_interleave(o.rows, 0) for s in states]
            hidden, _ = run(nano, asked.ids, states, asked.writes)
            loss_asked = token_loss(nano, hidden, asked)
        for opt in optimizers:
            opt.zero_grad()
        (loss_asked + 0.2 * loss_told).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        for opt in optimizers:
            opt.step()
        rate = 0.02 if step else 1.0
        asked_mean += rate * (loss_asked.item() - asked_mean)
        told_mean += rate * (loss_told.item() - told_mean)
        step += 1
        if step % 25 == 0:
            seconds = time.time() - began
            print(f"{step} loss asked {asked_mean:.3f} told {told_mean:.3f} {seconds:.0f} s {1000 * seconds / step:.0f} ms/step", flush=True)
        if step % o.eval_every == 0 or p >= 1.0:
            torch.save({"config": d, "weights": mem.state_dict()}, o.out / "adapter.pt")
            torch.save({"weights": mem.state_dict(), "optimizers": [opt.state_dict() for opt in optimizers], "step": step, "rng": rng.getstate(),
                        "asked_mean": asked_mean, "told_mean": told_mean, "seconds": time.time() - began}, checkpoint_path)
            shipped = model.round_to_bf16(copy.deepcopy(mem))
            results = {name: recall(nano, shipped, episodes, s, o.granularity) for name, s in sets.items()}
            log.writerow([step, round(time.time() - began), f"{asked_mean:.4f}", f"{told_mean:.4f}", *(f"{r:.3f}" for r, _ in results.values())])
            print({name: round(r, 3) for name, (r, _) in results.items()}, flush=True)
            for miss in results["recall1"][1][:4] + results["recall2"][1][:2]:
                print("   ", miss, flush=True)
        if p >= 1.0:
            break


if __name__ == "__main__":
    main()
