"""Constraints that an answer can be checked against by code, in the way of IFEval (arXiv 2311.07911), kinds of our own.

A kind draws its parameters, says them in words, and tells whether a text keeps to them. Kinds whose `group` is the same
could contradict each other: a request has at most one of each group. `conflicts.py` knows what else can't go together.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from selfreward.simulation.prose import (
    CLOSERS,
    bullets,
    lines,
    numbers_in_words,
    paragraphs,
    sentences,
    unaccented,
    without_line_marks,
    words,
    written_words,
)

Parameters = dict[str, Any]

WORDS = (
    "river garden winter music market letter window bridge island silver morning kitchen forest engine planet pencil "
    "harvest shadow blanket corner teacher summer basket mirror castle signal pocket valley copper thunder"
).split()
"""Everyday words that a text can be asked to use or to avoid."""


@dataclass(frozen=True)
class Kind:
    """A kind of constraint.

    `draw` makes parameters, `say` tells a person what is asked with them, `holds` whether a text does it.
    """

    group: str
    draw: Callable[[Random], Parameters]
    say: Callable[[Parameters], str]
    holds: Callable[[str, Parameters], bool]


def _nothing(random: Random) -> Parameters:
    return {}


def _count(low: int, high: int, step: int = 1) -> Callable[[Random], Parameters]:
    return lambda random: {"count": random.randrange(low, high + 1, step)}


def _one_of(*choices: str) -> Callable[[Random], Parameters]:
    return lambda random: {"text": random.choice(choices)}


def _word(random: Random) -> Parameters:
    return {"text": random.choice(WORDS)}


def _range(random: Random) -> Parameters:
    least = random.randrange(20, 61, 10)
    return {"least": least, "most": least + 20}


def _two_words(random: Random) -> Parameters:
    first, second = random.sample(WORDS, 2)
    return {"first": first, "second": second}


def _repeated(random: Random) -> Parameters:
    return {"text": random.choice(WORDS), "count": random.randint(2, 3)}


def _keys(random: Random) -> Parameters:
    return {"keys": random.sample(["title", "summary", "reason", "example", "topic", "answer"], 2)}


def _plain_words(text: str) -> list[str]:
    """Words in which a keyword is looked for: "teacher" is in "the teacher's desk", and "that" in "that's"."""
    return re.findall(r"[^\W_]+", text.lower())


def _in_order(text: str, first: str, second: str) -> bool:
    found = _plain_words(text)
    return first in found and second in found[found.index(first) :]


def _is_json(text: str, keys: list[str]) -> bool:
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and set(keys) <= value.keys()


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")  # but Python's reader takes NaN and Infinity


def _numbered(text: str, count: int) -> bool:
    found = [match[1] for line in lines(text) if (match := re.match(r"(\d+)[.)]\s+\S", line))]
    return found == [str(number) for number in range(1, count + 1)]


def _alphabetical(text: str) -> bool:
    first = [words(unaccented(line))[:1] for line in lines(without_line_marks(text))]
    return len(first) >= 3 and first == sorted(first)


def _length(sentence: str) -> int:
    return len(words(sentence))


def _letters(text: str) -> str:
    return "".join(character for character in text if character.isalpha())


def _bare(text: str) -> str:
    """The text without the marks that may stand after its last word."""
    return text.strip().rstrip(CLOSERS)


def _is_quoted(text: str) -> bool:
    bare = text.strip()
    return bool(words(bare)) and bare[0] in '"“' and bare[-1] in '"”' and not re.search('["“”]', bare[1:-1])


KINDS: Mapping[str, Kind] = {
    # Case
    "all_lowercase": Kind(
        "case",
        _nothing,
        lambda p: "Use lowercase letters only.",
        lambda text, p: _letters(text).islower(),
    ),
    "all_uppercase": Kind(
        "case",
        _nothing,
        lambda p: "Use capital letters only.",
        lambda text, p: _letters(text).isupper(),
    ),
    "shouted_words": Kind(
        "case",
        _count(1, 3),
        lambda p: f"Write at least {_times(p['count'], 'word')} in capital letters throughout.",
        lambda text, p: sum(len(w) > 1 and w.isupper() for w in written_words(text)) >= p["count"],
    ),
    # Length
    "words_at_most": Kind(
        "words",
        _count(20, 60, 10),
        lambda p: f"Use at most {p['count']} words.",
        lambda text, p: 0 < len(words(text)) <= p["count"],
    ),
    "words_at_least": Kind(
        "words",
        _count(30, 50, 10),
        lambda p: f"Use at least {p['count']} words.",
        lambda text, p: len(words(text)) >= p["count"],
    ),
    "words_between": Kind(
        "words",
        _range,
        lambda p: f"Use {p['least']} to {p['most']} words.",
        lambda text, p: p["least"] <= len(words(text)) <= p["most"],
    ),
    "sentences_exactly": Kind(
        "structure",
        _count(1, 4),
        lambda p: f"Answer in exactly {_times(p['count'], 'sentence')}.",
        lambda text, p: len(sentences(text)) == p["count"],
    ),
    "paragraphs_exactly": Kind(
        "structure",
        _count(2, 3),
        lambda p: f"Write exactly {p['count']} paragraphs with an empty line between them.",
        lambda text, p: len(paragraphs(text)) == p["count"],
    ),
    "lines_exactly": Kind(
        "structure",
        _count(2, 5),
        lambda p: f"Write exactly {p['count']} lines of text.",
        lambda text, p: len(lines(text)) == p["count"],
    ),
    "short_sentences": Kind(
        "sentence length",
        _count(8, 14, 2),
        lambda p: f"No sentence may have more than {p['count']} words.",
        lambda text, p: 0 < max(map(_length, sentences(text)), default=0) <= p["count"],
    ),
    # Keywords
    "includes_word": Kind(
        "keywords",
        _word,
        lambda p: f'Use the word "{p["text"]}".',
        lambda text, p: p["text"] in _plain_words(text),
    ),
    "excludes_word": Kind(
        "excluded",
        _one_of("the", "and", "is", "very", "that", "with"),
        lambda p: f'Do not use the word "{p["text"]}".',
        lambda text, p: bool(words(text)) and p["text"] not in _plain_words(text),
    ),
    "repeats_word": Kind(
        "keywords",
        _repeated,
        lambda p: f'Use the word "{p["text"]}" at least {p["count"]} times.',
        lambda text, p: _plain_words(text).count(p["text"]) >= p["count"],
    ),
    "words_in_order": Kind(
        "keywords",
        _two_words,
        lambda p: f'Use the word "{p["first"]}" and, after it, the word "{p["second"]}".',
        lambda text, p: _in_order(text, p["first"], p["second"]),
    ),
    # Format
    "bullets_exactly": Kind(
        "structure",
        _count(2, 5),
        lambda p: f'Give exactly {p["count"]} bullet points, each on a line that begins with "- ".',
        lambda text, p: [line[0] for line in bullets(text)] == ["-"] * p["count"],
    ),
    "numbered_list": Kind(
        "structure",
        _count(2, 5),
        lambda p: f"Give a list numbered from 1. to {p['count']}., each item on its own line.",
        lambda text, p: _numbered(text, p["count"]),
    ),
    "json_object": Kind(
        "structure",
        _keys,
        lambda p: 'Answer with one JSON object and nothing else; it has the keys "{}" and "{}".'.format(*p["keys"]),
        lambda text, p: _is_json(text, p["keys"]),
    ),
    "heading": Kind(
        "start",
        _nothing,
        lambda p: 'Begin with a heading: a line that starts with "# ".',
        lambda text, p: re.match(r"# +\S[^\n]*(\n|$)", text.lstrip()) is not None,
    ),
    "bold_phrase": Kind(
        "emphasis",
        _nothing,
        lambda p: "Set at least one phrase in bold, like **this**.",
        lambda text, p: re.search(r"\*\*(?=\S)[^*\n]*\w[^*\n]*(?<=\S)\*\*", text) is not None,
    ),
    "in_quotation_marks": Kind(
        "start",
        _nothing,
        lambda p: "Put the whole answer in double quotation marks.",
        lambda text, p: _is_quoted(text),
    ),
    # Order
    "alphabetical_lines": Kind(
        "structure",
        _nothing,
        lambda p: "Write at least three lines, in alphabetical order of their first words.",
        lambda text, p: _alphabetical(text),
    ),
    # Start and end
    "starts_with": Kind(
        "start",
        _one_of("Well,", "In short,", "First of all,", "Certainly!", "To begin,"),
        lambda p: f'Begin your answer with the words "{p["text"]}"',
        lambda text, p: text.lstrip().startswith(p["text"]),
    ),
    "ends_with": Kind(
        "end",
        _one_of("That is all.", "The end.", "I hope this helps.", "Over and out."),
        lambda p: f'End your answer with the words "{p["text"]}"',
        lambda text, p: _bare(text).endswith(p["text"]),
    ),
    "ends_with_question": Kind(
        "end",
        _nothing,
        lambda p: "End your answer with a question.",
        lambda text, p: _bare(text).endswith("?"),
    ),
    "postscript": Kind(
        "end",
        _nothing,
        lambda p: 'Add a postscript at the end, on a line that begins with "P.S."',
        lambda text, p: len(lines(text)) > 1 and lines(text)[-1].startswith("P.S.") and len(lines(text)[-1]) > 5,
    ),
    # Letters and signs
    "without_letter": Kind(
        "letters",
        _one_of("z", "q", "x", "j", "k", "w"),
        lambda p: f'Do not use the letter "{p["text"]}".',
        lambda text, p: bool(words(text)) and p["text"] not in text.lower(),
    ),
    "without_commas": Kind(
        "signs",
        _nothing,
        lambda p: "Do not use any commas.",
        lambda text, p: bool(words(text)) and "," not in text,
    ),
    "with_exclamation": Kind(
        "exclamation",
        _nothing,
        lambda p: "Use at least one exclamation mark.",
        lambda text, p: "!" in text,
    ),
    # Numbers
    "no_digits": Kind(
        "numbers",
        _nothing,
        lambda p: "Do not use any digits.",
        lambda text, p: bool(words(text)) and not re.search(r"\d", text),
    ),
    "numbers_in_words": Kind(
        "numbers",
        _count(1, 3),
        lambda p: (
            f"Use at least {_times(p['count'], 'number')} above one, written as English words and never in digits."
        ),
        lambda text, p: not re.search(r"\d", text) and len(numbers_in_words(text)) >= p["count"],
    ),
    "includes_number": Kind(
        "numbers",
        _count(3, 99),
        lambda p: f"Use the number {p['count']}, in digits.",
        lambda text, p: re.search(rf"(?<![\d.,]){p['count']}(?![.,]?\d)", text) is not None,
    ),
}


def _times(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
