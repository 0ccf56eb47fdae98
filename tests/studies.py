"""A small study on disk, made without training: what a report reads."""

import json
from pathlib import Path
from typing import Any

DENSE = (0.97, 0.96, 0.98)


def write_run(study: Path, method: str, sparsity: float, seed: int, accuracy: float, **changes: Any) -> Path:
    """A finished run of a network of two layers, 100 + 20 weights, that gets its sparsity in three steps."""
    run = study / "runs" / f"{method}-{sparsity}-{seed}-{len(list(study.glob('runs/*')))}"
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text(f"method: {{{method}: {{}}}}\nsparsity: [{sparsity}]\nseed: [{seed}]\n")
    kept = {"0.weight": round(100 * (1 - sparsity)), "2.weight": round(20 * (1 - sparsity))}
    metrics = [
        {"step": step, "epoch": step / 20, "loss": 1 / step, "learning_rate": 0.1, "sparsity": sparsity * step / 60}
        | {"accuracy": accuracy - 0.3 / step, "nll": 0.2}
        for step in (20, 40, 60)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    bins = [
        {"low": 0.6, "high": 2 / 3, "confidence": 0.64, "accuracy": 0.5, "n": 100 - 10 * seed},
        {"low": 14 / 15, "high": 1.0, "confidence": 0.99, "accuracy": accuracy, "n": 300 + 10 * seed},
    ]
    scores = {"accuracy": accuracy, "nll": 0.1, "calibration_error": 0.02, "n": 400, "reliability": bins}
    layers = [
        {"name": name, "shape": shape, "weights": weights, "kept": kept[name], "sparsity": 1 - kept[name] / weights}
        | {"macs": weights, "macs_kept": float(kept[name])}
        for name, shape, weights in (("0.weight", [10, 10], 100), ("2.weight", [2, 10], 20))
    ]
    left = sum(kept.values())
    masks = 0 if method == "dense" else 120
    result = {
        **{"format": "prunus-result/2", "method": method, "arguments": {"sparsity": sparsity}, "sparsity": sparsity},
        **{"seed": seed, "data": "digits", "model": "mlp", "steps": 60, "epochs": 3.0, "batch_size": 64},
        **{"test": scores, "validation": scores, "realised_sparsity": sparsity, "layers": layers, "collapsed": []},
        **{"parameters": 132, "parameters_kept": 12 + left, "macs": 120, "macs_kept": float(left)},
        **{"theoretical_speedup": 120 / left, "bytes_dense": 528, "bytes_packed": 4 * left + 63},
        **{"train_seconds": 1.0 + seed, "extra_forward_backward": 0, "device": "cpu", "precision": "32-true"},
        **{"training_bytes": {"parameters": 528, "gradients": 528, "optimizer": 528, "method": masks}},
        **{"peak_bytes": None},
        **{"versions": {"prunus": "0.1.0", "torch": "2.13.0", "python": "3.11.7"}},
    }
    (run / "result.json").write_text(json.dumps(result | changes))
    return run


def as_written_before(run: Path) -> None:
    """Make a run's result one of the format before bins of confidence and memory."""
    result = json.loads((run / "result.json").read_text()) | {"format": "prunus-result/1"}
    del result["training_bytes"], result["peak_bytes"], result["test"]["reliability"]
    (run / "result.json").write_text(json.dumps(result))


def timed(method: str, sparsity: float, ratio: float, precision: str = "fp32") -> dict[str, Any]:
    """An entry of timing.json."""
    speed = {"dense_steps_per_second": 100.0, "steps_per_second": 100 * ratio, "blocks": 9, "precision": precision}
    return {"method": method, "sparsity": sparsity, "ratio": ratio, "low": ratio - 0.05, "high": ratio + 0.05} | speed


def retrained(schedule: str, steps: int, dense: Path, drop: float) -> dict[str, Any]:
    """What the result of a one-shot pruning of a dense run holds beside the usual; 20 steps are an epoch."""
    measured = {"trained": 0.96, "pruned": 0.96 - drop, "retrained": 0.95}
    cycle = {"step": 0, "length": steps, "sparsity": 0.9, "fraction": 0.9, "drop": drop, "peak": 0.05}
    began = {"run": dense.name, "epochs": 20.0, "steps": 400, "train_seconds": 8.0}
    return {
        **{"format": "prunus-result/3", "arguments": {"schedule": schedule}, "steps": steps, "epochs": steps / 20},
        **{"pretraining": began, "cycles": [cycle | {"measured": measured}], "recalibration": None},
        **{"learning_rates": [[step, 0.05 * (1 - step / steps)] for step in range(steps)]},
        **{"training_macs": 12 * steps, "training_macs_dense": 120 * steps},
    }


def write_retraining(directory: Path) -> Path:
    """Dense for 20 epochs; from it imp with three schedules for 0.4 and 1 epochs at 70 % and 90 %, three seeds.

    ALLR leads LLR by one point, FT lies 10 points below after 0.4 epochs and level with LLR after one.
    """
    (directory / "runs").mkdir(parents=True)
    for seed, accuracy in enumerate(DENSE):
        longer = {"steps": 400, "epochs": 20.0, "training_macs": 48_000, "training_macs_dense": 48_000}
        rates = [[step, 0.1 * (1 - step / 400)] for step in range(0, 400, 10)]
        added = {"format": "prunus-result/3", "pretraining": None, "cycles": [], "learning_rates": rates}
        dense = write_run(directory, "dense", 0.0, seed, accuracy, **longer, **added)
        for sparsity in (0.7, 0.9):
            for steps in (8, 20):
                far = 0.10 if steps == 8 else 0.02
                for schedule, less in {"allr": 0.01, "llr": 0.02, "ft": far}.items():
                    changes = retrained(schedule, steps, dense, 0.3)
                    write_run(directory, "imp", sparsity, seed, accuracy / 5 + 0.7 - less, **changes)
    (directory / "recipe.yaml").write_text("study: retraining\n")
    return directory


def write_methods(directory: Path) -> Path:
    """Dense, bimp in two cycles and gmp at 90 % with 60 steps each, three seeds; with a search and images a second."""
    dropped = [(20, 0.68, 0.9, 0.5), (40, 0.9, 0.88, 0.8)]
    for seed, accuracy in enumerate(DENSE):
        cycles = [
            {"step": step, "length": 20, "sparsity": sparsity, "fraction": 0.68, "drop": 0.2, "peak": 0.05}
            | {"measured": {"trained": trained, "pruned": pruned, "recalibrated": pruned + 0.05, "retrained": 0.88}}
            for step, sparsity, trained, pruned in dropped
        ]
        added = {"format": "prunus-result/3", "pretraining": None, "cycles": [], "accumulate": 2}
        added |= {"learning_rates": [[0, 0.1], [59, 0.0]], "training_macs": 7200, "training_macs_dense": 7200}
        added |= {"recalibration": {"batches": 4, "before": 0.8, "after": 0.8 + 0.01 * seed}}
        write_run(directory, "dense", 0.0, seed, accuracy, **added)
        write_run(directory, "gmp", 0.9, seed, accuracy - 0.03, **added | {"training_macs": 3600})
        write_run(directory, "bimp", 0.9, seed, accuracy - 0.02 - 0.01 * seed, **added | {"cycles": cycles})
    (directory / "recipe.yaml").write_text("study: methods\n")
    (directory / "timing.json").write_text(json.dumps([timed("gmp", 0.9, 0.8)]))
    points = [
        {"values": {"learning_rate": rate}, "validation_accuracy": score, "realised_sparsity": 0.9, "trainings": 1}
        for rate, score in ((0.1, 0.91), (1.0, None))
    ]
    search = {"method": "gmp", "sparsity": 0.9, "trainings": 2, "chosen": {"learning_rate": 0.1}, "points": points}
    search |= {"validation_accuracy": 0.91, "realised_sparsity": 0.9, "arguments": {}, "epochs": None}
    (directory / "search.json").write_text(json.dumps([search, search | {"method": "bimp"}]))
    return directory


def lesson(method: str, sparsity: float, agent: str, **changes: Any) -> dict[str, Any]:
    """An entry of learn.json: 5 trainings, 2 of them finalists, the second of which diverged while it learned."""
    episodes = [
        {"seed": seed, "accuracy": accuracy, "sparsity": sparsity + 0.03}
        for seed, accuracy in enumerate((0.5, None, 0.45))
    ]
    chosen = [{"seed": 1000 + seed, "accuracy": 0.6 + 0.1 * seed} for seed in range(2)]
    loops = [{"seed": 2000 + seed, "validation": 0.62, "test": 0.61, "sparsity": sparsity + 0.03} for seed in range(3)]
    return {
        **{"method": method, "sparsity": sparsity, "agent": agent, "trainings": 5, "finalists": 2, "seconds": 12.5},
        **{"schedule": f"learning/{method}/{sparsity}/{agent}.json", "reward": "delta", "leaky": False},
        **{"training_macs": 300, "training_macs_dense": 1000, "episodes": episodes, "chosen": chosen},
        **{"closed_loop": loops if agent.startswith("ppo") else [], "layers": ["0", "2"], "update_every": 20},
        **{"densities": [[0.2, 0.4], [0.1, 0.3], [0.05, 0.1]]},
        **changes,
    }


def write_handmade(directory: Path, seeds: int = 3) -> Path:
    """Dense, and mp-rr and rp-rr with three handmade schedules at 50 % and 90 %; linear lies 2 points below constant.

    Dense training lies at 97, 96 and 98 %, and constant 10 points below it at every sparsity.
    """
    for seed, accuracy in enumerate(DENSE[:seeds]):
        write_run(directory, "dense", 0.0, seed, accuracy)
        for method in ("mp-rr", "rp-rr"):
            for sparsity in (0.5, 0.9):
                for schedule, less in {"linear": 0.12, "constant": 0.10}.items():
                    arguments = {"sparsity": sparsity, "schedule": schedule}
                    write_run(directory, method, sparsity, seed, accuracy - less, arguments=arguments)
    (directory / "recipe.yaml").write_text("study: schedules\n")
    return directory


def write_learned(directory: Path, seeds: int = 3, **changes: Any) -> Path:
    """The handmade schedules, and those of ppo and random for mp-rr, 3 points sparser than requested at 90 %.

    Less constant ppo is +1, 0 and -1 points at 90 % and +2 at 50 %, random is -1. Changes are those of the lessons.
    """
    write_handmade(directory, seeds)
    for seed, accuracy in enumerate(DENSE[:seeds]):
        for sparsity, gain in ((0.5, 0.02), (0.9, 0.01 * (1 - seed))):
            for agent, more in {"ppo": gain, "random": -0.01}.items():
                path = f"learning/mp-rr/{sparsity}/{agent}.json"
                learned = {"arguments": {"sparsity": sparsity, "schedule": path}}
                learned |= {"realised_sparsity": 0.93 if sparsity == 0.9 else 0.5}
                write_run(directory, "mp-rr", sparsity, seed, accuracy - 0.10 + more, **learned)
    lessons = [lesson("mp-rr", sparsity, agent, **changes) for sparsity in (0.5, 0.9) for agent in ("ppo", "random")]
    whole = [
        {"method": "mp-rr", "sparsity": 0.9, "schedule": schedule, "seed": 2000 + seed, "test": 0.8 + 0.01 * seed}
        for schedule in ("ppo", "constant")
        for seed in range(2)
    ]
    (directory / "learn.json").write_text(json.dumps({"lessons": lessons, "whole": whole}))
    return directory


def stream(errors: list[int], planned: list[float], gap: float, share: bool, **settings: Any) -> dict[str, Any]:
    """What the result of a run over four megabatches of 100 images holds, each trained for 10 steps more.

    A ``share`` of the operations, that which is not planned to be zero, is counted where it is true.
    """
    megabatches = []
    for number, (wrong, sparsity) in enumerate(zip(errors, planned, strict=True), 1):
        macs = 1000 * number
        part = {
            **{"train": 90 * number, "validation": 10 * number, "steps": 10 * number, "epochs": 2.0, "best_step": 10},
            **{"train_accuracy": 0.9, "validation_accuracy": 0.9 - gap, "gap": gap, "released_gap": gap + 0.02},
            **{"training_macs": round(macs * (1 - sparsity)) if share else macs, "training_macs_dense": macs},
            **{"training_bytes": {}, "seconds": 1.0, "preparing_seconds": 0.1},
        }
        kept = round(10 * (1 - sparsity), 6)
        layers = {"0.weight": [10 * kept, 100], "2.weight": [2 * kept, 20]} if share else {}
        megabatches.append(
            {
                **{"examples": 100, "planned_sparsity": sparsity, "errors": wrong, "tested": 200, "networks": 1},
                **{"right_by_class": [200 - wrong], "tested_by_class": [200], "layers": layers, "trained": [part]},
            }
        )
    return {
        **{"settings": {"order": "permuted", "wait": 1, "patience": None} | settings, "forgetting": 0.125, "gap": gap},
        **{"cumulative_errors": sum(errors), "mean_error": sum(errors) / 800, "megabatches": megabatches},
    }


def write_stream(
    study: Path, method: str, sparsity: float, seed: int, streamed: dict[str, Any], **changes: Any
) -> Path:
    """A finished run over a stream, evaluated in the middle and at the end of each megabatch."""
    last = streamed["megabatches"][-1]
    parts = [part for record in streamed["megabatches"] for part in record["trained"]]
    sums = {name: sum(part[name] for part in parts) for name in ("steps", "training_macs", "training_macs_dense")}
    changes = {"format": "prunus-result/3", "stream": streamed, "pretraining": None, "epochs": 8.0} | sums | changes
    run = write_run(study, method, sparsity, seed, 1 - last["errors"] / last["tested"], **changes)
    metrics = [
        {"step": half * part["steps"] // 2, "epoch": float(half), "loss": 1.0, "learning_rate": 0.1, "nll": 0.2}
        | {"sparsity": record["planned_sparsity"], "accuracy": 0.7, "megabatch": number}
        | {"train_accuracy": 0.7 + part["gap"] + 0.1 / half, "running_accuracy": 0.8}
        for number, record in enumerate(streamed["megabatches"])
        for part in record["trained"]
        for half in (1, 2)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    return run


def write_streams(directory: Path, seeds: int = 3, **settings: Any) -> Path:
    """Dense and snip with both plans at 75 %, three seeds, on a stream of four megabatches.

    Less dense, the progressive plan has a CER of -32, -30 and -28, a gap of -4, -3 and -2 points, and a test accuracy
    of +1, 0 and -1; the other has 20 errors more after every megabatch and the same gap.
    """
    for seed in range(seeds):
        dense = [errors + 2 * seed for errors in (100, 60, 40, 20)]
        write_stream(directory, "dense", 0.0, seed, stream(dense, [0.0] * 4, 0.08, False, **settings))
        better = [*(errors - 10 for errors in dense[:3]), dense[3] + 2 * (seed - 1)]
        plans = {
            "progressive": stream(better, [0.2, 0.5, 0.6, 0.75], 0.04 + 0.01 * seed, True, **settings),
            "once": stream([errors + 20 for errors in dense], [0.75] * 4, 0.08, True, **settings),
        }
        for plan, streamed in plans.items():
            arguments = {"sparsity": 0.75, "plan": plan}
            write_stream(directory, "snip", 0.75, seed, streamed, arguments=arguments)
    (directory / "recipe.yaml").write_text("study: streams\n")
    return directory


def write_study(directory: Path, less: float = 0.0, recipe: str = "seeds: 3\n") -> Path:
    """Dense, gmp and rigl at two sparsities, three seeds; gmp has one seed fewer; timed but for rigl at 90 %.

    Sparse accuracies are ``less`` by that much.
    """
    for seed, accuracy in enumerate(DENSE):
        write_run(directory, "dense", 0.0, seed, accuracy)
        write_run(directory, "rigl", 0.5, seed, accuracy - 0.01 * seed - less)
        write_run(directory, "rigl", 0.9, seed, accuracy - 0.10 - less)
        if seed:
            write_run(directory, "gmp", 0.5, seed, accuracy - 0.02 - less)
            write_run(directory, "gmp", 0.9, seed, accuracy - 0.03 - less)
    (directory / "recipe.yaml").write_text(f"study: small\n{recipe}")
    entries = [timed("gmp", 0.5, 0.8), timed("gmp", 0.9, 1.02), timed("rigl", 0.5, 1.3), timed("dense", 0, 1.4, "bf16")]
    (directory / "timing.json").write_text(json.dumps(entries))
    return directory


def lines_with(text: str, *parts: str) -> list[str]:
    """The lines that hold all parts."""
    return [line for line in text.splitlines() if all(part in line for part in parts)]


def section(text: str, title: str) -> str:
    """A section of a report."""
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]
