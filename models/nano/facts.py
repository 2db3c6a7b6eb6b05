"""What a person may tell nano: the kinds of facts, their values and their wordings.

Owns the word lists; draws nothing at random. All of it was written for this project.

A wording is a lower-case clause without final punctuation. `{v}` is the value, `(a|b|)` a choice.
A line that starts with `!` is held out: no training text is ever made from it. A value that starts
with `!` is known to the backbone, and no adapter episode ever writes it.
"""

import functools
import pathlib
import re
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
    """The wordings of one side, as a list of choices lists."""
    return [expand(w) for w in wordings if w.startswith("!") == is_held_out]


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
    return Kind(
        PEOPLE,
        lines(f"""
            my {r} is (called|named) {{v}}
            my {r}'s name is {{v}}
            (the name of my {r}|my {r}s name) is {{v}}
            I have a {r} (called|named) {{v}}
            my {r} is {{v}}
            {{v}} is (my {r}|my {r}'s name|the name of my {r})
            !my {r} goes by {{v}}
            !(we|people) call my {r} {{v}}
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
            !how is my {r} called
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
            !my {r} resides in {{v}}
        """),
        lines(f"""
            where does my {r} live
            (what|which) (city|town) does my {r} live in
            do you (know|remember) where my {r} lives
            (could you|please|can you) remind me where my {r} lives
            where is my {r}'s home
            !in (what|which) (city|town) is my {r} at home
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
PROPER = ("name", "town", "origin", "country", "pet_name", "language", "vehicle")

# Clauses that tell several facts at once; a value without its article is {kind.bare}.
COMPOSITES = (
    (("name", "origin"), lines("""
        I am {name} from {origin}
        (I'm|my name is|this is) {name}(,|) from {origin}
        {name}(,|) from {origin}
        !{origin} is where I come from and {name} is my name
    """)),
    (("name", "town"), lines("""
        (I'm|I am|my name is) {name}(, living| and my home is) in {town}
        {name} here, I live in {town}
        !you are talking to {name} who lives in {town}
    """)),
    (("name", "age"), lines("""
        (I'm|I am|my name is) {name}(, | and ){age} years old
        (I'm|I am) {name}, {age}
        !{name} is my name and {age} my age
    """)),
    (("age", "job"), lines("""
        (I'm|I am) a {age} year old {job}
        !a {job} of {age} years, that is me
    """)),
    (("name", "age", "job", "town"), lines("""
        {name}, {age}, {job} in {town}
        I am {name}, {age} years old, a {job} living in {town}
        !meet {name}: {job}, {age}, {town}
    """)),
    (("job", "town"), lines("""
        I work as a {job} and live in {town}
        (I'm|I am) a {job} living in {town}
        !you find me in {town} as a {job}
    """)),
    (("town", "country"), lines("""
        I live in {town}, my country is {country}
        I live in {town}, {country}
        my home is {town} in {country}
        !you find me in {town}, {country}
    """)),
    (("pet", "pet_name"), lines("""
        I have {pet} (called|named) {pet_name}
        my {pet.bare} is (called|named) {pet_name}
        my {pet.bare}'s name is {pet_name}
        {pet_name} is my {pet.bare}
        I have {pet}, (his|her) name is {pet_name}
        !I share my home with {pet} by the name of {pet_name}
    """)),
    (("sister", "brother"), lines("""
        my (sister|siblings are my sister) {sister} and my brother {brother}
        my (brother and sister|siblings) are (called|named) {brother} and {sister}, {brother} is my brother
        I have a sister, {sister}, and a brother, {brother}
        !{sister} and {brother} are my sister and brother
    """)),
    (("hobby", "sport"), lines("""
        I (like|enjoy) {hobby} and my sport is {sport}
        !{hobby} is my hobby and {sport} my sport
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
    !what is my (postcode|blood type)
    !where did I park
""")
NOT_TOLD = "You have not told me {thing}."
NOT_TOLD_THAT = "You have not told me that."
