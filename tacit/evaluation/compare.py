"""Several encoders on the same test records: scores side by side, paired differences, ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tacit.errors import UsageError
from tacit.evaluation import dense, detection
from tacit.evaluation.label_free import rank_correlation
from tacit.evaluation.low_shot import saving
from tacit.evaluation.options import options_of
from tacit.evaluation.paired import average_ranks, holm, mcnemar, paired_bootstrap, sign_flip_test
from tacit.evaluation.protocols import ACROSS, PROTOCOLS, SCENES
from tacit.scores import sign


def compare(results: dict[str, dict[str, Any]], *, seed: int = 0) -> dict[str, Any]:
    """What `evaluate` said of each encoder, by name, on one split; protocols that all of them have.

    Returns:
        `{"split", "split_hash", "seed", "scores": [{"encoder", "protocol", "metric", "value", "low", "high", "n",
        "settings", "inputs"}], "differences": [{"protocol", "metric", "a", "b", "difference", "low", "high", "p",
        "p_holm", "test"}], "ranks": {encoder: mean rank over the scores, 1 is best}, "label_free": [{"measure",
        "protocol", "spearman", "p", "n"}], "savings": [{"encoder", "over", "target", "factor"}]}`.

        Differences are of the best encoder to every other, from the records of both, "run/protocol/metric" -> array:

        - [N], one value a test record, of which the score is the mean: the interval is the paired bootstrap's, p
          McNemar's exact test where values are right or wrong, and the paired sign-flip test where they are shares;
        - [N, C, 3], pixels of N images and C classes that are right, predicted and true (`dense.counts`), which are
          summed before the score is taken: paired bootstrap over images, and p of exchanging results image by image;
        - no dimensions and the fields of `detection.records.pack`: the matches of a detector, likewise.

        p_holm is corrected for all differences of the table. With four encoders or more, `label_free` says how well
        each label-free measure orders them as each probe does. With label-budget curves, `savings` says how many times
        fewer labels each needs than the weakest does for the weakest's best.

    Raises:
        UsageError: fewer than two encoders, other splits, other settings, or no protocol in common. DataError: records
            that are not of the same masks or objects.
    """
    if len(results) < 2:
        raise UsageError("A comparison needs two encoders or more.")
    _same_split(results)
    scores = {name: by_name(result) for name, result in results.items()}
    shared = [p for p in next(iter(scores.values())) if all(p in of for of in scores.values())]
    if not shared:
        had = "; ".join(
            f"{name}: {', '.join(dict.fromkeys(p for p, _ in of)) or 'none'}" for name, of in scores.items()
        )
        raise UsageError(f"No protocol was run on all of these ({had}). Give --data to run the same on each.")
    rows, differences = [], []
    for key in shared:
        protocol, metric = key
        _same_settings(protocol, {name: of[key] for name, of in scores.items()})
        best = max(scores, key=lambda name: sign(metric) * scores[name][key]["value"])
        for name, of in scores.items():
            rows.append({"encoder": name, **of[key], "inputs": results[name].get("inputs")})
            if name != best:
                a, b = (results[n].get("records", {}).get(f"run/{protocol}/{metric}") for n in (best, name))
                if a is not None and b is not None:
                    about = {"protocol": protocol, "metric": metric, "a": best, "b": name}
                    differences.append(about | _difference(metric, a, b, seed))
    for row, p in zip(differences, holm([d["p"] for d in differences]) if differences else (), strict=True):
        row["p_holm"] = float(p)
    ranked = [key for key in shared if not key[0].startswith("label_free")] or shared  # which say nothing of labels
    table = np.array([[sign(key[1]) * scores[name][key]["value"] for name in scores] for key in ranked])
    first = next(iter(results.values()))
    return {
        "split": first["split"],
        "split_hash": first["split_hash"],
        "seed": first["seed"],
        "scores": rows,
        "differences": differences,
        "ranks": dict(zip(scores, (float(r) for r in average_ranks(table)), strict=True)),
        "label_free": _orders(scores, shared),
        "savings": _savings(scores, shared),
    }


def _orders(scores: dict[str, dict], shared: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """Rank correlations of the label-free measures with the first metric of every other protocol."""

    def values(key: tuple[str, str]) -> list[float]:
        found = [sign(key[1]) * of[key]["value"] for of in scores.values()]
        return [-abs(v - 1) for v in found] if key[1] == "alpha_req" else found  # best at 1

    free = {key[1]: values(key) for key in shared if key[0].startswith("label_free")}
    free = {name: v for name, v in free.items() if np.ptp(v) > 0}
    probes = {key[0]: key for key in reversed(shared) if not key[0].startswith(("label_free", "correspondence"))}
    if len(scores) < 4 or not free:
        return []
    return [
        {"measure": measure, "protocol": protocol, "spearman": found.spearman, "p": found.spearman_p, "n": found.n}
        for protocol, key in reversed(probes.items())
        if np.ptp(values(key)) > 0
        for measure, found in rank_correlation(free, values(key)).items()
    ]


def _savings(scores: dict[str, dict], shared: list[tuple[str, str]]) -> list[dict[str, Any]]:
    keys = [key for key in shared if key[0].startswith("budget:labels=")]
    keys = [key for key in keys if key[0].split(":")[2:] == keys[0][0].split(":")[2:]]  # one curve
    if len(keys) < 2:
        return []
    budgets = [scores[next(iter(scores))][key]["settings"]["labels"] for key in keys]
    curves = {name: [of[key]["value"] for key in keys] for name, of in scores.items()}
    weakest = min(curves, key=lambda name: max(curves[name]))
    target = max(curves[weakest])
    return [
        {"encoder": name, "over": weakest, "target": target, "factor": saving(budgets, curves[weakest], curve, target)}
        for name, curve in curves.items()
        if name != weakest
    ]


def by_name(result: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """The encoder's own scores, without its baselines, by protocol and metric."""
    return {(r["protocol"], r["metric"]): r for r in result["results"] if r["of"] == "run"}


