import random
from dataclasses import dataclass, field

import pytest

from stet.core.errors import OptionError, StetError
from stet.core.trace import BlockRecord, Counters, RequestTrace, Settings
from stet.doctor.doctor import costs_of, diagnose
from stet.doctor.examining import Decoded, Measurement, Scope, examine, fit_scope
from stet.requests.options import PINNED


@dataclass
class Machine:
    """A pair of known costs and acceptance, on a clock of its own."""

    acceptance: float = 0.8
    target: float = 0.010
    per_position: float = 0.0005
    draft: float = 0.002
    overhead: float = 0.001
    reading: float = 0.005
    answer: int = 200
    now: float = 0.0
    error: str | None = None
    calls: list = field(default_factory=list)

    def clock(self):
        return self.now

    def generate(
        self, prompts, policy, *, draft_length, max_new_tokens, temperature, fit, seed, **pinned
    ):
        assert (fit, seed) == (False, 0)  # the tests say how long an answer is
        assert pinned == PINNED
        self.calls.append((policy, draft_length, max_new_tokens, len(prompts)))
        return [self.one(policy, draft_length, min(max_new_tokens, self.answer)) for _ in prompts]

    def one(self, policy, length, n_tokens):
        rng = random.Random(f"{policy}{length}{len(self.calls)}")
        counters, blocks, emitted = Counters(), [], 0
        start = self.now
        self.now += self.reading * (2 if policy == "exact" else 1)
        while emitted < n_tokens:
            drafted = min(length, n_tokens - emitted - 1) if policy == "exact" else 0
            accepted = 0
            while accepted < drafted and rng.random() < self.acceptance:
                accepted += 1
            if drafted:
                blocks.append(BlockRecord(emitted, [0] * drafted, accepted, [], 0))
            emitted += accepted + 1
            counters.target_passes += 1
            counters.target_seconds += self.target + self.per_position * drafted
            counters.draft_seconds += self.draft * drafted
            counters.draft_passes += drafted
            counters.drafts += drafted > 0
            counters.drafted_tokens += drafted
            counters.accepted_tokens += accepted
        counters.emitted_tokens = n_tokens
        self.now += counters.target_seconds + counters.draft_seconds
        self.now += self.overhead * counters.target_passes
        trace = RequestTrace(
            request=0,
            settings=Settings({}, True, {}, {}, {}, None, "0"),
            prompt="",
            prompt_tokens=1,
            text="the same",
            finish_reason="stop",
            seconds=self.now - start,
            tokens=[None] * n_tokens,
            blocks=blocks,
            counters=counters,
        )
        return Answer(counters, trace, self.error)


@dataclass
class Answer:
    counters: Counters
    trace: RequestTrace
    error: str | None


def examined(machine, prompts=12, **options):
    return examine(
        machine, ["prompt"] * prompts, max_new_tokens=300, clock=machine.clock, **options
    )


def test_the_machines_costs_are_found():
    costs = costs_of(*examined(Machine()))
    assert costs.target_pass(1) == pytest.approx(0.010)
    # The last blocks of an answer are shorter, so the longest pass is a little cheaper.
    assert costs.target_pass(13) == pytest.approx(0.016, rel=0.05)
    assert costs.draft == pytest.approx(0.002)
    assert costs.overhead == pytest.approx(0.001, rel=1e-6)
    assert costs.plain_overhead == pytest.approx(0.001, rel=1e-6)
    # Two tokens of an answer are taken as reading; their rounds' overhead is counted with it.
    assert costs.plain_reading == pytest.approx(0.005 + 2 * 0.001)
    assert costs.reading == pytest.approx(0.010 + 1.5 * 0.001, abs=0.0006)


@pytest.mark.parametrize("acceptance", [0.3, 0.6, 0.9])
def test_the_acceptance_is_found(acceptance):
    found = diagnose(*examined(Machine(acceptance=acceptance), prompts=40)).acceptance
    assert found.rate == pytest.approx(acceptance, abs=0.03)


@pytest.mark.parametrize("acceptance", [0.5, 0.8, 0.95])
def test_the_expected_speedup_is_the_measured_one(acceptance):
    plain, speculative = examined(Machine(acceptance=acceptance), prompts=40)
    found = diagnose(plain, speculative)
    expected = {row.draft_length: row.speedup for row in found.forecasts}
    for length, way in speculative.items():
        measured = way.whole.tokens_per_second / plain.whole.tokens_per_second
        assert expected[length] == pytest.approx(measured, rel=0.05)


def test_a_good_pair_is_recommended_with_its_best_length():
    found = diagnose(*examined(Machine(acceptance=0.8)))
    assert found.verdict == "use"
    assert found.best.speedup == max(row.speedup for row in found.forecasts) > 1.5
    assert 3 <= found.best.draft_length <= 8
    assert f"{found.best.speedup:.2f}x" in found.advice
    assert found.same_text_share == 1


def test_better_acceptance_asks_for_longer_blocks():
    best = [diagnose(*examined(Machine(acceptance=a))).best.draft_length for a in (0.3, 0.7, 0.97)]
    assert best == sorted(best)
    assert best[0] < best[-1]


