"""FastAPI by hand, as its tutorial has it: by_hand.py MODEL.joblib PORT."""

from __future__ import annotations

import sys

import joblib
import numpy as np
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

model = joblib.load(sys.argv[1])
app = FastAPI()


class Rows(BaseModel):
    """What is asked: rows of numbers."""

    rows: list[list[float]]


@app.post("/predict")
def predict(asked: Rows) -> dict[str, list[list[float]]]:
    """The probability of each class."""
    return {"predictions": model.predict_proba(np.array(asked.rows)).tolist()}


uvicorn.run(app, port=int(sys.argv[2]), log_level="warning", access_log=False)
