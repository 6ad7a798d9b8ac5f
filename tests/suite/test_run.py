import json
import os
import signal
from dataclasses import replace

import pytest
import torch

from intarsia.data.problems import Problems
from intarsia.data.table import write_table
from intarsia.errors import ConfigError, DataError
from intarsia.evaluation.blind import TEXT_ONLY, Lessons, blind_negatives
from intarsia.evaluation.harness import evaluate_retrieval
from intarsia.evaluation.result import read_result
from intarsia.identity import code_key
from intarsia.suite.plan import Plan, make_plan
from intarsia.suite.run import run_suite

DATA = ["scenes:test[:6]"]


def one(folder, data=DATA, protocol="retrieval") -> Plan:
    plan = make_plan(folder, data)
    return Plan([task for task in plan.tasks if task.protocol == protocol], [])


def test_there_is_a_result_file_for_every_model_and_task(suite, suite_folder):
    files = set((suite_folder / "results").rglob("*.json"))
    assert len(suite.results) == len(suite.plan.tasks) == 7
    for task, results in suite.results.items():
        assert list(results) == ["clip", "filip", "registers"]
        for label, result in results.items():
            name = f"{task.protocol}_on_scenes_test_6.json"
            path = suite_folder / "results" / f"runs_{label}" / name
            files.remove(path)
            assert read_result(path)["metrics"] == json.loads(json.dumps(result["metrics"]))
    assert not files and not suite.failed


def test_the_figures_are_those_of_the_protocol_itself(suite, models, open_model):
    (task,) = (task for task in suite.results if task.protocol == "retrieval")
    model, _ = open_model(models[1])
    expected = evaluate_retrieval(model, task.items, Problems()).metrics
    found = suite.results[task]["filip"]["metrics"]
    assert {k: m["value"] for k, m in found.items()} == {k: m.value for k, m in expected.items()}


def test_nothing_is_computed_twice(suite, suite_folder, models, open_model):
    again = run_suite(models, make_plan(suite_folder, DATA), suite_folder, open_model, num_worst=3)
    assert suite.num_computed == 7 * 3 + 7 and again.num_computed == 0
    assert [str(task) for task in again.results] == [str(task) for task in suite.results]
    assert list(again.failures.values()) == list(suite.failures.values())


def test_other_weights_or_data_are_computed_again(tmp_path, models, open_model):
    def trained(name):
        model, config = open_model(name)
        with torch.no_grad():
            next(model.method.parameters()).add_(1e-3)
        return model, config

    plan = one(tmp_path)
    assert run_suite(models[:1], plan, tmp_path, open_model).num_computed == 2
    assert run_suite(models[:1], plan, tmp_path, trained).num_computed == 2
    assert run_suite(models[:1], plan, tmp_path, trained).num_computed == 0
    (task,) = plan.tasks
    others = [replace(r, captions=r.captions[::-1]) for r in task.items]
    turned = Plan([replace(task, given=others)], [])
    assert run_suite(models[:1], turned, tmp_path, trained).num_computed == 2


def test_a_killed_run_goes_on_where_it_was(tmp_path, models, open_model):
    plan = one(tmp_path)

    def killed(name):
        if name == models[1] and list(tmp_path.glob("results/*/*.json")):
            os.kill(os.getpid(), signal.SIGKILL)
        return open_model(name)

    child = os.fork()
    if child == 0:
        # three models do not fit among the two kept open, so the second is opened again
        run_suite(models, plan, tmp_path, killed)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    (left,) = tmp_path.glob("results/*/*.json")
    before = left.read_bytes()
    suite = run_suite(models, plan, tmp_path, open_model)
    assert suite.num_computed == 2 + 1
    assert left.read_bytes() == before and len(suite.results[plan.tasks[0]]) == 3
    assert not [path for path in tmp_path.rglob(".*") if path.is_file() and "json." in path.name]


def test_a_broken_file_is_made_again(tmp_path, models, open_model):
    plan = one(tmp_path)
    run_suite(models[:1], plan, tmp_path, open_model)
    (path,) = tmp_path.glob("results/*/*.json")
    path.write_text(path.read_text()[:100])
    assert run_suite(models[:1], plan, tmp_path, open_model).num_computed == 1


@pytest.mark.parametrize("error", [DataError("no captions"), ZeroDivisionError("oh")])
def test_what_fails_is_reported_and_the_others_go_on(error, tmp_path, models, open_model):
    (task,) = one(tmp_path).tasks

    def broken(*_):
        raise error

    plan = Plan([replace(task, protocol="broken", evaluate=broken), task], [])
    suite = run_suite(models[:1], plan, tmp_path, open_model)
    (failed,) = suite.failed
    assert failed.task.startswith("broken on scenes") and str(error) in failed.reason
    assert list(suite.results) == [task]


def test_a_model_is_named_once(tmp_path, models, open_model):
    with pytest.raises(ConfigError, match="models must differ"):
        run_suite([models[0], models[0]], Plan([], []), tmp_path, open_model)


def test_failures_are_the_worst_mistakes_of_the_last_model(suite, models):
    assert list(suite.failures) == suite.plan.tasks
    for task, cases in suite.failures.items():
        leads = [case["models"][-1]["false"] - case["models"][-1]["true"] for case in cases]
        assert 0 < len(cases) <= 3, task
        assert min(leads) > -1e-5, task
        assert leads == sorted(leads, reverse=True) or max(leads) - min(leads) < 1e-5, task
        for case in cases:
            assert len(case["models"]) == 2 and case["true"] != case["false"]
            for shot in case["shots"]:
                assert shot["picture"].startswith("data:image/webp") and shot["width"] <= 320
            assert len(case["shots"]) == (2 if task.protocol == "region-retrieval" else 1)
            for model in case["models"]:
                assert len(model["views"]) == (len(case["shots"]) if not case["false"] else 2)


