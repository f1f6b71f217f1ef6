"""The docstring of a public function begins with a verb in the imperative: it says what the function does."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "allometry"

VERBS = """
Adapt Add Adjust Align Allocate Append Apply Ask Assign Average Begin Bound Bring Build Bundle Cache
Calculate Call Capture Carry Change Check Choose Claim Clean Clear Close Collect Colour Combine Compare
Compile Compute Concatenate Connect Continue Convert Copy Correct Count Create Cut Decide Decode Delete
Derive Describe Detect Determine Differentiate Discard Divide Do Download Draw Drop Embed Encode End
Ensure Escape Estimate Evaluate Exclude Execute Expand Explain Export Extract Extrapolate Feed Fetch Fill
Filter Find Finish Fit Follow Forget Format Forward Gather Generate Give Group Guard Guess Hash Hide
Highlight Hold Identify Import Include Index Initialise Insert Inspect Install Interpolate Interrupt
Invert Join Judge Keep Kill Label Launch Learn Leave Lend Let Limit Link List Listen Load Locate Lock Log
Look Lower Make Map Mark Match Measure Merge Minimise Mirror Move Name Normalise Note Offer Open Order
Overwrite Pack Parse Pass Pause Pick Place Plan Plot Poll Pool Predict Prepare Print Process Profile
Publish Pull Push Put Queue Quote Raise Rank Read Rebuild Recall Receive Recognise Recommend Record
Reduce Refine Refuse Register Reject Release Remember Remove Rename Render Renew Repair Repeat Replace
Report Request Require Reserve Reset Resolve Restore Restrict Resume Retry Return Reverse Rewrite Round
Run Sample Save Say Scale Schedule Score Search Select Send Separate Serialise Serve Set Settle Shade
Show Shrink Shuffle Sign Signal Simplify Simulate Skip Solve Sort Split Stack Start State Stop Store
Stream Submit Substitute Subtract Suggest Sum Summarise Suspend Switch Synchronise Take Tell Terminate
Test Time Tokenize Track Train Transform Translate Truncate Try Turn Undo Unpack Update Upload Use
Validate Verify Visit Wait Walk Warn Watch Weight Widen Work Wrap Write Yield
"""
"""Verbs that docstrings begin with. A verb that is missing may be added; a noun or a question word may not."""


def faults(source: str) -> Iterator[str]:
    """Yield a line for each public function of a file whose docstring does not begin with a verb."""
    verbs = VERBS.split()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
            continue
        decorators = {ast.unparse(each).rsplit(".", 1)[-1] for each in node.decorator_list}
        words = (ast.get_docstring(node) or "").split()
        if not words or decorators & {"property", "cached_property", "setter", "overload"}:
            continue
        if words[0].strip(".,:;`'\"()") not in verbs or words[1:2] in (["of"], ["is"]):
            yield f"{node.lineno}: {node.name}: {' '.join(words[:6])}"


@pytest.mark.parametrize(
    ("docstring", "fault"),
    [
        ("Return the loss, (n,).", False),
        ("Train.", False),
        ("What is minimised.", True),
        ("The loss, (n,).", True),
        ("Whether it fits.", True),
        ("See `Engine.step`.", True),
        ("Report of the fit.", True),  # a noun that is also a verb
    ],
)
def test_a_docstring_that_begins_with_no_verb_is_found(docstring: str, fault: bool) -> None:
    for definition in ("def f()", "async def f()"):
        assert bool(list(faults(f'{definition}:\n    """{docstring}"""\n'))) is fault
    in_class = f'class A:\n    {{}}\n    def f(self):\n        """{docstring}"""\n'
    assert bool(list(faults(in_class.format("@classmethod")))) is fault
    assert not list(faults(in_class.format("@functools.cached_property")))


def test_docstrings_of_public_functions_begin_with_a_verb() -> None:
    found, count = [], 0
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE)
        count += 1
        found += [f"{name}:{fault}" for fault in faults(path.read_text(encoding="utf-8"))]
    assert count > 100
    assert not found, "begin these docstrings with a verb:\n" + "\n".join(found)
