"""A study is found when its file or folder lies in the package, and finding one does not load the others."""

import subprocess
import sys
from pathlib import Path

import pytest

import allometry.studies
from allometry.studies.core.study import RUN_SETS, STUDIES, run_set_named, study

SOURCE = '''
from allometry.report.build import Analysis
from allometry.studies.core.study import Study, register, run_set

@run_set
def {name}_runs(compute, data):
    return ()

@register
class Found(Study):
    """Asks nothing."""

    name = "{name}"
    question = "Is this file found?"
    run_sets = {{"{name}_runs": 1.0}}

    def analyse(self, study_data):
        raise NotImplementedError
'''


@pytest.mark.parametrize("file", ["put_as_file.py", "put_as_folder/put_as_folder.py", "put_inside/deep.py"])
def test_a_file_or_folder_put_into_the_package_is_found(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(allometry.studies, "__path__", [*allometry.studies.__path__, str(tmp_path)])
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    if path.parent != tmp_path:
        (path.parent / "__init__.py").write_text('"""A subject."""\n')
    path.write_text(SOURCE.format(name=path.stem))
    with STUDIES.temporary(), RUN_SETS.temporary():
        assert study(path.stem).question == "Is this file found?"
        assert run_set_named(f"{path.stem}_runs")(1.0, None) == ()  # type: ignore[arg-type]


def test_one_study_is_found_without_the_others() -> None:
    script = (
        "import sys\nfrom allometry.studies.core.study import run_set_named, study\n"
        "study('sooner'), study('compute'), run_set_named('grid')\n"
        "assert not {'allometry.studies.shape', 'allometry.studies.memorisation.texts'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
