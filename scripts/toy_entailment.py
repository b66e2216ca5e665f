"""A small synthetic entailment task in the format of GLUE's RTE, for `make demo` and the tests.

    python scripts/toy_entailment.py --data_dir DIR

A sentence is one or two clauses (`Clause`); `entails` finds the label by logic; `render` writes the
English. Each random hypothesis gets two premises, one that entails it and one that does not, so
that the hypothesis alone tells nothing of the label.
"""

import argparse
import random
import sys
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import UserError, atomic_path, cli, expand_path, write_json

# A word, and the words for its kinds. The logic takes it that there is at least one of every kind,
# and that kinds may overlap: "every dog ran" entails "a dog ran", not "two dogs ran".
NOUNS = {
    "animal": "dog cat bird",
    "dog": "puppy hound",
    "cat": "kitten",
    "bird": "eagle",
    "person": "child worker",
    "child": "boy girl",
    "worker": "nurse farmer",
}
VERBS = {"move": "run walk", "run": "sprint", "walk": "march", "rest": "sleep", "sleep": "doze"}
TRANSITIVE_VERBS = {"touch": "hug kick", "follow": "chase"}
PLACES = {"house": "kitchen bedroom", "city": "park market"}
PAST = {"run": "ran", "sleep": "slept", "hug": "hugged"}
PLURAL = {"person": "people", "child": "children", "puppy": "puppies"}

# Determiner -> (least | most | every, count): "three dogs" means at least three, "no dog" at most
# none.
DETERMINERS = {
    "a": ("least", 1),
    "two": ("least", 2),
    "at least two": ("least", 2),
    "three": ("least", 3),
    "more than two": ("least", 3),
    "four": ("least", 4),
    "no": ("most", 0),
    "every": ("every", 0),
}
SINGULAR = ("a", "any", "no", "every")


def children_of(tree):
    """{parent: "child child"} -> {parent: [child, child], child: [], ...}; every word is a key."""
    words = [word for parent, children in tree.items() for word in [parent, *children.split()]]
    return {word: tree.get(word, "").split() for word in words}


CHILDREN = {
    "noun": children_of(NOUNS),
    "verb": children_of(VERBS),
    "transitive": children_of(TRANSITIVE_VERBS),
    "place": children_of(PLACES),
}
PARENT = {
    child: word
    for tree in CHILDREN.values()
    for word, children in tree.items()
    for child in children
}


@dataclass(frozen=True)
class Clause:
    """A clause of the form: det noun verb [a object] [in the place].

    It may be negated ("did not") or passive; the object is then the subject of the sentence.
    """

    det: str
    noun: str
    verb: str
    object: str | None = None
    place: str | None = None
    negated: bool = False
    passive: bool = False

    @property
    def is_well_formed(self):
        """False for ambiguous clauses: "every dog did not run", "two cats were chased by a dog"."""
        if self.negated and DETERMINERS[self.det][0] != "least":
            return False
        return not self.passive or (
            self.object is not None and self.det in ("a", "no") and not self.negated
        )


# --- the logic ---
def is_a(word, general):
    """Whether a word is `general` or a kind of it, as a puppy is a dog.

    None, for a part that the clause does not have, is more general than every word.
    """
    while word is not None and word != general:
        word = PARENT.get(word)
    return word == general


def event_entails(p, h):
    """Whether verb, object and place of clause p entail those of clause h.

    To chase a kitten is to follow a cat; not to follow any cat is not to chase a kitten.
    """
    if p.negated != h.negated:
        return False
    low, high = (h, p) if p.negated else (p, h)
    return all(
        is_a(getattr(low, part), getattr(high, part)) for part in ("verb", "object", "place")
    )


def clause_entails(p, h):
    """Whether clause p entails clause h.

    "at least n" lets noun and event become more general, "at most n" more special; "every" lets the
    noun become more special, the event more general.
    """
    if p.det == "no" and h.negated:  # no dog ran = every dog did not run
        p = replace(p, det="every", negated=True)
    (kind_p, n_p), (kind_h, n_h) = DETERMINERS[p.det], DETERMINERS[h.det]
    wider, narrower = is_a(p.noun, h.noun), is_a(h.noun, p.noun)
    if (kind_p, kind_h) == ("least", "least"):
        return n_p >= n_h and wider and event_entails(p, h)
    if (kind_p, kind_h) == ("most", "most"):
        return n_p <= n_h and narrower and event_entails(h, p)
    if (kind_p, kind_h) == ("every", "every"):
        return narrower and event_entails(p, h)
    return (
        (kind_p, kind_h, n_h) == ("every", "least", 1)
        and (wider or narrower)
        and event_entails(p, h)
    )


