"""Any order, loss and repetition of what gateways say ends with one holder, and with watchers that agree."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from psession import MalformedMessageError
from psession.fleet._claims import Holdings
from psession.fleet._epochs import MAX_NUMBER, Clock, Epoch
from psession.fleet._flapping import FREE, MAX_DELAY, Flapping
from psession.fleet._presence import Joined, Left, View
from psession.fleet._words import Ask, Beat, Change, Claim, Held, Part, Word, decode, encode

from ..effort import examples

SETTLE = 2.0
GATEWAYS = ["a", "b", "c"]
DEVICES = ["x", "y"]


class Split:
    """Gateways with clocks of their own, and a network that does what a test draws."""

    def __init__(self, skews: list[int]) -> None:
        self.now = 0.0
        self.holdings = {id: Holdings(id, SETTLE) for id in GATEWAYS}
        self._skews = dict(zip(GATEWAYS, skews, strict=True))
        self.flying: list[tuple[str, Claim | Held]] = []

    def wall(self, id: str) -> int:
        """A gateway's wall clock."""
        return 10**18 + self._skews[id] + int(self.now * 10**9)

    def connect(self, id: str, device: str) -> None:
        """A device connects."""
        self.holdings[id].take(device, self.wall(id))
        self.claim(id, device)

    def claim(self, id: str, device: str) -> None:
        """A gateway claims a device, to all."""
        word = self.holdings[id].claim(device, self.now)
        self.flying += [(other, word) for other in GATEWAYS if other != id]

    def deliver(self, to: str, word: Claim | Held) -> None:
        """Something arrives."""
        holdings = self.holdings[to]
        verdict = holdings.hear(word, self.wall(to), self.now)
        if verdict == "give_up":
            epoch = holdings.epoch(word.device)
            assert epoch is not None
            assert holdings.leave(word.device, epoch)
        elif verdict == "answer":
            self.flying.append((word.gateway, holdings.answer(word.device, self.now)))
        elif verdict == "claim_again":
            self.claim(to, word.device)

    def holders(self, device: str) -> list[str]:
        """Who holds a device."""
        return [id for id, holdings in self.holdings.items() if device in holdings]


STEPS = st.one_of(
    st.tuples(st.just("connect"), st.sampled_from(GATEWAYS), st.sampled_from(DEVICES)),
    st.tuples(st.just("leave"), st.sampled_from(GATEWAYS), st.sampled_from(DEVICES)),
    st.tuples(st.just("announce"), st.sampled_from(GATEWAYS), st.just("")),
    st.tuples(st.sampled_from(["deliver", "repeat", "lose"]), st.integers(0, 1000), st.just("")),
    st.tuples(st.just("wait"), st.floats(0, 3), st.just("")),
)


@given(st.lists(st.integers(-(10**11), 10**11), min_size=3, max_size=3), st.lists(STEPS, max_size=60))
@settings(max_examples=examples(300), deadline=None)
def test_any_order_loss_and_repetition_of_claims_ends_with_one_holder(skews: list[int], steps: list[tuple]) -> None:  # type: ignore[type-arg]
    split = Split(skews)
    superseded: set[str] = set()
    for what, who, device in steps:
        if what == "connect":
            split.connect(who, device)
        elif what == "leave":
            epoch = split.holdings[who].epoch(device)
            if epoch is not None:
                split.holdings[who].leave(device, epoch)
                superseded.add(device)  # its claim may be on its way still, and older connections give up to it
        elif what == "announce":
            for held in list(split.holdings[who]):
                split.claim(who, held)
        elif what == "wait":
            split.now += who
        elif split.flying:
            place = who % len(split.flying)
            if what == "lose":
                split.flying.pop(place)
            else:
                split.deliver(*(split.flying.pop(place) if what == "deliver" else split.flying[place]))
    held_before = {device: split.holders(device) for device in DEVICES}
    split.now += SETTLE + 1
    for _ in range(3):  # the network is whole again: what flies arrives, and all claim once more
        for id in GATEWAYS:
            for device in list(split.holdings[id]):
                split.claim(id, device)
        while split.flying:
            split.deliver(*split.flying.pop(0))
    for device in DEVICES:
        holders = len(split.holders(device))
        assert holders <= 1
        assert holders == min(1, len(held_before[device])) or device in superseded


@given(st.integers(-(10**12), 10**12), st.integers(-(10**12), 10**12), st.floats(SETTLE, 100))
def test_the_newer_connection_wins_whatever_the_clocks_say_once_the_older_is_settled(
    one: int, two: int, later: float
) -> None:
    split = Split([one, two, 0])
    split.connect("a", "x")
    split.flying.clear()
    split.now += later
    split.connect("b", "x")
    while split.flying:
        split.deliver(*split.flying.pop(0))
    assert split.holders("x") == ["b"]


