#!/usr/bin/env python3
"""Dialogues of people with nano: who they are, what they tell, ask and correct.

Owns all randomness of the data; the words are in facts.py and small_talk.py. The same seed gives the
same dialogues. Three things are held out of training: combinations of facts (a person belongs to the
test side when a hash of the values says so), wordings and values marked `!` in facts.py.

    dialogues.py backbone --seed 1 --count 1000          {"messages": [{"role", "content"}, …]}
    dialogues.py cases                             the cases of `deltamem eval nano`
    dialogues.py eval --seed 1 --count 200 --facts 4     {"sessions", "question", "answers", "kind", "n_facts"}
"""

import argparse
import json
import random
import re
import zlib
from dataclasses import dataclass, field

import facts
import small_talk
from facts import KINDS, LISTED

TRAIN, TEST = False, True
# The training side with the wordings that were written after what is held out was drawn: what is trained on.
MORE = "more"


def wordings_of(what):
    table = {(k, side): facts.SPLITS[k, what][side] for k in KINDS for side in (TRAIN, TEST)}
    return table | {(k, MORE): table[k, TRAIN] + facts.MORE.get((k, what), []) for k in KINDS}


STATEMENTS, QUESTIONS = wordings_of("statements"), wordings_of("questions")
assert all(STATEMENTS.values()) and all(QUESTIONS.values()), "every kind needs wordings on both sides"
COMPOSITES = {side: [(kinds, facts.split(wordings, side)) for kinds, wordings in facts.COMPOSITES] for side in (TRAIN, TEST)}
COMPOSITES[MORE] = COMPOSITES[TRAIN] + facts.read_together()
COMPOSITE_RATE = 0.4
NOISE = 0.2
NEVER_TOLD = {side: facts.split(facts.NEVER_TOLD, side) for side in (TRAIN, TEST)}
NEVER_TOLD[MORE] = NEVER_TOLD[TRAIN]
SMALL_TALK = [(facts.expand(wording), reply) for wording, reply in small_talk.SMALL_TALK]
# What is untold, as the person would call it: "your name" is "my name"; none for "about a pet".
THINGS = {
    k: None if kind.untold.startswith("about") else
    kind.untold.replace("your", "my").replace("you are", "I am").replace("you", "I") for k, kind in KINDS.items()
}
# Common values: every kind's values, those kept from the adapter, and those it may write.
VALUES = {
    k: {
        "all": tuple(v.removeprefix("!") for v in kind.values),
        "kept": tuple(v.removeprefix("!") for v in kind.values if v.startswith("!")),
        "adapter": tuple(v for v in kind.values if not v.startswith("!")),
    }
    for k, kind in KINDS.items()
}

KNOWN = {v for of in VALUES.values() for v in of["all"]}

OPENERS = ("by the way, ", "well, ", "oh, ", "so, ", "hi, ", "hello, ", "hi! ", "hello! ", "just so you know, ", "you should know that ",
           "I want to tell you that ", "remember that ", "please remember: ", "also, ", "and ", "did you know that ", "note that ", "ok, ",
           "I should say that ", "let me tell you: ", "for your information, ", "I think I said that ", "hey, ", "listen, ",
           "hi nano, ", "hello nano, ", "hey nano, ", "hi there, ", "hello there, ", "hello there! ", "good morning, ", "good evening! ",
           "hello again, ", "hi again, ", "I'm back, ", "it's me again, ", "nice to meet you, ", "ok so, ", "okay, ", "right, ", "all right, ",
           "now, ", "oh and ", "ah, ", "yes, ", "well, you see, ", "you know, ", "look, ", "as you may know, ", "one more thing: ", "another thing: ",
           "a little about me: ", "something about me: ", "a few words about me: ", "fun fact: ", "fyi, ", "btw, ", "btw ", "please note: ",
           "please keep in mind that ", "keep in mind: ", "don't forget: ", "please don't forget that ", "remember this: ", "remember: ",
           "for later: ", "so that you know: ", "I forgot to say: ", "I forgot to tell you that ", "I don't think I mentioned it yet, but ",
           "I have not told you yet, but ", "did I mention that ", "have I told you that ", "I can tell you that ", "you may want to know that ",
           "let me introduce myself, ", "to be honest, ", "in case you need it, ", "here is something to remember: ", "as I said, ",
           "can you remember this: ", "please save this: ", "thanks, ", "great, ", "before I forget: ", "it may help you to know that ")