def entails(premise, hypothesis):
    """Whether one clause of the premise entails the hypothesis, a Clause. premise: clauses.

    Two clauses are about animals and people, so together they entail no more than one of them.
    """
    return any(clause_entails(clause, hypothesis) for clause in premise)


# --- the English ---
def noun_phrase(det, noun):
    """A noun with its determiner: two dogs, an eagle, no dog."""
    if det not in SINGULAR:
        noun = PLURAL.get(noun, noun + "s")
    return f"{'an' if det == 'a' and noun[0] in 'aeiou' else det} {noun}"


def render_clause(c):
    """The words of one clause, without capital and full stop."""
    past = PAST.get(c.verb, c.verb + ("d" if c.verb.endswith("e") else "ed"))
    second = "any" if c.negated or c.det == "no" else "a"
    if c.passive:
        return f"{noun_phrase(c.det, c.object)} was {past} by {noun_phrase(second, c.noun)}"
    target = f" {noun_phrase(second, c.object)}" if c.object else ""
    place = f" in the {c.place}" if c.place else ""
    return (
        f"{noun_phrase(c.det, c.noun)} {'did not ' + c.verb if c.negated else past}{target}{place}"
    )


def render(clauses):
    """The sentence that joins the clauses with "and"."""
    text = " and ".join(map(render_clause, clauses))
    return text[0].upper() + text[1:] + "."


# --- the examples ---
def draw_clause(rng, root=None, plain=False):
    """A random clause; with a root, its noun is of that kind, and it has no object or place.

    plain: its determiner is "a", and it is neither negated nor passive.
    """
    transitive = root is None and rng.random() < 0.45
    placed = root is None and not transitive and rng.random() < 0.4
    clause = Clause(
        det="a" if plain else rng.choice(["a", "a", "two", "three", *DETERMINERS]),
        noun=rng.choice([noun for noun in CHILDREN["noun"] if root is None or is_a(noun, root)]),
        verb=rng.choice(list(CHILDREN["transitive" if transitive else "verb"])),
        object=rng.choice(list(CHILDREN["noun"])) if transitive else None,
        place=rng.choice(list(CHILDREN["place"])) if placed else None,
        negated=not plain and rng.random() < 0.1,
        passive=not plain and rng.random() < 0.3,
    )
    return clause if clause.is_well_formed else draw_clause(rng, root, plain)


def step(word, kind, rng):
    """A word near this one: its parent, one of its children, or often any word of the kind."""
    tree = CHILDREN[kind]
    return rng.choice(
        [*([PARENT[word]] if word in PARENT else []), *tree[word], *rng.sample(list(tree), 3)]
    )


def edit_place(clause, rng):
    """Add, drop or replace the place; a clause with an object gets none, to stay short."""
    options = [None, step(clause.place, "place", rng)] if clause.place else list(CHILDREN["place"])
    return clause if clause.object else replace(clause, place=rng.choice(options))


EDITS = {  # name -> (weight, function); with these weights word overlap tells little of the label
    "noun": (3, lambda c, rng: replace(c, noun=step(c.noun, "noun", rng))),
    "object": (2, lambda c, rng: replace(c, object=step(c.object, "noun", rng)) if c.object else c),
    "verb": (
        3,
        lambda c, rng: replace(c, verb=step(c.verb, "transitive" if c.object else "verb", rng)),
    ),
    "place": (1, edit_place),
    "det": (3, lambda c, rng: replace(c, det=rng.choice(list(DETERMINERS)))),
    "negation": (2, lambda c, rng: replace(c, negated=not c.negated)),
    "swap": (3, lambda c, rng: replace(c, noun=c.object, object=c.noun) if c.object else c),
    "voice": (1, lambda c, rng: replace(c, passive=not c.passive)),
}


PATIENCE = 2000  # hypotheses to try for rows that do not exist yet
MARK = "made_by_toy_entailment.json"  # in a --data_dir to which this script wrote
PLAIN_EDITS = ("noun", "object", "verb", "place")


