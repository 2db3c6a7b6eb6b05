"""What a person may tell nano: the kinds of facts, their values and their wordings.

Owns the word lists; draws nothing at random. All of it was written for this project.

A wording is a lower-case clause without final punctuation. `{v}` is the value, `(a|b|)` a choice.
A line that starts with `!` is held out: no training text is ever made from it. A value that starts
with `!` is known to the backbone, and no adapter episode ever writes it.
"""

import collections
import functools
import pathlib
import re
import zlib
from typing import NamedTuple


class Kind(NamedTuple):
    """One kind of fact: `answer` and `untold` are the assistant's only sentences about it."""

    values: tuple
    statements: tuple  # wordings with {v}
    questions: tuple  # wordings without a question mark
    answer: str
    untold: str  # "You have not told me …"


@functools.cache
def expand(wording):
    """Every text that a wording with `(a|b)` choices, nested or not, stands for."""
    wording = wording.removeprefix("!")
    innermost = re.search(r"\(([^()]*)\)", wording)
    if innermost is None:
        return (" ".join(wording.split()),)
    before, after = wording[: innermost.start()], wording[innermost.end() :]
    return tuple(text for choice in innermost[1].split("|") for text in expand(before + choice + after))


def split(wordings, is_held_out):
    """The wordings of one side by their `!`, as a list of choices lists."""
    return [expand(w) for w in wordings if w.startswith("!") == is_held_out]


# What differs between two relatives' wordings: a wording is held out for all of them or for none.
RELATION = re.compile(r"\b(sister|brother|mother|father|wife|husband|son|daughter|friend|boss|he|she|his|her|him)\b")
HELD_OUT_ONE_IN = 9
# The first wordings of every table are what nearly everybody says: always trained.
PLAINEST = 8


def lines(text):
    return tuple(line.strip() for line in text.strip().splitlines())


def read_wordings(paths):
    """Wordings by (kind, "statements" | "questions") from files whose sections open with `# kind statements`."""
    found = {}
    for path in paths:
        section = None
        for line in lines(pathlib.Path(path).read_text()):
            if line.startswith("# "):
                kind, what = line[2:].split()
                section = found.setdefault((kind, what), [])
            elif line and not line.startswith("//"):
                section.append(line)
    return found


def words(text):
    return tuple(w.strip() for w in text.replace("\n", " ").split(",") if w.strip())


PEOPLE = words("""
Ada, Ben, Clara, Daniel, Emma, Felix, Greta, Hugo, Ida, Jack, Kate, Leo, Maria, Noah, Olga, Paul, Rosa, Sam, Tina, Victor,
Wendy, Yusuf, Zoe, Anna, Boris, Chloe, David, Elena, Frank, Grace, Henry, Irene, James, Karim, Laura, Marco, Nadia, Oscar,
Petra, Quinn, Robert, Sofia, Thomas, Ursula, Vera, William, Yara, Adam, Bella, Carlos, Diana, Eric, Fatima, George, Hannah,
Ivan, Julia, Kevin, Lucy, Martin, Nina, Omar, Priya, Ravi, Sara, Tom, Uma, Vincent, Alice, Bruno, Lily, Max, Mia, Peter, Ruth,
John, Mary, Michael, Linda, Susan, Mark, Lisa, Alex, Chris, Sophie, Emily, Jonas, Lena, Otto, Simon, Steve, Maya, Aisha, Chen,
Diego, Finn, Ingrid, Jamal, Kenji, Luca, Mei, Nora, Pablo, Stefan, Tara, Bob, Eva, Amir, Iris, Joe, Helen,
!Astrid, !Gustav, !Leila, !Rupert, !Selma, !Viola, !Edgar, !Naomi, !Dario, !Judith
""")
TOWNS = words("""
Lisbon, Paris, London, Berlin, Madrid, Rome, Vienna, Prague, Warsaw, Athens, Dublin, Oslo, Helsinki, Stockholm, Copenhagen,
Amsterdam, Brussels, Zurich, Geneva, Milan, Naples, Porto, Barcelona, Seville, Munich, Hamburg, Cologne, Krakow, Budapest,
Istanbul, Cairo, Lagos, Nairobi, Delhi, Mumbai, Tokyo, Kyoto, Osaka, Seoul, Beijing, Shanghai, Bangkok, Hanoi, Jakarta, Sydney,
Melbourne, Perth, Auckland, Toronto, Montreal, Vancouver, Ottawa, Boston, Chicago, Seattle, Denver, Dallas, Houston, Miami, Austin,
New York, San Francisco, Lima, Quito, Santiago, Bogota, Manchester, Glasgow, Edinburgh, Bristol, Leeds, Lyon, Marseille, Nice,
Florence, Venice, Turin, Valencia, Dakar, Tunis, Moscow, Kyiv, Riga, Tallinn, Zagreb, Sofia, Belgrade,
!Bergen, !Utrecht, !Leipzig, !Bordeaux, !Cardiff, !Portland, !Adelaide, !Havana
""")
COUNTRIES = words("""
Portugal, Spain, France, Germany, Italy, Greece, Austria, Poland, Sweden, Norway, Denmark, Finland, Ireland, England, Scotland,
Switzerland, Belgium, Hungary, Turkey, Egypt, Kenya, Nigeria, India, China, Japan, Korea, Thailand, Vietnam, Australia, Canada,
Mexico, Brazil, Argentina, Chile, Peru, Cuba, Morocco, Ghana, Russia, Ukraine, Croatia, Iceland, the United States, the Netherlands,
!Colombia, !Romania, !Wales, !Ethiopia
""")
MONTHS = words("January, February, March, April, May, June, July, August, September, October, November, December")
AGES = tuple(("!" if n in (23, 37, 58, 71) else "") + str(n) for n in range(8, 91))

FAVOURITE = "(favourite|favorite)"


def favourite(thing, *more):
    """Statement wordings that every "favourite …" kind shares."""
    return (
        f"my {FAVOURITE} {thing} is {{v}}",
        f"(the|my) {thing} I like (best|most) is {{v}}",
        f"{{v}} is my {FAVOURITE} {thing}",
        f"as for {thing}, I (prefer|like) {{v}}",
        f"!if you ask me for a {thing}, I say {{v}}",
        f"!of every {thing}, {{v}} is the one I (like|love) best",
        *more,
    )


def which_favourite(thing, *more):
    return (
        f"(what is|what's|whats) my {FAVOURITE} {thing}",
        f"(which|what) {thing} do I like (best|most|)",
        f"(which|what) {thing} is my {FAVOURITE}",
        f"do you (know|remember) my {FAVOURITE} {thing}",
        f"(can you |)tell me my {FAVOURITE} {thing}",
        f"!(could you|please) remind me (of|what) my {FAVOURITE} {thing} (is|)",
        f"!(which|what) {thing} did I say I (like|love) (best|most)",
        *more,
    )


