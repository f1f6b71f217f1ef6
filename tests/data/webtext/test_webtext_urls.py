import pytest

pytest.importorskip("courlan")

from allometry.core.errors import AllometryError
from allometry.data.webtext.urls import (
    AddressRule,
    canonical,
    part_of,
    registered_domain,
    url_id,
    url_problem,
)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://example.com/story", None),
        ("https://blog.example.co.uk/a?b=c", None),
        ("http://a.b", None),
        ("http://a", "length"),
        ("http://example.com/x.PDF?download=1", "extension"),
        ("http://example.com/x.tar.gz", "extension"),
        ("http://example.com/with space", "space"),
        ("ftp://example.com/story", "scheme"),
        ("javascript:alert(document.cookie)", "scheme"),
        ("file:///etc/passwd", "scheme"),
        ("https://en.wikipedia.org/wiki/Scaling", "domain"),
        ("https://i.imgur.com/abc", "domain"),
        ("http://news.google.co.uk/", "domain"),
        ("https://music.itunes.apple.com/x", "domain"),
        ("http://notgoogle.com/page", None),
        ("http://user:word@example.com/", "malformed"),
        ("http://[::1", "malformed"),
        ("http://example.com:99999/", "malformed"),
        ("http://127.0.0.1/x", "host"),
        ("http://[::1]/xx", "host"),
        ("http://localhost/admin", "host"),
        ("http://" + "a" * 64 + ".com/x", "malformed"),
        ("http://a..com/x", "malformed"),
        ("http://example.com./x", None),
        ("http://büro.example/x", None),
    ],
)
def test_what_is_worth_fetching(url, problem):
    assert url_problem(url) == problem


def test_own_domains_can_be_excluded():
    assert url_problem("http://shop.example.com/x", extra_domains=frozenset({"example.com"})) == "domain"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://Example.com/a/", "https://example.com/a"),
        ("http://example.com/a?utm_source=x&b=1", "http://example.com:80/a?b=1"),
        ("http://example.com/a?b=1&a=2", "http://example.com/a?a=2&b=1#top"),
        ("http://example.com./a", "http://example.com/a"),
        ("http://example.com/a?PHPSESSID=17&b=1", "http://example.com/a?b=1"),
        ("http://example.com/a;jsessionid=17?b=1", "http://example.com/a?b=1"),
        ("http://example.com/a?gclid=1&fbclid=2", "http://example.com/a"),
    ],
)
def test_same_page(one, other):
    assert url_id(canonical(one)) == url_id(canonical(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://example.com/view?12345", "http://example.com/view?54321"),
        ("http://example.com/a?x=", "http://example.com/a?y="),
        ("http://example.com/a", "http://example.com/A"),
        ("http://example.com/a?session=3", "http://example.com/a?session=4"),
        ("http://example.com/a?source=3", "http://example.com/a"),
        ("http://example.com/a?game=3", "http://example.com/a?game=4"),
        ("http://example.com/a?eid=3", "http://example.com/a?eid=4"),
        ("http://example.com/a", "http://example.org/a"),
    ],
)
def test_different_pages(one, other):
    assert canonical(one) != canonical(other)


def test_a_domain_belongs_to_one_part():
    assert registered_domain("news.bbc.co.uk") == "bbc.co.uk"
    assert part_of("news.bbc.co.uk", 64) == part_of("www.bbc.co.uk", 64)
    assert {part_of(f"host{n}.com", 4) for n in range(200)} == {0, 1, 2, 3}


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "192.0.0.8",
        "198.18.0.1",
        "::1",
        "::",
        "fe80::1%eth0",
        "fc00::1",
        "ff02::1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "::127.0.0.1",
        "2001:0:a00:1::",
        "name",
        "2130706433",
        "168.63.129.16",
        "fec0::1",
        "3fff::1",
        "2606:4700::5efe:7f00:1",
        "2606:4700::200:5efe:a00:1",
    ],
)
def test_private_addresses_are_refused(address):
    assert not AddressRule().allows(address)


def test_public_and_allowed_addresses_pass():
    assert AddressRule().allows("8.8.8.8")
    assert AddressRule().allows("2606:4700::1111")
    rule = AddressRule(["127.0.0.1", "10.0.0.0/8"])
    assert rule.allows("127.0.0.1")
    assert rule.allows("10.9.9.9")
    assert not rule.allows("127.0.0.2")
    with pytest.raises(AllometryError, match="not a network"):
        AddressRule(["localhost"])
