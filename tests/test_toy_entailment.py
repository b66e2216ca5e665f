"""The toy task: its logic by hand and in random worlds, its files; that no shortcut solves it."""

import random
import subprocess
import sys
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from common import UserError
from scripts import toy_entailment as toy
from scripts.toy_entailment import Clause, entails, render

VERBS = toy.CHILDREN["verb"]

SIZES = {"train": 2000, "dev": 400, "test": 200}


@pytest.fixture(scope="module")
def task():
    return toy.make_task(SIZES, seed=0)


def clause(det, noun, verb, *event, **style):
    return Clause(det, noun, verb, *event, **style)


def in_the(place, det, noun, verb, **style):
    return Clause(det, noun, verb, place=place, **style)


BOTH_WAYS = [  # premise, hypothesis, premise entails hypothesis, hypothesis entails premise
    # hypernyms: up under "a", down under "no" and "did not", down in the subject of "every"
    (clause("a", "puppy", "run"), clause("a", "animal", "move"), True, False),
    (clause("a", "dog", "run"), clause("a", "cat", "run"), False, False),
    (clause("no", "animal", "sleep"), clause("no", "puppy", "sleep"), True, False),
    (clause("no", "dog", "run"), clause("no", "dog", "sprint"), True, False),
    (clause("every", "dog", "sprint"), clause("every", "puppy", "run"), True, False),
    (clause("every", "dog", "run"), clause("every", "dog", "sprint"), False, True),
    (
        clause("a", "dog", "run", negated=True),
        clause("a", "dog", "sprint", negated=True),
        True,
        False,
    ),
    (
        clause("a", "puppy", "run", negated=True),
        clause("a", "dog", "run", negated=True),
        True,
        False,
    ),
    # negation and quantifiers
    (clause("a", "dog", "run"), clause("a", "dog", "run", negated=True), False, False),
    (clause("a", "dog", "run"), clause("no", "dog", "run"), False, False),
    (clause("no", "dog", "run"), clause("a", "dog", "run", negated=True), True, False),
    (clause("no", "dog", "run"), clause("two", "dog", "run", negated=True), False, False),
    (clause("every", "dog", "run"), clause("a", "dog", "run"), True, False),
    (clause("every", "dog", "run"), clause("a", "animal", "move"), True, False),
    (clause("every", "dog", "run"), clause("two", "dog", "run"), False, False),
    (clause("every", "dog", "run"), clause("no", "dog", "run"), False, False),
    # numbers
    (clause("three", "dog", "run"), clause("at least two", "dog", "run"), True, False),
    (clause("three", "dog", "run"), clause("four", "dog", "run"), False, True),
    (clause("three", "dog", "run"), clause("more than two", "dog", "run"), True, True),
    (clause("two", "dog", "run"), clause("more than two", "dog", "run"), False, True),
    # places
    (in_the("kitchen", "a", "dog", "run"), in_the("house", "a", "dog", "run"), True, False),
    (in_the("kitchen", "a", "dog", "run"), clause("a", "dog", "run"), True, False),
    (in_the("house", "no", "dog", "run"), in_the("kitchen", "no", "dog", "run"), True, False),
    # who did it to whom
    (
        clause("a", "dog", "chase", "cat"),
        clause("a", "dog", "chase", "cat", passive=True),
        True,
        True,
    ),
    (
        clause("no", "dog", "chase", "cat", passive=True),
        clause("no", "dog", "chase", "kitten"),
        True,
        False,
    ),
    (clause("a", "dog", "chase", "cat"), clause("a", "cat", "chase", "dog"), False, False),
    (
        clause("a", "dog", "chase", "cat", passive=True),
        clause("a", "cat", "chase", "dog"),
        False,
        False,
    ),
    (clause("a", "dog", "chase", "kitten"), clause("a", "dog", "follow", "cat"), True, False),
]


@pytest.mark.parametrize("p, h, forward, backward", BOTH_WAYS)
def test_logic_by_hand(p, h, forward, backward):
    assert entails((p,), h) == forward
    assert entails((h,), p) == backward


def test_conjunction_entails_its_parts_and_not_the_crossed_ones():
    premise = clause("a", "dog", "sleep"), clause("two", "boy", "run")
    assert entails(premise, clause("a", "animal", "rest"))
    assert entails(premise, clause("a", "child", "move"))
    assert not entails(premise, clause("a", "boy", "sleep"))