CLOSERS = (", by the way", ", you know", ", just so you know", ", please remember that", ", remember that", " :)", ", nice to meet you", ", thanks",
           ", btw", ", ok", ", okay", ", please don't forget", ", don't forget that", ", keep that in mind", ", please keep it in mind",
           ", in case you need it", ", as I said", ", remember it for later", ", I think I told you", ", to be honest", ", nano", "! nice to meet you",
           ", thank you", " haha", ". please remember this", ". can you remember that", ". that is all for now")
ASK_OPENERS = ("so, ", "tell me, ", "now, ", "ok, ", "hey, ", "hi, ", "and ", "please, ", "one question: ", "I forgot: ", "hello! ", "say, ",
               "nano, ", "by the way, ", "quick question, ", "hmm, ", "hello, ", "hi nano, ", "hey nano, ", "hello again, ", "hi again, ", "I'm back, ",
               "good morning, ", "ok so ", "okay, ", "all right, ", "right, ", "well, ", "oh, ", "btw, ", "listen, ", "sorry, ", "just checking: ",
               "let me check: ", "a quick test: ", "let me test you: ", "quiz: ", "question: ", "another question: ", "one more question: ",
               "next question: ", "do you remember, ", "if you remember, ", "I can't remember, ", "I don't remember, ", "thanks, ", "great, ",
               "let's see, ", "now a question: ", "but ")
ASK_CLOSERS = (" again", " please", ", please", ", do you know", ", can you tell me", " by the way",
               ", nano", ", thanks", ", thank you", ", if you remember", ", if you know", ", if I may ask", ", just checking", ", I forgot",
               ", I can't remember", ", please tell me", ", any idea", ", do you remember", " then", ", btw")
# Before "my name", "where I live", "how old I am": questions of every kind in one wording.
INDIRECT = ("tell me {x}", "can you tell me {x}", "do you know {x}", "do you remember {x}", "I forgot {x}", "remind me {x}", "do you recall {x}",
            "could you tell me {x}", "please tell me {x}", "I want to know {x}", "what do you know about {x}", "say {x}", "have I told you {x}",
            "did I tell you {x}", "can you remember {x}", "I wonder {x}", "now tell me {x}", "do you still know {x}", "you surely know {x}",
            "let me hear {x}", "guess {x}", "would you know {x}", "{x}", "{x} again", "and {x}", "remember {x}", "you know {x}", "you know {x}, right",
            "you remember {x}, don't you", "I am sure you know {x}", "do you still remember {x}", "do you happen to know {x}", "do you happen to remember {x}",
            "can you still say {x}", "can you say {x}", "can you guess {x}", "could you remind me {x}", "please remind me {x}", "would you tell me {x}",
            "would you remind me {x}", "will you tell me {x}", "let's see if you know {x}", "let's see if you remember {x}", "let me see if you know {x}",
            "I bet you don't know {x}", "I hope you remember {x}", "I hope you still know {x}", "I wonder if you know {x}", "I wonder if you remember {x}",
            "I'd like to know {x}", "I need to know {x}", "I can't remember {x}", "I don't remember {x}", "did I ever tell you {x}",
            "did I mention {x}", "did I say {x}", "have I mentioned {x}", "what did I tell you about {x}", "what did I say about {x}",
            "what have I told you about {x}", "what do you remember about {x}", "tell me what you know about {x}", "show me that you know {x}",
            "any memory of {x}", "is there anything in your memory about {x}", "have you kept a note of {x}", "what is in your mind about {x}",
            "are you able to tell me {x}", "are you able to remember {x}", "so you know {x}", "just tell me {x}", "write down {x}")
INDIRECT_HELD = ("I would like to hear {x}", "could you recall {x}", "have you kept in mind {x}", "could you write {x}", "are you sure you remember {x}",
                 "I hope you can tell me {x}", "will you say {x}")
