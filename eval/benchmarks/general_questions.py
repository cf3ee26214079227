"""Questions whose answers do not depend on who asks: what a personalized LLM should leave alone.

Each is a question and a short answer that anybody would accept, in our own words, in four domains: facts, numbers,
language and everyday know-how. None is about films, reviews, news or papers, the subjects of the histories they are
mixed with (`persona.eval.restraint`), and none is among those that filters are trained with
(`persona.retrievers.relevance.general`). Questions of another domain are read from files (`read_general`).

>>> len(GENERAL_QUESTIONS), GENERAL_QUESTIONS[0].question
(120, 'Which planet is closest to the sun?')
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from persona.errors import DataFormatError
from persona.formats.text_files import read_lines
from persona.readers import read_split


@dataclass(frozen=True, slots=True)
class GeneralQuestion:
    """A question that is not about the user.

    Attributes:
        domain: where it is from.
        question: as it is asked.
        answer: a right one.
        query: what is looked for in the history; empty is the question as it is.
    """

    domain: str
    question: str
    answer: str
    query: str = ""


_FACTS = """
Which planet is closest to the sun?|Mercury
What is the capital of Norway?|Oslo
How many legs does a spider have?|eight
Which gas do plants take in for photosynthesis?|carbon dioxide
What is the chemical symbol for gold?|Au
At how many degrees Celsius does water freeze at sea level?|0
Which ocean lies between Africa and Australia?|the Indian Ocean
How many bones does a grown human body have, about?|206
What do bees collect from flowers to make honey?|nectar
Which river flows through Cairo?|the Nile
Who wrote the play Hamlet?|Shakespeare
What is the largest bird alive?|the ostrich
In which year did people first walk on the moon?|1969
Which metal is liquid at room temperature?|mercury
What is the longest side of a right triangle called?|the hypotenuse
Which country has the shape of a boot?|Italy
How long does the earth take to go once round the sun?|about 365 days
What does a barometer measure?|air pressure
Which instrument has 88 keys?|the piano
What is frozen carbon dioxide commonly called?|dry ice
Which vitamin does the skin make in sunlight?|vitamin D
What is the currency of Japan?|the yen
How many strings does a violin have?|four
Which desert covers much of northern Africa?|the Sahara
What is the hardest natural mineral?|diamond
Which organ pumps blood through the body?|the heart
What is the tallest mountain above sea level?|Mount Everest
Which language has the most native speakers in Brazil?|Portuguese
What force pulls a dropped stone to the ground?|gravity
How many continents are usually counted?|seven
"""

_NUMBERS = """
What is 17 plus 26?|43
What is 9 times 12?|108
How many minutes are in three hours?|180
What is half of 250?|125
How many centimetres are in two and a half metres?|250
What is 15 percent of 200?|30
How many sides does a hexagon have?|six
What is the cube of 5?|125
If a train leaves at 9:40 and arrives at 11:05, how long is the ride?|1 hour and 25 minutes
How many grams are in 1.2 kilograms?|1200
What is 1000 minus 387?|613
How many days does February have in a leap year?|29
What is the next number after 2, 4, 8, 16?|32
How many quarters make two and a half?|ten
What is 7 to the power of 2?|49
How many seconds are in a quarter of an hour?|900
What is the sum of the angles of a triangle in degrees?|180
Divide 96 by 8.|12
How many edges does a cube have?|twelve
What is 0.25 as a fraction?|one quarter
Which is larger, three fifths or one half?|three fifths
What is 68 degrees Fahrenheit in Celsius?|20
How many litres are in 350 centilitres?|3.5
What is the smallest prime number?|2
Convert the binary number 1010 to decimal.|10
If three pens cost 4.50, what does one pen cost?|1.50
What is the perimeter of a square whose sides are 6 cm long?|24 cm
How many weeks are in a year, about?|52
What is the average of 4, 8 and 9?|7
Round 3.678 to one digit after the point.|3.7
"""

_LANGUAGE = """
What is the plural of the English word mouse?|mice
What is the past tense of the verb to fly?|flew
Give a word that means the opposite of scarce.|plentiful
How is the German word Wasser translated into English?|water
Which letter comes after Q in the English alphabet?|R
Correct the spelling of the word recieve.|receive
What is the French word for bread?|pain
How many vowels are in the word umbrella?|three
Write the word garden backwards.|nedrag
Which word is a noun: quickly, window or beneath?|window
What does the abbreviation e.g. stand for?|for example
How is the Spanish word gracias translated into English?|thank you
Turn this sentence into a question: the bus stops here.|Does the bus stop here?
What is the comparative of the adjective good?|better
Which mark ends a question?|a question mark
Give a synonym of the word brave.|courageous
Put these words into alphabetical order: pear, apple, fig.|apple, fig, pear
What do we call the person to whom a letter is addressed?|the addressee
Is the word sheep singular or plural?|both
What is the abbreviation of the word Monday?|Mon
How many syllables does the word banana have?|three
Complete the proverb: a stitch in time saves ...|nine
Which article goes before the word hour, a or an?|an
What is the Italian word for good morning?|buongiorno
What does the prefix re- in rebuild mean?|again
Make the verb to decide into a noun.|decision
Say in one word: a person who bakes bread.|a baker
What is the infinitive of the form went?|to go
Which of these is misspelt: necessary, seperate, rhythm?|seperate
Translate the Latin word terra into English.|earth
"""

_KNOW_HOW = """
How do I boil an egg so that the yolk is hard?|boil it for about ten minutes
Which key combination usually copies marked text on a computer?|Ctrl and C
How can I get a red wine stain out of a tablecloth?|with salt and cold water, then wash it
In what order do I put on the safety belt and start the car?|belt first
How do I convert a photo to black and white?|open it in an image editor and choose greyscale
What should I do first if a pan of oil catches fire?|turn off the heat and cover the pan
How often should a toothbrush be replaced?|about every three months
Which command lists the files of a folder in a Linux terminal?|ls
How do I keep cut basil fresh for some days?|in a glass of water
What is the safest way to unplug a lamp?|pull the plug, not the cord
How can I remove a splinter from a finger?|with clean tweezers
How do I reset a forgotten password on most sites?|with the link for a forgotten password
Which side of aluminium foil goes inside?|either
How long should pasta rest after it was drained?|not at all
How do I calculate a tip of ten percent?|divide the bill by ten
How do I write a comment in a Python program?|with a hash sign
What is the best place in a kitchen to store potatoes?|a cool, dark and dry one
How do I tie two ropes of the same thickness together?|with a reef knot
How do I tell whether an avocado is ripe?|it gives way to a gentle press
Which tool do I need to tighten a hexagonal bolt?|a spanner
How can I stop a door from squeaking?|oil the hinges
What goes into a vinaigrette?|oil, vinegar, salt and mustard
How do I defrost a freezer?|switch it off, empty it and let the ice melt
How can I save a web page as a PDF file?|print it to a PDF
How do I measure the size of a room for a new carpet?|multiply length by width
What should I write on an envelope before I post it?|the address and a stamp
How do I calm hiccups?|hold your breath for a while
Where on a bicycle is the air pumped in?|at the valve of the tyre
How do I sharpen a pencil without a sharpener?|with a knife
How do I change the time zone of a phone?|in the settings for date and time
"""


def _read(domain: str, lines: str) -> tuple[GeneralQuestion, ...]:
    pairs = (line.rsplit("|", 1) for line in lines.strip().splitlines())
    return tuple(GeneralQuestion(domain, question, answer) for question, answer in pairs)


GENERAL_QUESTIONS = (
    *_read("facts", _FACTS),
    *_read("numbers", _NUMBERS),
    *_read("language", _LANGUAGE),
    *_read("know-how", _KNOW_HOW),
)
"""All of them, domain by domain."""


def read_general(place: Path, at_most: int, split: str = "train") -> tuple[GeneralQuestion, ...]:
    """Questions that are not about the users at hand, from a file or from another domain.

    Args:
        place: a text file with one question a line, or a folder like LaMP's with another task's questions.
        at_most: so many, spread over all there are.
        split: of the folder: train or dev.

    Returns:
        The questions; of a folder with the golds as answers, where there are any.

    Raises:
        DataFormatError: if the file is missing, empty or not UTF-8, or the folder is not like LaMP's.
    """
    domain = place.resolve().name
    if place.is_dir():
        read = read_split(place, split)
        golds = read.golds or {}
        found = [
            GeneralQuestion(domain, one.input, golds.get(one.id, ""), read.task.query(one.input))
            for one in read.questions
        ]
    else:
        found = [GeneralQuestion(domain, line.strip(), "") for _, line in read_lines(place)]
    if not found:
        raise DataFormatError("there must be at least one question", source=place)
    places = np.linspace(0, len(found) - 1, min(at_most, len(found))).round().astype(int)
    return tuple(found[place] for place in places)