@pytest.mark.parametrize(
    "premise, text",
    [
        ([clause("a", "animal", "sleep")], "An animal slept."),
        (
            [clause("more than two", "puppy", "run", negated=True)],
            "More than two puppies did not run.",
        ),
        ([clause("a", "dog", "chase", "cat", passive=True)], "A cat was chased by a dog."),
        ([clause("no", "dog", "hug", "cat", passive=True)], "No cat was hugged by any dog."),
        (
            [in_the("park", "every", "child", "walk"), clause("two", "dog", "run")],
            "Every child walked in the park and two dogs ran.",
        ),
    ],
)
def test_render(premise, text):
    assert render(premise) == text


# --- the theorem: entailed where every world that makes the premise true makes the hypothesis true
# ---


def holds(c, world):
    """Whether a clause is true of a world, [(kind of individual, [(verb, object, place)])]."""

    def does(events):
        asked = c.verb, c.object, c.place
        return any(all(map(toy.is_a, event, asked)) for event in events)

    did = [does(events) != c.negated for kind, events in world if toy.is_a(kind, c.noun)]
    kind, count = toy.DETERMINERS[c.det]
    return {"least": sum(did) >= count, "most": sum(did) <= count, "every": all(did)}[kind]


def random_world(c, rng):
    """A random world with every kind in it, where mostly the clause's own kinds of event happen."""

    def below(kind, word):
        words = list(toy.CHILDREN[kind])
        near = [near for near in words if toy.is_a(near, word)]
        return rng.choice(near if rng.random() < 0.8 else words)

    activity, world = rng.choice([0, 0.3, 0.8, 1]), []
    for kind in list(toy.CHILDREN["noun"]) * rng.choice([1, 2, 4]):
        events = [
            (below("transitive", c.verb), below("noun", c.object), None)
            if c.object
            else (below("verb", c.verb), None, below("place", c.place))
            for _ in range(2)
        ]
        world.append((kind, [event for event in events if rng.random() < activity]))
    return world


def counterexample(p, h, rng, tries):
    """A random world where p holds and h does not, or None."""
    worlds = (random_world(rng.choice([p, h]), rng) for _ in range(tries))
    return next((world for world in worlds if holds(p, world) and not holds(h, world)), None)


def test_no_random_world_contradicts_an_entailment():
    rng, checked = random.Random(0), 0
    while checked < 200:
        hypothesis = toy.draw_clause(rng)
        for premise in toy.draw_premise(hypothesis, rng):
            if toy.clause_entails(premise, hypothesis):
                assert counterexample(premise, hypothesis, rng, tries=10) is None, (
                    premise,
                    hypothesis,
                )
                checked += 1


# --- the examples ---


@pytest.mark.slow
def test_same_seed_same_rows_other_seed_other_rows(task):
    assert toy.make_task(SIZES, seed=0) == task
    assert toy.make_task(SIZES, seed=1)["dev"] != task["dev"]


def test_plain_rows_are_one_clause_each_with_a_label_by_logic():
    """--plain: what the demo learns from few rows; half of them entailed."""
    rows = toy.make_task({"train": 200}, seed=0, plain=True)["train"]
    words = {word for row in rows for text in row[:2] for word in text.lower().rstrip(".").split()}
    assert not words & {"and", "not", "was", "two", "no", "every"}
    assert all(text.split()[0] in ("A", "An") for row in rows for text in row[:2])
    assert sum(row[2] == "entailment" for row in rows) == 100
    # a plain verb without object or place: the label is that of the words' kinds
    past = {toy.PAST.get(verb, verb + ("d" if verb[-1] == "e" else "ed")): verb for verb in VERBS}
    short = [row for row in rows if all(len(text.split()) == 3 for text in row[:2])]
    assert short
    for first, second, label in short:
        (_, noun, verb), (_, wider, general) = (
            text.rstrip(".").split() for text in (first, second)
        )
        wanted = toy.is_a(noun, wider) and toy.is_a(past[verb], past[general])
        assert label == ("entailment" if wanted else "not_entailment")


