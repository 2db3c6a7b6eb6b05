"""English dialogue for the tokenizer of the model of noise. Owns the word lists and the sentence patterns.

Everything here was written for this project. `lines(seed, count)` is deterministic.
"""

import random

# What a person may say about themselves: values, ways to say it, ways to ask, the answer.
FACTS = {
    "name": (
        "Alma Bruno Carla Dario Edith Fabio Greta Hector Ilse Jonas Karim Lena Marco Nadia Otto Petra "
        "Rafael Selma Tomas Ursula Viktor Wanda Yusuf Zoe Anna David Emma Felix Laura Martin Nina Peter",
        ["My name is {v}.", "I am {v}.", "I'm {v}, by the way.", "Please call me {v}.", "Everyone calls me {v}."],
        ["What is my name?", "Do you remember my name?", "Who am I?"],
        "Your name is {v}.",
    ),
    "city": (
        "Athens Bergen Chicago Dakar Edinburgh Florence Geneva Helsinki Istanbul Jakarta Krakow Lisbon "
        "Madrid Nairobi Ottawa Prague Rome Sydney Toronto Vienna Warsaw Zagreb London Boston Berlin Paris",
        ["I live in {v}.", "My home is in {v}.", "I have just moved to {v}.", "I come from {v}."],
        ["Where do I live?", "Which city do I live in?", "Where is my home?"],
        "You live in {v}.",
    ),
    "animal": (
        "cat dog rabbit parrot hamster tortoise horse goldfish canary lizard donkey goat snake ferret",
        ["I have a {v} at home.", "My pet is a {v}.", "We keep a {v}.", "I got a {v} last year."],
        ["What pet do I have?", "Which animal lives with me?", "What animal do I keep?"],
        "You have a {v}.",
    ),
    "colour": (
        "red blue green yellow purple orange pink black white grey brown silver golden violet",
        ["My favourite colour is {v}.", "The colour I like best is {v}.", "I paint everything {v}."],
        ["What is my favourite colour?", "Which colour do I like best?"],
        "Your favourite colour is {v}.",
    ),
    "food": (
        "soup bread cheese pasta rice salad curry noodles apples chocolate potatoes mushrooms pancakes fish "
        "tomatoes beans honey strawberries",
        ["My favourite food is {v}.", "I could eat {v} every day.", "I like {v} more than anything else."],
        ["What is my favourite food?", "What could I eat every day?", "What do I like to eat?"],
        "Your favourite food is {v}.",
    ),
    "work": (
        "nurse teacher farmer baker driver painter lawyer writer doctor carpenter engineer gardener plumber "
        "librarian musician translator",
        ["I work as a {v}.", "I am a {v}.", "My job is being a {v}.", "I have been a {v} for ten years."],
        ["What is my job?", "What do I do for work?", "What do I work as?"],
        "You work as a {v}.",
    ),
    "hobby": (
        "reading swimming running cooking painting dancing singing cycling climbing fishing chess sailing "
        "gardening skiing drawing writing",
        ["My hobby is {v}.", "I spend my weekends {v}.", "After work I enjoy {v}.", "I have taken up {v}."],
        ["What is my hobby?", "What do I do at the weekend?", "What do I enjoy after work?"],
        "Your hobby is {v}.",
    ),
    "instrument": (
        "piano violin guitar flute trumpet cello drums harp clarinet accordion organ saxophone",
        ["I play the {v}.", "I am learning the {v}.", "I practise the {v} every evening."],
        ["Which instrument do I play?", "What instrument am I learning?"],
        "You play the {v}.",
    ),
    "drink": (
        "coffee tea water milk lemonade juice cocoa wine beer cider",
        ["In the morning I drink {v}.", "My drink is {v}.", "I always order {v}."],
        ["What do I drink in the morning?", "What do I always order?"],
        "You drink {v}.",
    ),
    "day": (
        "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
        ["My day off is {v}.", "I am free on {v}.", "We meet on {v}."],
        ["Which day am I free?", "When is my day off?", "On which day do we meet?"],
        "It is {v}.",
    ),
    "month": (
        "January February March April May June July August September October November December",
        ["I was born in {v}.", "My birthday is in {v}.", "My holiday starts in {v}."],
        ["When is my birthday?", "In which month was I born?", "When does my holiday start?"],
        "It is in {v}.",
    ),
    "number": (
        "two three four five six seven eight nine ten eleven twelve twenty 7 12 18 24 30 42 64 100",
        ["My lucky number is {v}.", "There are {v} of us.", "I need {v} of them."],
        ["What is my lucky number?", "How many of us are there?", "How many do I need?"],
        "The number is {v}.",
    ),
}

RELATIONS = "brother sister mother father friend neighbour daughter son cousin aunt uncle boss teacher".split()
ABOUT_OTHERS = [
    ("My {r} is called {name}.", "What is my {r} called?", "Your {r} is called {name}."),
    ("My {r} lives in {city}.", "Where does my {r} live?", "Your {r} lives in {city}."),
    ("My {r} works as a {work}.", "What does my {r} do?", "Your {r} works as a {work}."),
    ("My {r} likes {food}.", "What does my {r} like?", "Your {r} likes {food}."),
    ("My {r} has a {colour} {animal}.", "What animal does my {r} have?", "A {colour} {animal}."),
    ("My {r} plays the {instrument}.", "What does my {r} play?", "Your {r} plays the {instrument}."),
]

