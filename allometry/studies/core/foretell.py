"""The predictions of a plan's held-back runs, each by the study that holds it back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allometry.errors import AllometryError
from allometry.studies.core.plan import held_back

if TYPE_CHECKING:
    import pandas as pd

    from allometry.studies.core.plan import StudyPlan
    from allometry.studies.core.study import Study


def foretell(question: Study, plan: StudyPlan, finished: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, str]]:
    """The held-back runs predicted, each by the first study that holds it back, from that study's own
    finished runs; and the studies that could not, with the reason. One study alone that could not raises its
    AllometryError; in a collection the others go on.
    """
    import pandas as pd

    wanted = _planned(plan)
    tables: list[pd.DataFrame] = []
    failures: dict[str, AllometryError] = {}
    taken: set[str] = set()
    for name, ids in plan.parts.items():
        member = question.member(name)
        own = [run for run in held_back(member, plan.part(name)) if run not in taken]
        if not own:
            continue
        mine = finished[finished["run"].isin(ids)].reset_index(drop=True)
        try:
            table = member.predict(mine, wanted.loc[own].reset_index(drop=True))
        except AllometryError as error:
            failures[name] = error
            continue
        tables.append(table.assign(study=name))
        taken |= set(own)
    if failures and len(plan.parts) == 1:
        raise next(iter(failures.values()))
    if not tables:
        return pd.DataFrame(), {name: error.message for name, error in failures.items()}
    return pd.concat(tables, ignore_index=True), {name: error.message for name, error in failures.items()}


def _planned(plan: StudyPlan) -> pd.DataFrame:
    """The plan's runs by id, with the settings that tell runs of one size apart, as in the run table."""
    import pandas as pd

    settings = [
        {
            "run": run.id, "corpus": run.data.corpus, "tokenizer": run.data.tokenizer,
            "limit": run.data.limit, "B": run.train.batch_tokens, "weight_decay": run.train.weight_decay,
            "d_model": getattr(run.model, "d_model", None), "dropout": getattr(run.model, "dropout", None),
        }
        for run in plan.sweep
    ]  # fmt: skip
    return plan.sweep.frame().merge(pd.DataFrame(settings), on="run").set_index("run", drop=False)