def test_failures_kept_in_another_format_are_made_again(tmp_path, models, open_model):
    plan = one(tmp_path)
    run_suite(models[:1], plan, tmp_path, open_model, num_worst=2)
    (path,) = tmp_path.glob("failures/*.json")
    kept = json.loads(path.read_text())
    kept["suite"]["format"] -= 1
    path.write_text(json.dumps(kept | {"cases": []}))
    again = run_suite(models[:1], plan, tmp_path, open_model, num_worst=2)
    assert again.num_computed == 1 and len(again.failures[plan.tasks[0]]) == 2


def test_mistakes_are_as_many_as_the_protocol_counts(suite, models, open_model):
    for task, results in suite.results.items():
        metric = {"retrieval": "i2t_r1", "negatives": "micro"}
        metric |= {"boxes-instances-roi": "top1", "region-retrieval": "r1"}
        if task.protocol in metric:
            outcomes = results["registers"]["per_query"][metric[task.protocol]].values
            model, _ = open_model(models[2])
            found = list(task.inspection.find(model, task.items))
            assert len(found) == (outcomes == 0).sum(), task


def test_text_only_answers_what_it_can_and_is_kept_like_a_model(blind_suite, suite_folder):
    asked = {task.protocol: list(results) for task, results in blind_suite.results.items()}
    assert asked["negatives"] == [*blind_suite.models, TEXT_ONLY]
    assert TEXT_ONLY not in asked["retrieval"] and TEXT_ONLY not in blind_suite.inspected
    (path,) = (suite_folder / "blind/results/text_only").glob("*.json")
    result = read_result(path)
    (task,) = (task for task in blind_suite.results if task.protocol == "negatives")
    lessons = blind_suite.plan.lessons
    language, taught_on = lessons.teach(c for record in task.items for c in record.captions)
    expected = blind_negatives(task.items, language).metrics
    assert {k: m["value"] for k, m in result["metrics"].items()} == {
        name: metric.value for name, metric in expected.items()
    }
    taught = result["config"]["taught_on"]
    assert (taught["data"], taught["split"]) == ("scenes", "train[:300]")
    assert taught["captions"] == taught_on.captions > 500


def test_text_only_is_not_asked_twice_but_again_after_other_lessons(
    blind_suite, blind_plan, suite_folder, models, open_model
):
    out = suite_folder / "blind"
    again = run_suite(models, blind_plan, out, open_model, num_worst=1)
    assert again.num_computed == 0 and list(again.rows)[-1] == TEXT_ONLY
    fewer = replace(blind_plan.lessons, pictures=blind_plan.lessons.pictures[:200])
    other = run_suite(models, replace(blind_plan, lessons=fewer), out, open_model, num_worst=1)
    assert other.num_computed == 1
    assert run_suite(models, blind_plan, out, open_model, num_worst=1).num_computed == 1


def test_answers_do_not_teach(tmp_path, blind_plan, models, open_model):
    (task,) = (task for task in blind_plan.tasks if task.blind)
    answers = Lessons("scenes", "test", tuple(record.captions for record in task.given))
    suite = run_suite(models[:1], Plan([task], [], answers), tmp_path, open_model)
    (failed,) = suite.failed
    assert failed.model == TEXT_ONLY and "all 6 pictures share a caption" in failed.reason
    assert list(suite.rows) == list(suite.models) == list(suite.results[task])


def test_broken_failures_are_made_again(tmp_path, models, open_model):
    plan = one(tmp_path)
    run_suite(models[:1], plan, tmp_path, open_model, num_worst=2)
    (path,) = tmp_path.glob("failures/*.json")
    path.write_text(path.read_text()[:100])
    again = run_suite(models[:1], plan, tmp_path, open_model, num_worst=2)
    assert again.num_computed == 1 and not again.failed


def test_two_tables_keep_results_and_failures_of_their_own(tmp_path, records, models, open_model):
    for name, some in (("a", records[:3]), ("b", records[3:7])):
        write_table(tmp_path / f"{name}.lance", iter(some), Problems())
    plan = one(tmp_path, [f"table@{tmp_path / name}.lance" for name in "ab"])
    suite = run_suite(models[:1], plan, tmp_path, open_model, num_worst=9)
    assert len(list(tmp_path.glob("results/*/*.json"))) == 2
    assert len(list(tmp_path.glob("failures/*.json"))) == 2
    for task, some in zip(plan.tasks, (records[:3], records[3:7]), strict=True):
        shown = {shot["source"] for case in suite.failures[task] for shot in case["shots"]}
        assert suite.results[task]["clip"]["metrics"]["i2t_r1"]["n"] == len(some)
        assert shown and shown <= {record.id for record in some}


def test_results_have_keys(suite):
    for task, results in suite.results.items():
        for label, result in results.items():
            assert result["keys"] == {
                "data": task.key,
                **suite.keys[label],
                "code": code_key(),
            }


def test_the_judge_answers_what_the_models_could_see(tmp_path, blind_plan, models, open_model):
    (task,) = (task for task in blind_plan.tasks if task.blind)
    broken = [
        replace(record, image=b"") if i == 1 else record for i, record in enumerate(task.given)
    ]
    plan = replace(blind_plan, tasks=[replace(task, given=broken)], max_bad_fraction=0.5)
    suite = run_suite(models[:1], plan, tmp_path, open_model)
    (results,) = suite.results.values()
    assert results["clip"]["n"] == results[TEXT_ONLY]["n"] < sum(len(r.negatives) for r in broken)
    again = run_suite(models[:1], plan, tmp_path, open_model)
    assert again.num_computed == 0