INDIRECT_RATE = 0.25
CORRECTIONS = ("actually, {c}", "actually {c}", "sorry, {c}", "no wait, {c}", "no, {c}", "correction: {c}", "I was wrong, {c}", "{c} now",
               "I made a mistake, {c}", "that has changed: {c}", "I changed my mind, {c}", "I meant to say {c}", "not {old} any more, {c}",
               "{c}, not {old}", "forget {old}, {c}", "it is no longer {old}: {c}", "things changed, {c}", "let me correct that: {c}", "oops, {c}",
               "{c} instead", "{c} instead of {old}", "instead of {old}, {c}", "from now on, {c}", "from now on {c}", "{c} from now on", "now {c}",
               "{c}, actually", "{c}, no longer {old}", "{c} and not {old}", "I meant {c}", "I mean, {c}", "what I meant was: {c}",
               "what I meant to say is that {c}", "I did not mean {old}, {c}", "wait, {c}", "wait, not {old}, {c}", "wait a second, {c}", "no no, {c}",
               "no, not {old}, {c}", "not {old}, {c}", "it's not {old}, {c}", "it is not {old} but something else: {c}", "that was wrong, {c}",
               "that is wrong: {c}", "that's not right, {c}", "{old} is wrong, {c}", "{old} was a mistake, {c}", "{old} is no longer true, {c}",
               "{old} was true before, but now {c}", "it was {old} before, but now {c}", "it used to be {old}, but now {c}", "sorry, I made a mistake, {c}",
               "my mistake, {c}", "my bad, {c}", "sorry, my mistake: {c}", "sorry, not {old}, {c}", "I am sorry, {c}", "I have to correct myself: {c}",
               "let me correct myself, {c}", "please correct that: {c}", "small correction: {c}", "update: {c}", "an update: {c}", "please update this: {c}",
               "I have news: {c}", "good news, {c}", "something has changed, {c}", "things are different now: {c}", "it's different now, {c}",
               "please change that: {c}", "please change {old}: {c}", "forget that, {c}", "forget what I said, {c}", "forget what I told you before, {c}",
               "please forget {old}: {c}", "please forget what I said about {old}, {c}", "scratch {old}, {c}", "I told you something wrong, {c}",
               "I told you {old}, that was wrong, {c}", "I was wrong about {old}, {c}", "I lied, {c}", "I was joking, {c}", "to be honest, {c}",
               "in fact, {c}", "well, actually {c}", "oh sorry, {c}", "hmm, no, {c}", "I thought about it again, {c}", "as of today, {c}",
               "since today {c}", "since Monday {c}", "the right answer is: {c}", "the truth is that {c}", "{c}, sorry", "{c}, I mean", "{c}, I was wrong before")
CORRECTIONS_HELD = ("on second thought, {c}", "I said {old}, but {c}", "scratch that, {c}", "no longer {old}, as {c}", "I was joking about {old}, {c}",
                    "oh no, that was a mistake: {c}", "in truth, {c}", "{c}, please forget {old}")
# Those and more for MORE, less what has the words of a held-out one.
CORRECTION_WORDS = {pattern: sorted(re.findall(r"[a-z{}']+", pattern)) for pattern in (*CORRECTIONS_HELD, *facts.read_corrections())}
CORRECTIONS_MORE = CORRECTIONS + tuple(p for p in CORRECTION_WORDS if CORRECTION_WORDS[p] not in [CORRECTION_WORDS[held] for held in CORRECTIONS_HELD])
# Corrections in parts, for MORE: what opens one, what becomes of the old value, how the new one follows, what closes it.
CORRECTION_LEADS = ("sorry, ", "no, ", "wait, ", "oops, ", "hmm, ", "ah, ", "well, ", "correction: ", "update: ", "a change: ", "please note a change: ",
                    "one correction: ", "a small change: ", "a quick update: ", "change of plan: ", "I need to correct something: ", "I have to take that back, ",
                    "I take it back, ", "I misspoke, ", "I got that wrong, ", "that was not right, ", "that is not true any more, ", "that is old news, ",
                    "I gave you the wrong answer, ", "I mixed things up, ", "I was mistaken, ", "I was confused, ", "I made a typo, ", "I typed it wrong, ",
                    "turns out ", "it turns out that ", "as it happens, ", "as of now ", "starting today ", "since last week ", "since yesterday ",
                    "nowadays ", "meanwhile, ", "by now ", "things have moved on, ", "it changed, ", "that changed, ", "life goes on: ", "big news: ",
                    "you should know that it changed: ", "please fix your notes: ", "please correct your notes: ", "please replace what I told you: ",
                    "please overwrite that: ", "your notes are out of date, ", "what you know is out of date, ", "that was before, ", "that was true last year, ",
                    "let me fix that: ", "let me say it again: ", "let me put that right: ", "to correct that: ", "I should have told you that ",
                    "I should correct that, ", "better: ", "more exactly, ", "or rather, ", "rather, ", "no no no, ", "nope, ", "not quite, ", "not really, ")