def draw_premise(hypothesis, rng, plain=False):
    """A premise, as a tuple of clauses: the hypothesis after one or two edits.

    A few premises get a second clause, and some of these exchange the nouns of the two clauses.
    plain: none does, and the edits exchange words for more general, more special or other ones.
    """
    clause = hypothesis
    edits = [EDITS[name] for name in (PLAIN_EDITS if plain else EDITS)]
    weights = [weight for weight, _ in edits]
    for _, edit in rng.choices(edits, weights, k=rng.choice([1, 1, 1, 2])):
        edited = edit(clause, rng)
        clause = edited if edited.is_well_formed else clause
    if plain or rng.random() < 0.93:
        return (clause,)
    other = draw_clause(rng, root="person" if is_a(clause.noun, "animal") else "animal")
    if rng.random() < 0.5:
        clause, other = replace(clause, noun=other.noun), replace(other, noun=clause.noun)
    return tuple(rng.sample([clause, other], 2))


def draw_twins(rng, seen, plain=False, tries=20):
    """Two rows (premise, hypothesis, label), one of each label; added to the set `seen`."""
    for _ in range(PATIENCE):
        hypothesis = draw_clause(rng, plain=plain)
        twins = {}
        for premise in (draw_premise(hypothesis, rng, plain) for _ in range(tries)):
            pair = render(premise), render((hypothesis,))
            if pair[0] != pair[1] and pair not in seen:
                label = "entailment" if entails(premise, hypothesis) else "not_entailment"
                twins.setdefault(label, (*pair, label))
        if len(twins) == 2:
            seen.update((s1, s2) for s1, s2, _ in twins.values())
            return list(twins.values())
    raise UserError(
        f"after {len(seen)} rows hardly any sentences are left that are not used yet: ask for "
        "fewer rows"
    )


def make_task(sizes, seed, plain=False):
    """{split: [(sentence1, sentence2, label)]}, with no pair twice.

    In each split the numbers of the two labels differ by 1 at most. sizes: {split: rows}.
    plain: all clauses are plain.
    """
    rng, seen, task = random.Random(seed), set(), {}
    for split, size in sizes.items():
        rows = [row for _ in range((size + 1) // 2) for row in draw_twins(rng, seen, plain)][:size]
        rng.shuffle(rows)
        task[split] = rows
    return task


def write_split(path, rows, labelled):
    """One file of the GLUE format, written whole or not at all."""
    header = ["index", "sentence1", "sentence2", *(["label"] if labelled else [])]
    lines = [header, *([str(index), *row[: len(header) - 1]] for index, row in enumerate(rows))]
    with atomic_path(path) as temporary:
        temporary.write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")


def main(argv=None):
    """Write the three splits and say where."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data_dir", type=expand_path, required=True, help="The files go to DATA_DIR/RTE/*.tsv."
    )
    parser.add_argument("--train", type=int, default=2000, help="Rows of train.tsv.")
    parser.add_argument("--dev", type=int, default=400, help="Rows of dev.tsv.")
    parser.add_argument(
        "--test", type=int, default=200, help="Rows of test.tsv, which has no labels."
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="The seed; the same seed gives the same files."
    )
    parser.add_argument(
        "--plain",
        action="store_true",
        help='Sentences of one clause that begin with "A", not negated: learned from fewer rows.',
    )
    args = parser.parse_args(argv)
    sizes = {split: getattr(args, split) for split in ("train", "dev", "test")}
    for split, size in sizes.items():
        if not 1 <= size <= 100_000:  # there are few more pairs to draw
            raise UserError(f"--{split} should be from 1 to 100000 rows; found {size}")
    folder = Path(args.data_dir) / "RTE"
    there = [split for split in sizes if (folder / f"{split}.tsv").exists()]
    if there and not (folder.parent / MARK).exists():
        raise UserError(
            f"{folder / there[0]}.tsv exists and was not written by this script, which would "
            "replace it: name another --data_dir"
        )
    made = make_task(sizes, args.seed, args.plain)
    write_json(folder.parent / MARK, sizes | {"seed": args.seed, "plain": args.plain})
    for split, rows in made.items():
        write_split(folder / f"{split}.tsv", rows, labelled=split != "test")
    print(f"{folder}: " + ", ".join(f"{size} {split} rows" for split, size in sizes.items()))


if __name__ == "__main__":
    sys.exit(cli(main))
