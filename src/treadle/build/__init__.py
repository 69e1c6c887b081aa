"""Build: a fitted model becomes a canonical MLflow model directory."""
