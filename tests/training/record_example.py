"""The record of a training, made up, for what shows one."""

from stet.arbiter import DEFAULT


def measured(threshold, right, rate, accepted_mismatches):
    return {
        "threshold": threshold,
        "questions": 200,
        "right": right,
        "tokens_per_pass": rate,
        "mismatches": 800,
        "accepted_mismatches": accepted_mismatches,
    }


def example(rounds=6):
    warm = [measured(t / 10, 160 + t, 8.5 - t / 10, 700 - 70 * t) for t in range(1, 10)]
    final = [measured(t / 10, 162 + t, 8.8 - t / 10, 720 - 70 * t) for t in range(1, 10)]
    return {
        "cells": [
            {"both right": 900, "draft only": 20, "target only": 60, "neither": 120},
            {"both right": 800, "draft only": 25, "target only": 40, "neither": 110},
        ],
        "target": measured(1.0, 168, 6.4, 0),
        "warm": warm,
        "final": final if rounds else warm,
        "chosen": final[-1] if rounds else warm[-1],
        "rounds": [
            {"round": r, "reward": 0.8 + r / 100, "right": 0.8, "entropy": 0.5 - r / 50}
            | ({"validation": 0.84} if r % 2 else {})
            for r in range(rounds)
        ],
        "importance": {name: 0.2 * i - 0.1 for i, name in enumerate(DEFAULT)},
        "settings": {
            "task": "<b>sums</b>",
            "questions": ["q"] * 400,
            "validation": ["v"] * 200,
            "features": list(DEFAULT),
            "seed": 0,
        },
        "machine": {"processor": "a processor", "cores": 2},
        "versions": {"python": "3.11", "torch": "2"},
        "command": "stet train --task '<b>sums</b>'",
        "date": "2026-01-01T00:00:00+00:00",
    }