def latest(evaluations: Sequence[dict[str, Any]], split_hash: str | None = None) -> dict[str, Any] | None:
    """The newest score of every protocol among results of one split, as one result; of the newest split by default."""
    usable = [e for e in evaluations if e.get("split_hash") and split_hash in (None, e["split_hash"])]
    if not usable:
        return None
    usable = [e for e in usable if e["split_hash"] == usable[-1]["split_hash"]]
    newest: dict[tuple[str, str], Any] = {}
    records: dict[str, np.ndarray] = {}
    for evaluation in usable:
        newest |= by_name(evaluation)
        records |= evaluation.get("records", {})
    return {**usable[-1], "results": list(newest.values()), "records": records}


def _difference(metric: str, a: np.ndarray, b: np.ndarray, seed: int) -> dict[str, Any]:
    if a.dtype.names or a.ndim == 3:
        if a.dtype.names:
            gain, low, high, p = detection.paired_ap(a, b, seed=seed)
        else:
            gain, low, high, p = dense.paired_miou(a, b, metric=metric, seed=seed)
        return {"difference": gain, "low": low, "high": high, "p": p, "test": "exchanges"}
    gain, low, high = paired_bootstrap(a, b, seed=seed)
    binary = a.dtype == bool and b.dtype == bool
    p = mcnemar(a, b)[0] if binary else sign_flip_test(a, b, seed=seed)
    return {"difference": gain, "low": low, "high": high, "p": p, "test": "mcnemar" if binary else "sign flips"}


def _same_split(results: dict[str, dict[str, Any]]) -> None:
    of = {name: result["split_hash"] for name, result in results.items()}
    if len(set(of.values())) > 1:
        said = "; ".join(
            f"{name}: {value} ({results[name]['data']}, {results[name]['split']})" for name, value in of.items()
        )
        raise UsageError(f"These were scored on different splits, which cannot be compared ({said}). Give --data.")


def _same_settings(protocol: str, scores: dict[str, dict[str, Any]]) -> None:
    """What a user chose must be equal; what a protocol chose for an encoder (a strength, a rate) may differ."""
    kind = protocol.partition(":")[0]
    options = set(options_of((SCENES | ACROSS).get(kind) or PROTOCOLS[kind].run))
    chosen = {name: {k: v for k, v in s["settings"].items() if k in options} for name, s in scores.items()}
    first, *others = chosen
    for name in others:
        if chosen[name] != chosen[first]:
            raise UsageError(
                f"{protocol} was run with other settings on {name} ({chosen[name]}) than on {first} ({chosen[first]}). "
                "Give --data to run the same on each."
            )