KINDS = {
    "name": Kind(
        PEOPLE,
        lines("""
            (my name is|my name's|my first name is) {v}
            (I am|I'm) {v}
            (call me|you can call me|please call me|just call me) {v}
            (everyone|everybody|people) (calls|call) me {v}
            I am called {v}
            the name is {v}
            (this is|it's) {v} (here|speaking|)
            {v} is my name
            !I go by {v}
            !you are (talking|speaking) (to|with) {v}
            !my friends call me {v}
        """),
        lines("""
            (what is|what's|whats) my name
            (who am I|do you know who I am)
            do you (know|remember) my name
            what am I called
            (can you |)tell me my name
            what (do|should) you call me
            (what|which) name did I (give|tell) you
            what was my name (again|)
            say my name
            !do you (still |)(recall|know) what I am called
            (could you|please|can you) remind me (what my name is|of my name)
            !how am I called
        """),
        "Your name is {v}.",
        "your name",
    ),
    "town": Kind(
        TOWNS,
        lines("""
            I live in {v}
            I (am living|'m living) in {v}
            my home is in {v}
            I (just|recently|have just|) moved to {v}
            (I am|I'm) (based|at home|living) in {v}
            I have (a flat|an apartment|a house) in {v}
            {v} is (where I live|my home|the city I live in)
            the (city|town|place) I live in is {v}
            my (city|town) is {v}
            my address is in {v}
            I (stay|live) (here |)in {v}
            !these days (home is|I live in|you find me in) {v}
            !I (settled|have settled) (down |)in {v}
            !I (reside|rent a room) in {v}
        """),
        lines("""
            where do I live
            (what|which) (city|town|place) do I live in
            in (what|which) (city|town) do I live
            where is my home
            (where am I|where's my) (living|home)
            do you (know|remember) where I live
            (can you |)tell me where I live
            (what is|what's) my (city|town)
            where (do|did) I (say I live|live again)
            (what|which) (city|town) did I move to
            where am I based
            !(which|what) (town|city) am I (living|based) in
            !where is my (house|flat|place)
            (could you|please|can you) remind me where I live
        """),
        "You live in {v}.",
        "where you live",
    ),
    "origin": Kind(
        TOWNS,
        lines("""
            (I am|I'm) from {v} (originally|)
            I come from {v}
            I grew up in {v}
            my (home town|hometown) is {v}
            I was born in {v}
            I was (raised|born and raised) in {v}
            {v} is (where I grew up|my home town|my hometown|where I come from)
            (originally I am|originally I'm) from {v}
            !I spent my childhood in {v}
            !my roots are in {v}
        """),
        lines("""
            where (am I|do I come) from
            (what is|what's|whats) my (home town|hometown)
            where did I grow up
            where was I (born|raised)
            (what|which) (city|town) (am I|do I come) from
            do you (know|remember) where I (am from|come from|grew up)
            tell me my (home town|hometown)
            (what|which) (city|town) did I grow up in
            !(could you|please) remind me where I (come from|grew up)
            !where (lies|is) my (home town|hometown)
        """),
        "You come from {v}.",
        "where you come from",
    ),
    "country": Kind(
        COUNTRIES,
        lines("""
            my country is {v}
            the country I live in is {v}
            my home country is {v}
            {v} is (my country|my home country|the country I live in)
            I am a citizen of {v}
            I have a passport (from|of) {v}
            (my country of birth|my homeland) is {v}
            !(my nation|the country I call home) is {v}
            !as for my country, it is {v}
        """),
        lines("""
            (what|which) country (do I live in|am I from|do I come from|am I in|is mine)
            (what is|what's|whats) my (country|home country)
            in (what|which) country do I live
            do you (know|remember) my (country|home country)
            (can you |)tell me my country
            (what|which) country did I (say|tell you|mention)
            !(could you|please) remind me (of my|which) country (I live in|)
            !what is the name of my country
        """),
        "Your country is {v}.",
        "your country",
    ),
    "age": Kind(
        AGES,
        lines("""
            (I am|I'm|im) {v} (years old|)
            my age is {v}
            (I just|I have just|I) turned {v}
            (I'm|I am) {v} (now|this year|years of age)
            {v} is my age
            I (just|) had my {v} birthday
            I have (lived|been alive) for {v} years
            !I (recently |)celebrated turning {v}
            !my years (come to|number) {v}
        """),
        lines("""
            how old am I
            (what is|what's|whats) my age
            do you (know|remember) (my age|how old I am)
            (can you |)tell me (my age|how old I am)
            (what|which) age (am I|did I say)
            how many years old am I
            how old did I say I (am|was)
            (could you|please|can you) remind me how old I am
            !how many years have I lived
        """),
        "You are {v} years old.",
        "how old you are",
    ),
    "birthday": Kind(
        MONTHS,
        lines("""
            my birthday is in {v}
            (I have|I've got|I celebrate) my birthday in {v}
            my birthday (month is|comes in|falls in) {v}
            I was born in (the month of|) {v}
            {v} is (my birthday month|the month of my birthday|when my birthday is|when I was born)
            (I am|I'm) a {v} baby
            I turn a year older in {v}
            !I (blow out|get) (the candles|birthday presents) in {v}
            !my (big day|birthday party) is in {v}
        """),
        lines("""
            when is my birthday
            (what|which) month is my birthday (in|)
            in (what|which) month (is my birthday|was I born)
            when (was I born|do I have my birthday|do I celebrate my birthday)
            do you (know|remember) (when my birthday is|my birthday)
            (what is|what's|whats) my birthday month
            (can you |)tell me (my birthday|when my birthday is)
            !(could you|please) remind me when my birthday is
            !(which|what) month do I (celebrate|get older) in
        """),
        "Your birthday is in {v}.",
        "when your birthday is",
    ),
    "pet": Kind(
        words("""
            a cat, a dog, a rabbit, a parrot, a hamster, a turtle, a horse, a goldfish, a canary, a lizard, a snake, a goat, a ferret,
            a pony, a gecko, a mouse, a rat, a duck, a spider, a budgie, a puppy, a kitten, a pig, a chicken,
            !a donkey, !a hedgehog, !a frog
        """),
        lines("""
            I have {v} (at home|)
            I (own|keep|have got) {v}
            I've got {v}
            my pet is {v}
            I live with {v}
            (I just|I) (got|bought|adopted) {v}
            we (have|keep) {v} (at home|)
            there is {v} (at home|in my house)
            (as a pet I have|for a pet I have) {v}
            !I (share my home with|look after|take care of) {v}
            !{v} (lives with me|is my pet)
        """),
        lines("""
            (what|which|what kind of) (pet|animal) do I (have|own|keep)
            (what is|what's|whats) my pet
            do I have a pet
            do you (know|remember) (my pet|what pet I have)
            (can you |)tell me (what pet I have|about my pet)
            what (sort|kind) of (pet|animal) (is my pet|have I got)
            what animal lives with me
            (could you|please|can you) remind me what pet I have
            !(which|what) animal (did I get|is at my home)
        """),
        "You have {v}.",
        "about a pet",
    ),
    "pet_name": Kind(
        words("""
            Rex, Luna, Milo, Coco, Bruno, Daisy, Rocky, Bella, Simba, Max, Molly, Ginger, Shadow, Pepper, Buddy, Felix, Nala, Oreo,
            Biscuit, Toby, Lola, Oscar, Ruby, Charlie, Tiger, Snowy, Fluffy, Bonnie, Teddy, Socks, Lucky, Rosie, Mango, Pixie,
            !Bandit, !Pickle, !Waffle, !Hazel
        """),
        lines("""
            my pet is (called|named) {v}
            my pet's name is {v}
            (the name of my pet|my pets name) is {v}
            I (named|call|called) my pet {v}
            {v} is (the name of my pet|what I call my pet|my pet's name)
            !the (animal|little one) at home (is called|answers to) {v}
            !I gave my pet the name {v}
        """),
        lines("""
            (what is|what's|whats) my pet's name
            (what is|what's) my pet (called|named)
            (what is|what's) the name of my pet
            do you (know|remember) my pet's name
            (what|which) name did I give my pet
            (can you |)tell me my pet's name
            (what is|what's) my (cat|dog|rabbit|parrot|hamster|horse|puppy|kitten) (called|named)
            what do I call my pet
            !(could you|please) remind me (of my pet's name|what my pet is called)
            !how is my pet called
        """),
        "Your pet is called {v}.",
        "your pet's name",
    ),
    "colour": Kind(
        words("red, blue, green, yellow, purple, orange, pink, black, white, grey, brown, silver, gold, violet, turquoise, teal, !beige, !indigo"),
        favourite("(colour|color)", "I (love|like) the (colour|color) {v}", "I (like|love) {v} more than any other (colour|color)", "I like everything in {v}"),
        which_favourite("(colour|color)", "(what|which) (colour|color) do I love"),
        "Your favourite colour is {v}.",
        "your favourite colour",
    ),
    "food": Kind(
        words("""
            pizza, pasta, sushi, tacos, curry, ramen, soup, salad, bread, cheese, rice, noodles, chocolate, pancakes, fish, steak, burgers,
            dumplings, lasagna, potatoes, mushrooms, apples, strawberries, beans, paella, couscous, kebab, fries, eggs, ice cream,
            !falafel, !risotto, !waffles
        """),
        favourite("(food|dish|meal)", "I love (to eat|eating|) {v}", "I (could|can) eat {v} (every day|all day)", "I (like|enjoy) eating {v}", "{v} is what I like to eat (best|most|)"),
        which_favourite("(food|dish|meal)", "what do I (like|love) to eat", "what (could|can) I eat every day", "what do I like eating"),
        "Your favourite food is {v}.",
        "your favourite food",
    ),
    "drink": Kind(
        words("coffee, tea, water, milk, lemonade, juice, cocoa, wine, beer, cider, green tea, cola, !tonic, !espresso"),
        favourite("drink", "I (love|like) (to drink|drinking) {v}", "I (always|usually) (drink|order) {v}", "I drink {v} every (day|morning)"),
        which_favourite("drink", "what do I (like|love) to drink", "what do I (always|usually) drink"),
        "Your favourite drink is {v}.",
        "your favourite drink",
    ),
    "music": Kind(
        words("jazz, rock, pop, blues, folk, techno, metal, opera, reggae, soul, punk, country music, classical music, hip hop, salsa, disco, funk, rap, !swing, !gospel"),
        favourite("(music|kind of music|music genre)", "I (listen|love listening|like listening) to {v}", "I (love|like) to listen to {v}", "I am (into|a fan of) {v}", "I (usually|always|mostly) listen to {v}"),
        which_favourite("(music|kind of music|music genre)", "what (music|) do I (listen|like to listen) to", "what music am I into"),
        "Your favourite music is {v}.",
        "what music you like",
    ),
    "books": Kind(
        words("crime novels, fantasy, poetry, science fiction, history, biographies, romance, thrillers, comics, fairy tales, travel books, mysteries, short stories, !satire, !memoirs"),
        favourite("(book genre|kind of book)", "I (like|love) (reading|to read) {v}", "I (mostly|usually|always) read {v}", "I read (a lot of|lots of) {v}", "the books I like are {v}"),
        which_favourite("(book genre|kind of book)", "what do I (like|love) to read", "what (books|kind of books) do I (read|like)", "what do I (mostly|usually) read", "what do I like reading"),
        "Your favourite books are {v}.",
        "what books you like",
    ),
    "films": Kind(
        words("westerns, comedies, horror, dramas, documentaries, musicals, cartoons, action, war films, spy films, animation, romantic comedies, !anime, !slapstick"),
        favourite("(film genre|movie genre|kind of film|kind of movie)", "I (like|love) (watching|to watch) {v}", "I (mostly|usually|always) watch {v}", "the (films|movies) I like are {v}", "at the cinema I (watch|choose) {v}"),
        which_favourite("(film genre|movie genre|kind of film|kind of movie)", "what do I (like|love) to watch", "what (films|movies|kind of films) do I (watch|like)", "what do I (mostly|usually) watch"),
        "Your favourite films are {v}.",
        "what films you like",
    ),
    "job": Kind(
        words("""
            nurse, teacher, farmer, baker, driver, painter, lawyer, writer, doctor, carpenter, gardener, plumber, librarian, translator,
            pilot, chef, judge, tailor, programmer, dentist, waiter, photographer, journalist, scientist, student, mechanic, cook, builder,
            manager, soldier, cleaner, firefighter, postman, barber, banker, vet, designer, !surgeon, !florist, !butcher
        """),
        lines("""
            I work as a {v}
            (I am|I'm|im) a {v}
            my job is {v}
            I am a {v} by (profession|trade)
            I (earn|make) my (living|money) as a {v}
            I have been a {v} for (ten|five|three) years
            I work (full time|part time|here) as a {v}
            I (got|have) a job as a {v}
            my (profession|occupation) is {v}
            for a living I work as a {v}
            !by day I am a {v}
            !they (hired|pay) me as a {v}
        """),
        lines("""
            (what is|what's|whats) my (job|profession|occupation)
            what do I do (for a living|for work)
            what do I work as
            (where|what) do I work as
            do you (know|remember) my (job|profession|what I do)
            (can you |)tell me my (job|profession)
            what (job|profession|work) do I (have|do)
            what do I do
            how do I (earn|make) my (living|money)
            (could you|please|can you) remind me what my job is
            !what kind of (work|job) do I (do|have)
        """),
        "You work as a {v}.",
        "what your job is",
    ),
    "hobby": Kind(
        words("""
            reading, hiking, cooking, painting, dancing, singing, fishing, gardening, drawing, writing, knitting, chess, photography,
            pottery, baking, camping, sewing, sailing, gaming, juggling, astronomy, origami, bird watching, board games, !archery, !weaving
        """),
        lines("""
            my hobby is {v}
            (one of my hobbies|a hobby of mine) is {v}
            I enjoy {v} (on weekends|in my free time|at the weekend|)
            in my (free|spare) time I (enjoy|like|do) {v}
            I spend my (weekends|free time|evenings) (on|with) {v}
            {v} is my (hobby|pastime)
            I have taken up {v}
            for fun I (like|enjoy) {v}
            my (favourite|favorite) (hobby|pastime) is {v}
            !I relax with {v}
            !my (pastime|spare time) is (all about|all) {v}
        """),
        lines("""
            (what is|what's|whats) my (hobby|pastime)
            what do I (do|enjoy) (in my free time|on weekends|at the weekend|in my spare time)
            what do I do for fun
            do you (know|remember) my hobby
            (what|which) hobby do I have
            (can you |)tell me my hobby
            how do I spend my (free time|weekends|evenings)
            what do I enjoy
            (what are|what's) my hobbies
            !(could you|please) remind me what my hobby is
            !(which|what) hobby did I (mention|tell you about)
        """),
        "Your hobby is {v}.",
        "your hobby",
    ),
    "instrument": Kind(
        words("piano, violin, guitar, flute, trumpet, cello, drums, harp, clarinet, accordion, organ, saxophone, banjo, tuba, ukulele, bass, !oboe, !mandolin"),
        lines("""
            I (play|can play) the {v}
            I (am|'m) learning (to play|) the {v}
            I play {v} (in a band|)
            my instrument is the {v}
            I practise the {v} (every day|every evening|)
            the instrument I play is the {v}
            I (take|have) {v} lessons
            I have played the {v} for years
            !I make music on the {v}
            !at concerts I am on the {v}
        """),
        lines("""
            (what|which) instrument do I play
            (what is|what's|whats) my instrument
            (what|which) instrument am I learning
            what do I play
            do you (know|remember) (what|which) instrument I play
            do I play an instrument
            (can you |)tell me (what|which) instrument I play
            what am I learning to play
            what musical instrument do I play
            (could you|please|can you) remind me which instrument I play
            !(which|what) instrument do I practise
        """),
        "You play the {v}.",
        "which instrument you play",
    ),
    "sport": Kind(
        words("tennis, football, basketball, swimming, running, cycling, rowing, boxing, golf, hockey, skiing, judo, rugby, volleyball, climbing, surfing, yoga, karate, cricket, baseball, skating, badminton, !fencing, !squash"),
        lines("""
            my (sport is|favourite sport is|favorite sport is) {v}
            the sport I (do|like|play) is {v}
            {v} is my (sport|favourite sport|favorite sport)
            for sport I (do|like) {v}
            I (do|love) {v} as a sport
            I (train|trained) {v} (every week|twice a week|)
            I am (good at|on a team for) {v}
            to keep fit I do {v}
            !my training is {v}
            !when it comes to sport, I (choose|pick) {v}
        """),
        lines("""
            (what|which) sport do I (do|play|like|train)
            (what is|what's|whats) my (sport|favourite sport|favorite sport)
            do you (know|remember) (what|which) sport I (do|like|play)
            (can you |)tell me my (sport|favourite sport|favorite sport)
            what do I do to keep fit
            (what|which) sport am I good at
            do I do any sport
            !(could you|please) remind me what sport I do
            !(which|what) sport did I (mention|say I do)
        """),
        "Your sport is {v}.",
        "which sport you do",
    ),
    "allergy": Kind(
        words("peanuts, milk, eggs, cats, dogs, pollen, dust, wheat, soy, shellfish, bees, nuts, fish, strawberries, penicillin, gluten, grass, !latex, !sesame"),
        lines("""
            (I am|I'm|im) allergic to {v}
            I have an allergy to {v}
            my allergy is {v}
            I (can not|can't|cannot) have {v} because (of my allergy|I am allergic)
            {v} (give|gives) me an allergic reaction
            I get an allergic reaction from {v}
            (I've got|I have) a {v} allergy
            !my body (does not tolerate|reacts badly to) {v}
            !doctors say I am allergic to {v}
        """),
        lines("""
            what am I allergic to
            (what is|what's|whats) my allergy
            do I have (an allergy|any allergies|allergies)
            (what|which) allergy do I have
            do you (know|remember) (what I am allergic to|my allergy)
            (can you |)tell me (my allergy|what I am allergic to)
            am I allergic to (anything|something)
            (could you|please|can you) remind me what I am allergic to
            !what gives me an allergic reaction
        """),
        "You are allergic to {v}.",
        "about an allergy",
    ),
    "language": Kind(
        words("English, French, German, Spanish, Italian, Portuguese, Polish, Russian, Greek, Turkish, Arabic, Hindi, Chinese, Japanese, Korean, Dutch, Swedish, Danish, Finnish, Czech, Norwegian, Hungarian, !Latin, !Swahili, !Basque"),
        lines("""
            I speak {v} (at home|)
            my (language|native language|mother tongue|first language) is {v}
            I (can speak|am learning|am fluent in|grew up speaking) {v}
            (I am|I'm) learning {v}
            the language I speak is {v}
            {v} is my (language|native language|mother tongue)
            we speak {v} at home
            !I talk to my family in {v}
            !I (think|dream) in {v}
        """),
        lines("""
            (what|which) language do I speak
            (what is|what's|whats) my (language|native language|mother tongue|first language)
            do you (know|remember) (what|which) language I speak
            (can you |)tell me (what|which) language I speak
            what do I speak (at home|)
            (what|which) language am I (learning|fluent in)
            !(could you|please) remind me which language I speak
            !in (what|which) language do I talk
        """),
        "You speak {v}.",
        "which language you speak",
    ),
    "vehicle": Kind(
        words("""
            a Toyota, a Volvo, a Fiat, a Ford, a Honda, a Tesla, a Renault, a Mini, a van, a truck, a scooter, a motorbike, a mountain bike,
            a road bike, a Beetle, a jeep, a Peugeot, an electric car, a sports car, a BMW, a Skoda, a racing bike, an old bike, a Vespa,
            !a Kia, !a Jaguar, !a tandem
        """),
        lines("""
            I drive {v}
            I (ride|get around on) {v}
            my (car|bike|vehicle) is {v}
            I (bought|got) {v} (last year|) to get around
            I go to work (in|with|on) {v}
            the (car|bike|vehicle) I (drive|use|ride) is {v}
            {v} is (my car|my bike|what I drive)
            I travel (with|in|on) {v}
            !{v} (stands|is parked) in front of my house
            !I commute (in|on) {v}
        """),
        lines("""
            (what|which) (car|bike|vehicle) do I (drive|have|ride|own)
            what do I (drive|ride)
            (what is|what's|whats) my (car|bike|vehicle)
            do you (know|remember) (what I drive|my car|my bike)
            what kind of (car|bike|vehicle) do I (have|drive|ride)
            (can you |)tell me (what I drive|my car|my bike)
            how do I get (around|to work)
            !(could you|please) remind me what I drive
            !(which|what) vehicle is mine
        """),
        "Your vehicle is {v}.",
        "what you drive",
    ),
}