class Publisher:
    """A gateway as watchers hear it."""

    def __init__(self, id: str) -> None:
        self.id = id
        self.seq = 0
        self.devices: dict[str, int] = {}

    def change(self, device: str, number: int | None) -> Change:
        """A device joins or leaves."""
        self.seq += 1
        if number is None:
            self.devices.pop(device, None)
            return Change(self.id, self.seq, [], [(device, 0)])
        self.devices[device] = number
        return Change(self.id, self.seq, [(device, number)], [])

    def beat(self) -> Beat:
        """It is there."""
        return Beat(self.id, self.id, self.seq, len(self.devices), 0)

    def parts(self) -> list[Part]:
        """All it has, in parts of two."""
        items = list(self.devices.items())
        count = max(1, (len(items) + 1) // 2)
        return [Part(self.id, self.seq, n, count, items[2 * n : 2 * n + 2]) for n in range(count)]


EVENTS = st.one_of(
    st.tuples(st.just("change"), st.sampled_from(GATEWAYS), st.sampled_from("uvwxyz"), st.booleans()),
    st.tuples(st.sampled_from(["beat", "parts"]), st.sampled_from(GATEWAYS), st.just(""), st.just(False)),
    st.tuples(st.sampled_from(["deliver", "repeat", "lose"]), st.integers(0, 1000), st.just(""), st.just(False)),
    st.tuples(st.just("silence"), st.floats(0, 4), st.just(""), st.just(False)),
)


@given(st.lists(EVENTS, max_size=80))
@settings(max_examples=examples(300), deadline=None)
def test_any_order_loss_and_repetition_of_changes_ends_with_watchers_that_agree(events: list[tuple]) -> None:  # type: ignore[type-arg]
    gateways = {id: Publisher(id) for id in GATEWAYS}
    view, now = View(3.0, 1000), 0.0
    flying: list[Word] = []
    told: dict[str, Epoch] = {}

    def tell(news: list[Joined | Left]) -> None:
        for change in news:
            if isinstance(change, Joined):
                assert told.get(change.device) != change.epoch
                told[change.device] = change.epoch
            else:
                assert told.pop(change.device) == change.epoch

    def hear(word: Word) -> None:
        missed = False
        if isinstance(word, Beat):
            missed = view.hear_beat(word, now)
        elif isinstance(word, Change):
            news, missed = view.hear_change(word, now)
            tell(news)
        elif isinstance(word, Part):
            tell(view.hear_part(word, now))
        if missed:
            flying.extend(gateways[word.gateway].parts())  # type: ignore[union-attr]

    for number, (what, who, device, joins) in enumerate(events):
        if what == "change":
            flying.append(gateways[who].change(device, number if joins else None))
        elif what == "beat":
            flying.append(gateways[who].beat())
        elif what == "parts":
            flying.extend(gateways[who].parts())
        elif what == "silence":
            now += who
            tell(view.look(now))
        elif flying:
            place = who % len(flying)
            if what == "lose":
                flying.pop(place)
            else:
                hear(flying.pop(place) if what == "deliver" else flying[place])
    for _ in range(3):
        now += 1.5
        flying.extend(gateway.beat() for gateway in gateways.values())
        while flying:
            hear(flying.pop(0))
    assert view.places == told
    assert view.places == {
        device: max(Epoch(one.devices[device], one.id) for one in gateways.values() if device in one.devices)
        for device in {device for one in gateways.values() for device in one.devices}
    }
    assert view.is_complete
    now += 3.1
    tell(view.look(now))
    assert (view.places, told, view.gateways) == ({}, {}, {})


@given(st.lists(st.tuples(st.integers(0, 2**62), st.integers(0, 2**64)), max_size=30))
def test_a_hybrid_clock_is_above_all_that_it_heard_and_never_goes_back(steps: list[tuple[int, int]]) -> None:
    clock, last = Clock(), -1
    for wall, heard in steps:
        clock.hear(heard)
        number = clock.next(wall)
        assert number > last
        assert number > heard or heard > MAX_NUMBER
        last = number


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_what_is_no_word_is_said_to_be_none(data: bytes) -> None:
    try:
        word = decode(data)
    except MalformedMessageError:
        return
    assert decode(encode(word)) == word


@given(st.text(min_size=1, max_size=50), st.integers(0, MAX_NUMBER), st.booleans())
def test_a_word_is_read_as_it_was_written(name: str, number: int, flag: bool) -> None:
    for word in (
        Claim(name, number, "g", flag),
        Held(name, number, "g", flag),
        Beat("g", name, number, 3, number, flag),
        Change("g", number, [(name, number)], [(name, 0)]),
        Part("g", number, 0, 1, [(name, number)]),
        Ask(list=flag),
    ):
        assert decode(encode(word)) == word


def test_a_device_that_roams_is_not_slowed_down_and_one_that_flaps_is_up_to_five_seconds() -> None:
    flapping = Flapping()
    for time in range(FREE):
        assert not flapping.taken_away("lamp", float(time))
        assert flapping.delay("lamp", float(time)) == 0.0
    assert flapping.taken_away("lamp", 5.0)  # it is said once
    delays = [flapping.delay("lamp", 5.0)]
    for time in range(6, 20):
        assert not flapping.taken_away("lamp", float(time))
        delays.append(flapping.delay("lamp", float(time)))
    assert delays == sorted(delays)
    assert delays[-1] == MAX_DELAY
    assert flapping.delay("lamp", 90.0) == 0.0
    assert not flapping.taken_away("lamp", 90.0)
    for number in range(5000):
        flapping.taken_away(f"d{number}", 91.0)
    assert len(flapping._known) == 4096


def test_a_list_whose_parts_never_come_whole_is_asked_for_again_and_of_two_the_newer_counts() -> None:
    view, gateway = View(3.0, 1000), Publisher("a")
    for number in range(5):
        gateway.change(f"d{number}", number)
    assert view.hear_beat(gateway.beat(), 0.0)
    assert not view.hear_beat(gateway.beat(), 0.5)  # it is on its way
    old = gateway.parts()
    assert view.hear_part(old[0], 0.6) == []
    gateway.change("d9", 9)
    assert view.hear_beat(gateway.beat(), 1.1)
    new = gateway.parts()
    view.hear_part(new[0], 1.2)
    assert view.hear_part(old[1], 1.2) == []
    assert view.hear_part(old[2], 1.2) == []
    for part in new[1:]:
        view.hear_part(part, 1.3)
    assert sorted(view.places) == ["d0", "d1", "d2", "d3", "d4", "d9"]
