"""What resembles, leaks, is personal or foreign is found; what merely looks like it is left alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreward.hygiene.clusters import embedding_metrics
from selfreward.hygiene.contamination import find_leaks
from selfreward.hygiene.diversity import self_bleu
from selfreward.hygiene.language import UNKNOWN, language
from selfreward.hygiene.personal import find_personal, redact
from selfreward.hygiene.similar import SimilarTexts, resemblance, triples, words

WORDS = st.lists(
    st.sampled_from(["one", "two", "three", "four", "five", "six", "seven", "eight"]), min_size=1, max_size=30
)


# Near duplicates


@given(WORDS)
def test_a_text_resembles_itself_entirely_whatever_its_case_and_marks(words: list[str]) -> None:
    text = " ".join(words)
    known = SimilarTexts(0.8)
    known.add("first", text)
    assert known.nearest(f"{text.upper()}!") == ("first", 1.0)


@pytest.mark.parametrize(
    ("one", "other", "share"),
    [
        ("a b c d", "A b, c!", 1 / 2),
        ("a b c d e", "b c d e f", 2 / 4),
        ("a b c", "d e f", 0),
        ("a b", "a b", 1),
        ("a b", "a b c", 0),
    ],
)
def test_resemblance_is_the_share_of_triples_in_common(one: str, other: str, share: float) -> None:
    assert resemblance(triples(one), triples(other)) == share


def test_the_text_that_resembles_most_is_found_and_none_below_the_threshold() -> None:
    known = SimilarTexts(0.5)
    known.add("cat", "Write a short story about a cat that learns to swim in the sea.")
    known.add("dog", "Write a short story about a dog that learns to swim in the sea.")
    known.add("tax", "Explain how taxes are worked out in a small town.")
    nearest = known.nearest("Write a short story about a dog that learns to swim in a sea.")
    assert nearest is not None
    assert nearest[0] == "dog"
    assert known.nearest("Name three rivers in Africa and say where they end.") is None


# Contamination

HELD_OUT = "Write a letter to the mayor in which you ask for a new bridge over the river near the old mill."


@pytest.mark.parametrize(
    ("planted", "how"),
    [
        (HELD_OUT.lower().replace(".", "!"), "is the same text"),
        (
            f"Here is a task that I was given. {HELD_OUT} Do it now, and then tell me all about it.",
            'shares "write a letter',
        ),
        (HELD_OUT.replace("mayor", "Mayor of the town"), "shares"),
    ],
)
def test_a_planted_prompt_is_found(planted: str, how: str) -> None:
    texts = {"fine": "Name a colour that is not red.", "planted": planted}
    leaks = find_leaks(texts, {"held_out": [HELD_OUT]}, 13, 0.8)
    assert list(leaks) == ["planted"]
    leak = leaks["planted"]
    assert (leak.text, leak.evaluation, leak.evaluated) == (planted, "held_out", HELD_OUT)
    assert leak.how.startswith(how)


def test_an_evaluation_s_short_text_counts_where_it_stands_in_a_prompt_but_two_words_do_not() -> None:
    texts = ["Name five animals that can fly.", "Tell me."]
    asked = {"a": "Please, now: name five animals that can fly, and say how.", "b": "Tell me why the sky is blue."}
    leaks = find_leaks(asked, {"held_out": texts}, 13, 0.8)
    assert {place: leak.evaluated for place, leak in leaks.items()} == {"a": texts[0]}
    assert find_leaks({"c": "tell me"}, {"held_out": texts}, 13, 0.8)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Solve this problem: 8 + 4 =", "Solve this problem: 8 - 4 ="),
        ("Solve this problem: 8+4=", "Solve this problem: 8-4="),
        ("What is 12 / 4 today?", "What is 12 * 4 today?"),
        ("Is x < y here, or not?", "Is x > y here, or not?"),
        ("How do I learn C#?", "How do I learn C++?"),
        ("???", "!"),
        ("量子力学について分かりやすく説明してください。", "光合成について分かりやすく説明してください。"),
        ("请写一篇关于什么是爱情的文章。", "什么是爱情？"),
        ("请根据以下文章内容回答下列问题：乙丙丁戊", "请根据以下文章内容回答下列问题：甲"),
    ],
)
def test_texts_that_differ_in_a_sign_or_share_a_phrase_are_two(one: str, other: str) -> None:
    assert not find_leaks({"asked": one}, {"held_out": [other]}, 13, 0.8)
    assert not find_leaks({"asked": one}, {"held_out": [other]}, None, None)


def test_texts_that_differ_in_markdown_are_one() -> None:
    plain = "Name three well-known rivers: the longest first and the shortest last"
    marked = "# Name **three** well-known rivers:\n\n- the longest first\n- *and* the shortest last!"
    assert find_leaks({"asked": marked}, {"held_out": [plain]}, 13, 0.8)["asked"].how == "is the same text"


def test_what_puts_no_spaces_between_words_is_found_too() -> None:
    held_out = "写一个关于学会游泳的猫的短篇故事。"
    texts = {"inside": f"请完成:{held_out}谢谢", "near": held_out.replace("猫", "狗"), "other": "说出非洲的三条河流。"}
    leaks = find_leaks(texts, {"held_out": [held_out]}, 13, 0.6)
    assert sorted(leaks) == ["inside", "near"]
    assert leaks["inside"].how.startswith('shares "写 一 个')


def test_a_prompt_of_a_script_without_spaces_is_one_inside_another() -> None:
    held_out = "写一个关于学会游泳的猫的短篇故事。"
    assert find_leaks({"asked": f"请用一百个字{held_out}"}, {"held_out": [held_out]}, 13, 0.8)


def test_letters_with_signs_of_their_own_are_one_word() -> None:
    assert words("हिन्दी में लिखो") == ["हिन्दी", "में", "लिखो"]


def test_of_templated_prompts_equal_ones_alone_count() -> None:
    near = HELD_OUT.replace("mayor", "king")
    assert list(find_leaks({"near": near, "equal": HELD_OUT}, {"held_out": [HELD_OUT]}, None, None)) == ["equal"]


# Personal data


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to ann.b@example.com today.", "Write to [e-mail] today."),
        ("Call +44 20 7946 0958 or (212) 555-0187.", "Call [phone] or [phone]."),
        ("Card 4111 1111 1111 1111 was charged.", "Card [card] was charged."),
        ("She lives at 12 Oak Street, Springfield, IL 62704 now.", "She lives at [address] now."),
        (
            "Hi\nI owe 1,000.\nShe lives at 12 Oak Street,\nSpringfield, IL 62704 now.",
            "Hi\nI owe 1,000.\nShe lives at [address] now.",
        ),
        ("Call me at 2125550187 or 212 555 0188.", "Call me at [phone] or 212 555 0188."),
        ("He is at 123 MAIN STREET, LOS ANGELES, CALIFORNIA 90001 now.", "He is at [address] now."),
        ("He is at 12 Oak Street, Little Rock Arkansas 72201 now.", "He is at [address] now."),
        ("Write to 33771 George Ferguson Way, Abbotsford, BC V2S 2M5", "Write to [address]"),
        ("He lives at 10 Downing Street, London SW1A 2AA now.", "He lives at [address] now."),
        ("He lives at\n10 Downing Street,\nLondon\nsw1a2aa now.", "He lives at\n[address] now."),
        ("Call (212) 555-0187 12 Oak Street, Springfield, IL 62704 now.", "Call [phone][address] now."),
        ("She lives at 12\N{EN DASH}14 Oak Street, Springfield, IL 62704 now.", "She lives at [address] now."),
    ],
)
def test_personal_data_is_redacted(text: str, expected: str) -> None:
    assert redact(text, find_personal(text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "In 1990 there were 1234567890 of them, 3.14159 a day.",
        "Add 4111 and 1111, then multiply by 16.",
        "A card number such as 4111 1111 1111 1112 fails its check.",
        "Walk down the street at 5.",
        "int max = 2147483647; and 2^32 = 4294967296",
        "Powers of two:\n128\n256\n512\n1024\n2048",
        "Sizes are 512 768 1024.",
        "Its key is ffyabzTAn00Gab, its hash 00000\td9e67cbc8afddd39a817fcbb9a8de0.",
        "In 1999 north and south towers of the old trade center in New York stood.",
        "It was at ten in 1994 and the author is called STEIN",
        "",
    ],
)
def test_numbers_that_are_none_of_it_stay(text: str) -> None:
    assert find_personal(text) == []


# Language


def test_the_language_of_a_text_and_of_too_little_of_one() -> None:
    assert language("Write a short story about a cat that learns to swim.") == "en"
    assert language("Schreibe eine kurze Geschichte über eine Katze, die schwimmen lernt.") == "de"
    assert language("2 + 2?") == UNKNOWN


@pytest.mark.parametrize(
    "text",
    [
        "Explain quantum entanglement simply.",
        "Suggest vegan dinner ideas.",
        "Compare Java and Kotlin.",
        "What is quantum physics?",
    ],
)
def test_a_short_request_is_of_no_other_language_than_its_own(text: str) -> None:
    assert language(text) in ("en", UNKNOWN)


# Diversity


def test_self_bleu_is_one_for_copies_and_near_zero_for_texts_without_a_word_in_common() -> None:
    copy = "the cat sat on the mat and looked at me"
    assert self_bleu([copy] * 3) == pytest.approx(1.0)
    assert self_bleu(["a b c d e f", "g h i j k l", "m n o p q r"]) < 0.05
    assert self_bleu([copy]) == 0.0


def test_embeddings_of_copies_are_not_apart(tiny_model: object) -> None:
    texts = [
        f"Prompt number {i} about {word}."
        for i, word in enumerate(["sea", "sky", "sun", "tea", "cat", "dog", "pie", "map"])
    ]
    same = embedding_metrics(["One text."] * 8, str(tiny_model))
    other = embedding_metrics(texts, str(tiny_model))
    assert same["mean_distance"] == pytest.approx(0.0, abs=1e-5)
    assert other["mean_distance"] > 0
    assert 0 <= other["cluster_evenness"] <= 1
    assert embedding_metrics(texts[:7], str(tiny_model)) == {}
