"""Which constraints can't be kept together: a request never asks for both."""

from __future__ import annotations

from collections.abc import Sequence

from selfreward.simulation.checks import Check
from selfreward.simulation.constraints import KINDS

_CONFLICTS = {
    "all_lowercase": {"starts_with", "ends_with", "postscript"},
    "all_uppercase": {"starts_with", "ends_with", "json_object"},
    "json_object": {
        "ends_with",
        "ends_with_question",
        "heading",
        "in_quotation_marks",
        "postscript",
        "short_sentences",  # it has none
        "starts_with",
        "without_commas",  # two keys need one
    },
    "heading": {"alphabetical_lines", "lines_exactly"},  # which count it as a line
    "in_quotation_marks": {"alphabetical_lines", "bullets_exactly", "numbered_list"},  # a line begins with its mark
    "numbered_list": {"no_digits", "numbers_in_words"},
    "postscript": {"alphabetical_lines", "lines_exactly", "paragraphs_exactly"},  # it is one of its own
    "sentences_exactly": {"ends_with", "postscript", "starts_with"},  # some of these are sentences of their own
}
_REQUIRING = {"ends_with", "includes_word", "json_object", "repeats_word", "starts_with", "words_in_order"}
_FORBIDDING = {"excludes_word", "without_commas", "without_letter"}

_LEAST_WORDS = {"words_at_least": "count", "words_between": "least"}


def are_compatible(one: Check, other: Check) -> bool:
    """Whether a text can keep both."""
    if KINDS[one.kind].group == KINDS[other.kind].group:
        return False
    if other.kind in _CONFLICTS.get(one.kind, ()) or one.kind in _CONFLICTS.get(other.kind, ()):
        return False
    return not (_forbids(one, other) or _forbids(other, one))


def fits(check: Check, others: Sequence[Check]) -> bool:
    """Whether a text can keep one more check beside those that it can keep together."""
    return all(are_compatible(check, other) for other in others) and _have_room([*others, check])


def _have_room(checks: Sequence[Check]) -> bool:
    """Whether as many sentences as are asked for can hold as many words."""
    of = {check.kind: check.parameters for check in checks}
    if not {"sentences_exactly", "short_sentences"} <= of.keys():
        return True
    most = of["sentences_exactly"]["count"] * of["short_sentences"]["count"]
    return all(of[kind][name] <= most for kind, name in _LEAST_WORDS.items() if kind in of)


def _forbids(one: Check, other: Check) -> bool:
    """Whether words that the other asks for break this one."""
    if one.kind not in _FORBIDDING or other.kind not in _REQUIRING:
        return False
    required = [word for name, value in other.parameters.items() if name != "count" for word in _listed(value)]
    return not KINDS[one.kind].holds(" ".join(required), one.parameters)


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
