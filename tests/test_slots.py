from __future__ import annotations

import random

import pytest

from edgead.runtime.slots import Ring


def claim(ring: Ring[int], *triggers: int) -> list[int]:
    return [ring.claim(trigger) for trigger in triggers]


def owners(ring: Ring[int], largest: int = 8) -> list[int]:
    return list(ring.batch(largest)[1])


def test_a_batch_ends_before_the_first_image_that_is_still_being_written() -> None:
    ring = Ring(8, (4, 4))
    first, second, third = claim(ring, 0, 1, 2)
    assert owners(ring) == []
    assert not ring.fill(second, 1.0)  # nobody waits for it yet
    assert owners(ring) == []
    assert ring.fill(first, 2.0)
    assert owners(ring) == [0, 1]
    ring.fill(third, 3.0)
    assert ring.batch(2) == (0, [0, 1], [2.0, 1.0])


def test_a_place_is_empty_again_when_it_is_claimed_again() -> None:
    ring = Ring(2, (4, 4))
    for place in claim(ring, 0, 1):
        ring.fill(place, 1.0)
    ring.release(2)
    assert ring.is_empty
    claim(ring, 2)
    assert owners(ring) == []


def test_the_engine_waits_for_the_place_that_comes_next() -> None:
    ring = Ring(4, (4, 4))
    first, second = claim(ring, 0, 1)
    ring.fill(second, 1.0)
    assert ring.owner(first) == 0
    assert ring.fill(first, 2.0)
    assert owners(ring) == [0, 1]


def test_more_claims_than_places_are_a_fault() -> None:
    ring = Ring(2, (4, 4))
    claim(ring, 0, 1)
    with pytest.raises(AssertionError, match="all 2 places are claimed"):
        claim(ring, 2)


def test_images_come_out_in_the_order_of_their_claims_with_their_own_pixels() -> None:
    draw = random.Random(7)
    ring, writing, came, next_trigger = Ring(5, (1, 1)), {}, [], 0
    while len(came) < 300:
        if next_trigger - len(came) < 5 and draw.random() < 0.6:
            writing[claim(ring, next_trigger)[0]] = next_trigger
            next_trigger += 1
        elif writing:
            place = draw.choice(sorted(writing))
            ring.images[place] = writing.pop(place) % 256
            ring.fill(place, 1.0)
        first, batch, _ = ring.batch(3)
        assert first + len(batch) <= 5
        for index, owner in enumerate(batch):
            assert ring.images[first + index, 0, 0, 0] == owner % 256
            came.append(owner)
        ring.release(len(batch))
    assert came == list(range(len(came)))