ACKNOWLEDGEMENTS = [
    "Thank you, I will remember that.",
    "Good to know.",
    "I see. I have written it into my memory.",
    "Noted!",
    "All right, I'll keep that in mind.",
    "That's nice to hear.",
    "Okay, thanks for telling me.",
]

UNKNOWN = [
    "I don't know that yet. You have not told me.",
    "I'm sorry, I can't remember that.",
    "You haven't said so, as far as I know.",
]

SMALL_TALK = [
    ("Hello!", "Hello! How can I help you today?"),
    ("Hi there.", "Hi! What would you like to talk about?"),
    ("Good morning.", "Good morning! Did you sleep well?"),
    ("Good evening.", "Good evening! How was your day?"),
    ("How are you?", "I am well, thank you. And how are you?"),
    ("Who are you?", "I am a very small assistant with a memory."),
    ("What can you do?", "I can talk a little, and I remember what you tell me."),
    ("Can you remember things?", "Yes. Tell me something, and ask me about it later."),
    ("How does your memory work?", "Each word changes a few numbers, and later words read them again."),
    ("What is the weather like?", "I cannot look outside, but I hope the sun is shining."),
    ("Tell me a story.", "Once upon a time a small model lived in a big computer. It was happy there."),
    ("Tell me a joke.", "Why did the computer go home early? It had too many bytes for lunch."),
    ("Thank you.", "You're welcome!"),
    ("Thanks a lot!", "It was my pleasure. Is there anything else?"),
    ("That is wrong.", "I'm sorry about that. Could you tell me again?"),
    ("Are you sure?", "No, I'm not sure. I could be wrong."),
    ("Please forget it.", "I have forgotten everything. My memory is empty now."),
    ("What did I say before?", "I only know what is left in my memory."),
    ("I don't understand.", "Let me try to explain it with other words."),
    ("Yes, please.", "Of course. Here it is."),
    ("No, thank you.", "That's fine. Maybe another time."),
    ("Goodbye.", "Goodbye! See you soon."),
    ("See you tomorrow.", "See you tomorrow! Take care."),
    ("What time is it?", "I don't have a clock, so I don't know."),
    ("Do you like music?", "I think I would like it, if I could hear it."),
    ("I am tired.", "Then you should take a short break and drink some water."),
    ("I feel sad today.", "I am sorry to hear that. Do you want to talk about it?"),
    ("I am very happy!", "That's wonderful! What made you so happy?"),
    ("Where are you?", "I am running on this machine, and nothing leaves it."),
    ("Is it safe here?", "Everything you tell me stays on your own computer."),
]

HEADER = (
    "## Metadata\n\nKnowledge Cutoff Date: none\nToday Date: {d:02} {month} {y}\nReasoning Mode: {m}\n\n"
    "## Custom Instructions\n\nYou are Nano, a very small assistant with a memory. Answer in one short sentence.\n\n"
)


def values(key):
    return FACTS[key][0].split()


def dialogue(rng):
    """One conversation as a list of (role, text)."""
    turns = []
    told = {}
    for key in rng.sample(list(FACTS), rng.randint(1, 4)):
        told[key] = rng.choice(values(key))
        turns += [("user", rng.choice(FACTS[key][1]).format(v=told[key])), ("assistant", rng.choice(ACKNOWLEDGEMENTS))]
        if rng.random() < 0.5:
            user, assistant = rng.choice(SMALL_TALK)
            turns += [("user", user), ("assistant", assistant)]
    statement, question, answer = rng.choice(ABOUT_OTHERS)
    words = {key: rng.choice(values(key)) for key in ("name", "city", "work", "food", "colour", "animal", "instrument")}
    words["r"] = rng.choice(RELATIONS)
    turns += [("user", statement.format(**words)), ("assistant", rng.choice(ACKNOWLEDGEMENTS))]
    turns += [("user", question.format(**words)), ("assistant", answer.format(**words))]
    for key in rng.sample(list(FACTS), 2):
        known = key in told
        reply = FACTS[key][3].format(v=told[key]) if known else rng.choice(UNKNOWN)
        turns += [("user", rng.choice(FACTS[key][2])), ("assistant", reply)]
    return turns


def lines(seed, count):
    """Texts of `count` conversations: role names, messages and a system header now and then."""
    rng = random.Random(seed)
    for _ in range(count):
        if rng.random() < 0.3:
            yield "system\n" + HEADER.format(
                d=rng.randint(1, 28), month=rng.choice(values("month")), y=rng.randint(2024, 2032),
                m=rng.choice(["/think", "/no_think"]))
        for role, text in dialogue(rng):
            yield f"{role}\n"
            # Lower case now and then: people type that way.
            yield text.lower() if role == "user" and rng.random() < 0.3 else text
        yield "\n\n"