CORRECTION_OLDS = ("not {old}", "it isn't {old}", "it's not {old} any more", "it is not {old} anymore", "it wasn't {old}", "it was never {old}",
                   "{old} is out", "{old} is old news", "{old} was yesterday", "{old} is not right", "{old} is not true", "{old} is in the past", "{old} is history",
                   "{old} was wrong", "{old} is over", "{old} no more", "{old} isn't right", "{old} has changed", "{old} was a typo", "{old} came out wrong",
                   "{old} does not hold any more", "{old} is what I told you before", "{old} is what you know", "{old} is out of date", "no {old} any more",
                   "you can drop {old}", "please delete {old}", "please drop {old}", "please remove {old}", "throw {old} away", "erase {old}", "cross out {old}",
                   "replace {old}", "ignore {old}", "don't believe {old}", "leave {old} out", "goodbye {old}", "so much for {old}", "enough of {old}",
                   "I told you {old} but that is wrong", "I told you {old}", "you have {old} in your notes", "you may remember {old}", "you may still think {old}",
                   "you think it is {old}", "you still have {old}", "before it was {old}", "once it was {old}", "it had been {old}", "last time I told you {old}",
                   "earlier I mentioned {old}", "when I told you {old} I was wrong", "I wrote {old} by mistake", "I told you {old} by accident", "I mentioned {old}",
                   "I typed {old}", "I called it {old}", "I claimed {old}", "I meant something other than {old}", "I should not have written {old}",
                   "until last week it was {old}", "until now it was {old}", "after {old} came a change", "I gave up {old}", "I left {old} behind", "what I told you, {old}, is wrong")
CORRECTION_JOINERS = (", ", ", ", ", but ", ", but ", ": ", " - ", ". ", ". ", "; ", ", now ", " and ", ", because ", ", since ", ", for ", " but now ", ", in fact ",
                      ", so ", ", rather ", ", as a matter of fact ", ", the truth is: ", ", instead ", ", these days ", "! ", ", actually ", ". Now ", ", today ", ", it should be: ")
CORRECTION_TAILS = (" now", ", sorry", ", sorry about that", ", I misspoke", ", please update that", ", please change your notes", ", that is right now", " for now",
                    ", please correct it", ", that is new", " by now", ", my mistake", ", I mixed that up", " these days", ", please remember the change", ", I got it wrong before")
CORRECTION_OLD_TAILS = (", not {old}", " and not {old} any more", " rather than {old}", " in place of {old}", ", {old} is wrong", ", {old} was before", ", so {old} is out",
                        ", please replace {old}", ", please drop {old}", ", so delete {old}", ", {old} is history", " (not {old})", ", {old} was a mistake", ", it isn't {old}",
                        ", it is not {old} any more", ", {old} is no longer right", " after {old}", ", {old} is over", ". {old} was wrong", ". {old} is old news", " - not {old}",
                        ", it was {old} before", ", {old} was long ago", ", and {old} is out of date", ", whatever I told you about {old}", ", never {old}", ", so not {old}",
                        ", I told you {old} by mistake", ", {old} was not right", ", you may drop {old}", ", no more {old}", " where I told you {old}", ", though I told you {old}")


def correction_in_parts(rng):
    """A wording of a correction with {c}, the statement of what holds, and mostly {old}."""
    lead = rng.choice(CORRECTION_LEADS)
    draw = rng.random()
    if draw < 0.3:
        return lead + "{c}" + (rng.choice(CORRECTION_TAILS) if rng.random() < 0.4 else "")
    lead = lead if rng.random() < 0.35 else ""
    if draw < 0.65:
        return lead + rng.choice(CORRECTION_OLDS) + rng.choice(CORRECTION_JOINERS) + "{c}" + (rng.choice(CORRECTION_TAILS) if rng.random() < 0.15 else "")
    return lead + "{c}" + rng.choice(CORRECTION_OLD_TAILS)


JOINS = (" and ", " and ", " and ", ", ", ", ", ", and ", ", and ", ". ", ". ", ". ", "; ", ". also, ", " but ", " - ", "! ", ", also ", " and also ", ", plus ",
         ". and ", ". oh, and ", ". by the way, ", " while ", ". besides, ", ". another thing: ", ". and also, ", " :) ")