def relative(r):
    """The name of a relative or friend."""
    her = {"sister": "her", "mother": "her", "wife": "her", "daughter": "her", "friend": "(his|her|their)", "boss": "(his|her|their)"}.get(r, "his")
    return Kind(
        PEOPLE,
        lines(f"""
            my {r} is (called|named) {{v}}
            my {r}'s name is {{v}}
            (the name of my {r}|my {r}s name) is {{v}}
            I have a {r} (called|named) {{v}}
            my {r} is {{v}}
            {{v}} is (my {r}|my {r}'s name|the name of my {r})
            my {r} {{v}} (is here|is with me|is visiting|came to see me|says hello) (today|)
            I have a {r}(,|and|) {her} name is {{v}}
            I have a {r} and {her} name is {{v}}
            I've got a {r}(, {her} name's| named| called) {{v}}
            as for my {r}, {her} name is {{v}}
            (this is|meet) my {r}, {{v}}
            (this is|meet) {{v}}, my {r}
            the name of my dear {r} is {{v}}
            my {r} has the name {{v}}
            my {r} was named {{v}}
            my {r} was given the name {{v}}
            they (named|called) my {r} {{v}}
            everyone (calls|knows) my {r} (as|by the name of|by the name) {{v}}
            (everyone|everybody) calls my {r} {{v}}
            I (always|usually|just|) call my {r} {{v}}
            {r}: {{v}}
            my {r}: {{v}}
            {r} - {{v}}
            my {r}'s first name is {{v}}
            the first name of my {r} is {{v}}
            {r}'s name: {{v}}
            {{v}} is what (I|we|people) call my {r}
            {{v}} is my {r}'s first name
            (yesterday|today|last week) I (met|saw|called|visited) my {r} {{v}}
            I (talked|spoke) (to|with) my {r} {{v}} (today|yesterday|)
            my {r} {{v}} and I (get on well|are very close|talk every day|had lunch together)
            I (love|miss|like) my {r} {{v}} (a lot|very much|)
            I am (visiting|meeting|seeing) my {r} {{v}} (today|tomorrow|soon)
            if I say {{v}}, I mean my {r}
            when I (talk about|mention|say) {{v}}, I mean my {r}
            there is also my {r}, {{v}}
            there's my {r} {{v}}
            my {r} is someone (called|named|by the name of) {{v}}
            my {r} answers to {{v}}
            the person I call my {r} is {{v}}
            you can call my {r} {{v}}
            my {r}, {{v}}, is (great|wonderful|very kind|a good person|very funny)
            my {r} is a (lovely|nice|good|great) person (called|named) {{v}}
            the name my {r} goes by is {{v}}
            that's my {r}: {{v}}
            they gave my {r} the name {{v}}
            my {r} - {{v}} - (sends|says) hello
            I (bought|got) a present for my {r} {{v}}
            the (one and only|best) {r} I have is {{v}}
            it's {{v}}, that is the name of my {r}
            in my family photo you see my {r} {{v}}
            !my {r} goes by {{v}}
            !(we|people) call my {r} {{v}}
            !{{v}}, that's my {r}
            !everybody knows {{v}}, my {r}
            !my {r} got the name {{v}}
            !I had a talk with {{v}}, my {r}
            !the person named {{v}} is my {r}
            !I am very close to my {r} {{v}}
        """),
        lines(f"""
            (what is|what's|whats) my {r}'s name
            (what is|what's) my {r} (called|named)
            (what is|what's) the name of my {r}
            who is my {r}
            do you (know|remember) my {r}'s name
            (can you |)tell me my {r}'s name
            do I have a {r}
            (could you|please|can you) remind me what my {r} is called
            who's my {r} (again|)
            my {r}'s name
            (and |)the name of my {r}
            how (do I|should you) call my {r}
            who do I know as my {r}
            (what is|what's|whats) my {r}s name
            whats my {r} called
            what was my {r}'s name (again|)
            what was the name of my {r}
            (what|which) name does my {r} have
            (what|which) name did I (give|say|tell you|mention) for my {r}
            what did I (say|tell you) my {r}'s name (is|was)
            what did I (say|tell you) my {r} is (called|named)
            what do (I|we|you|people) call my {r}
            what should you call my {r}
            what does (everyone|everybody) call my {r}
            do you (still |)(know|remember) what my {r} is called
            do you (still |)(know|remember) who my {r} is
            do you (happen to |)know the name of my {r}
            can you (still |)(remember|recall|say) my {r}'s name
            can you (remember|recall|say) what my {r} is called
            could you tell me (what my {r} is called|the name of my {r}|who my {r} is)
            (please |)(tell|remind) me who my {r} is
            (please |)tell me what my {r} is called
            (please |)(say|name|give me|write) the name of my {r}
            name my {r}
            I (forgot|want to know|need to know) my {r}'s name
            I (forgot|want to know|would like to know) what my {r} is called
            I (wonder|am curious) if you (know|remember) my {r}'s name
            let's see if you (know|remember) (my {r}'s name|who my {r} is)
            did I (ever |)(tell you|mention|say) my {r}'s name
            did I (ever |)tell you (who my {r} is|what my {r} is called)
            have I (told you|mentioned) (my {r}'s name|the name of my {r})
            you (know|remember) my {r}'s name, (right|don't you)
            you know who my {r} is, (right|don't you)
            my {r} is called what (again|)
            my {r} is who (again|)
            (what is|what's) my {r}'s first name
            (what is|what's) the first name of my {r}
            I have a {r}, what is {her} name
            I told you about my {r}, what is {her} name
            when I talk about my {r}, who do I mean
            who did I say my {r} (is|was)
            who is the person I call my {r}
            !how is my {r} called
            !how do people call my {r}
            !do you have the name of my {r}
            !(what|which) first name does my {r} have
            !would you know who my {r} is
            !I would like you to name my {r}
            !(who|what) did I mention as my {r}'s name
        """),
        f"Your {r} is called {{v}}.",
        f"your {r}'s name",
    )


