"""Would the laws of the smaller models have predicted the larger ones?

Run: python examples/predict_the_largest.py
`runs.csv` beside this file is the table of ten minutes of training on two cores (`allometry run quickstart`).
"""

from pathlib import Path

import pandas as pd

import allometry

COLUMNS = {"N": "N", "D": "D", "L": "loss"}

runs = pd.read_csv(Path(__file__).parent / "runs.csv")
sizes = sorted(runs["N"].unique())
small, large = runs[runs["N"] < sizes[-2]], runs[runs["N"] >= sizes[-2]]

# Hide one larger size after another from every law, and weigh the laws by how well they did.
tested = allometry.backtest(small, columns=COLUMNS, by="N", cuts=[float(n) for n in sizes[2:5]])
print(tested.report())

forecast = tested.forecast(large[["N", "D"]], level=0.95)
table = large[["N", "D", "loss"]].assign(predicted=forecast.value, low=forecast.low, high=forecast.high)
table["error_percent"] = 100 * (table["loss"] / table["predicted"] - 1)
print(table.sort_values(["N", "D"]).to_string(index=False, float_format="%.4g"))
