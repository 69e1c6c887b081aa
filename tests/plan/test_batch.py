"""plan/batch.py: what a batch environment says of files here and on a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from treadle.base.errors import SpecError
from treadle.base.spec import BatchTarget
from treadle.plan.spec import load

SPEC = """\
project: flights
data: {flights: {files: data/*.parquet}}
model: {result: model, task: binary, label: late}
deploy:
  production: {target: kubernetes, context: minikube, state: checkout}
  local: {target: process}
"""
CLAIM = 'input: "claim://scores/in/*.parquet", output: "claim://scores/out/"'
S3 = 'input: "s3://bucket/in/*.parquet", output: "s3://bucket/out/"'


def read(tmp_path: Path, words: str, of: str = "production") -> BatchTarget:
    path = tmp_path / "treadle.yaml"
    path.write_text(f"{SPEC}  nightly: {{target: batch, of: {of}, {words}}}\n")
    found = load(path, None).deploy["nightly"]
    assert isinstance(found, BatchTarget)
    return found


@pytest.mark.parametrize(
    "words",
    [
        CLAIM,
        f"{CLAIM}, size: 5Gi, at: 05:00 Europe/Berlin, deadline: 30m, cpu: 500m, memory: 2Gi",
        f'{S3}, s3: {{secret: keys, endpoint: "https://minio.example.com:9000", region: eu}}',
        'input: "s3://bucket/in/*.csv", output: "claim://a/b.parquet", s3: {secret: keys}',
        f'{CLAIM}, at: "0 5 * * MON-FRI"',
    ],
)
def test_batch_on_a_cluster_is_read(tmp_path: Path, words: str) -> None:
    assert read(tmp_path, words).on_cluster


def test_batch_of_a_cluster_over_files_here_scores_here(tmp_path: Path) -> None:
    assert not read(tmp_path, 'input: "in/*.csv", output: out/').on_cluster


@pytest.mark.parametrize(
    ("words", "of", "said"),
    [
        (CLAIM, "local", "deploy.nightly.of: `local` is no Kubernetes environment"),
        ('input: "claim://a/x.csv", output: out/', "production", "deploy.nightly.output: `input` is on the cluster and `output` here"),
        ('input: x.csv, output: "claim://a/"', "production", "deploy.nightly.input: `output` is on the cluster"),
        ('input: x.csv, output: out/, size: 5Gi', "production", "deploy.nightly.size: `size` is for a batch on a cluster"),
        ('input: "claim://a/", output: "claim://a/out/"', "production", "deploy.nightly.input: `input` names files"),
        ('input: "claim://a/../x.csv", output: "claim://a/out/"', "production", "may not lead out"),
        ('input: "claim://A_B/x.csv", output: "claim://a/out/"', "production", "is neither claim://NAME/PATH nor s3://"),
        ('input: "gs://a/x.csv", output: "claim://a/out/"', "production", "is neither claim://NAME/PATH nor s3://"),
        ('input: "claim://a/x.csv", output: "claim://a/*/"', "production", "no pattern"),
        ('input: "claim://a/x.csv", output: "claim://a/x.csv"', "production", "written as Parquet"),
        (S3, "production", "deploy.nightly.s3: `s3://` needs a Secret"),
        (f"{S3}, s3: {{endpoint: x}}", "production", "`secret` is missing"),
        (f'{S3}, s3: {{secret: a, endpoint: "minio:9000"}}', "production", "endpoint is http(s)://HOST"),
        (f"{CLAIM}, s3: {{secret: a}}", "production", "neither input nor output is `s3://`"),
        (f"{S3}, s3: {{secret: a}}, size: 1Gi", "production", "neither input nor output is on a claim"),
        (f"{CLAIM}, size: 5GB", "production", "size is a number with Mi, Gi or Ti"),
        (f"{CLAIM}, deadline: soon", "production", "'soon' is no duration"),
        (f'{CLAIM}, at: "0 5 L * *"', "production", "Kubernetes knows no L"),
        (f'{CLAIM}, at: "0 5 * * 7"', "production", "write 0 for Sunday"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_with_its_place(
    tmp_path: Path, words: str, of: str, said: str
) -> None:
    with pytest.raises(SpecError) as caught:
        read(tmp_path, words, of)
    assert said in str(caught.value), str(caught.value)
    assert "treadle.yaml:7:" in str(caught.value)
