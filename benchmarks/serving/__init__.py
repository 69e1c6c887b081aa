"""The parts of `benchmarks/serving.py`; `peers/` and `load.lua` are programs that it starts."""
