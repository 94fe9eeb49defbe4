"""Redirect maps as texts: what is refused, what leads on, and what files of other programs become."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import redirects
from core.config import from_dict
from core.errors import ConfigErrors
from core.redirects import ENTRIES_MOST, Entry, chains, changed, entries, faults, of_file

SOUND = """# moved in spring

/old\t  /new
/a?id=1 /b?x=1#top 302
shop.example/sale https://Shop.example:8443/spring
/caf%C3%A9 http://x
"""


def test_what_a_text_says() -> None:
    assert faults(SOUND) == ()
    assert list(entries(SOUND)) == [
        Entry(3, "/old", "/new"),
        Entry(4, "/a?id=1", "/b?x=1#top", 302),
        Entry(5, "shop.example/sale", "https://Shop.example:8443/spring"),
        Entry(6, "/caf%C3%A9", "http://x"),
    ]
    assert faults("") == ()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("/a", "1 words; write FROM TO, or FROM TO STATUS"),
        ("/a /b 301 x", "4 words"),
        ("/a /b 304", "304 redirects no request; give 301, 302, 303, 307 or 308"),
        ("/a /b 0302", "0302 redirects no request"),
        ("http://h/a /b", "http://h/a is not a path; write /PATH, or HOST/PATH without http://"),
        ("a /b", "a is not a path"),
        ("Shop.example/a /b", "Shop.example is compared in lower case; write shop.example"),
        ("shop.example:80/a /b", "shop.example:80 is not a host name"),
        ("-.x/a /b", "-.x is not a host name"),
        ("/a#b /c", "/a#b: browsers keep what follows # to themselves"),
        ("/a? /c", "/a?: the query is empty"),
        ("/%7Ea /c", "no request is for /%7Ea: %7E is written as ~"),
        ("/%c3 /c", "no request is for /%c3: a '%' is followed by two hexadecimal digits in capitals"),
        ("/a/../b /c", "no request is for /a/../b: no path has the segments '.' and '..'"),
        ("/a\\b /c", "no request is for /a\\b: a path has no \\"),
        ("/a b", "b is not where a client can go; write /PATH, or a URL that begins with http:// or https://"),
        ("/a ftp://x/", "ftp://x/ is not where a client can go"),
        ("/a /b\\c", "/b\\c is not where a client can go"),
        ("/a https:///x", "https:///x is not where a client can go"),
        ("/x /y", "/x stands in line 1 already; remove one of the two"),
        ("/café /y", "'\\xe9' is no character of a path; write it percent-encoded, as in /caf%C3%A9"),
        ("/s /s", "/s leads to itself; remove it"),
    ],
    ids=range(22),
)
def test_what_is_wrong_is_said_with_its_line(line: str, why: str) -> None:
    (found,) = faults(f"/x /z\n{line}\n/y2 /z")
    assert found.line == 2
    assert f"{found.why}; {found.remedy}".startswith(why)


def test_a_configuration_is_refused_with_the_line() -> None:
    with pytest.raises(ConfigErrors, match=r"redirect_maps\.m\.entries: line 2: 1 words; write FROM TO"):
        from_dict({"redirect_maps": [{"name": "m", "entries": "/a /b\n/c"}]})
    with pytest.raises(ConfigErrors, match=r"redirect_maps\.m\.status: 304 redirects no request; give 301, 302,"):
        from_dict({"redirect_maps": [{"name": "m", "status": 304}]})
    with pytest.raises(ConfigErrors, match="entries and entries_file exclude each other"):
        from_dict({"redirect_maps": [{"name": "m", "entries": "/a /b", "entries_file": "f"}]})
    with pytest.raises(ConfigErrors, match="none of the redirect maps is named 'n'"):
        from_dict(
            {
                "instances": [{"name": "i"}],
                "listeners": [{"name": "l", "instance": "i", "protocol": "http", "port": 80}],
                "rules": [{"name": "r", "listener": "l", "redirect_map": "n"}],
            }
        )


def test_so_many_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ENTRIES_MOST == 100_000
    monkeypatch.setattr(redirects, "ENTRIES_MOST", 30)
    text = "\n".join(f"/a{number} /b{number}" for number in range(30))
    assert not redirects.faults.__wrapped__(text)
    (found,) = redirects.faults.__wrapped__(text + "\n# one more\n/c /d")
    assert (found.line, found.why) == (0, "31 entries; a map has at most 30")
    told = redirects.faults.__wrapped__("\n".join("x" for _ in range(99)))
    assert len(told) == redirects.TOLD


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("/a /b\n/b /a", 1, "leads in a circle with line 2: /a → /b → /a"),
        ("/z /a\n/a /b?x\n/b /c#y\n/c /a", 2, "leads in a circle with line 3, 4: /a → /b → /c → /a"),
        ("h/a /b\nh/b /a\n/a /c", 1, "leads in a circle with line 2: h/a → h/b → h/a"),
        ("h/a /b\n/b /a", 0, ""),  # /a of another host leads nowhere
        ("/a /b?x=1\n/b?x=1 /c\n/b /a", 0, ""),
        ("/a https://h/a", 0, ""),
        ("h/a https://h/b\nh/b https://h/a", 0, ""),  # perhaps from http to https: a note
    ],
    ids=range(7),
)
def test_circles(text: str, line: int, why: str) -> None:
    found = faults(text)
    assert [(each.line, each.why) for each in found] == ([(line, why)] if why else [])


def test_chains_are_told_with_both_lines() -> None:
    text = "/a /b\n/b https://h/c\nh/c /d\nh/d https://other/x\n/x /y\n"
    assert chains(text) == [
        (1, "/a leads to /b, and line 2 on to https://h/c"),
        (2, "/b leads to https://h/c, and line 3 on to /d"),
        (3, "h/c leads to /d, and line 4 on to https://other/x"),
    ]
    many = "\n".join(f"/a{number} /a{number + 1}" for number in range(50))
    assert len(chains(many)) == redirects.TOLD + 1
    assert chains(many)[-1] == (0, "and 29 more entries that lead to others")


def test_entries_are_put_and_removed_in_their_places() -> None:
    text = "# head\n/a /1\n\n/b /2 302\n/c /3\n"
    assert changed(text, ["/d /4", "/b /5"], ["/a"]) == "# head\n\n/b /5\n/c /3\n/d /4"
    assert changed("", ["/a /b"], []) == "/a /b"
    assert changed("/a /b", [], ["/a"]) == ""
    assert changed("/a /b\n/c /d", ["/a /e"], ["/a"]) == "/c /d\n/a /e"
    with pytest.raises(KeyError, match="/x"):
        changed(text, [], ["/x"])


@pytest.mark.parametrize(
    ("text", "is_csv", "made"),
    [
        ("/a /b\r\n# c\r\n\r\n/c\t/d 302", False, "/a /b\n\n\n/c /d 302"),
        ("  /a /b;\n\"/c\"  '/d' ;\n", False, "/a /b\n/c /d\n"),
        ("http://Shop.Example/A https://New.Example/B", False, "shop.example/A https://New.Example/B"),
        ("from,to\n/a,/b\n/c, /d ,302\n,,\n#x,y\n", True, "\n/a /b\n/c /d 302\n\n\n"),
        ('"https://shop.example/a,b","/c",\n/x;y,/z', True, "shop.example/a,b /c\n/x;y /z"),
        ("/a,/b", True, "/a /b"),
    ],
    ids=range(6),
)
def test_files_of_the_usual_forms(text: str, is_csv: bool, made: str) -> None:
    assert of_file(text, is_csv=is_csv) == made
    assert faults(made) == ()
    assert made.count("\n") == text.count("\n"), "a line keeps its number"


WORDS = st.text("/?#.%aAh:\\ \t;302", max_size=12)


@given(st.lists(st.tuples(WORDS, WORDS, st.sampled_from(["", "302", "304"])), max_size=6))
def test_whatever_has_no_faults_can_be_read(lines: list[tuple[str, str, str]]) -> None:
    """The quick test of a line and the one that explains take the same lines."""
    text = "\n".join(" ".join(words) for words in lines)
    if not faults(text):
        found = list(entries(text))
        assert len({each.source for each in found}) == len(found)
        assert all(each.source.partition("/")[1] and each.status in (0, *redirects.STATUSES) for each in found)
    for number, line in enumerate(text.split("\n"), 1):
        words = line.split()
        if words and not words[0].startswith("#") and redirects._ORDINARY.fullmatch(line):
            assert redirects._line_fault(words) is None, (number, line)
