"""MLflow's own pages in a real browser, on a real server: what people open shows what it should."""

import dataclasses
import json

import pytest
from browsing import chromium
from servers import at, train

from finetune.tracking import track

pytestmark = pytest.mark.browser

_PATIENCE = 60_000  # milliseconds: the pages are large, the machine may be busy
_REPORT = "<h1>Better than the base</h1><script>document.body.append('scripts run here')</script>"


@pytest.fixture
def recorded(config, run_dir, report, server, client):
    """Two runs on a server, of other seeds and scores; their ids by name, the experiment's id."""
    server.start()
    (run_dir / "report.html").write_text(_REPORT)
    found = {}
    for seed, name in ((42, "contrastive seed=42"), (43, "contrastive seed=43")):
        report["scores"][1]["value"] += 0.01
        each = at(dataclasses.replace(config, seed=seed), server.uri)
        each = dataclasses.replace(each, tracking=dataclasses.replace(each.tracking, name=name))
        curves = run_dir.parent / str(seed) / "curves.jsonl"
        with track(each, run_dir) as run:
            run.watch([curves], live=False)
            train(curves, range(20))
            run.finish(report)
        found[name] = json.loads((run_dir / ".mlflow-run").read_text())["run_id"]
    from mlflow import MlflowClient

    runs = MlflowClient(tracking_uri=server.uri)
    return found, runs.get_experiment_by_name("statutes").experiment_id, server.uri


@pytest.fixture
def page(recorded):
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(_PATIENCE)
        yield page


def test_run_charts_report_and_comparison_hold_what_they_should(page, recorded):
    ids, experiment, uri = recorded
    (first, one), (second, two) = ids.items()
    base = f"{uri}/#/experiments/{experiment}/runs/{one}"

    page.goto(base)
    page.get_by_text(first).first.wait_for()
    page.get_by_text("Better than the base on statutes").first.wait_for()
    for words in ("train/loss", "onnx-int8-dynamic/statutes/ndcg_at_10", "statutes-starter"):
        page.get_by_text(words).first.wait_for()

    page.goto(f"{base}/model-metrics")
    page.get_by_placeholder("Search metric charts").fill("train/")
    page.locator(".js-plotly-plot").first.wait_for()
    for chart in ("loss", "memory_mb"):
        page.get_by_text(chart, exact=True).first.wait_for()

    page.goto(f"{base}/artifacts/report.html")
    shown = page.frame_locator("iframe").first
    shown.get_by_text("Better than the base").wait_for()
    shown.get_by_text("scripts run here").wait_for()

    both = f'runs=["{one}","{two}"]&experiments=["{experiment}"]'
    page.goto(f"{uri}/#/compare-runs?{both}")
    for words in (first, second, "onnx-int8-dynamic/statutes/ndcg_at_10", "train.learning_rate"):
        page.get_by_text(words).first.wait_for()