@pytest.mark.parametrize(
    ("machine", "reason"),
    [
        (Machine(acceptance=0.05), "accepted too rarely"),
        (Machine(draft=0.012), "draft is too slow"),
        (Machine(per_position=0.02, acceptance=0.9), "several tokens at once"),
        (Machine(target=0.001, draft=0.0002, per_position=0.00005, acceptance=0.9, overhead=0),
         None),
        (Machine(reading=0.2, answer=4, acceptance=0.8), "short beside their prompts"),
    ],
)  # fmt: skip
def test_a_bad_pair_is_refused_with_the_reason(machine, reason):
    found = diagnose(*examined(machine, prompts=30))
    if reason is None:
        assert found.verdict == "use"
        return
    assert found.verdict == "avoid"
    assert found.best.speedup < 1
    assert found.advice.startswith("Do not use this pair")
    assert reason in found.advice


def test_a_costly_round_is_named():
    plain, speculative = examined(Machine(target=0.001, draft=0.0001, per_position=0.0))
    for way in speculative.values():
        way.whole.seconds += 0.01 * way.whole.counters.target_passes
    assert "A round costs too much" in diagnose(plain, speculative).advice


def test_a_gain_within_noise_is_marginal():
    # Two tokens of three are accepted, and the draft costs about what that saves.
    machine = Machine(acceptance=0.62, draft=0.0064, per_position=0.0, reading=0)
    found = diagnose(*examined(machine, prompts=40))
    assert found.verdict == "marginal", found.best
    assert "hardly worth it" in found.advice


def test_a_longer_pass_is_never_taken_for_cheaper():
    plain, speculative = examined(Machine(per_position=-0.0004))
    costs = costs_of(plain, speculative)
    assert costs.target_pass(13) == costs.target_pass(1)


def test_settings_take_turns_after_a_warm_up():
    machine = Machine()
    examined(machine, prompts=4, batch=2, lengths=(2, 5))
    warm, measured = machine.calls[:3], machine.calls[3:]
    assert [(policy, length) for policy, length, *_ in warm] == [
        ("target", 1),
        ("exact", 2),
        ("exact", 5),
    ]
    one_turn = [
        (policy, length, tokens, 2)
        for policy, length in (("target", 1), ("exact", 2), ("exact", 5))
        for tokens in (2, 300)
    ]
    assert measured == one_turn * 2


def test_progress_reaches_its_end():
    seen = []
    examined(Machine(), prompts=3, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (12, 12)


def test_nothing_to_measure_with_is_refused():
    with pytest.raises(OptionError, match="no prompts"):
        examine(Machine(), [])
    with pytest.raises(OptionError, match="too short"):
        diagnose(*examined(Machine(answer=1)))


def test_a_failed_request_is_not_measured():
    with pytest.raises(StetError, match="cache is full"):
        examined(Machine(error="The cache is full."))


def test_a_run_without_passes_divides_by_nothing():
    assert Decoded().tokens_per_second == 0
    assert Measurement().overhead == 0
    assert Measurement().reading == 0


def test_the_interval_covers_what_another_set_of_prompts_comes_to():
    covered = 0
    for number in range(15):
        machine = Machine(acceptance=0.75, now=float(number))
        machine.calls = [None] * (1000 * number)  # another stream of random numbers
        found = diagnose(*examined(machine, prompts=8))
        length = found.best.draft_length
        plain, speculative = examined(machine, prompts=8, lengths=(length,))
        later = speculative[length].whole.tokens_per_second / plain.whole.tokens_per_second
        covered += found.interval.low <= later <= found.interval.high
    assert covered >= 13
    assert found.interval.high / found.interval.low < 2
    beside = diagnose(*examined(Machine(), prompts=8), disturbed=True)
    assert beside.interval.high / beside.interval.low > found.interval.high / found.interval.low


def test_one_prompt_says_nothing_about_others():
    assert diagnose(*examined(Machine(), prompts=1)).interval is None


def test_the_more_prompts_the_narrower_the_interval():
    widths = []
    for prompts in (3, 8, 30):
        found = diagnose(*examined(Machine(), prompts=prompts)).interval
        widths.append(found.high / found.low)
    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize("answer", [20, 300])
def test_answers_that_are_cut_to_save_time_are_forecast_whole(answer):
    slow = {"target": 0.2, "per_position": 0.01, "draft": 0.05, "reading": 4.0, "answer": answer}
    whole = diagnose(*examined(Machine(**slow), prompts=30))
    plain, speculative = examined(Machine(**slow), prompts=30, seconds=900)
    assert max(plain.whole.counters.emitted_tokens // 30, 1) < 40
    short = diagnose(plain, {4: speculative[4]})
    best = {row.draft_length: row.speedup for row in whole.forecasts}
    found = {row.draft_length: row.speedup for row in short.forecasts}
    assert found[4] == pytest.approx(best[4], rel=0.06)


def test_a_slow_pair_is_measured_in_the_time_there_is():
    whole = Scope((1, 4, 12), 8, 96)
    quick = dict.fromkeys((0, 1, 4, 12), 0.001)
    assert fit_scope(whole, quick, 40.0) == whole
    slow = fit_scope(whole, {0: 0.055, 1: 0.06, 4: 0.06, 12: 0.1}, 40.0)
    assert slow.lengths == (4,)
    assert slow.batches == 8
    assert 16 < slow.tokens < 96
    slower = fit_scope(whole, {0: 0.2, 1: 0.2, 4: 0.2, 12: 0.3}, 40.0)
    assert slower.batches < 8
    assert slower.tokens >= 16
    for seconds in (40.0, 90.0):
        machine = Machine(target=0.2, per_position=0.01, draft=0.05)
        prompts = ["prompt"] * 8
        examine(machine, prompts, max_new_tokens=96, seconds=seconds, clock=machine.clock)
        assert machine.now < 1.3 * seconds
        assert machine.calls[-1][2] >= 16