# One of these opens an acknowledgement; the canonical sentences of the facts follow.
NOTED = "Noted."
ONSETS = "b c d f g h j k l m n p r s t v w z br ch cl cr dr fl fr gl gr kr pl pr sh sl sp st th tr".split()
NUCLEI = "a e i o u a e i o ai au ee ei ie oo ou y".split()
CODAS = "n r s l m x t d k nd rt st ng ck".split()
WITHOUT_MADE_UP = ("age", "birthday")


def made_up(rng, key):
    """A value that is in no list, so that copying is learnt for every spelling."""
    kind = KINDS[key]
    count = 2 if rng.random() < 0.15 else 1
    made = []
    for _ in range(count):
        word = "".join(rng.choice(ONSETS) + rng.choice(NUCLEI) for _ in range(rng.randint(1, 3)))
        made.append(word + (rng.choice(CODAS) if rng.random() < 0.6 else ""))
    value = " ".join(made)
    if key in facts.PROPER or kind.values is KINDS["name"].values or kind.values is KINDS["town"].values:
        value = value.title()
    return f"a {value}" if kind.values[0].startswith("a ") else value


def is_test_person(told):
    """A tenth of all combinations of two or more facts; one fact alone is no combination."""
    text = ";".join(f"{k}={v}" for k, v in sorted(told.items()))
    return zlib.crc32(text.encode()) % 10 == 0


@dataclass
class Style:
    """How one person types."""

    lower: bool
    bare: bool  # no final punctuation, no apostrophes
    typos: float  # probability per message

    @staticmethod
    def draw(rng):
        return Style(rng.random() < 0.3, rng.random() < 0.25, 0.12 if rng.random() < 0.3 else 0.0)

    def shown(self, value):
        """How nano repeats a value: in its own spelling if it knows it, else as it was typed."""
        return value.lower() if self.lower and value not in KNOWN else value

    def type(self, rng, text, end):
        text = text.replace("?", "").strip()
        text = text[0].upper() + text[1:]
        for cut in (". ", "! ", "? "):
            text = cut.join(part[:1].upper() + part[1:] for part in text.split(cut))
        if not self.bare:
            text += end if text[-1] not in ".!?)" else ""
        else:
            text = text.replace("'", "")
        if self.lower:
            text = text.lower()
        if rng.random() < self.typos:
            text = typo(rng, text)
        return text


def typo(rng, text):
    """Drops, doubles or swaps one letter of one lower-case word of four letters or more."""
    words = text.split(" ")
    spots = [i for i, w in enumerate(words) if len(w) >= 4 and w.isalpha() and w.islower() and w in PLAIN_WORDS]
    if not spots:
        return text
    i = rng.choice(spots)
    w = words[i]
    j = rng.randrange(1, len(w) - 1)
    words[i] = rng.choice((w[:j] + w[j + 1 :], w[:j] + w[j] + w[j:], w[:j] + w[j + 1] + w[j] + w[j + 2 :]))
    return " ".join(words)


PLAIN_WORDS = {
    w
    for kind in KINDS.values()
    for text in (*kind.statements, *kind.questions)
    for option in facts.expand(text)
    for w in option.split()
} - {w for v in VALUES.values() for text in v["all"] for w in text.lower().split()}


def noisy(rng, wording, rate):
    """At that rate, a wording that lost or changed a few of its words: no single word may decide what is meant."""
    if rng.random() >= rate:
        return wording
    words = []
    for word in wording.split():
        draw = rng.random()
        if "{" in word or draw > 0.2 or facts.RELATION.search(word):
            words.append(word)
        elif draw < 0.06:
            words.append(rng.choice(FILLERS))
    return " ".join(words) if len(words) > 1 else wording


def clause(rng, key, value, side, noise=0.0):
    return noisy(rng, rng.choice(rng.choice(STATEMENTS[key, side])), noise).replace("{v}", value)


# Wordings that begin with the value, which is another token there than inside a sentence.
VALUE_FIRST = {(k, side): [w for wordings in STATEMENTS[k, side] for w in wordings if w.startswith("{v}")] for k in KINDS for side in (TRAIN, MORE)}


def composite(wording, values):
    for k, v in values.items():
        wording = wording.replace(f"{{{k}}}", v).replace(f"{{{k}.bare}}", v.removeprefix("a ").removeprefix("an "))
    return wording


