"""What an error tells a user to type can be typed: every hint that the command line gives names commands and
flags that exist, and speaks no Python."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest

import allometry
from allometry.cli import app, main
from allometry.core.errors import EXTRAS

PACKAGE = Path(allometry.__file__).parent

PYTHON = re.compile(
    r"""\w+=[{\[(]|\w+=['"]|\w\(\)|\b(import|None|True|False)\b"""
    r"""|\b(columns|fixed|tied|exclude|bootstrap|laws?|noise|speed|level|hint)=|pd\.|np\."""
)
"""Signs of Python where a command line is expected."""

PYTHON_ONLY = {
    "laws/critical_batch.py", "laws/uncertainty.py", "laws/result.py", "figures/fits.py",
    "figures/theme.py", "models/hf.py", "sweeps/__init__.py",
}  # fmt: skip
"""Files whose functions only Python calls, so that their hints are Python's."""

SHELL = {"pip", "mv", "ray", "wandb", "kill", "iconv", "nvidia-smi"}
"""Other programs that hints may name."""


def all_commands(
    command: click.Command = app, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, click.Command]]:
    """Every command with what is typed for it, groups too."""
    yield " ".join(path), command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from all_commands(below, (*path, name))


COMMAND = dict(all_commands())
FLAGS = {flag for command in COMMAND.values() for param in command.params for flag in param.opts}
FLAGS |= {"--help", "-h", "--debug", "--version"}


def text_of(node: ast.expr | None) -> str:
    """A string of the source, its placeholders as X; several, where they are chosen or joined."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) if isinstance(part, ast.Constant) else "X" for part in node.values)
    if isinstance(node, ast.BinOp):
        return text_of(node.left) + text_of(node.right)
    if isinstance(node, ast.IfExp):
        return f"{text_of(node.body)} {text_of(node.orelse)}"
    return ""


@cache
def hints() -> list[tuple[str, str]]:
    """(where, hint) of every error in the package that a command line can meet."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = str(path.relative_to(PACKAGE))
        text = path.read_text()
        if name in PYTHON_ONLY or "AllometryError(" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "AllometryError":
                given = {word.arg: text_of(word.value) for word in node.keywords}
                hint = given.get("cli_hint") or given.get("hint", "")
                if hint:
                    found.append((f"{name}:{node.lineno}", hint))
    return found


def commands_in(hint: str) -> list[list[str]]:
    """The command lines that a hint names, as words, without `allometry`."""
    found = []
    for match in re.finditer(r"\ballometry (?!that\b|which\b)(?=[a-z])([^;:(…]*)", hint):
        words: list[str] = []
        for word in re.split(r"\s+", match[1].strip()):
            words.append(word.strip("`").rstrip(",.`)"))
            if re.search(r"[,.`)]$", word):
                break
            if len(words) > 1 and words[-1] in ("or", "and", "makes", "on", "for", "to", "again"):
                words.pop()
                break
        found.append(words)
    return found


def check(hint: str) -> None:
    """Fail for a hint of which something cannot be typed."""
    assert not (found := PYTHON.search(re.sub(r"--(let|fix) .?\w+=", "", hint))), f"Python: {found}"
    assert not re.search(r"\brm (?!of)", hint.replace("allometry runs rm", "")), "removes a user's file"
    for flag in re.findall(
        r"(?<![\w-])--[a-z][\w-]+", re.sub(r"\b(ray start|pip install|xcode-select)\b[^;)]*", "", hint)
    ):
        assert flag in FLAGS, f"{flag} is an option of no command"
    for words in commands_in(hint):
        parse(words)
    for extra in re.findall(r"allometry\[([\w,]+)\]", hint):
        assert set(extra.split(",")) <= {*EXTRAS, "all", "X"}
    for program in re.findall(r"^(\w+) (?:install|/)", hint):
        assert program in SHELL


def parse(words: list[str]) -> None:
    """Parse a command line as click would, without running it."""
    command: Any = app
    context = click.Context(app)
    while isinstance(command, click.Group) and words and words[0] != "X" and words[0][0] != "-":
        below = command.get_command(context, words[0])
        assert below is not None, f"there is no command {words[0]!r} ({words})"
        command, words = below, words[1:]
    if not isinstance(command, click.Group):
        command.make_context("allometry", list(words))


@pytest.mark.parametrize(("where", "hint"), [pytest.param(*each, id=each[0]) for each in hints()])
def test_every_hint_in_the_source_can_be_typed(where: str, hint: str) -> None:
    check(hint)


def test_the_walk_finds_hints_that_cannot_be_typed() -> None:
    assert len(hints()) > 200
    wrong = (
        "columns={'N': 'params'}", "fit with bootstrap=400", "rm runs.csv", "allometry plam 1e18",
        "allometry plan --fast", "say --colums N=x", "pip install 'allometry[tarin]'", "allometry fit",
    )  # fmt: skip
    for hint in wrong:
        with pytest.raises((AssertionError, click.ClickException)):
            check(hint)
    for hint in ("allometry run quickstart makes one; or name yours with --store PATH", "--let N=params"):
        check(hint)


TABLE = "N,D,loss\n" + "".join(
    f"{n:g},{d:g},{1.8 + 400 / n**0.35 + 2000 / d**0.37:.4f}\n"
    for n in (1e6, 1e7, 1e8)
    for d in (1e8, 1e9, 1e10)
)
MISTAKES = """
bogus
laws chinchila
fit nothing.csv
fit empty.csv
fit words.csv
fit runs.csv --law nope
fit runs.csv --law power-offset
fit other.csv
fit other.csv --let N=width
fit runs.csv --let nonsense
fit runs.csv --where N>>
fit runs.csv --where q=1
fit runs.csv --drop-highest-loss 1 --let L=x
fit runs.csv --objective nope
fit runs.csv --fix zeta=1
fit runs.csv --tie alpha=zeta
fit runs.csv --bootstrap 0 --plot fit.bmp
fit runs.csv --on mars
fit one.csv
fit line.csv
fit runs.csv --let D=D+
compare runs.csv --laws chinchilla,nope
compare runs.csv --by speed
compare runs.csv --predict N
isoflop runs.csv --budgets many
isoflop runs.csv --method envelope
isoflop one.csv
isoflop line.csv
plan
plan many
plan 1e18 --hours 3
plan --hours 8
plan --hours soon --speed 1e12
plan 1e18 --law power
plan 1e18 --law m3
plan 1e18 --published nope
plan 1e18 -N 1M -D 1M
plan 1e18 --ratio -3
plan 1e18 --batch none
plan --next loss@1e20
plan 1e18 --next nonsense
plan 1e6 --from runs.csv --bootstrap 0 --next loss@1e22
runs list
runs list --store runs.csv
runs list --store folder
runs show x --store store
runs list q=1 --store store
runs list --sort nope --store store
runs undo --store store
runs export x.xyz --store store
runs export x.csv --store store N>
runs sync --to nowhere --store store
runs sync --to tensorboard: --store store
runs sync --to tensorboard:x --offline --store store
runs nope
report --store store
report nope --store store
report --from folder
report quickstart --from folder
report --store store --format pdf
run nope
run grokking
run quickstart --budget soon
run quickstart --budget 1s --compute many
run quickstart --shard 9/8
run quickstart --data nope --dry-run
run quickstart --on mars --dry-run
train nothing.json
train runs.csv
train wrong.json
data show nope
data nope
data show files:nothing
data show sotu -t bpe:x
data show sotu -t nope
data show synthetic:zipf,order=1.5
data show synthetic:nope
watch nowhere
webtext run nothing.jsonl --out out
webtext status nowhere
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from allometry.runs.store import Store

    files = {
        "runs.csv": TABLE, "empty.csv": "", "words.csv": "N D loss\n1 2 3\n",
        "one.csv": "N,D,loss\n1e6,1e8,4.0\n",
        "other.csv": TABLE.replace("N,D,loss", "width,amount,y"), "wrong.json": '{"model": {"famly": "x"}}',
        "line.csv": "N,D,loss\n" + "".join(f"{n}e6,{20 * n}e6,{4 - n / 99}\n" for n in range(1, 12)),
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "letter.txt").write_text("dear")
    Store(tmp_path / "store", create=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_mistake_is_answered_with_what_can_be_typed(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(here.iterdir())
    wrong = {}
    for line in MISTAKES.strip().splitlines():
        with pytest.raises(SystemExit) as ended:
            main(shlex.split(line))
        said = capsys.readouterr().err
        hint = said.partition(" hint: ")[2].strip()
        try:
            assert ended.value.code in (1, 2), f"exit status {ended.value.code}: {said}"
            assert hint or "Usage:" in said, f"no hint: {said}"
            words = line.split()
            own = COMMAND.get(" ".join(words[:2])) or COMMAND.get(words[0])
            check(hint)
            named = [flag for words in commands_in(hint) for flag in words]
            for flag in re.findall(r"(?<![\w-])--[a-z][\w-]+", hint):
                takes = {opt for param in own.params for opt in param.opts} if own else FLAGS
                assert flag in takes or flag in named, f"{line.split()[0]} does not take {flag}"
        except (AssertionError, click.ClickException) as error:
            wrong[line] = f"{error} | {said.strip()}"
    assert not wrong, "\n".join(f"{line}\n    {why}" for line, why in wrong.items())
    left = [path.name for path in sorted(here.iterdir()) if path not in before]
    assert not left, "a mistake leaves nothing behind"
