"""The meter: every microsecond is in exactly one part."""

import dataclasses
import random
import unittest

from beacon_modal.meter import Meter


class TheMeter(unittest.TestCase):
    def test_the_parts_add_up_to_the_container_whatever_it_ran(self):
        for seed in range(300):
            rng = random.Random(seed)
            now = started = rng.randrange(1_000)
            meter, running, keys, told = Meter(started), [], iter(range(1_000)), 0
            now += rng.randrange(5_000)
            meter.ready(now)
            for _ in range(rng.randrange(40)):
                now += rng.randrange(4) * rng.randrange(1_000)
                if running and rng.random() < 0.5:
                    heard = rng.random() < 0.8
                    execution, cold = meter.leave(running.pop(rng.randrange(len(running))), now, heard)
                    told += (execution + (cold or 0)) if heard else 0
                else:
                    running.append(next(keys))
                    meter.enter(running[-1], rng.randrange(2 * started + 2), now)
            for key in running:
                now += rng.randrange(1_000)
                execution, cold = meter.leave(key, now)
                told += execution + (cold or 0)
            now += rng.randrange(9_000)
            meter.close(now)
            use = meter.use
            self.assertEqual(sum(dataclasses.asdict(use).values()), now - started, f"seed {seed}")
            self.assertEqual(use.startup_us + use.execution_us, told, f"seed {seed}")

    def test_a_start_is_on_the_bill_of_the_first_input_that_waited_for_it(self):
        meter = Meter(1_000)
        meter.ready(6_000)
        meter.enter("a", 900, 6_000)
        meter.enter("b", 950, 6_000)
        self.assertEqual(meter.leave("a", 6_100), (50, 5_000))
        self.assertEqual(meter.leave("b", 6_200), (150, None))

    def test_a_start_ahead_of_its_first_input_is_standing(self):
        meter = Meter(1_000)
        meter.ready(6_000)
        meter.enter("a", 1_001, 7_000)
        self.assertEqual(meter.leave("a", 7_100), (100, None))
        self.assertEqual((meter.use.warm_start_us, meter.use.idle_us), (5_000, 1_000))

    def test_what_a_refusal_used_is_standing_too(self):
        meter = Meter(0)
        meter.ready(10)
        meter.enter("a", 0, 10)
        meter.leave("a", 13, told=False)
        self.assertEqual(dataclasses.asdict(meter.use), dict(startup_us=0, warm_start_us=10, execution_us=0, idle_us=3))

    def test_a_container_that_never_worked_was_started_ahead(self):
        meter = Meter(0)
        meter.ready(10)
        meter.close(25)
        self.assertEqual((meter.use.warm_start_us, meter.use.idle_us), (10, 15))
        meter.close(25)
        self.assertEqual(meter.use.warm_start_us, 10)