@dataclass
class Person:
    """The true facts so far, and how the person types."""

    style: Style
    told: dict = field(default_factory=dict)


FILLERS = sorted(PLAIN_WORDS)


class Talk:
    """Draws users' messages and nano's replies. `values` is one of "all", "kept", "adapter"; `wordings` is MORE or that of the side."""

    def __init__(self, rng, side=TRAIN, values="all", made_up_rate=0.0, noise=0.0, wordings=None):
        self.rng, self.values, self.made_up_rate = rng, values, made_up_rate
        self.side, self.noise = side, noise
        self.wordings = side if wordings is None else wordings
        self.person = Person(Style.draw(rng))

    def value(self, key):
        if self.made_up_rate and key not in WITHOUT_MADE_UP and self.rng.random() < self.made_up_rate:
            return made_up(self.rng, key)
        return self.rng.choice(VALUES[key][self.values])

    def draw_facts(self, n, kinds=tuple(KINDS)):
        """n facts about the person that belong to this side of the split."""
        kinds = list(kinds)
        while True:
            names = self.rng.sample(kinds, n)
            # Facts that people tell in one breath stand together more often than by chance.
            if n > 1 and self.rng.random() < 0.3:
                together = [k for k in self.rng.choice(COMPOSITES[self.wordings])[0] if k in kinds][:n]
                names = together + [k for k in names if k not in together][: n - len(together)]
            picked = {k: self.value(k) for k in names}
            if n < 2 or is_test_person(picked) == self.side:
                return picked

    def tell(self, new, opens_with_value=False):
        """A message that states the facts of `new`, and its acknowledgement."""
        rng = self.rng
        # Clauses, each with the kinds that it tells in their order.
        parts, left, first = [], dict(new), None
        if opens_with_value:
            key = next(iter(left))
            first = (rng.choice(VALUE_FIRST[key, self.wordings]).replace("{v}", left.pop(key)), [key])
        groups = COMPOSITES[self.wordings]
        if self.wordings == MORE:
            # So many that few facts would be left to stand alone.
            groups = [group for group in groups if all(k in left for k in group[0])]
            groups = rng.sample(groups, min(2, len(groups)))
        for kinds, wordings in groups:
            if all(k in left for k in kinds) and rng.random() < COMPOSITE_RATE:
                wording = rng.choice(rng.choice(wordings))
                order = sorted(kinds, key=lambda k: re.search(rf"{{{k}[.}}]", wording).start())
                parts.append((composite(wording, {k: left.pop(k) for k in kinds}), order))
        parts += [(clause(rng, k, v, self.wordings, self.noise), [k]) for k, v in left.items()]
        rng.shuffle(parts)
        if first:
            parts.insert(0, first)
        text = parts[0][0]
        for part, _ in parts[1:]:
            text += rng.choice(JOINS) + part
        new = {k: new[k] for _, kinds in parts for k in kinds}
        if rng.random() < 0.3 and not first:
            text = rng.choice(OPENERS) + text
        if rng.random() < 0.12:
            text += rng.choice(CLOSERS)
        new = {k: self.person.style.shown(v) for k, v in new.items()}
        self.person.told.update(new)
        return self.person.style.type(rng, text, "!" if rng.random() < 0.1 else "."), acknowledgement(new)

    def correct(self, key):
        rng = self.rng
        old = self.person.told[key]
        new = old
        while new == old:
            new = self.value(key)
        pattern = rng.choice({TRAIN: CORRECTIONS, TEST: CORRECTIONS_HELD, MORE: CORRECTIONS_MORE}[self.wordings])
        if self.wordings == MORE and rng.random() < 0.5:
            pattern = correction_in_parts(rng)
        text = pattern.format(c=clause(rng, key, new, self.wordings, self.noise), old=old)
        new = self.person.told[key] = self.person.style.shown(new)
        return self.person.style.type(rng, text, "."), acknowledgement({key: new})

    def question(self, key):
        thing = THINGS[key]
        if thing and self.rng.random() < INDIRECT_RATE:
            return self.rng.choice(INDIRECT_HELD if self.wordings == TEST else INDIRECT).format(x=thing)
        return noisy(self.rng, self.rng.choice(self.rng.choice(QUESTIONS[key, self.wordings])), self.noise)

    def ask(self, *keys):
        """A question about the kinds of `keys`, and the true answer."""
        rng = self.rng
        parts = [self.question(k) for k in keys]
        text = rng.choice((" and ", ", and ", "? ", ", ")).join(parts)
        if rng.random() < 0.2:
            text = rng.choice(ASK_OPENERS) + text
        if rng.random() < 0.1:
            text += rng.choice(ASK_CLOSERS)
        return self.person.style.type(rng, text, "?"), " ".join(answer(k, self.person.told.get(k)) for k in keys)

    def ask_never_told(self):
        rng = self.rng
        return self.person.style.type(rng, rng.choice(rng.choice(NEVER_TOLD[self.wordings])), "?"), facts.NOT_TOLD_THAT

    def repeat(self):
        """A list of words to be repeated: teaches copying far sooner than facts alone do, also from a message's start."""
        words = [w for k in self.rng.choices(list(KINDS), k=self.rng.randint(2, 10)) for w in self.value(k).split()]
        opener = self.rng.choice(("repeat", "repeat after me", "say", "please say", "say this", "please repeat", "can you repeat"))
        if self.rng.random() < 0.4:
            text = " ".join([words[0][0].upper() + words[0][1:], *words[1:]]) + self.rng.choice((": ", ", ", ". ")) + opener
        else:
            text = opener[0].upper() + opener[1:] + self.rng.choice((": ", " ")) + " ".join(words)
        return text, "You said: " + " ".join(words)

    def chat(self):
        wordings, reply = self.rng.choice(SMALL_TALK)
        return self.person.style.type(self.rng, self.rng.choice(wordings), self.rng.choice((".", "!", "?", ""))), reply