def lives(r):
    """Where somebody else lives: must not be mixed up with where the person lives."""
    return Kind(
        TOWNS,
        lines(f"""
            my {r} lives in {{v}}
            my {r}'s home is in {{v}}
            my {r} (just|) moved to {{v}}
            {{v}} is where my {r} lives
            my {r} (is living|has been living|has lived) in {{v}} (for years|for a long time|now|)
            my {r} (now|still|currently) lives in {{v}}
            the (city|town|place) my {r} lives in is {{v}}
            my {r}'s (city|town) is {{v}}
            {{v}} is my {r}'s (city|town|home)
            my {r} has (a flat|an apartment|a house|a place) in {{v}}
            my {r}'s (flat|apartment|house|address) is in {{v}}
            my {r} is (based|at home) in {{v}}
            I have a {r} (in|who lives in|living in) {{v}}
            I (often |sometimes |)visit my {r} (at home |)in {{v}}
            if you want to find my {r}, go to {{v}}
            my {r} found a (new |)(home|flat|house) in {{v}}
            my {r} (settled|has settled) (down |)in {{v}}
            my {r} makes {{v}} home
            my {r} rents (a flat|a room|an apartment) in {{v}}
            home for my {r} is {{v}}
            my {r} does not live here but in {{v}}
            my {r} left for {{v}} and (lives|stays) there now
            you (can |)find my {r} in {{v}}
            the home of my {r} is in {{v}}
            where my {r} lives: {{v}}
            my {r}'s town: {{v}}
            !my {r} resides in {{v}}
            !my {r} stays in {{v}}
            !in {{v}} you find the house of my {r}
            !these days my {r} is in {{v}}
            !{{v}} is home to my {r}
            today my {r} resides in the city of {{v}}
            these days my {r} lives in {{v}}
        """),
        lines(f"""
            where does my {r} live
            (what|which) (city|town) does my {r} live in
            do you (know|remember) where my {r} lives
            (could you|please|can you) remind me where my {r} lives
            where is my {r}'s home
            where's my {r} (living|based|at home)
            do you know the home of my {r}
            where is my {r} (living|based)
            where does my {r} live (again|now|these days)
            in (what|which) (city|town) does my {r} live
            (what is|what's) my {r}'s (city|town)
            (what is|what's) the (city|town|place) (my {r} lives in|where my {r} lives)
            (what|which) (city|town) did my {r} move to
            where did my {r} move (to|)
            where did I say my {r} (lives|lived)
            what did I tell you about where my {r} lives
            (can you |please |)tell me where my {r} lives
            tell me (what|which) (city|town) my {r} lives in
            where my {r} lives
            (name|say) the (city|town) (my {r} lives in|where my {r} lives)
            I (forgot|wonder|want to know) where my {r} lives
            did I (ever |)(tell you|say|mention) where my {r} lives
            where would I (find|visit) my {r}
            where do I go to visit my {r}
            where is my {r}'s (house|flat|place)
            you (know|remember) where my {r} lives, (right|don't you)
            let's see if you (know|remember) where my {r} lives
            my {r} lives where (again|)
            my {r} lives in (what|which) (city|town)
            (what|which) (city|town|place) does my {r} call home
            !in (what|which) (city|town) is my {r} at home
            !(what|which) (city|town) is my {r} based in
            !where is the home of my {r}
            !do you know (what|which) city my {r} is living in
            !where do you find my {r}
        """),
        f"Your {r} lives in {{v}}.",
        f"where your {r} lives",
    )


