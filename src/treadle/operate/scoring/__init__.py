"""Files in, predictions with lineage out: `python -m treadle.operate score`, and `treadle score` here.

rows → scorer, between places (folder, claim, object store); command reads the options.
"""