def answer(key, value):
    kind = KINDS[key]
    return kind.answer.format(v=value) if value else facts.NOT_TOLD.format(thing=kind.untold)


def acknowledgement(new):
    """Repeats what was understood in the very sentences that will answer questions about it."""
    return " ".join([NOTED, *(answer(k, v) for k, v in new.items())])


def told_in_turns(rng, n):
    """Splits n facts into turns of one to four facts."""
    sizes = []
    while n:
        sizes.append(min(n, rng.choice((1, 1, 1, 2, 2, 3, 4))))
        n -= sizes[-1]
    return sizes


def tell_all(talk, new, chat_rate=0.25):
    """(user, assistant) turns that tell all facts of `new`."""
    turns, items = [], list(new.items())
    for size in told_in_turns(talk.rng, len(items)):
        turns.append(talk.tell(dict(items[:size])))
        items = items[size:]
        if talk.rng.random() < chat_rate:
            turns.append(talk.chat())
    return turns


def conversation(rng, max_facts=6, made_up_rate=0.25, repeat_rate=0.03, noise=NOISE, wordings=TRAIN):
    """One backbone training dialogue as (user, assistant) turns."""
    talk = Talk(rng, made_up_rate=made_up_rate, noise=noise, wordings=wordings)
    if rng.random() < repeat_rate:
        return [talk.repeat() for _ in range(rng.randint(2, 4))]
    n = rng.choice([0, 1, 1, 2, 2, 3, 4, max_facts][: 2 + max_facts])
    turns = [talk.chat()] if rng.random() < 0.2 else []
    turns += tell_all(talk, talk.draw_facts(n))
    for _ in range(rng.randint(2, 5)):
        told = list(talk.person.told)
        draw = rng.random()
        if told and draw < 0.5:
            keys = rng.sample(told, 2) if len(told) > 1 and rng.random() < 0.12 else [rng.choice(told)]
            turns.append(talk.ask(*keys))
        elif draw < 0.72:
            turns.append(talk.ask(rng.choice(list(KINDS))))
        elif draw < 0.76:
            turns.append(talk.ask_never_told())
        elif told and draw < 0.86:
            key = rng.choice(told)
            turns.append(talk.correct(key))
            if rng.random() < 0.6:
                turns.append(talk.ask(key))
        else:
            turns.append(talk.chat())
    return turns