for _r in ("sister", "brother"):
    KINDS[_r] = relative(_r)
N_LISTED = len(KINDS)  # the kinds that the evaluation draws from
for _r in ("mother", "father", "wife", "husband", "son", "daughter", "friend", "boss"):
    KINDS[_r] = relative(_r)
for _r in ("sister", "brother", "mother", "friend"):
    KINDS[f"{_r}_town"] = lives(_r)
LISTED = tuple(KINDS)[:N_LISTED]


def widen():
    """Adds what the files of wordings/ say: lists that several kinds share stay shared."""
    for (key, what), fresh in read_wordings(sorted(pathlib.Path(__file__).with_name("wordings").glob("*.txt"))).items():
        old = getattr(KINDS[key], what)
        fresh = words(",".join(fresh)) if what == "values" else tuple(fresh)
        held = {v.removeprefix("!") for v in old if v.startswith("!")} if what == "values" else ()
        merged = tuple(dict.fromkeys((*old, *(line for line in fresh if line not in held))))
        for other, kind in KINDS.items():
            if other == key or what == "values" and kind.values is old and len(old) > 50:
                KINDS[other] = KINDS[other]._replace(**{what: merged})


widen()


def draw_splits():
    """{(kind, "statements" | "questions"): (training wordings, held-out wordings)}, each a list of choices lists.

    One wording in HELD_OUT_ONE_IN is held out, those with the smallest hashes whose every word stands in
    three training wordings at least, of any kind: a word never read could not be understood. The `!` of
    statements and questions is not looked at: it marks what was written as the oddest of its kind.
    """
    bare = lambda line: RELATION.sub("*", line.removeprefix("!"))
    words_of = functools.cache(lambda line: {w for text in expand(line) for w in re.findall(r"[a-z']+", text.lower().replace("{v}", ""))})
    tables = {(key, what): tuple(dict.fromkeys(bare(line) for line in getattr(kind, what))) for key, kind in KINDS.items() for what in ("statements", "questions")}
    count = collections.Counter(w for line in {line for table in tables.values() for line in table} for w in words_of(line))
    held, kept = set(), set()
    for table in tables.values():
        wanted = len(table) // HELD_OUT_ONE_IN - sum((line in held) for line in table)
        for line in sorted(table[PLAINEST:], key=lambda line: zlib.crc32(line.encode())):
            if line in held or line in kept:
                continue
            if wanted > 0 and all(count[w] > 3 for w in words_of(line)):
                held.add(line)
                count.subtract(words_of(line))
                wanted -= 1
            else:
                kept.add(line)
    splits = {}
    for key, kind in KINDS.items():
        for what in ("statements", "questions"):
            sides = ([], [])
            for line in getattr(kind, what):
                sides[bare(line) in held].append(expand(line))
            trained = {text for options in sides[0] for text in options}
            unseen = [tuple(text for text in options if text not in trained) for options in sides[1]]
            splits[key, what] = sides[0], [options for options in unseen if options]
    return splits


SPLITS = draw_splits()


def read_more():
    """Training wordings from wordings/trained/, written after the split was drawn: {(kind, what): choices lists}.

    They are not among what is split, so that what is held out stays the same; a text with the words of
    a held-out one, in whatever order, is left out.
    """
    bag = lambda text: tuple(sorted(re.findall(r"[a-z{}']+", RELATION.sub("*", text).lower())))
    more = {}
    for (key, what), fresh in read_wordings(sorted((pathlib.Path(__file__).parent / "wordings" / "trained").glob("*.txt"))).items():
        held = {bag(text) for options in SPLITS[key, what][1] for text in options}
        options = (tuple(text for text in expand(line) if bag(text) not in held) for line in fresh)
        more[key, what] = [texts for texts in options if texts]
    return more


MORE = read_more()
PROPER = ("name", "town", "origin", "country", "pet_name", "language", "vehicle")

