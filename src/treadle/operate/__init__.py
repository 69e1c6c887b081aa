"""The model server: runs by itself as `python -m treadle.operate`, with base and nothing else."""