def drill(rng, value_first_rate):
    """Few turns about few facts, with MORE: told, corrected (with or without what was told before), or told and asked about."""
    talk = Talk(rng, made_up_rate=0.1, noise=NOISE, wordings=MORE)
    draw = rng.random()
    kinds = LISTED if rng.random() < 0.6 else tuple(KINDS)
    new = talk.draw_facts(rng.choice((1, 1, 2, 2, 3, 3, 4) if draw < 0.4 else (1, 2, 3)), kinds)
    if draw >= 0.4 and draw < 0.62:
        # As in a session of its own: the old value is in no context.
        talk.person.told = {k: talk.person.style.shown(v) for k, v in new.items()}
        turns = []
    else:
        turns = [talk.tell(new, opens_with_value=rng.random() < value_first_rate)]
    told = list(new)
    if draw >= 0.4 and draw < 0.76:
        turns += [talk.correct(key) for key in rng.sample(told, min(len(told), rng.choice((1, 1, 2))))]
    if draw >= 0.76:
        turns += [talk.ask(rng.choice(told) if rng.random() < 0.4 else rng.choice(list(KINDS))) for _ in range(rng.randint(2, 4))]
    return turns


def messages(turns):
    return [{"role": role, "content": text} for turn in turns for role, text in zip(("user", "assistant"), turn)]


def evaluation_case(rng, n_facts, task="recall", n_unrelated=0, side=TEST, values="all"):
    """One case: what is told before the context is dropped, and a question about it.

    task: recall | correction | untold. Returns a dict of the --facts format with `turns`, the told
    turns with the acknowledgements that nano should give.
    """
    talk = Talk(rng, side, values)
    new = talk.draw_facts(n_facts, [k for k in LISTED if VALUES[k][values]])
    turns = tell_all(talk, new, chat_rate=0.0)
    key = rng.choice(list(new)) if new else rng.choice(LISTED)
    old = talk.person.told.get(key)
    if task == "correction":
        turns.append(talk.correct(key))
    if task == "untold":
        key = rng.choice([k for k in LISTED if k not in new])
    for _ in range(n_unrelated):
        turns.append(talk.chat())
    question, reply = talk.ask(key)
    value = talk.person.told.get(key)
    return {
        "sessions": [[user for user, _ in turns]],
        "question": question,
        "answers": [value] if value else ["not told me"],
        "kind": key,
        "n_facts": n_facts,
        "task": task,
        "n_unrelated": n_unrelated,
        "turns": turns,
        "reply": reply,
        "old": old,
    }


# What cases.jsonl holds: (group, facts, unrelated turns, task, values, how many).
CASES = (
    *(("recall", n, 0, "recall", "adapter", 200) for n in (1, 2, 4, 8)),
    ("unrelated", 2, 4, "recall", "adapter", 100),
    ("unrelated", 2, 16, "recall", "adapter", 100),
    ("unrelated", 2, 64, "recall", "adapter", 50),
    ("correction", 2, 0, "correction", "adapter", 200),
    ("untold", 2, 0, "untold", "adapter", 200),
    ("values", 2, 0, "recall", "kept", 100),
)


def evaluation_cases(seed):
    """The lines of cases.jsonl: held-out people and wordings; unrelated turns are sessions of their own, of 16 at most."""
    for group, n_facts, n_unrelated, task, values, count in CASES:
        rng = random.Random(f"{seed} {group} {n_facts} {n_unrelated}")
        for _ in range(count):
            case = evaluation_case(rng, n_facts, task, n_unrelated, values=values)
            told = [user for user, _ in case["turns"]]
            split = len(told) - n_unrelated
            # Half of the corrections come in a later session.
            if task == "correction" and rng.random() < 0.5:
                split -= 1
            line = {"group": group, "n_facts": n_facts, "n_unrelated": n_unrelated, "kind": case["kind"],
                    "sessions": [part for part in (told[:split], *(told[i : i + 16] for i in range(split, len(told), 16))) if part], "question": case["question"], "answers": case["answers"]}
            if task == "correction":
                line["old"] = case["old"]
            yield line


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("backbone", "eval", "cases"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--facts", type=int, default=2)
    parser.add_argument("--unrelated", type=int, default=0)
    parser.add_argument("--task", choices=("recall", "correction", "untold"), default="recall")
    options = parser.parse_args()
    if options.what == "cases":
        for case in evaluation_cases(options.seed):
            print(json.dumps(case, ensure_ascii=False))
        return
    rng = random.Random(options.seed)
    for _ in range(options.count):
        if options.what == "backbone":
            print(json.dumps({"messages": messages(conversation(rng))}, ensure_ascii=False))
        else:
            case = evaluation_case(rng, options.facts, options.task, options.unrelated)
            print(json.dumps({k: v for k, v in case.items() if k not in ("turns", "reply", "old")}, ensure_ascii=False))


if __name__ == "__main__":
    main()