# Clauses that tell several facts at once; a value without its article is {kind.bare}.
COMPOSITES = (
    (("name", "age", "job", "town"), lines("""
        {name}, {age}, {job} in {town}
        {name}, {age}, {job}, {town}
        I am {name}, {age} years old, a {job} living in {town}
        my name is {name}, I am {age}, I live in {town} and I work as a {job}
        (I'm|I am) {name}, I'm {age} and I work as a {job} in {town}
        {name} here, {age} years old, {job} by profession, at home in {town}
        a few facts about me: I'm {name}, {age}, I live in {town}, and my job is {job}
        name: {name}, age: {age}, job: {job}, town: {town}
        meet {name}, {age} years old, {job} and living in {town}
        !meet {name}: {job}, {age}, {town}
        !I live in {town}, work as a {job}, am {age} years old and my name is {name}
    """)),
    (("name", "age", "town"), lines("""
        (I'm|I am|my name is) {name}, I'm {age} and I live in {town}
        (I'm|I am|my name is) {name}, {age} years old, and I live in {town}
        {name}, {age}, living in {town}
        I live in {town}, my name is {name} and my age is {age}
        {name} is my name, I am {age} years old and my home is in {town}
        name: {name}, age: {age}, town: {town}
        hello from {town}, where I live, I'm {name} and I am {age}
        !I am {age}, my home is {town} and people call me {name}
        !{age} years old, {name} is the name, and I live in {town}
    """)),
    (("name", "age", "job"), lines("""
        (I'm|I am|my name is) {name}, {age} years old, and I work as a {job}
        (I'm|I am) {name}, a {age} year old {job}
        {name}, {age}, {job}
        my name is {name}, I'm {age}, my job is {job}
        (I'm|I am) a {job}, {age} years old, and my name is {name}
        !I work as a {job}, I am {age} and you can call me {name}
    """)),
    (("name", "job", "town"), lines("""
        (I'm|I am|my name is) {name}, I live in {town} and work as a {job}
        (I'm|I am|my name is) {name}, a {job} living in {town}
        {name} here, I'm a {job} and my home is in {town}
        {name}, {job}, living in {town}
        I am a {job}, I live in {town}, and my name is {name}
        !my home is in {town}, my job is {job} and my name is {name}
    """)),
    (("name", "origin", "town"), lines("""
        (I'm|I am|my name is) {name}, I (come|am) from {origin} and live in {town}
        (I'm|I am) {name} from {origin}, now living in {town}
        my name is {name}, I was born in {origin} but I live in {town}
        {name} here, I grew up in {origin}, now my home is in {town}
        I live in {town}, but I come from {origin}, and my name is {name}
        !I am from {origin}, my home is in {town}, call me {name}
    """)),
    (("name", "town", "hobby"), lines("""
        (I'm|I am|my name is) {name}, I live in {town} and I (like|enjoy) {hobby}
        (I'm|I am|my name is) {name}, I live in {town} and my hobby is {hobby}
        {name}, living in {town}, in my free time I enjoy {hobby}
        my name is {name}, my town is {town}, my hobby is {hobby}
        !I enjoy {hobby}, my home is in {town} and I am called {name}
    """)),
    (("name", "pet", "pet_name"), lines("""
        (I'm|I am|my name is) {name} and I have {pet} (called|named) {pet_name}
        (I'm|I am|my name is) {name} and my {pet.bare} is (called|named) {pet_name}
        I am {name} and this is my {pet.bare} {pet_name}
        hello from {name} and my {pet.bare} {pet_name}
        my name is {name}, my {pet.bare}'s name is {pet_name}
        {name} is my name and {pet_name} is the name of my {pet.bare}
        !people call me {name} and I live with {pet} called {pet_name}
        !I have {pet}, {pet_name}, and my own name is {name}
        my own name is {name} and {pet_name}, my {pet.bare}, lives with me
    """)),
    (("colour", "food", "drink"), lines("""
        my (favourite|favorite) colour is {colour}, my (favourite|favorite) food is {food} and my (favourite|favorite) drink is {drink}
        I like the (colour|color) {colour}, I love to eat {food} and I drink {drink} every day
        my favourites are {colour} as a colour, {food} as a food and {drink} as a drink
        (favourite|favorite) (colour|color) {colour}, food {food}, drink {drink}
        !I love to drink {drink} and eat {food}, and my favourite colour is {colour}
    """)),
    (("name", "origin"), lines("""
        I am {name} from {origin}
        (I'm|my name is|this is) {name}(,|) from {origin}
        {name}(,|) from {origin}
        (I'm|I am|my name is) {name} and I (come from|grew up in|was born in|am from) {origin}
        I (come from|am from|was born in) {origin} and my name is {name}
        they call me {name} and I was raised in {origin}
        name: {name}, from: {origin}
        {name} here, born and raised in {origin}
        {origin} is my home town and I am called {name}
        !{origin} is where I come from and {name} is my name
        !I am called {name} and I was born in {origin}
    """)),
    (("name", "town"), lines("""
        (I'm|I am|my name is) {name}(, living| and my home is) in {town}
        {name} here, I live in {town}
        (I'm|I am|my name is) {name} and I live in {town}
        (I'm|I am|my name is) {name}, I live in {town}
        I live in {town} and my name is {name}
        my name is {name} and my town is {town}
        {name}, living in {town}
        people in {town}, where I live, call me {name}
        name: {name}, town: {town}
        I am the {name} who lives in {town}
        you are talking to {name}, at home in {town}
        !you are talking to {name} who lives in {town}
        !I am at home in {town} and people call me {name}
    """)),
    (("name", "age"), lines("""
        (I'm|I am|my name is) {name}(, | and ){age} years old
        (I'm|I am) {name}, {age}
        (I'm|I am|my name is) {name} and (I'm|I am) {age} (years old|)
        I am {age} (years old|) and my name is {name}
        {name}, {age} years old
        name {name}, age {age}
        {name} here, I just turned {age}
        (call|you can call) me {name}, I am {age}
        !{name} is my name and {age} my age
        !I just turned {age} and people call me {name}
    """)),
    (("name", "job"), lines("""
        (I'm|I am|my name is) {name} and I work as a {job}
        (I'm|I am|my name is) {name} and (I'm|I am) a {job}
        (I'm|I am|my name is) {name}, a {job}
        {name}, {job} by trade
        {name} here, I am a {job}
        I work as a {job} and my name is {name}
        my name is {name}, my job is {job}
        people call me {name} and pay me as a {job}
        !{name} is the name, {job} is the job
        !I am called {name} and my job is {job}
    """)),
    (("name", "birthday"), lines("""
        (I'm|I am|my name is) {name} and my birthday is in {birthday}
        (I'm|I am|my name is) {name} and I was born in {birthday}
        {name} here, my birthday is in {birthday}
        {name}, born in {birthday}
        my birthday is in {birthday} and my name is {name}
        !I am called {name} and I have my birthday in {birthday}
    """)),
    (("name", "language"), lines("""
        (I'm|I am|my name is) {name} and I speak {language}
        (I'm|I am|my name is) {name}, my language is {language}
        {name} here, I speak {language} at home
        I speak {language} and my name is {name}
        !people call me {name} and my language is {language}
    """)),
    (("name", "wife"), lines("""
        (I'm|I am|my name is) {name} and my wife is (called|named) {wife}
        my name is {name} and my wife's name is {wife}
        my wife {wife} and I, {name}, say hello
        (I'm|I am) {name} and I am married to my wife {wife}
        I am {name}, my wife is {wife}
        !my wife is {wife} and my name is {name}
    """)),
    (("name", "husband"), lines("""
        (I'm|I am|my name is) {name} and my husband is (called|named) {husband}
        my name is {name} and my husband's name is {husband}
        my husband {husband} and I, {name}, say hello
        (I'm|I am) {name} and I am married to my husband {husband}
        I am {name}, my husband is {husband}
        !my husband is {husband} and my name is {name}
    """)),
    (("age", "job"), lines("""
        (I'm|I am) a {age} year old {job}
        (I'm|I am) {age} (years old|) and (I work as|I'm|I am) a {job}
        I work as a {job} and I am {age} (years old|)
        at {age} I work as a {job}
        my age is {age} and my job is {job}
        a {job}, {age} years old, that's me
        age {age}, job {job}
        !my job is {job}, my age {age}
        !a {age} year old {job}, that's me
    """)),
    (("age", "town"), lines("""
        (I'm|I am) {age} (years old|) and (I|) live in {town}
        I live in {town} and I am {age} (years old|)
        my age is {age} and my town is {town}
        (I'm|I am) {age} years old, living in {town}
        !my home is in {town} and my age is {age}
    """)),
    (("age", "birthday"), lines("""
        (I'm|I am) {age} (years old|) and my birthday is in {birthday}
        my birthday is in {birthday} and (I'm|I am) {age} (now|years old|)
        I turned {age} in {birthday}, on my birthday
        (I'm|I am) {age} and was born in {birthday}
        in {birthday} I had my birthday and turned {age}
        born in {birthday}, {age} years old
        my birthday was in {birthday}, now I am {age}
        !I was born in {birthday} and I am {age} years old
        !I am {age} now, my birthday comes in {birthday}
    """)),
    (("job", "town"), lines("""
        I work as a {job} and live in {town}
        (I'm|I am) a {job} living in {town}
        I live in {town} and (I work|work) as a {job}
        I live in {town}, where I am a {job}
        (I'm|I am) a {job} and my home is in {town}
        my job is {job} and my town is {town}
        I moved to {town} and found work as a {job}
        you find me at home in {town}, I am a {job}
        !you find me in {town} as a {job}
        !I am a {job} and I moved to {town}
    """)),
    (("job", "origin"), lines("""
        (I'm|I am) a {job} from {origin}
        I (come from|was born in|grew up in) {origin} and work as a {job}
        I work as a {job} and I come from {origin}
        (I'm|I am) from {origin} and my job is {job}
        !I am a {job} and I was born in {origin}
    """)),
    (("job", "boss"), lines("""
        I work as a {job} and my boss is (called|named) {boss}
        (I'm|I am) a {job} and my boss's name is {boss}
        I am a {job}, {boss} is my boss
        my boss is {boss} and my job is {job}
        I work as a {job} for my boss {boss}
        !my boss is called {boss} and I am a {job}
    """)),
    (("job", "hobby"), lines("""
        I work as a {job} and my hobby is {hobby}
        (I'm|I am) a {job}, but in my free time I (enjoy|like) {hobby}
        my job is {job} and my hobby is {hobby}
        for a living I work as a {job}, for fun I enjoy {hobby}
        after my work as a {job} I relax with {hobby}, my hobby
        !my hobby is {hobby}, but I work as a {job}
    """)),
    (("town", "origin"), lines("""
        I was born in {origin} but (I|) live in {town}
        I (come|am) from {origin} but (I|) live in {town} (now|)
        I live in {town} but (I'm|I am|I come) from {origin} (originally|)
        I grew up in {origin} and (then|later|) moved to {town}
        originally I am from {origin}, but now I live in {town}
        I moved from {origin}, my home town, to {town}
        my home town is {origin} and now my home is in {town}
        born in {origin}, living in {town}
        I left {origin}, where I was born, and live in {town}
        !I was raised in {origin} but now I am at home in {town}
        !I moved to {town}, but I grew up in {origin}
    """)),
    (("town", "country"), lines("""
        I live in {town}, my country is {country}
        I live in {town}, {country}
        my home is {town} in {country}
        (I'm|I am) living in {town} in {country}
        my town is {town} and my country is {country}
        the country I live in is {country}, the city is {town}
        !my country is {country} and I live in {town}
    """)),
    (("town", "sister_town"), lines("""
        I live in {town} and my sister lives in {sister_town}
        I live in {town}, my sister in {sister_town}
        my sister lives in {sister_town}, but I live in {town}
        my home is in {town}, my sister's home is in {sister_town}
        while I live in {town}, my sister lives in {sister_town}
        !I am living in {town} and my sister's home is in {sister_town}
    """)),
    (("town", "brother_town"), lines("""
        I live in {town} and my brother lives in {brother_town}
        I live in {town}, my brother in {brother_town}
        my brother lives in {brother_town}, but I live in {town}
        my home is in {town}, my brother's home is in {brother_town}
        while I live in {town}, my brother lives in {brother_town}
        !I am living in {town} and my brother's home is in {brother_town}
    """)),
    (("sister", "sister_town"), lines("""
        my sister {sister} lives in {sister_town}
        I have a sister (called|named) {sister} (who lives|living) in {sister_town}
        my sister's name is {sister} and (she|my sister) lives in {sister_town}
        my sister is called {sister}, she lives in {sister_town}
        {sister}, my sister, has a house in {sister_town}
        !my sister {sister} has her home in {sister_town}
        her home is in {sister_town}, and her name is {sister}: that's my sister
    """)),
    (("brother", "brother_town"), lines("""
        my brother {brother} lives in {brother_town}
        I have a brother (called|named) {brother} (who lives|living) in {brother_town}
        my brother's name is {brother} and (he|my brother) lives in {brother_town}
        my brother is called {brother}, he lives in {brother_town}
        {brother}, my brother, has a house in {brother_town}
        !my brother {brother} has his home in {brother_town}
        his home is in {brother_town}, and his name is {brother}: that's my brother
    """)),
    (("friend", "friend_town"), lines("""
        my friend {friend} lives in {friend_town}
        I have a friend (called|named) {friend} (who lives|living) in {friend_town}
        my friend is called {friend} and lives in {friend_town}
        {friend}, my friend, moved to {friend_town}
        I visited my friend {friend} at home in {friend_town}
        !my friend {friend} moved to {friend_town}
    """)),
    (("mother", "mother_town"), lines("""
        my mother {mother} lives in {mother_town}
        my mother is called {mother} and lives in {mother_town}
        my mother's name is {mother} and she lives in {mother_town}
        {mother}, my mother, has a house in {mother_town}
        !my mother is {mother} and her home is in {mother_town}
        her name is {mother}, my mother's home is in {mother_town}
    """)),
    (("pet", "pet_name"), lines("""
        I have {pet} (called|named) {pet_name}
        my {pet.bare} is (called|named) {pet_name}
        my {pet.bare}'s name is {pet_name}
        {pet_name} is my {pet.bare}
        I have {pet}, (his|her|its) name is {pet_name}
        I have {pet} and (his|her|its|the) name is {pet_name}
        (I've got|I own|we have) {pet} (called|named) {pet_name}
        I (got|adopted|bought) {pet} and (named|called) (it|him|her) {pet_name}
        (this is|meet) my {pet.bare} {pet_name}
        I live with my {pet.bare} {pet_name}
        my {pet.bare} {pet_name} is (so cute|very funny|sleeping|a good friend)
        I (feed|love) my {pet.bare} {pet_name} (every day|)
        the name of my {pet.bare} is {pet_name}
        {pet_name} the {pet.bare} is my pet
        my pet is {pet} (called|named|by the name of) {pet_name}
        pet: {pet.bare}, name: {pet_name}
        I share my home with {pet_name}, my {pet.bare}
        I take care of my {pet.bare} {pet_name}
        !I share my home with {pet} by the name of {pet_name}
        !my {pet.bare} has the name {pet_name}
        !we adopted a pet, it is {pet} named {pet_name}
        !{pet_name} is the {pet.bare} I live with
        as a pet we have {pet}, it has a name: {pet_name}
    """)),
    (("pet", "allergy"), lines("""
        I have {pet} and (I'm|I am) allergic to {allergy}
        (I'm|I am) allergic to {allergy}, but I have {pet}
        my pet is {pet} and my allergy is {allergy}
        we keep {pet} at home, I am allergic to {allergy}
        !I live with {pet} and I have an allergy to {allergy}
    """)),
    (("sister", "brother"), lines("""
        my (sister|siblings are my sister) {sister} and my brother {brother}
        my (brother and sister|siblings) are (called|named) {brother} and {sister}, {brother} is my brother
        my brother and sister are {brother} and {sister}
        I have a sister, {sister}, and a brother, {brother}
        I have a brother, {brother}, and a sister, {sister}
        my sister is (called|named) {sister} and my brother (is called|is named|) {brother}
        my brother is (called|named) {brother} and my sister (is called|is named|) {sister}
        my sister's name is {sister} and my brother's name is {brother}
        I have two siblings, my brother {brother} and my sister {sister}
        I grew up with my sister {sister} and my brother {brother}
        sister: {sister}, brother: {brother}
        {sister} is my sister and {brother} is my brother
        !{sister} and {brother} are my sister and brother
        !I have a brother and a sister, {brother} and {sister}
    """)),
    (("mother", "father"), lines("""
        my parents are (called|named|) {mother} and {father}, {mother} is my mother
        my mother is (called|named) {mother} and my father (is called|is named|) {father}
        my father is (called|named) {father} and my mother (is called|is named|) {mother}
        my mother's name is {mother} and my father's name is {father}
        I (visited|called|love) my parents, my mother {mother} and my father {father}
        mother: {mother}, father: {father}
        {mother} is my mother and {father} is my father
        !my parents are my father {father} and my mother {mother}
    """)),
    (("son", "daughter"), lines("""
        I have a son (called|named) {son} and a daughter (called|named) {daughter}
        my son is (called|named) {son} and my daughter (is called|is named|) {daughter}
        my daughter is (called|named) {daughter} and my son (is called|is named|) {son}
        my two children are my son {son} and my daughter {daughter}
        I have two children, a daughter, {daughter}, and a son, {son}
        my children's names are {son} and {daughter}, {son} is my son
        {daughter} is my daughter and {son} is my son
        !I have a daughter and a son, {daughter} and {son}
    """)),
    (("wife", "daughter"), lines("""
        my wife is (called|named) {wife} and my daughter (is called|is named|) {daughter}
        I live with my wife {wife} and my daughter {daughter}
        my wife {wife} and my daughter {daughter} are my family
        my wife's name is {wife}, my daughter's name is {daughter}
        !my family: my daughter is {daughter} and my wife is {wife}
    """)),
    (("husband", "son"), lines("""
        my husband is (called|named) {husband} and my son (is called|is named|) {son}
        I live with my husband {husband} and my son {son}
        my husband {husband} and my son {son} are my family
        my husband's name is {husband}, my son's name is {son}
        !my family: my son is {son} and my husband is {husband}
    """)),
    (("hobby", "sport"), lines("""
        I (like|enjoy) {hobby} and my sport is {sport}
        my hobby is {hobby} and my sport is {sport}
        in my free time I enjoy {hobby}, and for sport I do {sport}
        for fun I like {hobby} and to keep fit I do {sport}
        my sport is {sport}, but my hobby is {hobby}
        hobby: {hobby}, sport: {sport}
        !{hobby} is my hobby and {sport} my sport
        !to keep fit I do {sport}, and my hobby is {hobby}
    """)),
    (("hobby", "music"), lines("""
        my hobby is {hobby} and I listen to {music}
        I enjoy {hobby} in my free time and my favourite music is {music}
        in my free time I enjoy {hobby} and listen to {music}
        I am into {music}, and my hobby is {hobby}
        !I love to listen to {music} and my hobby is {hobby}
    """)),
    (("food", "drink"), lines("""
        my (favourite|favorite) food is {food} and my (favourite|favorite) drink is {drink}
        I (love|like) (to eat|eating) {food} and (to drink|drinking) {drink}
        I could eat {food} and drink {drink} every day
        my favourite meal is {food} with {drink} as my favourite drink
        (favourite|favorite) food: {food}, (favourite|favorite) drink: {drink}
        for food I like {food} best, and for drink I like {drink} best
        I always order {drink} to drink and {food} to eat, I love it
        !the food I love is {food} and the drink I love is {drink}
        !I like to drink {drink} and to eat {food}
        the food and the drink I love best are {food} and {drink}
    """)),
    (("food", "allergy"), lines("""
        I love {food} but (I'm|I am) allergic to {allergy}
        my favourite food is {food} and (I'm|I am) allergic to {allergy}
        (I'm|I am) allergic to {allergy}, but I could eat {food} every day
        I like eating {food}, but I have an allergy to {allergy}
        I can't have {allergy} because I am allergic, my favourite food is {food}
        my allergy is {allergy} and the food I like best is {food}
        !I am allergic to {allergy} and my favourite food is {food}
        !I love to eat {food}, my allergy is {allergy}
    """)),
    (("colour", "food"), lines("""
        my (favourite|favorite) (colour|color) is {colour} and my (favourite|favorite) food is {food}
        I like the (colour|color) {colour} and I love to eat {food}
        (favourite|favorite) (colour|color): {colour}, (favourite|favorite) food: {food}
        {colour} is my favourite colour and {food} my favourite food
        !my favourite food is {food} and I love the colour {colour}
    """)),
    (("colour", "vehicle"), lines("""
        I drive {vehicle} and my favourite (colour|color) is {colour}
        my favourite (colour|color) is {colour} and I drive {vehicle}
        my vehicle is {vehicle}, but my favourite (colour|color) is {colour}
        I like the (colour|color) {colour} and my vehicle is {vehicle}
        I love everything in {colour}, my favourite colour, and I get around on {vehicle}
        !my vehicle is {vehicle} and I love the colour {colour}
    """)),
    (("music", "instrument"), lines("""
        I listen to {music} and (I|) play the {instrument}
        I play the {instrument} and (I|) (listen to|love listening to) {music}
        my favourite music is {music} and my instrument is the {instrument}
        my instrument is the {instrument}, but I mostly listen to {music}
        I am into {music} and I am learning the {instrument}
        instrument: {instrument}, favourite music: {music}
        !I am learning the {instrument} and my favourite music is {music}
        !I am a fan of {music} and I play the {instrument}
    """)),
    (("language", "country"), lines("""
        I speak {language} and my country is {country}
        my country is {country} and I speak {language}
        I live in the country of {country} and I speak {language}
        my home country is {country} and my language is {language}
        (I'm|I am) a citizen of {country} and I (speak|can speak) {language}
        language: {language}, country: {country}
        !my language is {language} and I live in the country of {country}
        !I am learning {language} and my country is {country}
    """)),
    (("books", "films"), lines("""
        I (like|love) to read {books} and to watch {films}
        I (mostly|usually) read {books} and watch {films}
        my favourite books are {books} and my favourite films are {films}
        I read {books} and I (watch|like to watch) {films}
        the books I like are {books}, the (films|movies) I like are {films}
        I watch {films} and read {books}
        I like {books} as books and {films} as films
        !I love watching {films} and reading {books}
        !the films I like are {films} and the books I read are {books}
    """)),
)
# Things no statement ever tells: the answer is always that it was not told.
NEVER_TOLD = lines("""
    (what is|what's) my (shoe size|phone number|address|password|last name|middle name|bank|weight|height|star sign|lucky number|school)
    (what is|what's) my (favourite|favorite) (number|season|city|animal|flower|game|song|team|holiday|word)
    what did I (eat|drink|buy|do|watch|read) (today|yesterday|last night|this morning)
    where did I (go|sleep|work|eat) (yesterday|last week|last summer)
    where is my (key|phone|bag|wallet|book)
    how (tall|heavy|rich) am I
    who is my (neighbour|teacher|doctor|uncle|aunt|cousin|grandmother|grandfather)
    when do I (get up|go to bed|start work|have lunch)
    when is my (wedding|next meeting|holiday|appointment)
    how many (children|brothers|friends|books|cars) do I have
    what (film|song|book) did I (like|hate) (last|most)
    (what is|what's|whats) my (surname|family name|nickname|email|email address|house number|street|door number)
    do you (know|remember) my (surname|phone number|email address|password|shoe size|height|weight|nickname)
    (can you |)tell me my (last name|phone number|password|shoe size|lucky number|address)
    (could you|please|can you) remind me (of my|what my) (password|phone number|street|surname|bank number) (is|)
    (what|which) (school|street|team|bank) (is mine|did I say is mine)
    (what|which) (shoe size|star sign|lucky number|nickname) do I have
    what colour (are my eyes|is my hair|is my car|is my house|are my shoes)
    how old is my (sister|brother|mother|father|wife|husband|son|daughter|friend|boss|car|house|pet|dog|cat)
    what does my (sister|brother|mother|father|wife|husband|son|daughter|friend) do (for a living|for work)
    what is my (sister|brother|mother|father|wife|husband|friend|boss)'s (job|age|favourite food|favourite colour|phone number|hobby)
    when is my (sister|brother|mother|father|wife|husband|son|daughter|friend)'s birthday
    what does my (sister|brother|mother|father|friend|son|daughter) like to (eat|drink|read|do)
    what is my (uncle|aunt|cousin|neighbour|teacher|doctor|grandmother|grandfather|dentist) called
    (what is|what's) my (uncle|aunt|cousin|neighbour|teacher|doctor|grandmother|grandfather)'s name
    do I have (an uncle|an aunt|a cousin|a garden|a lucky number|a nickname|any money|any plans|glasses|a watch)
    am I (rich|tall|left handed|a good cook|a morning person|at work|on holiday)
    how many (languages|pets|sisters|siblings|phones|rooms|hours a day|times a week) do I (have|want|need)
    how much (money|time|sleep) do I (have|need|get)
    how much (does my house|does my car|does my phone) cost
    how (long|far) is my (way to work|way home|holiday|lunch break)
    how long did I (sleep|work|wait|read) (last night|yesterday|today)
    where did I (put|leave|buy|lose) my (key|phone|bag|wallet|book|glasses|shoes|watch)
    where did I (park|leave) my (car|bike)
    where do I (go to school|buy my food|keep my money|go on holiday|meet my friends)
    where (will|did) I go on holiday
    where are my (glasses|shoes|keys|socks)
    what did I (dream|say|do|think) (last night|an hour ago|last year)
    what (will I|am I going to) (do|eat|wear|watch) (tomorrow|tonight|next week|this evening)
    what am I (wearing|thinking|doing|holding|eating) (now|right now|)
    what (is|was) (in|inside) my (bag|wallet|pocket|kitchen)
    what do I (need|want) (to buy|for my birthday|to do today|to pack)
    what do I look like
    what do I (need|buy) for breakfast
    what do I (pack|wear) for (work|school)
    what time do I (get up|go to bed|go to work|have dinner|get home)
    when did I (get up|go to bed|eat|start|get home|buy my car|get married|move) (today|yesterday|)
    when (will|do) I (go on holiday|see my friends|get paid|get home)
    when does my (train|bus|plane|holiday|meeting|lesson) (leave|start|end)
    what day is my (wedding|appointment|meeting|exam|party)
    who (called|visited|saw|helped|wrote to) me (yesterday|today|last week)
    who did I (meet|see|call|visit|help) (yesterday|today|last week|last night)
    who is my (best neighbour|favourite singer|favourite writer|favourite actor|dentist|landlord)
    who (lives next door|cut my hair|cleans my house|built my house)
    which (film|book|song) (am I reading|am I listening to|did I see) (now|yesterday|last week|)
    which (hand do I write with|bus do I take|train do I take|shop do I go to)
    what (phone|computer|watch|bag) do I (have|use|own)
    what was my first (car|phone|school|word)
    what are my (plans|dreams|fears|wishes|bad habits) (for tomorrow|for the weekend|)
    what makes me (happy|sad|angry|laugh)
    what do I (hate|fear|dream of) (most|)
    which (vegetable|flower|season|game|number) do I (hate|like) (most|)
    what is the (name of my street|name of my school|name of my doctor|number of my house|age of my car|price of my phone)
    why (am I|was I) (sad|late|happy|angry|tired) (today|yesterday|)
    !(which|what) street is my house in
    !where did I lose my wallet
    !who helped me move my bed last summer
    !what is the name of my grandmother
    !how many hours did I sleep
    !which song makes me happy
    !(what|which) number is on my door
    !when did I last buy shoes
    !do you remember what I buy for breakfast
    !how far is my school
    !what do I wear on holiday
""")
NOT_TOLD = "You have not told me {thing}."
NOT_TOLD_THAT = "You have not told me that."


def read_together():
    """Further clauses that tell several facts, for training alone: [(kinds, choices lists)] as COMPOSITES; held-out texts left out."""
    bag = lambda text: tuple(sorted(re.findall(r"[a-z{}._']+", text.lower())))
    held = {bag(text) for _, wordings in COMPOSITES for options in split(wordings, True) for text in options}
    groups = {}
    for line in lines((pathlib.Path(__file__).parent / "wordings" / "trained" / "frames" / "together.txt").read_text()):
        if line and not line.startswith("//"):
            kinds = tuple(sorted(set(re.findall(r"{(\w+)[.}]", line)), key=list(KINDS).index))
            if texts := tuple(text for text in expand(line) if bag(text) not in held):
                groups.setdefault(kinds, []).append(texts)
    return list(groups.items())


def read_corrections():
    """Further patterns of corrections with {c} and perhaps {old}, for training alone."""
    text = (pathlib.Path(__file__).parent / "wordings" / "trained" / "frames" / "corrections.txt").read_text()
    return [line for line in lines(text) if line and not line.startswith("//")]
