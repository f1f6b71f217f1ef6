"""The public tables of runs that are known here: where each lies, what it counts, and what was published from it.

Licences are those that the repositories state. Files, sizes and hashes stand in files.txt.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allometry.sources import readers
from allometry.sources.fetch import content
from allometry.sources.source import SOURCES, Constant, File, Reader, Source, find

if TYPE_CHECKING:
    import pandas as pd


@cache
def _manifest() -> dict[str, tuple[str, tuple[File, ...]]]:
    """Return the pinned commit and the files of each repository, from files.txt."""
    found: dict[str, tuple[str, list[File]]] = {}
    files: list[File] = []
    for line in (
        resources.files("allometry.sources").joinpath("files.txt").read_text(encoding="utf-8").splitlines()
    ):
        if not line or line.startswith("#"):
            continue
        if " " not in line:
            repository, _, commit = line.partition("@")
            files = []
            found[repository] = (commit, files)
            continue
        digest, size, path = line.split(" ", 2)
        files.append(File(path=path, sha256=digest, size=int(size)))
    return {repository: (commit, tuple(files)) for repository, (commit, files) in found.items()}


def _add(id: str, repository: str, read: Reader, **about: Any) -> None:
    commit, files = _manifest()[repository]
    SOURCES.add(id, Source(id=id, repository=repository, commit=commit, files=files, read=read, **about))


def _set(part: str, where: str, reason: str = "", **values: str) -> tuple[Constant, ...]:
    """Return constants that one place prints, without intervals."""
    return tuple(Constant(part=part, name=n, value=v, where=where, reason=reason) for n, v in values.items())


def _with(
    part: str, name: str, value: str, low: float, high: float, where: str, reason: str = ""
) -> Constant:
    """Return a constant with its printed 95 % interval."""
    return Constant(part=part, name=name, value=value, low=low, high=high, where=where, reason=reason)


_NATS = "nats per token"

_FEW_POINTS = (
    "a fit of these 43 points, read off a figure, is 1.5 % off them (rms) and the printed constants 2.2 %: the paper"
    " fitted all its runs"
)
_add(
    "kaplan2020", "EleutherAI/scaling-laws", readers.kaplan2020,
    title="Scaling Laws for Neural Language Models", authors="Kaplan et al.", year=2020, paper="arXiv 2001.08361",
    licence="Apache-2.0",
    counts={"N": "parameters without embeddings: 12 n_layer d_model²; in part size as the figure has it",
            "D": "tokens of the data set (figure 4), each run trained until its test loss stopped falling"},
    loss="test loss on WebText2, digitised from figures 4 and 1", loss_unit=_NATS,
    parts={"size-and-data": "figure 4: six sizes, data sets of 2e7 to 2e10 tokens", "size": "figure 1: L(N)"},
    fit="allometry fit atlas:kaplan2020 --law kaplan --objective lsq-log",
    caveats=("read off figures: about 1 % of noise is that of reading",),
    constants=(
        *_set("size-and-data", "table 2", alpha_N="0.076"),
        *_set("size-and-data", "table 2", _FEW_POINTS, alpha_D="0.103", N_c="6.4e13", D_c="1.8e13"),
        *_set("size", "equation 1.1", alpha_N="0.076"),
        *_set("size", "equation 1.1", N_c="8.8e13"),
    ),
)  # fmt: skip

_BESIROGLU = "Besiroglu et al. 2024, arXiv 2404.10102, table 1 (value ± 1.96 standard errors)"
_ROUNDED = "the paper's own fit stopped early and was printed rounded (Besiroglu et al. 2024)"
_add(
    "hoffmann2022", "epoch-research/analyzing-chinchilla", readers.hoffmann2022,
    title="Training Compute-Optimal Large Language Models, figure 4 as Besiroglu et al. 2024 read it off",
    authors="Hoffmann et al.", year=2022, paper="arXiv 2203.15556; refit arXiv 2404.10102",
    licence="none stated",
    counts={"N": "all parameters, read off the figure", "D": "C/(6N)", "C": "training FLOPs, read off the figure"},
    loss="smoothed training loss on MassiveText, from the figure's colours", loss_unit=_NATS,
    parts={"figure-4": "245 runs of 44M to 16B parameters"},
    fit="allometry fit atlas:hoffmann2022 --law chinchilla --drop-highest-loss 5",
    caveats=("the refit leaves out the five highest losses (column split)",
             "losses come from a colour scale: they are rounded to it"),
    constants=(
        _with("figure-4", "E", "1.8172", 1.766, 1.868, _BESIROGLU),
        _with("figure-4", "A", "482.01", 237.9, 726.1, _BESIROGLU),
        _with("figure-4", "B", "2085.43", -449, 4620, _BESIROGLU),
        _with("figure-4", "alpha", "0.3478", 0.3184, 0.3772, _BESIROGLU),
        _with("figure-4", "beta", "0.3658", 0.3246, 0.4070, _BESIROGLU),
        _with("figure-4", "a", "0.512", 0.473, 0.552, _BESIROGLU),
        *_set("figure-4", "Hoffmann et al., equation 10", _ROUNDED, E_hoffmann="1.69", alpha_hoffmann="0.34",
              beta_hoffmann="0.28"),
    ),
)  # fmt: skip

_add(
    "clark2022", "google-deepmind/scaling_laws_for_routing", readers.clark2022,
    title="Unified Scaling Laws for Routed Language Models", authors="Clark et al.", year=2022,
    paper="arXiv 2202.01169", licence="Apache-2.0 (code), data of the same repository",
    counts={"N": "parameters that one token sees (dense_parameter_count)",
            "D": "steps times 256 sequences of 2,048 tokens", "experts": "experts of a routed layer"},
    loss="validation loss on MassiveText", loss_unit=_NATS,
    parts={"dense": "dense models at the end of training", "routed": "Hash, S-Base and RL-R models at the end",
           "curves": "all of them every 10,000 steps"},
    fit="allometry fit atlas:clark2022 --law power --let X=N",
    caveats=("all runs have one horizon: L(N, D) cannot be told from part dense",
             "rows of one run in part curves are checkpoints before the schedule's end"),
    constants=_set("dense", "section 3: the dense models' slope", slope="0.079"),
)  # fmt: skip

_BNSL = "the constants that the repository's noiseless simulation takes from its fit to these points"
_add(
    "caballero2022", "ethancaballero/broken_neural_scaling_laws", readers.caballero2022,
    title="Broken Neural Scaling Laws, 4-digit addition", authors="Caballero et al.", year=2022,
    paper="arXiv 2210.14891, figure 4", licence="none stated",
    counts={"D": "training examples (also as X)"}, loss="test cross-entropy", loss_unit="nats",
    parts={"addition": "17 sizes of the training set"},
    fit="allometry fit atlas:caballero2022 --law broken-1",
    caveats=("six parameters on 14 fitted points",),
    constants=_set("addition", _BNSL, E="0.413885", A="2.277272", c_0="0.055077", c_1="5.662904", d_1="612.58362",
                   f_1="0.059193"),
)  # fmt: skip

_MUENNIGHOFF_FLAT = "the objective is flat above R_D* = 15: its minimum lies elsewhere, 0.13 % lower"
_add(
    "muennighoff2023", "huggingface/datablations", readers.muennighoff2023,
    title="Scaling Data-Constrained Language Models", authors="Muennighoff et al.", year=2023,
    paper="arXiv 2305.16264", licence="Apache-2.0",
    counts={"N": "parameters, as the notebook's map lists them", "D": "tokens trained on, repeats included",
            "unique": "different tokens among them"},
    loss="validation loss on C4", loss_unit=_NATS,
    parts={"fitted": "the 182 runs behind the printed constants", "all": "296 runs, seeds and single passes too"},
    fit="allometry fit atlas:muennighoff2023 --law muennighoff",
    caveats=("tokens and sizes are those that the runs' names round",
             "rows that differ in the seed alone are repeats"),
    constants=_set("fitted", "printed by utils/parametric_fit.ipynb", _MUENNIGHOFF_FLAT, R_D="15.387756",
                   R_N="5.309743"),
)  # fmt: skip

_PORIAN = "table of exponents, appendix; Akima interpolation, bootstrap over seed noise"
_PORIAN_EXPONENTS = {
    "rw-base-long-kaplan-kaplan-train": ("0.8353", 0.8235, 0.8460),
    "rw-base-long-kaplan-standard-val": ("0.7065", 0.6915, 0.7169),
    "rw-base-short-kaplan-standard-val": ("0.6020", 0.5914, 0.6173),
    "rw-base-short-chinchilla-standard-val": ("0.5715", 0.5598, 0.5885),
    "rw-tuned-short-const-standard-val": ("0.4969", 0.4907, 0.5045),
    "rw-base-long-kaplan-attention-train": ("0.7171", 0.7029, 0.7273),
    "rw-base-short-kaplan-attention-train": ("0.6223", 0.6072, 0.6320),
    "rw-base-short-chinchilla-attention-train": ("0.5772", 0.5620, 0.5925),
    "rw-tuned-short-const-attention-train": ("0.5053", 0.4962, 0.5123),
    "rw-tuned-long-const-kaplan-train": ("0.7115", 0.7027, 0.7214),
    "owt2-base-long-kaplan-kaplan-train": ("0.8635", 0.8186, 0.8974),
    "owt2-base-long-kaplan-standard-val": ("0.6985", 0.6644, 0.7245),
    "owt2-base-short-kaplan-standard-val": ("0.6032", 0.5702, 0.6287),
    "owt2-base-short-chinchilla-standard-val": ("0.5743", 0.5423, 0.6056),
    "owt2-tuned-short-const-standard-val": ("0.5185", 0.4931, 0.5414),
}
_PORIAN_ORDER = ["rw-tuned-short-const-standard-val", *_PORIAN_EXPONENTS]
_PORIAN_WORDS = {
    "rw": "RefinedWeb", "owt2": "OpenWebText2", "base": "rates of one kind for all sizes", "tuned": "tuned rates",
    "long": "long warm-up", "short": "warm-up by size", "kaplan": "Kaplan's", "chinchilla": "Chinchilla's",
    "const": "constant rate", "standard": "with the head", "attention": "with attention FLOPs", 
    "train": "training loss", "val": "validation loss",
}  # fmt: skip


def _porian_part(name: str) -> str:
    data, rates, warmup, decay, count, loss = name.split("-")
    words = _PORIAN_WORDS
    decay = words[decay] if decay == "const" else f"{words[decay]} decay"
    count = "without embeddings" if count == "kaplan" else words[count]
    return f"{words[data]}, {words[rates]}, {words[warmup]}, {decay}, N {count}, {words[loss]}"


_add(
    "porian2024", "formll/resolving-scaling-law-discrepancies", readers.porian2024,
    title="Resolving Discrepancies in Compute-Optimal Scaling of Language Models", authors="Porian et al.",
    year=2024, paper="arXiv 2406.19146", licence="MIT",
    counts={"N": "by part: without embeddings (kaplan), with the head (standard), or C/(6D) with attention FLOPs",
            "D": "tokens", "C": "the isoFLOP budget, 6ND in the part's count of N"},
    loss="training or validation loss, by part", loss_unit=_NATS,
    parts={name: _porian_part(name) for name in dict.fromkeys(_PORIAN_ORDER)},
    fit="allometry isoflop atlas:porian2024",
    caveats=("losses at a budget are interpolated along training curves by the authors",
             "the files are pickles: a reader that knows pandas' tables alone opens them"),
    constants=tuple(
        _with(part, "exponent", value, low, high, _PORIAN) for part, (value, low, high) in _PORIAN_EXPONENTS.items()
    ),
)  # fmt: skip

_GADRE = "relative error in per cent of the prediction of the C4 validation loss, section 4"
_add(
    "gadre2024", "mlfoundations/scaling", readers.gadre2024,
    title="Language models scale reliably with over-training and on downstream tasks", authors="Gadre et al.",
    year=2024, paper="arXiv 2403.08540", licence="MIT",
    counts={"N": "all parameters (N_no_embed: without embeddings)", "D": "tokens"},
    loss="loss on C4's validation set (loss_openlm and loss_paloma_* on others)", loss_unit=_NATS,
    parts={"c4": "trained on C4", "redpajama": "trained on RedPajama", "refinedweb": "trained on RefinedWeb"},
    fit="allometry fit atlas:gadre2024/redpajama --law gadre --let M=D/N",
    caveats=("the loss on C4 is out of distribution for parts redpajama and refinedweb",),
    constants=(
        *_set("c4", _GADRE, error_1b="1.50", error_7b="4.30"),
        *_set("redpajama", _GADRE, error_1b="0.71", error_7b="0.73"),
        *_set("refinedweb", _GADRE, error_1b="0.01", error_7b="1.62"),
    ),
)  # fmt: skip

_add(
    "bhagia2024", "allenai/OLMo-ladder", readers.bhagia2024,
    title="Establishing Task Scaling Laws via Compute-Efficient Model Ladders", authors="Bhagia et al.", year=2024,
    paper="arXiv 2412.04403", licence="Apache-2.0",
    counts={"N": "parameters without embeddings, as ladder.py gives them", "D": "tokens (13B: steps times batch)"},
    loss="loss on C4's validation set (others: loss_*)", loss_unit=_NATS,
    parts={"final": "five sizes at 0.5 to 10 times 20 tokens a parameter, and two models of 7B and 13B"},
    fit="allometry fit atlas:bhagia2024 --law chinchilla --where split=ladder",
    caveats=("the two large models are of another mixture of data, and annealed: no larger rungs of the ladder",),
)  # fmt: skip

_MISFIT_FLOOR = (
    "the same minimum; the runs are too small to see the floor, so that E may be anything below it"
)
_MISFIT = "open_lm/misfitting figures, analysis_form_misfitting_new_final_C_vs_N.json, Hoffmann's form"
_add(
    "misfitting2025", "hadasah/scaling_laws", readers.misfitting2025,
    title="(Mis)Fitting Scaling Laws", authors="Li, Kudugunta, Zettlemoyer", year=2025, paper="arXiv 2502.18969",
    licence="none stated",
    counts={"N": "all parameters (N_no_embed: without embeddings)", "D": "tokens", "C": "training FLOPs"},
    loss="loss on C4's validation set", loss_unit=_NATS,
    parts={"final": "261 runs of 12M to 1B parameters, last checkpoints", "checkpoints": "all their checkpoints"},
    fit="allometry fit atlas:misfitting2025 --law chinchilla",
    caveats=("runs that differ in the learning rate are no repeats",
             "rows of one run in part checkpoints are points of one curve"),
    constants=(
        *_set("final", _MISFIT, _MISFIT_FLOOR, log_A="3.938802", log_B="13.055764", log_E="0.592076", alpha="0.200196",
              beta="0.635697", objective="0.00502165"),
        *_set("final", f"{_MISFIT} with one exponent", tied_objective="0.00524371"),
    ),
)  # fmt: skip

_STEP_SURFACE = (
    "the optimum of a grid depends on how it is found: here by a quadratic through the runs within 2 % of the best;"
    " a nearer window moves b from 0.21 to 0.43 (0.3, 0.5, 1 and 2 % were tried, and this agrees best)"
)
_STEP = "equation 1; the interval is that of the 1,000 resamples in data/1004_fitted_…csv"
_add(
    "steplaw2025", "step-law/steplaw", readers.steplaw2025,
    title="Predictable Scale, part I: Step Law", authors="Li et al.", year=2025, paper="arXiv 2503.04715",
    licence="none stated",
    counts={"N": "parameters without the vocabulary", "D": "tokens", "batch": "sequences times 2,048 tokens"},
    loss="smoothed training loss at the end (loss_last: the last step's)", loss_unit=_NATS,
    parts={"dense": "grids of learning rate and batch at 17 pairs of N and D", "moe": "mixtures of experts"},
    fit="allometry fit atlas:steplaw2025 --law chinchilla",
    caveats=("runs of one N and D differ in rate and batch: take the best, or fit the optimum",),
    constants=(
        _with("dense", "rate_c", "1.79", 0.523, 5.88, _STEP, _STEP_SURFACE),
        _with("dense", "rate_a", "-0.713", -0.774, -0.655, _STEP, _STEP_SURFACE),
        _with("dense", "rate_b", "0.307", 0.271, 0.345, _STEP, _STEP_SURFACE),
        _with("dense", "batch_c", "0.58", 0.258, 1.386, _STEP, _STEP_SURFACE),
        _with("dense", "batch_b", "0.571", 0.534, 0.606, _STEP, _STEP_SURFACE),
    ),
)  # fmt: skip

_MPL = "README, table of best parameters"
_MPL_REASON = (
    "three curves hardly determine the seven constants: here C, beta and gamma are held near those printed for all"
    " three sizes, and the others move with them"
)
_MPL_ERROR = (
    "README, PredE: mean relative error on the six schedules that were not fitted, of the printed constants"
)
_MPL_BETWEEN = "rates between the logged steps are interpolated here: one unit of the last digit"
_MPL_PARAMETERS = {
    "25m": ("3.040", "0.525", "0.508", "0.00110"),
    "100m": ("2.651", "0.601", "0.453", "0.00142"),
    "400m": ("2.375", "0.654", "0.429", "0.00168"),
}
_add(
    "multipowerlaw2025", "thu-yao-01-luo/MultiPowerLaw", readers.multipowerlaw2025,
    title="A Multi-Power Law for Loss Curve Prediction Across Learning Rate Schedules", authors="Luo et al.",
    year=2025, paper="arXiv 2503.12811", licence="MIT",
    counts={"N": "nominal size", "step": "optimiser steps (the warm-up of 2,160 has rates of its own)"},
    loss="training loss, smoothed", loss_unit=_NATS,
    parts={"25m": "25M parameters, nine schedules", "100m": "100M parameters", "400m": "400M parameters"},
    fit="allometry curves atlas:multipowerlaw2025 --where split=fitted",
    caveats=("rows of one schedule are points of one curve", "lr is that of the logged step alone"),
    constants=tuple(
        constant
        for part, values in _MPL_PARAMETERS.items()
        for constant in (
            *_set(part, _MPL, _MPL_REASON, **dict(zip(("L_0", "A", "alpha"), values, strict=False))),
            *_set(part, _MPL_ERROR, _MPL_BETWEEN, prediction_error=values[-1]),
        )
    ),
)  # fmt: skip


def _gemstone(
    part: str, name: str, e: str, a: str, b: str, alpha: str, beta: str, objective: str
) -> tuple[Constant, ...]:
    where = f"parameters_delta-3/approach_3_parameters_grid_search_0_{name}.json"
    return _set(part, where, log_E=e, log_A=a, log_B=b, alpha=alpha, beta=beta, objective=objective)


_add(
    "gemstones2025", "mcleish7/gemstone-scaling-laws", readers.gemstones2025,
    title="Gemstones: A Model Suite for Multi-Faceted Scaling Laws", authors="McLeish et al.", year=2025,
    paper="arXiv 2502.06857", licence="MIT",
    counts={"N": "active parameters with embeddings", "D": "tokens"},
    loss="validation loss on Dolma", loss_unit=_NATS,
    parts={"to-100b": "checkpoints at a constant rate, up to 100B tokens", "all": "the same up to 350B tokens",
           "cooldown-begin": "where the cooldowns begin", "cooldown-end": "where the cooldowns end",
           "half-rate": "runs at half the rate"},
    fit="allometry fit atlas:gemstones2025 --law chinchilla",
    caveats=("rows are checkpoints of few runs (column run): resample them together",),
    constants=(
        *_gemstone("to-100b", "hot", "0.762264", "5.361340", "15.415995", "0.292869", "0.712872", "0.00198161"),
        *_gemstone("all", "hot_100b+", "0.668162", "4.900842", "12.850969", "0.259113", "0.597268", "0.00659253"),
        *_gemstone("cooldown-end", "cool_end", "0.729786", "5.419716", "12.513870", "0.300273", "0.580241",
                   "0.00196409"),
        *_gemstone("half-rate", "lr_ablation_hot", "0.791125", "5.838151", "14.307317", "0.325467", "0.651264",
                   "0.00197286"),
    ),
)  # fmt: skip

_CHEN = "the authors' fit, not checked against the print"
_add(
    "parscale2025", "QwenLM/ParScale", readers.parscale2025,
    title="Parallel Scaling Law for Language Models", authors="Chen et al.", year=2025, paper="arXiv 2505.10475",
    licence="none stated",
    counts={"N": "parameters without embeddings, those of the streams included", "P": "parallel streams"},
    loss="validation loss on Stack-V2 Python or the Pile", loss_unit=_NATS,
    parts={"stack": "six sizes, 1 to 8 streams, code", "pile": "the same on the Pile"},
    fit="allometry fit atlas:parscale2025 --law parallel",
    caveats=("one number of tokens for all: L(N, D) cannot be told",),
    constants=(
        *_set("stack", _CHEN, E="0.691237", k="0.393463", alpha="0.189371"),
        *_set("pile", _CHEN, E="1.288766", k="0.334456", alpha="0.196333"),
    ),
)  # fmt: skip

_FARSEER_FLOOR = (
    "the nine constants trade off in threes: the loss at infinite D that s, q and S give for N = 1e9 is 0.451 as"
    " printed and 0.447 here"
)
_FARSEER = "the digits that the benchmark's repository quotes of Farseer"
_add(
    "farseer2025", "PlanarG/active-sl", readers.farseer2025,
    title="Predictable Scale, part II: Farseer, as ScaleBench holds it", authors="Li et al.", year=2025,
    paper="arXiv 2506.10972; benchmark arXiv 2604.22753", licence="CC-BY-4.0 (data), MIT (code)",
    counts={"N": "parameters without embeddings", "D": "tokens"},
    loss="validation loss", loss_unit="bits per character",
    parts={"all": "404 runs to 6.4B parameters, and 7 larger ones held out"},
    fit="allometry fit atlas:farseer2025 --law farseer --where split=fitted",
    caveats=("losses in bits per character: exponents compare with those in nats per token, floors do not",),
    constants=_set("all", _FARSEER, _FARSEER_FLOOR, s="-0.062465", q="0.13", S="0.128488", A="-1.665631",
                   a="0.0459", E="3.133347", B="230.734371", b="-0.1729", Q="-1.544210"),
)  # fmt: skip


def table(address: str, cache: Path | None = None) -> tuple[pd.DataFrame, str]:
    """Return the rows that "atlas:ID/PART" names, without columns that say nothing, and a sentence on what they are.

    Raises AllometryError for unknown names, and where the source was not fetched.
    """
    source, part = find(address)
    rows = readers.table(source, content(source, cache))
    rows = rows[rows["part"] == part].drop(columns="part")
    empty = [name for name in rows if rows[name].isna().all() or (rows[name] == "").all()]
    others = (
        f"; other parts: {', '.join(p for p in source.parts if p != part)}" if len(source.parts) > 1 else ""
    )
    counts = "; ".join(f"{symbol}: {text}" for symbol, text in source.counts.items())
    said = f"{source.id}/{part}: {source.parts[part]} ({source.paper}); loss in {source.loss_unit}; {counts}"
    if len(source.parts) > 1 and len(others) < 160:
        said += others
    return rows.drop(columns=empty).reset_index(drop=True), said