def test_balanced_within_one(task):
    odd = toy.make_task({"train": 31, "dev": 7, "test": 1}, seed=2)
    for rows in [*task.values(), *odd.values()]:
        assert abs(2 * sum(row[2] == "entailment" for row in rows) - len(rows)) <= 1


def test_no_pair_twice_nor_in_two_splits(task):
    pairs = {split: {row[:2] for row in rows} for split, rows in task.items()}
    assert {split: len(found) for split, found in pairs.items()} == SIZES
    assert all(pairs[a].isdisjoint(pairs[b]) for a, b in combinations(pairs, 2))


def accuracy(task, features):
    """Dev accuracy of a logistic regression; `features` maps rows to texts or an array."""
    inputs = [features(task[split]) for split in ("train", "dev")]
    if isinstance(inputs[0], list):
        vectorizer = CountVectorizer(token_pattern=r"\w+").fit(inputs[0])
        inputs = [vectorizer.transform(texts) for texts in inputs]
    labels = [[row[2] for row in task[split]] for split in ("train", "dev")]
    return LogisticRegression(max_iter=2000).fit(inputs[0], labels[0]).score(inputs[1], labels[1])


def overlap(rows):
    """The share of the hypothesis's words that are in the premise, (N, 1)."""
    words = [[set(text.lower().rstrip(".").split()) for text in row[:2]] for row in rows]
    return np.array(
        [[len(premise & hypothesis) / len(hypothesis)] for premise, hypothesis in words]
    )


def test_neither_the_hypothesis_nor_the_overlap_gives_the_label_away(task):
    assert accuracy(task, lambda rows: [row[1] for row in rows]) < 0.65
    assert accuracy(task, overlap) < 0.65


def test_files_are_in_the_format_of_glue(tmp_path):
    toy.main(["--data_dir", str(tmp_path), "--train", "20", "--dev", "6", "--test", "4"])
    assert sorted(path.name for path in (tmp_path / "RTE").iterdir()) == [
        "dev.tsv",
        "test.tsv",
        "train.tsv",
    ]
    for split, size in {"train": 20, "dev": 6, "test": 4}.items():
        table = pd.read_csv(tmp_path / "RTE" / f"{split}.tsv", sep="\t", quoting=3)
        columns = ["index", "sentence1", "sentence2", "label"]
        assert list(table.columns) == (columns[:3] if split == "test" else columns)
        assert list(table["index"]) == list(range(size)) and not table.isna().any(axis=None)
        assert split == "test" or set(table["label"]) == {"entailment", "not_entailment"}


def test_a_bad_size_is_the_users_mistake(tmp_path):
    with pytest.raises(UserError, match="--dev should be from 1 to 100000 rows; found 0"):
        toy.main(["--data_dir", str(tmp_path), "--dev", "0"])
    assert not list(tmp_path.iterdir())


def test_more_rows_than_there_are_end_in_one_sentence(tmp_path, monkeypatch):
    """Plain clauses have fewer than 40,000 rows; a smaller vocabulary has the same end."""
    nothing_new = lambda rng, plain: toy.draw_clause(rng, plain=plain)  # noqa: E731
    few = [nothing_new(random.Random(seed), True) for seed in range(3)]
    monkeypatch.setattr(toy, "draw_clause", lambda rng, plain=False: rng.choice(few))
    with pytest.raises(UserError, match=r"after \d+ rows hardly any sentences .* fewer rows"):
        toy.main(["--data_dir", str(tmp_path), "--plain", "--train", "2000"])
    assert not list(tmp_path.iterdir())


def test_files_of_another_origin_stay(tmp_path):
    words = ["--data_dir", str(tmp_path), "--train", "4", "--dev", "4", "--test", "4"]
    toy.main(words)
    toy.main([*words, "--seed", "1"])  # its own may be replaced
    (tmp_path / toy.MARK).unlink()
    before = (tmp_path / "RTE/train.tsv").read_bytes()
    with pytest.raises(UserError, match=r"train.tsv exists and was not written by this script"):
        toy.main(words)
    assert (tmp_path / "RTE/train.tsv").read_bytes() == before


def test_runs_from_any_folder(tmp_path):
    command = [sys.executable, toy.__file__, "--data_dir", "here", "--train", "-1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        1,
        "error: --train should be from 1 to 100000 rows; found -1\n",
    )
