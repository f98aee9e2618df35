"""Policy gradient on a warm start: rounds of rollouts and updates, resumed round by round."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from stet.arbiter import Arbiter, Network
from stet.core.checkpoint import load_checkpoint, save_checkpoint, snapshot
from stet.core.writing import append_lines, json_line
from stet.executors.base import Executor
from stet.requests.seeds import mixed
from stet.training.branches import Brancher, Branches, load_folder
from stet.training.gradient import gather, improve, improve_by_flips
from stet.training.measuring import Measured, Measuring
from stet.training.request import TrainRequest
from stet.training.rollout_policy import RolloutPolicy, roll_out_all

Report = Callable[[str, int, int], None]
"""A progress callback: it is called with a title, the number done, and the total."""

LOG = "log.jsonl"
STATE = "gradient.safetensors"

REPLAYS = 5
"""So many times as many passes over outcomes that are known as over sampled ones."""


def add_to_log(folder: Path, **entry: Any) -> None:
    """Add an entry to the log of a training."""
    append_lines(folder / LOG, [json_line(entry)])


@dataclass
class State:
    """The progress of policy gradient.

    Attributes:
        round: number of rounds that are done.
        best: the best validation result so far, see `Measured.worth`.
        since: number of validations since then.
        rounds: the log of each round.
    """

    round: int
    best: float
    since: int
    rounds: list[dict[str, Any]]


class Improvement:
    """Policy gradient in the folder of a training, which is claimed for it."""

    def __init__(
        self,
        executor: Executor,
        request: TrainRequest,
        folder: Path,
        report: Report,
        warm: Arbiter,
    ) -> None:
        self.executor, self.request = executor, request
        self.folder, self.report = folder, report
        self._warm = warm
        self._network = Network(warm.network.inputs, warm.network.hidden)
        self._network.load_state_dict(warm.network.state_dict())
        self._arbiter = Arbiter(self._network, warm.features, warm.pair)
        self._optimiser = torch.optim.Adam(self._network.parameters(), lr=request.gradient.rate)

    def run(
        self, start: Measured, sweeps: Sequence[Branches]
    ) -> tuple[Network, list[dict[str, Any]]]:
        """Improve the warm start.

        Args:
            start: its results on the validation questions, at the threshold that counts.
            sweeps: the branches that it was fitted to.

        Returns:
            The state that was best on the validation questions, and the log of each round.
        """
        request, network = self.request, self._network
        cost = request.gradient.cost
        state, best = State(0, start.worth(cost), 0, []), snapshot(network)
        if (self.folder / STATE).exists():
            parts, told = load_checkpoint(self.folder / STATE, self._optimiser)
            network.load_state_dict(parts["network"])
            state, best = State(**told), parts["best"]
        known = list(sweeps)
        if request.method == "flips":
            known += [load_folder(self._flips(number)) for number in range(state.round)]
        while state.round < request.rounds and state.since < request.patience:
            self.report("policy gradient", state.round, request.rounds)
            by_flips = request.method == "flips"
            entry = (
                self._run_flips(state.round, known) if by_flips else self._run_groups(state.round)
            )
            state.round += 1
            if state.round % request.check_every == 0:
                measuring = Measuring(
                    self.executor, request.validation, self._arbiter, request.batch
                )
                found = measuring.at(start.threshold)
                entry |= {"validation": found.accuracy, "tokens_per_pass": found.tokens_per_pass}
                state.since += 1
                if found.worth(cost) > state.best:
                    state.best, state.since, best = found.worth(cost), 0, snapshot(network)
            state.rounds.append(entry)
            add_to_log(self.folder, stage="gradient", **entry)
            parts = {"network": network.state_dict(), "best": best}
            save_checkpoint(self.folder / STATE, parts, self._optimiser, asdict(state))
        self.report("policy gradient", request.rounds, request.rounds)
        network.load_state_dict(best)
        return network, state.rounds

    def _run_flips(self, number: int, known: list[Branches]) -> dict[str, Any]:
        """Run one round from flips; they are added to those that are known, and all count."""
        request, settings = self.request, self.request.gradient
        policy = RolloutPolicy(self._arbiter, 0.5)
        brancher = Brancher(self.executor, request.task, policy, request.batch, request.branched)
        branches = brancher.collect(self._flips(number), self._picked(number))
        known.append(branches)
        self._network.requires_grad_(True)
        # Nothing is sampled from the network, so more passes do not go astray.
        many = replace(settings, epochs=REPLAYS * settings.epochs)
        measured = improve_by_flips(
            self._network, self._warm.network, self._optimiser, Branches.join(known), many
        )
        gain = float(branches.advantage(settings.cost).mean())
        return {"round": number, "advantage": gain, **branches.cells(), **measured}

    def _run_groups(self, number: int) -> dict[str, Any]:
        """Run one round from groups of answers to each question."""
        request, settings = self.request, self.request.gradient
        asked = [q for q in self._picked(number) for _ in range(settings.group)]
        rollouts = roll_out_all(
            self.executor,
            request.task,
            asked,
            RolloutPolicy(self._arbiter),
            request.batch,
            seeds=[mixed(request.seed, number, place) for place in range(len(asked))],
        )
        found = gather(rollouts, settings, self._network.inputs)
        self._network.requires_grad_(True)
        measured = improve(self._network, self._warm.network, self._optimiser, found, settings)
        return {
            "round": number,
            "reward": found.reward,
            "right": found.right,
            "used": found.used,
            **measured,
        }

    def _picked(self, number: int) -> list[int]:
        """The questions of a round."""
        count = len(self.request.task.questions)
        most = min(self.request.gradient.questions, count)
        return random.Random(hash((self.request.seed, number))).sample(range(count), most)

    def _flips(self, number: int) -> Path:
        """The folder of a round's branches."""
        return self.folder / f"flips-{number:03d}"
