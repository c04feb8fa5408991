"""TemplateSentences: sentences with what dictionaries lack: numbers, dates, times, money, questions, names, lists."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

LINES = {
    "first_names": (
        "Alice Anna Ben Carla Daniel David Emma Eric Fiona Frank Grace Hannah Henry Ivan Jack James Jane Julia "
        "Karen Kate Laura Leo Linda Lucy Maria Mark Martha Michael Nina Oliver Oscar Paul Peter Rachel Robert "
        "Rosa Sam Sarah Simon Susan Thomas Tina Victor Walter William"
    ),
    "last_names": (
        "Adams Baker Bell Brown Carter Clark Cooper Davis Evans Fisher Foster Garcia Gray Green Hall Harris Hill "
        "Hughes Jackson Johnson Jones King Lee Lewis Martin Miller Mitchell Moore Morgan Murphy Nelson Parker "
        "Price Reed Roberts Scott Smith Stone Taylor Turner Walker Ward Watson White Wilson Wood Wright Young"
    ),
    "places": (
        "Amsterdam Athens Berlin Boston Brussels Cairo Chicago Dallas Denver Dublin Edinburgh Florence Geneva "
        "Glasgow Houston Lisbon London Madrid Manchester Melbourne Milan Montreal Moscow Munich Naples Nairobi "
        "Oslo Paris Prague Rome Seattle Sydney Tokyo Toronto Vienna Warsaw Zurich"
    ),
    "months": "January February March April May June July August September October November December",
    "days": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "things": (
        "apples bags bananas blankets books bottles bowls boxes brushes buttons cakes candles carrots chairs "
        "cherries clocks coats coins cups eggs envelopes flowers forks gloves grapes hats jackets keys knives "
        "ladders lamps lemons letters maps mirrors nails newspapers onions oranges papers pears pencils pens "
        "phones pillows plates potatoes ropes scarves shirts shoes spoons stamps stones tables tickets tomatoes "
        "towels toys umbrellas watches windows"
    ),
    "verbs": "bought found sold needed borrowed counted packed carried ordered lost",
    "workers": "doctor teacher driver baker nurse farmer lawyer painter writer waiter sailor engineer gardener",
    "rooms": "kitchen garden office library station museum hotel theater market school hospital airport",
    "titles": "Mr. Mrs. Dr.",
}
WORDS = {kind: line.split() for kind, line in LINES.items()}


class Drawing:
    """Draws the parts of a sentence. Only random() is the same in every version of Python."""

    def __init__(self, seed: str) -> None:
        self._noise = random.Random(seed)

    def number(self, low: int, high: int) -> int:
        """A whole number from low to high."""
        return low + int(self._noise.random() * (high - low + 1))

    def one(self, kind: str) -> str:
        """A word of LINES."""
        return WORDS[kind][self.number(0, len(WORDS[kind]) - 1)]

    def several(self, kind: str, number: int) -> list[str]:
        """Different words of LINES, in any order."""
        left = list(WORDS[kind])
        return [left.pop(self.number(0, len(left) - 1)) for _ in range(number)]


def fill(draw: Drawing, template: str) -> str:
    """A template with its fields replaced."""
    things = draw.several("things", 4)
    first, second = draw.several("first_names", 2)
    start, end = draw.several("places", 2)
    large = draw.number(1, 99) * 10 ** draw.number(1, 4)
    fields = {
        "first": first, "second": second, "last": draw.one("last_names"), "title": draw.one("titles"),
        "start": start, "end": end, "day": draw.one("days"), "date": f"{draw.one('months')} {draw.number(1, 28)}",
        "year": draw.number(1700, 2029), "time": f"{draw.number(1, 12)}:{draw.number(10, 59)}",
        "money": f"${draw.number(1, 99)}.{draw.number(10, 99)}", "dollars": f"${draw.number(2, 900)}",
        "small": draw.number(2, 19), "number": draw.number(20, 999), "large": f"{large:,}",
        "decimal": f"{draw.number(0, 99)}.{draw.number(1, 9)}", "percent": f"{draw.number(2, 99)}%",
        "digits": f"{draw.number(200, 999)}-{draw.number(1000, 9999)}", "a": things[0], "b": things[1], "c": things[2],
        "d": things[3], "verb": draw.one("verbs"), "worker": draw.one("workers"), "room": draw.one("rooms"),
    }  # fmt: skip
    return template.format(**fields)


TEMPLATES = (
    "{first} {verb} {number} {a} and {small} {b}.",
    "{first} {last} was born on {date}, {year}.",
    "The {worker} {verb} {small} {a}, {number} {b} and {large} {c}.",
    "The train to {end} leaves at {time} on {day}.",
    "When does the bus from {start} to {end} arrive?",
    "Does it leave {start} before {time}, or after {day}?",
    "{title} {last} paid {money} for the {a}.",
    "Did {title} {last} really pay {dollars} for {small} {a}?",
    "How many {a} did {first} {last} find in the {room}?",
    "Why did {first} put the {a} next to the {b}?",
    "Where are the {a}, the {b} and the {c}?",
    "Please bring {a}, {b}, {c} and {d} to the {room}.",
    "We {verb} {a}; {first} {verb} {b}.",
    "In {year}, about {large} people lived in {start}.",
    "It is {number} miles from {start} to {end}, {first}.",
    "The {room} in {start} opens at {time} and closes at {small}.",
    "Call {first} {last} at {digits} before {day}!",
    "{percent} of the {a} came from {start}.",
    "The {a} weigh {decimal} pounds; the {b} weigh {number}.",
    "On {day}, {date}, {first} met {second} in {end}.",
    "Who told {first} that the {room} costs {dollars} a day?",
    "{first}, {second} and {title} {last} are in the {room}.",
    "Is {first} a {worker}, or is {second} the {worker}?",
    "Room {number} is for {title} {last}, not for {first}.",
    "No, {first}, the {a} cost {money}, not {dollars}!",
    "The {worker}'s {a} were {decimal} percent cheaper in {year}.",
    "{first}'s {a} are in the {room}, but {second}'s {b} aren't.",
    "Can't you see that {first} doesn't need {small} {a}?",
    "I'm sure they'll have {number} {a} by {date}.",
    "{number} days later, {first} {verb} {large} {a}.",
    "{start}, {end} and the {room}: {first} knows them all.",
    "Add {small} {a} to {number} {b}, and you have {large} {c}.",
)


@dataclass(frozen=True)
class TemplateSentences:
    """Sentences of this suite's own templates with figures, names, questions and lists, for synthesisers that read
    them. More sentences do not change the first ones.

    Args:
        num: Number of sentences, all different.
        seed: Another seed gives other sentences.
    """

    num: int = 6000
    seed: int = 0

    @property
    def license(self) -> str:
        return "CC0 1.0"

    def sentences(self) -> Iterator[tuple[str, str]]:
        seen: set[str] = set()
        draw = Drawing(f"templates/{self.seed}")
        while len(seen) < self.num:
            text = fill(draw, TEMPLATES[len(seen) % len(TEMPLATES)])
            if text not in seen:
                yield f"template-{self.seed}-{len(seen):06d}", text
                seen.add(text)

    def credits(self) -> str:
        return "Text: sentences of this suite's own templates, CC0 1.0."
